package main

import (
	"context"
	"fmt"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bureau/cmd"
	"bureau/soak/check"
)

// roleBureau makes the test's own program the appliance, so that what is soaked has the race detector
// in it when the test has.
const roleBureau = "bureau"

func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) == roleBureau {
		os.Exit(cmd.Main(os.Args[1:]))
	}
	if code, ok := roled(); ok {
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// The short version of make soak.
func TestSoak(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	keep := os.Getenv("BUREAU_SOAK_ARTIFACTS")
	if keep == "" {
		keep = filepath.Join(os.TempDir(), prefix+"-failure")
	}
	err = enter(t.Context(), options{
		Seed: 4, Kills: 6, Limit: 15 * time.Minute, Slots: 3, Clients: 3, Verbose: true,
		Bureau: program, Env: []string{roleEnv + "=" + roleBureau}, Keep: keep,
	}, t.Output(), t.Output())
	if err != nil {
		t.Error(err)
	}
}

// What the soak finds is worth something only if it does not believe the appliance's own code.
func TestIndependence(t *testing.T) {
	for _, folder := range []string{".", "check"} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatal(files, err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
			if err != nil {
				t.Fatal(err)
			}
			for _, i := range parsed.Imports {
				path := strings.Trim(i.Path.Value, `"`)
				if strings.HasPrefix(path, "bureau/") && path != "bureau/soak/check" {
					t.Errorf("%s imports %s", file, path)
				}
			}
		}
	}
}

func plan(seed uint64, rounds int) []round {
	p := newPlanner(seed, 4, 3)
	var list []round
	for range rounds {
		list = append(list, p.next())
	}
	return list
}

func TestPlan(t *testing.T) {
	one := plan(7, 300)
	if !reflect.DeepEqual(one, plan(7, 300)) {
		t.Error("the same seed gave another plan")
	}
	if reflect.DeepEqual(one, plan(8, 300)) {
		t.Error("another seed gave the same plan")
	}
	ops, kills := map[opKind]int{}, map[killKind]int{}
	for _, r := range one {
		creates := map[int]bool{}
		if len(r.Clients) != 3 || len(r.Kills) == 0 {
			t.Errorf("%s", r)
		}
		for _, client := range r.Clients {
			for _, o := range client {
				ops[o.Kind]++
				if o.Kind == opCreate && creates[o.Slot] {
					t.Errorf("two creates in slot %d: %s", o.Slot, r)
				}
				creates[o.Slot] = creates[o.Slot] || o.Kind == opCreate
				if o.Slot < 0 || o.Slot >= 4 || o.Wait < 0 || o.Wait >= waitMost {
					t.Errorf("operation %s", o)
				}
			}
		}
		for _, k := range r.Kills {
			kills[k.Kind]++
			if k.At < 0 || k.At >= 3*waitMost+strikeMost || k.Down < 0 || k.Down >= downMost {
				t.Errorf("%s", k)
			}
		}
	}
	for _, c := range opWeights {
		if ops[c.value] == 0 {
			t.Errorf("no %s in %v", c.value, ops)
		}
	}
	for _, c := range killWeights {
		if kills[c.value] < 20 {
			t.Errorf("too few of %s in %v", c.value, kills)
		}
	}
}

func TestWeighted(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	count := map[string]int{}
	for range 10_000 {
		count[weighted(random, []choice[string]{{"a", 3}, {"b", 1}, {"c", 0}})]++
	}
	if count["c"] != 0 || count["a"] < 7000 || count["a"] > 8000 {
		t.Errorf("picked %v", count)
	}
}

// at is a moment of a test.
func at(second int) time.Time { return time.Unix(int64(second), 0) }

func TestRegister(t *testing.T) {
	type asked struct {
		value      string
		begin, end int
		outcome    outcome
	}
	for _, test := range []struct {
		name string
		asks []asked
		want []string
	}{
		{"one", []asked{{"run", 1, 2, done}}, []string{"run"}},
		{"one after the other", []asked{{"run", 1, 2, done}, {"halt", 3, 4, done}}, []string{"halt"}},
		{"at the same time", []asked{{"run", 1, 4, done}, {"halt", 3, 5, done}}, []string{"run", "halt"}},
		{"the second was refused", []asked{{"run", 1, 2, done}, {"halt", 3, 4, refused}}, []string{"run"}},
		{"the second was left out", []asked{{"run", 1, 2, done}, {"halt", 3, 4, skipped}}, []string{"run"}},
		{"the second may not have happened", []asked{{"run", 1, 2, done}, {"halt", 3, 4, unknown}}, []string{"run", "halt"}},
		{"nor matters it", []asked{{"run", 1, 2, done}, {"halt", 3, 4, unknown}, {"run", 5, 6, done}}, []string{"run"}},
		{"the last comes first", []asked{{"halt", 5, 6, done}, {"run", 1, 2, done}}, []string{"halt"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			var r register
			for _, a := range test.asks {
				r.add(a.value, at(a.begin), at(a.end), a.outcome)
			}
			if got := r.candidates(); !reflect.DeepEqual(got, test.want) {
				t.Errorf("may be %v, want %v", got, test.want)
			}
		})
	}
}

func TestLedger(t *testing.T) {
	l := newLedger(3)
	l.create(attempt{"a", 0, "run", at(1), at(2)}, done, "dt-a")
	l.create(attempt{"b", 1, "halt", at(1), at(2)}, unknown, "")
	l.create(attempt{"c", 2, "run", at(1), at(2)}, unknown, "")
	l.create(attempt{"d", 2, "run", at(1), at(2)}, refused, "")
	l.create(attempt{"e", 2, "run", at(3), at(4)}, done, "dt-e")
	a := l.at(0)
	l.change(a, opStop, "", at(3), at(4), done)
	l.change(a, opPatch, "a2", at(3), at(4), unknown)
	records := []check.Record{
		{ID: "dt-a", Name: "a2", Wish: "halt"}, {ID: "dt-b", Name: "b", Wish: "halt"}, {ID: "dt-e", Name: "e", Wish: "run"},
	}
	l.adopt(records)
	want := check.Expected{Desktops: []check.Known{
		{ID: "dt-a", Names: []string{"a", "a2"}, Wishes: []string{"halt"}},
		{ID: "dt-b", Names: []string{"b"}, Wishes: []string{"halt"}},
		{ID: "dt-e", Names: []string{"e"}, Wishes: []string{"run"}},
	}}
	if got := l.expected(); !reflect.DeepEqual(got, want) {
		t.Errorf("expected is\n%+v, want\n%+v", got, want)
	}

	// Once all has settled, what was not found was not made, and what was seen is so.
	l.settled(check.World{Records: records})
	want.Unborn, want.Desktops[0].Names = []string{"c"}, []string{"a2"}
	if got := l.expected(); !reflect.DeepEqual(got, want) {
		t.Errorf("expected is\n%+v, want\n%+v", got, want)
	}
	if e := l.at(1); e == nil || e.id != "dt-b" {
		t.Errorf("slot 1 has %+v", e)
	}

	now := time.Now()
	l.change(l.at(0), opDestroy, "", now, now, done)
	l.change(l.at(1), opDestroy, "", now, now, unknown)
	l.change(l.at(2), opPowerOff, "", now, now, done)
	later := now.Add(time.Second)
	l.change(l.at(2), opStart, "", later, later, done)
	got := l.expected().Desktops
	if !got[0].Gone || got[0].Going || got[1].Gone || !got[1].Going {
		t.Errorf("destroyed are %+v", got)
	}
	// A guest that shuts itself down may do so last.
	if wishes := got[2].Wishes; !reflect.DeepEqual(wishes, []string{"halt", "run"}) {
		t.Errorf("wishes are %v", wishes)
	}
	records[0].Destroyed, records[1].Destroyed = true, true
	l.settled(check.World{Records: records})
	if l.at(0) != nil || l.at(1) != nil || l.at(2) == nil || len(l.all()) != 1 {
		t.Errorf("left are %v", l.all())
	}
}

// A daemon is started again whatever ends it, and tells which ends nobody has asked for.
func TestDaemon(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var script atomic.Value
	script.Store("exec sleep 600")
	d := &daemon{name: "sleeper", log: filepath.Join(t.TempDir(), "log"),
		calm:    func(p *os.ProcessState) bool { return p.ExitCode() == 6 },
		command: func() *exec.Cmd { return exec.Command("/bin/sh", "-c", script.Load().(string)) },
	}
	started := func(times int) {
		t.Helper()
		if err := until(ctx, time.Minute, func() error {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.starts < times {
				return fmt.Errorf("started %d times", d.starts)
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	if err := d.run(ctx); err != nil {
		t.Fatal(err)
	}
	meanwhile := false
	if !d.kill(0, func() { meanwhile = true }) {
		t.Error("there was nothing to kill")
	}
	started(2)
	if !meanwhile || len(d.trouble()) > 0 {
		t.Errorf("after a kill: %t, %v", meanwhile, d.trouble())
	}
	script.Store("exit 6")
	d.kill(0, nil)
	started(5)
	if len(d.trouble()) > 0 {
		t.Errorf("its calm end is told of: %v", d.trouble())
	}
	cancel()
	d.wait()
	if d.kill(0, nil) {
		t.Error("it lives on")
	}
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	script.Store("kill -SEGV $$")
	d.starts = 0
	if err := d.run(ctx); err != nil {
		t.Fatal(err)
	}
	started(2)
	if crashes := d.trouble(); len(crashes) == 0 || !strings.Contains(crashes[0], "segmentation fault") {
		t.Errorf("its crash is told of as %v", crashes)
	}
	cancel()
	d.wait()
}

// A create that was not answered, and the one that was asked for in its stead, are both known.
func TestSurplus(t *testing.T) {
	l := newLedger(1)
	l.create(attempt{"a", 0, "run", at(1), at(2)}, unknown, "")
	l.create(attempt{"a-1", 0, "run", at(3), at(4)}, done, "dt-2")
	l.adopt([]check.Record{{ID: "dt-1", Name: "a"}, {ID: "dt-2", Name: "a-1"}})
	if e := l.at(0); e.id != "dt-2" {
		t.Errorf("in the slot is %s", e.id)
	}
	if s := l.surplus(); len(s) != 1 || s[0].id != "dt-1" {
		t.Errorf("surplus is %v", s)
	}
}
