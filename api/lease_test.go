package api

import (
	"net/http"
	"strings"
	"testing"
)

func TestLease(t *testing.T) {
	b := newBench(t, nil)
	const path = "/v1/desktops/dt-1"
	var show struct {
		Lease *struct{ Holder, ExpiresAt, UserID, KeyID string }
	}
	for _, at := range []string{path, path + "/lease"} {
		b.into(b.do("GET", at, ""), 200, &show)
		if show.Lease != nil {
			t.Errorf("%s: %+v", at, show.Lease)
		}
	}
	var taken struct{ Holder, Token, ExpiresAt string }
	b.into(b.do("POST", path+"/lease", `{"holder":"Ada","durationMs":60000}`), 200, &taken)
	if taken.Holder != "Ada" || !strings.HasPrefix(taken.Token, "lease_") || taken.ExpiresAt != "2026-03-01T12:01:00Z" {
		t.Errorf("got %+v", taken)
	}
	for _, at := range []string{path, path + "/lease"} {
		got := b.do("GET", at, "")
		b.into(got, 200, &show)
		if show.Lease == nil || show.Lease.Holder != "Ada" || show.Lease.UserID != "usr-1" || strings.Contains(string(got.body), taken.Token) {
			t.Errorf("%s: %s", at, got.body)
		}
	}

	// Whatever controls is refused, with the same key; the token lets through.
	for _, route := range []struct{ method, verb, body string }{
		{"POST", "click", `{"x":1,"y":2}`}, {"POST", "click", `{"x":1,"y":2,"screenshot":true}`}, {"POST", "move", `{"x":1,"y":2}`},
		{"POST", "drag", `{"startX":1,"startY":2,"endX":3,"endY":4}`}, {"POST", "scroll", `{"direction":"down"}`},
		{"POST", "type", `{"text":"x"}`}, {"POST", "key", `{"key":"a"}`}, {"POST", "exec", `{"command":"x"}`},
		{"POST", "bash", `{"script":"x"}`}, {"PUT", "clipboard", `{"text":"x"}`}, {"POST", "windows/7/activate", ""},
		{"PATCH", "display", `{"width":640,"height":400}`}, {"POST", "actions", `{"type":"click"}`}, {"POST", "lease", `{"durationMs":60000}`},
	} {
		p := b.problem(b.do(route.method, path+"/"+route.verb, route.body), http.StatusLocked)
		if p["holder"] != "Ada" || p["expiresAt"] != "2026-03-01T12:01:00Z" {
			t.Errorf("%s: %v", route.verb, p)
		}
		if got := b.do(route.method, path+"/"+route.verb, route.body, "Bureau-Lease: "+taken.Token); got.StatusCode >= 300 {
			t.Errorf("%s with the token: %s %s", route.verb, got.Status, got.body)
		}
	}
	for _, verb := range []string{"screenshot", "windows", "clipboard"} {
		b.into(b.do("GET", path+"/"+verb, ""), 200, nil)
	}

	// A batch stops where the lease begins, and says where; what only looks is done.
	p := b.problem(b.do("POST", path+"/actions", `[{"type":"screenshot"},{"type":"wait","ms":1},{"type":"click","x":1,"y":2}]`), http.StatusLocked)
	if p["index"] != 2.0 || p["completed"] != 2.0 || p["holder"] != "Ada" {
		t.Errorf("got %v", p)
	}
	b.into(b.do("POST", path+"/actions", `[{"type":"screenshot"},{"type":"cursor"}]`), 200, nil)

	b.problem(b.do("POST", path+"/lease", `{"durationMs":999}`), 400)
	b.problem(b.do("POST", path+"/lease", `{"durationMs":3600001}`), 400)
	b.into(b.do("DELETE", path+"/lease", ""), http.StatusNoContent, nil)
	b.into(b.do("DELETE", path+"/lease", ""), http.StatusNoContent, nil)
	b.into(b.do("POST", path+"/click", `{"x":1,"y":2}`), 200, nil)
	if strings.Contains(b.log.String(), taken.Token) {
		t.Error("the token is in the log")
	}
}
