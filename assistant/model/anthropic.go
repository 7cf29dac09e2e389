package model

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"
	"github.com/anthropics/anthropic-sdk-go/option"
	"github.com/anthropics/anthropic-sdk-go/packages/param"
)

// messages speaks Anthropic's Messages.
type messages struct {
	service anthropic.BetaMessageService
	model   string
	own     bool // it is Anthropic's
}

func newAnthropic(endpoint Endpoint, client *http.Client) *messages {
	options := []option.RequestOption{
		option.WithoutEnvironmentDefaults(),
		option.WithBaseURL(endpoint.base("https://api.anthropic.com", "v1", false)),
		option.WithHTTPClient(client),
		option.WithMaxRetries(0),
	}
	if endpoint.Key != "" {
		options = append(options, option.WithAPIKey(endpoint.Key))
	}
	return &messages{
		service: anthropic.NewClient(options...).Beta.Messages,
		model:   endpoint.Model,
		own:     endpoint.BaseURL == "" || strings.Contains(endpoint.BaseURL, "://api.anthropic.com"),
	}
}

func (m *messages) next(ctx context.Context, request Request, tell func(Delta)) (Response, error) {
	stream := m.service.NewStreaming(ctx, m.params(request))
	defer stream.Close()

	var message anthropic.BetaMessage
	arguments := map[int64]*strings.Builder{} // by the block's index; the SDK makes {} of broken ones
	stopped := false
	for stream.Next() {
		event := stream.Current()
		if err := message.Accumulate(event); err != nil {
			return Response{}, err
		}
		switch event.Type {
		case "content_block_start":
			switch block := event.ContentBlock; block.Type {
			case "tool_use":
				arguments[event.Index] = &strings.Builder{}
				tell(Delta{Call: &CallDelta{ID: block.ID, Tool: block.Name}})
			case "text":
				if block.Text != "" {
					tell(Delta{Text: block.Text})
				}
			}
		case "content_block_delta":
			switch delta := event.Delta; delta.Type {
			case "text_delta":
				tell(Delta{Text: delta.Text})
			case "thinking_delta":
				tell(Delta{Reasoning: delta.Thinking})
			case "input_json_delta":
				if b := arguments[event.Index]; b != nil && delta.PartialJSON != "" {
					b.WriteString(delta.PartialJSON)
					block := message.Content[event.Index]
					tell(Delta{Call: &CallDelta{ID: block.ID, Tool: block.Name, Arguments: delta.PartialJSON}})
				}
			}
		case "message_stop":
			stopped = true
		}
	}
	if err := stream.Err(); err != nil {
		var refused *anthropic.Error
		if errors.As(err, &refused) {
			return Response{}, classify(0, nil, []byte(refused.RawJSON()))
		}
		return Response{}, err
	}
	if !stopped {
		return Response{}, errCut()
	}

	response := Response{Model: message.Model, Usage: Usage{
		Input:      message.Usage.InputTokens,
		CacheRead:  message.Usage.CacheReadInputTokens,
		CacheWrite: message.Usage.CacheCreationInputTokens,
		Output:     message.Usage.OutputTokens,
	}}
	switch message.StopReason {
	case anthropic.BetaStopReasonToolUse:
		response.Stop = ToolUse
	case anthropic.BetaStopReasonMaxTokens, anthropic.BetaStopReasonModelContextWindowExceeded:
		response.Stop = MaxTokens
	case anthropic.BetaStopReasonRefusal:
		response.Stop = Refusal
	default:
		response.Stop = EndTurn
	}
	for i, block := range message.Content {
		var part Part
		switch block.Type {
		case "text":
			part.Text = block.Text
		case "thinking", "redacted_thinking":
			part.Reasoning = &Reasoning{Text: block.Thinking, Format: Anthropic, Opaque: json.RawMessage(block.RawJSON())}
		case "tool_use":
			call := &Call{ID: block.ID, Tool: block.Name, Arguments: block.Input, Format: Anthropic}
			if b := arguments[int64(i)]; b != nil && b.Len() > 0 {
				call.Arguments = json.RawMessage(b.String())
			}
			part.Call = call
		default:
			continue
		}
		if part.Text == "" && part.Reasoning == nil && part.Call == nil {
			continue
		}
		response.Message.Parts = append(response.Message.Parts, part)
	}
	return response, nil
}

func (m *messages) params(request Request) anthropic.BetaMessageNewParams {
	params := anthropic.BetaMessageNewParams{Model: m.model, MaxTokens: int64(request.MaxTokens)}
	cached := anthropic.NewBetaCacheControlEphemeralParam()
	if request.System != "" {
		params.System = []anthropic.BetaTextBlockParam{{Text: request.System, CacheControl: cached}}
	}
	for _, tool := range request.Tools {
		params.Tools = append(params.Tools, anthropic.BetaToolUnionParam{OfTool: &anthropic.BetaToolParam{
			Name:        tool.Name,
			Description: anthropic.String(tool.Description),
			InputSchema: param.Override[anthropic.BetaToolInputSchemaParam](tool.Schema),
		}})
	}
	if request.Computer != nil {
		tool, beta := m.computer(request.Computer)
		params.Tools = append(params.Tools, tool)
		if beta != "" {
			params.Betas = append(params.Betas, beta)
		}
	}
	if last := len(params.Tools) - 1; last >= 0 {
		*params.Tools[last].GetCacheControl() = cached
	}
	for _, message := range adapt(request.Messages, Anthropic) {
		role := anthropic.BetaMessageParamRoleUser
		if message.Role == Assistant {
			role = anthropic.BetaMessageParamRoleAssistant
		}
		params.Messages = append(params.Messages, anthropic.BetaMessageParam{Role: role, Content: blocks(message.Parts)})
	}
	// Of the four places that may be cached, two are left. The last message of the user's is read from
	// the cache by the next request, and the one before it by this one.
	for i, left := len(params.Messages)-1, 2; i >= 0 && left > 0; i-- {
		if params.Messages[i].Role == anthropic.BetaMessageParamRoleUser {
			content := params.Messages[i].Content
			*content[len(content)-1].GetCacheControl() = cached
			left--
		}
	}
	return params
}

// Models before Claude Opus 4.5 know the computer tool without zoom only, and those before Claude 4
// in all its forms but 3.7 an older one.
var (
	withoutZoom = regexp.MustCompile(`claude-(3-7|(sonnet|opus)-4(-0|-1|-2025\d*|@|$)|sonnet-4-5|haiku-4-5)`)
	oldest      = regexp.MustCompile(`claude-3-5`)
)

// computer is the newest computer tool that a model takes, and the beta that it belongs to. Models of
// others that speak this format do not know it; they get a function with the same actions.
func (m *messages) computer(display *Display) (anthropic.BetaToolUnionParam, anthropic.AnthropicBeta) {
	width, height := int64(display.Width), int64(display.Height)
	name := strings.NewReplacer(".", "-", "_", "-").Replace(strings.ToLower(m.model)) // brokers write claude-3.7
	switch {
	case !m.own && !strings.Contains(name, "claude"):
		return anthropic.BetaToolUnionParam{OfTool: &anthropic.BetaToolParam{
			Name:        Computer,
			Description: anthropic.String(fmt.Sprintf(computerActions, width, height)),
			InputSchema: param.Override[anthropic.BetaToolInputSchemaParam](json.RawMessage(actionSchema)),
		}}, ""
	case oldest.MatchString(name):
		return anthropic.BetaToolUnionParam{OfComputerUseTool20241022: &anthropic.BetaToolComputerUse20241022Param{
			DisplayWidthPx: width, DisplayHeightPx: height,
		}}, anthropic.AnthropicBetaComputerUse2024_10_22
	case withoutZoom.MatchString(name):
		return anthropic.BetaToolUnionParam{OfComputerUseTool20250124: &anthropic.BetaToolComputerUse20250124Param{
			DisplayWidthPx: width, DisplayHeightPx: height,
		}}, anthropic.AnthropicBetaComputerUse2025_01_24
	}
	return anthropic.BetaToolUnionParam{OfComputerUseTool20251124: &anthropic.BetaToolComputerUse20251124Param{
		DisplayWidthPx: width, DisplayHeightPx: height, EnableZoom: anthropic.Bool(true),
	}}, anthropic.AnthropicBetaComputerUse2025_11_24
}

const computerActions = `Use the computer: see its screen, move the pointer, click, scroll, type and press keys.
The screen is %d pixels wide and %d high; a coordinate is [x, y] in pixels from its upper left corner.
You get a picture of the screen after each action. Look at it before you go on, and aim at the middle of what you click.`

const actionSchema = `{
  "type": "object",
  "properties": {
    "action": {"type": "string", "enum": ["screenshot", "left_click", "right_click", "middle_click", "double_click", "triple_click", "mouse_move", "left_click_drag", "scroll", "type", "key", "wait"], "description": "What to do. screenshot only looks. Clicks and mouse_move take coordinate; left_click_drag takes start_coordinate and coordinate; scroll takes coordinate, scroll_direction and scroll_amount; type and key take text; wait takes duration."},
    "coordinate": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    "start_coordinate": {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2},
    "text": {"type": "string", "description": "What to type; or a key or combination, such as Return, ctrl+s, alt+F4; or, with a click or scroll, the keys to hold."},
    "scroll_direction": {"type": "string", "enum": ["up", "down", "left", "right"]},
    "scroll_amount": {"type": "integer", "minimum": 1, "maximum": 50, "description": "Notches of the wheel."},
    "duration": {"type": "number", "minimum": 0, "maximum": 60, "description": "Seconds."}
  },
  "required": ["action"]
}`

func blocks(parts []Part) []anthropic.BetaContentBlockParamUnion {
	var content []anthropic.BetaContentBlockParamUnion
	var pictures []anthropic.BetaContentBlockParamUnion // of failures, whose result may hold only text
	for _, part := range parts {
		switch {
		case part.Result != nil:
			result, picture := toolResult(part.Result)
			content = append(content, result)
			if picture != nil {
				pictures = append(pictures, anthropic.BetaContentBlockParamUnion{OfImage: picture})
			}
			continue
		case part.Reasoning != nil:
			content = append(content, param.Override[anthropic.BetaContentBlockParamUnion](part.Reasoning.Opaque))
			continue
		}
		content, pictures = append(content, pictures...), nil
		switch {
		case part.Call != nil:
			content = append(content, anthropic.BetaContentBlockParamUnion{OfToolUse: &anthropic.BetaToolUseBlockParam{
				ID: part.Call.ID, Name: part.Call.Tool, Input: part.Call.Arguments,
			}})
		case part.Picture != nil:
			content = append(content, anthropic.BetaContentBlockParamUnion{OfImage: imageBlock(part.Picture)})
		default:
			content = append(content, anthropic.NewBetaTextBlock(part.Text))
		}
	}
	return append(content, pictures...)
}

// toolResult is a call's result, and the picture that cannot be part of it.
func toolResult(result *Result) (anthropic.BetaContentBlockParamUnion, *anthropic.BetaImageBlockParam) {
	block := &anthropic.BetaToolResultBlockParam{ToolUseID: result.ID}
	text := result.Text
	if result.Failed {
		block.IsError = anthropic.Bool(true)
		if text == "" {
			text = "It failed."
		}
	}
	if text != "" {
		block.Content = append(block.Content, anthropic.BetaToolResultBlockParamContentUnion{OfText: &anthropic.BetaTextBlockParam{Text: text}})
	}
	var apart *anthropic.BetaImageBlockParam
	if result.Picture != nil {
		if picture := imageBlock(result.Picture); result.Failed {
			apart = picture
		} else {
			block.Content = append(block.Content, anthropic.BetaToolResultBlockParamContentUnion{OfImage: picture})
		}
	}
	return anthropic.BetaContentBlockParamUnion{OfToolResult: block}, apart
}

func imageBlock(picture *Picture) *anthropic.BetaImageBlockParam {
	return &anthropic.BetaImageBlockParam{Source: anthropic.BetaImageBlockParamSourceUnion{OfBase64: &anthropic.BetaBase64ImageSourceParam{
		Data:      base64.StdEncoding.EncodeToString(picture.Data),
		MediaType: anthropic.BetaBase64ImageSourceMediaType(picture.MediaType),
	}}}
}

func dataURL(picture *Picture) string {
	return fmt.Sprintf("data:%s;base64,%s", picture.MediaType, base64.StdEncoding.EncodeToString(picture.Data))
}
