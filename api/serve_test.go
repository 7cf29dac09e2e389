package api

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bureau/api/certificate"
	"bureau/desktop"
)

func httpRequest(ctx context.Context, url, body, key string) (*http.Request, error) {
	request, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err == nil {
		request.Header.Set("Authorization", "Bearer "+key)
	}
	return request, err
}

// served is a bench on real listeners; change may be nil, tune is for what no option is for.
func served(t *testing.T, grace time.Duration, change func(*Options), tune ...func(*Server)) (b *bench, tcp, socket string, stop func() error) {
	t.Helper()
	b = newBench(t, func(o *Options) {
		o.Grace = grace
		if change != nil {
			change(o)
		}
	})
	for _, one := range tune {
		one(b.server)
	}
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	socket = filepath.Join(t.TempDir(), "admin.sock")
	local, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.server.Serve(ctx, web, local) }()
	stop = func() error { cancel(); return <-done }
	t.Cleanup(cancel)
	return b, "http://" + web.Addr().String(), socket, stop
}

func TestServe(t *testing.T) {
	b, tcp, socket, stop := served(t, time.Minute, nil)
	unix := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	status := func(client *http.Client, url, key string) int {
		t.Helper()
		request, _ := http.NewRequestWithContext(t.Context(), "GET", url, nil)
		if key != "" {
			request.Header.Set("Authorization", "Bearer "+key)
		}
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	for _, c := range []struct {
		client    *http.Client
		base, key string
		want      int
	}{
		{unix, "http://bureau", "", 200},
		{unix, "http://bureau", b.key, 403},           // a key counts as that key
		{unix, "http://bureau", "sk_live_wrong", 401}, // also a bad one
		{http.DefaultClient, tcp, "", 401},
		{http.DefaultClient, tcp, b.key, 403},
	} {
		if got := status(c.client, c.base+"/v1/admin/users", c.key); got != c.want {
			t.Errorf("%s with %q: got %d, want %d", c.base, c.key, got, c.want)
		}
	}
	unix.CloseIdleConnections()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := http.Get(tcp + "/healthz"); err == nil {
		t.Error("a stopped server answers")
	}
}

func TestServeFinishesWhatIsInFlight(t *testing.T) {
	b, tcp, _, stop := served(t, time.Minute, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	b.OnExec = func(context.Context, desktop.Exec, func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		close(begun)
		<-release
		return desktop.ExecResult{Stdout: "done"}, nil
	}
	answer := make(chan string, 1)
	go func() {
		request, _ := httpRequest(context.Background(), tcp+"/v1/desktops/dt-1/exec", `{"command":"x"}`, b.key)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer response.Body.Close()
		body, _ := io.ReadAll(response.Body)
		answer <- string(body)
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- stop() }()
	// New connections are refused while the old one is still served.
	for {
		if _, err := net.Dial("tcp", strings.TrimPrefix(tcp, "http://")); err != nil {
			break
		}
	}
	close(release)
	if got := <-answer; !strings.Contains(got, "done") {
		t.Errorf("got %s", got)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestServeEndsWhatDoesNotEnd(t *testing.T) {
	b, tcp, _, stop := served(t, time.Millisecond, nil)
	begun := make(chan struct{})
	b.OnExec = func(ctx context.Context, _ desktop.Exec, _ func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		close(begun)
		<-ctx.Done()
		return desktop.ExecResult{}, ctx.Err()
	}
	answer := make(chan int, 1)
	go func() {
		request, _ := httpRequest(context.Background(), tcp+"/v1/desktops/dt-1/exec", `{"command":"x"}`, b.key)
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			answer <- 0
			return
		}
		response.Body.Close()
		answer <- response.StatusCode
	}()
	<-begun
	if err := stop(); err != nil {
		t.Error(err)
	}
	if got := <-answer; got != 503 {
		t.Errorf("the request that was cut short got %d", got)
	}
}

func TestServeTellsOfABrokenListener(t *testing.T) {
	b := newBench(t, nil)
	web, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	web.Close()
	if err := b.server.Serve(t.Context(), web, nil); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// TestServeOverTLS: the listener speaks TLS and HTTP/1.1, the limits of connections hold there, too, and
// another certificate ends no connection.
func TestServeOverTLS(t *testing.T) {
	folder := t.TempDir()
	shown, err := certificate.Generated(folder, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	strict := false
	b, address, _, stop := served(t, time.Second, func(o *Options) {
		o.TLS, o.StrictTransport, o.Connections = shown.TLS(), func() bool { return strict }, 2
	})
	address = strings.Replace(address, "http:", "https:", 1)
	client := func() *http.Client {
		t.Helper()
		trusted, err := certificate.Trust(shown.Fingerprint())
		if err != nil {
			t.Fatal(err)
		}
		transport := &http.Transport{TLSClientConfig: trusted, ForceAttemptHTTP2: true}
		t.Cleanup(transport.CloseIdleConnections)
		return &http.Client{Transport: transport}
	}
	reused := false
	trace := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }})
	ask := func(client *http.Client) *http.Response {
		t.Helper()
		request, err := http.NewRequestWithContext(trace, "GET", address+"/v1/me", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+b.key)
		response, err := client.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.Copy(io.Discard, response.Body); err != nil || response.StatusCode != 200 || response.ProtoMajor != 1 {
			t.Fatalf("got %s %s, %v", response.Proto, response.Status, err)
		}
		return response
	}
	for range 2 { // as many as there may be, which have not even begun
		defer raw(t, strings.Replace(address, "https:", "http:", 1), "127.0.0.1").Close()
	}
	first := client()
	if response := ask(first); response.Header.Get("Strict-Transport-Security") != "" || response.TLS == nil {
		t.Errorf("got %v", response.Header)
	}
	strict = true
	if response := ask(first); !strings.HasPrefix(response.Header.Get("Strict-Transport-Security"), "max-age=") || !reused {
		t.Errorf("got %v, on the same connection %t", response.Header, reused)
	}
	for _, file := range []string{certificate.CertFile, certificate.KeyFile} {
		if err := os.Remove(filepath.Join(folder, file)); err != nil {
			t.Fatal(err)
		}
	}
	before := shown.Fingerprint()
	if _, err := certificate.Generated(folder, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if err := shown.Reload(); err != nil || shown.Fingerprint() == before {
		t.Fatalf("the certificate is the former one: %v", err)
	}
	if ask(first); !reused {
		t.Error("the connection did not outlive its certificate")
	}
	ask(client()) // who trusts the new one
	if err := stop(); err != nil {
		t.Error(err)
	}
}
