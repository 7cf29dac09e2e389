package desktop

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"sync"
	"testing"
	"time"
)

func (s *memoryStore) KeepUses(_ context.Context, uses map[string]time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses == nil {
		s.uses = map[string]time.Time{}
	}
	maps.Copy(s.uses, uses)
	return nil
}

func (s *memoryStore) Uses(context.Context) (map[string]time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.uses), nil
}

// clock is one that stands until it is moved.
type clock struct {
	mu sync.Mutex
	at time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.at = c.at.Add(d)
}

// idler is an appliance that stops what nobody uses after an hour of its clock's.
type idler struct {
	*appliance
	clock *clock
}

const idleAfter = time.Hour

func newIdler(t *testing.T, agents fakeAgents) *idler {
	t.Helper()
	a := &idler{appliance: newApplianceWith(t, agents), clock: &clock{at: time.Now()}}
	a.Close()
	a.reopen()
	return a
}

func (a *idler) reopen() {
	a.openWith(Config{Tiers: testTiers, DefaultTier: "free", DefaultImage: "small", Network: NetworkNAT,
		IdleStop: idleAfter, Now: a.clock.now})
}

// look is what happens from time to time by itself.
func (a *idler) look() {
	a.t.Helper()
	a.stopIdle(a.t.Context())
	a.keepUses(a.t.Context())
}

// runs checks that a look leaves a desktop alone.
func (a *idler) runs(id string) {
	a.t.Helper()
	a.look()
	if d, err := a.Get(a.t.Context(), local, id); err != nil || !ready(d) {
		a.t.Fatalf("it was stopped: %+v, %v", d, err)
	}
}

// stops checks that a look stops it.
func (a *idler) stops(id string) {
	a.t.Helper()
	a.look()
	if d := a.awaitStatus(id, Stopped); d.Reason == "" {
		a.t.Errorf("it does not say why: %+v", d)
	}
}

func TestIdleDesktopIsStopped(t *testing.T) {
	a := newIdler(t, fakeAgents{})
	ctx := t.Context()
	d := a.create(ann, Draft{})
	kept := a.create(ann, Draft{KeepAlive: true})
	a.await(d.ID, ready)
	a.await(kept.ID, ready)
	a.clock.pass(idleAfter - time.Second)
	a.runs(d.ID)
	// To be asked how it is is no use of it.
	if _, _, err := a.List(ctx, ann, Page{}); err != nil {
		t.Fatal(err)
	}
	a.clock.pass(time.Second)
	a.stops(d.ID)
	a.runs(kept.ID)

	if _, err := a.Start(ctx, ann, d.ID); err != nil {
		t.Fatal(err)
	}
	if got := a.await(d.ID, ready); got.Reason != "" {
		t.Errorf("it runs, and says %q", got.Reason)
	}
	a.runs(d.ID) // counted from the start
	a.clock.pass(idleAfter)
	a.stops(d.ID)

	// One that is no longer kept alive has its time from then on.
	no := false
	if _, err := a.Update(ctx, ann, kept.ID, Change{KeepAlive: &no}); err != nil {
		t.Fatal(err)
	}
	a.runs(kept.ID)
	a.clock.pass(idleAfter)
	a.stops(kept.ID)

	if _, err := a.Start(ctx, ann, d.ID); err != nil {
		t.Fatal(err)
	}
	a.await(d.ID, ready)
	if _, err := a.Stop(ctx, ann, d.ID); err != nil {
		t.Fatal(err)
	}
	if got := a.awaitStatus(d.ID, Stopped); got.Reason != "" {
		t.Errorf("its owner stopped it, and it says %q", got.Reason)
	}
}

// What somebody does with a desktop counts from its end.
func TestUses(t *testing.T) {
	screen := &fakeScreen{done: make(chan struct{})}
	for name, use := range map[string]func(a *idler, id string) error{
		"input": func(a *idler, id string) error {
			_, err := a.Act(t.Context(), ann, id, Action{Move: &Move{}})
			return err
		},
		"pointer": func(a *idler, id string) error { _, err := a.Act(t.Context(), ann, id); return err },
		"command": func(a *idler, id string) error { _, err := a.Exec(t.Context(), ann, id, Exec{}, nil); return err },
		"picture": func(a *idler, id string) error { _, err := a.See(t.Context(), ann, id, 0); return err },
		"frame":   func(a *idler, id string) error { _, err := a.Frame(t.Context(), ann, id); return err },
		"both": func(a *idler, id string) error {
			_, _, err := a.ActAndSee(t.Context(), ann, id, 0, Action{Move: &Move{}})
			return err
		},
		"clipboard": func(a *idler, id string) error { _, err := a.Clipboard(t.Context(), ann, id); return err },
		"a name": func(a *idler, id string) error {
			n := "new"
			_, err := a.Update(t.Context(), ann, id, Change{Name: &n})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newIdler(t, fakeAgents{exec: func(context.Context) (ExecResult, error) { return ExecResult{}, nil }})
			a.machines.mu.Lock()
			a.machines.screen = func() Screen { return screen }
			a.machines.mu.Unlock()
			d := a.create(ann, Draft{})
			a.await(d.ID, ready)
			a.clock.pass(idleAfter - time.Second)
			if err := use(a, d.ID); err != nil {
				t.Fatal(err)
			}
			a.clock.pass(idleAfter - time.Second)
			a.runs(d.ID)
			a.clock.pass(time.Second)
			a.stops(d.ID)
		})
	}
}

// A use that has not ended keeps its desktop, however long it takes: a command, an agent's turn, an open
// view.
func TestLongUses(t *testing.T) {
	for name, begin := range map[string]func(a *idler, id string, begun, hold chan struct{}) (end func()){
		"command": func(a *idler, id string, begun, hold chan struct{}) func() {
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				if _, err := a.Exec(a.t.Context(), ann, id, Exec{}, nil); err != nil {
					a.t.Error(err)
				}
			}()
			<-begun
			return func() { close(hold); <-ended }
		},
		"turn": func(a *idler, id string, _, _ chan struct{}) func() { return a.Use(id) },
		"view": func(a *idler, id string, _, _ chan struct{}) func() {
			k, err := a.find(local, id)
			if err != nil {
				a.t.Fatal(err)
			}
			_, _, release, err := k.display.acquire(a.t.Context(), k)
			if err != nil {
				a.t.Fatal(err)
			}
			return release
		},
	} {
		t.Run(name, func(t *testing.T) {
			begun, hold := make(chan struct{}), make(chan struct{})
			a := newIdler(t, fakeAgents{exec: func(context.Context) (ExecResult, error) {
				close(begun)
				<-hold
				return ExecResult{}, nil
			}})
			a.machines.mu.Lock()
			a.machines.screen = func() Screen { return &fakeScreen{done: make(chan struct{})} }
			a.machines.mu.Unlock()
			d := a.create(ann, Draft{})
			a.await(d.ID, ready)
			end := begin(a, d.ID, begun, hold)
			for range 3 {
				a.clock.pass(10 * idleAfter)
				a.runs(d.ID)
			}
			end()
			a.clock.pass(idleAfter - time.Second)
			a.runs(d.ID)
			a.clock.pass(time.Second)
			a.stops(d.ID)
		})
	}
	newIdler(t, fakeAgents{}).Use("dt-none")() // does nothing
}

func TestLeaseIsUse(t *testing.T) {
	a := newIdler(t, fakeAgents{})
	d := a.create(ann, Draft{})
	a.await(d.ID, ready)
	if _, _, err := a.TakeLease(t.Context(), ann, d.ID, "", MaxLease); err != nil {
		t.Fatal(err)
	}
	a.clock.pass(MaxLease - time.Second)
	a.runs(d.ID)
	a.clock.pass(idleAfter - time.Second) // the lease has expired meanwhile
	a.runs(d.ID)
	a.clock.pass(time.Second)
	a.stops(d.ID)
}

// The count goes on over a restart of the appliance: it neither begins anew, nor is a desktop stopped
// that nobody could use meanwhile.
func TestIdlenessOutlivesTheAppliance(t *testing.T) {
	a := newIdler(t, fakeAgents{})
	d := a.create(ann, Draft{})
	a.await(d.ID, ready)
	restart := func(after time.Duration) {
		t.Helper()
		a.look()
		a.Close()
		a.clock.pass(after)
		a.reopen()
		a.await(d.ID, ready)
	}
	for range 3 { // each shorter than the time, together longer
		restart(20 * time.Minute)
	}
	a.clock.pass(idleGrace - time.Second)
	a.runs(d.ID)
	a.clock.pass(time.Second)
	a.stops(d.ID)

	if _, err := a.Start(t.Context(), ann, d.ID); err != nil {
		t.Fatal(err)
	}
	a.await(d.ID, ready)
	restart(30 * time.Minute)
	a.runs(d.ID)
	a.clock.pass(29 * time.Minute)
	a.runs(d.ID)
	a.clock.pass(time.Minute)
	a.stops(d.ID)

	if _, err := a.Start(t.Context(), ann, d.ID); err != nil {
		t.Fatal(err)
	}
	a.await(d.ID, ready)
	restart(100 * time.Hour) // nobody could use it
	a.clock.pass(idleGrace - time.Second)
	a.runs(d.ID)
	a.clock.pass(time.Second)
	a.stops(d.ID)
}

// A turn that begins while its desktop is about to be stopped is either first, and there is no stop, or
// finds the desktop stopping: it never works on one that then goes away.
func TestNoStopInTheMiddleOfATurn(t *testing.T) {
	a := newIdler(t, fakeAgents{})
	d := a.create(ann, Draft{})
	for range 200 {
		a.await(d.ID, ready)
		a.clock.pass(idleAfter)
		turn := make(chan bool)
		go func() {
			done := a.Use(d.ID)
			defer done()
			before, err := a.Get(t.Context(), local, d.ID)
			if err != nil || before.Status != Running {
				turn <- true // it is refused
				return
			}
			a.stopIdle(t.Context())
			after, err := a.Get(t.Context(), local, d.ID)
			turn <- err == nil && after.Status == Running
		}()
		a.stopIdle(t.Context())
		if !<-turn {
			t.Fatal("the desktop was stopped in the middle of a turn")
		}
		if d, err := a.Get(t.Context(), local, d.ID); err != nil || d.Status != Running {
			a.awaitStatus(d.ID, Stopped)
			if _, err := a.Start(t.Context(), ann, d.ID); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A stop that cannot be kept is none: the desktop runs on, and is stopped later.
func TestIdleStopThatCannotBeKept(t *testing.T) {
	a := newIdler(t, fakeAgents{})
	a.Close()
	store := &failingStore{Store: a.store}
	m, err := NewManager(t.Context(), a.machines, store, a.agents, a.config, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	a.Manager = m
	d := a.create(ann, Draft{})
	a.await(d.ID, ready)
	a.clock.pass(idleAfter)
	store.fail(errors.New("the disk is full"))
	a.look()
	if d, err := a.Get(t.Context(), local, d.ID); err != nil || !ready(d) {
		t.Errorf("%+v, %v", d, err)
	}
	store.fail(nil)
	a.stops(d.ID)
}

// failingStore is one whose changes of desktops may fail after they were thought out.
type failingStore struct {
	Store
	mu  sync.Mutex
	err error
}

func (s *failingStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *failingStore) UpdateDesktop(ctx context.Context, id string, change func(*Record) error) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.Store.UpdateDesktop(ctx, id, func(r *Record) error { return errors.Join(change(r), s.err) })
}

// The loop that does all this in an appliance is there when it is asked for.
func TestIdleStopByItself(t *testing.T) {
	a := newApplianceWith(t, fakeAgents{})
	a.Close()
	a.openWith(Config{Tiers: testTiers, DefaultTier: "free", DefaultImage: "small", Network: NetworkNAT, IdleStop: 2 * time.Second})
	d := a.create(ann, Draft{})
	a.awaitStatus(d.ID, Stopped)
	if uses, err := a.store.Uses(t.Context()); err != nil || uses[d.ID].IsZero() {
		t.Errorf("uses %v, %v", uses, err)
	}
}
