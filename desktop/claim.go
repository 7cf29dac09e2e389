package desktop

import (
	"context"
	"time"
)

// ClaimTime is how long it is remembered what a request with an idempotency key has done.
const ClaimTime = 24 * time.Hour

// Claim is a request's claim to be done once, however often it is sent.
type Claim struct {
	Caller      string // whose key it is: nobody else's request is taken for a repetition
	KeyHash     []byte // of the idempotency key
	Fingerprint []byte // of the request; a repetition has the same
}

// Past is what became of a claim before.
type Past struct {
	Differs  bool    // the key was used for another request
	InFlight bool    // the request is being done now
	Effect   string  // id of what it has made or changed, "" when nothing; the request is not done again
	Answer   *Answer // as it was given; nil when none was kept
}

// Answer is what a request was answered.
type Answer struct {
	Status int
	Header map[string]string
	Body   []byte
}

// Claims remembers requests that must not be done twice, also across a crash. What a request makes
// or changes is noted with its claim in the same transaction, through the context: see WithClaim.
type Claims interface {
	// Take takes a claim, or says what became of it. The zero Past is the claim taken; so is one with
	// an Effect and no Answer, whose request has to be finished and not done again. A claim that
	// nobody is behind any more is taken anew. RateLimited when the caller has too many.
	Take(ctx context.Context, claim Claim, at time.Time) (Past, error)
	// Finish ends a claim that was taken. Without an answer it is forgotten, unless something was
	// noted: then the next one with it is told of that.
	Finish(ctx context.Context, claim Claim, answer *Answer) error
}

type claimKey struct{}

// WithClaim is a context whose request has taken a claim.
func WithClaim(ctx context.Context, claim Claim) context.Context {
	return context.WithValue(ctx, claimKey{}, claim)
}

// ClaimOf is the claim of the request that ctx belongs to, if it has one.
func ClaimOf(ctx context.Context) (Claim, bool) {
	claim, ok := ctx.Value(claimKey{}).(Claim)
	return claim, ok
}
