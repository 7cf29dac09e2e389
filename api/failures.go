package api

import (
	"context"
	"math"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"golang.org/x/time/rate"

	"bureau/desktop"
)

// failures bounds how often strangers may fail to authenticate, by their address. An address that has
// failed too often is told to wait, and no key from it is looked up, with one exception: a key that has
// been good lately, from wherever, is looked up always. So whoever shares an address with a stranger,
// as behind a proxy or a company's gateway, goes on working.
//
// Requests that are under way at once are checked before any of them counts, so that a client may begin
// with many; a stranger can have as many guesses beyond the limit as it has connections.
type failures struct {
	rate  rate.Limit // of one address; 0 lets everything pass
	burst int

	mu        sync.Mutex
	addresses *simplelru.LRU[netip.Prefix, *rate.Limiter]
	good      *simplelru.LRU[string, struct{}] // hashes of keys that were good when they were last used
}

const (
	// manyAddresses is how many addresses are remembered. One more makes the one be forgotten that has
	// rested longest: rather is a stranger with very many addresses not held up than somebody else
	// turned away.
	manyAddresses = 8192
	// manyGoodKeys is how many keys are remembered as good.
	manyGoodKeys = 4096
)

func newFailures(perMinute float64) *failures {
	return &failures{rate: rate.Limit(perMinute / 60), burst: max(1, int(math.Ceil(perMinute))),
		addresses: remember[netip.Prefix, *rate.Limiter](manyAddresses), good: remember[string, struct{}](manyGoodKeys)}
}

// wait is how long a caller from an address has to wait until a key from it is looked up.
func (f *failures) wait(from netip.Addr, secret string, now time.Time) time.Duration {
	place := neighbourhood(from)
	if f.rate <= 0 || !place.IsValid() {
		return 0
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	one, known := f.addresses.Get(place)
	if !known {
		return 0
	}
	left := one.TokensAt(now)
	if left >= 1 {
		return 0
	}
	if f.good.Contains(string(desktop.HashKey(secret))) {
		return 0
	}
	return time.Duration((1 - left) / float64(f.rate) * float64(time.Second))
}

// note takes down how an authentication went.
func (f *failures) note(from netip.Addr, secret string, ok bool, now time.Time) {
	place := neighbourhood(from)
	if f.rate <= 0 || !place.IsValid() {
		return
	}
	hash := string(desktop.HashKey(secret))
	f.mu.Lock()
	defer f.mu.Unlock()
	if ok {
		f.good.Add(hash, struct{}{})
		return
	}
	f.good.Remove(hash)
	one, known := f.addresses.Get(place)
	if !known {
		one = rate.NewLimiter(f.rate, f.burst)
		f.addresses.Add(place, one)
	}
	one.AllowN(now, 1)
}

// remember is a memory for so many, which forgets what was not used for longest.
func remember[K comparable, V any](many int) *simplelru.LRU[K, V] {
	memory, err := simplelru.NewLRU[K, V](many, nil)
	if err != nil {
		panic(err) // it holds none
	}
	return memory
}

// identify finds the caller, unless its address has failed too often. The operator on the
// administration socket has no address.
func (s *Server) identify(ctx context.Context, authorization string) (desktop.Caller, error) {
	x := exchangeOf(ctx)
	secret := bearerOf(authorization)
	if wait := s.failures.wait(x.client, secret, time.Now()); wait > 0 {
		failure := desktop.Errorf(desktop.RateLimited, "too many requests with no good key from this address")
		failure.RetryAfter = wait
		return desktop.Caller{}, failure
	}
	caller, err := s.authenticate(ctx, authorization)
	switch {
	case err == nil:
		s.failures.note(x.client, secret, true, time.Now())
		x.admitted()
	case desktop.CodeOf(err) == desktop.Unauthenticated:
		s.failures.note(x.client, secret, false, time.Now())
	}
	return caller, err
}
