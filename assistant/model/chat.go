package model

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/packages/param"
	"github.com/openai/openai-go/v3/shared"
)

// chatCompletions speaks Chat Completions, OpenAI's older format, which everybody else speaks too.
type chatCompletions struct {
	service openai.ChatCompletionService
	model   string
	own     bool // it is OpenAI's
}

func newChat(endpoint Endpoint, client *http.Client) *chatCompletions {
	return &chatCompletions{
		service: openai.NewChatCompletionService(openaiOptions(endpoint, client)...),
		model:   endpoint.Model,
		own:     endpoint.BaseURL == "" || strings.Contains(endpoint.BaseURL, "://api.openai.com"),
	}
}

func (c *chatCompletions) next(ctx context.Context, request Request, tell func(Delta)) (Response, error) {
	stream := c.service.NewStreaming(ctx, c.params(request))
	defer stream.Close()

	type pending struct {
		id, tool  string
		arguments strings.Builder
	}
	var (
		response                 Response
		text, refusal, reasoning strings.Builder
		thoughts                 string // the member that they came in, which servers have given two names
		calls                    []*pending
		byIndex                  = map[int64]*pending{}
		finish                   string
	)
	for stream.Next() {
		chunk := stream.Current()
		if chunk.Model != "" {
			response.Model = chunk.Model
		}
		if chunk.JSON.Usage.Valid() { // with the last words or after them
			cached := chunk.Usage.PromptTokensDetails.CachedTokens
			response.Usage = Usage{
				Input:     max(0, chunk.Usage.PromptTokens-cached),
				CacheRead: cached,
				Output:    chunk.Usage.CompletionTokens,
			}
		}
		if len(chunk.Choices) == 0 {
			continue
		}
		choice := chunk.Choices[0]
		for _, member := range []string{"reasoning_content", "reasoning"} {
			var thought string
			if field, ok := choice.Delta.JSON.ExtraFields[member]; ok && json.Unmarshal([]byte(field.Raw()), &thought) == nil && thought != "" {
				thoughts = member
				reasoning.WriteString(thought)
				tell(Delta{Reasoning: thought})
				break
			}
		}
		if choice.Delta.Content != "" {
			text.WriteString(choice.Delta.Content)
			tell(Delta{Text: choice.Delta.Content})
		}
		if choice.Delta.Refusal != "" {
			refusal.WriteString(choice.Delta.Refusal)
			tell(Delta{Text: choice.Delta.Refusal})
		}
		for _, piece := range choice.Delta.ToolCalls {
			call := byIndex[piece.Index]
			if call == nil || piece.ID != "" && piece.ID != call.id && piece.Function.Name != "" { // servers that count every call as 0
				call = &pending{id: piece.ID, tool: piece.Function.Name}
				if call.id == "" {
					call.id = newID()
				}
				calls = append(calls, call)
				byIndex[piece.Index] = call
				tell(Delta{Call: &CallDelta{ID: call.id, Tool: call.tool}})
			}
			if piece.Function.Arguments != "" {
				call.arguments.WriteString(piece.Function.Arguments)
				tell(Delta{Call: &CallDelta{ID: call.id, Tool: call.tool, Arguments: piece.Function.Arguments}})
			}
		}
		if choice.FinishReason != "" {
			finish = choice.FinishReason
		}
	}
	if err := stream.Err(); err != nil {
		return Response{}, openaiError(err)
	}

	switch finish {
	case "":
		return Response{}, errCut()
	case "length":
		response.Stop = MaxTokens
	case "content_filter":
		response.Stop = Refusal
	case "tool_calls", "function_call":
		response.Stop = ToolUse
	case "error": // brokers end so when the model behind them broke
		return Response{}, &Error{Code: Overloaded, Message: "the model failed in the middle of its answer"}
	default:
		response.Stop = EndTurn
	}
	parts := &response.Message.Parts
	if reasoning.Len() > 0 {
		opaque, _ := json.Marshal(thoughts) // a string
		*parts = append(*parts, Part{Reasoning: &Reasoning{Text: reasoning.String(), Format: OpenAIChat, Opaque: opaque}})
	}
	if text.Len() > 0 {
		*parts = append(*parts, Part{Text: text.String()})
	}
	if refusal.Len() > 0 {
		response.Stop = Refusal
		*parts = append(*parts, Part{Text: refusal.String()})
	}
	for _, call := range calls {
		arguments := json.RawMessage(call.arguments.String())
		if len(arguments) == 0 {
			arguments = json.RawMessage("{}")
		}
		if call.tool == Computer && request.Computer != nil {
			arguments = unwrapActions(arguments)
		}
		*parts = append(*parts, Part{Call: &Call{ID: call.id, Tool: call.tool, Arguments: arguments, Format: OpenAIChat}})
	}
	return response, nil
}

func (c *chatCompletions) params(request Request) openai.ChatCompletionNewParams {
	params := openai.ChatCompletionNewParams{
		Model:         c.model,
		StreamOptions: openai.ChatCompletionStreamOptionsParam{IncludeUsage: param.NewOpt(true)},
	}
	if c.own {
		params.MaxCompletionTokens = param.NewOpt(int64(request.MaxTokens))
		params.PromptCacheKey = param.NewOpt(cacheKey(request))
	} else {
		params.MaxTokens = param.NewOpt(int64(request.MaxTokens)) // what servers of this format all know
	}
	for _, tool := range request.Tools {
		params.Tools = append(params.Tools, function(tool.Name, tool.Description, tool.Schema))
	}
	if request.Computer != nil {
		params.Tools = append(params.Tools, computerFunction(request.Computer))
	}
	if request.System != "" {
		params.Messages = append(params.Messages, openai.SystemMessage(request.System))
	}
	for _, message := range adapt(request.Messages, OpenAIChat) {
		if message.Role == Assistant {
			params.Messages = append(params.Messages, assistantMessage(message.Parts))
			continue
		}
		var said []openai.ChatCompletionContentPartUnionParam
		for _, part := range message.Parts {
			if result := part.Result; result != nil {
				text := result.Text
				if result.Failed {
					text = strings.TrimSpace("Error: " + text)
				}
				if result.Picture != nil {
					// A tool's message holds no picture, so the user shows it.
					said = append(said, openai.TextContentPart(fmt.Sprintf("The picture that %s returned:", result.Tool)))
					text = strings.TrimSpace(text + "\n(The picture follows.)")
				}
				params.Messages = append(params.Messages, openai.ToolMessage(text, result.ID))
				part = Part{Picture: result.Picture}
			}
			switch {
			case part.Picture != nil:
				said = append(said, openai.ImageContentPart(openai.ChatCompletionContentPartImageImageURLParam{URL: dataURL(part.Picture)}))
			case part.Text != "":
				said = append(said, openai.TextContentPart(part.Text))
			}
		}
		switch {
		case len(said) == 1 && said[0].OfText != nil: // a plain string is what the simplest servers read
			params.Messages = append(params.Messages, openai.UserMessage(said[0].OfText.Text))
		case len(said) > 0:
			params.Messages = append(params.Messages, openai.UserMessage(said))
		}
	}
	return params
}

func assistantMessage(parts []Part) openai.ChatCompletionMessageParamUnion {
	message := &openai.ChatCompletionAssistantMessageParam{}
	var text []string
	for _, part := range parts {
		switch {
		case part.Reasoning != nil:
			// Models that think between their calls want it back where they put it.
			var member string
			if json.Unmarshal(part.Reasoning.Opaque, &member) == nil && member != "" {
				message.SetExtraFields(map[string]any{member: part.Reasoning.Text})
			}
		case part.Call != nil:
			arguments := part.Call.Arguments
			if part.Call.Tool == Computer {
				arguments = wrapActions(arguments)
			}
			message.ToolCalls = append(message.ToolCalls, openai.ChatCompletionMessageToolCallUnionParam{OfFunction: &openai.ChatCompletionMessageFunctionToolCallParam{
				ID: part.Call.ID, Function: openai.ChatCompletionMessageFunctionToolCallFunctionParam{Name: part.Call.Tool, Arguments: string(arguments)},
			}})
		default:
			text = append(text, part.Text)
		}
	}
	if len(text) > 0 {
		message.Content.OfString = param.NewOpt(strings.Join(text, "\n\n"))
	}
	return openai.ChatCompletionMessageParamUnion{OfAssistant: message}
}

func function(name, description string, schema json.RawMessage) openai.ChatCompletionToolUnionParam {
	return openai.ChatCompletionFunctionTool(shared.FunctionDefinitionParam{
		Name: name, Description: param.NewOpt(description), Parameters: object(schema),
	})
}

// computerFunction is the computer tool of a format that has none, in the words of bureau's dialect.
func computerFunction(display *Display) openai.ChatCompletionToolUnionParam {
	return function(Computer, fmt.Sprintf(`Use the computer: see its screen, move the pointer, click, scroll, type and press keys.
The screen is %d pixels wide and %d high; x and y are pixels from its upper left corner.
Give actions that belong together in one call; they are done in order, and you get a picture of the screen after the last.
Look at the picture before you go on, and aim at the middle of what you click.`, display.Width, display.Height),
		json.RawMessage(fmt.Sprintf(computerSchema, display.Width-1, display.Height-1)))
}

const computerSchema = `{
  "type": "object",
  "properties": {
    "actions": {
      "type": "array", "minItems": 1, "maxItems": 20,
      "items": {
        "type": "object",
        "properties": {
          "type": {"type": "string", "enum": ["screenshot", "click", "move", "drag", "scroll", "type", "key", "wait"], "description": "What to do. screenshot only looks. click takes x, y, button, count. move takes x, y. drag takes startX, startY, endX, endY. scroll takes x, y, direction, amount. type takes text. key takes key. wait takes ms."},
          "x": {"type": "integer", "minimum": 0, "maximum": %[1]d},
          "y": {"type": "integer", "minimum": 0, "maximum": %[2]d},
          "button": {"type": "string", "enum": ["left", "middle", "right", "back", "forward"], "description": "Of click and drag; left when not given."},
          "count": {"type": "integer", "minimum": 1, "maximum": 3, "description": "Of click: 2 is a double click."},
          "modifiers": {"type": "array", "items": {"type": "string", "enum": ["ctrl", "shift", "alt", "super"]}, "description": "Keys to hold during click, move, drag or scroll."},
          "startX": {"type": "integer", "minimum": 0, "maximum": %[1]d},
          "startY": {"type": "integer", "minimum": 0, "maximum": %[2]d},
          "endX": {"type": "integer", "minimum": 0, "maximum": %[1]d},
          "endY": {"type": "integer", "minimum": 0, "maximum": %[2]d},
          "direction": {"type": "string", "enum": ["up", "down", "left", "right"]},
          "amount": {"type": "integer", "minimum": 1, "maximum": 50, "description": "Of scroll: notches of the wheel."},
          "text": {"type": "string", "description": "Of type; a line break presses Return."},
          "key": {"type": "string", "description": "Of key: a key or a combination, such as Return, ctrl+s, alt+F4."},
          "ms": {"type": "integer", "minimum": 0, "maximum": 60000, "description": "Of wait: milliseconds."}
        },
        "required": ["type"]
      }
    }
  },
  "required": ["actions"]
}`

// unwrapActions takes the actions out of the function's arguments. What is something else is left to
// whoever decodes it, to be complained about to the model.
func unwrapActions(arguments json.RawMessage) json.RawMessage {
	var wrapped struct {
		Actions []json.RawMessage `json:"actions"`
	}
	if json.Unmarshal(arguments, &wrapped) != nil || len(wrapped.Actions) == 0 {
		return arguments
	}
	list, err := json.Marshal(wrapped.Actions)
	if err != nil {
		return arguments
	}
	return list
}

func wrapActions(actions json.RawMessage) json.RawMessage {
	if trimmed := strings.TrimSpace(string(actions)); strings.HasPrefix(trimmed, "[") {
		return json.RawMessage(`{"actions":` + trimmed + `}`)
	}
	return actions
}
