package api

import (
	"net/http"
	"strings"
	"testing"

	"bureau/assistant/provider"
	"bureau/assistant/usage"
	"bureau/desktop"
)

// A provider of somebody else is as unknown as one that never was; a desktop's is not among its
// owner's.
func TestProvidersOfOthers(t *testing.T) {
	b := newBench(t, nil)
	for _, route := range []struct{ method, path, body string }{
		{"GET", "", ""}, {"PATCH", "", `{"model":"x"}`}, {"POST", "/test", ""}, {"DELETE", "", ""},
	} {
		for _, id := range []string{"prv-2", "prv-3", "prv-none"} { // a desktop's, another user's, nobody's
			b.problem(b.do(route.method, "/v1/providers/"+id+route.path, route.body), http.StatusNotFound)
		}
	}
	var list []provider.Provider
	b.into(b.do("GET", "/v1/providers", ""), 200, &list)
	if len(list) != 1 || list[0].ID != "prv-1" {
		t.Errorf("listed %+v", list)
	}
}

// A desktop is made together with its provider, or not at all, and the key is in no log.
func TestCreateWithProvider(t *testing.T) {
	b := newBench(t, nil)
	const secret = "sk-ant-api03-never-to-be-seen"
	var made desktop.Desktop
	config := `,"providerConfig":{"provider":"anthropic","apiKey":"` + secret + `","model":"claude-sonnet-5-5","embeddingsApiKey":"` + secret + `","embeddingsModel":"e"}}`
	got := b.do("POST", "/v1/desktops", `{"name":"new"`+config)
	b.into(got, 201, &made)
	var p provider.Provider
	b.into(b.do("GET", "/v1/desktops/"+made.ID+"/provider", ""), 200, &p)
	if p.DesktopID != made.ID || strings.Contains(string(got.body), secret) {
		t.Errorf("the provider is %+v, the answer %s", p, got.body)
	}
	b.do("POST", "/v1/providers", `{"provider":"openai","apiKey":"`+secret+`","model":["`+secret+`"]}`)
	b.do("PUT", "/v1/desktops/dt-1/provider", `{"provider":"openai","apiKey":"`+secret+`","unknown":1}`)

	count := func() int {
		var list []desktop.Desktop
		b.into(b.do("GET", "/v1/desktops", ""), 200, &list)
		return len(list)
	}
	before := count()
	b.problem(b.do("POST", "/v1/desktops", `{"name":"other","providerConfig":{"provider":"anthropic"}}`), 400)
	b.problem(b.do("POST", "/v1/desktops", `{"name":"other","providerConfig":{"provider":"nobody","apiKey":"x"}}`), 400)
	b.Fail = func(method string) error {
		if method == "SetProvider" {
			return desktop.Errorf(desktop.Unavailable, "not now")
		}
		return nil
	}
	b.problem(b.do("POST", "/v1/desktops", `{"name":"other"`+config), 503)
	if after := count(); after != before {
		t.Errorf("%d desktops became %d", before, after)
	}
	if strings.Contains(b.log.String(), secret) {
		t.Errorf("the log has the key:\n%s", b.log)
	}
}

func TestUsage(t *testing.T) {
	b := newBench(t, nil)
	var rows []usage.Row
	b.into(b.do("GET", "/v1/usage?since=2026-01-02T03:04:05Z&until=2026-02-02T03:04:05Z&desktop=dt-1", ""), 200, &rows)
	if len(rows) != 1 || rows[0].Input != 10 || rows[0].DesktopID != "dt-1" {
		t.Errorf("%+v", rows)
	}
	b.into(b.do("GET", "/v1/usage?desktop=dt-2", ""), 200, &rows)
	if len(rows) != 0 {
		t.Errorf("another user's: %+v", rows)
	}
	b.problem(b.do("GET", "/v1/usage?since=yesterday", ""), 400)
}
