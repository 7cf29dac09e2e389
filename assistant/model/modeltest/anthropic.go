package modeltest

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/anthropics/anthropic-sdk-go"

	"bureau/assistant/model"
)

// anthropicWire is Anthropic's Messages.
type anthropicWire struct{}

func (anthropicWire) key(header http.Header) string {
	if key := header.Get("X-Api-Key"); key != "" {
		return key
	}
	return bearer(header)
}

func (anthropicWire) complaint(status int, kind Kind, message string) any {
	name := map[Kind]string{
		Overloaded: "overloaded_error", RateLimited: "rate_limit_error", Unauthorized: "authentication_error", Status: "api_error",
	}[kind]
	switch {
	case status == http.StatusNotFound:
		name = "not_found_error"
	case name == "" || kind == Status && status < 500:
		name = "invalid_request_error"
	}
	return dict{"type": "error", "error": dict{"type": name, "message": message}, "request_id": "req_test"}
}

// seal is what the model wants back with its reasoning.
func seal(reasoning string) string {
	sum := sha256.Sum256([]byte("sealed:" + reasoning))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (anthropicWire) read(r *http.Request, body []byte, lax bool, seen *Request) error {
	rest, stream, err := streamed(body)
	if err != nil {
		return err
	}
	seen.Stream = stream
	if r.Header.Get("Anthropic-Version") == "" {
		return errors.New("the header anthropic-version is missing")
	}
	var params anthropic.BetaMessageNewParams
	if err := decode(rest, &params, lax); err != nil {
		return err
	}
	seen.Model, seen.MaxTokens = params.Model, int(params.MaxTokens)
	if params.MaxTokens < 1 {
		return errors.New("max_tokens: must be at least 1")
	}
	cached := 0
	mark := func(c *anthropic.BetaCacheControlEphemeralParam) bool {
		if c == nil || c.Type == "" {
			return false
		}
		cached++
		return true
	}
	marked := false
	for _, block := range params.System {
		seen.System += block.Text
		marked = mark(&block.CacheControl)
	}
	if !lax && len(params.System) > 0 && !marked {
		return errors.New("the end of system is not marked for the cache")
	}
	for i := range params.Tools {
		tool := &params.Tools[i]
		marked = mark(tool.GetCacheControl())
		if name := tool.GetName(); name != nil {
			seen.Tools = append(seen.Tools, *name)
		}
		beta := ""
		switch {
		case tool.OfTool != nil && tool.OfTool.Name == model.Computer: // for models that know no other
			seen.Computer = &model.Display{}
		case tool.OfComputerUseTool20251124 != nil:
			c := tool.OfComputerUseTool20251124
			seen.Computer, beta = &model.Display{Width: int(c.DisplayWidthPx), Height: int(c.DisplayHeightPx)}, "computer-use-2025-11-24"
		case tool.OfComputerUseTool20250124 != nil:
			c := tool.OfComputerUseTool20250124
			seen.Computer, beta = &model.Display{Width: int(c.DisplayWidthPx), Height: int(c.DisplayHeightPx)}, "computer-use-2025-01-24"
		case tool.OfComputerUseTool20241022 != nil:
			c := tool.OfComputerUseTool20241022
			seen.Computer, beta = &model.Display{Width: int(c.DisplayWidthPx), Height: int(c.DisplayHeightPx)}, "computer-use-2024-10-22"
		}
		if beta != "" && !strings.Contains(strings.Join(r.Header.Values("Anthropic-Beta"), ","), beta) {
			return fmt.Errorf("tools.%d: this tool needs the header anthropic-beta: %s", i, beta)
		}
		if beta != "" && (seen.Computer.Width < 1 || seen.Computer.Height < 1) {
			return fmt.Errorf("tools.%d: the display has no size", i)
		}
		if tool.OfTool != nil && tool.OfTool.InputSchema.Type != "object" {
			return fmt.Errorf("tools.%d: input_schema.type: must be object", i)
		}
	}
	if !lax && len(params.Tools) > 0 && !marked {
		return errors.New("the end of tools is not marked for the cache")
	}
	marked = false
	for i, message := range params.Messages {
		role := model.Role(message.Role)
		if lax && role == "system" {
			role = model.User // Claude Code's words to newer models
		}
		if role != model.User && role != model.Assistant {
			return fmt.Errorf("messages.%d: the role is %q", i, role)
		}
		if !lax && i > 0 && params.Messages[i-1].Role == message.Role {
			return fmt.Errorf("messages.%d: two messages of one role follow each other", i)
		}
		if len(message.Content) == 0 {
			return fmt.Errorf("messages.%d: has no content", i)
		}
		results := true
		for j := range message.Content {
			block := &message.Content[j]
			m := mark(block.GetCacheControl())
			if role == model.User {
				marked = m
			}
			part, err := anthropicPart(block, lax)
			if err != nil {
				return fmt.Errorf("messages.%d.content.%d: %w", i, j, err)
			}
			if part.Result != nil && !results {
				return fmt.Errorf("messages.%d.content.%d: a tool_result comes after something else", i, j)
			}
			results = part.Result != nil
			if (part.Call != nil || part.Reasoning != nil) && role != model.Assistant || part.Result != nil && role != model.User {
				return fmt.Errorf("messages.%d.content.%d: is not of the role %s", i, j, role)
			}
			seen.add(role, part)
		}
	}
	if cached > 4 {
		return fmt.Errorf("%d blocks are marked for the cache; at most 4 may be", cached)
	}
	if !lax && !marked {
		return errors.New("the end of the last user message is not marked for the cache")
	}
	return nil
}

func anthropicPart(block *anthropic.BetaContentBlockParamUnion, lax bool) (model.Part, error) {
	switch {
	case block.OfText != nil:
		if strings.TrimSpace(block.OfText.Text) == "" {
			return model.Part{}, errors.New("text content blocks must be non-empty")
		}
		return model.Part{Text: block.OfText.Text}, nil
	case block.OfThinking != nil:
		if !lax && block.OfThinking.Signature != seal(block.OfThinking.Thinking) {
			return model.Part{}, errors.New("invalid signature in thinking block")
		}
		return model.Part{Reasoning: &model.Reasoning{Text: block.OfThinking.Thinking, Format: model.Anthropic}}, nil
	case block.OfRedactedThinking != nil:
		return model.Part{Reasoning: &model.Reasoning{Format: model.Anthropic}}, nil
	case block.OfImage != nil:
		picture, err := anthropicPicture(block.OfImage)
		return model.Part{Picture: picture}, err
	case block.OfToolUse != nil:
		raw, err := json.Marshal(block.OfToolUse.Input)
		if err == nil && !strings.HasPrefix(string(raw), "{") {
			err = errors.New("the input is not an object")
		}
		return model.Part{Call: &model.Call{ID: block.OfToolUse.ID, Tool: block.OfToolUse.Name, Arguments: raw, Format: model.Anthropic}}, err
	case block.OfToolResult != nil:
		result := &model.Result{ID: block.OfToolResult.ToolUseID, Failed: block.OfToolResult.IsError.Value}
		for _, content := range block.OfToolResult.Content {
			switch {
			case content.OfText != nil:
				result.Text += content.OfText.Text
			case content.OfImage != nil:
				if result.Failed {
					return model.Part{}, errors.New("a result that is an error may hold nothing but text")
				}
				if result.Picture != nil {
					return model.Part{}, errors.New("a result has two pictures")
				}
				var err error
				if result.Picture, err = anthropicPicture(content.OfImage); err != nil {
					return model.Part{}, err
				}
			}
		}
		return model.Part{Result: result}, nil
	}
	return model.Part{}, errors.New("is of a kind that is not expected")
}

func anthropicPicture(block *anthropic.BetaImageBlockParam) (*model.Picture, error) {
	source := block.Source.OfBase64
	if source == nil {
		return nil, errors.New("the picture is not in base64")
	}
	if len(source.Data) > 5<<20*4/3 {
		return nil, errors.New("image exceeds 5 MB maximum")
	}
	return base64Picture(string(source.MediaType), source.Data)
}

// content is a message's blocks, whole.
func (anthropicWire) content(answer *answer) []dict {
	blocks := []dict{}
	if answer.reasoning != "" {
		blocks = append(blocks, dict{"type": "thinking", "thinking": answer.reasoning, "signature": seal(answer.reasoning)})
	}
	if answer.text != "" {
		blocks = append(blocks, dict{"type": "text", "text": answer.text})
	}
	for _, call := range answer.calls {
		blocks = append(blocks, dict{"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
	}
	return blocks
}

func (w anthropicWire) message(request *Request, answer *answer) dict {
	return dict{
		"id": "msg_" + answer.id, "type": "message", "role": "assistant", "model": request.Model,
		"content": []dict{}, "stop_reason": nil, "stop_sequence": nil,
		"usage": dict{
			"input_tokens": answer.usage.Input, "cache_read_input_tokens": answer.usage.CacheRead,
			"cache_creation_input_tokens": answer.usage.CacheWrite, "output_tokens": 1,
		},
	}
}

var anthropicStops = map[model.Stop]string{
	model.EndTurn: "end_turn", model.ToolUse: "tool_use", model.MaxTokens: "max_tokens", model.Refusal: "refusal",
}

func (w anthropicWire) whole(request *Request, answer *answer) any {
	message := w.message(request, answer)
	message["content"], message["stop_reason"] = w.content(answer), anthropicStops[answer.stop]
	message["usage"].(dict)["output_tokens"] = answer.usage.Output
	return message
}

func (w anthropicWire) events(request *Request, answer *answer) []event {
	events := []event{}
	add := func(kind string, data dict) {
		data["type"] = kind
		events = append(events, event{kind, data})
	}
	add("message_start", dict{"message": w.message(request, answer)})
	add("ping", dict{})
	for i, block := range w.content(answer) {
		delta := func(kind, member string, list []string) {
			for _, piece := range list {
				add("content_block_delta", dict{"index": i, "delta": dict{"type": kind, member: piece}})
			}
		}
		switch block["type"] {
		case "thinking":
			add("content_block_start", dict{"index": i, "content_block": dict{"type": "thinking", "thinking": "", "signature": ""}})
			delta("thinking_delta", "thinking", pieces(answer.reasoning, 12))
			delta("signature_delta", "signature", []string{seal(answer.reasoning)})
		case "text":
			add("content_block_start", dict{"index": i, "content_block": dict{"type": "text", "text": ""}})
			delta("text_delta", "text", pieces(answer.text, 8))
		case "tool_use":
			input := string(block["input"].(json.RawMessage))
			add("content_block_start", dict{"index": i, "content_block": dict{"type": "tool_use", "id": block["id"], "name": block["name"], "input": dict{}}})
			delta("input_json_delta", "partial_json", append([]string{""}, pieces(input, 10)...))
		}
		add("content_block_stop", dict{"index": i})
	}
	add("message_delta", dict{
		"delta": dict{"stop_reason": anthropicStops[answer.stop], "stop_sequence": nil},
		"usage": dict{"output_tokens": answer.usage.Output},
	})
	add("message_stop", dict{})
	return events
}
