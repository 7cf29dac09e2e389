package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
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
	// closeTimeout is how long a stream that this end has closed waits for the peer to do so.
	closeTimeout = 10 * time.Second
)

// mux is a session's multiplexer.
type mux struct {
	session *yamux.Session
	unread  *unread // nil at the guest, who trusts the host

	mu      sync.Mutex
	closing sync.WaitGroup // streams that wait for the peer's end
	closed  bool           // no further one does
}

// newMux starts the multiplexer on a leg that has been through the handshake.
func newMux(l *leg, host bool, log *slog.Logger) (*mux, error) {
	config := yamux.DefaultConfig()
	config.AcceptBacklog = backlog
	config.KeepAliveInterval = keepAlive
	config.ConnectionWriteTimeout = writeTimeout
	config.StreamOpenTimeout = 15 * time.Second
	config.StreamCloseTimeout = closeTimeout
	config.LogOutput = nil // the Logger has it
	config.Logger = muxLogger{log, new(atomic.Int32)}
	m, open := &mux{}, yamux.Server
	if host {
		m.unread, open = newUnread(maxUnread), yamux.Client
	}
	session, err := open(&guard{leg: l, unread: m.unread}, config)
	if err != nil {
		return nil, fmt.Errorf("starting the multiplexer: %w", err)
	}
	m.session = session
	return m, nil
}

// close ends the session and waits for yamux's goroutines. The wire stays.
func (m *mux) close() {
	m.session.Close()
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	m.closing.Wait()
}

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
			return &stream{Stream: s, mux: m}, nil
		},
		DisableCompression:     true,
		MaxIdleConns:           16,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        30 * time.Second,
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
	listener := &listener{mux: m, slots: make(chan struct{}, streams)}
	// Serve returns ErrServerClosed or, when the session ends, the session's error.
	_ = server.Serve(listener)
	cancel()
	server.Close()
	running.Lock()
}

// stream is a yamux stream that writes frames of at most maxBody.
type stream struct {
	*yamux.Stream
	mux   *mux
	slots chan struct{} // of the listener that has accepted it, if one has
	once  sync.Once

	// reading is held by the one who reads: yamux's locks are taken in another order by two at once,
	// and a closed stream is read by who empties it besides who read it before.
	reading sync.Mutex
}

func (s *stream) Write(p []byte) (int, error) {
	total := 0
	for {
		n, err := s.Stream.Write(p[total:min(len(p), total+maxBody)])
		total += n
		if err != nil || total == len(p) {
			return total, err
		}
	}
}

func (s *stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	n, err := s.Stream.Read(p)
	if n > 0 && s.mux.unread != nil && s.mux.unread.read(s.StreamID(), n) {
		s.Shrink()
	}
	return n, err
}

// Close closes this end. The peer may go on sending until it closes its own, so the stream keeps its
// slot until then, and what still comes is thrown away.
func (s *stream) Close() error {
	err := s.Stream.Close()
	s.once.Do(func() {
		s.mux.mu.Lock()
		defer s.mux.mu.Unlock()
		if s.mux.closed {
			s.end()
			return
		}
		s.mux.closing.Go(func() {
			s.SetReadDeadline(time.Now().Add(2 * closeTimeout)) // after closeTimeout there is nothing to read
			_, _ = io.Copy(io.Discard, struct{ io.Reader }{s})
			s.end()
		})
	})
	return err
}

// end gives back what the stream had of the session.
func (s *stream) end() {
	if s.mux.unread != nil {
		s.mux.unread.gone(s.StreamID())
	}
	if s.slots != nil {
		<-s.slots
	}
}

// listener accepts the peer's streams, as many at a time as there are slots.
type listener struct {
	mux   *mux
	slots chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.mux.done():
		return nil, net.ErrClosed
	}
	s, err := l.mux.session.AcceptStream()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &stream{Stream: s, mux: l.mux, slots: l.slots}, nil
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return l.mux.session.Addr() }

// guard stands between the multiplexer and a leg. It reads along and ends the session at the first
// thing that a well-behaved peer never sends: something that is no frame (the peer has started a
// handshake), a body longer than maxBody, a flood of pings (each of which costs a goroutine), and from
// a guest a stream whose number is the host's to give, or was had before. When writing it joins a
// frame's header and body into one write.
type guard struct {
	*leg
	unread *unread // nil at the guest

	header  [headerSize]byte
	have    int    // bytes of the header seen
	stream  uint32 // whose the body is
	body    int    // bytes of the body to come
	frames  int    // since the last Read
	pings   int
	second  time.Time // when counting pings began
	numbers numbers   // of the guest's streams

	held []byte // the header of the frame whose body is written next
}

// numbers are those that the guest has given to streams. It gives even ones, one after the other, but
// streams that are opened at the same time may be announced in any order.
type numbers struct {
	all   uint32              // every one up to this has been had
	early map[uint32]struct{} // and these beyond it
}

// mostEarly is how many streams may be announced before one that was numbered first; when there are
// more, that one will not come any more.
const mostEarly = 256

// take tells whether a number may be a new stream's, which it then is.
func (n *numbers) take(id uint32) bool {
	if _, had := n.early[id]; had || id%2 != 0 || id <= n.all {
		return false
	}
	if n.early == nil {
		n.early = map[uint32]struct{}{}
	}
	n.early[id] = struct{}{}
	if len(n.early) > mostEarly {
		n.all = slices.Min(slices.Collect(maps.Keys(n.early))) - 2
	}
	for {
		if _, had := n.early[n.all+2]; !had {
			return true
		}
		n.all += 2
		delete(n.early, n.all)
	}
}

// errNoFrame says that the peer no longer speaks the multiplexer's protocol.
var errNoFrame = errors.New("the peer has left the session")

// The types of yamux frames, and their flags.
const (
	muxData = iota
	muxWindow
	muxPing
	muxGoAway

	flagSYN = 1
	flagRST = 8
)

func (g *guard) Read(p []byte) (int, error) {
	if g.unread != nil && !g.unread.wait() {
		return 0, net.ErrClosed
	}
	n, err := g.leg.Read(p)
	if bad := g.check(p[:n]); bad != nil {
		g.Close()
		return 0, bad
	}
	g.leg.wire.toll.pay(g.frames*tollFrame, g.leg.done)
	g.frames = 0
	return n, err
}

// Close ends the leg and whoever waits to read it.
func (g *guard) Close() error {
	if g.unread != nil {
		g.unread.close()
	}
	return g.leg.Close()
}

// check follows the frames in what was read.
func (g *guard) check(p []byte) error {
	for len(p) > 0 {
		if g.body > 0 {
			skip := min(g.body, len(p))
			g.body -= skip
			if g.unread != nil {
				g.unread.arrived(g.stream, skip)
			}
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
		g.frames++
		if err := g.checkFrame(g.header[:]); err != nil {
			return err
		}
	}
	return nil
}

func (g *guard) checkFrame(header []byte) error {
	kind, flags := header[1], binary.BigEndian.Uint16(header[2:])
	id, length := binary.BigEndian.Uint32(header[4:]), binary.BigEndian.Uint32(header[8:])
	switch kind {
	case muxData, muxWindow:
		if flags&flagSYN != 0 && g.unread != nil {
			if !g.numbers.take(id) {
				return fmt.Errorf("a new stream with the number %d: %w", id, errNoFrame)
			}
			g.unread.opened(id, true)
		}
		if kind == muxWindow {
			break
		}
		if length > maxBody {
			return fmt.Errorf("a frame of %d bytes: %w", length, errNoFrame)
		}
		g.stream, g.body = id, int(length)
	case muxPing:
		if now := time.Now(); now.Sub(g.second) > time.Second {
			g.second, g.pings = now, 0
		}
		if g.pings++; g.pings > pingsPerSecond {
			return fmt.Errorf("too many pings: %w", errNoFrame)
		}
	case muxGoAway:
	default:
		return errNoFrame
	}
	return nil
}

func (g *guard) Write(p []byte) (int, error) {
	if g.held != nil {
		joined := append(g.held, p...)
		g.held = nil
		if _, err := g.leg.Write(joined); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	// This is a header.
	if g.unread != nil && len(p) == headerSize && p[1] <= muxWindow {
		switch flags, id := binary.BigEndian.Uint16(p[2:]), binary.BigEndian.Uint32(p[4:]); {
		case flags&flagRST != 0:
			g.unread.gone(id)
		case flags&flagSYN != 0:
			g.unread.opened(id, false)
		}
	}
	if len(p) == headerSize && p[1] == muxData && binary.BigEndian.Uint32(p[8:]) > 0 {
		g.held = append(make([]byte, 0, headerSize), p...)
		return len(p), nil
	}
	return g.leg.Write(p)
}

// muxLogger keeps yamux's own log lines to those who debug the link, the first of a session: a guest
// can cause one with every frame.
type muxLogger struct {
	log  *slog.Logger
	said *atomic.Int32
}

const muxLines = 50

func (l muxLogger) Print(v ...any)   { l.say(func() string { return fmt.Sprint(v...) }) }
func (l muxLogger) Println(v ...any) { l.Print(v...) }
func (l muxLogger) Printf(format string, v ...any) {
	l.say(func() string { return fmt.Sprintf(format, v...) })
}

func (l muxLogger) say(text func() string) {
	if l.said.Load() < muxLines && l.said.Add(1) <= muxLines {
		l.log.Debug(text())
	}
}

var _ io.ReadWriteCloser = (*guard)(nil)
