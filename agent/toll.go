package agent

import (
	"sync"
	"time"
)

// A toll bounds what a guest costs the host by sending as fast as it can. What crosses the link
// passes through libvirtd, which serves every guest of the machine in one loop, and is looked at
// here: a guest that floods would slow its neighbours down. So a link has so much to spend at once,
// more than anything that is asked of a guest takes, and earns the next as time goes by. Reading
// waits meanwhile, and what is not read stays in the guest.

const (
	tollRate  = 16 << 20        // bytes a second
	tollBurst = 2 * time.Second // of it may be spent at once
	tollFrame = 512             // bytes that a frame of the multiplexer counts for besides its own
)

type toll struct {
	rate  int // bytes a second
	burst time.Duration

	mu   sync.Mutex
	paid time.Time // until when all that has passed is paid for
}

func newToll() *toll { return &toll{rate: tollRate, burst: tollBurst} }

// owe takes note of so many bytes, and returns how long to wait before the next are read. A nil toll
// is one that charges nothing.
func (t *toll) owe(bytes int, now time.Time) time.Duration {
	if t == nil || bytes == 0 {
		return 0
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if least := now.Add(-t.burst); t.paid.Before(least) {
		t.paid = least
	}
	t.paid = t.paid.Add(time.Duration(bytes) * time.Second / time.Duration(t.rate))
	return max(0, t.paid.Sub(now))
}

// pay is owe, and waits, unless done is closed meanwhile.
func (t *toll) pay(bytes int, done <-chan struct{}) {
	wait := t.owe(bytes, time.Now())
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-done:
	}
}
