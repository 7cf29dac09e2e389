package api

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"bureau/api/apitest"
	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/desktop/activity"
)

// bench is a server over a World, and a client whose every exchange is held against the document.
type bench struct {
	*apitest.World
	chat   *apitest.Chat
	t      *testing.T
	server *Server
	url    string
	client *http.Client
	log    *apitest.Log
	ledger *apitest.Ledger // what is in the activity log

	key, other string // of usr-1, with every capability, and of usr-2
}

// document is read once: all benches have the same.
var document = sync.OnceValue(func() *apitest.Transport {
	checked, err := apitest.NewTransport(New(Options{Version: "test"}).OpenAPI(), nil, nil)
	if err != nil {
		panic(err)
	}
	return checked
})

// newBench starts a server with two users, and a desktop dt-1 of the first and dt-2 of the second.
func newBench(t *testing.T, change func(*Options)) *bench {
	t.Helper()
	b := &bench{World: apitest.NewWorld(), t: t, log: &apitest.Log{}}
	b.AddUser("usr-1")
	b.AddUser("usr-2")
	b.AddDesktop("dt-1", "usr-1")
	b.AddDesktop("dt-2", "usr-2")
	b.key = b.AddKey("usr-1", nil, desktop.Capabilities()...)
	b.other = b.AddKey("usr-2", nil, desktop.Capabilities()...)
	b.chat = apitest.NewChat(t, b.World)
	b.AddProvider("prv-1", "usr-1", "")
	b.AddProvider("prv-2", "usr-1", "dt-1")
	b.AddProvider("prv-3", "usr-2", "dt-2")
	b.ledger = &apitest.Ledger{}
	log := activity.NewLog(b.ledger, 0, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { log.Close() })
	options := Options{Activity: log, Desktops: b.World, Accounts: b.World, Providers: b.World.Providers(), Usage: b.World, Claims: b.chat.Store, Assistant: b.chat.Service, Version: "test",
		Logger: slog.New(slog.NewTextHandler(b.log, &slog.HandlerOptions{Level: slog.LevelDebug}))}
	if change != nil {
		change(&options)
	}
	b.server = New(options)
	web := httptest.NewUnstartedServer(b.server.Handler())
	web.Config.MaxHeaderBytes = maxHeaderBytes
	web.Start()
	t.Cleanup(web.Close)
	b.url = web.URL
	b.client = &http.Client{Transport: document().With(web.Client().Transport, func(err error) { t.Error(err) })}
	return b
}

// busy begins a turn on a desktop that does not end by itself.
func (b *bench) busy(id string) assistant.Turn {
	b.t.Helper()
	b.chat.SetModel(func(ctx context.Context, _ model.Request, _ func(model.Delta)) (model.Response, error) {
		<-ctx.Done()
		return model.Response{}, ctx.Err()
	})
	turn, err := b.chat.Service.Begin(b.t.Context(), desktop.Caller{Local: true}, id, assistant.Prompt{Message: "wait"})
	if err != nil {
		b.t.Fatal(err)
	}
	return turn
}

// reply is an answer, read.
type reply struct {
	*http.Response
	body []byte
}

// do makes a request with the first user's key; headers are "Name: value", an empty value removes.
func (b *bench) do(method, path, body string, headers ...string) reply {
	b.t.Helper()
	var reader io.Reader
	if body != "" {
		reader = strings.NewReader(body)
	}
	request, err := http.NewRequestWithContext(b.t.Context(), method, b.url+path, reader)
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+b.key)
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if value == "" {
			request.Header.Del(name)
		} else {
			request.Header.Set(name, value)
		}
	}
	response, err := b.client.Do(request)
	if err != nil {
		b.t.Fatal(err)
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		b.t.Fatal(err)
	}
	return reply{response, data}
}

// problem checks that an answer is a problem document, whole, and returns its members.
func (b *bench) problem(r reply, status int) map[string]any {
	b.t.Helper()
	if r.StatusCode != status {
		b.t.Fatalf("%s %s: got %s, want %d: %s", r.Request.Method, r.Request.URL, r.Status, status, r.body)
	}
	var p map[string]any
	if err := json.Unmarshal(r.body, &p); err != nil || r.Header.Get("Content-Type") != "application/problem+json" {
		b.t.Fatalf("%s %s: %s is no problem document: %s", r.Request.Method, r.Request.URL, r.Header.Get("Content-Type"), r.body)
	}
	sentence, _ := p["error"].(string)
	kind, _ := p["type"].(string)
	if p["status"] != float64(status) || sentence == "" || !strings.HasPrefix(kind, problemPath) || p["title"] == "" ||
		p["requestId"] != r.Header.Get("X-Request-Id") {
		b.t.Errorf("%s %s: the problem document is not whole: %s", r.Request.Method, r.Request.URL, r.body)
	}
	return p
}

// into decodes a good answer.
func (b *bench) into(r reply, status int, value any) {
	b.t.Helper()
	if r.StatusCode != status {
		b.t.Fatalf("%s %s: got %s, want %d: %s", r.Request.Method, r.Request.URL, r.Status, status, r.body)
	}
	if value == nil {
		return
	}
	if err := json.Unmarshal(r.body, value); err != nil {
		b.t.Fatalf("%s %s: %v: %s", r.Request.Method, r.Request.URL, err, r.body)
	}
}

// asLocal serves the API to the operator: without a listener, by the mark that one would set.
func (b *bench) asLocal(method, path, body string) *httptest.ResponseRecorder {
	request := httptest.NewRequest(method, path, strings.NewReader(body))
	request = request.WithContext(context.WithValue(request.Context(), localKey{}, true))
	w := httptest.NewRecorder()
	b.server.Handler().ServeHTTP(w, request)
	return w
}
