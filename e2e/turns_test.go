package e2e

import (
	"context"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Turns. A guest leaves processors idle for much of its life, so tests run beside each other: those of
// the shared desktop one after another, and beside them, one after another, those with desktops of their
// own. That is two guests for the two processors of a small machine; with more, all took as long, and
// what waited for a starved guest waited in vain. What ends serve runs before them, alone, and what ends
// libvirtd when nobody else needs it.

var (
	// screen is held by the test that uses the shared desktop.
	screen sync.Mutex
	// others is held by the test that has desktops of its own.
	others sync.Mutex
)

// everyoneMayWait lets all tests wait for their turns at once, unless the flag -parallel says otherwise.
func everyoneMayWait() error {
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == "test.parallel" })
	if given {
		return nil
	}
	return flag.Set("test.parallel", "1000")
}

// shared is the shared desktop, ready, for as long as the test lasts, beside those of other desktops.
// When the test fails, what a person needs to understand it is put aside.
func shared(t testing.TB) *guest {
	t.Helper()
	beside(t)
	screen.Lock()
	t.Cleanup(screen.Unlock)
	return alone(t)
}

// withoutLibvirt is shared for a test that ends libvirtd: it has its turn when no other test uses it,
// those of package hypervisor included, which hold a lock on the file.
func withoutLibvirt(t *testing.T) *guest {
	t.Helper()
	t.Parallel()
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "bureau-libvirtd.lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	for !everything(f) {
		select {
		case <-time.After(2 * time.Second):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	t.Cleanup(func() { others.Unlock(); screen.Unlock() })
	return alone(t)
}

// everything takes the shared desktop, the others' turn and the lock on the file, when all are free. Who
// waited for one with another in hand would hold all others up.
func everything(f *os.File) bool {
	if !screen.TryLock() {
		return false
	}
	if !others.TryLock() {
		screen.Unlock()
		return false
	}
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) != nil {
		others.Unlock()
		screen.Unlock()
		return false
	}
	return true
}

// alone is shared for a test that nothing runs beside, as it ends serve.
func alone(t testing.TB) *guest {
	t.Helper()
	timed(t)
	g, err := sharedGuest()
	if g != nil {
		g.watch(t)
	}
	if err == nil {
		err = g.usable(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// usable waits until the shared desktop can be used, whatever an earlier test has left of it.
func (g *guest) usable(ctx context.Context) error {
	s, err := g.desktop(ctx, g.id)
	if err != nil || s.AgentReady {
		return err
	}
	if s.Status == "error" || s.Status == "stopped" {
		progress("the shared desktop is %s and starts again: %s", s.Status, s.Reason)
		if r, err := g.send(ctx, http.MethodPost, g.path("start"), nil); err != nil || r.status/100 != 2 {
			return fmt.Errorf("starting the shared desktop: %v %s", err, r)
		}
	}
	if err := g.readied(ctx, g.id); err != nil {
		return err
	}
	return g.settled(ctx)
}

// own waits for the turn of a test that has desktops of its own.
func own(t testing.TB) {
	t.Helper()
	beside(t)
	others.Lock()
	t.Cleanup(others.Unlock)
	timed(t)
}

// beside lets a test run beside others. A benchmark has the machine for itself.
func beside(t testing.TB) {
	if t, ok := t.(*testing.T); ok {
		t.Parallel()
	}
}

// timed tells the person who waits how long a test took once it had its turn.
func timed(t testing.TB) {
	began := time.Now()
	t.Cleanup(func() {
		if took := time.Since(began); took > 20*time.Second {
			progress("%s took %s", t.Name(), took.Round(time.Second))
		}
	})
}
