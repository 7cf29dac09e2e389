package api

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"

	"bureau/desktop"
)

// Mounted is a request to a mounted handler, which ContextMounted finds.
type Mounted struct {
	// Caller is who makes it; the Server has seen to it that there is somebody.
	Caller desktop.Caller
	// Transport makes requests to this API in the caller's name, within the process. They pass
	// everything that requests from outside do, and may be made after this one has ended: a key that
	// has been revoked since is refused. Only for its rate they do not count.
	Transport http.RoundTripper
}

type mountedKey struct{}

// ContextMounted is the request that ctx belongs to, when a mounted handler has it.
func ContextMounted(ctx context.Context) (Mounted, bool) {
	m, ok := ctx.Value(mountedKey{}).(Mounted)
	return m, ok
}

// Mount puts a handler of another protocol beside the API, at a path, for any key. Its requests pass
// what those of the API do: the exchange, authentication, the rate of the key, and the limits of a
// body. A GET may be a stream without end; it ends when the Server does. When requests in flight have
// had their grace the handler is closed, if it can be. Mount is for before Serve.
func (s *Server) Mount(path, name string, handler http.Handler) {
	serve := func(c *gin.Context) {
		exchangeOf(c.Request.Context()).route = name
		authorization := c.Request.Header.Get("Authorization")
		caller, err := s.admit(c.Request.Context(), anyKey, authorization, c.Request.Header.Get(leaseHeader))
		if err != nil {
			s.refuse(c.Writer, c.Request, err)
			return
		}
		ctx := context.WithValue(c.Request.Context(), mountedKey{}, Mounted{
			Caller:    caller,
			Transport: within{server: s, authorization: authorization, local: caller.Local, address: exchangeOf(c.Request.Context()).address},
		})
		if c.Request.Method == http.MethodGet {
			var end context.CancelFunc
			ctx, end = context.WithCancel(ctx)
			defer end()
			stop := make(chan struct{})
			defer close(stop)
			go func() {
				select {
				case <-s.ending:
					end()
				case <-stop:
				}
			}()
		}
		if c.Request.ContentLength != 0 {
			data, err := readBody(c.Writer, c.Request, largeBodyLimit)
			if err != nil {
				c.Writer.Header().Set("Connection", "close")
				s.refuse(c.Writer, c.Request, err)
				return
			}
			c.Request.Body = io.NopCloser(bytes.NewReader(data))
		}
		handler.ServeHTTP(c.Writer, c.Request.WithContext(ctx))
	}
	if closer, ok := handler.(io.Closer); ok {
		s.mounted = append(s.mounted, closer)
	}
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
		s.router.Handle(method, path, serve)
	}
}

// within is a client's transport that calls the server's own handler.
type within struct {
	server        *Server
	authorization string
	local         bool
	address       string // of whoever it is done for
}

type withinKey struct{}

func isWithin(ctx context.Context) bool { return ctx.Value(withinKey{}) != nil }

// RoundTrip returns when the answer has begun. Its body is read as the handler writes it; whoever
// closes it, or ends the request's context, ends the handler, and waits for that.
func (w within) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(context.WithValue(request.Context(), withinKey{}, w.address))
	if w.local {
		ctx = context.WithValue(ctx, localKey{}, true)
	}
	inner := request.Clone(ctx)
	inner.RequestURI, inner.RemoteAddr = request.URL.RequestURI(), "within"
	inner.Header.Del("Authorization")
	if w.authorization != "" {
		inner.Header.Set("Authorization", w.authorization)
	}
	if inner.Body == nil {
		inner.Body = http.NoBody
	}
	reader, writer := io.Pipe()
	answer := &pipedAnswer{header: http.Header{}, body: writer, begun: make(chan struct{})}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer func() {
			if fault := recover(); fault != nil { // the exchange has logged it
				writer.CloseWithError(errCutOff)
				return
			}
			answer.WriteHeader(http.StatusOK) // where nothing was written
			writer.CloseWithError(ctx.Err())  // io.EOF when it is nil
		}()
		w.server.serveHTTP(answer, inner)
	}()
	stop := func() {
		cancel()
		reader.Close()
		<-ended
	}
	select {
	case <-answer.begun:
	case <-ended: // in a panic
		select {
		case <-answer.begun:
		default:
			stop()
			return nil, errCutOff
		}
	case <-ctx.Done():
		stop()
		return nil, context.Cause(ctx)
	}
	return &http.Response{
		Status: http.StatusText(answer.status), StatusCode: answer.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.sent, Body: &pipedBody{reader, stop}, ContentLength: -1, Request: request,
	}, nil
}

var errCutOff = desktop.Errorf(desktop.Internal, "an internal fault cut the answer off")

// pipedAnswer is an answer whose body goes through a pipe.
type pipedAnswer struct {
	header http.Header
	body   *io.PipeWriter

	once   sync.Once
	status int
	sent   http.Header
	begun  chan struct{} // closed when status and sent are there
}

func (a *pipedAnswer) Header() http.Header { return a.header }

func (a *pipedAnswer) WriteHeader(status int) {
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.begun)
	})
}

func (a *pipedAnswer) Write(data []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(data)
}

// Flush does nothing: what has been written has been read.
func (a *pipedAnswer) Flush() {}

type pipedBody struct {
	*io.PipeReader
	stop func()
}

func (b *pipedBody) Close() error {
	b.stop()
	return nil
}
