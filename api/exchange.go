package api

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/debug"
	"time"

	"bureau/desktop"
	"bureau/desktop/activity"
)

// exchange is one request and its answer, as the log knows it.
type exchange struct {
	id     string
	log    *slog.Logger // says the id with every line
	route  string       // the operation's id, once the router has found it
	caller desktop.Caller
	client netip.Addr // whom it comes from; see clientOf

	connection *connection // nil where it was not counted

	// For the activity log; see record.
	began        time.Time
	via, address string
	did          activity.Entry
	desktop      desktop.Desktop // that it is about, as it was found
	unchanged    bool
	recorded     bool
}

// admitted notes that the caller has shown a good key.
func (x *exchange) admitted() {
	if x.connection != nil {
		x.connection.known.Store(true)
	}
}

type exchangeKey struct{}

// exchangeOf is the exchange that ctx belongs to; outside of one it is a silent one.
func exchangeOf(ctx context.Context) *exchange {
	if x, ok := ctx.Value(exchangeKey{}).(*exchange); ok {
		return x
	}
	return &exchange{log: slog.New(slog.DiscardHandler)}
}

// saneID is a request id that is taken over from the caller.
var saneID = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)

func requestID(r *http.Request) string {
	if id := r.Header.Get("X-Request-Id"); saneID.MatchString(id) {
		return id
	}
	b := make([]byte, 8)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// serveHTTP is around everything else: it gives the request its id, keeps panics inside and writes
// the access log, which holds neither bodies nor queries nor keys.
func (s *Server) serveHTTP(w http.ResponseWriter, r *http.Request) {
	s.inFlight.Add(1)
	defer s.inFlight.Done()

	began := time.Now()
	x := &exchange{id: requestID(r), client: clientOf(r, s.proxies), connection: connectionOf(r.Context()), began: began}
	x.via, x.address = x.origin(r)
	x.log = s.log.With("request_id", x.id)
	r = r.WithContext(context.WithValue(r.Context(), exchangeKey{}, x))
	out := &recorder{ResponseWriter: w, control: http.NewResponseController(w), timeout: s.times.write}
	out.before = func(status int) { s.record(r.Context(), x, status) }
	out.extend()              // an earlier answer on the connection may have left a deadline that is over
	if r.ContentLength != 0 { // there is a body, or there may be; see body
		out.control.SetReadDeadline(began.Add(s.times.body)) // a test's recorder has none
	}

	header := out.Header()
	header.Set("X-Request-Id", x.id)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cache-Control", "no-store")
	if r.TLS != nil && s.strictTransport() {
		header.Set("Strict-Transport-Security", "max-age=31536000")
	}

	defer func() {
		fault := recover()
		if fault != nil && fault != http.ErrAbortHandler {
			x.log.ErrorContext(r.Context(), "panic", "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			if out.status == 0 {
				s.refuse(out, r, errors.New("panic"))
				fault = nil
			} else {
				fault = http.ErrAbortHandler // the answer is cut off, visibly
			}
		}
		attributes := []slog.Attr{
			slog.String("method", shorten(r.Method)), slog.String("path", shorten(r.URL.Path)), slog.String("route", x.route),
			slog.Int("status", out.status), slog.Int64("bytes", out.bytes), slog.Duration("took", time.Since(began)),
			slog.String("remote", r.RemoteAddr),
		}
		if end, err := netip.ParseAddrPort(r.RemoteAddr); err == nil && plain(end.Addr()) != x.client {
			attributes = append(attributes, slog.String("client", x.client.String()))
		}
		switch {
		case x.caller.Local:
			attributes = append(attributes, slog.Bool("local", true))
		case x.caller.Key.ID != "":
			attributes = append(attributes, slog.String("user", x.caller.User.ID), slog.String("key", x.caller.Key.ID))
		}
		x.log.LogAttrs(r.Context(), slog.LevelInfo, "request", attributes...)
		if fault != nil {
			panic(fault)
		}
	}()
	if !s.cors(out, r) {
		s.router.ServeHTTP(out, r)
	}
	if out.status == 0 {
		out.WriteHeader(http.StatusOK)
	}
}

// pieceBytes is how much of an answer is sent under one deadline. A client that takes 60 s for it reads
// 4 KB a second.
const pieceBytes = 256 << 10

// recorder notes what was answered and renews the deadline of each write.
type recorder struct {
	http.ResponseWriter
	control *http.ResponseController
	timeout time.Duration    // of each write
	before  func(status int) // called before the answer is begun
	status  int
	bytes   int64
}

// Unwrap lets http.ResponseController through.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	if w.status == 0 || w.status < 200 {
		w.status = status
		if status >= 200 {
			w.before(status)
		}
	}
	w.extend()
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(data []byte) (int, error) {
	if w.status == 0 {
		w.WriteHeader(http.StatusOK)
	}
	sent := 0
	for {
		piece := data[sent:min(len(data), sent+pieceBytes)]
		w.extend()
		n, err := w.ResponseWriter.Write(piece)
		sent += n
		w.bytes += int64(n)
		if err != nil || sent == len(data) {
			return sent, err
		}
	}
}

// Flush sends what has been written so far.
func (w *recorder) Flush() {
	w.extend()
	w.control.Flush() // where it cannot, there is nothing to be done about it
}

func (w *recorder) extend() {
	w.control.SetWriteDeadline(time.Now().Add(w.timeout)) // a test's recorder has none
}
