package api

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"bureau/desktop"
)

// A request with an Idempotency-Key is done once, however often it is sent. Its claim is taken in the
// store before the handler runs. What the handler makes is noted with the claim in the transaction
// that makes it (desktop.WithClaim), and its answer is kept before it is sent. So whatever dies, a
// repetition finds one of these:
//
//	nothing           nothing was done; it is done now
//	an effect         it was done and the answer lost: the handler makes the answer of what is there
//	an answer         which is given again
//
// An answer with a secret in it is never kept. Its repetition is told what was made, and that the
// secret is gone. A request that failed without an effect is forgotten, and may be sent again.

const (
	idempotencyHeader = "Idempotency-Key"
	replayedHeader    = "Idempotency-Replayed"
	// keptAnswer is the largest answer that is kept; of a larger one only the effect is.
	keptAnswer = 64 << 10
)

// keyReused is a kind of failure that only HTTP knows, as those in problem.go.
const keyReused desktop.Code = "idempotency-key-reused"

// saneKey is what an Idempotency-Key may be: printable ASCII, such as a UUID.
var saneKey = regexp.MustCompile(`^[!-~]{1,255}$`)

// onceKey marks an operation that takes an Idempotency-Key, in its metadata.
const onceKey = "bureau.once"

// answerKept tells what a repetition is answered from.
type answerKept bool

const (
	keepAnswer answerKept = true  // the answer as it was, while there is one
	makeAnswer answerKept = false // what is there: of answers that hold a secret, or are a stream
)

// once makes an operation take an Idempotency-Key. Its handler looks at doneBefore first.
func once(op huma.Operation, kept answerKept) huma.Operation {
	op.Metadata = map[string]any{onceKey: kept}
	return op
}

// documentOnce adds to an operation's description what once adds to the operation, and returns the
// statuses that it can fail with.
func (s *Server) documentOnce(op *huma.Operation, kept answerKept) []int {
	text := "A UUID, say: the request is done once, however often it is sent with this key within 24 hours. A repetition is given the first answer"
	if kept == makeAnswer {
		text = "A UUID, say: the request is done once, however often it is sent with this key within 24 hours. A repetition is answered from what the first has done; a secret is not shown again: that is a 409"
	}
	op.Parameters = append(op.Parameters, &huma.Param{Name: idempotencyHeader, In: "header", Description: text,
		Schema: &huma.Schema{Type: huma.TypeString, Pattern: saneKey.String()}, Example: "0d2c3a52-6a43-4a57-a1c3-2f1c4ee2a9b1"})
	for status, response := range op.Responses {
		if status[0] == '2' {
			if response.Headers == nil {
				response.Headers = map[string]*huma.Param{}
			}
			response.Headers[replayedHeader] = &huma.Param{Description: "true when this is the answer to a repetition", Schema: &huma.Schema{Type: huma.TypeString, Enum: []any{"true"}}}
		}
	}
	return []int{http.StatusBadRequest, http.StatusConflict, http.StatusUnprocessableEntity, http.StatusTooManyRequests}
}

type effectKey struct{}

// doneBefore is the id of what an earlier request with the same claim has made or changed, "" when
// this one is the first.
func doneBefore(ctx context.Context) string {
	id, _ := ctx.Value(effectKey{}).(string)
	return id
}

// secretGone is what a repetition is told when the answer was a secret.
func secretGone(what, id, remedy string) error {
	return &desktop.Error{Code: desktop.Conflict, Message: what + " was made by the first request with this Idempotency-Key; its secret was in that answer alone: " + remedy,
		Details: map[string]any{"made": id}}
}

// claimOf is the claim that a request makes with its key.
func claimOf(caller desktop.Caller, r *http.Request, key string, body []byte) desktop.Claim {
	who := caller.Key.ID
	if caller.Local {
		who = "operator"
	}
	hash := sha256.Sum256([]byte(key))
	// The body may hold a secret, so that its hash is keyed by what the store does not have.
	print := hmac.New(sha256.New, []byte(key))
	for _, part := range [][]byte{[]byte(r.Method), []byte(r.URL.EscapedPath()), []byte(r.URL.RawQuery), body} {
		io.WriteString(print, strconv.Itoa(len(part))+":")
		print.Write(part)
	}
	return desktop.Claim{Caller: who, KeyHash: hash[:], Fingerprint: print.Sum(nil)}
}

// only lets a request with an Idempotency-Key through when it is the first.
func (s *Server) only(kept answerKept) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		c := humagin.Unwrap(ctx)
		keys := c.Request.Header.Values(idempotencyHeader)
		if len(keys) == 0 {
			next(ctx)
			return
		}
		key := keys[0] // one that is empty is a client's mistake, who believes itself safe
		if len(keys) > 1 || !saneKey.MatchString(key) {
			s.fail(ctx, desktop.Errorf(desktop.Invalid, "%s: expected 1 to 255 printable characters without spaces", idempotencyHeader))
			return
		}
		var body []byte
		if ctx.Operation().RequestBody != nil {
			body, _ = io.ReadAll(c.Request.Body) // it is in memory
			c.Request.Body = io.NopCloser(bytes.NewReader(body))
		}
		claim := claimOf(callerOf(ctx.Context()), c.Request, key, body)
		// Neither is cut off when the caller goes: a claim without anybody behind it would stay.
		uncut := context.WithoutCancel(ctx.Context())
		past, err := s.claims.Take(uncut, claim, time.Now())
		switch {
		case err != nil:
			s.fail(ctx, err)
			return
		case past.Differs:
			s.fail(ctx, desktop.Errorf(keyReused, "this %s came with another request before", idempotencyHeader))
			return
		case past.InFlight:
			s.fail(ctx, desktop.Errorf(desktop.Conflict, "a request with this %s is being done", idempotencyHeader))
			return
		case past.Answer != nil:
			counts(ctx.Context(), "repeated", 1) // nothing is done that the log has to tell of by itself
			unchanged(ctx.Context())
			for name, value := range past.Answer.Header {
				c.Writer.Header().Set(name, value)
			}
			c.Writer.Header().Set(replayedHeader, "true")
			c.Writer.WriteHeader(past.Answer.Status)
			c.Writer.Write(past.Answer.Body)
			return
		}
		if past.Effect != "" {
			c.Writer.Header().Set(replayedHeader, "true")
			ctx = huma.WithValue(ctx, effectKey{}, past.Effect)
		}
		var answer *desktop.Answer
		finish := sync.OnceFunc(func() {
			if err := s.claims.Finish(uncut, claim, answer); err != nil { // the answer is good all the same
				exchangeOf(uncut).log.Error("what a request with an idempotency key was answered is not kept", "error", err)
			}
		})
		defer finish() // also when the handler panics
		ctx = huma.WithContext(ctx, desktop.WithClaim(ctx.Context(), claim))
		if kept == makeAnswer {
			next(ctx)
			return
		}
		held := &heldAnswer{ResponseWriter: c.Writer}
		c.Writer = held
		next(ctx)
		c.Writer = held.ResponseWriter
		if held.status/100 == 2 && held.body.Len() <= keptAnswer {
			answer = &desktop.Answer{Status: held.status, Header: map[string]string{}, Body: held.body.Bytes()}
			for _, name := range []string{"Content-Type", "Location"} {
				if value := c.Writer.Header().Get(name); value != "" {
					answer.Header[name] = value
				}
			}
		}
		finish() // before the caller has the answer, so that a repetition never comes too early
		held.send()
	}
}

// heldAnswer keeps an answer back until it has been kept.
type heldAnswer struct {
	gin.ResponseWriter
	status int
	body   bytes.Buffer
}

func (h *heldAnswer) WriteHeader(status int) {
	if h.status == 0 {
		h.status = status
	}
}

func (h *heldAnswer) Write(data []byte) (int, error) {
	h.WriteHeader(http.StatusOK)
	return h.body.Write(data)
}

func (h *heldAnswer) WriteString(text string) (int, error) { return h.Write([]byte(text)) }
func (h *heldAnswer) WriteHeaderNow()                      {}
func (h *heldAnswer) Status() int                          { return h.status }
func (h *heldAnswer) Size() int                            { return h.body.Len() }
func (h *heldAnswer) Written() bool                        { return h.status != 0 }
func (h *heldAnswer) Flush()                               {}

func (h *heldAnswer) send() {
	h.ResponseWriter.WriteHeader(max(h.status, http.StatusOK))
	h.ResponseWriter.Write(h.body.Bytes())
}
