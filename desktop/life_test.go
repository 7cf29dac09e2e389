//go:build !fuzz

package desktop_test

// Left out of fuzzing, for which the vendors' clients that it leads to would be compiled anew.

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bureau/desktop"
	"bureau/desktop/desktoptest"
	"bureau/store"
)

var (
	operator = desktop.Caller{Local: true}
	ann      = desktop.User{ID: "usr-ann", Email: "ann@example.org", Role: desktop.RoleUser, Tier: "free"}
)

// world is a Manager on the real store and a host whose machines outlive it.
type world struct {
	*desktop.Manager
	t     *testing.T
	host  *desktoptest.Host
	store *store.Store
	grace time.Duration
	log   *lines

	connected atomic.Int64
}

// lines keeps what was logged.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, grace: time.Minute, log: &lines{}}
	var err error
	if w.host, err = desktoptest.NewHost(""); err != nil {
		t.Fatal(err)
	}
	w.host.Problem = func(problem string) { t.Error(problem) }
	if w.store, err = store.Open(t.Context(), filepath.Join(t.TempDir(), "bureau.db")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.store.Close() })
	if err := w.store.InsertUser(t.Context(), ann); err != nil {
		t.Fatal(err)
	}
	w.open()
	t.Cleanup(func() { w.Close() })
	return w
}

func (w *world) open() {
	w.t.Helper()
	var err error
	w.Manager, err = desktop.NewManager(w.t.Context(), w.host, w.store, desktoptest.Agents{Connected: &w.connected}, desktop.Config{
		Tiers: []desktop.Tier{
			{Name: "free", VCPUs: 2, MemoryBytes: 4 << 30, DiskBytes: 20 << 30},
			{Name: "max", VCPUs: 8, MemoryBytes: 16 << 30, DiskBytes: 80 << 30},
		},
		DefaultTier: "free", DefaultImage: desktoptest.Image.Name, Network: desktop.NetworkNAT, StopGrace: w.grace,
	}, slog.New(slog.NewTextHandler(w.log, nil)))
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) create() desktop.Desktop {
	w.t.Helper()
	d, err := w.Create(w.t.Context(), operator, desktop.Draft{Owner: ann.ID})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.await(d.ID, ready)
}

func ready(d desktop.Desktop) bool { return d.Status == desktop.Running && d.AgentReady }

func has(s desktop.Status) func(desktop.Desktop) bool {
	return func(d desktop.Desktop) bool { return d.Status == s }
}

func (w *world) await(id string, ok func(desktop.Desktop) bool) desktop.Desktop {
	w.t.Helper()
	var d desktop.Desktop
	until(w.t, func() error {
		var err error
		if d, err = w.Get(w.t.Context(), operator, id); err == nil && !ok(d) {
			err = fmt.Errorf("it is %+v", d)
		}
		return err
	})
	return d
}

func until(t *testing.T, do func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("still not so: ", err)
		}
		time.Sleep(time.Millisecond)
	}
}

// request is one of a client's, as it was seen from outside.
type request struct {
	name    string
	begun   time.Time
	ended   time.Time
	err     error
	leadsTo desktop.Status
}

// Many clients ask one desktop for different things at once. What comes of it is what the last of
// them asked for, in some order in which no request comes before one that had been answered.
func TestContention(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	for _, destroying := range []bool{false, true} {
		for round := range 4 {
			t.Run(fmt.Sprintf("destroying %t, round %d", destroying, round), func(t *testing.T) {
				w := newWorld(t)
				w.host.Slow = 3 * time.Millisecond
				d := w.create()
				var mu sync.Mutex
				var requests []request
				var clients sync.WaitGroup
				turnsOn := 1
				for client := range 6 {
					dice := rand.New(rand.NewPCG(seed, uint64(round*100+client)))
					clients.Go(func() {
						for range 6 {
							r := request{begun: time.Now()}
							pick := dice.IntN(3)
							if destroying && dice.IntN(12) == 0 {
								pick = 3
							}
							switch pick {
							case 0:
								r.name, r.leadsTo = "start", desktop.Running
								_, r.err = w.Start(t.Context(), operator, d.ID)
							case 1:
								r.name, r.leadsTo = "stop", desktop.Stopped
								_, r.err = w.Stop(t.Context(), operator, d.ID)
							case 2:
								r.name, r.leadsTo = "restart", desktop.Running
								_, r.err = w.Restart(t.Context(), operator, d.ID)
							case 3:
								r.name, r.leadsTo = "destroy", desktop.Destroyed
								r.err = w.Destroy(t.Context(), operator, d.ID)
							}
							r.ended = time.Now()
							mu.Lock()
							requests = append(requests, r)
							if r.name != "stop" && r.name != "destroy" {
								turnsOn++
							}
							mu.Unlock()
							time.Sleep(time.Duration(dice.IntN(4)) * time.Millisecond)
						}
					})
				}
				clients.Wait()

				possible := map[desktop.Status]bool{}
				destroyed := false
				for _, r := range requests {
					destroyed = destroyed || r.name == "destroy" && r.err == nil
				}
				for _, r := range requests {
					code := desktop.CodeOf(r.err)
					switch {
					case r.err == nil:
					case destroyed && (code == desktop.Conflict || code == desktop.NotFound):
						continue
					default:
						t.Errorf("%s failed: %v", r.name, r.err)
						continue
					}
					last := true
					for _, other := range requests {
						if other.err == nil && other.begun.After(r.ended) {
							last = false
						}
					}
					if last {
						possible[r.leadsTo] = true
					}
				}
				if destroyed {
					possible = map[desktop.Status]bool{desktop.Destroyed: true}
				}
				var status desktop.Status
				until(t, func() error {
					got, err := w.Get(t.Context(), operator, d.ID)
					status = got.Status
					if desktop.CodeOf(err) == desktop.NotFound {
						status = desktop.Destroyed
					}
					if !possible[status] {
						return fmt.Errorf("it is %s (%v), which no order of %+v explains", status, err, requests)
					}
					return nil
				})
				// It stays so, and libvirt's side agrees with it.
				until(t, func() error {
					record, err := w.store.Desktop(t.Context(), d.ID)
					if err != nil {
						return err
					}
					now := w.host.Now()
					m := now.Machines[d.ID]
					switch {
					case destroyed && (record.DestroyedAt.IsZero() || len(now.Machines) != 0 || len(now.Disks) != 0):
						return fmt.Errorf("it is destroyed, and there is %+v", now)
					case !destroyed && (record.Boot != desktop.BootNone || record.Failure != "" ||
						(record.Wish == desktop.WishRun) != (m.State == desktop.MachineRunning)):
						return fmt.Errorf("the record is %+v, the machine %+v", record, m)
					case now.Starts[d.ID] > turnsOn:
						t.Fatalf("it was turned on %d times by %d requests", now.Starts[d.ID], turnsOn)
					}
					return nil
				})
			})
		}
	}
}

// A guest that has been asked to shut down does so, whatever is asked for next: a start that comes
// then is not lost.
func TestStartWhileStopping(t *testing.T) {
	w := newWorld(t)
	w.host.Slow = time.Hour // until the test says so
	d := w.create()
	if _, err := w.Stop(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
	w.await(d.ID, has(desktop.Stopping))
	if got, err := w.Start(t.Context(), operator, d.ID); err != nil || got.Status != desktop.Stopping {
		t.Fatalf("%+v, %v", got, err)
	}
	w.host.Guest(d.ID, func(m *desktoptest.Machine) { m.State, m.Cause = desktop.MachineOff, "shutdown" })
	until(t, func() error {
		if n := w.host.Now().Starts[d.ID]; n != 2 {
			return fmt.Errorf("it was turned on %d times", n)
		}
		return nil
	})
	w.await(d.ID, ready)
	if record, err := w.store.Desktop(t.Context(), d.ID); err != nil || record.Wish != desktop.WishRun {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestDeafGuestIsTurnedOff(t *testing.T) {
	w := newWorld(t)
	w.Close()
	w.grace = time.Millisecond
	w.open()
	w.host.Deaf = func(string) bool { return true }
	d := w.create()
	if _, err := w.Stop(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
	w.await(d.ID, has(desktop.Stopped))
	if m := w.host.Now().Machines[d.ID]; m.Cause != "destroyed" {
		t.Errorf("the machine is %+v", m)
	}
}

// Callers go at any moment: what they asked for has happened or has not, and the Manager and the
// store are of one mind about it.
func TestCancelledRequests(t *testing.T) {
	w := newWorld(t)
	d := w.create()
	for i := range 100 {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			time.Sleep(time.Duration(rand.IntN(600)) * time.Microsecond)
			cancel()
		}()
		var err error
		switch i % 4 {
		case 0:
			_, err = w.Stop(ctx, operator, d.ID)
		case 1:
			_, err = w.Start(ctx, operator, d.ID)
		case 2:
			_, err = w.Restart(ctx, operator, d.ID)
		case 3:
			var made desktop.Desktop
			if made, err = w.Create(ctx, operator, desktop.Draft{Owner: ann.ID}); err == nil {
				err = w.Destroy(ctx, operator, made.ID)
			}
		}
		cancel()
		if err != nil && !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		known, _, err := w.List(t.Context(), operator, desktop.Page{})
		if err != nil {
			t.Fatal(err)
		}
		for _, have := range known {
			kept, err := w.store.Desktop(t.Context(), have.ID)
			if err != nil || !have.UpdatedAt.Equal(kept.UpdatedAt) && kept.DestroyedAt.IsZero() {
				t.Fatalf("the Manager has %+v, the store %+v, %v", have, kept, err)
			}
		}
	}
	if _, err := w.Start(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
	w.await(d.ID, ready)
	until(t, func() error {
		records, err := w.store.Desktops(t.Context(), desktop.Page{})
		if now := w.host.Now(); err == nil && len(records) != len(now.Machines) {
			err = fmt.Errorf("%d records, %+v", len(records), now)
		}
		return err
	})
}

// A desktop whose machine is gone is in error, whether it ran or not, and starts from its disk.
func TestMachineIsGone(t *testing.T) {
	for _, halted := range []bool{false, true} {
		t.Run(fmt.Sprintf("halted %t", halted), func(t *testing.T) {
			w := newWorld(t)
			d := w.create()
			if halted {
				if _, err := w.Stop(t.Context(), operator, d.ID); err != nil {
					t.Fatal(err)
				}
				w.await(d.ID, has(desktop.Stopped))
			}
			w.host.Do(d.ID, func(s *desktoptest.State) { delete(s.Machines, d.ID) })
			got := w.await(d.ID, has(desktop.Failed))
			if !strings.Contains(got.Reason, "start makes it again from its disk") {
				t.Errorf("reason %q", got.Reason)
			}
			w.Close() // it is so after a crash, too
			w.open()
			w.await(d.ID, has(desktop.Failed))
			if _, err := w.Start(t.Context(), operator, d.ID); err != nil {
				t.Fatal(err)
			}
			w.await(d.ID, ready)
		})
	}
}

// Where the disk is gone, too, no empty one takes its place.
func TestDiskIsGone(t *testing.T) {
	w := newWorld(t)
	d := w.create()
	w.host.Do(d.ID, func(s *desktoptest.State) {
		delete(s.Machines, d.ID)
		delete(s.Disks, d.ID)
	})
	got := w.await(d.ID, has(desktop.Failed))
	if !strings.Contains(got.Reason, "Only destroy leads on") {
		t.Errorf("reason %q", got.Reason)
	}
	if _, err := w.Start(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
	got = w.await(d.ID, func(d desktop.Desktop) bool {
		return d.Status == desktop.Failed && strings.Contains(d.Reason, "could not be started")
	})
	if !strings.Contains(got.Reason, "gone") || len(w.host.Now().Disks) != 0 {
		t.Errorf("reason %q, %+v", got.Reason, w.host.Now())
	}
	if err := w.Destroy(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Get(t.Context(), operator, d.ID); desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("after destroy: %v", err)
	}
}

// A machine without a record is reported, left alone, and becomes a desktop when the operator says so.
func TestAdoption(t *testing.T) {
	w := newWorld(t)
	spec := desktop.Spec{ID: "dt-stranger", Owner: "usr-gone", Name: "left behind", ImageDigest: desktoptest.Image.Digest,
		Network: desktop.NetworkIsolated, VCPUs: 4, MemoryBytes: 5 << 30, DiskBytes: 9 << 30}
	w.host.Do(spec.ID, func(s *desktoptest.State) {
		s.Disks[spec.ID] = spec.ImageDigest
		s.Disks["dt-diskonly"] = spec.ImageDigest
		s.Machines[spec.ID] = desktoptest.Machine{Spec: spec, State: desktop.MachineRunning}
	})
	until(t, func() error {
		if !strings.Contains(w.log.String(), spec.ID) {
			return errors.New("it is not reported: " + w.log.String())
		}
		return nil
	})
	known := w.create()
	found, err := w.Orphans(t.Context(), operator)
	if err != nil || len(found.Machines) != 1 || found.Machines[0].DesktopID != spec.ID || found.Machines[0].Name != spec.Name ||
		len(found.Volumes) != 1 || found.Volumes[0].DesktopID != "dt-diskonly" {
		t.Fatalf("%+v, %v", found, err)
	}
	for _, err := range []error{
		func() error { _, err := w.Orphans(t.Context(), desktop.Caller{User: ann}); return err }(),
		func() error { _, err := w.Adopt(t.Context(), desktop.Caller{User: ann}, spec.ID, ""); return err }(),
		w.RemoveOrphan(t.Context(), desktop.Caller{User: ann}, found.Volumes[0].Name),
	} {
		if desktop.CodeOf(err) != desktop.Forbidden {
			t.Errorf("of a user: %v", err)
		}
	}
	if _, err := w.Adopt(t.Context(), operator, spec.ID, ""); desktop.CodeOf(err) != desktop.Invalid || !strings.Contains(err.Error(), "usr-gone") {
		t.Errorf("for an owner who is unknown: %v", err)
	}
	for _, name := range []string{"dt-nobody", known.ID, "test-" + known.ID} {
		if _, err := w.Adopt(t.Context(), operator, name, ann.Email); desktop.CodeOf(err) != desktop.NotFound {
			t.Errorf("adopt %s: %v", name, err)
		}
	}
	d, err := w.Adopt(t.Context(), operator, found.Machines[0].Domain, ann.Email)
	if err != nil || d.ID != spec.ID || d.Owner != ann.ID || d.Tier != "max" || d.Image != desktoptest.Image.Name || d.Name != spec.Name ||
		d.Network != spec.Network || d.VCPUs != 4 || d.MemoryBytes != 5<<30 || d.DiskBytes != 9<<30 {
		t.Fatalf("%+v, %v", d, err)
	}
	w.await(d.ID, ready)
	if n := w.host.Now().Starts[d.ID]; n != 0 {
		t.Errorf("it was turned on %d times", n)
	}
	if err := w.RemoveOrphan(t.Context(), operator, found.Volumes[0].Name); err != nil {
		t.Error(err)
	}
	if err := w.RemoveOrphan(t.Context(), operator, found.Volumes[0].Name); desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("again: %v", err)
	}
	if found, err := w.Orphans(t.Context(), operator); err != nil || len(found.Machines)+len(found.Volumes) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	// It is a desktop like any other.
	if _, err := w.Restart(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
	until(t, func() error {
		if n := w.host.Now().Starts[d.ID]; n != 1 {
			return fmt.Errorf("it was turned on %d times", n)
		}
		return nil
	})
	if err := w.Destroy(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
}

// The disk of a desktop that has a record and no machine is not without an owner.
func TestDiskOfALostMachineIsOwned(t *testing.T) {
	w := newWorld(t)
	d := w.create()
	w.host.Do(d.ID, func(s *desktoptest.State) { delete(s.Machines, d.ID) })
	w.await(d.ID, has(desktop.Failed))
	if found, err := w.Orphans(t.Context(), operator); err != nil || len(found.Volumes) != 0 {
		t.Errorf("%+v, %v", found, err)
	}
	if err := w.RemoveOrphan(t.Context(), operator, "desktop-"+d.ID); desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("removing it: %v", err)
	}
}

// A guest that reboots has a new agent, and is not taken for ready before that has answered.
func TestGuestReboots(t *testing.T) {
	w := newWorld(t)
	d := w.create()
	before := w.connected.Load()
	w.host.Guest(d.ID, func(m *desktoptest.Machine) { m.Reboots++ })
	until(t, func() error {
		if w.connected.Load() == before {
			return errors.New("the former agent's session goes on")
		}
		return nil
	})
	w.await(d.ID, ready)
	if n := w.host.Now().Starts[d.ID]; n != 1 {
		t.Errorf("it was turned on %d times", n)
	}
}

func TestGuestPanics(t *testing.T) {
	w := newWorld(t)
	d := w.create()
	w.host.Guest(d.ID, func(m *desktoptest.Machine) { m.State, m.Cause = desktop.MachineOff, "panicked" })
	if got := w.await(d.ID, has(desktop.Failed)); !strings.Contains(got.Reason, "panicked") {
		t.Errorf("reason %q", got.Reason)
	}
	if _, err := w.Start(t.Context(), operator, d.ID); err != nil {
		t.Fatal(err)
	}
	w.await(d.ID, ready)
}

// Whatever has to be there before a desktop is must be there, or there is no desktop.
func TestPrepareFails(t *testing.T) {
	w := newWorld(t)
	refused := errors.New("no")
	var prepared string
	_, err := w.Create(t.Context(), operator, desktop.Draft{Owner: ann.ID, Prepare: func(_ context.Context, id string) error {
		prepared = id
		if _, err := w.Get(t.Context(), operator, id); desktop.CodeOf(err) != desktop.NotFound {
			t.Errorf("it is there before: %v", err)
		}
		return refused
	}})
	if !errors.Is(err, refused) {
		t.Fatal(err)
	}
	until(t, func() error {
		record, err := w.store.Desktop(t.Context(), prepared)
		if err == nil && record.DestroyedAt.IsZero() {
			err = fmt.Errorf("it is still there: %+v", record)
		}
		return err
	})
	if n := w.host.Now().Starts[prepared]; n != 0 {
		t.Errorf("it was turned on %d times", n)
	}
}
