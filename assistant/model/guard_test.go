package model

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// begun is the beginning of an answer in each format.
var begun = map[Format]string{
	Anthropic:  "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"type\":\"message\",\"role\":\"assistant\",\"content\":[],\"usage\":{\"input_tokens\":1,\"output_tokens\":1}}}\n\n",
	OpenAI:     "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"r\",\"output\":[]}}\n\n",
	OpenAIChat: "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n",
	Gemini:     "data: {\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[{\"text\":\"a\"}]}}]}\n\n",
}

func ask(t *testing.T, format Format, url string, idle time.Duration, most int64) *Error {
	t.Helper()
	c, err := newClient(Endpoint{Format: format, BaseURL: url, Key: "sk-a-key", Model: "m"}, nil, slog.New(slog.DiscardHandler), idle, most)
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Next(t.Context(), Request{Messages: []Message{{User, []Part{{Text: "Hi"}}}}}, nil)
	var failed *Error
	if !errors.As(err, &failed) {
		t.Fatalf("the error is %v", err)
	}
	return failed
}

// TestSilence is of a provider that stops speaking, before its answer and in its middle.
func TestSilence(t *testing.T) {
	for _, format := range Formats() {
		for _, first := range []string{"", begun[format]} {
			t.Run(fmt.Sprintf("%s after %d bytes", format, len(first)), func(t *testing.T) {
				host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					io.Copy(io.Discard, r.Body)
					if first != "" {
						w.Header().Set("Content-Type", "text/event-stream")
						io.WriteString(w, first)
						w.(http.Flusher).Flush()
					}
					<-r.Context().Done()
				}))
				defer host.Close()
				if failed := ask(t, format, host.URL, 50*time.Millisecond, 1<<20); failed.Code != Unreachable || !errors.Is(failed, errIdle) {
					t.Errorf("the error is %v", failed)
				}
			})
		}
	}
}

// TestFlood is of a provider that speaks for ever, in events and without a line's end.
func TestFlood(t *testing.T) {
	for _, format := range Formats() {
		for _, piece := range []string{begun[format], strings.Repeat("data: xxxxxxxx", 100)} {
			host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				if format != Anthropic || !strings.HasPrefix(piece, "event") {
					io.WriteString(w, begun[format])
				}
				for r.Context().Err() == nil {
					if _, err := io.WriteString(w, piece); err != nil {
						return
					}
				}
			}))
			failed := ask(t, format, host.URL, time.Minute, 1<<20)
			host.Close()
			if failed.Code != Malformed || !strings.Contains(failed.Message, "larger than") {
				t.Errorf("%s: the error is %v", format, failed)
			}
		}
	}
}

// TestRedirectsKeepTheKey is of a provider that sends its callers, and their key, elsewhere.
func TestRedirectsKeepTheKey(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t.Errorf("the request followed, with %v", r.Header)
	}))
	defer elsewhere.Close()
	for _, format := range Formats() {
		for _, status := range []int{http.StatusFound, http.StatusTemporaryRedirect} {
			host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, elsewhere.URL, status)
			}))
			if failed := ask(t, format, host.URL, time.Minute, 1<<20); failed.Code != Invalid || failed.Status != status {
				t.Errorf("%s: the error is %v", format, failed)
			}
			host.Close()
		}
	}
}

// TestHostileAnswers are answers of shapes that no vendor sends; none may bring the program down.
func TestHostileAnswers(t *testing.T) {
	datas := []string{
		`null`, `[]`, `"text"`, `17`, `{}`, `{"error":null}`, `{"error":"no"}`, `{"error":{"code":"x"}}`,
		`{"candidates":"x"}`, `{"candidates":[null]}`, `{"candidates":[{"content":{"parts":[null]}}]}`,
		`{"candidates":[{"content":{"parts":[{"functionCall":"x"}]}}]}`, `{"candidates":[{"content":[]}]}`,
		`{"choices":[{"delta":{"tool_calls":[{"index":-1}]},"finish_reason":"tool_calls"}]}`, `{"choices":[null]}`, `{"choices":{}}`,
		`{"type":"content_block_delta","index":99,"delta":{"type":"text_delta","text":"x"}}`,
		`{"type":"content_block_delta","index":-1,"delta":{"type":"input_json_delta","partial_json":"x"}}`,
		`{"type":"content_block_start","index":7,"content_block":{}}`, `{"type":"message_stop"}`, `{"type":"message_start","message":null}`,
		`{"type":"response.failed","response":null}`, `{"type":"response.failed","response":{"error":null}}`, `{"type":"response.failed"}`,
		`{"type":"response.output_item.done","item":null}`, `{"type":"response.completed","response":{"output":[{"type":"computer_call"}]}}`,
		`{"type":"response.completed","response":{"output":[{"type":"function_call","arguments":7}]}}`, `{"type":"error"}`,
	}
	for _, format := range Formats() {
		for _, data := range datas {
			host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				var kind string
				if _, rest, ok := strings.Cut(data, `"type":"`); ok {
					kind, _, _ = strings.Cut(rest, `"`)
				}
				if format == Anthropic || format == OpenAI {
					fmt.Fprintf(w, "event: %s\n", kind)
				}
				fmt.Fprintf(w, "data: %s\n\n", data)
			}))
			c, err := newClient(Endpoint{Format: format, BaseURL: host.URL, Key: "sk-a-key", Model: "m"}, nil, slog.New(slog.DiscardHandler), time.Minute, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			response, err := c.Next(t.Context(), Request{Messages: []Message{{User, []Part{{Text: "Hi"}}}}, Computer: &Display{10, 10}}, nil)
			var failed *Error
			if err != nil && !errors.As(err, &failed) {
				t.Errorf("%s answers %s: the error is %v", format, data, err)
			}
			if err == nil {
				for _, part := range response.Message.Parts {
					if part.Call != nil && !wellFormed(part.Call) {
						t.Errorf("%s answers %s: the call %s", format, data, part.Call.Arguments)
					}
				}
			}
			host.Close()
		}
	}
}

func TestBaseURLs(t *testing.T) {
	paths := map[Format]string{
		Anthropic: "/v1/messages", OpenAI: "/v1/responses", OpenAIChat: "/v1/chat/completions", Gemini: "/v1beta/models/m:streamGenerateContent",
	}
	var asked string
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked = r.URL.Path
		w.WriteHeader(http.StatusTeapot)
	}))
	defer host.Close()
	for format, path := range paths {
		version := "/v1"
		if format == Gemini {
			version = "/v1beta"
		}
		for given, want := range map[string]string{
			"": path, "/": path, version: path, version + "/": path, "/proxy" + version: "/proxy" + path,
		} {
			ask(t, format, host.URL+given, time.Minute, 1<<20)
			if asked != want {
				t.Errorf("%s with the base %q asks %s, not %s", format, given, asked, want)
			}
		}
	}
	for _, bad := range []string{"ftp://host", "host:80", "https://", "https://user:word@host", "https://host/?key=1", "https://host/#x", "::"} {
		_, err := New(Endpoint{Format: OpenAI, BaseURL: bad, Model: "m"}, nil, slog.New(slog.DiscardHandler))
		var failed *Error
		if !errors.As(err, &failed) || failed.Code != Invalid {
			t.Errorf("the base %q: %v", bad, err)
		}
	}
	for _, bad := range []Endpoint{{}, {Format: "smoke", Model: "m"}, {Format: OpenAI}, {Format: Gemini, Model: "m"}, {Format: OpenAI, Model: "m", Key: "a\nb"}} {
		if _, err := New(bad, nil, slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

// TestEnvironmentIsNotRead sets what the SDKs would read of it.
func TestEnvironmentIsNotRead(t *testing.T) {
	stranger := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { t.Errorf("the environment's host is asked") }))
	defer stranger.Close()
	for _, name := range []string{"ANTHROPIC_BASE_URL", "OPENAI_BASE_URL", "GOOGLE_GEMINI_BASE_URL", "GOOGLE_VERTEX_BASE_URL"} {
		t.Setenv(name, stranger.URL)
	}
	for _, name := range []string{"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "GEMINI_API_KEY"} {
		t.Setenv(name, "strange")
	}
	t.Setenv("OPENAI_CUSTOM_HEADERS", "X-Strange: strange")
	t.Setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Strange: strange")
	t.Setenv("GOOGLE_GENAI_USE_VERTEXAI", "true")
	host := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s := fmt.Sprint(r.Header); strings.Contains(s, "strange") {
			t.Errorf("the environment is in the request: %s", s)
		}
		w.WriteHeader(http.StatusTeapot)
	}))
	defer host.Close()
	for _, format := range Formats() {
		for _, key := range []string{"sk-a-key", ""} {
			c, err := newClient(Endpoint{Format: format, BaseURL: host.URL, Key: key, Model: "m"}, nil, slog.New(slog.DiscardHandler), time.Minute, 1<<20)
			if format == Gemini && key == "" {
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			_, err = c.Next(t.Context(), Request{Messages: []Message{{User, []Part{{Text: "Hi"}}}}}, nil)
			var failed *Error
			if !errors.As(err, &failed) || failed.Status != http.StatusTeapot {
				t.Errorf("%s with the key %q: %v", format, key, err)
			}
		}
	}
}

// TestComplaints are the vendors' own words, as they were seen.
func TestComplaints(t *testing.T) {
	tests := []struct {
		status int
		body   string
		code   Code
	}{
		{400, `{"type":"error","error":{"type":"invalid_request_error","message":"input length and ` + "`max_tokens`" + ` exceed context limit: 199000 + 8192 > 200000"}}`, ContextOverflow},
		{413, `{"type":"error","error":{"type":"request_too_large","message":"Request exceeds the maximum size"}}`, ContextOverflow},
		{400, `{"error":{"message":"This model's maximum context length is 4096 tokens.","type":"BadRequestError","code":400}}`, ContextOverflow},
		{400, `{"error":{"code":400,"message":"request (5000 tokens) exceeds the available context size (4096 tokens)","type":"exceed_context_size_error"}}`, ContextOverflow},
		{400, `{"error":{"code":400,"message":"Request payload size exceeds the limit: 20971520 bytes.","status":"INVALID_ARGUMENT"}}`, ContextOverflow},
		{400, `{"type":"error","error":{"type":"invalid_request_error","message":"messages.3.content.0.image.source.base64.data: At least one of the image dimensions exceed max allowed size: 8000 pixels"}}`, PictureTooLarge},
		{400, `{"type":"error","error":{"type":"invalid_request_error","message":"At least one of the image dimensions exceed max allowed size for many-image requests: 2000 pixels"}}`, PictureTooLarge},
		{400, `{"error":{"message":"Invalid image.","type":"invalid_request_error","code":"image_file_too_large"}}`, PictureTooLarge},
		{400, `{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT","details":[{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"API_KEY_INVALID"}]}}`, Unauthorized},
		{400, `[{"error":{"code":400,"message":"API key not valid.","status":"INVALID_ARGUMENT","details":[{"reason":"API_KEY_INVALID"}]}}]`, Unauthorized},
		{429, `{"error":{"message":"You exceeded your current quota","type":"insufficient_quota","code":"insufficient_quota"}}`, RateLimited},
		{402, `{"error":{"message":"Insufficient credits","code":402}}`, RateLimited},
		{0, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, Overloaded},
		{0, `{"error":{"code":503,"message":"The model is overloaded.","status":"UNAVAILABLE"}}`, Overloaded},
		{0, `{"error":{"code":"rate_limit_exceeded","message":"Slow down"}}`, RateLimited},
		{0, `{"type":"error","code":"context_length_exceeded","message":"Your input exceeds the context window of this model."}`, ContextOverflow},
		{404, `{"error":"model 'x' not found"}`, Invalid},
		{404, `404 page not found`, Invalid},
		{400, `{"object":"error","message":"bad","type":"BadRequestError"}`, Invalid},
		{422, `{"detail":"field required"}`, Invalid},
		{400, `{"error":{"message":"Unsupported image type","type":"invalid_request_error"}}`, Invalid},
		{502, `<html>Bad gateway</html>`, Overloaded},
		{418, ``, Invalid},
	}
	for _, test := range tests {
		err := classify(test.status, nil, []byte(test.body))
		if err.Code != test.code || err.Message == "" {
			t.Errorf("%d %s is %+v, not %s", test.status, test.body, err, test.code)
		}
	}
	for _, said := range []string{"bad key sk-proj-abc***********xyz", "key AIzaSyD-123456 is wrong", "my-own-key is wrong"} {
		if got := redact(said, "my-own-key"); !strings.Contains(got, "[key]") || strings.Contains(got, "abc") || strings.Contains(got, "SyD") {
			t.Errorf("%q becomes %q", said, got)
		}
	}
}

func TestComputerTools(t *testing.T) {
	for name, want := range map[string]string{
		"claude-opus-5": "computer_20251124", "claude-opus-4-5": "computer_20251124", "claude-opus-4-5-20251101": "computer_20251124",
		"claude-sonnet-4-6": "computer_20251124", "claude-haiku-5-5": "computer_20251124", "a-name-of-ones-own": "computer_20251124",
		"claude-sonnet-4-5": "computer_20250124", "claude-haiku-4-5-20251001": "computer_20250124", "claude-opus-4-1-20250805": "computer_20250124",
		"claude-sonnet-4-20250514": "computer_20250124", "anthropic/claude-3.7-sonnet": "computer_20250124", "claude-3-5-sonnet-20241022": "computer_20241022",
		"anthropic/claude-sonnet-4": "computer_20250124", "anthropic/claude-opus-4.6": "computer_20251124",
	} {
		tool, beta := (&messages{model: name, own: !strings.Contains(name, "/")}).computer(&Display{1200, 800})
		if got := *tool.GetType(); got != want || !strings.HasSuffix(strings.ReplaceAll(string(beta), "-", ""), want[len("computer_"):]) {
			t.Errorf("%s gets %s with %s, not %s", name, got, beta, want)
		}
	}
	if tool, beta := (&messages{model: "glm-6"}).computer(&Display{1200, 800}); tool.OfTool == nil || tool.OfTool.Name != Computer || beta != "" {
		t.Error("a model of another maker does not get a function")
	}
	for name, want := range map[string]string{
		"gemini-2.5-computer-use-preview-10-2025": "ENVIRONMENT_BROWSER", "gemini-3-flash-preview": "ENVIRONMENT_BROWSER",
		"gemini-3.5-flash": "ENVIRONMENT_DESKTOP", "gemini-4-pro": "ENVIRONMENT_DESKTOP", "gemini-flash-latest": "ENVIRONMENT_DESKTOP",
	} {
		config := (&generateContent{model: name}).config(Request{Computer: &Display{1200, 800}})
		if got := string(config.Tools[0].ComputerUse.Environment); got != want {
			t.Errorf("%s gets %s, not %s", name, got, want)
		}
	}
	if tools := (&openaiResponses{model: "computer-use-preview-2025-03-11"}).params(Request{Computer: &Display{1200, 800}}); tools.Tools[0].OfComputerUsePreview == nil || tools.Truncation != "auto" {
		t.Error("the preview does not get its tool")
	}
	if p := (&openaiResponses{model: "gpt-4.1"}).params(Request{}); len(p.Include) != 0 {
		t.Error("a model that does not reason is asked for its reasoning")
	}
}
