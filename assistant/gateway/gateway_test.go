package gateway

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
)

const (
	secret   = "sk-secret-0123456789-abcdef"
	patience = 20 * time.Second
)

// bench is a gateway between a guest and a provider that does as it is told.
type bench struct {
	t       *testing.T
	url     string // of the gateway, as the guest reaches it
	gateway *Gateway
	logs    *lockedBuffer

	mu      sync.Mutex
	asked   []*http.Request // what the provider got, bodies read
	bodies  []string
	answer  http.HandlerFunc // the provider's
	allowed error            // what Allow says
	used    chan used
	chains  map[model.Format][]model.Endpoint
}

type used struct {
	owner, desktopID string
	endpoint         model.Endpoint
	usage            model.Usage
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func newBench(t *testing.T, change func(*Options)) *bench {
	b := &bench{t: t, logs: &lockedBuffer{}, used: make(chan used, 100), chains: map[model.Format][]model.Endpoint{}}
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		b.mu.Lock()
		b.asked, b.bodies = append(b.asked, r), append(b.bodies, string(body))
		answer := b.answer
		b.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(provider.Close)
	for _, f := range model.Formats() {
		b.chains[f] = []model.Endpoint{{Format: f, BaseURL: provider.URL + "/base", Key: secret, Model: "main", Provider: "prv-1"}}
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	t.Cleanup(client.CloseIdleConnections)
	o := Options{Providers: b, Meter: b, Client: func(model.Endpoint) *http.Client { return client },
		Owner: func(_ context.Context, id string) (string, error) { return "owner of " + id, nil },
		Log:   slog.New(slog.NewTextHandler(b.logs, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&o)
	}
	b.gateway = New(o)
	b.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{}`)
	})
	return b
}

// serve starts the gateway; its limits may be changed until then.
func (b *bench) serve() *bench {
	guest := httptest.NewUnstartedServer(b.gateway.For("dt-1"))
	guest.Config.MaxHeaderBytes = 16 << 10
	guest.Config.ReadHeaderTimeout = patience
	guest.Config.ErrorLog = slog.NewLogLogger(b.gateway.log.Handler(), slog.LevelDebug)
	guest.Start()
	b.t.Cleanup(guest.Close)
	b.url = guest.URL
	return b
}

func (b *bench) Chains(_ context.Context, _, _ string, formats ...model.Format) ([][]model.Endpoint, error) {
	for _, f := range formats {
		if chain := b.chains[f]; chain != nil {
			return [][]model.Endpoint{chain}, nil
		}
	}
	return nil, desktop.Errorf(desktop.NotFound, "none")
}

func (b *bench) Allow(context.Context, string, string) error { return b.allowed }

func (b *bench) Record(_ context.Context, owner, id string, e model.Endpoint, u model.Usage) error {
	b.used <- used{owner, id, e, u}
	return nil
}

func (b *bench) last() (*http.Request, string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.asked) == 0 {
		b.t.Fatal("the provider was not asked")
	}
	return b.asked[len(b.asked)-1], b.bodies[len(b.bodies)-1]
}

// answers says what the provider does from now on.
func (b *bench) answers(with http.HandlerFunc) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = with
}

func (b *bench) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.asked)
}

func (b *bench) do(method, path, body string, headers ...string) (*http.Response, string) {
	b.t.Helper()
	r, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, strings.NewReader(body))
	if err != nil {
		b.t.Fatal(err)
	}
	if body == "" {
		r.Body = http.NoBody
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	text, _ := io.ReadAll(response.Body)
	return response, string(text)
}

const (
	messages = "/anthropic/v1/messages"
	ask      = `{"model":"main","messages":[]}`
)

// What is on the list goes to the provider, at its own address, with the credential of the host.
func TestLetsThrough(t *testing.T) {
	b := newBench(t, nil).serve()
	for _, c := range []struct{ method, path, want string }{
		{"POST", "/anthropic/v1/messages?beta=true&key=mine&x=y", "/base/v1/messages?beta=true"},
		{"POST", "/anthropic/v1/messages/count_tokens", "/base/v1/messages/count_tokens"},
		{"GET", "/anthropic/v1/models?limit=5&key=mine", "/base/v1/models?limit=5"},
		{"GET", "/anthropic/v1/models/claude-x", "/base/v1/models/claude-x"},
		{"POST", "/openai/v1/responses?api-key=mine", "/base/responses"},
		{"POST", "/openai/v1/chat/completions", "/base/chat/completions"},
		{"GET", "/openai/v1/models", "/base/models"},
		{"GET", "/openai/v1/models/vendor/name-1.5:free", "/base/models/vendor/name-1.5:free"},
		{"POST", "/gemini/v1beta/models/gem-1:generateContent?key=mine", "/base/v1beta/models/gem-1:generateContent"},
		{"POST", "/gemini/v1beta/models/gem-1:streamGenerateContent?alt=sse&key=mine", "/base/v1beta/models/gem-1:streamGenerateContent?alt=sse"},
		{"POST", "/gemini/v1/models/gem-1:countTokens", "/base/v1/models/gem-1:countTokens"},
		{"GET", "/gemini/v1beta/models?pageSize=3", "/base/v1beta/models?pageSize=3"},
		{"GET", "/gemini/v1beta/models/gem-1", "/base/v1beta/models/gem-1"},
	} {
		body := ""
		if c.method == "POST" {
			body = ask
		}
		response, text := b.do(c.method, c.path, body, "Authorization: Bearer mine", "X-Api-Key: mine", "X-Goog-Api-Key: mine", "Api-Key: mine",
			"Cookie: mine", "Proxy-Authorization: mine", "X-Forwarded-Host: elsewhere", "Openai-Organization: org-mine", "Openai-Project: mine",
			"Anthropic-Beta: a-1", "Anthropic-Beta: b-2", "Accept-Encoding: gzip", "User-Agent: agent/1", "Te: trailers")
		if response.StatusCode != http.StatusOK || text != "{}" {
			t.Errorf("%s: %s %s", c.path, response.Status, text)
			continue
		}
		got, sent := b.last()
		if got.Method != c.method || got.RequestURI != c.want || sent != body {
			t.Errorf("%s: the provider got %s %s %s", c.path, got.Method, got.RequestURI, sent)
		}
		for name, values := range got.Header {
			for _, value := range values {
				if strings.Contains(value, "mine") || strings.Contains(value, "elsewhere") || strings.Contains(value, "gzip") {
					t.Errorf("%s: the guest's %s went on: %s", c.path, name, value)
				}
			}
		}
		key := map[string]string{"anthropic": got.Header.Get("X-Api-Key"), "openai": strings.TrimPrefix(got.Header.Get("Authorization"), "Bearer "),
			"gemini": got.Header.Get("X-Goog-Api-Key")}[strings.Split(c.path, "/")[1]]
		if key != secret || got.Header.Get("User-Agent") != "agent/1" || strings.Contains(got.RequestURI, secret) {
			t.Errorf("%s: the key is %q, the agent %q", c.path, key, got.Header.Get("User-Agent"))
		}
		if strings.HasPrefix(c.path, "/anthropic") && (len(got.Header.Values("Anthropic-Beta")) != 2 || got.Header.Get("Anthropic-Version") == "") {
			t.Errorf("%s: headers %v", c.path, got.Header)
		}
	}
	if logs := b.logs.String(); strings.Contains(logs, secret) || strings.Contains(logs, "messages:") || !strings.Contains(logs, "POST /anthropic/messages") {
		t.Errorf("the log has\n%s", logs)
	}
}

// raw sends bytes as they are and returns the answer.
func (b *bench) raw(text string) (*http.Response, string) {
	b.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(b.url, "http://"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, text); err != nil {
		b.t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		b.t.Fatalf("%v for %.200q", err, text)
	}
	defer response.Body.Close()
	body, _ := io.ReadAll(response.Body)
	return response, string(body)
}

// All else is refused, in the vendor's words, and the provider hears nothing of it.
func TestRefuses(t *testing.T) {
	b := newBench(t, nil).serve()
	ok := "Host: 127.0.0.1:7879\r\nContent-Length: " + fmt.Sprint(len(ask)) + "\r\n\r\n" + ask
	for _, c := range []struct {
		line, headers string
		status        int
	}{
		{"GET /", "", 404}, {"HEAD /", "", 404}, {"GET /anthropic", "", 404}, {"GET /anthropic/", "", 404}, {"GET /v1/models", "", 404},
		{"POST /anthropic/v1/complete", "", 404}, {"POST /anthropic/v1/messages/batches", "", 404}, {"POST /anthropic/v1/files", "", 404},
		{"POST /anthropic/v1/messages/", "", 404}, {"POST /anthropic//v1/messages", "", 404}, {"POST //anthropic/v1/messages", "", 404},
		{"POST /anthropic/v1/../v1/messages", "", 404}, {"POST /anthropic/v1/./messages", "", 404}, {"POST /openai/../anthropic/v1/messages", "", 404},
		{"POST /anthropic/v1%2fmessages", "", 404}, {"POST /anthropic/v1/%2e%2e/messages", "", 404}, {"POST /anthropic/v1/messages%00", "", 404},
		{`POST /anthropic/v1\messages`, "", 404}, {"POST /anthropic/v1/messages;x=y", "", 404}, {"POST /anthropic/v2/messages", "", 404},
		{"GET /openai/v1/files", "", 404}, {"POST /openai/v1/images/generations", "", 404}, {"POST /openai/v1/embeddings", "", 404},
		{"GET /openai/v1/responses/resp_1", "", 404}, {"POST /openai/responses", "", 404}, {"POST /openai/v1/responses/compact", "", 404},
		{"GET /openai/v1/models/..", "", 404}, {"GET /openai/v1/models/a/../../files", "", 404}, {"GET /openai/v1/models/a/b/c/d/e/f", "", 404},
		{"GET /gemini/v1beta/models/a%2F..%2Ffiles", "", 404}, {"POST /gemini/v1beta/models/a:predict", "", 404}, {"POST /gemini/v1beta/models/a:b:generateContent", "", 404},
		{"POST /gemini/v1beta/files", "", 404}, {"GET /gemini/v1beta/tunedModels", "", 404}, {"POST /gemini/upload/v1beta/files", "", 404},
		{"GET /anthropic/v1/messages", "", 405}, {"DELETE /openai/v1/models/a", "", 405}, {"PUT /openai/v1/responses", "", 405}, {"POST /gemini/v1beta/models", "", 405},
		{"OPTIONS /openai/v1/responses", "", 405}, {"GET /gemini/v1beta/models/a:generateContent", "", 405},
		{"CONNECT api.openai.com:443", "", 405}, {"GET http://169.254.169.254/latest/meta-data", "", 405}, {"POST http://127.0.0.1:7879/anthropic/v1/messages", "", 405},
		{"TRACE /anthropic/v1/messages", "", 405},
		{"POST /anthropic/v1/messages", "Connection: Upgrade\r\nUpgrade: websocket\r\n", 400},
		{"POST /anthropic/v1/messages", "Origin: https://evil.example\r\n", 403}, {"POST /anthropic/v1/messages", "Sec-Fetch-Site: cross-site\r\n", 403},
		{"POST /anthropic/v1/messages?a=%zz", "", 400},
		{"POST /anthropic/v1/messages?" + strings.Repeat("x", 3000), "", 414},
	} {
		host := ok
		response, body := b.raw(c.line + " HTTP/1.1\r\n" + c.headers + host)
		if response.StatusCode != c.status {
			// net/http itself answers what is not even a request.
			if c.status == 404 && response.StatusCode == 400 && strings.Contains(c.line, "%") {
				continue
			}
			t.Errorf("%s %s: %s %s", c.line, c.headers, response.Status, body)
		}
		if response.StatusCode < 400 {
			t.Errorf("%s: let through", c.line)
		}
	}
	for _, host := range []string{"evil.example", "evil.example:7879", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "169.254.169.254"} {
		response, body := b.raw("POST /anthropic/v1/messages HTTP/1.1\r\n" + strings.Replace(ok, "127.0.0.1:7879", host, 1))
		if response.StatusCode != http.StatusMisdirectedRequest && response.StatusCode != http.StatusBadRequest {
			t.Errorf("for the host %s: %s %s", host, response.Status, body)
		}
	}
	for _, body := range []string{``, `[]`, `null`, `"x"`, `{`, `{"model":"a"`, `{"model":1}`, `{"model":""}`, `{}`, `{"model":"a","model":"b"}`,
		`{"model":"a","mod\u0065l":"b"}`, `{"model":"` + strings.Repeat("x", 300) + `"}`, `{"a":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `,"model":"a"}`,
		`{"model":"a"} {"model":"b"}`, "{\"model\":\"a\"}\x00"} {
		if response, text := b.do("POST", "/openai/v1/responses", body); response.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60s: %s %s", body, response.Status, text)
		}
	}
	if response, text := b.do("POST", "/openai/v1/responses", `{"model":"a","background":true}`); response.StatusCode != http.StatusBadRequest {
		t.Errorf("in the background: %s %s", response.Status, text)
	}
	if n := b.count(); n != 0 {
		t.Errorf("the provider was asked %d times", n)
	}
}

// Refusals are in the vendor's form.
func TestVendorForms(t *testing.T) {
	b := newBench(t, nil).serve()
	b.chains = nil
	for path, want := range map[string]string{
		messages:                   `{"error":{"message":"no provider of anthropic models`,
		"/openai/v1/responses":     `{"error":{"code":null,"message":"no provider of openai models`,
		"/gemini/v1beta/models/a":  `{"error":{"code":403,"message":"no provider of gemini models`,
		"/gemini/v1beta/models":    `"status":"PERMISSION_DENIED"`,
		"/openai/v1/models":        `"type":"permission_error"`,
		"/anthropic/v1/models":     `"type":"permission_error"},"type":"error"}`,
		"/openai/v1/models/a/b/c":  `"param":null`,
		"/anthropic/v1/models/abc": `"type":"error"`,
	} {
		method, body := "GET", ""
		if path == messages || strings.HasSuffix(path, "responses") {
			method, body = "POST", ask
		}
		if response, text := b.do(method, path, body); response.StatusCode != http.StatusForbidden || !strings.Contains(text, want) || !json.Valid([]byte(text)) {
			t.Errorf("%s: %s %s", path, response.Status, text)
		}
	}
	limit := desktop.Errorf(desktop.RateLimited, "enough")
	limit.RetryAfter = 90 * time.Second
	b.allowed = limit
	response, text := b.do("POST", messages, ask)
	if response.StatusCode != http.StatusTooManyRequests || response.Header.Get("Retry-After") != "90" || !strings.Contains(text, `"rate_limit_error"`) {
		t.Errorf("over a limit: %s %v %s", response.Status, response.Header, text)
	}
	for _, fault := range []error{errors.New("the disk is full at /var/lib/secret"), desktop.Errorf(desktop.Unavailable, "the disk of prv-1 is away")} {
		b.allowed = fault
		if response, text := b.do("POST", messages, ask); response.StatusCode < 500 || strings.Contains(text, "disk ") {
			t.Errorf("for a fault: %s %s", response.Status, text)
		}
	}
}

func TestOnlyConfiguredModels(t *testing.T) {
	b := newBench(t, func(o *Options) { o.OnlyConfigured = true }).serve()
	for path, status := range map[string]int{
		"/gemini/v1beta/models/main:generateContent":  200,
		"/gemini/v1beta/models/other:generateContent": 403,
		"/gemini/v1beta/models/other:countTokens":     200,
	} {
		if response, text := b.do("POST", path, ask); response.StatusCode != status {
			t.Errorf("%s: %s %s", path, response.Status, text)
		}
	}
	if response, text := b.do("POST", messages, `{"model":"other"}`); response.StatusCode != 403 || !strings.Contains(text, `other`) {
		t.Errorf("%s %s", response.Status, text)
	}
}

// What a provider says that is not an answer: nothing of the account, of where it is or of the key
// reaches the guest.
func TestProvidersFailures(t *testing.T) {
	b := newBench(t, nil).serve()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		status int
		says   string
	}{
		"redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, 502, "answered 302"},
		"bad key": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(401)
			io.WriteString(w, `{"error":{"message":"Incorrect API key provided: `+secret+`"}}`)
		}, 403, "refuses the key"},
		"overloaded": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Anthropic-Organization-Id", "org-secret")
			w.Header().Set("Set-Cookie", "a=b")
			w.WriteHeader(529)
			io.WriteString(w, `{"type":"error","error":{"type":"overloaded_error","message":"Overloaded: sk-secr****cdef"}}`)
		}, 529, "overloaded_error"},
		"gzip": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			io.WriteString(w, "xx")
		}, 502, "not asked for"},
		"gone": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502, "cannot be reached"},
	} {
		b.answers(c.answer)
		response, text := b.do("POST", messages, ask)
		if response.StatusCode != c.status || !strings.Contains(text, c.says) {
			t.Errorf("%s: %s %s", name, response.Status, text)
		}
		all := fmt.Sprint(response.Header) + text
		for _, hidden := range []string{secret, "cdef", "org-secret", "a=b", "169.254", "127.0.0.1"} {
			if strings.Contains(all, hidden) {
				t.Errorf("%s: the guest sees %q in %s", name, hidden, all)
			}
		}
	}
	b.answers(func(w http.ResponseWriter, _ *http.Request) { // a body that breaks off
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, "data: {}\n\n")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	r, _ := http.NewRequest("POST", b.url+messages, strings.NewReader(ask))
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if text, err := io.ReadAll(response.Body); err == nil || !strings.Contains(string(text), "data: {}") {
		t.Errorf("a stream that broke looks whole to the guest: %s", text)
	}
	if strings.Contains(b.logs.String(), secret) {
		t.Errorf("the log has the key")
	}
}

// When the first provider is overloaded or gone the next is asked, for its own model.
func TestFallsBack(t *testing.T) {
	b := newBench(t, nil).serve()
	for _, f := range model.Formats() {
		next := b.chains[f][0]
		next.Model, next.Provider = "second", "prv-2"
		gone := next
		gone.BaseURL, gone.Model = "http://127.0.0.1:1", "gone"
		b.chains[f] = append(b.chains[f], gone, next)
	}
	for path, want := range map[string]string{
		messages: `{"model":"second","messages":[]}`, "/openai/v1/chat/completions": `{"model":"second","messages":[]}`,
		"/gemini/v1beta/models/main:generateContent": ask,
	} {
		before := b.count()
		b.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			if b.count() == before+1 {
				w.WriteHeader(http.StatusServiceUnavailable)
				return
			}
			io.WriteString(w, `{}`)
		})
		response, text := b.do("POST", path, ask)
		got, sent := b.last()
		if response.StatusCode != 200 || b.count() != before+2 || sent != want || strings.HasPrefix(path, "/gemini") && !strings.Contains(got.RequestURI, "models/second:") {
			t.Errorf("%s: %s %s; asked %d times, last %s %s", path, response.Status, text, b.count()-before, got.RequestURI, sent)
		}
		if u := <-b.used; u.endpoint.Provider != "prv-2" || u.endpoint.Model != "second" {
			t.Errorf("%s: recorded for %s", path, u.endpoint)
		}
	}
}

// samples are recorded streams and answers of the vendors, with what they took.
func samples(t *testing.T) []string {
	files, err := filepath.Glob("testdata/*")
	if err != nil || len(files) < 8 {
		t.Fatalf("there are %d samples, %v", len(files), err)
	}
	return files
}

// sampleCalls are the paths that the samples were answers to, and what each took.
var sampleCalls = map[string]struct {
	path  string
	model string
	usage model.Usage
}{
	"anthropic.sse":    {messages, "claude-sonnet-5-5-20260801", model.Usage{Input: 12, CacheRead: 2048, CacheWrite: 512, Output: 97}},
	"anthropic.json":   {messages, "claude-sonnet-5-5-20260801", model.Usage{Input: 25, CacheRead: 7, CacheWrite: 3, Output: 11}},
	"responses.sse":    {"/openai/v1/responses", "gpt-5.5-2026-04-23", model.Usage{Input: 300, CacheRead: 1024, Output: 42}},
	"responses.json":   {"/openai/v1/responses", "gpt-5.5-2026-04-23", model.Usage{Input: 36, CacheRead: 0, Output: 87}},
	"chat.sse":         {"/openai/v1/chat/completions", "local-8b", model.Usage{Input: 12, CacheRead: 8, Output: 5}},
	"chat.json":        {"/openai/v1/chat/completions", "local-8b", model.Usage{Input: 19, Output: 10}},
	"gemini.sse":       {"/gemini/v1beta/models/x:streamGenerateContent", "gemini-3.5-flash", model.Usage{Input: 70, CacheRead: 30, Output: 33}},
	"gemini.json":      {"/gemini/v1beta/models/x:generateContent", "gemini-3.5-flash", model.Usage{Input: 8, Output: 20}},
	"gemini-list.json": {"/gemini/v1beta/models/x:streamGenerateContent", "gemini-3.5-flash", model.Usage{Input: 4, Output: 9}},
}

// A stream passes through piece by piece, unchanged, and what it took is recorded: each piece is
// given only when the one before has arrived at the guest.
func TestStreamsUnbuffered(t *testing.T) {
	b := newBench(t, nil).serve()
	for _, file := range samples(t) {
		name := filepath.Base(file)
		call, known := sampleCalls[name]
		if !known {
			t.Errorf("%s is not expected", name)
			continue
		}
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		pieces := make(chan []byte)
		b.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", map[string]string{".sse": "text/event-stream; charset=utf-8", ".json": "application/json"}[filepath.Ext(name)])
			for piece := range pieces {
				w.Write(piece)
				http.NewResponseController(w).Flush()
			}
		})
		body := `{"model":"other","stream":true,"stream_options":{"include_usage":true}}`
		r, _ := http.NewRequestWithContext(t.Context(), "POST", b.url+call.path, strings.NewReader(body))
		asking := make(chan *http.Response)
		go func() {
			response, err := http.DefaultTransport.RoundTrip(r)
			if err != nil {
				t.Error(err)
			}
			asking <- response
		}()
		var response *http.Response
		for rest := text; len(rest) > 0; {
			n := min(len(rest), 97)
			pieces <- rest[:n]
			if response == nil {
				response = <-asking
			}
			got := make([]byte, n)
			if _, err := io.ReadFull(response.Body, got); err != nil || !bytes.Equal(got, rest[:n]) {
				t.Fatalf("%s: got %q, %v", name, got, err)
			}
			rest = rest[n:]
		}
		close(pieces)
		if more, err := io.ReadAll(response.Body); err != nil || len(more) > 0 {
			t.Errorf("%s: then came %q, %v", name, more, err)
		}
		response.Body.Close()
		if u := <-b.used; u.usage != call.usage || u.endpoint.Model != call.model || u.owner != "owner of dt-1" || u.desktopID != "dt-1" {
			t.Errorf("%s: recorded %+v", name, u)
		}
		if _, sent := b.last(); sent != body {
			t.Errorf("%s: the provider got %s", name, sent)
		}
	}
}

// Chat Completions tell what they took when asked to; the gateway asks, and the guest that has not
// does not see the answer.
func TestAsksForUsage(t *testing.T) {
	b := newBench(t, nil).serve()
	text, err := os.ReadFile("testdata/chat.sse")
	if err != nil {
		t.Fatal(err)
	}
	for _, newline := range []string{"\n", "\r\n"} {
		stream := strings.ReplaceAll(string(text), "\n", newline)
		b.answers(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream")
			for i := range len(stream) {
				io.WriteString(w, stream[i:i+1])
				http.NewResponseController(w).Flush()
			}
		})
		response, got := b.do("POST", "/openai/v1/chat/completions", `{"model":"main", "stream": true}`)
		if response.StatusCode != 200 || strings.Contains(got, "prompt_tokens") || !strings.Contains(got, "Hello") || !strings.HasSuffix(strings.TrimSpace(got), "data: [DONE]") {
			t.Errorf("%s\n%s", response.Status, got)
		}
		if _, sent := b.last(); sent != `{"stream_options":{"include_usage":true},"model":"main", "stream": true}` {
			t.Errorf("the provider got %s", sent)
		}
		if u := <-b.used; u.usage != sampleCalls["chat.sse"].usage || u.endpoint.Model != "main" {
			t.Errorf("recorded %+v", u)
		}
	}
}

// When the guest goes away the provider hears of it, and what came so far is recorded.
func TestGuestGoesAway(t *testing.T) {
	b := newBench(t, nil).serve()
	gone := make(chan struct{})
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, `data: {"type":"message_start","message":{"model":"m","usage":{"input_tokens":9,"output_tokens":1}}}`+"\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, _ := http.NewRequestWithContext(ctx, "POST", b.url+messages, strings.NewReader(ask))
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := response.Body.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	response.Body.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Fatal("the provider does not hear of it")
	}
	if u := <-b.used; u.usage.Input != 9 || u.usage.Output != 1 {
		t.Errorf("recorded %+v", u)
	}
}

// A provider that falls silent, or never ends, is given up.
func TestProviderFallsSilent(t *testing.T) {
	b := newBench(t, nil)
	b.gateway.limits.silent = 50 * time.Millisecond
	b.serve()
	gone := make(chan struct{}, 1)
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		io.WriteString(w, ": hello\n\n")
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		gone <- struct{}{}
	})
	r, _ := http.NewRequestWithContext(t.Context(), "POST", b.url+messages, strings.NewReader(ask))
	response, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("the answer looks whole")
	}
	<-gone
	if !strings.Contains(b.logs.String(), errSilent.Error()) {
		t.Errorf("the log does not say why:\n%s", b.logs)
	}
}

// A hostile guest gets no further than its share: headers, bodies that are endless or do not come,
// and requests without number.
func TestHostileGuest(t *testing.T) {
	b := newBench(t, nil)
	b.gateway.limits.body = 1 << 20
	b.gateway.limits.bodies = 2 << 20
	b.gateway.limits.upload = 300 * time.Millisecond
	b.gateway.limits.atOnce = 8
	b.serve()
	if response, _ := b.raw("POST " + messages + " HTTP/1.1\r\nHost: localhost\r\nX: " + strings.Repeat("x", 64<<10) + "\r\n\r\n"); response.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("for large headers: %s", response.Status)
	}
	if response, _ := b.raw("POST " + messages + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n{"); response.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("for a large body: %s", response.Status)
	}
	// Endless, without a length.
	r, _ := http.NewRequestWithContext(t.Context(), "POST", b.url+messages, endless{})
	response, err := http.DefaultTransport.RoundTrip(r)
	if err == nil {
		response.Body.Close()
		if response.StatusCode != http.StatusRequestEntityTooLarge {
			t.Errorf("for an endless body: %s", response.Status)
		}
	}
	// One that does not come.
	if response, _ := b.raw("POST " + messages + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{"); response.StatusCode != http.StatusRequestTimeout {
		t.Errorf("for a body that does not come: %s", response.Status)
	}
	if b.count() != 0 {
		t.Errorf("the provider was asked %d times", b.count())
	}

	// 1000 at once: at most atOnce are under way.
	var mu sync.Mutex
	under, most := 0, 0
	let := make(chan struct{})
	b.answers(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		under++
		most = max(most, under)
		mu.Unlock()
		<-let
		mu.Lock()
		under--
		mu.Unlock()
		io.WriteString(w, "{}")
	})
	statuses := make(chan int, 1000)
	handler := b.gateway.For("dt-1")
	for range cap(statuses) {
		go func() {
			r := httptest.NewRequest("POST", messages, strings.NewReader(ask))
			r.Host = "localhost"
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			statuses <- w.Code
		}()
	}
	for range cap(statuses) - b.gateway.limits.atOnce {
		if status := <-statuses; status != http.StatusTooManyRequests {
			t.Errorf("one of many got %d", status)
		}
	}
	// Another desktop is not kept waiting by this one.
	other := make(chan int)
	go func() {
		r := httptest.NewRequest("POST", messages, strings.NewReader(ask))
		r.Host = "localhost"
		w := httptest.NewRecorder()
		b.gateway.For("dt-2").ServeHTTP(w, r)
		other <- w.Code
	}()
	close(let)
	if status := <-other; status != http.StatusOK {
		t.Errorf("another desktop got %d", status)
	}
	for range b.gateway.limits.atOnce {
		if status := <-statuses; status != http.StatusOK {
			t.Errorf("one of the first got %d", status)
		}
	}
	if most > b.gateway.limits.atOnce+1 { // and the other desktop's
		t.Errorf("%d were under way at once", most)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) {
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

// Whatever a guest writes as a target, what goes on is one of the known paths below the provider's
// own address.
func FuzzTarget(f *testing.F) {
	for _, s := range []string{"/anthropic/v1/messages", "/openai/v1/models/a/b", "/gemini/v1beta/models/a:generateContent?alt=sse&key=k", "/openai/v1/../x", "/anthropic/v1/models/%2e", "http://x/openai/v1/responses"} {
		f.Add("POST", s, "127.0.0.1")
		f.Add("GET", s, "localhost:1")
	}
	f.Fuzz(func(t *testing.T, method, target, host string) {
		r := &http.Request{Method: method, RequestURI: target, Host: host, Header: http.Header{}}
		c, err := parse(r)
		if err != nil {
			var d *denial
			if !errors.As(err, &d) || d.status < 400 || d.status >= 500 {
				t.Fatalf("%q is refused with %v", target, err)
			}
			return
		}
		got, err := c.target(model.Endpoint{BaseURL: "https://provider.example/base/v1"}, "m")
		if err != nil {
			t.Fatal(err)
		}
		rest, ok := strings.CutPrefix(got, "https://provider.example/base/v1")
		path, query, _ := strings.Cut(rest, "?")
		if !ok || strings.Contains(path, "..") && !strings.Contains(target, "..") ||
			strings.ContainsAny(path, "%\\;") || strings.Contains(path, "/.") || strings.Contains(query, "key=") {
			t.Fatalf("%q leads to %s", target, got)
		}
	})
}

// However an answer is cut into pieces, the same is found in it.
func FuzzCounter(f *testing.F) {
	files, _ := filepath.Glob("testdata/*")
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text, uint8(7))
	}
	f.Fuzz(func(t *testing.T, text []byte, size uint8) {
		for _, v := range []vendor{anthropic, openai, gemini} {
			for _, kind := range []string{"text/event-stream", "application/json"} {
				whole, cut := newCounter(v, kind), newCounter(v, kind)
				whole.Write(text)
				for rest := text; len(rest) > 0; {
					n := min(len(rest), int(size)+1)
					cut.Write(rest[:n])
					rest = rest[n:]
				}
				if whole.usage() != cut.usage() || whole.model != cut.model {
					t.Fatalf("%s %s: %+v %q, in pieces %+v %q", v, kind, whole.usage(), whole.model, cut.usage(), cut.model)
				}
				if len(cut.json.text) > maxValue || len(cut.prefix) > len(dataField) {
					t.Fatal("more is kept than is needed")
				}
			}
		}
	})
}

// The members that are found are those that encoding/json finds.
func FuzzObject(f *testing.F) {
	for _, s := range []string{`{"a":1,"b":[{"c":"}"}],"d":"\"","e":null , "f":-1e5}`, `{}`, `{ "a" : { } }`, `{"a":"\\"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := parseObject(text)
		if err != nil {
			return
		}
		var want map[string]json.RawMessage
		if err := json.Unmarshal(text, &want); err != nil || len(want) != len(o.members) {
			t.Fatalf("%q: %d members, %v", text, len(o.members), err)
		}
		for _, m := range o.members {
			if string(o.value(m.name)) != string(want[m.name]) {
				t.Fatalf("%q: %q is %q", text, m.name, o.value(m.name))
			}
		}
		changed := o.with("model", []byte(`"x"`))
		var after map[string]json.RawMessage
		if err := json.Unmarshal(changed.text, &after); err != nil || string(after["model"]) != `"x"` {
			t.Fatalf("%q became %q, %v", text, changed.text, err)
		}
	})
}
