package model

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"

	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/packages/ssestream"
	"github.com/openai/openai-go/v3/responses"
	"github.com/openai/openai-go/v3/shared"
)

// openaiOptions are those of both of OpenAI's formats. The services are made one by one, since a
// client of the SDK reads the environment.
func openaiOptions(endpoint Endpoint, client *http.Client) []option.RequestOption {
	options := []option.RequestOption{
		option.WithBaseURL(endpoint.base("https://api.openai.com/v1", "v1", true)),
		option.WithHTTPClient(client),
		option.WithMaxRetries(0),
	}
	if endpoint.Key != "" {
		options = append(options, option.WithAPIKey(endpoint.Key))
	}
	return options
}

// openaiError takes a complaint in the middle of an answer out of the SDK's error.
func openaiError(err error) error {
	var refused *ssestream.StreamError
	if errors.As(err, &refused) {
		return classify(0, nil, refused.Event.Data)
	}
	return err
}

// openaiResponses speaks OpenAI's Responses, of which it keeps nothing on OpenAI's side.
type openaiResponses struct {
	service responses.ResponseService
	model   string
}

func newResponses(endpoint Endpoint, client *http.Client) *openaiResponses {
	return &openaiResponses{responses.NewResponseService(openaiOptions(endpoint, client)...), endpoint.Model}
}

func (o *openaiResponses) next(ctx context.Context, request Request, tell func(Delta)) (Response, error) {
	stream := o.service.NewStreaming(ctx, o.params(request))
	defer stream.Close()

	var items []responses.ResponseOutputItemUnion
	var final *responses.Response
	open := map[int64]CallDelta{} // by the item's index
	for final == nil && stream.Next() {
		switch event := stream.Current(); event.Type {
		case "response.output_text.delta", "response.refusal.delta":
			tell(Delta{Text: event.Delta})
		case "response.reasoning_summary_text.delta", "response.reasoning_text.delta":
			tell(Delta{Reasoning: event.Delta})
		case "response.output_item.added":
			switch event.Item.Type {
			case "function_call":
				open[event.OutputIndex] = CallDelta{ID: event.Item.CallID, Tool: event.Item.Name}
			case "computer_call":
				open[event.OutputIndex] = CallDelta{ID: event.Item.CallID, Tool: Computer}
			default:
				continue
			}
			begun := open[event.OutputIndex]
			tell(Delta{Call: &begun})
		case "response.function_call_arguments.delta":
			if call, ok := open[event.OutputIndex]; ok && event.Delta != "" {
				call.Arguments = event.Delta
				tell(Delta{Call: &call})
			}
		case "response.output_item.done":
			items = append(items, event.Item)
			if call, ok := open[event.OutputIndex]; ok && event.Item.Type == "computer_call" {
				call.Arguments = event.Item.RawJSON()
				tell(Delta{Call: &call})
			}
		case "response.completed", "response.incomplete":
			final = &event.Response
		case "response.failed":
			return Response{}, classify(0, nil, []byte(`{"error":`+event.Response.Error.RawJSON()+`}`))
		case "error":
			return Response{}, classify(0, nil, []byte(event.RawJSON()))
		}
	}
	if err := stream.Err(); err != nil {
		return Response{}, openaiError(err)
	}
	if final == nil {
		return Response{}, errCut()
	}
	if len(items) == 0 {
		items = final.Output // of servers that tell of items only at the end
	}

	usage := final.Usage
	response := Response{Model: final.Model, Stop: EndTurn, Usage: Usage{
		Input:      max(0, usage.InputTokens-usage.InputTokensDetails.CachedTokens-usage.InputTokensDetails.CacheWriteTokens),
		CacheRead:  usage.InputTokensDetails.CachedTokens,
		CacheWrite: usage.InputTokensDetails.CacheWriteTokens,
		Output:     usage.OutputTokens,
	}}
	for _, item := range items {
		parts, refused := readItem(item)
		response.Message.Parts = append(response.Message.Parts, parts...)
		if refused {
			response.Stop = Refusal
		}
	}
	if final.Status == responses.ResponseStatusIncomplete {
		response.Stop = MaxTokens
		if final.IncompleteDetails.Reason == "content_filter" {
			response.Stop = Refusal
		}
	}
	return response, nil
}

// readItem reads a piece of the model's output, and tells whether it is a refusal.
func readItem(item responses.ResponseOutputItemUnion) (parts []Part, refused bool) {
	raw := json.RawMessage(item.RawJSON())
	switch item.Type {
	case "message":
		for _, content := range item.Content {
			text := content.Text
			if content.Type == "refusal" {
				text, refused = content.Refusal, true
			}
			if text != "" {
				parts = append(parts, Part{Text: text})
			}
		}
	case "reasoning":
		var text []string
		for _, summary := range item.Summary {
			text = append(text, summary.Text)
		}
		for _, content := range item.Content {
			text = append(text, content.Text)
		}
		parts = append(parts, Part{Reasoning: &Reasoning{Text: strings.Join(text, "\n\n"), Format: OpenAI, Opaque: raw}})
	case "function_call":
		call := &Call{ID: item.CallID, Tool: item.Name, Arguments: json.RawMessage(item.Arguments.OfString), Format: OpenAI}
		if call.ID == "" {
			call.ID = newID()
		}
		parts = append(parts, Part{Call: call})
	case "computer_call":
		parts = append(parts, Part{Call: &Call{ID: item.CallID, Tool: Computer, Arguments: raw, Format: OpenAI}})
	}
	return parts, refused
}

// What is known of OpenAI's models by their names: the one that has the computer tool only in its
// first form, and those that do not reason and so refuse to be asked for their reasoning.
var (
	previewTool = regexp.MustCompile(`computer-use-preview`)
	unreasoning = regexp.MustCompile(`^(gpt-3|gpt-4|chatgpt-4)`)
)

func (o *openaiResponses) params(request Request) responses.ResponseNewParams {
	params := responses.ResponseNewParams{
		Model:           o.model,
		Store:           param.NewOpt(false),
		MaxOutputTokens: param.NewOpt(int64(request.MaxTokens)),
		PromptCacheKey:  param.NewOpt(cacheKey(request)),
	}
	if !unreasoning.MatchString(o.model) {
		// What is not stored there comes back here, sealed, or the model forgets what it thought.
		params.Include = []responses.ResponseIncludable{responses.ResponseIncludableReasoningEncryptedContent}
	}
	if request.System != "" {
		params.Instructions = param.NewOpt(request.System)
	}
	for _, tool := range request.Tools {
		params.Tools = append(params.Tools, responses.ToolUnionParam{OfFunction: &responses.FunctionToolParam{
			Name: tool.Name, Description: param.NewOpt(tool.Description), Parameters: object(tool.Schema), Strict: param.NewOpt(false),
		}})
	}
	if display := request.Computer; display != nil {
		if previewTool.MatchString(o.model) {
			params.Tools = append(params.Tools, responses.ToolUnionParam{OfComputerUsePreview: &responses.ComputerUsePreviewToolParam{
				DisplayWidth: int64(display.Width), DisplayHeight: int64(display.Height), Environment: responses.ComputerUsePreviewToolEnvironmentLinux,
			}})
			params.Truncation = responses.ResponseNewParamsTruncationAuto // which that model demands
		} else {
			computer := responses.NewComputerToolParam()
			params.Tools = append(params.Tools, responses.ToolUnionParam{OfComputer: &computer})
		}
	}
	var input responses.ResponseInputParam
	calls := map[string]*Call{}
	for _, message := range adapt(request.Messages, OpenAI) {
		if message.Role == Assistant {
			clear(calls)
			for _, part := range message.Parts {
				if part.Reasoning != nil && unreasoning.MatchString(o.model) {
					continue // another of OpenAI's models thought it
				}
				input = append(input, outputItem(part))
				if part.Call != nil {
					calls[part.Call.ID] = part.Call
				}
			}
			continue
		}
		var said responses.ResponseInputMessageContentListParam
		for _, part := range message.Parts {
			if part.Result != nil {
				item, text := resultItem(calls[part.Result.ID], part.Result)
				input = append(input, item)
				part = Part{Text: text}
			}
			switch {
			case part.Picture != nil:
				said = append(said, responses.ResponseInputContentUnionParam{OfInputImage: &responses.ResponseInputImageParam{
					ImageURL: param.NewOpt(dataURL(part.Picture)), Detail: responses.ResponseInputImageDetailAuto,
				}})
			case part.Text != "":
				said = append(said, responses.ResponseInputContentParamOfInputText(part.Text))
			}
		}
		if len(said) > 0 {
			input = append(input, responses.ResponseInputItemParamOfMessage(said, responses.EasyInputMessageRoleUser))
		}
	}
	params.Input.OfInputItemList = input
	return params
}

// outputItem gives a piece of the model's output back to it.
func outputItem(part Part) responses.ResponseInputItemUnionParam {
	switch {
	case part.Reasoning != nil:
		return param.Override[responses.ResponseInputItemUnionParam](part.Reasoning.Opaque)
	case part.Call != nil && part.Call.Tool == Computer:
		return param.Override[responses.ResponseInputItemUnionParam](part.Call.Arguments)
	case part.Call != nil:
		return responses.ResponseInputItemParamOfFunctionCall(string(part.Call.Arguments), part.Call.ID, part.Call.Tool)
	}
	return responses.ResponseInputItemParamOfMessage(part.Text, responses.EasyInputMessageRoleAssistant)
}

// resultItem is what came of a call, and what of it has no place there: the output of a computer call
// is a picture and nothing else.
func resultItem(call *Call, result *Result) (item responses.ResponseInputItemUnionParam, rest string) {
	text := result.Text
	if result.Failed {
		text = strings.TrimSpace("Error: " + text)
	}
	if call != nil && call.Tool == Computer {
		output := &responses.ResponseInputItemComputerCallOutputParam{
			CallID: result.ID,
			Output: responses.ResponseComputerToolCallOutputScreenshotParam{ImageURL: param.NewOpt(dataURL(result.Picture))},
		}
		// What is no list of checks acknowledges none, and OpenAI complains of those that are missing.
		_ = json.Unmarshal(result.Acknowledged, &output.AcknowledgedSafetyChecks)
		return responses.ResponseInputItemUnionParam{OfComputerCallOutput: output}, text
	}
	output := &responses.ResponseInputItemFunctionCallOutputParam{CallID: param.NewOpt(result.ID)}
	if result.Picture == nil {
		output.Output.OfString = param.NewOpt(text)
	} else {
		var list responses.ResponseFunctionCallOutputItemListParam
		if text != "" {
			list = append(list, responses.ResponseFunctionCallOutputItemUnionParam{OfInputText: &responses.ResponseInputTextContentParam{Text: text}})
		}
		output.Output.OfResponseFunctionCallOutputItemArray = append(list, responses.ResponseFunctionCallOutputItemUnionParam{
			OfInputImage: &responses.ResponseInputImageContentParam{ImageURL: param.NewOpt(dataURL(result.Picture)), Detail: responses.ResponseInputImageContentDetailAuto},
		})
	}
	return responses.ResponseInputItemUnionParam{OfFunctionCallOutput: output}, ""
}

// cacheKey brings the requests of a conversation to the same cache.
func cacheKey(request Request) string {
	hash := sha256.New()
	hash.Write([]byte(request.System))
	if len(request.Messages) > 0 {
		for _, part := range request.Messages[0].Parts {
			hash.Write([]byte(part.Text))
		}
	}
	return hex.EncodeToString(hash.Sum(nil)[:16])
}

// object is a schema as the SDK wants it.
func object(schema json.RawMessage) shared.FunctionParameters {
	var m map[string]any
	if json.Unmarshal(schema, &m) != nil || m == nil {
		return shared.FunctionParameters{"type": "object", "properties": map[string]any{}}
	}
	return m
}
