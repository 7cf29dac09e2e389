package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// The multiplexer is yamux, kept within bounds by a guard that reads along, with plain HTTP/1.1 on
// its streams in both directions.

const (
	headerSize = 12
	// maxBody is the most that a frame of the multiplexer carries. Both ends split what they write.
	maxBody = 32 << 10
	// The most streams of the peer that each end serves at once. The guest trusts the host, which may
	// have many long commands running; backlog more may wait for their turn.
	guestStreams = 64
	hostStreams  = 1024
	backlog      = 64
	// pingsPerSecond is far above what a healthy peer sends: one every keepAlive.
	pingsPerSecond = 20

	keepAlive    = 5 * time.Second
	writeTimeout = 10 * time.Second
)

// mux is a session's multiplexer.
type mux struct{ session *yamux.Session }

// newMux starts the multiplexer on a leg that has been through the handshake.
func newMux(l *leg, host bool, log *slog.Logger) (*mux, error) {
	config := yamux.DefaultConfig()
	config.AcceptBacklog = backlog
	config.KeepAliveInterval = keepAlive
	config.ConnectionWriteTimeout = writeTimeout
	config.StreamOpenTimeout = 15 * time.Second
	config.StreamCloseTimeout = 30 * time.Second
	config.LogOutput = nil // the Logger has it
	config.Logger = muxLogger{log}
	open := yamux.Server
	if host {
		open = yamux.Client
	}
	session, err := open(&guard{leg: l}, config)
	if err != nil {
		return nil, fmt.Errorf("starting the multiplexer: %w", err)
	}
	return &mux{session}, nil
}

// close ends the session and waits for yamux's goroutines. The wire stays.
func (m *mux) close() { m.session.Close() }

func (m *mux) done() <-chan struct{} { return m.session.CloseChan() }

// transport makes requests to the peer on pooled streams.
func (m *mux) transport() *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			// Open waits at most for the StreamOpenTimeout, which ends the session.
			s, err := m.session.OpenStream()
			if err != nil {
				return nil, err
			}
			return stream{s}, nil
		},
		DisableCompression:     true,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    16,
		MaxResponseHeaderBytes: 16 << 10,
		WriteBufferSize:        16 << 10,
		ReadBufferSize:         16 << 10,
	}
}

// serve answers the peer's requests, on at most so many streams at a time, until the session ends.
// It returns when the last handler has.
func (m *mux) serve(ctx context.Context, handler http.Handler, streams int, log *slog.Logger) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Held for reading by every handler: the one who ends waits for them, and none begins after.
	var running sync.RWMutex
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !running.TryRLock() {
				return
			}
			defer running.RUnlock()
			handler.ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 30 * time.Second,
		MaxHeaderBytes:    16 << 10,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	listener := &listener{session: m.session, slots: make(chan struct{}, streams)}
	// Serve returns ErrServerClosed or, when the session ends, the session's error.
	_ = server.Serve(listener)
	cancel()
	server.Close()
	running.Lock()
}

// stream is a yamux stream that writes frames of at most maxBody.
type stream struct{ *yamux.Stream }

func (s stream) Write(p []byte) (int, error) {
	total := 0
	for {
		n, err := s.Stream.Write(p[total:min(len(p), total+maxBody)])
		total += n
		if err != nil || total == len(p) {
			return total, err
		}
	}
}

// listener accepts the peer's streams, as many at a time as there are slots.
type listener struct {
	session *yamux.Session
	slots   chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.session.CloseChan():
		return nil, net.ErrClosed
	}
	s, err := l.session.AcceptStream()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &accepted{stream: stream{s}, slots: l.slots}, nil
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.session.Addr() }

// accepted gives its slot back when it is closed.
type accepted struct {
	stream
	slots chan struct{}
	once  sync.Once
}

func (a *accepted) Close() error {
	err := a.stream.Close()
	a.once.Do(func() { <-a.slots })
	return err
}

// guard stands between the multiplexer and a leg. It reads along and ends the session at the first
// thing that a well-behaved peer never sends: something that is no frame (the peer has started a
// handshake), a body longer than maxBody, a flood of pings (each of which costs a goroutine). When
// writing it joins a frame's header and body into one write.
type guard struct {
	*leg

	header [headerSize]byte
	have   int // bytes of the header seen
	body   int // bytes of the body to come
	pings  int
	second time.Time // when counting pings began

	held []byte // the header of the frame whose body is written next
}

// errNoFrame says that the peer no longer speaks the multiplexer's protocol.
var errNoFrame = errors.New("the peer has left the session")

// The types of yamux frames.
const (
	muxData = iota
	muxWindow
	muxPing
	muxGoAway
)

func (g *guard) Read(p []byte) (int, error) {
	n, err := g.leg.Read(p)
	if bad := g.check(p[:n]); bad != nil {
		g.leg.Close()
		return 0, bad
	}
	return n, err
}

// check follows the frames in what was read.
func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			skip := min(g.body, len(p))
			g.body -= skip
			p = p[skip:]
			continue
		}
		if g.have == 0 && p[0] != 0 {
			return errNoFrame
		}
		n := copy(g.header[g.have:], p)
		g.have += n
		p = p[n:]
		if g.have < headerSize {
			return nil
		}
		g.have = 0
		length := binary.BigEndian.Uint32(g.header[8:])
		switch g.header[1] {
		case muxData:
			if length > maxBody {
				return fmt.Errorf("a frame of %d bytes: %w", length, errNoFrame)
			}
			g.body = int(length)
		case muxPing:
			if now := time.Now(); now.Sub(g.second) > time.Second {
				g.second, g.pings = now, 0
			}
			if g.pings++; g.pings > pingsPerSecond {
				return fmt.Errorf("too many pings: %w", errNoFrame)
			}
		case muxWindow, muxGoAway:
		default:
			return errNoFrame
		}
	}
	return nil
}

func (g *guard) Write(p []byte) (int, error) {
	if g.held == nil && len(p) == headerSize && p[1] == muxData && binary.BigEndian.Uint32(p[8:]) > 0 {
		g.held = append(make([]byte, 0, headerSize), p...)
		return len(p), nil
	}
	if g.held != nil {
		joined := append(g.held, p...)
		g.held = nil
		if _, err := g.leg.Write(joined); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return g.leg.Write(p)
}

// muxLogger keeps yamux's own log lines to those who debug the link.
type muxLogger struct{ log *slog.Logger }

func (l muxLogger) Print(v ...any)                 { l.log.Debug(fmt.Sprint(v...)) }
func (l muxLogger) Printf(format string, v ...any) { l.log.Debug(fmt.Sprintf(format, v...)) }
func (l muxLogger) Println(v ...any)               { l.log.Debug(fmt.Sprint(v...)) }

var _ io.ReadWriteCloser = (*guard)(nil)
