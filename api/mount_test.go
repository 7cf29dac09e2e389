package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bureau/desktop"
)

// guest is a mounted handler that does one request to the API for each of its own; its GET is a
// stream without end.
type guest struct {
	closed  atomic.Bool
	streams chan error // receives why a stream has ended
}

func (g *guest) Close() error { g.closed.Store(true); return nil }

func (g *guest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	m, ok := ContextMounted(r.Context())
	if !ok {
		panic("not mounted")
	}
	if r.Method == http.MethodGet {
		w.WriteHeader(http.StatusOK)
		http.NewResponseController(w).Flush()
		<-r.Context().Done()
		g.streams <- r.Context().Err()
		return
	}
	var ask struct{ Method, Path, Body string }
	if err := json.NewDecoder(r.Body).Decode(&ask); err != nil {
		panic(err)
	}
	inner, err := http.NewRequestWithContext(r.Context(), ask.Method, "http://bureau"+ask.Path, strings.NewReader(ask.Body))
	if err != nil {
		panic(err)
	}
	inner.Header.Set("Content-Type", "application/json")
	inner.Header.Set("Authorization", "Bearer sk_live_somebody_elses") // which is not the guest's to say
	answer, err := m.Transport.RoundTrip(inner)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer answer.Body.Close()
	w.WriteHeader(answer.StatusCode)
	io.Copy(w, answer.Body)
}

func TestMountedHandlerSpeaksForItsCaller(t *testing.T) {
	b := newBench(t, func(o *Options) { o.RatePerMinute, o.Burst = 60, 4 })
	b.server.Mount("/guest", "guest", &guest{})
	// The document does not tell of what is mounted.
	b.client = &http.Client{}

	for _, c := range []struct {
		key, body string
		status    int
		says      string
	}{
		{b.key, `{"method":"GET","path":"/v1/me"}`, 200, `"usr-1"`},
		{b.other, `{"method":"GET","path":"/v1/desktops/dt-1"}`, 404, "there is no desktop"},
		{b.other, `{"method":"GET","path":"/v1/desktops/dt-2"}`, 200, "dt-2"},
		{b.key, `{"method":"POST","path":"/v1/desktops/dt-1/click","body":"{\"x\":1,\"y\":2}"}`, 200, "cursor"},
		{b.key, `{"method":"POST","path":"/v1/desktops/dt-1/click","body":"{\"z\":1}"}`, 400, "unknown field"},
		{b.key, `{"method":"GET","path":"/v1/admin/users"}`, 403, administrationSocket},
	} {
		got := b.do("POST", "/guest", c.body, "Authorization: Bearer "+c.key)
		if got.StatusCode != c.status || !strings.Contains(string(got.body), c.says) {
			t.Errorf("%s: %s %s", c.body, got.Status, got.body)
		}
	}
	// Four requests were made with the first key, as many as it may; those within did not count.
	b.problem(b.do("POST", "/guest", `{"method":"GET","path":"/v1/me"}`), http.StatusTooManyRequests)
	b.problem(b.do("POST", "/guest", `{}`, "Authorization: "), http.StatusUnauthorized)
	b.problem(b.do("POST", "/guest", strings.Repeat(" ", largeBodyLimit+1), "Authorization: Bearer "+b.other), http.StatusRequestEntityTooLarge)

	// On the administration socket it speaks for the operator.
	w := b.asLocal("POST", "/guest", `{"method":"GET","path":"/v1/admin/users"}`)
	if w.Code != http.StatusOK || !strings.Contains(w.Body.String(), "usr-2") {
		t.Errorf("the operator's: %d %s", w.Code, w.Body)
	}

	// A panic stays inside.
	b.Fail = func(string) error { panic("a fault") }
	if w := b.asLocal("POST", "/guest", `{"method":"GET","path":"/v1/desktops"}`); w.Code != http.StatusInternalServerError {
		t.Errorf("after a panic: %d %s", w.Code, w.Body)
	}
}

// TestWithinStreams: an answer within the process is read as it is written, and its handler ends when
// nobody reads on.
func TestWithinStreams(t *testing.T) {
	b := newBench(t, nil)
	ended := make(chan error, 1)
	b.OnExec = func(ctx context.Context, _ desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		output(desktop.Stdout, []byte("first"))
		<-ctx.Done()
		ended <- ctx.Err()
		return desktop.ExecResult{}, ctx.Err()
	}
	transport := within{server: b.server, authorization: "Bearer " + b.key}
	request, err := http.NewRequestWithContext(t.Context(), "POST", "http://bureau/v1/desktops/dt-1/exec", strings.NewReader(`{"command":"x"}`))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", eventStream)
	response, err := transport.RoundTrip(request)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%+v, %v", response, err)
	}
	piece := make([]byte, 1024)
	n, err := response.Body.Read(piece)
	if err != nil || !strings.Contains(string(piece[:n]), "first") {
		t.Errorf("read %q, %v", piece[:n], err)
	}
	response.Body.Close()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the command ended with %v", err)
	}
}

// TestMountedStreamsEndWithTheServer at once, without using up the time that requests are given.
func TestMountedStreamsEndWithTheServer(t *testing.T) {
	b := newBench(t, func(o *Options) { o.Grace = time.Minute })
	g := &guest{streams: make(chan error, 1)}
	b.server.Mount("/guest", "guest", g)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- b.server.Serve(ctx, web, nil) }()
	request, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+web.Addr().String()+"/guest", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+b.AddKey("usr-1", nil, desktop.CanRead))
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	stop()
	if err := <-g.streams; !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with %v", err)
	}
	if err := <-served; err != nil || !g.closed.Load() {
		t.Errorf("the server ended with %v, the handler is closed: %v", err, g.closed.Load())
	}
}
