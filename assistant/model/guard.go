package model

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"time"
)

// guard stands on the way to a provider: it bounds how long an answer may be silent and how large it
// may get, and makes an *Error of everything that is not the beginning of an answer. So the formats'
// code is about answers only, and what goes wrong is told apart in one place.
type guard struct {
	next http.RoundTripper // nil is http.DefaultTransport
	key  string
	idle time.Duration
	most int64
}

// exchange is one request and what went wrong on its way or its answer's; it travels with the
// request's context, since SDKs wrap and rewrite errors.
type exchange struct{ err *Error }

var errIdle = errors.New("it was silent for too long")

func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	way, _ := request.Context().Value(exchange{}).(*exchange)
	if way == nil {
		way = &exchange{}
	}
	ctx, cancel := context.WithCancelCause(request.Context())
	timer := time.AfterFunc(g.idle, func() { cancel(errIdle) })
	failed := func(err *Error) (*http.Response, error) {
		timer.Stop()
		cancel(nil)
		way.err = err
		return nil, err
	}

	next := g.next
	if next == nil {
		next = http.DefaultTransport
	}
	response, err := next.RoundTrip(request.WithContext(ctx))
	if err != nil {
		return failed(g.unreachable(ctx, err))
	}
	if response.StatusCode != http.StatusOK {
		defer response.Body.Close()
		data, _ := io.ReadAll(io.LimitReader(response.Body, 64<<10))
		return failed(g.refused(response.StatusCode, response.Header, data))
	}
	if kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type")); kind != "text/event-stream" {
		defer response.Body.Close()
		return failed(&Error{Code: Malformed, Message: fmt.Sprintf("it answers with %q where a stream of events was asked for; is the base URL right?", shorten(kind, 60))})
	}
	timer.Stop()
	response.Body = &answer{ReadCloser: response.Body, guard: g, ctx: ctx, cancel: cancel, timer: timer, way: way}
	return response, nil
}

func (g *guard) unreachable(ctx context.Context, err error) *Error {
	if errors.Is(context.Cause(ctx), errIdle) {
		return &Error{Code: Unreachable, Message: fmt.Sprintf("it sent nothing for %v", g.idle), Cause: errIdle}
	}
	return &Error{Code: Unreachable, Message: redact(err.Error(), g.key), Cause: err}
}

func (g *guard) refused(status int, header http.Header, body []byte) *Error {
	err := classify(status, header, body)
	err.Message = redact(err.Message, g.key)
	return err
}

// answer is the body of one. What breaks it is remembered in the exchange; to an SDK it just ends, for
// they have each their own idea of what to do with an error, such as logging it.
type answer struct {
	io.ReadCloser
	guard  *guard
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer
	way    *exchange
	size   int64
}

func (a *answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.guard.idle) // it runs only while somebody waits
	n, err := a.ReadCloser.Read(p)
	a.timer.Stop()
	if a.size += int64(n); a.size > a.guard.most {
		a.way.err = &Error{Code: Malformed, Message: fmt.Sprintf("its answer is larger than %d bytes", a.guard.most)}
		return 0, io.EOF
	}
	if err != nil && err != io.EOF {
		a.way.err = a.guard.unreachable(a.ctx, fmt.Errorf("the connection broke in the middle of its answer: %w", err))
		err = io.EOF
	}
	return n, err
}

func (a *answer) Close() error {
	a.timer.Stop()
	a.cancel(nil)
	return a.ReadCloser.Close()
}

// errCut is for an answer that ends without having said so.
func errCut() *Error {
	return &Error{Code: Unreachable, Message: "its answer ended before the message was complete"}
}
