package mcp

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api"
	"bureau/desktop"
)

const hello = `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"test","version":"1"}}}`

// TestOnlyKeysComeIn: the mount has the API's own door.
func TestOnlyKeysComeIn(t *testing.T) {
	h := newHouse(t, Options{}, func(o *api.Options) { o.RatePerMinute, o.Burst = 60, 3 })
	revoked := h.AddKey("usr-1", func(k *desktop.Key) { k.RevokedAt = &k.CreatedAt })
	for name, key := range map[string]string{"none": "", "unknown": "sk_live_unknown", "revoked": revoked, "nonsense": "x"} {
		for _, method := range []string{http.MethodPost, http.MethodGet, http.MethodDelete} {
			got := h.raw(method, key, "")
			body, _ := io.ReadAll(got.Body)
			if got.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(got.Header.Get("WWW-Authenticate"), "Bearer") ||
				got.Header.Get("Content-Type") != "application/problem+json" || !json.Valid(body) {
				t.Errorf("%s, %s: %s %s", name, method, got.Status, body)
			}
		}
	}
	key := h.key()
	for range 3 {
		if got := h.raw(http.MethodPost, key, hello); got.StatusCode != http.StatusOK || got.Header.Get("X-Request-Id") == "" {
			t.Errorf("got %s", got.Status)
		}
	}
	if got := h.raw(http.MethodPost, key, hello); got.StatusCode != http.StatusTooManyRequests || got.Header.Get("Retry-After") == "" {
		t.Errorf("over the rate: %s", got.Status)
	}
	if got := h.raw(http.MethodPut, key, hello); got.StatusCode != http.StatusMethodNotAllowed {
		t.Errorf("PUT: %s", got.Status)
	}
	if log := h.log.String(); !strings.Contains(log, "route=mcp") || !strings.Contains(log, "path=/mcp") || strings.Contains(log, key) {
		t.Errorf("the log:\n%s", log)
	}
}

// TestBodiesAreBounded, and hold one message each, so that a key's rate counts what it is used for.
func TestBodiesAreBounded(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	key := h.key(desktop.Capabilities()...)
	if got := h.raw(http.MethodPost, key, strings.Repeat(" ", 2<<20)+hello); got.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("a large body: %s", got.Status)
	}
	for _, body := range []string{"[" + hello + "]", " \n[" + hello + "," + hello + "]", "nonsense", `{"jsonrpc":"2.0"}`, ""} {
		if got := h.raw(http.MethodPost, key, body, "Content-Type: application/json"); got.StatusCode != http.StatusBadRequest {
			t.Errorf("%.20s: %s", body, got.Status)
		}
	}
	if len(h.handler.open) != 0 {
		t.Errorf("%d sessions were opened", len(h.handler.open))
	}
}

// TestSessionsAreTheirKeys: for any other key, of the same user too, they are not there.
func TestSessionsAreTheirKeys(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	key := h.key(desktop.Capabilities()...)
	session := h.http(bearer(key), withSessions, nil)
	const list = `{"jsonrpc":"2.0","id":9,"method":"tools/list"}`
	for name, other := range map[string]string{"another user's": h.AddKey("usr-2", nil, desktop.Capabilities()...), "another": h.key(desktop.Capabilities()...)} {
		for method, body := range map[string]string{http.MethodPost: list, http.MethodGet: "", http.MethodDelete: ""} {
			foreign := h.raw(method, other, body, sessionHeader+": "+session.ID())
			missing := h.raw(method, other, body, sessionHeader+": nosuch")
			if foreign.StatusCode != http.StatusNotFound || missing.StatusCode != http.StatusNotFound {
				t.Errorf("%s key, %s: %s, and for none %s", name, method, foreign.Status, missing.Status)
			}
		}
	}
	if words, _, failed := use(t, session, "get_desktop", dict{"desktop": ours}); failed {
		t.Errorf("its own: %s", words)
	}
	if got := h.raw(http.MethodDelete, key, "", sessionHeader+": "+session.ID()); got.StatusCode != http.StatusNoContent {
		t.Errorf("its end: %s", got.Status)
	}
	if got := h.raw(http.MethodPost, key, list, sessionHeader+": "+session.ID()); got.StatusCode != http.StatusNotFound {
		t.Errorf("after its end: %s", got.Status)
	}
}

// TestRevokedKeysEnd in the middle of a session.
func TestRevokedKeysEnd(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	var id string
	key := h.AddKey("usr-1", func(k *desktop.Key) { id = k.ID }, desktop.Capabilities()...)
	session := h.http(bearer(key), withSessions, nil)
	if _, err := h.RevokeKey(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: "click", Arguments: dict{"desktop": ours}}); err == nil {
		t.Error("a call with a revoked key was answered")
	}
	if got := h.raw(http.MethodPost, key, hello); got.StatusCode != http.StatusUnauthorized {
		t.Errorf("got %s", got.Status)
	}
}

// TestSessionsAreBounded: the one that has rested for longest makes room; those of others stay.
func TestSessionsAreBounded(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	key, other := h.key(desktop.CanRead), h.key(desktop.CanRead)
	open := func(key string) string {
		got := h.raw(http.MethodPost, key, hello)
		if _, err := io.ReadAll(got.Body); err != nil || got.StatusCode != http.StatusOK {
			t.Fatalf("got %s, %v", got.Status, err)
		}
		return got.Header.Get(sessionHeader)
	}
	there := func(key, id string) bool {
		got := h.raw(http.MethodPost, key, `{"jsonrpc":"2.0","id":2,"method":"ping"}`, sessionHeader+": "+id)
		return got.StatusCode == http.StatusOK
	}
	foreign := open(other)
	var ids []string
	for range sessionsPerKey {
		ids = append(ids, open(key))
	}
	if !there(key, ids[0]) { // which has been used since
		t.Fatal("the first session is gone")
	}
	ids = append(ids, open(key), open(key))
	for i, id := range ids {
		if want := i != 1 && i != 2; there(key, id) != want {
			t.Errorf("session %d is there: %v", i, !want)
		}
	}
	if !there(other, foreign) {
		t.Error("another key's session has made room")
	}
	h.handler.Close()
	if got := h.raw(http.MethodPost, key, hello); got.StatusCode == http.StatusOK {
		t.Errorf("a closed handler opens sessions: %s", got.Status)
	}
}

// TestWebPagesDoNotComeIn: neither by a name of their own that leads here, nor from elsewhere.
func TestWebPagesDoNotComeIn(t *testing.T) {
	h := newHouse(t, Options{Hosts: []string{"Bureau.example.org"}, Origins: []string{"https://desk.example.org"}}, nil)
	key := h.key()
	for _, c := range []struct {
		host, origin string
		ok           bool
	}{
		{"", "", true},
		{"localhost:1234", "", true},
		{"[::1]:1234", "", true},
		{"bureau.example.org", "", true},
		{"BUREAU.example.org:443", "https://bureau.example.org", true},
		{"localhost", "http://localhost:6274", true},
		{"localhost", "https://desk.example.org", true},
		{"localhost", "http://desk.example.org", false},
		{"evil.example.com", "https://desk.example.org", false},
		{"evil.example.com", "", false},
		{"localhost.evil.example.com", "", false},
		{"evil.example.com", "http://evil.example.com", false},
		{"localhost", "http://evil.example.com", false},
		{"localhost", "null", false},
		{"localhost", "http://localhost.evil.example.com", false},
	} {
		var headers []string
		if c.host != "" {
			headers = append(headers, "Host: "+c.host)
		}
		if c.origin != "" {
			headers = append(headers, "Origin: "+c.origin)
		}
		got := h.raw(http.MethodPost, key, hello, headers...)
		if ok := got.StatusCode == http.StatusOK; ok != c.ok || !ok && got.StatusCode != http.StatusForbidden {
			t.Errorf("host %q, origin %q: %s", c.host, c.origin, got.Status)
		}
	}
}

// TestBrokenStreamsAreResumed: an answer whose stream has broken off is had by asking again.
func TestBrokenStreamsAreResumed(t *testing.T) {
	h := newHouse(t, Options{extend: withFixtures}, nil)
	key := h.key(desktop.Capabilities()...)
	id := h.http(bearer(key), withSessions, nil).ID()
	version := versionHeader + ": " + withSessions
	broken := h.raw(http.MethodPost, key, `{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"test_reconnection","arguments":{}}}`,
		sessionHeader+": "+id, version)
	text, err := io.ReadAll(broken.Body)
	if err != nil {
		t.Fatal(err)
	}
	var event string
	for line := range strings.Lines(string(text)) {
		if after, ok := strings.CutPrefix(line, "id: "); ok && event == "" {
			event = strings.TrimSpace(after)
		}
	}
	if event == "" || !strings.Contains(string(text), "retry: ") || strings.Contains(string(text), `"result"`) {
		t.Fatalf("the stream that broke off:\n%s", text)
	}
	resumed := h.raw(http.MethodGet, key, "", sessionHeader+": "+id, version, "Last-Event-Id: "+event)
	text, err = io.ReadAll(resumed.Body)
	if err != nil || resumed.StatusCode != http.StatusOK || !strings.Contains(string(text), `"id":7`) || !strings.Contains(string(text), "resumed") {
		t.Errorf("resumed: %s %v\n%s", resumed.Status, err, text)
	}
	// For another key it is not there.
	if got := h.raw(http.MethodGet, h.key(), "", sessionHeader+": "+id, version, "Last-Event-Id: "+event); got.StatusCode != http.StatusNotFound {
		t.Errorf("resumed by another: %s", got.Status)
	}
}

// TestUnmountedHandlerServesNobody: who calls is the mount's to say.
func TestUnmountedHandlerServesNobody(t *testing.T) {
	h := NewHandler(Options{})
	defer h.Close()
	defer func() {
		if recover() == nil {
			t.Error("a request without a caller was served")
		}
	}()
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/mcp", strings.NewReader(hello)))
}
