package dialect

import (
	"encoding/base64"
	"encoding/json"
	"fmt"

	"bureau/desktop"
)

// Outcome is what came of a call.
type Outcome struct {
	// Picture is an encoded picture, of the display or of the part that was asked for; nil when
	// none was taken.
	Picture   []byte
	MediaType string         // of the picture; image/png when empty
	Cursor    *desktop.Point // where the pointer is, in real pixels
	Text      string         // what else there is to say, such as a command's output
	Err       error          // why it was not done, nil when it was
	// Acknowledged says that a person has agreed to what the vendor had doubts about.
	Acknowledged bool
	// URL is the page that a browser shows, for Gemini, which asks for it; about:blank when empty.
	URL string
}

// dict is a JSON object.
type dict = map[string]any

// Result is the call's result in the form that its vendor expects, to be given to the model as it is.
// It is one JSON object, except where an error has no place in OpenAI's form: then a message with the
// reason follows.
//
//   - bureau: the outcome's text, error, cursor and picture.
//   - Anthropic: a tool_result block with the text and the picture as its content.
//   - OpenAI: a computer_call_output with the picture as a data URL. There must be a picture.
//   - Gemini: a functionResponse with the picture as a part, or a function_result step where a
//     function_call step had come.
func (c *Call) Result(o Outcome) ([]json.RawMessage, error) {
	if o.MediaType == "" {
		o.MediaType = "image/png"
	}
	if o.Cursor != nil {
		at := c.mapping.FromReal(*o.Cursor)
		o.Cursor = &at
	}
	var parts []any
	switch c.dialect {
	case Anthropic:
		parts = []any{c.anthropicResult(o)}
	case OpenAI:
		if o.Picture == nil {
			return nil, desktop.Errorf(desktop.Internal, "the result of an OpenAI computer call is a picture, and there is none")
		}
		parts = c.openaiResult(o)
	case Gemini:
		parts = []any{c.geminiResult(o)}
	default:
		parts = []any{bureauResult(o)}
	}
	results := make([]json.RawMessage, len(parts))
	for i := range parts {
		raw, err := json.Marshal(parts[i])
		if err != nil {
			return nil, fmt.Errorf("writing the result of %s: %w", c.Name, err)
		}
		results[i] = raw
	}
	return results, nil
}

// text is what the outcome says in words.
func (o Outcome) text() string {
	text := o.Text
	add := func(s string) {
		if text != "" {
			text += "\n"
		}
		text += s
	}
	if o.Cursor != nil {
		add(fmt.Sprintf("X=%d,Y=%d", o.Cursor.X, o.Cursor.Y))
	}
	if o.Err != nil {
		add(o.Err.Error())
	}
	return text
}

func bureauResult(o Outcome) dict {
	result := dict{}
	if o.Text != "" {
		result["text"] = o.Text
	}
	if o.Err != nil {
		result["error"] = o.Err.Error()
	}
	if o.Cursor != nil {
		result["cursor"] = o.Cursor
	}
	if o.Picture != nil {
		result["picture"] = dict{"mediaType": o.MediaType, "data": o.Picture}
	}
	return result
}

func (c *Call) anthropicResult(o Outcome) dict {
	content := []any{}
	if text := o.text(); text != "" {
		content = append(content, dict{"type": "text", "text": text})
	}
	// A result that is an error may hold nothing but text.
	if o.Picture != nil && o.Err == nil {
		content = append(content, dict{"type": "image", "source": dict{
			"type": "base64", "media_type": o.MediaType, "data": o.Picture,
		}})
	}
	result := dict{"type": "tool_result", "content": content}
	if c.ID != "" {
		result["tool_use_id"] = c.ID
	}
	if c.toolset != "" {
		result["toolset_name"] = c.toolset
	}
	if o.Err != nil {
		result["is_error"] = true
	}
	return result
}

func (c *Call) openaiResult(o Outcome) []any {
	result := dict{"type": "computer_call_output", "output": dict{
		"type": "computer_screenshot", "image_url": dataURL(o.MediaType, o.Picture),
	}}
	if c.ID != "" {
		result["call_id"] = c.ID
	}
	if c.Safety != nil && o.Acknowledged {
		result["acknowledged_safety_checks"] = c.Safety.checks
	}
	text := o.text()
	if text == "" {
		return []any{result}
	}
	if o.Err != nil {
		result["status"] = "incomplete"
	}
	return []any{result, dict{"type": "message", "role": "user", "content": []any{
		dict{"type": "input_text", "text": text},
	}}}
}

func (c *Call) geminiResult(o Outcome) dict {
	response := dict{"url": "about:blank"}
	if o.URL != "" {
		response["url"] = o.URL
	}
	if o.Err != nil {
		response["error"] = o.Err.Error()
		o.Err = nil
	}
	if text := o.text(); text != "" {
		response["output"] = text
	}
	if c.Safety != nil && o.Acknowledged {
		response["safety_acknowledgement"] = true
	}
	if c.form == functionStep {
		return c.geminiStep(o, response)
	}
	result := dict{"name": c.Name, "response": response}
	if c.ID != "" {
		result["id"] = c.ID
	}
	if o.Picture != nil {
		result["parts"] = []any{dict{"inlineData": dict{"mimeType": o.MediaType, "data": o.Picture}}}
	}
	return dict{"functionResponse": result}
}

func (c *Call) geminiStep(o Outcome, response dict) dict {
	said, _ := json.Marshal(response) // strings and a bool
	content := []any{dict{"type": "text", "text": string(said)}}
	if o.Picture != nil {
		content = append(content, dict{"type": "image", "mime_type": o.MediaType, "data": o.Picture})
	}
	result := dict{"type": "function_result", "name": c.Name, "call_id": c.ID, "result": content}
	if response["error"] != nil {
		result["is_error"] = true
	}
	return result
}

func dataURL(mediaType string, data []byte) string {
	head := "data:" + mediaType + ";base64,"
	buf := make([]byte, len(head), len(head)+base64.StdEncoding.EncodedLen(len(data)))
	copy(buf, head)
	return string(base64.StdEncoding.AppendEncode(buf, data))
}
