package modeltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/openai/openai-go/v3"

	"bureau/assistant/model"
)

// chatWire is Chat Completions.
type chatWire struct{}

func (chatWire) key(header http.Header) string { return bearer(header) }

func (chatWire) complaint(status int, kind Kind, message string) any {
	return openaiComplaint(status, kind, message)
}

func (chatWire) read(r *http.Request, body []byte, lax bool, seen *Request) error {
	rest, stream, err := streamed(body)
	if err != nil {
		return err
	}
	seen.Stream = stream
	var params openai.ChatCompletionNewParams
	thoughts, rest, err := takeReasoning(rest)
	if err != nil {
		return err
	}
	if err := decode(rest, &params, lax); err != nil {
		return err
	}
	seen.Model = params.Model
	seen.MaxTokens = int(max(params.MaxTokens.Value, params.MaxCompletionTokens.Value))
	if !lax && stream && !params.StreamOptions.IncludeUsage.Value {
		return errors.New("stream_options.include_usage is not true: the tokens would not be known")
	}
	for i, tool := range params.Tools {
		if tool.OfFunction == nil {
			continue
		}
		function := tool.OfFunction.Function
		seen.Tools = append(seen.Tools, function.Name)
		if function.Parameters["type"] != "object" {
			return fmt.Errorf("tools[%d].function.parameters: must be of the type object", i)
		}
		if function.Name == model.Computer {
			if seen.Computer, err = announced(function.Parameters); err != nil {
				return fmt.Errorf("tools[%d]: %w", i, err)
			}
		}
	}
	waiting := 0 // results that must come before anything else
	for i, message := range params.Messages {
		if waiting > 0 && message.OfTool == nil {
			return fmt.Errorf("messages[%d]: an assistant message with tool_calls must be followed by tool messages", i)
		}
		switch {
		case message.OfSystem != nil:
			if !lax && i != 0 {
				return fmt.Errorf("messages[%d]: the system speaks in the middle", i)
			}
			seen.System += message.OfSystem.Content.OfString.Value
			for _, part := range message.OfSystem.Content.OfArrayOfContentParts {
				seen.System += part.Text
			}
		case message.OfDeveloper != nil:
			seen.System += message.OfDeveloper.Content.OfString.Value
		case message.OfUser != nil:
			content := message.OfUser.Content
			if content.OfString.Valid() {
				seen.add(model.User, model.Part{Text: content.OfString.Value})
			}
			for _, part := range content.OfArrayOfContentParts {
				switch {
				case part.OfText != nil:
					seen.add(model.User, model.Part{Text: part.OfText.Text})
				case part.OfImageURL != nil:
					picture, err := dataURL(part.OfImageURL.ImageURL.URL)
					if err != nil {
						return fmt.Errorf("messages[%d]: %w", i, err)
					}
					seen.add(model.User, model.Part{Picture: picture})
				}
			}
		case message.OfAssistant != nil:
			m := message.OfAssistant
			if thoughts[i] != "" {
				seen.add(model.Assistant, model.Part{Reasoning: &model.Reasoning{Text: thoughts[i], Format: model.OpenAIChat}})
			}
			if text := m.Content.OfString.Value; text != "" {
				seen.add(model.Assistant, model.Part{Text: text})
			}
			for _, part := range m.Content.OfArrayOfContentParts {
				if part.OfText != nil {
					seen.add(model.Assistant, model.Part{Text: part.OfText.Text})
				}
			}
			for _, call := range m.ToolCalls {
				if call.OfFunction == nil {
					continue
				}
				f := call.OfFunction
				if !json.Valid([]byte(f.Function.Arguments)) {
					return fmt.Errorf("messages[%d]: the arguments of %s are not JSON", i, f.Function.Name)
				}
				waiting++
				seen.add(model.Assistant, model.Part{Call: &model.Call{ID: f.ID, Tool: f.Function.Name, Arguments: json.RawMessage(f.Function.Arguments), Format: model.OpenAIChat}})
			}
		case message.OfTool != nil:
			if waiting--; waiting < 0 {
				return fmt.Errorf("messages[%d]: a tool message answers no call", i)
			}
			text := message.OfTool.Content.OfString.Value
			for _, part := range message.OfTool.Content.OfArrayOfContentParts {
				text += part.Text
			}
			seen.add(model.User, model.Part{Result: &model.Result{ID: message.OfTool.ToolCallID, Text: text}})
		default:
			return fmt.Errorf("messages[%d]: is of no role that is expected", i)
		}
	}
	return nil
}

// takeReasoning takes the member reasoning_content out of messages; it is not OpenAI's, but what the
// models want that think in this format.
func takeReasoning(body []byte) (map[int]string, []byte, error) {
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, nil, err
	}
	thoughts := map[int]string{}
	messages, _ := m["messages"].([]any)
	for i, message := range messages {
		if one, ok := message.(map[string]any); ok {
			if thought, ok := one["reasoning_content"].(string); ok {
				thoughts[i] = thought
				delete(one, "reasoning_content")
			}
		}
	}
	rest, err := json.Marshal(m)
	return thoughts, rest, err
}

// announced reads the display's size from the schema of the computer function: the largest x and y.
func announced(schema map[string]any) (*model.Display, error) {
	raw, err := json.Marshal(schema)
	if err != nil {
		return nil, err
	}
	var s struct {
		Properties struct {
			Actions struct {
				Items struct {
					Properties struct{ X, Y struct{ Maximum int } }
				}
			}
		}
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, fmt.Errorf("the schema of the computer: %w", err)
	}
	p := s.Properties.Actions.Items.Properties
	if p.X.Maximum == 0 || p.Y.Maximum == 0 {
		return nil, errors.New("the schema of the computer does not say how large the display is")
	}
	return &model.Display{Width: p.X.Maximum + 1, Height: p.Y.Maximum + 1}, nil
}

func (chatWire) calls(answer *answer) []dict {
	var list []dict
	for _, call := range answer.calls {
		list = append(list, dict{"id": call.id, "type": "function", "function": dict{"name": call.name, "arguments": string(call.arguments)}})
	}
	return list
}

var chatStops = map[model.Stop]string{
	model.EndTurn: "stop", model.ToolUse: "tool_calls", model.MaxTokens: "length", model.Refusal: "content_filter",
}

func (chatWire) usage(answer *answer) dict {
	u := answer.usage
	input := u.Input + u.CacheRead + u.CacheWrite
	return dict{
		"prompt_tokens": input, "completion_tokens": u.Output, "total_tokens": input + u.Output,
		"prompt_tokens_details": dict{"cached_tokens": u.CacheRead},
	}
}

func (w chatWire) whole(request *Request, answer *answer) any {
	message := dict{"role": "assistant", "content": answer.text, "refusal": nil}
	if answer.reasoning != "" {
		message["reasoning_content"] = answer.reasoning
	}
	if len(answer.calls) > 0 {
		message["tool_calls"] = w.calls(answer)
	}
	return dict{
		"id": "chatcmpl-" + answer.id, "object": "chat.completion", "created": 1750000000, "model": request.Model,
		"choices": []dict{{"index": 0, "message": message, "finish_reason": chatStops[answer.stop], "logprobs": nil}},
		"usage":   w.usage(answer),
	}
}

func (w chatWire) events(request *Request, answer *answer) []event {
	events := []event{}
	chunk := func(choices []dict, usage any) {
		events = append(events, event{data: dict{
			"id": "chatcmpl-" + answer.id, "object": "chat.completion.chunk", "created": 1750000000, "model": request.Model,
			"choices": choices, "usage": usage,
		}})
	}
	delta := func(d dict) { chunk([]dict{{"index": 0, "delta": d, "finish_reason": nil}}, nil) }
	delta(dict{"role": "assistant", "content": ""})
	for _, piece := range pieces(answer.reasoning, 12) {
		delta(dict{"reasoning_content": piece})
	}
	for _, piece := range pieces(answer.text, 8) {
		delta(dict{"content": piece})
	}
	for i, call := range answer.calls {
		delta(dict{"tool_calls": []dict{{"index": i, "id": call.id, "type": "function", "function": dict{"name": call.name, "arguments": ""}}}})
		for _, piece := range pieces(string(call.arguments), 10) {
			delta(dict{"tool_calls": []dict{{"index": i, "function": dict{"arguments": piece}}}})
		}
	}
	chunk([]dict{{"index": 0, "delta": dict{}, "finish_reason": chatStops[answer.stop]}}, nil)
	chunk([]dict{}, w.usage(answer))
	return append(events, event{data: "[DONE]"})
}
