package e2e

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// bootPatience is how long a boot may take under emulation on a busy machine.
const bootPatience = 6 * time.Minute

// probePath is where the probe lies in a guest.
const probePath = "/opt/bureau-probe"

// guest is a desktop under test.
type guest struct {
	*appliance
	id string
}

// sharedGuest is the one desktop that most tests use, of the default image.
var sharedGuest = sync.OnceValues(func() (*guest, error) {
	ctx := context.Background()
	began := time.Now()
	g, err := lab.create(ctx, map[string]any{"name": "shared"})
	if err != nil {
		return g, err
	}
	if err := lab.readied(ctx, g.id); err != nil {
		return g, err
	}
	progress("the shared desktop was ready %s after it was asked for", time.Since(began).Round(time.Second/10))
	if err := g.settled(ctx); err != nil {
		return g, err
	}
	return g, g.putProbe(ctx)
})

// settled checks that a desktop that has just become ready can be used as it is, and waits until its
// session is complete and at rest, so that nothing appears over what a test looks at.
func (g *guest) settled(ctx context.Context) error {
	if _, err := g.trySh(ctx, "", "xprop -root _NET_SUPPORTING_WM_CHECK | grep -q 'window id'"); err != nil {
		return fmt.Errorf("agentReady, and no session is there: %w", err)
	}
	return until(ctx, 3*time.Minute, func(ctx context.Context) error {
		_, err := g.trySh(ctx, "", "{ ! pgrep -x xfce4-session || { pgrep -x xfdesktop && pgrep -x xfce4-panel; }; } >/dev/null")
		return err
	})
}

// create makes a desktop, which then boots.
func (a *appliance) create(ctx context.Context, draft map[string]any) (*guest, error) {
	r, err := a.send(ctx, http.MethodPost, "/v1/desktops", draft)
	if err != nil {
		return nil, err
	}
	if r.status/100 != 2 {
		return nil, fmt.Errorf("creating a desktop: %s", r)
	}
	var s state
	if err := json.Unmarshal(r.body, &s); err != nil {
		return nil, err
	}
	return &guest{a, s.ID}, nil
}

var minimalImage = sync.OnceValue(func() error { return lab.importImage(context.Background(), "minimal") })

// needMinimal puts the small image in place.
func needMinimal(t testing.TB) {
	t.Helper()
	if err := minimalImage(); err != nil {
		t.Fatal(err)
	}
}

// minimal makes a desktop of the small image that the test may do anything to, ready and with the
// probe in it. It is destroyed when the test ends, which must have its turn: see own.
func minimal(t testing.TB, name string) *guest {
	t.Helper()
	needMinimal(t)
	g := lab.beginMinimal(t, name)
	g.awaitMinimal(t)
	return g
}

// beginMinimal is minimal that does not wait for the boot; awaitMinimal does.
func (a *appliance) beginMinimal(t testing.TB, name string) *guest {
	t.Helper()
	g, err := a.create(t.Context(), map[string]any{"name": name, "image": "minimal", "tier": "small"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		r, err := a.send(ctx, http.MethodDelete, "/v1/desktops/"+g.id, nil)
		if err != nil || r.status/100 != 2 && r.status != http.StatusNotFound {
			t.Errorf("destroying %s: %v %s", name, err, r)
		}
	})
	g.watch(t)
	return g
}

func (g *guest) awaitMinimal(t testing.TB) {
	t.Helper()
	if err := g.readied(t.Context(), g.id); err != nil {
		t.Fatal(err)
	}
	if err := g.settled(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := g.putProbe(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// watch puts aside what is needed to understand a failure of t, if it fails.
func (g *guest) watch(t testing.TB) {
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		folder := filepath.Join(g.keep, strings.ReplaceAll(t.Name(), "/", "_"))
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Log(err)
			return
		}
		put := func(name string, data []byte, err error) {
			if err != nil {
				data = fmt.Appendf(nil, "%v\n%s", err, data)
				name += ".failed"
			}
			if err := os.WriteFile(filepath.Join(folder, name), data, 0o644); err != nil {
				t.Log(err)
			}
		}
		put("serve.log", []byte(g.logTail(400)), nil)
		shot, err := g.send(ctx, http.MethodGet, "/v1/desktops/"+g.id+"/screenshot", nil)
		if err == nil && shot.status != http.StatusOK {
			err = errors.New(shot.String())
		}
		put("display.png", shot.body, err)
		s, err := g.desktop(ctx, g.id)
		put("desktop.txt", fmt.Appendf(nil, "%+v\n", s), err)
		journal, err := g.tryExec(ctx, map[string]any{"command": "journalctl -b --no-pager | tail -n 300; ps axf", "user": "root"})
		put("guest.log", []byte(journal.Stdout+journal.Stderr), err)
		t.Logf("what is known of the failure lies in %s; the end of serve's log:\n%s", folder, g.logTail(15))
	})
}

// execResult is what exec and bash answer.
type execResult struct {
	Stdout     string  `json:"stdout"`
	Stderr     string  `json:"stderr"`
	ExitCode   int     `json:"exitCode"`
	Signal     string  `json:"signal"`
	DurationMs float64 `json:"durationMs"`
	TimedOut   bool    `json:"timedOut"`
	Truncated  bool    `json:"truncated"`
}

func (g *guest) path(route string) string { return "/v1/desktops/" + g.id + "/" + route }

func (g *guest) tryExec(ctx context.Context, body map[string]any) (execResult, error) {
	r, err := g.send(ctx, http.MethodPost, g.path("exec"), body)
	if err != nil {
		return execResult{}, err
	}
	if r.status != http.StatusOK {
		return execResult{}, fmt.Errorf("exec %.200v: %s", body["command"], r)
	}
	var result execResult
	return result, json.Unmarshal(r.body, &result)
}

// exec runs a command, however it ends.
func (g *guest) exec(t testing.TB, body map[string]any) execResult {
	t.Helper()
	result, err := g.tryExec(t.Context(), body)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

func (g *guest) trySh(ctx context.Context, user, script string) (string, error) {
	body := map[string]any{"command": script}
	if user != "" {
		body["user"] = user
	}
	result, err := g.tryExec(ctx, body)
	if err != nil {
		return "", err
	}
	if result.ExitCode != 0 {
		return "", fmt.Errorf("%.300s: exit code %d: %s%s", script, result.ExitCode, result.Stdout, result.Stderr)
	}
	return result.Stdout, nil
}

// sh runs a command as the desktop's user that succeeds, and returns what it printed.
func (g *guest) sh(t testing.TB, script string) string {
	t.Helper()
	out, err := g.trySh(t.Context(), "", script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// root does so as root.
func (g *guest) root(t testing.TB, script string) string {
	t.Helper()
	out, err := g.trySh(t.Context(), "root", script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// acted is what an input action answers.
type acted struct {
	Cursor struct {
		X, Y int
	} `json:"cursor"`
	Display struct {
		Width, Height int
	} `json:"display"`
	TookMs float64 `json:"tookMs"`
}

// act does an input action that succeeds.
func (g *guest) act(t testing.TB, route string, body any) acted {
	t.Helper()
	return decode[acted](t, g.call(t, http.MethodPost, g.path(route), body).body)
}

// key presses one combination.
func (g *guest) press(t testing.TB, key string) {
	t.Helper()
	g.act(t, "key", map[string]any{"key": key})
}

func (g *guest) typeText(t testing.TB, text string) {
	t.Helper()
	g.act(t, "type", map[string]any{"text": text})
}

// display is the size of the guest's display, as its X server tells it.
func (g *guest) display(t testing.TB) (width, height int) {
	t.Helper()
	out := g.sh(t, "xdpyinfo | sed -n 's/^ *dimensions: *\\([0-9x]*\\).*/\\1/p'")
	if _, err := fmt.Sscanf(out, "%dx%d", &width, &height); err != nil {
		t.Fatalf("xdpyinfo says %q", out)
	}
	return width, height
}

var probeBinary = sync.OnceValues(func() ([]byte, error) { return buildForGuests("probe") })

// buildForGuests builds a program of the tests' own so that it runs in any guest.
func buildForGuests(name string) ([]byte, error) {
	path := filepath.Join(lab.dir, name)
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", path, "./"+name)
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("building %s: %w\n%s", name, err, out)
	}
	return os.ReadFile(path)
}

// putProbe puts the probe into the guest.
func (g *guest) putProbe(ctx context.Context) error {
	binary, err := probeBinary()
	if err != nil {
		return err
	}
	if err := g.put(ctx, probePath, binary); err != nil {
		return fmt.Errorf("putting the probe into the guest: %w", err)
	}
	return nil
}

// put makes an executable file in the guest, through the standard input of commands.
func (g *guest) put(ctx context.Context, path string, data []byte) error {
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	if _, err := z.Write(data); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	text := base64.StdEncoding.EncodeToString(packed.Bytes())
	const piece = 512 << 10
	command := "base64 -d >" + path + ".gz"
	for len(text) > 0 {
		n := min(piece, len(text))
		result, err := g.tryExec(ctx, map[string]any{"command": command, "stdin": text[:n], "user": "root"})
		if err == nil && result.ExitCode != 0 {
			err = errors.New(result.Stderr)
		}
		if err != nil {
			return err
		}
		text, command = text[n:], "base64 -d >>"+path+".gz"
	}
	_, err := g.trySh(ctx, "root", "gzip -dc "+path+".gz >"+path+" && chmod 755 "+path+" && rm "+path+".gz")
	return err
}

// probe runs a command of the probe's and returns what it printed.
func (g *guest) probe(t testing.TB, args string) []byte {
	t.Helper()
	return []byte(g.sh(t, probePath+" "+args))
}

// background starts a program on the desktop's screen that is killed when the test ends.
func (g *guest) background(t testing.TB, command string) {
	t.Helper()
	log := "/tmp/" + strings.NewReplacer("/", "_", " ", "_").Replace(t.Name()) + ".log"
	pid := strings.TrimSpace(g.sh(t, "setsid "+command+" </dev/null >>"+log+" 2>&1 & echo $!"))
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		// The whole session: a program may have started others.
		if _, err := g.trySh(ctx, "", "kill -- -"+pid+" 2>/dev/null; kill "+pid+" 2>/dev/null; "+
			"for i in $(seq 100); do kill -0 "+pid+" 2>/dev/null || exit 0; sleep 0.05; done; kill -9 -- -"+pid+"; true"); err != nil {
			t.Errorf("ending %s: %v", command, err)
		}
	})
}

// event is a line of probe events.
type event struct {
	Type   string
	X, Y   int
	Button int
	State  int
	Code   int
	Keysym int
	Time   int
}

// events is a window over the display, or a part of it, that logs what it receives.
type events struct {
	*guest
	log string
}

func (g *guest) events(t testing.TB, geometry string) events {
	t.Helper()
	e := events{g, "/tmp/" + strings.ReplaceAll(t.Name(), "/", "_") + ".events"}
	g.sh(t, "rm -f "+e.log)
	g.background(t, probePath+" events -log "+e.log+" -geometry '"+geometry+"'")
	e.collect(t)
	return e
}

// collect is what has happened since the last collect, all of it.
func (e events) collect(t testing.TB) []event {
	t.Helper()
	all, _ := e.collectAll(t)
	return all
}

// collectAll is collect, and an event where the pointer is then.
func (e events) collectAll(t testing.TB) (all []event, pointer event) {
	t.Helper()
	all = decode[[]event](t, e.probe(t, "collect -log "+e.log))
	return all[:len(all)-1], all[len(all)-1]
}

// window is one of the desktop's windows.
type window struct {
	ID                      uint32
	Title, Instance, Class  string
	X, Y, Width, Height     int
	Active                  bool
	FrameX, FrameY          int
	FrameWidth, FrameHeight int
}

func (g *guest) windows(t testing.TB) []window {
	t.Helper()
	return decode[[]window](t, g.probe(t, "windows"))
}

// find is the topmost window of a class, if there is one.
func (g *guest) find(t testing.TB, class string) (window, bool) {
	t.Helper()
	list := g.windows(t)
	for i := len(list) - 1; i >= 0; i-- {
		if strings.EqualFold(list[i].Class, class) {
			return list[i], true
		}
	}
	return window{}, false
}

// await is the window of a class once it is there and has the keyboard.
func (g *guest) await(t testing.TB, class string) window {
	t.Helper()
	var w window
	eventually(t, 3*time.Minute, func() error {
		found := false
		if w, found = g.find(t, class); !found {
			return fmt.Errorf("there is no window of class %s", class)
		}
		if !w.Active {
			return fmt.Errorf("the window %q does not become active", w.Title)
		}
		return nil
	})
	return w
}

// gone waits until there is no window of a class.
func (g *guest) gone(t testing.TB, class string) {
	t.Helper()
	eventually(t, patience, func() error {
		if w, found := g.find(t, class); found {
			return fmt.Errorf("the window %q is still there", w.Title)
		}
		return nil
	})
}
