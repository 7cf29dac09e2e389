package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
)

// reply is an answer of the API.
type reply struct {
	status int
	header http.Header
	body   []byte
}

func (r reply) String() string { return fmt.Sprintf("%d %.600s", r.status, r.body) }

// leaseToken is where a context has the token of an input lease, which requests made in it carry.
type leaseToken struct{}

// send makes a request. body is JSON already when it is bytes or a reader, and is encoded else.
func (a *appliance) send(ctx context.Context, method, path string, body any) (reply, error) {
	var reader io.Reader
	switch b := body.(type) {
	case nil:
	case []byte:
		reader = bytes.NewReader(b)
	case io.Reader:
		reader = b
	default:
		data, err := json.Marshal(b)
		if err != nil {
			return reply{}, err
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, a.url+path, reader)
	if err != nil {
		return reply{}, err
	}
	request.Header.Set("Authorization", "Bearer "+a.key)
	if token, held := ctx.Value(leaseToken{}).(string); held {
		request.Header.Set("Bureau-Lease", token)
	}
	if reader != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	response, err := a.http.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, data}, err
}

// call makes a request that succeeds, and returns what it answered.
func (a *appliance) call(t testing.TB, method, path string, body any) reply {
	t.Helper()
	r, err := a.send(t.Context(), method, path, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if r.status/100 != 2 {
		t.Fatalf("%s %s: %s", method, path, r)
	}
	return r
}

// problem is a failure's document.
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Error  string `json:"error"`
}

// wantProblem checks that an answer is a problem document of the status whose sentence names all
// that it should.
func wantProblem(t testing.TB, r reply, status int, names ...string) {
	t.Helper()
	if r.status != status {
		t.Errorf("status is %d, not %d: %s", r.status, status, r)
		return
	}
	if got := r.header.Get("Content-Type"); !strings.HasPrefix(got, "application/problem+json") {
		t.Errorf("content type is %q", got)
	}
	p := decode[problem](t, r.body)
	if p.Status != status || p.Type == "" || p.Title == "" || p.Error == "" {
		t.Errorf("the problem document is not complete: %s", r.body)
	}
	for _, name := range names {
		if !strings.Contains(p.Error, name) && !strings.Contains(p.Detail, name) {
			t.Errorf("the problem does not name %q: %s", name, r.body)
		}
	}
}

// state is what the tests read of a desktop.
type state struct {
	ID           string `json:"id"`
	Name         string `json:"name"`
	Status       string `json:"status"`
	Reason       string `json:"reason"`
	AgentReady   bool   `json:"agentReady"`
	BootStage    string `json:"bootStage"`
	IPAddress    string `json:"ipAddress"`
	Acceleration string `json:"acceleration"`
	Network      string `json:"network"`
	Owner        string `json:"owner"`
}

// desktop asks for a desktop's state.
func (a *appliance) desktop(ctx context.Context, id string) (state, error) {
	r, err := a.send(ctx, http.MethodGet, "/v1/desktops/"+id, nil)
	if err != nil {
		return state{}, err
	}
	if r.status != http.StatusOK {
		return state{}, fmt.Errorf("GET desktop: %s", r)
	}
	var s state
	return s, json.Unmarshal(r.body, &s)
}

// readied waits until a desktop can be used.
func (a *appliance) readied(ctx context.Context, id string) error {
	return until(ctx, bootPatience, func(ctx context.Context) error {
		s, err := a.desktop(ctx, id)
		switch {
		case err != nil:
			return err
		case s.Status == "error":
			return permanent(fmt.Errorf("the desktop has failed: %s", s.Reason))
		case s.Status != "running" || !s.AgentReady:
			return fmt.Errorf("the desktop is %s (%s), agentReady %t, %s", s.Status, s.BootStage, s.AgentReady, s.Reason)
		}
		return nil
	})
}
