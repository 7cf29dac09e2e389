package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"bureau/desktop"
)

// The words of a guest in the handshake, each of which is one byte of a script. Others are bytes as
// they are.
const (
	sayAck        = iota // to the host's last hello
	sayOtherAck          // to a hello of somebody else's
	sayReady             // with the nonces of the last ack
	sayOtherReady        // with other ones
	sayBoot
	sayDamaged // a right ack but for its checksum
	sayHalf    // half of one
	sayHello   // what is the host's to say
	sayOtherProtocol
	sayings
)

// scripted is a pipe to a guest that says what a script has, and hangs up.
type scripted struct {
	script []byte

	mu    sync.Mutex
	moved *sync.Cond
	said  bytes.Buffer // by the host, from its last frame on
	host  nonce        // of the host's last hello
	ended bool

	ready bool // an ack was said, and a ready upon it
	acked bool
	mine  nonce
}

func (s *scripted) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.said.Write(p)
	for {
		f, used, ok := findFrame(s.said.Bytes())
		s.said.Next(used)
		if !ok {
			return len(p), nil
		}
		if f.kind == kindHello {
			s.host = f.host
			s.moved.Broadcast()
		}
	}
}

func (s *scripted) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.host == (nonce{}) && !s.ended {
		s.moved.Wait()
	}
	if len(s.script) == 0 || s.ended {
		return 0, io.EOF
	}
	word := s.script[0]
	s.script = s.script[1:]
	ack := frame{kind: kindAck, protocol: protocol, host: s.host, guest: s.mine, version: "v"}
	switch word {
	case sayAck:
		s.acked = true
		return copy(p, ack.encode()), nil
	case sayOtherAck:
		ack.host = nonce{1}
	case sayReady:
		s.ready = s.ready || s.acked
		ack.kind = kindReady
	case sayOtherReady:
		ack.kind, ack.guest = kindReady, nonce{2}
	case sayBoot:
		ack = frame{kind: kindBoot, protocol: protocol}
	case sayDamaged:
		b := ack.encode()
		b[50] ^= 1
		return copy(p, b), nil
	case sayHalf:
		return copy(p, ack.encode()[:frameSize/2]), nil
	case sayHello:
		ack.kind = kindHello
	case sayOtherProtocol:
		ack.protocol++
	default:
		return copy(p, []byte{word}), nil
	}
	return copy(p, ack.encode()), nil
}

func (s *scripted) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	s.moved.Broadcast()
	return nil
}

// FuzzHandshake has a guest say anything: the host believes only who answers its own hello, and comes to
// an end when the guest does.
func FuzzHandshake(f *testing.F) {
	f.Add([]byte{sayAck, sayReady})
	f.Add([]byte{sayBoot, sayAck, sayBoot, sayAck, sayReady})
	f.Add([]byte{sayOtherAck, sayReady, sayDamaged, sayHalf, sayAck, sayOtherReady, sayReady, 0, 0})
	f.Add(append(bytes.Clone(magic[:]), sayHello, sayOtherProtocol))
	f.Fuzz(func(t *testing.T, script []byte) {
		if len(script) > 1000 || bytes.Count(script, []byte{sayBoot}) > 3 { // each of which takes its time
			return
		}
		pipe := &scripted{script: script, mine: newNonce()}
		pipe.moved = sync.NewCond(&pipe.mu)
		w := newWire(pipe, false, newToll())
		defer w.close()
		l := w.leg()
		p, err := greet(context.Background(), l)
		pipe.mu.Lock()
		defer pipe.mu.Unlock()
		switch {
		case err == nil && (!pipe.ready || p.version != "v"):
			t.Fatalf("%v was believed as %+v", script, p)
		case err == nil && len(l.unread) > 4*frameSize:
			t.Fatalf("%d bytes are kept", len(l.unread))
		case err != nil && !errors.Is(err, io.EOF) && desktop.CodeOf(err) != desktop.Unavailable:
			t.Fatalf("%v ended with %v", script, err)
		}
	})
}

// FuzzSession has a guest that has shaken hands send anything instead of frames, or among them: the
// session ends when the link does, and nothing is kept of it.
func FuzzSession(f *testing.F) {
	request := "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"
	opened := append([]byte{0, muxData, 0, flagSYN, 0, 0, 0, 2, 0, 0, 0, byte(len(request))}, request...)
	f.Add(opened)
	f.Add(append(bytes.Clone(opened), 0, muxWindow, 0, 4, 0, 0, 0, 2, 0, 0, 0, 0))
	f.Add([]byte{0, muxWindow, 0, flagSYN, 0, 0, 0, 3, 0, 0, 0, 0})
	f.Add([]byte{0, muxWindow, 0, flagSYN, 0, 0, 0, 2, 0, 0, 0, 0, 0, muxWindow, 0, flagSYN | flagRST, 0, 0, 0, 2, 0, 0, 0, 0})
	f.Add([]byte{0, muxPing, 0, flagSYN, 0, 0, 0, 0, 0, 0, 0, 7, 0, muxGoAway, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1})
	f.Fuzz(sessionOf)
}

// sessionOf has a session of which this is all that the guest sends.
func sessionOf(t *testing.T, in []byte) {
	w := newWire(&oneWay{bytes.NewReader(in)}, false, newToll())
	defer w.close()
	log := slog.New(slog.DiscardHandler)
	m, err := newMux(w.leg(), true, log)
	if err != nil {
		t.Fatal(err)
	}
	m.serve(context.Background(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, io.LimitReader(r.Body, 1<<20))
	}), guestStreams, log)
	m.close()
	m.unread.mu.Lock()
	defer m.unread.mu.Unlock()
	if m.unread.total < 0 || m.unread.total > len(in) {
		t.Fatalf("%d bytes of %d lie unread", m.unread.total, len(in))
	}
}

// A session that ends while a stream is read and closed comes to its end, whatever the moment.
func TestSessionsEnd(t *testing.T) {
	in := append([]byte{0, muxData, 0, flagSYN, 0, 0, 0, 2, 0, 0, 0, 28}, "GET /x H"...)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 3000 {
			sessionOf(t, in)
		}
	}()
	wait(t, ended, "the end of a session")
}

// oneWay is a pipe that gives what there is, ends, and takes everything.
type oneWay struct{ *bytes.Reader }

func (*oneWay) Write(p []byte) (int, error) { return len(p), nil }
func (*oneWay) Close() error                { return nil }

// answering is a session with a guest whose one answer is this.
func answering(answer []byte) *session {
	return &session{
		log:     slog.New(slog.DiscardHandler),
		showing: map[chan struct{}]struct{}{},
		transport: &http.Transport{
			DisableCompression: true, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
			DialContext: func(context.Context, string, string) (net.Conn, error) {
				return &answerConn{Reader: bytes.NewReader(answer), asked: make(chan struct{}), closed: make(chan struct{})}, nil
			},
		},
	}
}

// answerConn gives its answer once it has been asked.
type answerConn struct {
	*bytes.Reader
	asking, closing sync.Once
	asked, closed   chan struct{}
}

func (c *answerConn) Read(p []byte) (int, error) {
	select {
	case <-c.asked:
		return c.Reader.Read(p)
	case <-c.closed:
		return 0, net.ErrClosed
	}
}

func (c *answerConn) Write(p []byte) (int, error) {
	c.asking.Do(func() { close(c.asked) })
	return len(p), nil
}

func (c *answerConn) Close() error {
	c.closing.Do(func() { close(c.closed) })
	return nil
}
func (*answerConn) LocalAddr() net.Addr              { return &net.UnixAddr{} }
func (*answerConn) RemoteAddr() net.Addr             { return &net.UnixAddr{} }
func (*answerConn) SetDeadline(time.Time) error      { return nil }
func (*answerConn) SetReadDeadline(time.Time) error  { return nil }
func (*answerConn) SetWriteDeadline(time.Time) error { return nil }

// fits fails when a text of the guest's is not what its bound says.
func fits(t *testing.T, what, text string, limit int) {
	t.Helper()
	if len(text) > limit || !utf8.ValidString(text) {
		t.Fatalf("%s of %d bytes: %.200q", what, len(text), text)
	}
}

// FuzzAnswers has a guest answer anything to each request, below HTTP or instead of it: what comes out is
// within its bounds, and an error is one that a guest may cause.
func FuzzAnswers(f *testing.F) {
	asks := []func(*testing.T, *session) error{
		func(t *testing.T, s *session) error {
			r, err := s.Exec(context.Background(), desktop.Exec{Script: "x"}, nil)
			fits(t, "stdout", r.Stdout, desktop.MaxExecOutput)
			fits(t, "stderr", r.Stderr, desktop.MaxExecOutput)
			fits(t, "signal", r.Signal, 32)
			return err
		},
		func(t *testing.T, s *session) error {
			n := 0
			_, err := s.Exec(context.Background(), desktop.Exec{Script: "x"}, func(_ desktop.Stream, p []byte) { n += len(p) })
			if n > 2*desktop.MaxExecOutput {
				t.Fatalf("%d bytes of output", n)
			}
			return err
		},
		func(t *testing.T, s *session) error {
			list, err := s.Windows(context.Background())
			if len(list) > desktop.MaxWindows {
				t.Fatalf("%d windows", len(list))
			}
			for _, w := range list {
				fits(t, "a title", w.Title, maxTitle)
				fits(t, "a class", w.Class, maxClass)
				fits(t, "a kind", w.Kind, maxClass)
				if w.Width < 0 || w.Height < 0 || w.Workspace < -1 {
					t.Fatalf("window %+v", w)
				}
			}
			return err
		},
		func(t *testing.T, s *session) error {
			text, err := s.Clipboard(context.Background())
			fits(t, "a clipboard", text, desktop.MaxClipboardBytes)
			return err
		},
		func(t *testing.T, s *session) error {
			frame, err := s.Capture(context.Background())
			if err == nil && frame.Pixels.Rect.Dx()*frame.Pixels.Rect.Dy() > desktop.MaxDisplayPixels {
				t.Fatalf("a display of %v", frame.Pixels.Rect)
			}
			return err
		},
		func(t *testing.T, s *session) error {
			cursor, err := s.Cursor(context.Background())
			if cursor != nil && (cursor.Image.Rect.Dx() > maxCursorSide || cursor.Image.Rect.Dy() > maxCursorSide) {
				t.Fatalf("a cursor of %v", cursor.Image.Rect)
			}
			return err
		},
		func(t *testing.T, s *session) error {
			_, err := s.Act(context.Background())
			return err
		},
		func(t *testing.T, s *session) error {
			return s.Resize(context.Background(), desktop.Size{Width: 800, Height: 600})
		},
		func(t *testing.T, s *session) error {
			lines, err := s.firstStatus(context.Background(), context.Background())
			if err != nil {
				return err
			}
			defer lines.close()
			status := *s.status.Load()
			for i := 0; err == nil && i < 100; i++ {
				fits(t, "a reason", status.Reason, maxMessage)
				fits(t, "a version", status.Version, versionLength)
				fits(t, "a boot", status.BootID, 64)
				if len(status.Addresses) > maxAddress || status.Display.Width > maxDisplaySide || status.Display.Width < 0 {
					t.Fatalf("status %+v", status)
				}
				for _, a := range status.Addresses {
					fits(t, "an address", a, maxAddress)
				}
				status, err = lines.next()
			}
			return nil
		},
	}
	for i, body := range []string{
		"\x01\x00\x00\x00\x03out\x02\x00\x00\x00\x02\xff\xc3\x03\x00\x00\x00\x0e{\"exitCode\":1}",
		"\x04\x00\x00\x00\x1a{\"code\":\"invalid\",\"message\":\"m\"}",
		`[{"id":1,"title":"t","class":"c","x":-5,"width":70000},{"id":2}]`,
		"clip \xff board",
		"\x00\x00\x00\x01\x00\x00\x00\x01" + strings.Repeat("\x00", 24) + "rgba",
		"\x00\x00\x00\x01\x00\x00\x00\x01" + strings.Repeat("\x00", 16) + "rgba",
		`{"cursor":{"x":1,"y":2},"tookMs":3,"synced":true}` + "\n",
		"", `{"ready":true,"display":{"width":1280,"height":800},"version":"v","addresses":["10.0.0.1"]}` + "\n",
	} {
		f.Add(uint8(i), uint16(200), []byte(body))
	}
	f.Add(uint8(0), uint16(400), []byte(`{"code":"conflict","message":"m","details":{"a":[1,{"b":"c"}]}}`))
	f.Add(uint8(2), uint16(0), []byte("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n[]\r\n0\r\n\r\n"))
	allowed := append([]desktop.Code{desktop.Internal}, guestCodes...)
	f.Fuzz(func(t *testing.T, ask uint8, status uint16, body []byte) {
		answer := body
		switch {
		case status >= 200 && status < 300:
			answer = append([]byte("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"), body...)
		case status >= 300:
			answer = append([]byte("HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"), body...)
		}
		s := answering(answer)
		err := asks[int(ask)%len(asks)](t, s)
		s.work.Wait()
		s.transport.CloseIdleConnections()
		if err != nil && !slices.Contains(allowed, desktop.CodeOf(err)) {
			t.Fatalf("the error is %v (%s)", err, desktop.CodeOf(err))
		}
	})
}
