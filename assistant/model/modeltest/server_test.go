package modeltest_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

const key = "a-key"

var display = model.Display{Width: 1200, Height: 800}

var paths = map[model.Format]string{
	model.Anthropic: "/v1/messages?beta=true", model.OpenAI: "/v1/responses", model.OpenAIChat: "/v1/chat/completions",
	model.Gemini: "/v1beta/models/gemini-3.5-flash:streamGenerateContent?alt=sse",
}

func pixels(t *testing.T, width, height int) *model.Picture {
	t.Helper()
	var data bytes.Buffer
	if err := png.Encode(&data, image.NewGray(image.Rect(0, 0, width, height))); err != nil {
		t.Fatal(err)
	}
	return &model.Picture{MediaType: "image/png", Data: data.Bytes()}
}

// valid is a request in order, as package model makes it, in the middle of a conversation with calls,
// results and a picture, and its headers.
func valid(t *testing.T, format model.Format, size model.Display) ([]byte, http.Header) {
	t.Helper()
	server := modeltest.New(key, modeltest.Script{Display: &display, Steps: []modeltest.Step{
		{Reasoning: "Hm.", Text: "I look.", Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"ls"}`), modeltest.Computer(`{"type":"click","x":1,"y":2}`)}},
		{Text: "Done."},
	}})
	host := httptest.NewServer(server)
	defer host.Close()
	m, err := model.New(modeltest.Endpoint(format, host.URL, key), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	request := model.Request{
		System: "Work.", Computer: &display, MaxTokens: 100,
		Tools:    []model.Tool{{Name: "bash", Description: "Run.", Schema: json.RawMessage(`{"type":"object","properties":{"command":{"type":"string"}}}`)}},
		Messages: []model.Message{{Role: model.User, Parts: []model.Part{{Text: "Look."}}}},
	}
	first, err := m.Next(t.Context(), request, nil)
	if err != nil {
		t.Fatal(err)
	}
	answer := model.Message{Role: model.User}
	for _, part := range first.Message.Parts {
		if part.Call != nil {
			result := &model.Result{ID: part.Call.ID, Tool: part.Call.Tool, Text: "file"}
			if part.Call.Tool == model.Computer {
				result.Text, result.Picture = "", pixels(t, size.Width, size.Height)
			}
			answer.Parts = append(answer.Parts, model.Part{Result: result})
		}
	}
	request.Messages = append(request.Messages, first.Message, answer)
	m.Next(t.Context(), request, nil) // which may be refused, for the size
	seen := server.Requests()
	if len(seen) != 2 {
		t.Fatalf("%d requests came: %v", len(seen), server.Problems())
	}
	return seen[1].Body, seen[1].Header
}

func post(t *testing.T, server *modeltest.Server, format model.Format, body []byte, header http.Header) (int, string) {
	t.Helper()
	request := httptest.NewRequest(http.MethodPost, paths[format], bytes.NewReader(body))
	request.Header = header.Clone()
	recorder := httptest.NewRecorder()
	server.ServeHTTP(recorder, request)
	return recorder.Code, recorder.Body.String()
}

func fresh() *modeltest.Server {
	return modeltest.New(key, modeltest.Script{Repeat: true, Display: &display, Steps: []modeltest.Step{{Text: "Yes."}}})
}

// TestStrictness spoils a request that is in order, in one way each.
func TestStrictness(t *testing.T) {
	type spoiling struct {
		name, from, to string // in the body; every time it occurs, once at least
		problem        string
	}
	all := []spoiling{
		{"no JSON", "{", "", ""},
	}
	spoilings := map[model.Format][]spoiling{
		model.Anthropic: {
			{"unknown member", `"max_tokens":`, `"max_tokns":1,"max_tokens":`, "max_tokns"},
			{"no max_tokens", `"max_tokens":100`, `"max_tokens":0`, "max_tokens"},
			{"result of no call", `"tool_use_id":"`, `"tool_use_id":"x`, "answers no call"},
			{"nothing cached", `,"cache_control":{"type":"ephemeral"}`, ``, "cache"},
			{"another signature", `"signature":"`, `"signature":"x`, "signature"},
			{"a role", `"role":"assistant"`, `"role":"system"`, "role"},
			{"a tool without zoom's beta", `computer_20251124`, `computer_20250124`, "known"},
			{"a schema that is none", `"type":"object"`, `"type":"array"`, "tools[0]"},
			{"empty text", `"text":"I look."`, `"text":" "`, "non-empty"},
			{"a picture that is none", `"data":"`, `"data":"AAAA`, "decoded"},
			{"another kind of picture", `image/png`, `image/jpeg`, "image/png"},
		},
		model.OpenAI: {
			{"unknown member", `"store":false`, `"store":false,"stor":1`, "stor"},
			{"stored", `"store":false`, `"store":true`, "kept"},
			{"no sealed reasoning", `"reasoning.encrypted_content"`, ``, "include"},
			{"other reasoning", `"encrypted_content":"`, `"encrypted_content":"x`, "verified"},
			{"result of no call", `"output":"file","call_id":"`, `"output":"file","call_id":"x`, "answers no call"},
			{"unknown member within", `"output":"file"`, `"output":"file","namespace":7`, "namespace"},
			{"a picture elsewhere", `data:image/png;base64,`, `https://example.com/`, "data URL"},
			{"too few tokens", `"max_output_tokens":100`, `"max_output_tokens":1`, "16"},
			{"no id", `"id":"cu_`, `"idd":"cu_`, ""},
		},
		model.OpenAIChat: {
			{"unknown member", `"max_tokens":100`, `"max_tokens":100,"n_predict":1`, "n_predict"},
			{"no usage", `"include_usage":true`, `"include_usage":false`, "include_usage"},
			{"result of no call", `"tool_call_id":"`, `"tool_call_id":"x`, "answers no call"},
			{"arguments that are not JSON", `"arguments":"{`, `"arguments":"`, "not JSON"},
			{"a tool's word for the user's", `"role":"tool"`, `"role":"user"`, ""},
			{"no display", `"maximum":1199`, `"maximum":0`, "large"},
		},
		model.Gemini: {
			{"unknown member", `"generationConfig":{`, `"generationConfig":{"maxTokens":1,`, "maxTokens"},
			{"a role", `"role":"model"`, `"role":"assistant"`, "role"},
			{"no signature", `"thoughtSignature":"`, `"thoughtSignature":"AAAA`, "thought_signature"},
			{"result of another", `{"functionResponse":{"id":"`, `{"functionResponse":{"id":"x`, "the call was of"},
			{"result of another function", `"name":"click","parts"`, `"name":"clack","parts"`, "the call was of"},
			{"no url", `"url":"about:blank"`, `"address":""`, "url"},
			{"no environment", `"environment":"ENVIRONMENT_DESKTOP"`, ``, "environment"},
		},
	}
	for _, format := range model.Formats() {
		body, header := valid(t, format, model.Display{Width: 600, Height: 400})
		server := fresh()
		if code, said := post(t, server, format, body, header); code != http.StatusOK || len(server.Problems()) > 0 {
			t.Fatalf("%s: a request in order is answered with %d %s", format, code, said)
		}
		for _, s := range append(all, spoilings[format]...) {
			t.Run(fmt.Sprintf("%s/%s", format, s.name), func(t *testing.T) {
				if !bytes.Contains(body, []byte(s.from)) {
					t.Fatalf("the request has no %s to spoil: %s", s.from, body)
				}
				server := fresh()
				code, said := post(t, server, format, bytes.ReplaceAll(body, []byte(s.from), []byte(s.to)), header)
				problems := server.Problems()
				if code != http.StatusBadRequest || len(problems) != 1 || !strings.Contains(problems[0], s.problem) {
					t.Errorf("answered with %d %s, and the problems are %q", code, said, problems)
				}
				if requests := server.Requests(); len(requests) != 1 || requests[0].Problem == "" {
					t.Errorf("the requests are %+v", requests)
				}
			})
		}
		t.Run(string(format)+"/no result", func(t *testing.T) {
			server := fresh()
			if code, said := post(t, server, format, withoutLast(t, format, body), header); code != http.StatusBadRequest || len(server.Problems()) != 1 {
				t.Errorf("answered with %d %s", code, said)
			}
		})
		t.Run(string(format)+"/another key", func(t *testing.T) {
			server := modeltest.New("another", modeltest.Script{})
			if code, _ := post(t, server, format, body, header); code != http.StatusUnauthorized || len(server.Problems()) != 1 {
				t.Errorf("answered with %d, problems %v", code, server.Problems())
			}
		})
		t.Run(string(format)+"/script is over", func(t *testing.T) {
			server := modeltest.New(key, modeltest.Script{})
			if code, _ := post(t, server, format, body, header); code != http.StatusBadRequest || len(server.Problems()) != 1 {
				t.Errorf("answered with %d, problems %v", code, server.Problems())
			}
		})
	}
	for _, format := range []model.Format{model.Anthropic, model.OpenAIChat} {
		t.Run(string(format)+"/picture larger than the display", func(t *testing.T) {
			body, header := valid(t, format, model.Display{Width: 1201, Height: 100})
			code, said := post(t, fresh(), format, body, header)
			if format == model.OpenAIChat { // there, a picture is the user's and may be any
				if code != http.StatusOK {
					t.Errorf("answered with %d %s", code, said)
				}
			} else if code != http.StatusBadRequest || !strings.Contains(said, "announced") {
				t.Errorf("answered with %d %s", code, said)
			}
		})
	}
}

// withoutLast takes the last message out of a request: the results.
func withoutLast(t *testing.T, format model.Format, body []byte) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(body, &m); err != nil {
		t.Fatal(err)
	}
	name := map[model.Format]string{model.Anthropic: "messages", model.OpenAI: "input", model.OpenAIChat: "messages", model.Gemini: "contents"}[format]
	list := m[name].([]any)
	list = list[:len(list)-1]
	if format == model.OpenAIChat { // there, the last message is the user's with the picture
		list = slices.DeleteFunc(list, func(message any) bool { return message.(map[string]any)["role"] == "tool" })
		list = append(list, map[string]any{"role": "user", "content": "Go on."})
	}
	m[name] = list
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// TestLax takes of other programs what the vendors would take, whole too, and still not everything.
func TestLax(t *testing.T) {
	bodies := map[model.Format]string{
		model.Anthropic:  `{"model":"m","max_tokens":5,"metadata":{"user_id":"x"},"some_beta":true,"system":"Work.","messages":[{"role":"user","content":"Hi"}]}`,
		model.OpenAI:     `{"model":"m","some_beta":true,"input":[{"role":"developer","content":"Work."},{"role":"user","content":[{"type":"input_text","text":"Hi"}]}]}`,
		model.OpenAIChat: `{"model":"m","top_k":4,"messages":[{"role":"system","content":"Work."},{"role":"user","content":"Hi"}]}`,
		model.Gemini:     `{"some":1,"contents":[{"role":"user","parts":[{"text":"Hi"}]}]}`,
	}
	for format, body := range bodies {
		server := fresh()
		server.Lax = true
		header := http.Header{"X-Api-Key": {key}, "Authorization": {"Bearer " + key}, "X-Goog-Api-Key": {key}, "Anthropic-Version": {"2023-06-01"}}
		path := strings.Replace(paths[format], "streamGenerateContent?alt=sse", "generateContent", 1)
		request := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		request.Header = header
		recorder := httptest.NewRecorder()
		server.ServeHTTP(recorder, request)
		if recorder.Code != http.StatusOK || !json.Valid(recorder.Body.Bytes()) || !strings.Contains(recorder.Body.String(), "Yes.") {
			t.Errorf("%s: answered with %d %s", format, recorder.Code, recorder.Body)
		}
		strict := fresh()
		request = httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
		request.Header = header
		recorder = httptest.NewRecorder()
		if strict.ServeHTTP(recorder, request); recorder.Code != http.StatusBadRequest {
			t.Errorf("%s: strictly, it is answered with %d %s", format, recorder.Code, recorder.Body)
		}
	}
}

func TestModels(t *testing.T) {
	host := httptest.NewServer(fresh())
	defer host.Close()
	for _, test := range []struct {
		path, header string
		code         int
		has          string
	}{
		{"/v1/models", "X-Api-Key", 200, `"display_name":"claude-opus-5"`},
		{"/v1/models", "Authorization", 200, `"owned_by"`},
		{"/v1/models/gpt-6", "Authorization", 200, `"id":"gpt-6"`},
		{"/v1/models/none", "Authorization", 404, `error`},
		{"/v1beta/models", "X-Goog-Api-Key", 200, `"name":"models/gemini-3.5-flash"`},
		{"/v1beta/models", "X-Nothing", 401, `UNAUTHENTICATED`},
		{"/elsewhere", "X-Api-Key", 404, ``},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, host.URL+test.path, nil)
		if err != nil {
			t.Fatal(err)
		}
		value := key
		if test.header == "Authorization" {
			value = "Bearer " + key
		}
		request.Header.Set(test.header, value)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || response.StatusCode != test.code || !strings.Contains(string(data), test.has) {
			t.Errorf("%s with %s: %d %s %v", test.path, test.header, response.StatusCode, data, err)
		}
	}
}

func TestScripts(t *testing.T) {
	for _, bad := range []string{`{"step":[]}`, `{"steps":[{"text":"{{line"}]}`, `{"steps":[{"expect":"("}]}`, `[]`} {
		if script, err := modeltest.ReadScript([]byte(bad)); err == nil {
			t.Errorf("%s is read as %+v", bad, script)
		}
	}
	path := filepath.Join(t.TempDir(), "script.json")
	if err := os.WriteFile(path, []byte(`{"display":{"width":10,"height":10},"steps":[{"text":"a","fail":{"kind":"broken","after":2},"calls":[{"tool":"bash","arguments":{"command":"x"}}]}]}`), 0o600); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	script, err := modeltest.ReadScript(data)
	if err != nil || script.Display.Width != 10 || script.Steps[0].Fail.After != 2 || script.Steps[0].Calls[0].Tool != "bash" {
		t.Errorf("%+v, %v", script, err)
	}
}

// TestDemo plays the friendly script with each format, with a guest that only remembers what was
// typed. Two conversations go on side by side.
func TestDemo(t *testing.T) {
	script, err := modeltest.Demo()
	if err != nil {
		t.Fatal(err)
	}
	for i := range script.Steps {
		script.Steps[i].PaceMs = 0
	}
	server := modeltest.New(key, script)
	server.Failf = t.Errorf
	host := httptest.NewServer(server)
	defer host.Close()
	for _, format := range model.Formats() {
		t.Run(string(format), func(t *testing.T) {
			if said, err := model.Check(t.Context(), modeltest.Endpoint(format, host.URL, key), nil, slog.New(slog.DiscardHandler)); err != nil {
				t.Errorf("%q, %v", said, err)
			}
			m, err := model.New(modeltest.Endpoint(format, host.URL, key), nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			request := model.Request{
				System: "Work.", Computer: &display,
				Tools:    []model.Tool{{Name: "bash", Schema: json.RawMessage(`{"type":"object","properties":{"command":{"type":"string"}}}`)}},
				Messages: []model.Message{{Role: model.User, Parts: []model.Part{{Text: "A poem, please."}}}},
			}
			typed, steps := "", 0
			for {
				response, err := m.Next(t.Context(), request, nil)
				if err != nil {
					t.Fatal(err)
				}
				steps++
				request.Messages = append(request.Messages, response.Message)
				if response.Stop == model.EndTurn {
					last := response.Message.Parts[len(response.Message.Parts)-1].Text
					if want := "A window opens in the night,"; !strings.HasSuffix(strings.TrimSpace(last), want) || steps != 5 {
						t.Errorf("after %d steps it says %q", steps, last)
					}
					break
				}
				answer := model.Message{Role: model.User}
				for _, part := range response.Message.Parts {
					if part.Call == nil {
						continue
					}
					result := &model.Result{ID: part.Call.ID, Tool: part.Call.Tool}
					arguments := string(part.Call.Arguments)
					switch {
					case part.Call.Tool == model.Computer:
						if strings.Contains(arguments, "A window opens") {
							typed = "A window opens in the night,"
						}
						result.Picture = pixels(t, 600, 400)
					case strings.Contains(arguments, "sed"):
						result.Text = "exit code 0\n| " + typed + "\n| more"
					default:
						result.Text = "0x01 0 mousepad.Mousepad host poem.txt"
					}
					answer.Parts = append(answer.Parts, model.Part{Result: result})
				}
				request.Messages = append(request.Messages, answer)
			}
		})
	}
}
