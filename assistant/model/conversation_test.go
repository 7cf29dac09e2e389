package model_test

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"image/png"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
	"bureau/desktop"
	"bureau/desktop/dialect"
)

const key = "sk-secret-0123456789"

// dialects are the words that each format's calls of the computer come in.
var dialects = map[model.Format]dialect.Name{
	model.Anthropic: dialect.Anthropic, model.OpenAI: dialect.OpenAI, model.OpenAIChat: dialect.Bureau, model.Gemini: dialect.Gemini,
}

var display = model.Display{Width: 1200, Height: 800}

// serve is a scripted server whose problems fail the test, and its URL.
func serve(t testing.TB, steps ...modeltest.Step) (*modeltest.Server, string) {
	t.Helper()
	server := modeltest.New(key, modeltest.Script{Display: &display, Steps: steps})
	server.Failf = t.Errorf
	host := httptest.NewServer(server)
	t.Cleanup(host.Close)
	return server, host.URL
}

func newModel(t testing.TB, endpoint model.Endpoint) model.Model {
	t.Helper()
	m, err := model.New(endpoint, &http.Client{}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func each(t *testing.T, test func(t *testing.T, format model.Format)) {
	for _, format := range model.Formats() {
		t.Run(string(format), func(t *testing.T) { test(t, format) })
	}
}

func picture(t testing.TB, width, height int) *model.Picture {
	t.Helper()
	var data bytes.Buffer
	if err := png.Encode(&data, image.NewRGBA(image.Rect(0, 0, width, height))); err != nil {
		t.Fatal(err)
	}
	return &model.Picture{MediaType: "image/png", Data: data.Bytes(), Width: width, Height: height}
}

func request(text string) model.Request {
	return model.Request{
		System:   "You work on a desktop.",
		Messages: []model.Message{{Role: model.User, Parts: []model.Part{{Text: text}}}},
		Tools: []model.Tool{
			{Name: "bash", Description: "Run a command.", Schema: json.RawMessage(`{"type":"object","properties":{"command":{"type":"string"}},"required":["command"],"additionalProperties":false}`)},
			{Name: "edit", Description: "Edit a file.", Schema: json.RawMessage(`{"type":"object","properties":{"path":{"type":"string"},"text":{"type":"string"}},"required":["path"]}`)},
		},
		Computer:  &display,
		MaxTokens: 4000,
	}
}

// story is what was told of a message, put together again.
type story struct {
	text, reasoning string
	order           []string // kinds as they begin
	arguments       map[string]string
	deltas          int
}

func (s *story) tell(d model.Delta) {
	s.deltas++
	kind := "text"
	switch {
	case d.Reasoning != "":
		kind = "reasoning"
		s.reasoning += d.Reasoning
	case d.Call != nil:
		kind = d.Call.Tool + " " + d.Call.ID
		if s.arguments == nil {
			s.arguments = map[string]string{}
		}
		s.arguments[d.Call.ID] += d.Call.Arguments
	default:
		s.text += d.Text
	}
	if len(s.order) == 0 || s.order[len(s.order)-1] != kind {
		s.order = append(s.order, kind)
	}
}

// calls are the calls of a message.
func calls(message model.Message) (list []*model.Call) {
	for _, part := range message.Parts {
		if part.Call != nil {
			list = append(list, part.Call)
		}
	}
	return list
}

// results answers all calls: those of the computer with a picture.
func results(t testing.TB, message model.Message, text string) model.Message {
	answer := model.Message{Role: model.User}
	for _, call := range calls(message) {
		result := &model.Result{ID: call.ID, Tool: call.Tool, Text: text}
		if call.Tool == model.Computer {
			result.Text, result.Picture = "", picture(t, 600, 400)
		}
		answer.Parts = append(answer.Parts, model.Part{Result: result})
	}
	return answer
}

// asked asks and keeps the answer in the conversation.
func asked(t testing.TB, m model.Model, r *model.Request, told *story) model.Response {
	t.Helper()
	var tell func(model.Delta)
	if told != nil {
		tell = told.tell
	}
	response, err := m.Next(t.Context(), *r, tell)
	if err != nil {
		t.Fatalf("asking: %v", err)
	}
	r.Messages = append(r.Messages, response.Message)
	// What is kept between requests is JSON.
	raw, err := json.Marshal(r.Messages)
	if err != nil {
		t.Fatal(err)
	}
	r.Messages = nil
	if err := json.Unmarshal(raw, &r.Messages); err != nil {
		t.Fatal(err)
	}
	return response
}

// TestConversation goes through all that a turn is made of, with each format.
func TestConversation(t *testing.T) {
	each(t, func(t *testing.T, format model.Format) {
		server, url := serve(t,
			modeltest.Step{Reasoning: "The editor has to be opened first.", Text: "I open the editor.", Calls: []modeltest.Call{
				modeltest.Use("bash", `{"command":"mousepad &"}`),
				modeltest.Computer(`{"type":"screenshot"}`),
			}},
			modeltest.Step{Reasoning: "Now I write.", Calls: []modeltest.Call{modeltest.Computer(`[
				{"type":"click","x":300,"y":200},{"type":"type","text":"A poem"},{"type":"key","key":"ctrl+s"}]`)}},
			modeltest.Step{Text: "I read it back.", Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"cat poem"}`), modeltest.Use("edit", `{"path":"poem"}`)}},
			modeltest.Step{Text: `The first line is “{{line 1 .Result}}”.`, Expect: "A poem"},
		)
		m := newModel(t, modeltest.Endpoint(format, url, key))
		r := request("Write a poem.")
		var told story

		first := asked(t, m, &r, &told)
		if first.Stop != model.ToolUse || first.Message.Role != model.Assistant || first.Model != modeltest.Endpoint(format, url, key).Model {
			t.Fatalf("the first answer is %+v", first)
		}
		if told.text != "I open the editor." || told.reasoning != "The editor has to be opened first." {
			t.Errorf("told were %q and %q", told.text, told.reasoning)
		}
		made := calls(first.Message)
		if len(made) != 2 || made[0].Tool != "bash" || made[1].Tool != model.Computer {
			t.Fatalf("the calls are %+v", made)
		}
		if want := []string{"reasoning", "text", "bash " + made[0].ID, "computer " + made[1].ID}; !slices.Equal(told.order, want) {
			t.Errorf("told in the order %v, not %v", told.order, want)
		}
		if got := told.arguments[made[0].ID]; got != `{"command":"mousepad &"}` && got != `{"command":"mousepad \u0026"}` {
			t.Errorf("the arguments were told as %s", got)
		}
		if told.deltas < 10 {
			t.Errorf("only %d deltas: it does not stream", told.deltas)
		}
		for _, part := range first.Message.Parts {
			if part.Reasoning != nil && part.Reasoning.Text != "" && part.Reasoning.Text != told.reasoning {
				t.Errorf("the reasoning is %+v", part.Reasoning)
			}
		}

		r.Messages = append(r.Messages, results(t, first.Message, "started"))
		second := asked(t, m, &r, nil)
		var did []string
		for _, call := range calls(second.Message) {
			batch, err := dialect.Decode(call.Arguments, dialects[format], dialect.Mapping{
				Real: desktop.Size{Width: 2400, Height: 1600}, Announced: desktop.Size{Width: display.Width, Height: display.Height},
			})
			if err != nil {
				t.Fatalf("the computer's call %s: %v", call.Arguments, err)
			}
			for _, c := range batch.Calls {
				for _, step := range c.Steps {
					switch {
					case step.Act.Click != nil:
						if x, y := *step.Act.Click.X, *step.Act.Click.Y; x < 598 || x > 604 || y < 398 || y > 404 {
							t.Errorf("it clicks at %d,%d", x, y)
						}
						did = append(did, "click")
					case step.Act.Type != nil:
						did = append(did, step.Act.Type.Text)
					case step.Act.Press != nil:
						did = append(did, strings.ToLower(step.Act.Press.Keys[0]))
					}
				}
			}
		}
		if want := []string{"click", "A poem", "ctrl+s"}; !slices.Equal(did, want) {
			t.Errorf("on the computer it did %v, not %v", did, want)
		}

		r.Messages = append(r.Messages, results(t, second.Message, ""))
		third := asked(t, m, &r, nil)
		r.Messages = append(r.Messages, results(t, third.Message, "A poem\nof two lines"))
		last := asked(t, m, &r, nil)
		if last.Stop != model.EndTurn || last.Message.Parts[0].Text != "The first line is “A poem”." {
			t.Errorf("the last answer is %+v", last)
		}
		seen := server.Requests()
		if server.Left() != 0 || len(seen) != 4 {
			t.Errorf("%d requests, and %d steps are left", len(seen), server.Left())
		}
		if n := len(seen[3].Pictures()); n != 1+len(calls(second.Message)) {
			t.Errorf("the last request has %d pictures", n)
		}
		for i, response := range []model.Response{first, second, third, last} {
			if response.Usage != seen[i].Usage {
				t.Errorf("the usage of answer %d is %+v, not %+v", i, response.Usage, seen[i].Usage)
			}
		}
		if last.Usage.CacheRead == 0 || last.Usage.Input <= 0 {
			t.Errorf("nothing was read from the cache: %+v", last.Usage)
		}
		reasoned := 0
		for _, message := range seen[2].Messages {
			for _, part := range message.Parts {
				if part.Reasoning != nil {
					reasoned++
				}
			}
		}
		if format != model.Gemini && reasoned != 2 { // Gemini's comes back as signatures, which the server checks
			t.Errorf("the reasoning came back %d times, not twice", reasoned)
		}
	})
}

// TestAnthropicOfOthers is a model that speaks Anthropic's format and knows nothing of its computer
// tool.
func TestAnthropicOfOthers(t *testing.T) {
	server, url := serve(t,
		modeltest.Step{Calls: []modeltest.Call{modeltest.Computer(`{"type":"click","x":300,"y":200}`)}},
		modeltest.Step{Text: "Done."},
	)
	endpoint := modeltest.Endpoint(model.Anthropic, url, key)
	endpoint.Model = "glm-6"
	m := newModel(t, endpoint)
	r := request("Click.")
	first := asked(t, m, &r, nil)
	made := calls(first.Message)
	if len(made) != 1 || made[0].Tool != model.Computer {
		t.Fatalf("%+v", first)
	}
	if _, err := dialect.Decode(made[0].Arguments, dialect.Anthropic, dialect.Mapping{
		Real: desktop.Size{Width: 1200, Height: 800}, Announced: desktop.Size{Width: 1200, Height: 800},
	}); err != nil {
		t.Error(err)
	}
	r.Messages = append(r.Messages, results(t, first.Message, ""))
	asked(t, m, &r, nil)
	if beta := server.Requests()[0].Header.Get("Anthropic-Beta"); beta != "" {
		t.Errorf("it is asked with the beta %s", beta)
	}
}

func TestCheck(t *testing.T) {
	each(t, func(t *testing.T, format model.Format) {
		_, url := serve(t, modeltest.Step{Text: "OK"})
		endpoint := modeltest.Endpoint(format, url, key)
		said, err := model.Check(context.Background(), endpoint, nil, slog.New(slog.DiscardHandler))
		if err != nil || said != "The model "+endpoint.Model+" answers." {
			t.Errorf("%q, %v", said, err)
		}
	})
}
