package modeltest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"google.golang.org/genai"

	"bureau/assistant/model"
)

// geminiWire is Gemini's generateContent.
type geminiWire struct{}

func (geminiWire) key(header http.Header) string { return header.Get("X-Goog-Api-Key") }

// geminiPath takes the model out of a path.
func geminiPath(path string) (name string, stream bool) {
	rest, ok := strings.CutPrefix(path, "/v1beta/models/")
	if !ok {
		return "", false
	}
	if name, ok = strings.CutSuffix(rest, ":streamGenerateContent"); ok {
		return name, true
	}
	name, ok = strings.CutSuffix(rest, ":generateContent")
	if !ok {
		return "", false
	}
	return name, false
}

func (geminiWire) complaint(status int, kind Kind, message string) any {
	name := map[Kind]string{
		Overloaded: "UNAVAILABLE", RateLimited: "RESOURCE_EXHAUSTED", Unauthorized: "UNAUTHENTICATED", Status: "INTERNAL",
	}[kind]
	switch {
	case status == http.StatusNotFound:
		name = "NOT_FOUND"
	case name == "" || kind == Status && status < 500:
		name = "INVALID_ARGUMENT"
	}
	return dict{"error": dict{"code": status, "message": message, "status": name}}
}

// geminiBody is a request; the SDK has types for its members only.
type geminiBody struct {
	Contents          []*genai.Content        `json:"contents,omitempty"`
	SystemInstruction *genai.Content          `json:"systemInstruction,omitempty"`
	Tools             []*genai.Tool           `json:"tools,omitempty"`
	ToolConfig        *genai.ToolConfig       `json:"toolConfig,omitempty"`
	SafetySettings    []*genai.SafetySetting  `json:"safetySettings,omitempty"`
	GenerationConfig  *genai.GenerationConfig `json:"generationConfig,omitempty"`
	CachedContent     string                  `json:"cachedContent,omitempty"`
}

func (geminiWire) read(r *http.Request, body []byte, lax bool, seen *Request) error {
	if seen.Stream && r.URL.Query().Get("alt") != "sse" {
		return errors.New("the stream is not asked for as events (alt=sse)")
	}
	var params geminiBody
	decoder := json.NewDecoder(bytes.NewReader(body))
	if !lax {
		decoder.DisallowUnknownFields()
	}
	if err := decoder.Decode(&params); err != nil {
		return fmt.Errorf("the request is not of the format: %w", err)
	}
	if params.SystemInstruction != nil {
		for _, part := range params.SystemInstruction.Parts {
			seen.System += part.Text
		}
	}
	if params.GenerationConfig != nil {
		seen.MaxTokens = int(params.GenerationConfig.MaxOutputTokens)
	}
	for _, tool := range params.Tools {
		for _, f := range tool.FunctionDeclarations {
			seen.Tools = append(seen.Tools, f.Name)
		}
		if tool.ComputerUse != nil {
			seen.Tools, seen.Computer = append(seen.Tools, model.Computer), &model.Display{}
			if tool.ComputerUse.Environment == "" {
				return errors.New("the environment of computerUse is missing")
			}
		}
	}
	var calls []*model.Call // of the content before
	for i, content := range params.Contents {
		results := 0
		for _, part := range content.Parts {
			if part.FunctionResponse != nil {
				results++
			}
		}
		if len(calls) > 0 && results != len(calls) {
			return fmt.Errorf("contents[%d]: the number of function response parts (%d) is not that of the function call parts before (%d)", i, results, len(calls))
		}
		before := calls
		calls = nil
		for j, part := range content.Parts {
			if err := geminiRead(seen, content.Role, part, lax, &calls, &before); err != nil {
				return fmt.Errorf("contents[%d].parts[%d]: %w", i, j, err)
			}
		}
		if len(content.Parts) == 0 {
			return fmt.Errorf("contents[%d]: has no parts", i)
		}
	}
	return nil
}

func geminiRead(seen *Request, role string, part *genai.Part, lax bool, calls, before *[]*model.Call) error {
	ours := model.User
	switch role {
	case genai.RoleModel:
		ours = model.Assistant
	case genai.RoleUser:
	default:
		return fmt.Errorf("the role is %q", role)
	}
	switch {
	case part.FunctionCall != nil:
		f := part.FunctionCall
		if ours != model.Assistant {
			return errors.New("the user calls a function")
		}
		// The first of a message's calls is signed, by the model or with Google's word for others' calls.
		if signature := string(part.ThoughtSignature); !lax && len(*calls) == 0 && signature != seal(f.Name) && signature != "skip_thought_signature_validator" {
			return fmt.Errorf("the function call %s is missing a thought_signature", f.Name)
		}
		call := &model.Call{ID: f.ID, Tool: f.Name, Format: model.Gemini}
		if call.ID == "" {
			call.ID = fmt.Sprintf("unnamed_%d_%d", len(seen.Messages), len(*calls))
		}
		var err error
		if call.Arguments, err = json.Marshal(f.Args); err != nil {
			return err
		}
		if !contains(seen.Tools, f.Name) {
			call.Tool = model.Computer
			if call.Arguments, err = json.Marshal(dict{"name": f.Name, "args": f.Args}); err != nil {
				return err
			}
		}
		*calls = append(*calls, call)
		seen.add(ours, model.Part{Call: call})
	case part.FunctionResponse != nil:
		f := part.FunctionResponse
		if ours != model.User {
			return errors.New("the model answers a function")
		}
		if len(*before) == 0 {
			return fmt.Errorf("the response of %s answers no call", f.Name)
		}
		call := (*before)[0]
		*before = (*before)[1:]
		name := call.Tool
		var args struct {
			Name string
			Args struct {
				Safety json.RawMessage `json:"safety_decision"`
			}
		}
		if call.Tool == model.Computer {
			if err := json.Unmarshal(call.Arguments, &args); err != nil {
				return err
			}
			name = args.Name
		}
		if f.Name != name || f.ID != "" && f.ID != call.ID {
			return fmt.Errorf("the response is of %s %s, and the call was of %s %s", f.Name, f.ID, name, call.ID)
		}
		result := &model.Result{ID: call.ID, Tool: call.Tool}
		for _, member := range []string{"output", "error"} {
			if text, ok := f.Response[member].(string); ok {
				result.Text, result.Failed = text, member == "error"
			}
		}
		if agreed, _ := f.Response["safety_acknowledgement"].(bool); agreed {
			result.Acknowledged = json.RawMessage("true")
		}
		if len(args.Args.Safety) > 0 && result.Acknowledged == nil {
			return fmt.Errorf("the safety decision of %s is not acknowledged", name)
		}
		for _, p := range f.Parts {
			if p.InlineData == nil {
				return errors.New("a part of the response holds no data")
			}
			result.Picture = &model.Picture{MediaType: p.InlineData.MIMEType, Data: p.InlineData.Data}
		}
		if call.Tool == model.Computer && f.Response["url"] == nil {
			return errors.New("the response of a computer call lacks url")
		}
		seen.add(ours, model.Part{Result: result})
	case part.InlineData != nil:
		seen.add(ours, model.Part{Picture: &model.Picture{MediaType: part.InlineData.MIMEType, Data: part.InlineData.Data}})
	case part.Text != "":
		seen.add(ours, model.Part{Text: part.Text})
	default:
		return errors.New("holds nothing")
	}
	return nil
}

var geminiStops = map[model.Stop]string{
	model.EndTurn: "STOP", model.ToolUse: "STOP", model.MaxTokens: "MAX_TOKENS", model.Refusal: "SAFETY",
}

// parts is the model's content, with its texts in pieces.
func (geminiWire) parts(request *Request, answer *answer, thought, text []string) []dict {
	parts := []dict{}
	for _, piece := range thought {
		parts = append(parts, dict{"text": piece, "thought": true})
	}
	for _, piece := range text {
		parts = append(parts, dict{"text": piece})
	}
	for i, call := range answer.calls {
		f := dict{"name": call.name, "args": call.arguments}
		if !strings.HasPrefix(request.Model, "gemini-2") { // which give no ids
			f["id"] = call.id
		}
		part := dict{"functionCall": f}
		if i == 0 {
			part["thoughtSignature"] = []byte(seal(call.name))
		}
		parts = append(parts, part)
	}
	return parts
}

func (w geminiWire) response(request *Request, answer *answer, parts []dict, last bool) dict {
	candidate := dict{"content": dict{"role": "model", "parts": parts}, "index": 0}
	response := dict{"candidates": []dict{candidate}, "modelVersion": request.Model, "responseId": answer.id}
	if !last {
		return response
	}
	candidate["finishReason"] = geminiStops[answer.stop]
	for _, call := range answer.calls {
		if !json.Valid(call.arguments) { // this format has only whole arguments
			candidate["finishReason"], candidate["content"] = "MALFORMED_FUNCTION_CALL", dict{"role": "model", "parts": []dict{}}
		}
	}
	u := answer.usage
	thoughts := int64(len(answer.reasoning) / 8)
	input := u.Input + u.CacheRead + u.CacheWrite
	response["usageMetadata"] = dict{
		"promptTokenCount": input, "cachedContentTokenCount": u.CacheRead, "candidatesTokenCount": u.Output - thoughts,
		"thoughtsTokenCount": thoughts, "totalTokenCount": input + u.Output,
	}
	return response
}

func (w geminiWire) whole(request *Request, answer *answer) any {
	one := func(s string) []string { return pieces(s, max(1, len(s))) }
	return w.response(request, answer, w.parts(request, answer, one(answer.reasoning), one(answer.text)), true)
}

func (w geminiWire) events(request *Request, answer *answer) []event {
	list := w.parts(request, answer, pieces(answer.reasoning, 12), pieces(answer.text, 8))
	events := []event{}
	for _, part := range list {
		if f, ok := part["functionCall"].(dict); ok && !json.Valid(f["args"].(json.RawMessage)) {
			continue
		}
		events = append(events, event{data: w.response(request, answer, []dict{part}, false)})
	}
	return append(events, event{data: w.response(request, answer, []dict{}, true)})
}
