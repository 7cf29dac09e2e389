package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	hostilePath = "/opt/bureau-hostile"
	// hostileMemory is what a hostile guest may cost serve, in bytes.
	hostileMemory = 50 << 20
)

// linkAttacks are all that the hostile program knows; it tells of each that it has tried.
var (
	linkAttacks = []string{"garbage", "half-frames", "boots", "handshakes", "wrong-binary", "silence", "half-header", "half-body",
		"lies", "pings", "windows-of-nothing", "host-streams", "opened-and-reset", "streams", "answers", "bombs", "slow", "requests"}
	screenAttacks = []string{"noise", "resolutions", "cursors"}
)

// A guest takes the agent's place and tries all that a guest can do to its host, while its owner goes on
// asking things of it. It loses its own readiness and nothing else: serve's memory stays what it was,
// and a neighbour does not notice. When the true agent is back, all is as before.
func TestHostileGuest(t *testing.T) {
	own(t)
	// An appliance of its own, whose memory nobody else uses.
	a := lab.sister(t, prefix+"-foe", "tiers: {shared: {vcpus: 2, memory: 1GiB, disk: 6GiB}, small: {vcpus: 2, memory: 1GiB, disk: 6GiB}}\n")
	a.live(t)
	neighbour, g := a.beginMinimal(t, "neighbour"), a.beginMinimal(t, "hostile")
	g.awaitMinimal(t)
	binary, err := buildForGuests("hostile")
	if err == nil {
		err = g.put(t.Context(), hostilePath, binary)
	}
	if err != nil {
		t.Fatal(err)
	}
	neighbour.awaitMinimal(t)
	long := time.Second // of each attack on the link
	if text := os.Getenv("BUREAU_E2E_HOSTILE"); text != "" {
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	before := neighbour.pester(t, 3*long, nil) // which also is what an appliance in use holds
	g.pester(t, 2*long, nil)
	m := a.watchMemory(t)
	t.Logf("serve holds %s; its neighbours' requests take %s", megabytes(m.before), before)

	t.Run("link", func(t *testing.T) {
		boot, said := g.bootID(t), a.logged()
		g.root(t, "rm -f /tmp/hostile.log; systemd-run --quiet --no-block --unit bureau-hostile sh -c '"+
			"systemctl stop bureau-agent; "+hostilePath+fmt.Sprintf(" link %g", long.Seconds())+" >/tmp/hostile.log 2>&1; systemctl start bureau-agent'")
		done := make(chan struct{})
		unready := false
		var owner sync.WaitGroup
		owner.Go(func() { g.demand(t, done) })
		owner.Go(func() {
			defer close(done)
			err := until(t.Context(), 5*time.Minute, func(ctx context.Context) error {
				s, err := g.desktop(ctx, g.id)
				if err != nil {
					return err
				}
				unready = unready || !s.AgentReady
				out, err := g.trySh(ctx, "root", "systemctl is-active bureau-agent && ! systemctl is-active --quiet bureau-hostile && cat /tmp/hostile.log")
				if err == nil && !strings.HasPrefix(out, "active\n") {
					err = fmt.Errorf("the true agent is not back: %.200q", out)
				}
				return err
			})
			if err != nil {
				t.Errorf("the attacks do not end: %v", err)
			}
		})
		during := neighbour.pester(t, 10*time.Minute, done)
		owner.Wait()
		compare(t, before, during)
		m.check(t, "the link's attacks")
		t.Logf("serve's log grew by %s besides the requests, libvirtd holds %s", megabytes(a.logged()-said), megabytes(residentOf("libvirtd")))
		if !unready {
			t.Error("the desktop was ready all the time")
		}
		g.tried(t, g.root(t, "cat /tmp/hostile.log"), linkAttacks)
		g.again(t, time.Now())
		g.works(t, boot)
	})

	t.Run("screen", func(t *testing.T) {
		done := make(chan struct{})
		var log string
		var attacker sync.WaitGroup
		attacker.Go(func() {
			defer close(done)
			var err error
			if log, err = g.trySh(t.Context(), "", hostilePath+fmt.Sprintf(" screen %g", 2*long.Seconds())); err != nil {
				t.Error(err)
			}
		})
		var owner sync.WaitGroup
		owner.Go(func() { // somebody looks at it, a little
			for !closed(done) {
				g.send(t.Context(), http.MethodGet, g.path("screenshot?format=jpeg&scale=0.2"), nil)
				select {
				case <-time.After(200 * time.Millisecond):
				case <-done:
				}
			}
		})
		during := neighbour.pester(t, 10*time.Minute, done)
		attacker.Wait()
		owner.Wait()
		compare(t, before, during)
		m.check(t, "the screen's attacks")
		g.tried(t, log, screenAttacks)
		g.works(t, g.bootID(t))
	})
}

// tried checks that every attack was tried.
func (g *guest) tried(t *testing.T, log string, attacks []string) {
	t.Helper()
	t.Logf("in the guest:\n%s", log)
	for _, name := range attacks {
		if !strings.Contains("\n"+log, "\n"+name+": ") {
			t.Errorf("the attack %q was not tried", name)
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// latencies are how long requests took, by what they asked for.
type latencies map[string][]time.Duration

func (l latencies) String() string {
	var said []string
	for _, what := range slices.Sorted(maps.Keys(l)) {
		at := func(share float64) time.Duration { return l.at(what, share).Round(100 * time.Microsecond) }
		said = append(said, fmt.Sprintf("%s %s (median of %d, a tenth above %s, at most %s)", what, at(0.5), len(l[what]), at(0.9), at(1)))
	}
	return strings.Join(said, ", ")
}

// at is how long such a share of the requests took at most; there has to be one.
func (l latencies) at(what string, share float64) time.Duration {
	took := slices.Sorted(slices.Values(l[what]))
	return took[int(share*float64(len(took)-1))]
}

// compare tells what a neighbour has noticed. It is no assertion: how long a request takes on a machine
// with other work tells nothing of bureau.
func compare(t *testing.T, before, during latencies) {
	t.Helper()
	t.Logf("a neighbour's requests took %s before and %s meanwhile", before, during)
	for _, what := range slices.Sorted(maps.Keys(before)) {
		if len(during[what]) > 0 {
			t.Logf("%s takes %.2f times as long", what, float64(during.at(what, 0.5))/float64(before.at(what, 0.5)))
		}
	}
}

// logged is how many bytes serve has logged of other things than requests.
func (a *appliance) logged() (bytes int) {
	data, err := os.ReadFile(a.log)
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(data)) {
		if !strings.Contains(line, " msg=request ") {
			bytes += len(line)
		}
	}
	return bytes
}

// pester uses a desktop as somebody does who works with it, for a time or until done is closed: each
// request has to succeed, and the desktop to be ready.
func (g *guest) pester(t *testing.T, limit time.Duration, done <-chan struct{}) latencies {
	t.Helper()
	all := latencies{}
	for end := time.Now().Add(limit); time.Now().Before(end) && !closed(done); {
		for _, r := range []struct {
			method, route string
			body          any
		}{
			{http.MethodGet, "screenshot", nil},
			{http.MethodPost, "click", map[string]any{"x": 600, "y": 20}},
			{http.MethodPost, "exec", map[string]any{"command": "true"}},
			{http.MethodGet, "windows", nil},
		} {
			began := time.Now()
			answer, err := g.send(t.Context(), r.method, g.path(r.route), r.body)
			if err != nil || answer.status != http.StatusOK {
				t.Errorf("%s of a desktop that does nothing: %v %s", r.route, err, answer)
				return all
			}
			all[r.route] = append(all[r.route], time.Since(began))
		}
		time.Sleep(100 * time.Millisecond) // as somebody who thinks between two looks
	}
	return all
}

// demand asks everything of a desktop whose guest is hostile, several at once, however it answers: each
// answer is one of the documented ones, and comes.
func (g *guest) demand(t *testing.T, done <-chan struct{}) {
	var callers sync.WaitGroup
	var mu sync.Mutex
	answers := map[string]int{}
	for range 3 {
		for _, r := range []struct {
			method, route string
			body          any
		}{
			{http.MethodPost, "exec", map[string]any{"command": "true", "timeoutMs": 5000}},
			{http.MethodGet, "windows", nil},
			{http.MethodGet, "clipboard", nil},
			{http.MethodPost, "click", map[string]any{"x": 1, "y": 1}},
			{http.MethodGet, "screenshot", nil},
		} {
			callers.Go(func() {
				for !closed(done) && t.Context().Err() == nil {
					answer, err := g.send(t.Context(), r.method, g.path(r.route), r.body)
					if err != nil && t.Context().Err() == nil {
						t.Errorf("%s of a hostile guest: %v", r.route, err)
						return
					}
					mu.Lock()
					answers[fmt.Sprintf("%s %d %s", r.route, answer.status, detail(answer.body))]++
					mu.Unlock()
					select { // a person's pace; what is measured is the guest's
					case <-time.After(200 * time.Millisecond):
					case <-done:
					}
				}
			})
		}
	}
	callers.Wait()
	for _, one := range slices.Sorted(maps.Keys(answers)) {
		t.Logf("its owner was answered %5d times: %s", answers[one], one)
	}
}

// detail is what a problem says.
func detail(body []byte) string {
	var problem struct{ Detail string }
	if json.Unmarshal(body, &problem) != nil {
		return ""
	}
	return problem.Detail
}

// memory watches how much serve holds.
type memory struct {
	before int
	mu     sync.Mutex
	most   int
}

// memory is what the kernel says that serve has in memory, in bytes.
func (a *appliance) memory() (int, error) {
	a.mu.Lock()
	p := a.process
	a.mu.Unlock()
	return resident(strconv.Itoa(p.Process.Pid))
}

// residentOf is that of the largest process of a name.
func residentOf(name string) (most int) {
	comms, _ := filepath.Glob("/proc/[0-9]*/comm")
	for _, path := range comms {
		if comm, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(comm)) == name {
			if n, err := resident(filepath.Base(filepath.Dir(path))); err == nil {
				most = max(most, n)
			}
		}
	}
	return most
}

func resident(pid string) (int, error) {
	data, err := os.ReadFile("/proc/" + pid + "/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	rest, _, _ = strings.Cut(rest, " kB")
	kilobytes, err := strconv.Atoi(strings.TrimSpace(rest))
	return kilobytes << 10, err
}

// watchMemory looks at serve's memory many times a second until the test ends.
func (a *appliance) watchMemory(t *testing.T) *memory {
	t.Helper()
	before, err := a.memory()
	if err != nil {
		t.Fatal(err)
	}
	m := &memory{before: before, most: before}
	ended := make(chan struct{})
	var watching sync.WaitGroup
	watching.Go(func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ended:
				return
			}
			if now, err := a.memory(); err == nil {
				m.mu.Lock()
				m.most = max(m.most, now)
				m.mu.Unlock()
			}
		}
	})
	t.Cleanup(func() { close(ended); watching.Wait() })
	return m
}

// check fails when serve has held too much since the last check.
func (m *memory) check(t *testing.T, what string) {
	t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	t.Logf("serve held %s before and %s at most during %s", megabytes(m.before), megabytes(m.most), what)
	if m.most-m.before > hostileMemory {
		t.Errorf("serve's memory grew by %s, and may grow by %s", megabytes(m.most-m.before), megabytes(hostileMemory))
	}
	m.most = 0
}

func megabytes(bytes int) string { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
