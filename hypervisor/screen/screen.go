package screen

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"

	"bureau/desktop"
)

// Screen is one session with a display. It implements desktop.Screen.
type Screen struct {
	mirror *mirror
	conn   net.Conn
	log    *slog.Logger
	// ask, where the source must be asked for pictures, is called by whoever wants one, and
	// returns what to call when they no longer do.
	ask func() (release func())
	// rounds are the source's round trips that make the next frame fresh.
	rounds *rounds
	// detach, where there is something besides conn, lets it go and waits for it.
	detach func()

	// life ends with the session, just before the mirror says so.
	life  context.Context
	ended context.CancelFunc

	close  sync.Once
	closed chan struct{} // by Close, so that its end is not taken for a failure
	reader sync.WaitGroup
}

var _ desktop.Screen = (*Screen)(nil)

func newScreen(source desktop.Source, conn net.Conn, log *slog.Logger) *Screen {
	life, ended := context.WithCancel(context.Background())
	return &Screen{
		mirror: newMirror(source), conn: conn, log: log.With("source", source),
		ask: func() func() { return func() {} }, detach: func() {}, closed: make(chan struct{}),
		life: life, ended: ended,
	}
}

// run starts the session's reader, which ends with the connection.
func (s *Screen) run(serve func() error) {
	s.reader.Go(func() {
		err := serve()
		s.conn.Close()
		s.ended()
		s.detach()
		select {
		case <-s.closed:
			err = net.ErrClosed
		default:
			if errors.Is(err, io.EOF) {
				s.log.Debug("the display has hung up")
			} else {
				s.log.Warn("the display's session failed", "error", err)
			}
		}
		s.mirror.end(err)
	})
}

// Frame is the newest picture. It waits, until ctx is done, for the first one.
func (s *Screen) Frame(ctx context.Context) (*desktop.Frame, error) {
	defer s.ask()()
	return s.mirror.look(ctx)
}

// Wait returns when a frame newer than serial is there, or with ctx's error.
func (s *Screen) Wait(ctx context.Context, serial uint64) error {
	defer s.ask()()
	return s.mirror.wait(ctx, serial)
}

// Watch calls f with each change of the display until stop is called, one call at a time and not
// after stop has returned. The display waits meanwhile: f must neither block nor use the screen.
func (s *Screen) Watch(f func(desktop.Damage)) (stop func()) {
	release := s.ask()
	unwatch := s.mirror.watch(f)
	return sync.OnceFunc(func() {
		unwatch()
		release()
	})
}

// SeedCursor tells the screen a cursor that somebody else knows, such as the guest's agent. Before
// version 8, QEMU tells a new listener neither the cursor's shape nor its place until the guest
// changes them. Whatever QEMU has told, or tells later, counts for more.
func (s *Screen) SeedCursor(c desktop.Cursor) { s.mirror.seedCursor(c) }

// Done is closed when the session has ended.
func (s *Screen) Done() <-chan struct{} { return s.mirror.done }

// Close ends the session and waits for its goroutine.
func (s *Screen) Close() error {
	s.close.Do(func() {
		close(s.closed)
		s.conn.Close()
	})
	s.reader.Wait()
	return nil
}
