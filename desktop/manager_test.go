package desktop

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

var (
	testTiers = []Tier{
		{Name: "free", VCPUs: 2, MemoryBytes: 4 << 30, DiskBytes: 20 << 30, Desktops: 2},
		{Name: "max", VCPUs: 4, MemoryBytes: 16 << 30, DiskBytes: 80 << 30, Desktops: 10},
	}
	ann   = Caller{User: User{ID: "usr-ann", Tier: "free"}}
	bob   = Caller{User: User{ID: "usr-bob", Tier: "max"}}
	root  = User{ID: "usr-root", Role: RoleAdmin, Tier: "max"}
	local = Caller{Local: true}
)

type appliance struct {
	*Manager
	t        *testing.T
	machines *fakeMachines
	agents   fakeAgents
	store    *memoryStore
}

func newAppliance(t *testing.T) *appliance {
	return newApplianceWith(t, fakeAgents{})
}

func newApplianceWith(t *testing.T, agents fakeAgents) *appliance {
	a := &appliance{t: t, machines: newFakeMachines(), agents: agents, store: newMemoryStore(ann.User, bob.User, root)}
	a.open()
	t.Cleanup(func() { a.Close() })
	return a
}

func (a *appliance) open() {
	a.t.Helper()
	m, err := NewManager(a.t.Context(), a.machines, a.store, a.agents,
		Config{Tiers: testTiers, DefaultTier: "free", DefaultImage: "small", Network: NetworkNAT}, slog.New(slog.DiscardHandler))
	if err != nil {
		a.t.Fatal(err)
	}
	a.Manager = m
}

func (a *appliance) create(c Caller, d Draft) Desktop {
	a.t.Helper()
	got, err := a.Create(a.t.Context(), c, d)
	if err != nil {
		a.t.Fatal(err)
	}
	return got
}

func (a *appliance) await(id string, ok func(Desktop) bool) Desktop {
	a.t.Helper()
	var d Desktop
	var err error
	eventually(a.t, func() bool { d, err = a.Get(a.t.Context(), local, id); return err == nil && ok(d) },
		func() any { return fmt.Sprintf("%+v %v", d, err) })
	return d
}

func (a *appliance) awaitStatus(id string, s Status) Desktop {
	a.t.Helper()
	return a.await(id, func(d Desktop) bool { return d.Status == s })
}

func ready(d Desktop) bool { return d.Status == Running && d.AgentReady }

func TestLife(t *testing.T) {
	a := newAppliance(t)
	ctx := t.Context()
	d := a.create(ann, Draft{Name: "one"})
	if d.Status != Pending && d.Status != Booting {
		t.Errorf("a new desktop is %s", d.Status)
	}
	d = a.await(d.ID, ready)
	if d.Acceleration != TCG || d.IPAddress == nil || *d.IPAddress != "10.9.8.7" || d.BootStage != StageReady {
		t.Errorf("running: %+v", d)
	}
	if acted, err := a.Act(ctx, ann, d.ID, Action{Move: &Move{}}); err != nil || acted.Cursor != (Point{1, 2}) {
		t.Errorf("Act: %+v, %v", acted, err)
	}
	if f, err := a.Frame(ctx, ann, d.ID); err != nil || f.Source != SourceAgent {
		t.Errorf("without a display the agent's capture stands in: %+v, %v", f, err)
	}
	if _, err := a.Start(ctx, ann, d.ID); err != nil {
		t.Errorf("start of a running desktop: %v", err)
	}
	if _, err := a.Stop(ctx, ann, d.ID); err != nil {
		t.Fatal(err)
	}
	d = a.awaitStatus(d.ID, Stopped)
	if d.IPAddress != nil || d.AgentReady || d.Acceleration != "" {
		t.Errorf("stopped: %+v", d)
	}
	if _, err := a.Act(ctx, ann, d.ID); CodeOf(err) != Unavailable {
		t.Errorf("Act on a stopped desktop: %v", err)
	}
	if _, err := a.Frame(ctx, ann, d.ID); CodeOf(err) != Unavailable {
		t.Errorf("Frame of a stopped desktop: %v", err)
	}
	if _, err := a.Restart(ctx, ann, d.ID); err != nil {
		t.Fatal(err)
	}
	a.await(d.ID, ready)
	if _, err := a.Restart(ctx, ann, d.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool { a.machines.mu.Lock(); defer a.machines.mu.Unlock(); return a.machines.starts[d.ID] == 3 },
		func() any { return a.machines.starts })
	a.await(d.ID, ready)
	if err := a.Destroy(ctx, ann, d.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Get(ctx, ann, d.ID); CodeOf(err) != NotFound {
		t.Errorf("after destroy: %v", err)
	}
	if a.store.record(d.ID).DestroyedAt.IsZero() || len(a.machines.machines) != 0 {
		t.Errorf("left behind: %+v %+v", a.store.record(d.ID), a.machines.machines)
	}
}

func TestTenantsDoNotSeeEachOther(t *testing.T) {
	a := newAppliance(t)
	ctx := t.Context()
	d := a.create(ann, Draft{})
	for name, do := range map[string]func(Caller) error{
		"get":       func(c Caller) error { _, err := a.Get(ctx, c, d.ID); return err },
		"update":    func(c Caller) error { _, err := a.Update(ctx, c, d.ID, Change{}); return err },
		"start":     func(c Caller) error { _, err := a.Start(ctx, c, d.ID); return err },
		"stop":      func(c Caller) error { _, err := a.Stop(ctx, c, d.ID); return err },
		"restart":   func(c Caller) error { _, err := a.Restart(ctx, c, d.ID); return err },
		"destroy":   func(c Caller) error { return a.Destroy(ctx, c, d.ID) },
		"act":       func(c Caller) error { _, err := a.Act(ctx, c, d.ID); return err },
		"exec":      func(c Caller) error { _, err := a.Exec(ctx, c, d.ID, Exec{}, nil); return err },
		"windows":   func(c Caller) error { _, err := a.Windows(ctx, c, d.ID); return err },
		"activate":  func(c Caller) error { return a.ActivateWindow(ctx, c, d.ID, 1) },
		"close":     func(c Caller) error { return a.CloseWindow(ctx, c, d.ID, 1) },
		"clipboard": func(c Caller) error { _, err := a.Clipboard(ctx, c, d.ID); return err },
		"copy":      func(c Caller) error { return a.SetClipboard(ctx, c, d.ID, "") },
		"resize":    func(c Caller) error { return a.Resize(ctx, c, d.ID, Size{}) },
		"see":       func(c Caller) error { _, err := a.See(ctx, c, d.ID, 0); return err },
		"frame":     func(c Caller) error { _, err := a.Frame(ctx, c, d.ID); return err },
	} {
		if err := do(bob); CodeOf(err) != NotFound {
			t.Errorf("%s of another's desktop: %v", name, err)
		}
	}
	if list, _, _ := a.List(ctx, bob, Page{}); len(list) != 0 {
		t.Errorf("bob sees %+v", list)
	}
	for _, c := range []Caller{ann, local} {
		if list, _, _ := a.List(ctx, c, Page{}); len(list) != 1 {
			t.Errorf("%s sees %+v", c.User.ID, list)
		}
	}
}

func TestDrafts(t *testing.T) {
	a := newAppliance(t)
	off := false
	for _, c := range []struct {
		name   string
		caller Caller
		draft  Draft
		code   Code
		says   string
	}{
		{"unknown tier", ann, Draft{Tier: "huge"}, Invalid, "free, max"},
		{"larger tier", ann, Draft{Tier: "max"}, Invalid, "larger than yours"},
		{"unknown image", ann, Draft{Image: "none"}, Invalid, "no image none"},
		{"too much memory", ann, Draft{Size: &Sizes{MemoryBytes: 5 << 30}}, Invalid, "size.memoryBytes"},
		{"too little memory", ann, Draft{Size: &Sizes{MemoryBytes: 5}}, Invalid, "size.memoryBytes"},
		{"for another", ann, Draft{Owner: bob.User.ID}, Invalid, "owner"},
		{"for nobody", local, Draft{Owner: "usr-x"}, Invalid, "owner"},
		{"control characters", ann, Draft{Name: "a\x07"}, Invalid, "control"},
		{"long name", ann, Draft{Name: strings.Repeat("ü", 64)}, Invalid, "63"},
	} {
		if _, err := a.Create(t.Context(), c.caller, c.draft); CodeOf(err) != c.code || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	d := a.create(local, Draft{Owner: ann.User.ID, Start: &off, Size: &Sizes{VCPUs: 1, MemoryBytes: 8 << 30}})
	if d.Owner != ann.User.ID || d.VCPUs != 1 || d.MemoryBytes != 8<<30 || d.Name == "" || d.Image != "small" || d.Network != NetworkNAT {
		t.Errorf("%+v", d)
	}
	a.awaitStatus(d.ID, Stopped)
	if d := a.create(local, Draft{}); d.Owner != root.ID || d.Tier != "free" {
		t.Errorf("the operator's own: %+v", d)
	}
	a.create(ann, Draft{})
	if _, err := a.Create(t.Context(), ann, Draft{}); CodeOf(err) != Conflict {
		t.Errorf("beyond the limit: %v", err)
	}
}

// What a machine does by itself shows in the status, and only an explicit start undoes it.
func TestMachineEndsByItself(t *testing.T) {
	for _, c := range []struct {
		state MachineState
		cause string
		want  Status
	}{
		{MachineOff, "shutdown", Stopped},
		{MachineOff, "crashed", Failed},
		{MachineOff, "failed", Failed},
		{MachineOff, "destroyed", Failed},
		{MachineAbsent, "", Failed},
		{MachinePaused, "", Failed},
	} {
		t.Run(string(c.state)+" "+c.cause, func(t *testing.T) {
			a := newAppliance(t)
			d := a.create(ann, Draft{})
			a.await(d.ID, ready)
			a.machines.set(d.ID, c.state, c.cause)
			got := a.awaitStatus(d.ID, c.want)
			if (c.want == Failed) != (got.Reason != "") {
				t.Errorf("reason %q", got.Reason)
			}
			if c.state == MachinePaused {
				a.machines.set(d.ID, MachineRunning, "")
			} else if _, err := a.Start(t.Context(), ann, d.ID); err != nil {
				t.Fatal(err)
			}
			a.await(d.ID, ready)
		})
	}
}

func TestHostRestarted(t *testing.T) {
	a := newAppliance(t)
	wanted, halted := a.create(bob, Draft{}), a.create(bob, Draft{})
	a.await(wanted.ID, ready)
	a.await(halted.ID, ready)
	if _, err := a.Stop(t.Context(), bob, halted.ID); err != nil {
		t.Fatal(err)
	}
	a.awaitStatus(halted.ID, Stopped)
	a.Close()
	for _, d := range []Desktop{wanted, halted} {
		a.machines.set(d.ID, MachineOff, "")
	}
	a.open()
	a.await(wanted.ID, ready)
	a.awaitStatus(halted.ID, Stopped)
}

func TestFailedStart(t *testing.T) {
	a := newAppliance(t)
	a.machines.fail = func(method, _ string) error {
		if method == "Start" {
			return Errorf(Exhausted, "4 GiB needed, 1 GiB free")
		}
		return nil
	}
	d := a.create(ann, Draft{})
	if got := a.awaitStatus(d.ID, Failed); !strings.Contains(got.Reason, "1 GiB free") {
		t.Errorf("reason %q", got.Reason)
	}
	a.machines.mu.Lock()
	a.machines.fail = nil
	a.machines.mu.Unlock()
	if _, err := a.Start(t.Context(), ann, d.ID); err != nil {
		t.Fatal(err)
	}
	a.await(d.ID, ready)
}

// A newer wish does not wait for the step towards an older one.
func TestNewerWishInterrupts(t *testing.T) {
	a := newAppliance(t)
	a.machines.hold = make(chan struct{})
	d := a.create(ann, Draft{})
	a.await(d.ID, func(d Desktop) bool { return d.Status == Booting && d.BootStage == StageDisk })
	if err := a.Destroy(t.Context(), ann, d.ID); err != nil {
		t.Fatal(err)
	}
	if a.machines.starts[d.ID] != 0 {
		t.Error("the interrupted start happened")
	}
}

func TestPaging(t *testing.T) {
	a := newAppliance(t)
	for i := range 5 {
		a.create(bob, Draft{Name: fmt.Sprint("d", i)})
	}
	var got []string
	page := Page{Limit: 2}
	for {
		list, more, err := a.List(t.Context(), bob, page)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range list {
			got = append(got, d.ID)
		}
		if !more {
			break
		}
		page.After = list[len(list)-1].ID
	}
	if len(got) != 5 {
		t.Errorf("paged through %v", got)
	}
}

// A display larger than the host would mirror is not asked for.
func TestResizeIsBounded(t *testing.T) {
	a := newAppliance(t)
	for _, size := range []Size{{MaxDisplaySide + 1, 300}, {300, 1 << 40}, {2560, 1601}, {MaxDisplaySide, MaxDisplaySide}} {
		if err := a.Resize(t.Context(), ann, "dt-none", size); CodeOf(err) != Invalid {
			t.Errorf("%v: %v", size, err)
		}
	}
	if err := a.Resize(t.Context(), ann, "dt-none", Size{2560, 1600}); CodeOf(err) != NotFound {
		t.Errorf("the largest: %v", err)
	}
}

// A guest whose kernel panics while it boots is booted again, twice; one that panics afterwards is not.
func TestPanicWhileBooting(t *testing.T) {
	late := make(chan struct{})
	a := newApplianceWith(t, fakeAgents{late: late})
	d := a.create(ann, Draft{})
	starts := func() int {
		a.machines.mu.Lock()
		defer a.machines.mu.Unlock()
		return a.machines.starts[d.ID]
	}
	booting := func(nth int) {
		t.Helper()
		eventually(t, func() bool { return starts() == nth }, func() any { return starts() })
		a.await(d.ID, func(d Desktop) bool { return d.Status == Booting && d.BootStage == StageAgent })
	}
	panics := func() {
		t.Helper()
		a.machines.set(d.ID, MachinePaused, CauseUnknown) // which lasts until the hypervisor has dealt with it
		got := a.await(d.ID, func(d Desktop) bool { return d.Status == Failed || strings.Contains(d.Reason, "stands still") })
		if got.Status == Failed || got.AgentReady {
			t.Errorf("a machine that stands still for a moment: %+v", got)
		}
		a.machines.set(d.ID, MachineOff, causePanicked)
	}
	booting(1)
	panics()
	booting(2)
	panics()
	booting(3)
	panics()
	if got := a.awaitStatus(d.ID, Failed); !strings.Contains(got.Reason, "panicked") || starts() != 3 {
		t.Errorf("%+v after %d starts", got, starts())
	}
	if _, err := a.Start(t.Context(), ann, d.ID); err != nil {
		t.Fatal(err)
	}
	booting(4)
	panics()
	booting(5)
	late <- struct{}{}
	a.await(d.ID, ready)
	panics()
	a.awaitStatus(d.ID, Failed)
	if starts() != 5 {
		t.Errorf("%d starts", starts())
	}
}
