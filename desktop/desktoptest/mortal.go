package desktoptest

import (
	"context"
	"sync"
	"time"

	"bureau/assistant/provider"
	"bureau/desktop"
	"bureau/store"
)

// Mortal is a process that dies at one of the calls that it makes of its store and its hypervisor:
// every call has a moment before it and one after it, and a call of a Host's has one around each of
// its steps. After its death nothing that it does has an effect.
type Mortal struct {
	// Die, when not nil, ends the real process instead.
	Die func()

	name string // the moment of its death; "" for none
	nth  int

	mu      sync.Mutex
	moments []string // those that have passed
	died    chan struct{}
}

// errDead is what a dead process's calls come to. Nothing is concluded from it.
var errDead = desktop.Errorf(desktop.Unavailable, "the process is dead")

// NewMortal makes a process that dies at the nth moment of a name, or does not when that is "".
func NewMortal(name string, nth int) *Mortal {
	return &Mortal{name: name, nth: nth, died: make(chan struct{})}
}

// DieAt makes it die at the nth moment of a name from now on.
func (m *Mortal) DieAt(name string, nth int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.name, m.nth = name, nth
}

// Died is closed when it has died.
func (m *Mortal) Died() <-chan struct{} { return m.died }

// Dead tells whether it has.
func (m *Mortal) Dead() bool {
	select {
	case <-m.died:
		return true
	default:
		return false
	}
}

// Passed are the moments that it has lived through, the last one its death when it is dead.
func (m *Mortal) Passed() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return append([]string{}, m.moments...)
}

func (m *Mortal) moment(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.Dead() {
		return errDead
	}
	m.moments = append(m.moments, name)
	if name != m.name {
		return nil
	}
	if m.nth--; m.nth > 0 {
		return nil
	}
	if m.Die != nil {
		m.Die()
	}
	close(m.died)
	return errDead
}

// call is one call, which happens when the process lives until then.
func call[T any](m *Mortal, name string, do func() (T, error)) (T, error) {
	var none T
	if err := m.moment("before " + name); err != nil {
		return none, err
	}
	value, err := do()
	if dead := m.moment("after " + name); dead != nil {
		return none, dead
	}
	return value, err
}

func act(m *Mortal, name string, do func() error) error {
	_, err := call(m, name, func() (struct{}, error) { return struct{}{}, do() })
	return err
}

// Store is a store that a process uses.
type Store struct {
	*store.Store
	M *Mortal
}

var (
	_ desktop.Store  = Store{}
	_ desktop.Claims = Store{}
	_ provider.Store = Store{}
)

// The methods that a desktop's life uses, as the store has them.

func (s Store) InsertDesktop(ctx context.Context, record desktop.Record, limit int) error {
	return act(s.M, "InsertDesktop", func() error { return s.Store.InsertDesktop(ctx, record, limit) })
}

func (s Store) UpdateDesktop(ctx context.Context, id string, change func(*desktop.Record) error) (desktop.Record, error) {
	return call(s.M, "UpdateDesktop", func() (desktop.Record, error) { return s.Store.UpdateDesktop(ctx, id, change) })
}

func (s Store) Desktop(ctx context.Context, id string) (desktop.Record, error) {
	return call(s.M, "Desktop", func() (desktop.Record, error) { return s.Store.Desktop(ctx, id) })
}

func (s Store) Desktops(ctx context.Context, page desktop.Page) ([]desktop.Record, error) {
	return call(s.M, "Desktops", func() ([]desktop.Record, error) { return s.Store.Desktops(ctx, page) })
}

func (s Store) KeepUses(ctx context.Context, uses map[string]time.Time) error {
	return act(s.M, "KeepUses", func() error { return s.Store.KeepUses(ctx, uses) })
}

func (s Store) Uses(ctx context.Context) (map[string]time.Time, error) {
	return call(s.M, "Uses", func() (map[string]time.Time, error) { return s.Store.Uses(ctx) })
}

func (s Store) InsertUser(ctx context.Context, user desktop.User) error {
	return act(s.M, "InsertUser", func() error { return s.Store.InsertUser(ctx, user) })
}

func (s Store) UpdateUser(ctx context.Context, id string, change func(*desktop.User) error) (desktop.User, error) {
	return call(s.M, "UpdateUser", func() (desktop.User, error) { return s.Store.UpdateUser(ctx, id, change) })
}

func (s Store) InsertKey(ctx context.Context, key desktop.Key, hash []byte) error {
	return act(s.M, "InsertKey", func() error { return s.Store.InsertKey(ctx, key, hash) })
}

func (s Store) TouchKey(ctx context.Context, id string, at time.Time) error {
	return act(s.M, "TouchKey", func() error { return s.Store.TouchKey(ctx, id, at) })
}

func (s Store) InsertProvider(ctx context.Context, r provider.Record, limit int) error {
	return act(s.M, "InsertProvider", func() error { return s.Store.InsertProvider(ctx, r, limit) })
}

func (s Store) Take(ctx context.Context, claim desktop.Claim, at time.Time) (desktop.Past, error) {
	return call(s.M, "Take", func() (desktop.Past, error) { return s.Store.Take(ctx, claim, at) })
}

func (s Store) Finish(ctx context.Context, claim desktop.Claim, answer *desktop.Answer) error {
	return act(s.M, "Finish", func() error { return s.Store.Finish(ctx, claim, answer) })
}

// Machines is a hypervisor that a process uses.
type Machines struct {
	desktop.Machines
	M *Mortal
}

func (h Machines) inside(ctx context.Context) context.Context {
	return WithStep(ctx, h.M.moment)
}

func (h Machines) Image(ctx context.Context, name string) (desktop.Image, error) {
	return call(h.M, "Image", func() (desktop.Image, error) { return h.Machines.Image(ctx, name) })
}

func (h Machines) HasContent(ctx context.Context, digest string) error {
	return act(h.M, "HasContent", func() error { return h.Machines.HasContent(ctx, digest) })
}

func (h Machines) Measure(ctx context.Context) (desktop.HostFacts, error) {
	return call(h.M, "Measure", func() (desktop.HostFacts, error) { return h.Machines.Measure(ctx) })
}

func (h Machines) Start(ctx context.Context, spec desktop.Spec) error {
	return act(h.M, "Start", func() error { return h.Machines.Start(h.inside(ctx), spec) })
}

func (h Machines) Stop(ctx context.Context, id string, grace time.Duration) error {
	return act(h.M, "Stop", func() error { return h.Machines.Stop(h.inside(ctx), id, grace) })
}

func (h Machines) Remove(ctx context.Context, id string) error {
	return act(h.M, "Remove", func() error { return h.Machines.Remove(h.inside(ctx), id) })
}

func (h Machines) Inspect(ctx context.Context, id string) (desktop.Machine, error) {
	return call(h.M, "Inspect", func() (desktop.Machine, error) { return h.Machines.Inspect(ctx, id) })
}

func (h Machines) List(ctx context.Context) ([]desktop.Machine, error) {
	return call(h.M, "List", func() ([]desktop.Machine, error) { return h.Machines.List(ctx) })
}
