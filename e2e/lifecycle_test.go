package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// status waits until a desktop has a status.
func (g *guest) status(t testing.TB, want string) {
	t.Helper()
	err := until(t.Context(), bootPatience, func(ctx context.Context) error {
		s, err := g.desktop(ctx, g.id)
		if err == nil && s.Status != want {
			err = fmt.Errorf("the desktop is %s, not %s: %s", s.Status, want, s.Reason)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (g *guest) bootID(t testing.TB) string {
	t.Helper()
	return strings.TrimSpace(g.sh(t, "cat /proc/sys/kernel/random/boot_id"))
}

func (g *guest) domain() string { return g.prefix + "-" + g.id }

// The whole life of a desktop, beside another's guest that notices nothing of it.
func TestLife(t *testing.T) {
	own(t)
	foreignBefore := virsh(t, "dumpxml", foreign)
	g := minimal(t, "life")

	var s state
	eventually(t, patience, func() (err error) { // the agent may be ready before the network is
		if s, err = g.desktop(t.Context(), g.id); err == nil && s.IPAddress == "" {
			err = errors.New("the desktop has no address")
		}
		return err
	})
	if s.Name != "life" || s.Network != "isolated" || s.BootStage != "ready" {
		t.Errorf("%+v", s)
	}
	if host := strings.TrimSpace(g.sh(t, "cat /proc/sys/kernel/hostname")); host != "life" {
		t.Errorf("its host name is %q", host)
	}
	if addresses := g.sh(t, "hostname -I 2>/dev/null || ip -o -4 addr"); !strings.Contains(addresses, s.IPAddress) {
		t.Errorf("it has not the address %s but %s", s.IPAddress, addresses)
	}
	kind := map[string]string{"tcg": "qemu", "kvm": "kvm"}[s.Acceleration]
	if xml := virsh(t, "dumpxml", g.domain()); !strings.HasPrefix(xml, "<domain type='"+kind+"'") {
		t.Errorf("the desktop says %s, libvirt %.40s", s.Acceleration, xml)
	}

	boot, machine := g.bootID(t), g.sh(t, "cat /etc/machine-id")
	g.sh(t, "echo kept >~/kept; sync")

	// xterm answers no pings: what tells that it has taken its text in is another way here.
	t.Run("typing into xterm", func(t *testing.T) {
		var texts []sample
		for _, s := range samples() {
			switch s.name {
			case "ASCII", "quotes", "tabs", "newlines", "French", "Chinese", "Arabic", "emoji in sequence", "500 distinct characters":
				texts = append(texts, s)
			}
		}
		typeIntoTerminal(t, g, "xterm", "xterm -u8 -e", texts)
	})
	t.Run("start of a running one changes nothing", func(t *testing.T) {
		g.call(t, http.MethodPost, g.path("start"), nil)
		g.status(t, "running")
		if now := g.bootID(t); now != boot {
			t.Error("it has booted again")
		}
	})
	t.Run("changes", func(t *testing.T) {
		r := g.call(t, http.MethodPatch, "/v1/desktops/"+g.id, map[string]any{"name": "a new life", "keepAlive": true})
		if s := decode[state](t, r.body); s.Name != "a new life" || s.Status != "running" {
			t.Errorf("%+v", s)
		}
	})
	t.Run("shut down from inside", func(t *testing.T) {
		// The guest may be gone before it has answered.
		if _, err := g.trySh(t.Context(), "root", "systemctl --no-block poweroff"); err != nil {
			t.Log(err)
		}
		g.status(t, "stopped")
		if got := virsh(t, "domstate", g.domain()); got != "shut off" {
			t.Errorf("libvirt says %s", got)
		}
	})
	t.Run("a stopped one cannot be used", func(t *testing.T) {
		for _, c := range []struct {
			method, route string
			body          any
		}{
			{"POST", "click", nil}, {"POST", "exec", map[string]any{"command": "true"}},
			{"POST", "type", map[string]any{"text": "x"}}, {"GET", "screenshot", nil},
		} {
			r, err := g.send(t.Context(), c.method, g.path(c.route), c.body)
			if err != nil {
				t.Fatal(err)
			}
			wantProblem(t, r, http.StatusServiceUnavailable)
			if r.header.Get("Retry-After") == "" {
				t.Errorf("%s: no Retry-After", c.route)
			}
		}
		g.call(t, http.MethodPost, g.path("stop"), nil)
	})
	t.Run("started again", func(t *testing.T) {
		r := g.call(t, http.MethodPost, g.path("start"), nil)
		if r.status != http.StatusAccepted {
			t.Errorf("start answers %d", r.status)
		}
		if err := g.readied(t.Context(), g.id); err != nil {
			t.Fatal(err)
		}
		if now := g.bootID(t); now == boot {
			t.Error("it has not booted")
		} else {
			boot = now
		}
		if kept := g.sh(t, "cat ~/kept"); kept != "kept\n" {
			t.Errorf("its disk has %q", kept)
		}
		if now := g.sh(t, "cat /etc/machine-id"); now != machine {
			t.Errorf("its machine id was %s and is %s", machine, now)
		}
	})
	t.Run("restarted", func(t *testing.T) {
		g.call(t, http.MethodPost, g.path("restart"), nil)
		eventually(t, bootPatience, func() error {
			s, err := g.desktop(t.Context(), g.id)
			if err != nil {
				return err
			}
			if !s.AgentReady {
				return fmt.Errorf("it is %s", s.Status)
			}
			now, err := g.trySh(t.Context(), "", "cat /proc/sys/kernel/random/boot_id")
			if err == nil && strings.TrimSpace(now) == boot {
				err = errors.New("it has not booted")
			}
			return err
		})
	})
	t.Run("stopped", func(t *testing.T) {
		g.call(t, http.MethodPost, g.path("stop"), nil)
		g.status(t, "stopped")
	})
	t.Run("destroyed", func(t *testing.T) {
		if r := g.call(t, http.MethodDelete, "/v1/desktops/"+g.id, nil); r.status != http.StatusNoContent {
			t.Errorf("%s", r)
		}
		r, err := g.send(t.Context(), http.MethodGet, "/v1/desktops/"+g.id, nil)
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, r, http.StatusNotFound)
		if r := g.call(t, http.MethodGet, "/v1/desktops", nil); strings.Contains(string(r.body), g.id) {
			t.Error("it is still listed")
		}
		if domains := virsh(t, "list", "--all", "--name"); strings.Contains(domains, g.id) {
			t.Error("libvirt still has the domain")
		}
		virsh(t, "pool-refresh", prefix)
		if volumes := virsh(t, "vol-list", prefix); strings.Contains(volumes, g.id) {
			t.Errorf("libvirt still has a volume:\n%s", volumes)
		}
	})
	if now := virsh(t, "dumpxml", foreign); now != foreignBefore {
		t.Errorf("another's guest was\n%s\nand is\n%s", foreignBefore, now)
	}
}

// A desktop that is made without a start stays off, and a name that is none is refused.
func TestCreateWithoutAStart(t *testing.T) {
	needMinimal(t)
	g, err := lab.create(t.Context(), map[string]any{"name": "off", "image": "minimal", "tier": "small", "start": false})
	if err != nil {
		t.Fatal(err)
	}
	g.status(t, "stopped")
	if domains := virsh(t, "list", "--name"); strings.Contains(domains, g.id) {
		t.Error("it runs")
	}
	g.call(t, http.MethodDelete, "/v1/desktops/"+g.id, nil)

	for field, draft := range map[string]map[string]any{
		"name":    {"name": " spaced "},
		"tier":    {"tier": "gigantic"},
		"image":   {"image": "no-such-image"},
		"network": {"network": "internet"},
		"colour":  {"colour": "red"},
	} {
		r, err := lab.send(t.Context(), http.MethodPost, "/v1/desktops", draft)
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, r, http.StatusBadRequest, field)
	}
}

// An isolated desktop has no way out, not even one that it makes for itself.
func TestIsolation(t *testing.T) {
	g := shared(t)
	if routes := g.sh(t, "ip route"); strings.Contains(routes, "default") {
		t.Errorf("it has a way out:\n%s", routes)
	}
	_, rest, _ := strings.Cut(virsh(t, "net-dumpxml", prefix+"-isolated"), "<ip address='")
	host, _, _ := strings.Cut(rest, "'")
	if net.ParseIP(host) == nil {
		t.Fatalf("the network has the address %q", host)
	}
	g.root(t, "ip route add default via "+host)
	defer g.root(t, "ip route del default")
	for _, address := range []string{"1.1.1.1/443", "9.9.9.9/53"} {
		if r := g.exec(t, map[string]any{"command": "timeout 3 bash -c 'exec 3<>/dev/tcp/" + address + "'"}); r.ExitCode == 0 {
			t.Errorf("it reaches %s", address)
		}
	}
}

// serve runs as nobody in particular, without a capability of the kernel's.
func TestServeIsUnprivileged(t *testing.T) {
	lab.mu.Lock()
	pid := lab.process.Process.Pid
	lab.mu.Unlock()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch name {
		case "Uid", "Gid":
			for id := range strings.FieldsSeq(value) {
				if id == "0" {
					t.Errorf("%s", line)
				}
			}
		case "CapEff", "CapPrm":
			if strings.Trim(value, "\t 0") != "" {
				t.Errorf("%s", line)
			}
		}
	}
}

// What a guest does by itself is seen as it happens: a reboot, which makes it boot again for those who
// look, and a panic, which turns it off.
func TestGuestRebootsAndPanics(t *testing.T) {
	own(t)
	g := minimal(t, "by itself")
	boot := g.bootID(t)
	g.sh(t, "echo kept >~/kept; sync")
	began := time.Now()
	// The guest may be gone before it has answered.
	if _, err := g.trySh(t.Context(), "root", "systemctl reboot --force --force"); err != nil {
		t.Log(err)
	}
	g.status(t, "booting")
	t.Logf("it is seen to reboot %s after it was told to", time.Since(began).Round(time.Millisecond))
	if err := g.readied(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	if now := g.bootID(t); now == boot {
		t.Error("it has not booted")
	}

	began = time.Now()
	if _, err := g.trySh(t.Context(), "root", "echo c >/proc/sysrq-trigger"); err != nil {
		t.Log(err)
	}
	g.status(t, "error")
	t.Logf("it is seen to panic %s after it was told to", time.Since(began).Round(time.Millisecond))
	s, err := g.desktop(t.Context(), g.id)
	if err != nil || !strings.Contains(s.Reason, "panicked") {
		t.Errorf("%+v, %v", s, err)
	}
	g.call(t, http.MethodPost, g.path("start"), nil)
	if err := g.readied(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	if kept := g.sh(t, "cat ~/kept"); kept != "kept\n" {
		t.Errorf("its disk has %q", kept)
	}
}
