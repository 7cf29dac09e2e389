package desktop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// bigHost has room for every test that does not care.
var bigHost = HostFacts{CPUs: 64, MemoryBytes: 1 << 40, MemoryAvailable: 1 << 40, DiskBytes: 1 << 44, DiskAvailable: 1 << 44}

func (f *fakeMachines) setHost(facts HostFacts) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.host = facts
}

func (f *fakeMachines) Measure(context.Context) (HostFacts, error) {
	if err := f.failure("Measure", ""); err != nil {
		return HostFacts{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.host == (HostFacts{}) {
		return bigHost, nil
	}
	return f.host, nil
}

func (f *fakeMachines) HasContent(_ context.Context, digest string) error {
	return f.failure("HasContent", digest)
}

// limited is an appliance whose host may be promised so much.
func limited(t *testing.T, facts HostFacts, capacity Capacity, tiers ...Tier) *appliance {
	t.Helper()
	a := newAppliance(t)
	a.Close()
	a.machines.setHost(facts)
	if len(tiers) == 0 {
		tiers = testTiers
	}
	a.openWith(Config{Tiers: tiers, DefaultTier: tiers[0].Name, DefaultImage: "small", Network: NetworkNAT, Capacity: capacity})
	return a
}

func (a *appliance) openWith(c Config) {
	a.t.Helper()
	m, err := NewManager(a.t.Context(), a.machines, a.store, a.agents, c, slog.New(slog.DiscardHandler))
	if err != nil {
		a.t.Fatal(err)
	}
	a.Manager = m
}

// records are all that are kept of desktops that are not destroyed.
func (a *appliance) records() []Record {
	a.t.Helper()
	list, err := a.store.Desktops(a.t.Context(), Page{})
	if err != nil {
		a.t.Fatal(err)
	}
	return list
}

// wantRefusal checks what the problem document of a refusal will be made of.
func wantRefusal(t *testing.T, err error, code Code, resource string, needed, free int64) {
	t.Helper()
	var e *Error
	if !errors.As(err, &e) || e.Code != code {
		t.Fatalf("error %v (%s), want %s", err, CodeOf(err), code)
	}
	got := fmt.Sprint(e.Details["resource"], " ", e.Details["needed"], " ", e.Details["free"])
	if want := fmt.Sprint(resource, " ", needed, " ", free); got != want {
		t.Errorf("refused for %s, want %s: %v", got, want, err)
	}
	if strings.ContainsAny(e.Message, "\n") || e.Message == "" {
		t.Errorf("the message is no line: %q", e.Message)
	}
}

const gib = int64(1) << 30

func TestCreateNeedsRoom(t *testing.T) {
	small := HostFacts{CPUs: 2, MemoryBytes: 16 * gib, MemoryAvailable: 15 * gib, DiskBytes: 100 * gib, DiskAvailable: 50 * gib, DiskUsed: 10 * gib}
	for _, c := range []struct {
		name         string
		facts        HostFacts
		capacity     Capacity
		draft        Draft
		resource     string // of the refusal; "" for none
		needed, free int64
	}{
		{name: "unlimited", facts: HostFacts{CPUs: 1}, draft: Draft{Tier: "max"}},
		{name: "memory", facts: small, capacity: Capacity{Memory: 1, MemoryReserve: gib}, draft: Draft{Tier: "max"},
			resource: ResourceMemory, needed: 16 * gib, free: 15 * gib},
		{name: "memory that is promised more than once", facts: small, capacity: Capacity{Memory: 1.5, MemoryReserve: gib}, draft: Draft{Tier: "max"}},
		{name: "exactly the memory there is", facts: small, capacity: Capacity{Memory: 1}, draft: Draft{Tier: "max"}},
		{name: "a reserve larger than the host", facts: small, capacity: Capacity{Memory: 1, MemoryReserve: 20 * gib}, draft: Draft{Tier: "free"},
			resource: ResourceMemory, needed: 4 * gib},
		{name: "less of it is asked for", facts: small, capacity: Capacity{Memory: 1, MemoryReserve: gib}, draft: Draft{Tier: "max", Size: &Sizes{MemoryBytes: 8 * gib}}},
		{name: "processors", facts: small, capacity: Capacity{VCPUsPerCPU: 1.5}, draft: Draft{Tier: "max"}, resource: ResourceVCPUs, needed: 4, free: 3},
		{name: "processors enough", facts: small, capacity: Capacity{VCPUsPerCPU: 2}, draft: Draft{Tier: "max"}},
		{name: "disk", facts: small, capacity: Capacity{Disk: 1}, draft: Draft{Tier: "max"}, resource: ResourceDisk, needed: 80 * gib, free: 60 * gib},
		{name: "disk that is promised more than once", facts: small, capacity: Capacity{Disk: 2}, draft: Draft{Tier: "max"}},
		{name: "a full disk", facts: HostFacts{CPUs: 2, MemoryBytes: 16 * gib, DiskBytes: 100 * gib, DiskAvailable: gib / 2}, capacity: Capacity{Disk: 1000, DiskReserve: gib}, draft: Draft{Tier: "free"},
			resource: ResourceDisk, needed: gib, free: gib / 2},
		{name: "not to be started, so of memory it takes none", facts: small, capacity: Capacity{Memory: 1, MemoryReserve: 16 * gib, VCPUsPerCPU: 0.1}, draft: Draft{Tier: "max", Start: new(bool)}},
		{name: "not to be started, but of disk it does", facts: small, capacity: Capacity{Disk: 1}, draft: Draft{Tier: "max", Start: new(bool)},
			resource: ResourceDisk, needed: 80 * gib, free: 60 * gib},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := limited(t, c.facts, c.capacity)
			_, err := a.Create(t.Context(), bob, c.draft)
			if c.resource == "" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			wantRefusal(t, err, Exhausted, c.resource, c.needed, c.free)
			if left := a.records(); len(left) != 0 {
				t.Errorf("a record is left: %+v", left)
			}
			if len(a.machines.starts) != 0 {
				t.Errorf("a machine was started: %v", a.machines.starts)
			}
		})
	}
}

// What desktops take follows from what they are: one that is stopped, failed or destroyed gives its
// memory back, not its disk until it is destroyed.
func TestPlacesAreGivenBack(t *testing.T) {
	a := limited(t, HostFacts{CPUs: 4, MemoryBytes: 8 * gib, DiskAvailable: 60 * gib}, Capacity{Memory: 1, Disk: 1})
	ctx := t.Context()
	one := a.create(bob, Draft{Tier: "free"})
	two := a.create(bob, Draft{Tier: "free"})
	a.await(one.ID, ready)
	a.await(two.ID, ready)
	state, err := a.Host(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if state.Desktops != 2 || state.Running != 2 || state.Memory.Reserved != 8*gib || *state.Memory.Free != 0 || state.VCPUs.Reserved != 4 ||
		state.VCPUs.Limit != nil || state.Disk.Reserved != 40*gib || *state.Disk.Free != 20*gib {
		t.Errorf("%+v", state)
	}
	_, err = a.Create(ctx, bob, Draft{Tier: "free"})
	wantRefusal(t, err, Exhausted, ResourceMemory, 4*gib, 0)

	// A restart keeps its place, and a running one needs none.
	for _, again := range []func(context.Context, Caller, string) (Desktop, error){a.Restart, a.Start} {
		if _, err := again(ctx, bob, one.ID); err != nil {
			t.Error(err)
		}
	}
	a.await(one.ID, ready)

	if _, err := a.Stop(ctx, bob, one.ID); err != nil {
		t.Fatal(err)
	}
	a.awaitStatus(one.ID, Stopped)
	three := a.create(bob, Draft{Tier: "free"})
	a.await(three.ID, ready)
	before := a.records()
	_, err = a.Start(ctx, bob, one.ID)
	wantRefusal(t, err, Exhausted, ResourceMemory, 4*gib, 0)
	_, err = a.Restart(ctx, bob, one.ID)
	wantRefusal(t, err, Exhausted, ResourceMemory, 4*gib, 0)
	if after := a.records(); fmt.Sprint(before) != fmt.Sprint(after) {
		t.Errorf("refused, and the records are\n%+v\nthat were\n%+v", after, before)
	}
	a.awaitStatus(one.ID, Stopped)

	a.machines.set(two.ID, MachineOff, "crashed")
	a.awaitStatus(two.ID, Failed)
	if _, err := a.Start(ctx, bob, one.ID); err != nil {
		t.Fatal("the failed one's place is not free:", err)
	}
	a.await(one.ID, ready)
	_, err = a.Create(ctx, bob, Draft{Tier: "free", Size: &Sizes{DiskBytes: 10 * gib}, Start: new(bool)})
	wantRefusal(t, err, Exhausted, ResourceDisk, 10*gib, 0)
	if err := a.Destroy(ctx, bob, two.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := a.Create(ctx, bob, Draft{Tier: "free", Size: &Sizes{DiskBytes: 10 * gib}, Start: new(bool)}); err != nil {
		t.Error("the destroyed one's disk is not free:", err)
	}
}

// A desktop that is being stopped has its memory until its machine is off.
func TestStoppingKeepsItsPlace(t *testing.T) {
	a := limited(t, HostFacts{CPUs: 4, MemoryBytes: 4 * gib}, Capacity{Memory: 1})
	one := a.create(bob, Draft{Tier: "free"})
	a.await(one.ID, ready)
	hold := make(chan struct{})
	a.machines.mu.Lock()
	a.machines.hold = hold
	a.machines.mu.Unlock()
	if _, err := a.Stop(t.Context(), bob, one.ID); err != nil {
		t.Fatal(err)
	}
	a.awaitStatus(one.ID, Stopping)
	_, err := a.Create(t.Context(), bob, Draft{Tier: "free"})
	wantRefusal(t, err, Exhausted, ResourceMemory, 4*gib, 0)
	close(hold)
	a.awaitStatus(one.ID, Stopped)
	if _, err := a.Create(t.Context(), bob, Draft{Tier: "free"}); err != nil {
		t.Error(err)
	}
}

// Of many that come at once, as many get a place as there are.
func TestPlacesAreTakenOnce(t *testing.T) {
	for _, c := range []struct {
		name     string
		capacity Capacity
		tier     Tier
		code     Code
	}{
		{"the host's memory", Capacity{Memory: 1}, Tier{Name: "max", VCPUs: 1, MemoryBytes: 4 * gib, DiskBytes: 20 * gib}, Exhausted},
		{"the user's desktops", Capacity{}, Tier{Name: "max", VCPUs: 1, MemoryBytes: 4 * gib, DiskBytes: 20 * gib, Desktops: 3}, Conflict},
		{"the user's running desktops", Capacity{}, Tier{Name: "max", VCPUs: 1, MemoryBytes: 4 * gib, DiskBytes: 20 * gib, Running: 3}, Conflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := limited(t, HostFacts{CPUs: 4, MemoryBytes: 12 * gib}, c.capacity, c.tier)
			// at runs 10 at once and returns how many were let in.
			at := func(do func(i int) error) int {
				var in atomic.Int32
				var all sync.WaitGroup
				for i := range 10 {
					all.Go(func() {
						err := do(i)
						if err == nil {
							in.Add(1)
						} else if CodeOf(err) != c.code {
							t.Errorf("%v (%s), want %s", err, CodeOf(err), c.code)
						}
					})
				}
				all.Wait()
				return int(in.Load())
			}
			if n := at(func(int) error { _, err := a.Create(t.Context(), bob, Draft{}); return err }); n != 3 {
				t.Errorf("%d were made, not 3", n)
			}
			if n := len(a.records()); n != 3 {
				t.Errorf("%d records are kept", n)
			}
			if c.tier.Desktops > 0 {
				return
			}
			// The same of desktops that are there and off.
			for _, r := range a.records() {
				if err := a.Destroy(t.Context(), bob, r.ID); err != nil {
					t.Fatal(err)
				}
			}
			var ids []string
			for range 10 {
				ids = append(ids, a.create(bob, Draft{Start: new(bool)}).ID)
			}
			if n := at(func(i int) error { _, err := a.Start(t.Context(), bob, ids[i]); return err }); n != 3 {
				t.Errorf("%d were started, not 3", n)
			}
		})
	}
}

// Two starts of one desktop need one place.
func TestStartsOfOneDesktop(t *testing.T) {
	a := limited(t, HostFacts{CPUs: 4, MemoryBytes: 4 * gib}, Capacity{Memory: 1})
	d := a.create(bob, Draft{Tier: "free", Start: new(bool)})
	a.awaitStatus(d.ID, Stopped)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if _, err := a.Start(t.Context(), bob, d.ID); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	a.await(d.ID, ready)
}

func TestUserLimits(t *testing.T) {
	tier := Tier{Name: "max", VCPUs: 1, MemoryBytes: gib, DiskBytes: gib, Desktops: 3, Running: 1}
	a := limited(t, bigHost, Capacity{}, tier)
	one := a.create(bob, Draft{})
	_, err := a.Create(t.Context(), bob, Draft{})
	wantRefusal(t, err, Conflict, ResourceRunning, 1, 0)
	two := a.create(bob, Draft{Start: new(bool)})
	a.create(bob, Draft{Start: new(bool)})
	_, err = a.Create(t.Context(), bob, Draft{Start: new(bool)})
	wantRefusal(t, err, Conflict, ResourceDesktops, 1, 0)
	_, err = a.Start(t.Context(), bob, two.ID)
	wantRefusal(t, err, Conflict, ResourceRunning, 1, 0)
	if _, err := a.Create(t.Context(), local, Draft{}); err != nil {
		t.Error("another user has a limit of their own:", err)
	}
	if _, err := a.Stop(t.Context(), bob, one.ID); err != nil {
		t.Fatal(err)
	}
	a.awaitStatus(one.ID, Stopped)
	if _, err := a.Start(t.Context(), bob, two.ID); err != nil {
		t.Error(err)
	}
}

func TestStartNeedsItsImage(t *testing.T) {
	a := newAppliance(t)
	d := a.create(ann, Draft{Start: new(bool)})
	a.awaitStatus(d.ID, Stopped)
	a.machines.mu.Lock()
	a.machines.fail = func(method, _ string) error {
		if method == "HasContent" || method == "Image" {
			return Errorf(NotFound, "the image is gone")
		}
		return nil
	}
	a.machines.mu.Unlock()
	if _, err := a.Start(t.Context(), ann, d.ID); CodeOf(err) != Conflict || !strings.Contains(err.Error(), "the image is gone") {
		t.Errorf("start without its image: %v", err)
	}
	a.awaitStatus(d.ID, Stopped)
	a.machines.mu.Lock()
	a.machines.fail = nil
	a.machines.mu.Unlock()
	if _, err := a.Create(t.Context(), ann, Draft{Image: "none"}); CodeOf(err) != Invalid {
		t.Errorf("create without an image: %v", err)
	}
	if n := len(a.records()); n != 1 {
		t.Errorf("%d records", n)
	}
}

// A host that comes back with less memory runs as many of the oldest desktops as fit; the others say
// why they do not run.
func TestHostComesBackSmaller(t *testing.T) {
	a := limited(t, HostFacts{CPUs: 4, MemoryBytes: 16 * gib}, Capacity{Memory: 1})
	var ids []string
	for range 4 {
		d := a.create(bob, Draft{Tier: "free"})
		a.await(d.ID, ready)
		ids = append(ids, d.ID)
	}
	a.Close()
	for _, id := range ids {
		a.machines.set(id, MachineOff, "")
	}
	a.machines.setHost(HostFacts{CPUs: 4, MemoryBytes: 9 * gib})
	a.openWith(a.config)
	for i, id := range ids {
		if i < 2 {
			a.await(id, ready)
			continue
		}
		d := a.awaitStatus(id, Failed)
		if !strings.Contains(d.Reason, "not enough memory") {
			t.Errorf("reason %q", d.Reason)
		}
	}
}

// A machine that the hypervisor has paused because the host's disk is full shows that, and goes on
// when there is room.
func TestDiskFillsUp(t *testing.T) {
	a := newAppliance(t)
	d := a.create(ann, Draft{})
	a.await(d.ID, ready)
	a.machines.setHost(HostFacts{CPUs: 1, DiskAvailable: 1 << 20})
	a.machines.set(d.ID, MachinePaused, CauseDiskFull)
	got := a.awaitStatus(d.ID, Failed)
	if got.AgentReady || !strings.Contains(got.Reason, "disk is full") {
		t.Errorf("%+v", got)
	}
	if _, err := a.Act(t.Context(), ann, d.ID, Action{Move: &Move{}}); CodeOf(err) != Unavailable {
		t.Errorf("Act: %v", err)
	}
	starts := func() int {
		a.machines.mu.Lock()
		defer a.machines.mu.Unlock()
		return a.machines.starts[d.ID]
	}
	// A look does not let it go on while there is no room.
	a.machines.set(d.ID, MachinePaused, CauseDiskFull)
	if n := starts(); n != 1 {
		t.Errorf("%d starts", n)
	}
	a.machines.setHost(bigHost)
	a.await(d.ID, ready)
	if n := starts(); n != 2 {
		t.Errorf("%d starts", n)
	}
}

// One that an operator has paused stays so until it is started.
func TestStartOfAPausedDesktop(t *testing.T) {
	a := newAppliance(t)
	d := a.create(ann, Draft{})
	a.await(d.ID, ready)
	a.machines.set(d.ID, MachinePaused, "")
	a.awaitStatus(d.ID, Failed)
	if _, err := a.Start(t.Context(), ann, d.ID); err != nil {
		t.Fatal(err)
	}
	a.await(d.ID, ready)
	eventually(t, func() bool { return a.records()[0].Boot == BootNone }, func() any { return a.records() })

	// Where nobody knows why it stands still, that is said when it has not been found out for a time.
	a.machines.set(d.ID, MachinePaused, CauseUnknown)
	a.await(d.ID, func(d Desktop) bool { return d.Status == Running && !d.AgentReady })
	k, err := a.find(local, d.ID)
	if err != nil {
		t.Fatal(err)
	}
	k.mu.Lock()
	k.pausedAt = k.pausedAt.Add(-pauseExplained)
	k.mu.Unlock()
	a.awaitStatus(d.ID, Failed)
}
