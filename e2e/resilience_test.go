package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// soon is what "in seconds" means on a slow and busy machine without KVM; a boot takes longer.
const soon = 20 * time.Second

// again waits until the desktop can be used again, and says how long that took.
func (g *guest) again(t testing.TB, since time.Time) {
	t.Helper()
	err := until(t.Context(), soon, func(ctx context.Context) error {
		s, err := g.desktop(ctx, g.id)
		if err != nil {
			return err
		}
		if s.Status != "running" || !s.AgentReady {
			return fmt.Errorf("the desktop is %s, agentReady %t: %s", s.Status, s.AgentReady, s.Reason)
		}
		_, err = g.trySh(ctx, "", "true")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("usable again after %s", time.Since(since).Round(time.Millisecond))
}

// works checks that the desktop can be seen and controlled, in the boot that it was in.
func (g *guest) works(t testing.TB, boot string) {
	t.Helper()
	if now := g.bootID(t); now != boot {
		t.Errorf("the desktop has booted again")
	}
	width, height := g.display(t)
	if size := g.screenshot(t, "").Bounds().Size(); size.X != width || size.Y != height {
		t.Errorf("the screenshot is %v", size)
	}
	a := g.act(t, "move", map[string]any{"x": 321, "y": 123})
	g.wantPointer(t, a, 321, 123)
}

// lasting starts a program in the guest that must live through what happens to bureau.
func (g *guest) lasting(t testing.TB, seconds int) {
	t.Helper()
	g.sh(t, fmt.Sprintf("setsid sleep %d </dev/null >/dev/null 2>&1 &", seconds))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if out, err := g.trySh(ctx, "", fmt.Sprintf("pkill -fx 'sleep %d'", seconds)); err != nil {
			t.Errorf("a program of the guest's has not lived through it: %v %s", err, out)
		}
	})
}

func TestServeIsKilled(t *testing.T) {
	g := alone(t)
	boot := g.bootID(t)
	g.lasting(t, 7201)
	if err := lab.end(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if got := virsh(t, "domstate", g.domain()); got != "running" {
		t.Errorf("without serve the guest is %s", got)
	}
	began := time.Now()
	if err := lab.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.again(t, began)
	g.works(t, boot)
}

func TestServeIsTerminated(t *testing.T) {
	g := alone(t)
	boot := g.bootID(t)
	lab.mu.Lock()
	p := lab.process
	lab.mu.Unlock()
	// A command under way does not keep serve from ending.
	underway := make(chan error, 1)
	go func() {
		_, err := g.trySh(t.Context(), "", "sleep 7203")
		underway <- err
	}()
	eventually(t, patience, func() error {
		if n := strings.TrimSpace(g.sleepers(t, 7203)); n != "1" {
			return errors.New("the command has not begun")
		}
		return nil
	})
	if err := lab.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-underway
	if p.err != nil {
		t.Errorf("serve ended with %v", p.err)
	}
	began := time.Now()
	if err := lab.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.again(t, began)
	g.works(t, boot)
	eventually(t, patience, func() error {
		if n := strings.TrimSpace(g.sleepers(t, 7203)); n != "0" {
			return errors.New("the command goes on without its caller")
		}
		return nil
	})
}

// agentPID is the agent's process in the guest.
func (g *guest) agentPID(t testing.TB) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(g.root(t, "systemctl show -p MainPID --value bureau-agent.service")))
	if err != nil || pid == 0 {
		t.Fatalf("the agent's process is %d: %v", pid, err)
	}
	return pid
}

func TestAgentIsKilled(t *testing.T) {
	g := shared(t)
	boot, pid := g.bootID(t), g.agentPID(t)
	g.lasting(t, 7202)
	// The caller of this one loses its answer.
	if _, err := g.trySh(t.Context(), "root", fmt.Sprintf("kill -9 %d; sleep 30", pid)); err == nil {
		t.Error("the agent was not killed")
	}
	began := time.Now()
	g.again(t, began)
	if now := g.agentPID(t); now == pid {
		t.Error("it is the same process")
	}
	g.works(t, boot)
	g.wantReleased(t)
}

// The agent is killed in the middle of an action: nothing stays pressed, and text can be typed.
func TestAgentIsKilledWhileTyping(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	pid := g.agentPID(t)
	typed := make(chan error, 1)
	go func() {
		r, err := g.send(t.Context(), http.MethodPost, g.path("type"), map[string]any{"text": strings.Repeat("AÉ漢", 1000), "delayMs": 20})
		if err == nil && r.status == http.StatusOK {
			err = errors.New("it ended by itself")
		} else if err == nil {
			wantProblem(t, r, http.StatusServiceUnavailable)
		}
		typed <- err
	}()
	screen.awaitEvents(t, "keypress", 10)
	g.root(t, fmt.Sprintf("systemd-run --quiet --no-block kill -9 %d", pid))
	if err := <-typed; err != nil {
		t.Error(err)
	}
	g.again(t, time.Now())
	eventually(t, patience, func() error {
		if held := decode[keyboard](t, g.probe(t, "keys")); len(held.Held) != 0 || held.Mask&^stateLocks != 0 {
			return fmt.Errorf("still held: %+v", held)
		}
		return nil
	})
	screen.collect(t)
	g.typeText(t, "ab")
	if got := screen.collect(t); len(got) != 4 {
		t.Errorf("typing ab gives %+v", got)
	}
}

// libvirtd is killed and started again. It is the machine's own, which an operator's guests use as
// well: a restart of it is harmless to guests, that is what it was made for.
func TestLibvirtIsKilled(t *testing.T) {
	g := withoutLibvirt(t)
	needMinimal(t)
	boot := g.bootID(t)
	pid := libvirtPID(t)
	if out, err := asRoot(t.Context(), "kill", "-9", strconv.Itoa(pid)).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	eventually(t, patience, func() error {
		if syscall.Kill(pid, 0) == nil {
			return errors.New("it lives")
		}
		return nil
	})
	// Without it a request fails as it should or not at all.
	for _, route := range []string{"click", "start"} {
		r, err := g.send(t.Context(), http.MethodPost, g.path(route), nil)
		if err != nil {
			t.Fatal(err)
		}
		if r.status/100 != 2 {
			wantProblem(t, r, http.StatusServiceUnavailable)
		}
	}
	startLibvirt(t)
	began := time.Now()
	g.again(t, began)
	g.works(t, boot)

	// What machines do is heard of again.
	other, err := lab.create(t.Context(), map[string]any{"name": "after", "image": "minimal", "tier": "small"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { other.call(t, http.MethodDelete, "/v1/desktops/"+other.id, nil) }()
	eventually(t, patience, func() error {
		if state, err := runVirsh(t.Context(), "domstate", other.domain()); err != nil || state != "running" {
			return fmt.Errorf("libvirt says %s: %v", state, err)
		}
		return nil
	})
	virsh(t, "destroy", other.domain())
	other.status(t, "error") // nobody asked for its end
}

func systemd() bool {
	_, err := os.Stat("/run/systemd/system")
	return err == nil
}

func libvirtPID(t testing.TB) int {
	t.Helper()
	for _, file := range []string{"/run/libvirtd.pid", "/run/libvirt/libvirtd.pid"} {
		if data, err := os.ReadFile(file); err == nil {
			pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
			if err != nil {
				t.Fatalf("%s: %v", file, err)
			}
			return pid
		}
	}
	t.Fatal("libvirtd has no file with its process")
	return 0
}

func startLibvirt(t testing.TB) {
	t.Helper()
	var c *exec.Cmd
	if systemd() {
		c = asRoot(t.Context(), "systemctl", "restart", "libvirtd.service")
	} else {
		c = asRoot(t.Context(), filepath.Join("..", "packaging", "host", "libvirtd"))
	}
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("starting libvirtd: %v: %s", err, out)
	}
	eventually(t, patience, func() error {
		_, err := runVirsh(t.Context(), "version")
		return err
	})
}

func fileSum(t testing.TB, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// agentSum is the checksum of the binary that is the agent in the guest.
func (g *guest) agentSum(t testing.TB) string {
	t.Helper()
	sum, _, _ := strings.Cut(g.root(t, fmt.Sprintf("sha256sum /proc/%d/exe", g.agentPID(t))), " ")
	return sum
}

func TestAgentIsTheHostsBinary(t *testing.T) {
	g := shared(t)
	if want, got := fileSum(t, lab.binary), g.agentSum(t); got != want {
		t.Errorf("the agent's sha256 is %s, serve's %s", got, want)
	}
	if out := g.root(t, "ldconfig -p | grep libvirt || true"); out != "" {
		t.Errorf("the guest has libvirt: %s", out)
	}
}

// A rebuilt binary reaches a running desktop at once.
func TestRebuiltBinaryReachesTheDesktop(t *testing.T) {
	g := alone(t)
	boot, before := g.bootID(t), g.agentSum(t)
	g.lasting(t, 7204)
	next := filepath.Join(lab.dir, "bureau-next")
	if err := build(t.Context(), next, "e2e-2", true); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, lab.binary); err != nil {
		t.Fatal(err)
	}
	if err := lab.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := lab.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.again(t, began)
	want := fileSum(t, lab.binary)
	if got := g.agentSum(t); got != want || got == before {
		t.Errorf("the agent's sha256 was %s and is %s, serve's is %s", before, got, want)
	}
	if out := g.root(t, fmt.Sprintf("/proc/%d/exe version", g.agentPID(t))); !strings.Contains(out, "e2e-2") {
		t.Errorf("the agent's binary says that it is %s", out)
	}
	g.works(t, boot)
}
