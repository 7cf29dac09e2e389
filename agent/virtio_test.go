package agent

import (
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/desktop"
)

// port imitates a virtio-serial port in memory: neither end is told when the process at the other
// one is replaced, what one process wrote may reach the successor of the one it was written for, the
// guest reads an end of file while no host is connected, and its writes wait.
type port struct {
	mu      sync.Mutex
	moved   *sync.Cond
	toGuest []byte
	toHost  []byte
	host    *portEnd // the connected one; nil while there is none
	guest   *portEnd
}

const portBuffer = 48 << 10

func newPort() *port {
	p := &port{}
	p.moved = sync.NewCond(&p.mu)
	return p
}

// portEnd is one process's hold of an end.
type portEnd struct {
	port   *port
	host   bool
	closed bool
}

// connect makes a host the connected one; the guest need not notice.
func (p *port) connect() *portEnd {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &portEnd{port: p, host: true}
	if p.host != nil {
		p.host.closed = true
	}
	p.host = e
	p.moved.Broadcast()
	return e
}

// open is a guest process's opening of the device.
func (p *port) open() *portEnd {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.guest = &portEnd{port: p}
	return p.guest
}

func (e *portEnd) Read(b []byte) (int, error) {
	p := e.port
	p.mu.Lock()
	defer p.mu.Unlock()
	from := &p.toGuest
	if e.host {
		from = &p.toHost
	}
	for {
		switch {
		case e.closed:
			return 0, net.ErrClosed
		case len(*from) > 0:
			n := copy(b, *from)
			*from = (*from)[n:]
			p.moved.Broadcast()
			return n, nil
		case !e.host && p.host == nil:
			return 0, io.EOF
		}
		p.moved.Wait()
	}
}

func (e *portEnd) Write(b []byte) (int, error) {
	p := e.port
	p.mu.Lock()
	defer p.mu.Unlock()
	to := &p.toHost
	if e.host {
		to = &p.toGuest
	}
	for total := 0; ; {
		if e.closed {
			return total, net.ErrClosed
		}
		if room := portBuffer - len(*to); room > 0 && (e.host || p.host != nil) {
			n := min(room, len(b)-total)
			*to = append(*to, b[total:total+n]...)
			total += n
			p.moved.Broadcast()
		}
		if total == len(b) {
			return total, nil
		}
		p.moved.Wait()
	}
}

// Close is also what a kill looks like from outside.
func (e *portEnd) Close() error {
	p := e.port
	p.mu.Lock()
	defer p.mu.Unlock()
	e.closed = true
	if p.host == e {
		p.host = nil
	}
	p.moved.Broadcast()
	return nil
}

// stale leaves bytes of dead sessions in both directions.
func (p *port) stale(toGuest, toHost []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.toGuest = append(p.toGuest, toGuest...)
	p.toHost = append(p.toHost, toHost...)
}

// startGuest runs an agent in this process; stop ends it as a kill would, and waits.
func startGuest(t testing.TB, p *port, o Options) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if o.Log == nil {
		o.Log = testLog(t)
	}
	if o.Version == "" {
		o.Version = "test"
	}
	if o.User == "" {
		o.User = testUser()
	}
	end := p.open()
	done := make(chan struct{})
	go func() {
		defer close(done)
		serve(ctx, end, o)
	}()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			end.Close()
			cancel()
			wait(t, done, "the agent's end")
		})
	}
	t.Cleanup(stop)
	return stop
}

func testLog(t testing.TB) *slog.Logger {
	if os.Getenv("AGENT_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

const patience = 60 * time.Second

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// testDesktop is whose link the tests' is.
const testDesktop = "dt-test"

func testContext(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

func connect(t testing.TB, c *Connector, pipe io.ReadWriteCloser) desktop.Agent {
	t.Helper()
	if c.Log == nil {
		c.Log = testLog(t)
	}
	a, err := c.Connect(testContext(t), testDesktop, pipe)
	if err != nil {
		t.Fatalf("connecting: %v", err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// answers asks for something small.
func answers(t *testing.T, a desktop.Agent) {
	t.Helper()
	r, err := a.Exec(testContext(t), desktop.Exec{Script: "echo here"}, nil)
	if err != nil || r.Stdout != "here\n" {
		t.Fatalf("exec answered %q, %v", r.Stdout, err)
	}
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func code(t *testing.T, err error, want desktop.Code, message string) {
	t.Helper()
	if err == nil || desktop.CodeOf(err) != want || !strings.Contains(err.Error(), message) {
		t.Fatalf("the error is %v (%s), want %s with %q", err, desktop.CodeOf(err), want, message)
	}
}
