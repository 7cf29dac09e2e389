package api

import (
	"bytes"
	"context"
	"io"
	"net/http"

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
			Transport: within{server: s, authorization: authorization, local: caller.Local},
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
}

type withinKey struct{}

func isWithin(ctx context.Context) bool { return ctx.Value(withinKey{}) != nil }

// RoundTrip returns when the whole answer is there, whose size the API bounds.
func (w within) RoundTrip(request *http.Request) (_ *http.Response, err error) {
	defer func() {
		if fault := recover(); fault != nil { // the exchange has logged it
			err = desktop.Errorf(desktop.Internal, "an internal fault cut the answer off")
		}
	}()
	ctx := context.WithValue(request.Context(), withinKey{}, true)
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
	answer := &answerBuffer{header: http.Header{}}
	w.server.serveHTTP(answer, inner)
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(answer.status), StatusCode: answer.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: answer.header, Body: io.NopCloser(&answer.body), ContentLength: int64(answer.body.Len()), Request: request,
	}, nil
}

// answerBuffer keeps an answer.
type answerBuffer struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (a *answerBuffer) Header() http.Header { return a.header }

func (a *answerBuffer) WriteHeader(status int) {
	if a.status == 0 {
		a.status = status
	}
}

func (a *answerBuffer) Write(data []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return a.body.Write(data)
}
