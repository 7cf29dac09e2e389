//go:build !fuzz

package agent

// Left out of fuzzing, for which the vendors' clients would be compiled anew: that takes longer than all
// the rest.

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"bureau/assistant/gateway"
	"bureau/assistant/model"
)

const providersKey = "sk-of-the-host-0123456789"

// lent is one provider, without limits.
type lent struct{ endpoint model.Endpoint }

func (l lent) Chains(context.Context, string, string, ...model.Format) ([][]model.Endpoint, error) {
	return [][]model.Endpoint{{l.endpoint}}, nil
}
func (lent) Allow(context.Context, string, string) error { return nil }
func (lent) Record(context.Context, string, string, model.Endpoint, model.Usage) error {
	return nil
}

// tapped keeps what goes over a link.
type tapped struct {
	io.ReadWriteCloser
	mu   sync.Mutex
	seen bytes.Buffer
}

func (t *tapped) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.seen.Write(p)
	t.mu.Unlock()
	return t.ReadWriteCloser.Write(p)
}

func (t *tapped) Read(p []byte) (int, error) {
	n, err := t.ReadWriteCloser.Read(p)
	t.mu.Lock()
	t.seen.Write(p[:n])
	t.mu.Unlock()
	return n, err
}

// A program in the guest speaks to a provider all the way through, piece by piece, and its going away
// is heard at the other end. The key does not come near the guest, also when it is asked for.
func TestGatewayOverTheLink(t *testing.T) {
	next, gone := make(chan string), make(chan struct{})
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.Header.Get("X-Api-Key") != providersKey {
			t.Errorf("the provider got the key %q", r.Header.Get("X-Api-Key"))
		}
		if strings.Contains(string(body), "echo") {
			w.WriteHeader(http.StatusBadRequest)
			io.WriteString(w, `{"error":{"message":"your key is `+r.Header.Get("X-Api-Key")+`"}}`)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		flush := http.NewResponseController(w)
		flush.Flush()
		for {
			select {
			case line := <-next:
				io.WriteString(w, line)
				flush.Flush()
			case <-r.Context().Done():
				close(gone)
				return
			}
		}
	}))
	defer provider.Close()
	l := lent{model.Endpoint{Format: model.Anthropic, BaseURL: provider.URL, Key: providersKey, Model: "m"}}
	g := gateway.New(gateway.Options{Providers: l, Meter: l, Log: testLog(t),
		Client: func(model.Endpoint) *http.Client { return provider.Client() },
		Owner:  func(_ context.Context, id string) (string, error) { return "usr-1", nil },
	})
	p, address := newPort(), freeAddress(t)
	startGuest(t, p, Options{Models: address})
	link := &tapped{ReadWriteCloser: p.connect()}
	answers(t, connect(t, &Connector{Handler: g.For}, link))

	ctx, cancel := context.WithCancel(testContext(t))
	ask := func(body string) (*http.Response, error) {
		request, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/anthropic/v1/messages", strings.NewReader(body))
		request.Header.Set("X-Api-Key", placeholder)
		return http.DefaultTransport.RoundTrip(request)
	}
	var response *http.Response
	poll(t, "the agent listens", func() bool {
		var err error
		response, err = ask(`{"model":"echo"}`)
		return err == nil
	})
	text, _ := io.ReadAll(response.Body)
	response.Body.Close()
	if response.StatusCode != http.StatusBadRequest || !strings.Contains(string(text), "your key is [key]") {
		t.Errorf("%s %s", response.Status, text)
	}
	response, err := ask(`{"model":"m","stream":true}`)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	lines := bufio.NewReader(response.Body)
	for _, line := range []string{"data: {}\n", "\n", "data: {\"a\":1}\n"} {
		next <- line // and no more until it has been read
		if got, err := lines.ReadString('\n'); err != nil || got != line {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	cancel()
	wait(t, gone, "the provider's hearing that the program has gone")
	link.mu.Lock()
	defer link.mu.Unlock()
	if !bytes.Contains(link.seen.Bytes(), []byte("your key is")) || bytes.Contains(link.seen.Bytes(), []byte(providersKey)) {
		t.Error("the key went over the link, or nothing did")
	}
}
