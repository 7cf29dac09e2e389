package api

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"bureau/assistant"
	"bureau/desktop"
)

// What this route takes and gives is OpenAI's shape, in OpenAI's spelling. Members that it does not
// know are let pass, since clients of other services send what those know.

// modelPrefix is before the desktop in the name of a model.
const modelPrefix = "bureau/"

type (
	// CompletionRequest is a conversation with a desktop's agent.
	CompletionRequest struct {
		Model    string              `json:"model" doc:"bureau/ and the desktop's id or name" example:"bureau/demo"`
		Messages []CompletionMessage `json:"messages" minItems:"1" maxItems:"10000" doc:"The last one of the user is what the agent is given. A conversation that goes on is known by those before it"`
		Stream   bool                `json:"stream,omitempty"`

		_ struct{} `additionalProperties:"true"`
	}
	// CompletionMessage is one of its messages.
	CompletionMessage struct {
		Role    string            `json:"role" enum:"system,developer,user,assistant,tool,function"`
		Content CompletionContent `json:"content,omitempty"`

		_ struct{} `additionalProperties:"true"`
	}
	// CompletionContent is text, as a string or in parts.
	CompletionContent string

	// Completion is the answer.
	Completion struct {
		ID      string             `json:"id"`
		Object  string             `json:"object" enum:"chat.completion"`
		Created int64              `json:"created"`
		Model   string             `json:"model"`
		Choices []CompletionChoice `json:"choices"`
		Usage   CompletionUsage    `json:"usage"`
		Bureau  CompletionTurn     `json:"bureau" doc:"What bureau knows of it"`
	}
	CompletionChoice struct {
		Index        int               `json:"index"`
		Message      CompletionMessage `json:"message"`
		FinishReason string            `json:"finish_reason" enum:"stop,length,content_filter"`
	}
	CompletionUsage struct {
		Prompt     int64 `json:"prompt_tokens"`
		Completion int64 `json:"completion_tokens"`
		Total      int64 `json:"total_tokens"`
	}
	CompletionTurn struct {
		SessionID  string               `json:"sessionId"`
		TurnID     string               `json:"turnId"`
		StopReason assistant.StopReason `json:"stopReason"`
		Error      string               `json:"error,omitempty"`
	}
)

// UnmarshalJSON takes a string, parts of which those of text count, or null.
func (c *CompletionContent) UnmarshalJSON(data []byte) error {
	var text string
	if json.Unmarshal(data, &text) == nil {
		*c = CompletionContent(text)
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if json.Unmarshal(data, &parts) != nil {
		return errors.New("content: expected a string or a list of parts")
	}
	var texts []string
	for _, part := range parts {
		if part.Type != "text" {
			return fmt.Errorf("content: a part of type %q is not taken; the agent sees its own screen", shorten(part.Type))
		}
		texts = append(texts, part.Text)
	}
	*c = CompletionContent(strings.Join(texts, "\n"))
	return nil
}

// Schema documents both forms; see Wanted.Schema.
func (*CompletionContent) Schema(huma.Registry) *huma.Schema {
	part := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
	return &huma.Schema{Examples: []any{"Open the editor"}, Extensions: map[string]any{"oneOf": []*huma.Schema{
		{Type: huma.TypeString}, {Type: huma.TypeArray, Items: part}, {Type: "null"},
	}}}
}

func (s *Server) completionRoutes() {
	type input struct {
		Body CompletionRequest
	}
	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "createChatCompletion", Method: http.MethodPost, Path: "/v1/chat/completions", Tags: []string{tagChat},
		Summary: "Talk to a desktop's agent in OpenAI's shape",
		Description: "For clients of OpenAI's Chat Completions: the model is `bureau/DESKTOP`. Only its text is taken; tools are the agent's own. " +
			"The turn ends with the connection.",
		MaxBodyBytes: largeBodyLimit,
		Errors:       []int{http.StatusNotFound, http.StatusConflict},
		Responses: map[string]*huma.Response{"200": {Description: "The answer", Content: map[string]*huma.MediaType{
			"application/json": {Schema: s.schema(reflect.TypeFor[Completion]())},
			eventStream:        streamOf("data: {\"object\":\"chat.completion.chunk\"}\n\ndata: [DONE]\n\n"),
		}}},
	}, func(ctx context.Context, in *input) (*bodyAnswer, error) {
		id, err := s.desktopOf(ctx, in.Body.Model)
		if err != nil {
			return nil, err
		}
		prompt, err := in.Body.prompt()
		if err != nil {
			return nil, err
		}
		begun, err := s.assistant.Begin(ctx, callerOf(ctx), id, prompt)
		if err != nil {
			return nil, err
		}
		s.recordTurn(ctx, begun)
		return &bodyAnswer{func(ctx huma.Context) {
			defer s.cancelAbandoned(ctx.Context(), begun)
			if in.Body.Stream {
				s.streamCompletion(ctx, in.Body.Model, begun)
				return
			}
			ended, err := s.assistant.Wait(ctx.Context(), callerOf(ctx.Context()), id, begun.ID)
			if err == nil && ended.StopReason == assistant.Failed {
				err = desktop.Errorf(desktop.Unavailable, "%s", ended.Error)
			}
			if err != nil {
				s.fail(ctx, err)
				return
			}
			respond(ctx, http.StatusOK, Completion{
				ID: "chatcmpl-" + ended.ID, Object: "chat.completion", Created: ended.CreatedAt.Unix(), Model: in.Body.Model,
				Choices: []CompletionChoice{{Message: CompletionMessage{Role: "assistant", Content: CompletionContent(ended.Message)}, FinishReason: finishReason(ended)}},
				Usage:   completionUsage(ended),
				Bureau:  CompletionTurn{ended.SessionID, ended.ID, ended.StopReason, ended.Error},
			})
		}}, nil
	})
}

// desktopOf finds the desktop that a model's name means, by its id or its name.
func (s *Server) desktopOf(ctx context.Context, model string) (string, error) {
	name, ok := strings.CutPrefix(model, modelPrefix)
	if !ok || name == "" {
		return "", desktop.Errorf(desktop.Invalid, "model: expected %sDESKTOP, a desktop's id or name", modelPrefix)
	}
	caller := callerOf(ctx)
	d, err := s.desktops.Get(ctx, caller, name)
	if err == nil {
		about(ctx, d)
	}
	if err == nil || desktop.CodeOf(err) != desktop.NotFound {
		return d.ID, err
	}
	var found []desktop.Desktop
	for page, more := (desktop.Page{Limit: 100}), true; more; {
		var list []desktop.Desktop
		if list, more, err = s.desktops.List(ctx, caller, page); err != nil {
			return "", err
		}
		for _, d := range list {
			if d.Name == name {
				found = append(found, d)
			}
			page.After = d.ID
		}
		more = more && len(list) > 0
	}
	switch len(found) {
	case 0:
		return "", desktop.Errorf(desktop.NotFound, "there is no desktop %s", shorten(name))
	case 1:
		about(ctx, found[0])
		return found[0].ID, nil
	}
	return "", desktop.Errorf(desktop.Conflict, "%d desktops are called %s; give one's id", len(found), shorten(name))
}

const maxEarlier = 50_000 // bytes of a conversation that bureau does not know

// prompt is what the agent is given. OpenAI's clients keep the conversation and send all of it each
// time; bureau's session of it is known by what the user has said so far.
func (r CompletionRequest) prompt() (assistant.Prompt, error) {
	last := len(r.Messages) - 1
	for last >= 0 && r.Messages[last].Role != "user" {
		last--
	}
	if last < 0 || strings.TrimSpace(string(r.Messages[last].Content)) == "" {
		return assistant.Prompt{}, desktop.Errorf(desktop.Invalid, "messages: there is no message of the user")
	}
	prompt := assistant.Prompt{Message: string(r.Messages[last].Content)}
	hash := sha256.New()
	count := 0
	said := func(message CompletionMessage) {
		if message.Role != "assistant" {
			fmt.Fprintf(hash, "%s %d\n%s", message.Role, len(message.Content), message.Content)
		}
	}
	var earlier bytes.Buffer
	for _, message := range r.Messages[:last] {
		said(message)
		if message.Content == "" {
			continue
		}
		if message.Role == "user" {
			count++
		}
		fmt.Fprintf(&earlier, "\n%s: %s\n", message.Role, message.Content)
	}
	if count > 0 {
		prompt.Fingerprint = hex.EncodeToString(hash.Sum(nil))
	}
	if text := earlier.String(); text != "" {
		prompt.Earlier = "<earlier>\nWhat the person's program had said before this message, its own instructions included:\n" +
			strings.ToValidUTF8(text[max(0, len(text)-maxEarlier):], "") + "</earlier>"
	}
	said(r.Messages[last])
	after := hex.EncodeToString(hash.Sum(nil))
	prompt.Leave = func(string) string { return after }
	return prompt, nil
}

func finishReason(t assistant.Turn) string {
	switch t.StopReason {
	case assistant.MaxStepsReached, assistant.MaxTokens, assistant.TimedOut, assistant.BudgetExhausted:
		return "length"
	case assistant.Refusal:
		return "content_filter"
	}
	return "stop"
}

func completionUsage(t assistant.Turn) CompletionUsage {
	read := t.Usage.Input + t.Usage.CacheRead + t.Usage.CacheWrite
	return CompletionUsage{read, t.Usage.Output, read + t.Usage.Output}
}

// streamCompletion sends what the agent says as chunks. What was said cannot be taken back in this shape:
// where an answer broke off and began anew, that is said.
func (s *Server) streamCompletion(ctx huma.Context, model string, t assistant.Turn) {
	type delta struct {
		Role    string `json:"role,omitempty"`
		Content string `json:"content,omitempty"`
	}
	type choice struct {
		Index        int     `json:"index"`
		Delta        delta   `json:"delta"`
		FinishReason *string `json:"finish_reason"`
	}
	type chunk struct {
		ID      string           `json:"id"`
		Object  string           `json:"object"`
		Created int64            `json:"created"`
		Model   string           `json:"model"`
		Choices []choice         `json:"choices"`
		Usage   *CompletionUsage `json:"usage,omitempty"`
		Bureau  *CompletionTurn  `json:"bureau,omitempty"`
		Error   map[string]any   `json:"error,omitempty"`
	}
	send := func(w *eventWriter, c chunk) {
		c.ID, c.Object, c.Created, c.Model = "chatcmpl-"+t.ID, "chat.completion.chunk", t.CreatedAt.Unix(), model
		if c.Choices == nil {
			c.Choices = []choice{}
		}
		data, err := json.Marshal(c)
		if err != nil { // of our own types: cannot be
			panic(err)
		}
		w.write("data: " + string(data) + "\n\n")
	}
	said := func(w *eventWriter, text string) { send(w, chunk{Choices: []choice{{Delta: delta{Content: text}}}}) }
	apart := false // a message has ended: the next text is another one
	s.eachEvent(ctx, t, 0, func(w *eventWriter, event assistant.Event) {
		var data struct {
			Text string `json:"text"`
		}
		switch event.Kind {
		case assistant.EventTurn:
			send(w, chunk{Choices: []choice{{Delta: delta{Role: "assistant"}}}})
		case assistant.EventText:
			if json.Unmarshal(event.Data, &data) != nil || data.Text == "" {
				return
			}
			if apart {
				data.Text, apart = "\n\n"+data.Text, false
			}
			said(w, data.Text)
		case assistant.EventMessage:
			apart = json.Unmarshal(event.Data, &data) == nil && data.Text != ""
		case assistant.EventDiscarded:
			said(w, "\n\n(The answer broke off and begins anew.)\n\n")
		case assistant.EventDone:
			var ended assistant.Turn
			if json.Unmarshal(event.Data, &ended) != nil {
				return
			}
			reason, usage := finishReason(ended), completionUsage(ended)
			last := chunk{Choices: []choice{{FinishReason: &reason}}, Usage: &usage,
				Bureau: &CompletionTurn{ended.SessionID, ended.ID, ended.StopReason, ended.Error}}
			if ended.StopReason == assistant.Failed {
				last.Error = map[string]any{"message": ended.Error, "type": "error"}
			}
			send(w, last)
			w.write("data: [DONE]\n\n")
		}
	})
}
