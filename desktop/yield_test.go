package desktop

import (
	"context"
	"maps"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestYielding(t *testing.T) {
	for _, test := range []struct {
		name       string
		processors int
		uses       map[string]float64 // processors, all the time
		others     float64            // what others use of the host
		want       []string           // who yields in the end
	}{
		{"one that computes and one that waits for clicks", 2, map[string]float64{"hog": 1.4, "desk": 0.5}, 0.1, []string{"hog"}},
		{"the same, and much else on the host", 2, map[string]float64{"hog": 0.9, "desk": 0.45}, 0.55, []string{"hog"}},
		{"and one that does nothing", 2, map[string]float64{"hog": 1.95, "desk": 0}, 0.05, []string{"hog"}},
		{"all alone", 2, map[string]float64{"hog": 2}, 0, nil},
		{"two that compute", 2, map[string]float64{"a": 1.02, "b": 0.98}, 0, nil},
		{"processors to spare", 8, map[string]float64{"hog": 4, "desk": 0.5}, 0, nil},
		{"others that use the host up", 8, map[string]float64{"hog": 4.5, "desk": 0.1}, 3.4, []string{"hog"}},
		{"one of many", 2, map[string]float64{"hog": 1, "a": 0.15, "b": 0.15, "c": 0.15, "d": 0.15, "e": 0.15, "f": 0.1, "g": 0.1}, 0, []string{"hog"}},
		{"two of many", 2, map[string]float64{"hog": 0.8, "a": 0.8, "b": 0.1, "c": 0.1}, 0.2, []string{"a", "hog"}},
		{"nobody", 2, nil, 2, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			var y yielding
			now, at := ProcessorUse{Processors: test.processors}, time.Now()
			idle := float64(test.processors) - test.others
			for _, use := range test.uses {
				idle -= use
			}
			changes := 0
			for i := range 20 {
				next := ProcessorUse{Processors: test.processors, Idle: now.Idle + time.Duration(idle*float64(time.Second)), Machines: map[string]time.Duration{}}
				for id, use := range test.uses {
					next.Machines[id] = now.Machines[id] + time.Duration(use*float64(time.Second))
				}
				now, at = next, at.Add(time.Second)
				for id, yields := range y.look(now, at) {
					y.told(id, yields)
					if i > 0 {
						changes++
					}
				}
			}
			if got := slices.Sorted(maps.Keys(y.yields)); !slices.Equal(got, test.want) || changes != len(test.want) {
				t.Errorf("%v yield after %d changes, want %v", got, changes, test.want)
			}
			// When they have done what they had to, they are as any other.
			for range 10 {
				now.Idle += time.Duration(test.processors) * time.Second
				at = at.Add(time.Second)
				for id, yields := range y.look(now, at) {
					y.told(id, yields)
				}
			}
			if len(y.yields) > 0 {
				t.Errorf("%v yield when all are idle", y.yields)
			}
		})
	}
}

// The first look of a process makes all equal, and a machine that is turned off and on again is as any other.
func TestYieldingBegins(t *testing.T) {
	var y yielding
	at := time.Now()
	use := func(a, b time.Duration) ProcessorUse {
		return ProcessorUse{Processors: 2, Machines: map[string]time.Duration{"a": a, "b": b}}
	}
	if got := y.look(use(time.Hour, time.Minute), at); !maps.Equal(got, map[string]bool{"a": false, "b": false}) {
		t.Errorf("the first look: %v", got)
	}
	for i := range 5 {
		for id, yields := range y.look(use(time.Hour+time.Duration(i+1)*2*time.Second, time.Minute), at.Add(time.Duration(i+1)*time.Second)) {
			y.told(id, yields)
		}
	}
	if !y.yields["a"] {
		t.Fatal("a does not yield")
	}
	y.look(use(time.Second, time.Minute), at.Add(6*time.Second))
	if len(y.yields) > 0 {
		t.Errorf("%v yield", y.yields)
	}
}

func (f *fakeMachines) Processors(context.Context) (ProcessorUse, error) {
	if err := f.failure("Processors", ""); err != nil {
		return ProcessorUse{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	use := ProcessorUse{Processors: 2, Machines: map[string]time.Duration{}}
	for id, m := range f.machines {
		if m.State == MachineRunning {
			f.used[id] += f.uses[id]
			use.Machines[id] = f.used[id]
		}
	}
	return use, nil
}

func (f *fakeMachines) Yield(_ context.Context, id string, yields bool) error {
	if err := f.failure("Yield", id); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.yields[id] = yields
	return nil
}

// A desktop that computes yields while another one runs, whatever the hypervisor refuses meanwhile.
func TestDesktopYields(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newAppliance(t)
		one, two := a.create(bob, Draft{}), a.create(bob, Draft{})
		a.await(one.ID, ready)
		a.await(two.ID, ready)
		yields := func() (yields, told bool) {
			a.machines.mu.Lock()
			defer a.machines.mu.Unlock()
			yields, told = a.machines.yields[one.ID]
			return yields, told
		}
		time.Sleep(3 * yieldLook)
		if yields, told := yields(); yields || !told {
			t.Errorf("at first it yields: %v, which libvirt was told: %v", yields, told)
		}
		var asked atomic.Int32
		a.machines.mu.Lock()
		a.machines.uses[one.ID] = 2 * yieldLook
		a.machines.fail = func(method, _ string) error {
			if method != "Yield" && method != "Processors" {
				return nil
			}
			if n := asked.Add(1); n < 4 || method == "Yield" && n < 10 {
				return Errorf(Unavailable, "the hypervisor is away")
			}
			return nil
		}
		a.machines.mu.Unlock()
		time.Sleep(20 * yieldLook)
		if yields, _ := yields(); !yields {
			t.Error("it does not yield")
		}
		a.machines.set(two.ID, MachineOff, "destroyed")
		time.Sleep(5 * yieldLook)
		if yields, _ := yields(); yields {
			t.Error("it yields to nobody")
		}
	})
}
