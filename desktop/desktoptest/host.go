// Package desktoptest is a host for tests of what stands above a hypervisor: machines that keep their
// state while the processes that manage them come and go, in the steps that a real hypervisor has.
// It must not know who manages it.
package desktoptest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"bureau/desktop"
)

// Image is the one image of a Host.
var Image = desktop.Image{Name: "small", Digest: "d1", Boot: "kernel", DiskBytes: 2 << 30}

// Machine is a machine of a Host.
type Machine struct {
	Spec    desktop.Spec
	State   desktop.MachineState
	Cause   string
	Reboots uint64
}

// State is everything that a Host is.
type State struct {
	Disks    map[string]string  // digest of its image, by desktop
	Machines map[string]Machine // by desktop
	Starts   map[string]int     // how often each was turned on
}

// Host is a hypervisor in memory.
type Host struct {
	// Deaf tells whether a guest ignores the request to shut down; none does when nil.
	Deaf func(id string) bool
	// Slow is how long a guest takes to shut down, also when nobody waits for it any more.
	Slow time.Duration
	// Problem is told of what no host allows, such as a second machine of a desktop.
	Problem func(string)

	mu       sync.Mutex
	file     string // where the state is kept for another process; "" for nowhere
	state    State
	asked    map[string]bool // guests on their way off
	watchers map[chan string]struct{}
}

// NewHost makes an empty one. With a file it is as the file says, and keeps it so.
func NewHost(file string) (*Host, error) {
	h := &Host{file: file, asked: map[string]bool{}, watchers: map[chan string]struct{}{},
		state: State{Disks: map[string]string{}, Machines: map[string]Machine{}, Starts: map[string]int{}}}
	if file == "" {
		return h, nil
	}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return h, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &h.state)
	}
	return h, err
}

// Now is the host's present state.
func (h *Host) Now() State {
	h.mu.Lock()
	defer h.mu.Unlock()
	return State{maps.Clone(h.state.Disks), maps.Clone(h.state.Machines), maps.Clone(h.state.Starts)}
}

// Do changes the state, as an operator or a guest does, and tells the watchers of a desktop.
func (h *Host) Do(id string, change func(*State)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change(&h.state)
	if h.file != "" {
		text, err := json.Marshal(h.state)
		if err == nil {
			err = os.WriteFile(h.file+".new", text, 0o600)
		}
		if err == nil {
			err = os.Rename(h.file+".new", h.file)
		}
		if err != nil {
			panic(err) // of a test's own folder
		}
	}
	for w := range h.watchers {
		select {
		case w <- id:
		default: // it has as much to look at as it can take
		}
	}
}

// Guest makes a machine's guest do something by itself.
func (h *Host) Guest(id string, change func(*Machine)) {
	h.Do(id, func(s *State) {
		m, ok := s.Machines[id]
		if ok {
			change(&m)
			s.Machines[id] = m
		}
	})
}

type stepKey struct{}

// WithStep is a context whose calls of a Host ask step before and after each change of its state; an
// error ends the call there. It is where a test ends a process in the middle of a call.
func WithStep(ctx context.Context, step func(name string) error) context.Context {
	return context.WithValue(ctx, stepKey{}, step)
}

// between does one change of a call.
func (h *Host) between(ctx context.Context, name, id string, change func(*State)) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	step, _ := ctx.Value(stepKey{}).(func(string) error)
	if step == nil {
		step = func(string) error { return nil }
	}
	if err := step("before " + name); err != nil {
		return err
	}
	h.Do(id, change)
	return step("after " + name)
}

func (h *Host) problem(format string, args ...any) {
	if h.Problem != nil {
		h.Problem(fmt.Sprintf(format, args...))
	}
}

// Image implements desktop.Machines.
func (h *Host) Image(_ context.Context, name string) (desktop.Image, error) {
	if name != Image.Name {
		return desktop.Image{}, desktop.Errorf(desktop.NotFound, "there is no image %s", name)
	}
	return Image, nil
}

// Images implements desktop.Machines.
func (h *Host) Images(context.Context) ([]desktop.Image, error) { return []desktop.Image{Image}, nil }

// HasContent implements desktop.Machines.
func (h *Host) HasContent(_ context.Context, digest string) error {
	if digest != Image.Digest {
		return desktop.Errorf(desktop.NotFound, "there is no image of the digest %s", digest)
	}
	return nil
}

// Measure implements desktop.Machines: there is room for any test's desktops.
func (h *Host) Measure(context.Context) (desktop.HostFacts, error) {
	return desktop.HostFacts{CPUs: 1000, MemoryBytes: 1 << 50, MemoryAvailable: 1 << 50, DiskBytes: 1 << 50, DiskAvailable: 1 << 50}, nil
}

// Processors implements desktop.Machines: nobody uses them.
func (h *Host) Processors(context.Context) (desktop.ProcessorUse, error) {
	use := desktop.ProcessorUse{Processors: 1000, Machines: map[string]time.Duration{}}
	for id, m := range h.Now().Machines {
		if on(m) {
			use.Machines[id] = 0
		}
	}
	return use, nil
}

// Yield implements desktop.Machines.
func (h *Host) Yield(_ context.Context, id string, _ bool) error {
	if !on(h.Now().Machines[id]) {
		return desktop.Errorf(desktop.NotFound, "the machine of desktop %s is not on", id)
	}
	return nil
}

// Start implements desktop.Machines.
func (h *Host) Start(ctx context.Context, spec desktop.Spec) error {
	now := h.Now()
	if on(now.Machines[spec.ID]) {
		return nil
	}
	if _, there := now.Disks[spec.ID]; !there {
		if spec.HasDisk {
			return desktop.Errorf(desktop.NotFound, "the disk of desktop %s is gone", spec.ID)
		}
		if err := h.between(ctx, "disk", spec.ID, func(s *State) { s.Disks[spec.ID] = spec.ImageDigest }); err != nil {
			return err
		}
	}
	err := h.between(ctx, "definition", spec.ID, func(s *State) {
		m := s.Machines[spec.ID]
		m.Spec = spec
		if m.State == "" {
			m.State = desktop.MachineOff
		}
		s.Machines[spec.ID] = m
	})
	if err != nil {
		return err
	}
	return h.between(ctx, "turning on", spec.ID, func(s *State) {
		m, defined := s.Machines[spec.ID]
		if _, there := s.Disks[spec.ID]; !there || !defined {
			h.problem("machine %s is turned on without a disk or a definition", spec.ID)
			return
		}
		if on(m) {
			return
		}
		m.State, m.Cause = desktop.MachineRunning, ""
		s.Machines[spec.ID] = m
		s.Starts[spec.ID]++
	})
}

func on(m Machine) bool { return m.State != "" && m.State != desktop.MachineOff }

// Stop implements desktop.Machines. A guest that has been asked goes off, whether or not anybody
// waits for it.
func (h *Host) Stop(ctx context.Context, id string, grace time.Duration) error {
	if !on(h.Now().Machines[id]) {
		return nil
	}
	deaf := h.Deaf != nil && h.Deaf(id)
	off := func(cause string) func(*State) {
		return func(s *State) {
			delete(h.asked, id)
			if m := s.Machines[id]; on(m) {
				m.State, m.Cause = desktop.MachineOff, cause
				s.Machines[id] = m
			}
		}
	}
	if !deaf {
		err := h.between(ctx, "request to shut down", id, func(*State) {
			if h.Slow > 0 && !h.asked[id] {
				h.asked[id] = true
				time.AfterFunc(h.Slow, func() { h.Do(id, off("shutdown")) })
			}
		})
		if err != nil {
			return err
		}
		if h.Slow == 0 {
			return h.between(ctx, "shutdown", id, off("shutdown"))
		}
	}
	changes, done := h.listen()
	defer done()
	patience := time.NewTimer(grace)
	defer patience.Stop()
	for on(h.Now().Machines[id]) {
		select {
		case <-changes:
		case <-patience.C:
			return h.between(ctx, "turning off", id, off("destroyed"))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// Remove implements desktop.Machines.
func (h *Host) Remove(ctx context.Context, id string) error {
	err := h.between(ctx, "forgetting", id, func(s *State) { delete(s.Machines, id) })
	if err != nil {
		return err
	}
	return h.between(ctx, "deleting the disk", id, func(s *State) { delete(s.Disks, id) })
}

// Inspect implements desktop.Machines.
func (h *Host) Inspect(ctx context.Context, id string) (desktop.Machine, error) {
	now := h.Now()
	m, ok := now.Machines[id]
	if !ok {
		_, disk := now.Disks[id]
		return desktop.Machine{ID: id, State: desktop.MachineAbsent, DiskGone: !disk}, ctx.Err()
	}
	return seen(id, m), ctx.Err()
}

func seen(id string, m Machine) desktop.Machine {
	return desktop.Machine{ID: id, State: m.State, Cause: m.Cause, Reboots: m.Reboots, Domain: "test-" + id,
		Owner: m.Spec.Owner, Name: m.Spec.Name, Acceleration: desktop.TCG}
}

// List implements desktop.Machines.
func (h *Host) List(ctx context.Context) ([]desktop.Machine, error) {
	now := h.Now()
	var list []desktop.Machine
	for _, id := range slices.Sorted(maps.Keys(now.Machines)) {
		list = append(list, seen(id, now.Machines[id]))
	}
	return list, ctx.Err()
}

// Describe implements desktop.Machines.
func (h *Host) Describe(_ context.Context, id string) (desktop.Spec, error) {
	now := h.Now()
	m, ok := now.Machines[id]
	digest, disk := now.Disks[id]
	if !ok || !disk {
		return desktop.Spec{}, desktop.Errorf(desktop.NotFound, "there is no machine %s with a disk", id)
	}
	spec := m.Spec
	spec.ImageDigest, spec.HasDisk = digest, true
	return spec, nil
}

// Unused implements desktop.Machines.
func (h *Host) Unused(context.Context) ([]desktop.Volume, error) {
	now := h.Now()
	var list []desktop.Volume
	for _, id := range slices.Sorted(maps.Keys(now.Disks)) {
		if _, ok := now.Machines[id]; !ok {
			list = append(list, desktop.Volume{Name: "desktop-" + id, SizeBytes: 1 << 20, Why: "it has no machine", DesktopID: id})
		}
	}
	return list, nil
}

// RemoveUnused implements desktop.Machines.
func (h *Host) RemoveUnused(ctx context.Context, name string) error {
	unused, _ := h.Unused(ctx)
	i := slices.IndexFunc(unused, func(v desktop.Volume) bool { return v.Name == name })
	if i < 0 {
		return desktop.Errorf(desktop.Conflict, "volume %s is needed, or gone", name)
	}
	h.Do(unused[i].DesktopID, func(s *State) { delete(s.Disks, unused[i].DesktopID) })
	return nil
}

func (h *Host) listen() (chan string, func()) {
	changes := make(chan string, 100)
	h.mu.Lock()
	h.watchers[changes] = struct{}{}
	h.mu.Unlock()
	return changes, func() {
		h.mu.Lock()
		delete(h.watchers, changes)
		h.mu.Unlock()
	}
}

// Watch implements desktop.Machines.
func (h *Host) Watch(ctx context.Context) <-chan string {
	changes, done := h.listen()
	out := make(chan string)
	go func() {
		defer close(out)
		defer done()
		for {
			select {
			case id := <-changes:
				select {
				case out <- id:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// OpenAgent implements desktop.Machines. Agents ignores the stream.
func (h *Host) OpenAgent(context.Context, string) (io.ReadWriteCloser, error) { return nil, nil }

// OpenScreen implements desktop.Machines.
func (h *Host) OpenScreen(context.Context, string) (desktop.Screen, error) {
	return nil, errors.New("this host has no display")
}

// Agents connects to agents that are ready at once and do nothing.
type Agents struct {
	Connected *atomic.Int64 // counts them, when not nil
}

// Connect implements desktop.AgentConnector.
func (a Agents) Connect(context.Context, string, io.ReadWriteCloser) (desktop.Agent, error) {
	if a.Connected != nil {
		a.Connected.Add(1)
	}
	return &agent{changed: make(chan struct{}), done: make(chan struct{})}, nil
}

type agent struct {
	desktop.Agent // what no test of a desktop's life calls
	changed, done chan struct{}
	once          sync.Once
}

func (a *agent) Status() desktop.AgentStatus { return desktop.AgentStatus{Ready: true} }
func (a *agent) Changed() <-chan struct{}    { return a.changed }
func (a *agent) Done() <-chan struct{}       { return a.done }
func (a *agent) Close() error                { a.once.Do(func() { close(a.done) }); return nil }
func (a *agent) Cursor(context.Context) (*desktop.Cursor, error) {
	return nil, errors.New("this agent knows no cursor")
}
