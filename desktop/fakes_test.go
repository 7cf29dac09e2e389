package desktop

import (
	"cmp"
	"context"
	"errors"
	"image"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// memoryStore keeps records in memory, as durable as the test that holds it.
type memoryStore struct {
	Store // the methods that the tests do not need
	mu    sync.Mutex
	users map[string]User
	recs  map[string]Record
	uses  map[string]time.Time
}

func newMemoryStore(users ...User) *memoryStore {
	s := &memoryStore{users: make(map[string]User), recs: make(map[string]Record)}
	for _, u := range users {
		s.users[u.ID] = u
	}
	return s
}

func (s *memoryStore) InsertDesktop(_ context.Context, record Record, limit int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, r := range s.recs {
		if r.Owner == record.Owner && r.DestroyedAt.IsZero() {
			n++
		}
	}
	if limit > 0 && n >= limit {
		return Errorf(Conflict, "limit of %d desktops reached", limit)
	}
	s.recs[record.ID] = record
	return nil
}

func (s *memoryStore) UpdateDesktop(_ context.Context, id string, change func(*Record) error) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.recs[id]
	if !ok {
		return Record{}, Errorf(NotFound, "no desktop %s", id)
	}
	if err := change(&r); err != nil {
		return Record{}, err
	}
	s.recs[id] = r
	return r, nil
}

func (s *memoryStore) Desktop(_ context.Context, id string) (Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r, ok := s.recs[id]
	if !ok {
		return Record{}, Errorf(NotFound, "no desktop %s", id)
	}
	return r, nil
}

func (s *memoryStore) Desktops(_ context.Context, page Page) ([]Record, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Record
	for _, r := range s.recs {
		if r.DestroyedAt.IsZero() && (page.Owner == "" || r.Owner == page.Owner) {
			list = append(list, r)
		}
	}
	slices.SortFunc(list, func(a, b Record) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.ID, b.ID))
	})
	if page.After != "" {
		i := slices.IndexFunc(list, func(r Record) bool { return r.ID == page.After })
		list = list[i+1:]
	}
	if page.Limit > 0 && len(list) > page.Limit {
		list = list[:page.Limit]
	}
	return list, nil
}

func (s *memoryStore) Users(context.Context) ([]User, error) {
	return slices.Collect(maps.Values(s.users)), nil
}

func (s *memoryStore) UpdateUser(_ context.Context, id string, change func(*User) error) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.users[id]
	if err := change(&u); err != nil {
		return User{}, err
	}
	s.users[id] = u
	return u, nil
}

func (s *memoryStore) User(_ context.Context, id string) (User, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	u, ok := s.users[id]
	if !ok {
		return User{}, Errorf(NotFound, "no user %s", id)
	}
	return u, nil
}

func (s *memoryStore) record(id string) Record {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.recs[id]
}

// fakeMachines is a host whose machines turn on and off at a word.
type fakeMachines struct {
	mu       sync.Mutex
	machines map[string]Machine
	starts   map[string]int
	watchers []chan string
	fail     func(method, id string) error // injected failures
	hold     chan struct{}                 // when not nil, Start and Stop wait for it or ctx
	screen   func() Screen                 // when not nil, opens a display
	host     HostFacts                     // what Measure tells of; bigHost when zero
	uses     map[string]time.Duration      // of the processors by each machine, between two looks
	used     map[string]time.Duration
	yields   map[string]bool // as Yield was last called
}

func newFakeMachines() *fakeMachines {
	return &fakeMachines{machines: make(map[string]Machine), starts: make(map[string]int),
		uses: make(map[string]time.Duration), used: make(map[string]time.Duration), yields: make(map[string]bool)}
}

func (f *fakeMachines) failure(method, id string) error {
	f.mu.Lock()
	fail := f.fail
	f.mu.Unlock()
	if fail == nil {
		return nil
	}
	return fail(method, id)
}

func (f *fakeMachines) wait(ctx context.Context) error {
	f.mu.Lock()
	hold := f.hold
	f.mu.Unlock()
	if hold == nil {
		return nil
	}
	select {
	case <-hold:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// set changes a machine and tells the watchers, as the hypervisor's events do.
func (f *fakeMachines) set(id string, state MachineState, cause string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state == MachineAbsent {
		delete(f.machines, id)
	} else {
		f.machines[id] = Machine{ID: id, State: state, Cause: cause, Acceleration: TCG}
	}
	for _, w := range f.watchers {
		w <- id
	}
}

func (f *fakeMachines) Image(_ context.Context, name string) (Image, error) {
	if name != "small" {
		return Image{}, Errorf(NotFound, "there is no image %s", name)
	}
	if err := f.failure("Image", ""); err != nil {
		return Image{}, err
	}
	return Image{Name: name, Digest: "d1", DiskBytes: 2 << 30}, nil
}
func (f *fakeMachines) Images(context.Context) ([]Image, error) { return nil, nil }

func (f *fakeMachines) Start(ctx context.Context, spec Spec) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	if err := f.failure("Start", spec.ID); err != nil {
		return err
	}
	f.mu.Lock()
	on := f.machines[spec.ID].State == MachineRunning
	if !on {
		f.starts[spec.ID]++
	}
	f.mu.Unlock()
	if !on {
		f.set(spec.ID, MachineRunning, "")
	}
	return f.failure("Started", spec.ID)
}

func (f *fakeMachines) Stop(ctx context.Context, id string, _ time.Duration) error {
	if err := f.wait(ctx); err != nil {
		return err
	}
	if err := f.failure("Stop", id); err != nil {
		return err
	}
	f.set(id, MachineOff, "shutdown")
	return f.failure("Stopped", id)
}

func (f *fakeMachines) Remove(_ context.Context, id string) error {
	if err := f.failure("Remove", id); err != nil {
		return err
	}
	f.set(id, MachineAbsent, "")
	return f.failure("Removed", id)
}

func (f *fakeMachines) Inspect(_ context.Context, id string) (Machine, error) {
	if err := f.failure("Inspect", id); err != nil {
		return Machine{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if m, ok := f.machines[id]; ok {
		return m, nil
	}
	return Machine{ID: id, State: MachineAbsent}, nil
}

func (f *fakeMachines) List(context.Context) ([]Machine, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Collect(maps.Values(f.machines)), nil
}

func (f *fakeMachines) Describe(context.Context, string) (Spec, error) {
	return Spec{}, Errorf(NotFound, "this host describes nothing")
}
func (f *fakeMachines) Unused(context.Context) ([]Volume, error)   { return nil, nil }
func (f *fakeMachines) RemoveUnused(context.Context, string) error { return nil }

func (f *fakeMachines) Watch(ctx context.Context) <-chan string {
	in, out := make(chan string, 100), make(chan string)
	f.mu.Lock()
	f.watchers = append(f.watchers, in)
	f.mu.Unlock()
	go func() {
		defer close(out)
		defer func() {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.watchers = slices.DeleteFunc(f.watchers, func(w chan string) bool { return w == in })
		}()
		for {
			select {
			case <-ctx.Done():
				return
			case id := <-in:
				select {
				case out <- id:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return out
}

func (f *fakeMachines) OpenAgent(_ context.Context, id string) (io.ReadWriteCloser, error) {
	return nil, f.failure("OpenAgent", id)
}

func (f *fakeMachines) OpenScreen(context.Context, string) (Screen, error) {
	f.mu.Lock()
	open := f.screen
	f.mu.Unlock()
	if open == nil {
		return nil, errors.New("this host has no display")
	}
	return open(), nil
}

// fakeScreen is a display that shows nothing but the cursor it was told. Its serial is the number of
// times that it has been synced.
type fakeScreen struct {
	mu    sync.Mutex
	seeds []Cursor
	syncs atomic.Uint64
	unfit error // what Sync says
	once  sync.Once
	done  chan struct{}
}

func (s *fakeScreen) SeedCursor(c Cursor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seeds = append(s.seeds, c)
}
func (s *fakeScreen) seeded() []Cursor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.seeds)
}
func (s *fakeScreen) Frame(context.Context) (*Frame, error) {
	f := &Frame{Source: SourceDBus, Serial: s.syncs.Load()}
	if seeds := s.seeded(); len(seeds) > 0 {
		f.Cursor = &seeds[len(seeds)-1]
	}
	return f, nil
}
func (s *fakeScreen) Wait(ctx context.Context, _ uint64) error { <-ctx.Done(); return ctx.Err() }
func (s *fakeScreen) Sync(context.Context) error               { s.syncs.Add(1); return s.unfit }
func (s *fakeScreen) Watch(func(Damage)) (stop func())         { return func() {} }
func (s *fakeScreen) Done() <-chan struct{}                    { return s.done }
func (s *fakeScreen) Close() error                             { s.once.Do(func() { close(s.done) }); return nil }

// fakeAgents connects to agents that are ready at once, unless told otherwise.
type fakeAgents struct {
	late   chan struct{} // when not nil, agents are ready after one delivery of it
	cursor func(context.Context) (*Cursor, error)
	slow   time.Duration                                   // what input takes
	act    func(context.Context, ...Action) (Acted, error) // when not nil, does input
	exec   func(context.Context) (ExecResult, error)       // when not nil, runs commands
}

func (f fakeAgents) Connect(context.Context, string, io.ReadWriteCloser) (Agent, error) {
	a := &fakeAgent{cursor: f.cursor, slow: f.slow, act: f.act, exec: f.exec, changed: make(chan struct{}, 1), done: make(chan struct{})}
	a.ready.Store(f.late == nil)
	if f.late != nil {
		go func() {
			select {
			case <-f.late:
				a.ready.Store(true)
				a.changed <- struct{}{}
			case <-a.done:
			}
		}()
	}
	return a, nil
}

func (a *fakeAgent) Shown(context.Context) error { return nil }

type fakeAgent struct {
	Agent
	ready   atomic.Bool
	cursor  func(context.Context) (*Cursor, error)
	slow    time.Duration
	act     func(context.Context, ...Action) (Acted, error)
	exec    func(context.Context) (ExecResult, error)
	changed chan struct{}
	once    sync.Once
	done    chan struct{}
}

func (a *fakeAgent) Status() AgentStatus {
	return AgentStatus{Ready: a.ready.Load(), Addresses: []string{"not an address", "10.9.8.7"}}
}
func (a *fakeAgent) Cursor(ctx context.Context) (*Cursor, error) {
	if a.cursor == nil {
		return nil, errors.New("this agent knows no cursor")
	}
	return a.cursor(ctx)
}
func (a *fakeAgent) Changed() <-chan struct{} { return a.changed }
func (a *fakeAgent) Done() <-chan struct{}    { return a.done }
func (a *fakeAgent) Close() error             { a.once.Do(func() { close(a.done) }); return nil }
func (a *fakeAgent) Act(ctx context.Context, actions ...Action) (Acted, error) {
	if a.act != nil {
		return a.act(ctx, actions...)
	}
	time.Sleep(a.slow)
	return Acted{Cursor: Point{X: 1, Y: 2}, Synced: a.slow > 0}, nil
}
func (a *fakeAgent) Exec(ctx context.Context, _ Exec, _ func(Stream, []byte)) (ExecResult, error) {
	return a.exec(ctx)
}
func (a *fakeAgent) SetClipboard(context.Context, string) error   { return nil }
func (a *fakeAgent) ActivateWindow(context.Context, uint32) error { return nil }
func (a *fakeAgent) CloseWindow(context.Context, uint32) error    { return nil }
func (a *fakeAgent) Resize(context.Context, Size) error           { return nil }
func (a *fakeAgent) Clipboard(context.Context) (string, error)    { return "copied", nil }
func (a *fakeAgent) Capture(context.Context) (*Frame, error) {
	return &Frame{Source: SourceAgent, Pixels: image.NewRGBA(image.Rect(0, 0, 4, 4))}, nil
}

// eventually polls until ok, and fails the test with what describe says when it never is.
func eventually(t *testing.T, ok func() bool, describe func() any) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("still not so after 10 s: %+v", describe())
		}
		time.Sleep(2 * time.Millisecond)
	}
}
