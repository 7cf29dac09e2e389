package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// times are the limits of what clients may take. There is none for a whole request or answer: some take
// a day.
type times struct {
	header time.Duration // for a request's header
	body   time.Duration // for its body
	// write is for one piece of an answer to be sent. Each piece has it anew, so that neither an answer
	// that is long in coming nor a long stream is cut off, and a reader that has stopped reading is.
	write time.Duration
	idle  time.Duration // between two requests
}

var defaultTimes = times{header: 20 * time.Second, body: 60 * time.Second, write: 60 * time.Second, idle: 2 * time.Minute}

const maxHeaderBytes = 64 << 10

// lastMoments is how long a request has to end after its context has.
const lastMoments = 2 * time.Second

// Serve answers on a TCP listener (over TLS, where Options say so) and on the administration socket,
// either of which may be nil, until ctx ends. It then takes no further requests, lets those in flight go on for the grace
// period, ends the rest, and returns nil. It closes the listeners. It is called once.
func (s *Server) Serve(ctx context.Context, tcp, administration net.Listener) error {
	work, cancel := context.WithCancel(context.WithoutCancel(ctx)) // of the requests
	defer cancel()
	server := &http.Server{
		Handler:           s.Handler(),
		ReadHeaderTimeout: s.times.header,
		IdleTimeout:       s.times.idle,
		MaxHeaderBytes:    maxHeaderBytes,
		BaseContext:       func(net.Listener) context.Context { return work },
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return markCounted(markLocal(ctx, conn), conn)
		},
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	group, running := errgroup.WithContext(ctx)
	serve := func(name string, listener net.Listener) {
		group.Go(func() error {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				return fmt.Errorf("serve on the %s listener: %w", name, err)
			}
			return nil
		})
	}
	if tcp != nil {
		tcp = &gate{Listener: tcp, total: s.connections, each: s.connectionsEach, proxies: s.proxies, plain: s.tls == nil, log: s.log}
		if s.tls != nil {
			tcp = tls.NewListener(tcp, s.tls)
		}
		serve("TCP", tcp)
	}
	if administration != nil {
		serve("administration", administrationListener{administration})
	}
	group.Go(func() error {
		<-running.Done()
		close(s.ending)
		return s.shutDown(server, cancel)
	})
	err := group.Wait()
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

func (s *Server) shutDown(server *http.Server, cancel context.CancelFunc) error {
	grace, release := context.WithTimeout(context.Background(), s.grace)
	defer release()
	err := server.Shutdown(grace)
	if err != nil {
		s.log.Warn("ending the requests that are still in flight")
		cancel()
	}
	for _, handler := range s.mounted {
		if err := handler.Close(); err != nil {
			s.log.Warn("closing what is mounted beside the API failed", "error", err)
		}
	}
	if err == nil {
		return nil
	}
	last, release := context.WithTimeout(context.Background(), lastMoments)
	defer release()
	if server.Shutdown(last) == nil {
		return nil
	}
	server.Close()
	ended := make(chan struct{})
	go func() { s.inFlight.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(lastMoments):
		s.log.Error("a request does not end; leaving it behind")
	}
	return nil
}

// administrationListener marks its connections.
type administrationListener struct{ net.Listener }

type administrationConn struct {
	net.Conn
	socket string // path of the listener
}

func (l administrationListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return administrationConn{conn, l.Addr().String()}, nil
}

type localKey struct{}

// markLocal notes that a connection is the operator's: it came in over the administration socket,
// from root, from the user that the server runs as, or from somebody whom the socket's mode lets in
// and whom the operator has therefore put into its group. A socket that is open to everybody on the
// host makes nobody the operator but the first two.
func markLocal(ctx context.Context, conn net.Conn) context.Context {
	local, ok := conn.(administrationConn)
	if !ok {
		return ctx
	}
	uid, err := peer(local.Conn)
	if err != nil {
		return ctx
	}
	if uid != 0 && uid != os.Geteuid() {
		info, err := os.Stat(local.socket)
		if err != nil || info.Mode().Perm()&0o006 != 0 {
			return ctx
		}
	}
	return context.WithValue(ctx, localKey{}, true)
}

func isLocal(ctx context.Context) bool { return ctx.Value(localKey{}) != nil }

// peer is the user at the other end of a Unix socket.
func peer(conn net.Conn) (uid int, err error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a Unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return 0, err
	}
	var credentials *unix.Ucred
	if failure := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	}); failure != nil {
		return 0, failure
	}
	if err != nil {
		return 0, err
	}
	return int(credentials.Uid), nil
}
