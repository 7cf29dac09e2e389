package api

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter holds every key to the same rate. Its zero rate lets everything pass.
type limiter struct {
	rate  rate.Limit
	burst int

	mu   sync.Mutex
	keys map[string]*rate.Limiter
}

// manyKeys is how many keys are remembered before those that have rested are forgotten.
const manyKeys = 1024

func newLimiter(perMinute float64, burst int) *limiter {
	if burst <= 0 {
		burst = max(1, int(math.Ceil(perMinute)))
	}
	return &limiter{rate: rate.Limit(perMinute / 60), burst: burst, keys: map[string]*rate.Limiter{}}
}

// wait is zero when the key may make a request now, which then counts; otherwise it is how long
// until it may.
func (l *limiter) wait(key string, now time.Time) time.Duration {
	if l.rate <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	one := l.keys[key]
	if one == nil {
		if len(l.keys) >= manyKeys {
			l.forget(now)
		}
		one = rate.NewLimiter(l.rate, l.burst)
		l.keys[key] = one
	}
	booking := one.ReserveN(now, 1)
	delay := booking.DelayFrom(now)
	if delay > 0 {
		booking.CancelAt(now)
	}
	return delay
}

// forget drops the keys that have rested long enough to be as good as new.
func (l *limiter) forget(now time.Time) {
	for key, one := range l.keys {
		if one.TokensAt(now) >= float64(l.burst) {
			delete(l.keys, key)
		}
	}
}
