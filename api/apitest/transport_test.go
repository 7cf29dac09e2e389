package apitest_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"bureau/api"
	"bureau/api/apitest"
)

// canned answers every request in the same way.
type canned struct {
	status     int
	kind, body string
}

func (c canned) RoundTrip(request *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: c.status, Status: http.StatusText(c.status), Request: request, ProtoMajor: 1, ProtoMinor: 1,
		Header: http.Header{"Content-Type": {c.kind}}, Body: io.NopCloser(strings.NewReader(c.body))}, nil
}

// TestTransportReports: a check that finds nothing is only worth something if it finds what is there.
func TestTransportReports(t *testing.T) {
	const (
		me      = `{"id":"","userId":"","email":"","role":"user","tier":"","capabilities":[],"expiresAt":null}`
		problem = `{"type":"/problems/invalid","title":"t","status":400,"detail":"d","error":"e","requestId":"r"}`
	)
	for _, c := range []struct {
		name, route, sent string
		answer            canned
		reported          bool
	}{
		{"good", "GET /v1/me", "", canned{200, "application/json", me}, false},
		{"unknown status", "GET /v1/me", "", canned{418, "application/json", me}, true},
		{"member missing", "GET /v1/me", "", canned{200, "application/json", `{"id":""}`}, true},
		{"member too many", "GET /v1/me", "", canned{200, "application/json", strings.Replace(me, "{", `{"x":1,`, 1)}, true},
		{"wrong type", "GET /v1/me", "", canned{200, "application/json", strings.Replace(me, `"tier":""`, `"tier":1`, 1)}, true},
		{"no enum", "GET /v1/me", "", canned{200, "application/json", strings.Replace(me, `"user"`, `"boss"`, 1)}, true},
		{"plain text", "GET /v1/me", "", canned{401, "text/plain", "no"}, true},
		{"unknown route", "GET /v2/me", "", canned{200, "application/json", me}, true},
		{"unknown route refused", "GET /v2/me", "", canned{404, "application/problem+json", problem}, false},
		{"bad request accepted", "POST /v1/desktops/dt-1/move", `{"x":"1"}`, canned{200, "application/json",
			`{"cursor":{"x":1,"y":1},"display":{"width":1,"height":1},"tookMs":1}`}, true},
		{"bad request refused", "POST /v1/desktops/dt-1/move", `{"x":"1"}`, canned{400, "application/problem+json", problem}, false},
		{"problem without its sentence", "POST /v1/desktops/dt-1/move", `{"x":"1"}`, canned{400, "application/problem+json",
			strings.Replace(problem, `"error":"e",`, "", 1)}, true},
	} {
		var reports []string
		transport, err := apitest.NewTransport(api.New(api.Options{}).OpenAPI(), c.answer, func(err error) { reports = append(reports, err.Error()) })
		if err != nil {
			t.Fatal(err)
		}
		method, path, _ := strings.Cut(c.route, " ")
		request, err := http.NewRequestWithContext(t.Context(), method, "http://bureau"+path, strings.NewReader(c.sent))
		if err != nil {
			t.Fatal(err)
		}
		response, err := transport.RoundTrip(request)
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(response.Body); string(body) != c.answer.body {
			t.Errorf("%s: the body was not handed on", c.name)
		}
		if (len(reports) > 0) != c.reported {
			t.Errorf("%s: reported %q", c.name, reports)
		}
		if transport.Checked() != 1 {
			t.Errorf("%s: %d exchanges checked", c.name, transport.Checked())
		}
	}
}
