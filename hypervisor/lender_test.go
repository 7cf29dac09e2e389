package hypervisor

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"bureau/desktop"
)

// No two operations share a connection, and as many as there may be are used again.
func TestConnectionsAreLentOnce(t *testing.T) {
	daemon := newPrivateDaemon(t)
	l := newLender(daemon.uri)
	defer l.close()
	var mu sync.Mutex
	lent := map[*connection]bool{}
	made := map[*connection]bool{}
	var wg sync.WaitGroup
	for range 2 * mostLent {
		wg.Go(func() {
			for range 20 {
				c, err := l.borrow(testContext(t))
				if err != nil {
					t.Error("borrow:", err)
					return
				}
				mu.Lock()
				if lent[c] {
					t.Error("a connection is lent twice")
				}
				lent[c], made[c] = true, true
				if len(lent) > mostLent {
					t.Errorf("%d connections are lent", len(lent))
				}
				mu.Unlock()
				if _, err := c.ListAllDomains(0); err != nil {
					t.Error("list:", err)
				}
				mu.Lock()
				delete(lent, c)
				mu.Unlock()
				l.giveBack(c)
			}
		})
	}
	wg.Wait()
	if len(l.idle) == 0 || len(l.idle) > mostIdle {
		t.Errorf("%d connections are idle", len(l.idle))
	}
	t.Logf("%d operations used %d connections", 2*mostLent*20, len(made))
}

func TestBorrowWaitsNoLongerThanItsContext(t *testing.T) {
	daemon := newPrivateDaemon(t)
	l := newLender(daemon.uri)
	defer l.close()
	var all []*connection
	for range mostLent {
		c, err := l.borrow(testContext(t))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	soon, cancel := context.WithTimeout(testContext(t), 10*time.Millisecond)
	defer cancel()
	if _, err := l.borrow(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("borrow: %v", err)
	}
	for _, c := range all {
		l.giveBack(c)
	}
}

// What was idle when the daemon died is not lent any more.
func TestLostConnectionsAreNotLent(t *testing.T) {
	daemon := newPrivateDaemon(t)
	l := newLender(daemon.uri)
	defer l.close()
	c, err := l.borrow(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	l.giveBack(c)
	daemon.kill()
	<-c.lost
	if _, err := l.borrow(testContext(t)); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("borrow without a daemon: %v", err)
	}
	daemon.start(t)
	again, err := l.borrow(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	if again == c {
		t.Error("the lost connection is lent again")
	}
	if _, err := again.ListAllDomains(0); err != nil {
		t.Error("list:", err)
	}
	l.giveBack(again)
}
