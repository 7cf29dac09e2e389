package modeltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/openai/openai-go/v3/responses"

	"bureau/assistant/model"
)

// openaiWire is OpenAI's Responses.
type openaiWire struct{}

func (openaiWire) key(header http.Header) string { return bearer(header) }

func (openaiWire) complaint(status int, kind Kind, message string) any {
	return openaiComplaint(status, kind, message)
}

func openaiComplaint(status int, kind Kind, message string) any {
	codes := map[Kind][2]string{ // type, code
		Overloaded: {"server_error", "server_is_overloaded"}, RateLimited: {"rate_limit_error", "rate_limit_exceeded"},
		Unauthorized: {"invalid_request_error", "invalid_api_key"}, ContextOverflow: {"invalid_request_error", "context_length_exceeded"},
		PictureTooLarge: {"invalid_request_error", "image_too_large"}, Status: {"server_error", ""},
	}
	code, ok := codes[kind]
	if !ok || kind == Status && status < 500 {
		code = [2]string{"invalid_request_error", "invalid_value"}
	}
	return dict{"error": dict{"type": code[0], "code": code[1], "message": message, "param": nil}}
}

func (openaiWire) read(r *http.Request, body []byte, lax bool, seen *Request) error {
	rest, stream, err := streamed(body)
	if err != nil {
		return err
	}
	seen.Stream = stream
	if rest, err = namedMessages(rest, lax); err != nil {
		return err
	}
	var params responses.ResponseNewParams
	if err := decode(rest, &params, lax); err != nil {
		return err
	}
	seen.Model, seen.System, seen.MaxTokens = params.Model, params.Instructions.Value, int(params.MaxOutputTokens.Value)
	if params.MaxOutputTokens.Valid() && seen.MaxTokens < 16 {
		return errors.New("max_output_tokens: must be at least 16")
	}
	if !lax {
		switch {
		case !params.Store.Valid() || params.Store.Value:
			return errors.New("store is not false: the conversation would be kept at OpenAI")
		case !slices.Contains(params.Include, responses.ResponseIncludableReasoningEncryptedContent):
			return errors.New("include lacks reasoning.encrypted_content")
		case params.PromptCacheKey.Value == "":
			return errors.New("prompt_cache_key is missing")
		}
	}
	for i, tool := range params.Tools {
		switch {
		case tool.OfFunction != nil:
			seen.Tools = append(seen.Tools, tool.OfFunction.Name)
			if tool.OfFunction.Parameters["type"] != "object" {
				return fmt.Errorf("tools[%d].parameters: must be of the type object", i)
			}
		case tool.OfNamespace != nil:
			for _, one := range tool.OfNamespace.Tools {
				if one.OfFunction != nil {
					seen.Tools = append(seen.Tools, tool.OfNamespace.Name+"."+one.OfFunction.Name)
				}
			}
		case tool.OfComputer != nil:
			seen.Tools, seen.Computer = append(seen.Tools, model.Computer), &model.Display{}
		case tool.OfComputerUsePreview != nil:
			c := tool.OfComputerUsePreview
			seen.Tools, seen.Computer = append(seen.Tools, model.Computer), &model.Display{Width: int(c.DisplayWidth), Height: int(c.DisplayHeight)}
			if params.Truncation != "auto" {
				return errors.New("truncation: must be auto with computer_use_preview")
			}
		}
	}
	if params.Input.OfString.Valid() {
		seen.add(model.User, model.Part{Text: params.Input.OfString.Value})
	}
	pending := map[string][]responses.ResponseComputerToolCallPendingSafetyCheckParam{}
	for i, item := range params.Input.OfInputItemList {
		if err := openaiItem(item, lax, seen, pending); err != nil {
			return fmt.Errorf("input[%d]: %w", i, err)
		}
	}
	return nil
}

// namedMessages gives messages their type, which a request may leave out and the SDK cannot read
// without. Of other programs it makes text of what the model said in parts, which the SDK takes for a
// message of a person.
func namedMessages(body []byte, lax bool) ([]byte, error) {
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		return nil, err
	}
	items, _ := m["input"].([]any)
	for i, item := range items {
		if one, ok := item.(map[string]any); ok && one["type"] == nil && one["role"] != nil {
			one["type"] = "message"
		}
		if one, ok := item.(map[string]any); ok && lax && one["type"] == "message" && one["role"] == string(model.Assistant) {
			if parts, ok := one["content"].([]any); ok {
				var said []string
				for _, part := range parts {
					if part, ok := part.(map[string]any); ok {
						text, _ := part["text"].(string)
						said = append(said, text)
					}
				}
				items[i] = map[string]any{"type": "message", "role": one["role"], "content": strings.Join(said, "\n")}
			}
		}
	}
	return json.Marshal(m)
}

func openaiItem(item responses.ResponseInputItemUnionParam, lax bool, seen *Request, pending map[string][]responses.ResponseComputerToolCallPendingSafetyCheckParam) error {
	switch {
	case item.OfMessage != nil:
		m := item.OfMessage
		role := model.Role(m.Role)
		if role != model.User && role != model.Assistant {
			role = model.User // a developer's or the system's words
			if !lax {
				return fmt.Errorf("the role is %q", m.Role)
			}
		}
		if m.Content.OfString.Valid() {
			if m.Content.OfString.Value == "" {
				return errors.New("the message is empty")
			}
			seen.add(role, model.Part{Text: m.Content.OfString.Value})
		}
		if role == model.Assistant && len(m.Content.OfInputItemContentList) > 0 {
			return errors.New("what the model said is not input")
		}
		return openaiContent(m.Content.OfInputItemContentList, role, seen)
	case item.OfInputMessage != nil:
		return openaiContent(item.OfInputMessage.Content, model.User, seen)
	case item.OfOutputMessage != nil:
		for _, content := range item.OfOutputMessage.Content {
			if content.OfOutputText != nil {
				seen.add(model.Assistant, model.Part{Text: content.OfOutputText.Text})
			}
		}
	case item.OfReasoning != nil:
		var text []string
		for _, summary := range item.OfReasoning.Summary {
			text = append(text, summary.Text)
		}
		all := strings.Join(text, "\n\n")
		if !lax && item.OfReasoning.EncryptedContent.Value != seal(all) {
			return errors.New("the encrypted content of the reasoning could not be verified")
		}
		seen.add(model.Assistant, model.Part{Reasoning: &model.Reasoning{Text: all, Format: model.OpenAI}})
	case item.OfFunctionCall != nil:
		c := item.OfFunctionCall
		if !json.Valid([]byte(c.Arguments)) {
			return errors.New("the arguments are not JSON")
		}
		if len(c.CallID) > 64 {
			return errors.New("call_id: string too long")
		}
		seen.add(model.Assistant, model.Part{Call: &model.Call{ID: c.CallID, Tool: c.Name, Arguments: json.RawMessage(c.Arguments), Format: model.OpenAI}})
	case item.OfComputerCall != nil:
		c := item.OfComputerCall
		raw, err := json.Marshal(c)
		if err != nil {
			return err
		}
		if c.ID == "" || c.Status == "" {
			return errors.New("the computer_call lacks its id or status")
		}
		pending[c.CallID] = c.PendingSafetyChecks
		seen.add(model.Assistant, model.Part{Call: &model.Call{ID: c.CallID, Tool: model.Computer, Arguments: raw, Format: model.OpenAI}})
	case item.OfComputerCallOutput != nil:
		o := item.OfComputerCallOutput
		picture, err := dataURL(o.Output.ImageURL.Value)
		if err != nil {
			return err
		}
		for _, check := range pending[o.CallID] {
			agreed := false
			for _, a := range o.AcknowledgedSafetyChecks {
				agreed = agreed || a.ID == check.ID
			}
			if !agreed {
				return fmt.Errorf("the safety check %s of %s is not acknowledged", check.ID, o.CallID)
			}
		}
		result := &model.Result{ID: o.CallID, Tool: model.Computer, Picture: picture}
		if len(o.AcknowledgedSafetyChecks) > 0 {
			if result.Acknowledged, err = json.Marshal(o.AcknowledgedSafetyChecks); err != nil {
				return err
			}
		}
		seen.add(model.User, model.Part{Result: result})
	case item.OfFunctionCallOutput != nil:
		o := item.OfFunctionCallOutput
		result := &model.Result{ID: o.CallID.Value, Text: o.Output.OfString.Value}
		for _, content := range o.Output.OfResponseFunctionCallOutputItemArray {
			switch {
			case content.OfInputText != nil:
				result.Text += content.OfInputText.Text
			case content.OfInputImage != nil:
				var err error
				if result.Picture, err = dataURL(content.OfInputImage.ImageURL.Value); err != nil {
					return err
				}
			}
		}
		seen.add(model.User, model.Part{Result: result})
	default:
		if !lax {
			return errors.New("is of a kind that is not expected")
		}
	}
	return nil
}

func openaiContent(list responses.ResponseInputMessageContentListParam, role model.Role, seen *Request) error {
	for _, content := range list {
		switch {
		case content.OfInputText != nil:
			seen.add(role, model.Part{Text: content.OfInputText.Text})
		case content.OfInputImage != nil:
			picture, err := dataURL(content.OfInputImage.ImageURL.Value)
			if err != nil {
				return err
			}
			seen.add(role, model.Part{Picture: picture})
		}
	}
	return nil
}

// items is the model's output, whole.
func (openaiWire) items(answer *answer) []dict {
	items := []dict{}
	if answer.reasoning != "" {
		items = append(items, dict{
			"id": "rs_" + answer.id, "type": "reasoning", "encrypted_content": seal(answer.reasoning),
			"summary": []dict{{"type": "summary_text", "text": answer.reasoning}},
		})
	}
	if answer.text != "" {
		content := dict{"type": "output_text", "text": answer.text, "annotations": []any{}}
		if answer.stop == model.Refusal {
			content = dict{"type": "refusal", "refusal": answer.text}
		}
		items = append(items, dict{"id": "msg_" + answer.id, "type": "message", "role": "assistant", "status": "completed", "content": []dict{content}})
	}
	for i, call := range answer.calls {
		if !call.computer {
			item := dict{
				"id": fmt.Sprintf("fc_%s_%d", answer.id, i), "type": "function_call", "call_id": call.id, "name": call.name,
				"arguments": string(call.arguments), "status": "completed",
			}
			if namespace, name, within := strings.Cut(call.name, "."); within {
				item["namespace"], item["name"] = namespace, name
			}
			items = append(items, item)
			continue
		}
		checks := []dict{}
		if call.safety != "" {
			checks = append(checks, dict{"id": "sc_" + call.id, "code": "malicious_instructions", "message": call.safety})
		}
		items = append(items, dict{
			"id": fmt.Sprintf("cu_%s_%d", answer.id, i), "type": "computer_call", "call_id": call.id,
			"actions": call.actions, "pending_safety_checks": checks, "status": "completed",
		})
	}
	return items
}

func (w openaiWire) response(request *Request, answer *answer) dict {
	return dict{
		"id": "resp_" + answer.id, "object": "response", "created_at": 1750000000, "model": request.Model, "status": "in_progress",
		"error": nil, "incomplete_details": nil, "instructions": nil, "metadata": dict{}, "output": []dict{}, "parallel_tool_calls": true,
		"temperature": 1, "tool_choice": "auto", "tools": []any{}, "top_p": 1, "store": false,
	}
}

func (w openaiWire) whole(request *Request, answer *answer) any {
	response := w.response(request, answer)
	response["output"], response["status"] = w.items(answer), "completed"
	if answer.stop == model.MaxTokens {
		response["status"], response["incomplete_details"] = "incomplete", dict{"reason": "max_output_tokens"}
	}
	u := answer.usage
	input := u.Input + u.CacheRead + u.CacheWrite
	response["usage"] = dict{
		"input_tokens": input, "input_tokens_details": dict{"cached_tokens": u.CacheRead, "cache_write_tokens": u.CacheWrite},
		"output_tokens": u.Output, "output_tokens_details": dict{"reasoning_tokens": len(answer.reasoning) / 4}, "total_tokens": input + u.Output,
	}
	return response
}

func (w openaiWire) events(request *Request, answer *answer) []event {
	events := []event{}
	add := func(kind string, data dict) {
		data["type"], data["sequence_number"] = kind, len(events)
		events = append(events, event{kind, data})
	}
	add("response.created", dict{"response": w.response(request, answer)})
	add("response.in_progress", dict{"response": w.response(request, answer)})
	for i, item := range w.items(answer) {
		id := item["id"]
		begun := dict{}
		for key, value := range item {
			begun[key] = value
		}
		if _, ok := item["status"]; ok {
			begun["status"] = "in_progress"
		}
		each := func(kind string, list []string, more dict) {
			for _, piece := range list {
				data := dict{"output_index": i, "item_id": id, "delta": piece}
				for key, value := range more {
					data[key] = value
				}
				add(kind, data)
			}
		}
		switch item["type"] {
		case "reasoning":
			begun["summary"], begun["encrypted_content"] = []dict{}, ""
			add("response.output_item.added", dict{"output_index": i, "item": begun})
			add("response.reasoning_summary_part.added", dict{"output_index": i, "item_id": id, "summary_index": 0, "part": dict{"type": "summary_text", "text": ""}})
			each("response.reasoning_summary_text.delta", pieces(answer.reasoning, 12), dict{"summary_index": 0})
			add("response.reasoning_summary_text.done", dict{"output_index": i, "item_id": id, "summary_index": 0, "text": answer.reasoning})
		case "message":
			begun["content"] = []dict{}
			add("response.output_item.added", dict{"output_index": i, "item": begun})
			kind, member := "output_text", "text"
			if answer.stop == model.Refusal {
				kind, member = "refusal", "refusal"
			}
			add("response.content_part.added", dict{"output_index": i, "item_id": id, "content_index": 0, "part": dict{"type": kind, member: ""}})
			each("response."+kind+".delta", pieces(answer.text, 8), dict{"content_index": 0})
			add("response."+kind+".done", dict{"output_index": i, "item_id": id, "content_index": 0, member: answer.text})
		case "function_call":
			begun["arguments"] = ""
			add("response.output_item.added", dict{"output_index": i, "item": begun})
			each("response.function_call_arguments.delta", pieces(item["arguments"].(string), 10), nil)
			add("response.function_call_arguments.done", dict{"output_index": i, "item_id": id, "arguments": item["arguments"]})
		default:
			add("response.output_item.added", dict{"output_index": i, "item": begun})
		}
		add("response.output_item.done", dict{"output_index": i, "item": item})
	}
	final := "response.completed"
	if answer.stop == model.MaxTokens {
		final = "response.incomplete"
	}
	add(final, dict{"response": w.whole(request, answer)})
	return events
}
