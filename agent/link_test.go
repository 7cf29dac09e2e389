package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"bureau/desktop"
)

func TestFrames(t *testing.T) {
	f := frame{kind: kindAck, protocol: 7, host: newNonce(), guest: newNonce(), binary: [32]byte{1, 2}, version: "1.2.3"}
	whole := f.encode()
	damaged := bytes.Clone(whole)
	damaged[60] ^= 1
	for name, c := range map[string]struct {
		in   []byte
		want []frame
		left int
	}{
		"alone":           {whole, []frame{f}, 0},
		"after garbage":   {append([]byte("\xf5\xf5BUR garbage"), whole...), []frame{f}, 0},
		"after damage":    {append(bytes.Clone(damaged), whole...), []frame{f}, 0},
		"inside a begun":  {append(bytes.Clone(whole[:50]), whole...), []frame{f}, 0},
		"twice":           {append(bytes.Clone(whole), whole...), []frame{f, f}, 0},
		"not yet":         {whole[:100], nil, 100},
		"one byte":        {whole[:1], nil, 1},
		"only garbage":    {bytes.Repeat([]byte{0xff}, 1000), nil, 0},
		"followed by mux": {append(bytes.Clone(whole), 0, 2, 0, 1), []frame{f}, 4},
	} {
		t.Run(name, func(t *testing.T) {
			r := &frameReader{r: iotest{bytes.NewReader(c.in)}}
			for i, want := range c.want {
				got, err := r.next()
				if err != nil || got != want {
					t.Fatalf("frame %d is %+v, %v", i, got, err)
				}
			}
			if len(c.want) == 0 {
				if got, err := r.next(); err != io.EOF {
					t.Fatalf("got %+v, %v", got, err)
				}
			}
			left, _ := io.ReadAll(r.r)
			if n := len(r.rest()) + len(left); n != c.left {
				t.Errorf("%d bytes are left, want %d", n, c.left)
			}
		})
	}
}

// iotest gives one byte at a time half of the time.
type iotest struct{ r *bytes.Reader }

func (r iotest) Read(p []byte) (int, error) {
	if r.r.Len()%2 == 0 && len(p) > 1 {
		p = p[:1]
	}
	return r.r.Read(p)
}

func FuzzFrames(f *testing.F) {
	whole := frame{kind: kindHello, protocol: 1, host: newNonce()}.encode()
	f.Add(whole)
	f.Add(append(bytes.Clone(magic[:]), whole...))
	f.Add(whole[:127])
	f.Fuzz(func(t *testing.T, in []byte) {
		_, used, ok := findFrame(in)
		if used > len(in) || ok && used < frameSize || !ok && len(in)-used >= frameSize {
			t.Fatalf("used %d of %d, %v", used, len(in), ok)
		}
		// Whatever came before, a whole frame after it is found.
		r := &frameReader{r: bytes.NewReader(append(bytes.Clone(in), whole...))}
		want, _, _ := findFrame(whole)
		for {
			got, err := r.next()
			if err != nil {
				t.Fatalf("the frame after %x was not found: %v", in, err)
			}
			if got == want {
				return
			}
		}
	})
}

func FuzzGuard(f *testing.F) {
	f.Add([]byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1}, 3)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2, 9, 9, 0}, 5)
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0xff, 0, 0, 0}, 1)
	f.Fuzz(func(t *testing.T, in []byte, at int) {
		var whole, split guard
		want := whole.check(in)
		at = min(max(at, 0), len(in))
		got := split.check(in[:at])
		if got == nil {
			got = split.check(in[at:])
		}
		if (want == nil) != (got == nil) {
			t.Fatalf("%v in one read, %v in two", want, got)
		}
		if whole.body > maxBody {
			t.Fatalf("a body of %d", whole.body)
		}
	})
}

func TestConnect(t *testing.T) {
	half := frame{kind: kindReady, protocol: protocol, host: newNonce(), guest: newNonce()}.encode()
	old := frame{kind: kindHello, protocol: protocol, host: newNonce()}.encode()
	start := frame{kind: kindStart, protocol: protocol, host: newNonce(), guest: newNonce()}.encode()
	for name, c := range map[string]struct{ toGuest, toHost []byte }{
		"clean":               {},
		"random bytes":        {randomBytes(30_000), randomBytes(30_000)},
		"frames of the dead":  {append(bytes.Clone(old), start...), append(bytes.Clone(half), half...)},
		"a frame's beginning": {old[:70], half[:127]},
		"a session's frames":  {bytes.Repeat([]byte{0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9}, 100), bytes.Repeat([]byte{0}, 40_000)},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPort()
			p.stale(c.toGuest, c.toHost)
			startGuest(t, p, Options{})
			a := connect(t, &Connector{}, p.connect())
			if v := a.Status().Version; v != "test" {
				t.Errorf("version %q", v)
			}
			answers(t, a)
		})
	}
}

// The host is there first and waits for a guest that boots.
func TestConnectBeforeGuest(t *testing.T) {
	p := newPort()
	type result struct {
		a   desktop.Agent
		err error
	}
	connected := make(chan result, 1)
	end := p.connect()
	go func() {
		a, err := (&Connector{}).Connect(testContext(t), testDesktop, end)
		connected <- result{a, err}
	}()
	poll(t, "the first hello", func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return len(p.toGuest) > len(flush)
	})
	startGuest(t, p, Options{})
	r := wait(t, connected, "the session")
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.a.Close()
	answers(t, r.a)
}

func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestConnectGivesUpWithContext(t *testing.T) {
	for name, prepare := range map[string]func(*port){
		"no guest":             func(*port) {},
		"a guest that is full": func(p *port) { p.stale(randomBytes(portBuffer), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			p := newPort()
			prepare(p)
			end := p.connect()
			ctx, cancel := context.WithCancel(context.Background())
			failed := make(chan error, 1)
			go func() {
				_, err := (&Connector{}).Connect(ctx, testDesktop, end)
				failed <- err
			}()
			cancel()
			if err := wait(t, failed, "the end of Connect"); !errors.Is(err, context.Canceled) {
				t.Errorf("the error is %v", err)
			}
			if !end.closed {
				t.Error("the stream was left open")
			}
		})
	}
}

func TestConnectStreamEnds(t *testing.T) {
	p := newPort()
	end := p.connect()
	failed := make(chan error, 1)
	go func() {
		_, err := (&Connector{}).Connect(testContext(t), testDesktop, end)
		failed <- err
	}()
	end.Close()
	if err := wait(t, failed, "the end of Connect"); err == nil {
		t.Error("connected to nothing")
	}
}

// A host that dies, with or without the guest noticing, idle or in the middle of a large request,
// is followed by another.
func TestHostReplaced(t *testing.T) {
	for name, replace := range map[string]func(p *port, old *portEnd) *portEnd{
		"noticed": func(p *port, old *portEnd) *portEnd {
			old.Close()
			return p.connect()
		},
		"unnoticed": func(p *port, old *portEnd) *portEnd { return p.connect() },
		"in the middle of a frame": func(p *port, old *portEnd) *portEnd {
			p.mu.Lock()
			p.toGuest = append(p.toGuest, 0, 0, 0, 1, 0, 0, 0, 77, 0, 0, 0x80, 0, 1, 2, 3)
			p.mu.Unlock()
			return p.connect()
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPort()
			startGuest(t, p, Options{})
			old := p.connect()
			first := connect(t, &Connector{}, old)
			answers(t, first)
			second := connect(t, &Connector{}, replace(p, old))
			answers(t, second)
			wait(t, first.Done(), "the end of the first session")
		})
	}
}

// An agent that is killed while the host is in a session, idle or in the middle of a frame, is
// noticed by its successor's coming.
func TestGuestReplaced(t *testing.T) {
	for name, between := range map[string][]byte{
		"idle":                      nil,
		"in the middle of a frame":  {0, 0, 0, 1, 0, 0, 0, 77, 0, 0, 0x80, 0, 1, 2, 3},
		"in the middle of a header": {0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPort()
			stop := startGuest(t, p, Options{})
			first := connect(t, &Connector{}, p.connect())
			answers(t, first)
			stop()
			p.stale(nil, between)
			startGuest(t, p, Options{})
			wait(t, first.Done(), "the end of the first session")
			_, err := first.Exec(testContext(t), desktop.Exec{Script: "true"}, nil)
			code(t, err, desktop.Unavailable, "went away")
			answers(t, connect(t, &Connector{}, p.connect()))
		})
	}
}

func TestSessionCloses(t *testing.T) {
	p := newPort()
	startGuest(t, p, Options{})
	end := p.connect()
	a := connect(t, &Connector{}, end)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	wait(t, a.Done(), "the session's end")
	if !end.closed {
		t.Error("the stream was left open")
	}
	if err := a.Close(); err != nil {
		t.Errorf("closing again: %v", err)
	}
	answers(t, connect(t, &Connector{}, p.connect()))
}

func TestOtherProtocol(t *testing.T) {
	p := newPort()
	guest := p.open()
	host := p.connect() // before the guest reads, which would be an end of file
	go func() {
		frames := &frameReader{r: guest}
		for {
			f, err := frames.next()
			if err != nil {
				return
			}
			if f.kind == kindHello {
				guest.Write(frame{kind: kindAck, protocol: 9, host: f.host, guest: newNonce(), version: "99"}.encode())
			}
		}
	}()
	defer guest.Close()
	_, err := (&Connector{}).Connect(testContext(t), testDesktop, host)
	code(t, err, desktop.Unavailable, "protocol 9")
}

// Requests go both ways, and the guest's fail clearly while there is no host.
func TestUplink(t *testing.T) {
	p := newPort()
	uplink := new(Uplink)
	startGuest(t, p, Options{Uplink: uplink})
	client := &http.Client{Transport: uplink}
	if _, err := client.Get("http://host/x"); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("without a host the error is %v", err)
	}
	a := connect(t, &Connector{Handler: func(id string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(w, r.Body)
			io.WriteString(w, id+r.URL.Path)
		})
	}}, p.connect())
	big := randomBytes(3 << 20)
	response, err := client.Post("http://host/path", "", bytes.NewReader(big))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil || !bytes.Equal(got, append(big, testDesktop+"/path"...)) {
		t.Errorf("%d bytes came back, %v", len(got), err)
	}
	a.Close()
}
