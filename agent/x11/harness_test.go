package x11

import (
	"bufio"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// The tests run against a real X server (Xvfb) and real applications, and look at the results from
// an X client of their own.

// packages are the Debian packages of the programs that the tests start.
var packages = map[string]string{
	"Xvfb": "xvfb", "openbox": "openbox", "xfwm4": "xfwm4", "dbus-run-session": "dbus-daemon", "xterm": "xterm", "mousepad": "mousepad", "firefox-esr": "firefox-esr",
	"setxkbmap": "x11-xkb-utils", "xrandr": "x11-xserver-utils", "xdotool": "xdotool", "xprop": "x11-utils", "xwininfo": "x11-utils", "xclip": "xclip",
}

func program(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Fatalf("%s is missing; apt-get install -y --no-install-recommends %s", name, packages[name])
	}
	return path
}

// startServer starts an X server that ends with the test.
func startServer(t testing.TB, args ...string) string {
	t.Helper()
	_, display := startServerProcess(t, args...)
	return display
}

func startServerProcess(t testing.TB, args ...string) (*os.Process, string) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(program(t, "Xvfb"), append([]string{"-displayfd", "3", "-screen", "0", "1280x800x24",
		"-nolisten", "tcp", "-noreset"}, args...)...)
	cmd.ExtraFiles = []*os.File{w}
	run(t, cmd)
	w.Close()
	number, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatalf("Xvfb did not start: %v", err)
	}
	return cmd.Process, ":" + strings.TrimSpace(number)
}

// run starts a command and ends it with the test.
func run(t testing.TB, cmd *exec.Cmd) {
	t.Helper()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

// startApp starts a program on a display, with a home of its own.
func startApp(t testing.TB, display, name string, args ...string) {
	t.Helper()
	home := t.TempDir()
	cmd := exec.Command(program(t, name), args...)
	cmd.Dir = home
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "DISPLAY=" + display, "HOME=" + home, "LC_ALL=C.UTF-8",
		"XDG_RUNTIME_DIR=" + home, "DBUS_SESSION_BUS_ADDRESS=disabled:",
		"GSETTINGS_BACKEND=memory", "NO_AT_BRIDGE=1", "GTK_IM_MODULE=gtk-im-context-simple"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	run(t, cmd)
	t.Cleanup(func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }) // with what it has started
}

// startWindowManager starts one and waits until it manages the display.
func startWindowManager(t testing.TB, display string, manager ...string) {
	t.Helper()
	if len(manager) == 0 {
		manager = []string{"openbox"}
	}
	c := connect(t, display)
	startApp(t, display, manager[0], manager[1:]...)
	const name = "_NET_SUPPORTING_WM_CHECK"
	atom, err := xproto.InternAtom(c.x, false, uint16(len(name)), name).Reply()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "a window manager", func() bool {
		property, err := xproto.GetProperty(c.x, false, c.root, atom.Atom, xproto.AtomWindow, 0, 1).Reply()
		return err == nil && len(property.Value) == 4
	})
}

// tool runs a program on a display to its end.
func tool(t testing.TB, display, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program(t, name), args...)
	cmd.Env = append(os.Environ(), "DISPLAY="+display)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
	return string(out)
}

func openDisplay(t testing.TB, display string) *Display {
	t.Helper()
	d, err := Open(t.Context(), display, "", slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d
}

func act(t testing.TB, d *Display, actions ...desktop.Action) desktop.Acted {
	t.Helper()
	acted, err := d.Act(t.Context(), actions)
	if err != nil {
		t.Fatal(err)
	}
	return acted
}

func typed(text string) desktop.Action { return desktop.Action{Type: &desktop.Type{Text: text}} }

func pressed(keys ...string) desktop.Action { return desktop.Action{Press: &desktop.Press{Keys: keys}} }

func at2(x, y int) (*int, *int) { return &x, &y }

// patience is how long a test waits for what ought to take a moment, on a slow and busy machine.
const patience = 60 * time.Second

// eventually polls until the condition holds.
func eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !condition() {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// client is an X client that knows nothing of the package: another connection with a window over
// the whole display, which has the focus and writes down what it gets.
type client struct {
	t      testing.TB
	x      *xgb.Conn
	root   xproto.Window
	window xproto.Window
}

func connect(t testing.TB, display string) *client {
	t.Helper()
	silence()
	conn, err := dial(t.Context(), display, "")
	if err != nil {
		t.Fatal(err)
	}
	x, err := xgb.NewConnNet(conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(x.Close)
	return &client{t: t, x: x, root: xproto.Setup(x).DefaultScreen(x).Root}
}

func newClient(t testing.TB, display string) *client {
	t.Helper()
	c := connect(t, display)
	var err error
	if c.window, err = xproto.NewWindowId(c.x); err != nil {
		t.Fatal(err)
	}
	screen := xproto.Setup(c.x).DefaultScreen(c.x)
	err = xproto.CreateWindowChecked(c.x, screen.RootDepth, c.window, c.root, 0, 0, screen.WidthInPixels, screen.HeightInPixels, 0,
		xproto.WindowClassInputOutput, screen.RootVisual, xproto.CwOverrideRedirect|xproto.CwEventMask, []uint32{1,
			xproto.EventMaskKeyPress | xproto.EventMaskKeyRelease | xproto.EventMaskButtonPress | xproto.EventMaskButtonRelease |
				xproto.EventMaskPointerMotion}).Check()
	if err != nil {
		t.Fatal(err)
	}
	xproto.MapWindow(c.x, c.window)
	if err := xproto.SetInputFocusChecked(c.x, xproto.InputFocusPointerRoot, c.window, 0).Check(); err != nil {
		t.Fatal(err)
	}
	c.events()
	return c
}

// events is what has arrived since the last call, such as "button 1 down at 10,20 state 4".
func (c *client) events() []string {
	c.t.Helper()
	c.x.Sync()
	var all []string
	for {
		event, _ := c.x.PollForEvent()
		switch e := event.(type) {
		case nil:
			return all
		case xproto.ButtonPressEvent:
			all = append(all, fmt.Sprintf("button %d down at %d,%d state %x", e.Detail, e.RootX, e.RootY, e.State))
		case xproto.ButtonReleaseEvent:
			all = append(all, fmt.Sprintf("button %d up at %d,%d state %x", e.Detail, e.RootX, e.RootY, e.State))
		case xproto.MotionNotifyEvent:
			all = append(all, fmt.Sprintf("motion to %d,%d state %x", e.RootX, e.RootY, e.State))
		case xproto.KeyPressEvent:
			all = append(all, fmt.Sprintf("key %v down state %x", c.sym(e.Detail, e.State), e.State))
		case xproto.KeyReleaseEvent:
			all = append(all, fmt.Sprintf("key %v up state %x", c.sym(e.Detail, e.State), e.State))
		}
	}
}

// sym reads a key as simple clients do: first or second column.
func (c *client) sym(code xproto.Keycode, state uint16) Keysym {
	reply, err := xproto.GetKeyboardMapping(c.x, code, 1).Reply()
	if err != nil {
		c.t.Fatal(err)
	}
	if state&xproto.ModMaskShift != 0 && len(reply.Keysyms) > 1 && reply.Keysyms[1] != 0 {
		return Keysym(reply.Keysyms[1])
	}
	return Keysym(reply.Keysyms[0])
}

// keymap is the server's whole keyboard mapping, to compare.
func (c *client) keymap() []xproto.Keysym {
	c.t.Helper()
	setup := xproto.Setup(c.x)
	reply, err := xproto.GetKeyboardMapping(c.x, setup.MinKeycode, byte(setup.MaxKeycode-setup.MinKeycode+1)).Reply()
	if err != nil {
		c.t.Fatal(err)
	}
	return reply.Keysyms
}

// down lists the keycodes and buttons that are pressed.
func (c *client) down() []string {
	c.t.Helper()
	var all []string
	keys, err := xproto.QueryKeymap(c.x).Reply()
	if err != nil {
		c.t.Fatal(err)
	}
	for code := range 256 {
		if keys.Keys[code/8]&(1<<(code%8)) != 0 {
			all = append(all, fmt.Sprintf("key %d", code))
		}
	}
	pointer, err := xproto.QueryPointer(c.x, c.root).Reply()
	if err != nil {
		c.t.Fatal(err)
	}
	for button := range 5 {
		if pointer.Mask&(xproto.ButtonMask1<<button) != 0 {
			all = append(all, fmt.Sprintf("button %d", button+1))
		}
	}
	return all
}

// focus is the class of the top-level window that has the focus.
func (c *client) focus() string {
	focus, err := xproto.GetInputFocus(c.x).Reply()
	if err != nil {
		return ""
	}
	for window := focus.Focus; window > 1 && window != c.root; {
		class, err := xproto.GetProperty(c.x, false, window, xproto.AtomWmClass, xproto.AtomString, 0, 100).Reply()
		if err != nil {
			return ""
		}
		if len(class.Value) > 0 {
			return strings.ToLower(strings.ReplaceAll(string(class.Value), "\x00", " "))
		}
		tree, err := xproto.QueryTree(c.x, window).Reply()
		if err != nil {
			return ""
		}
		window = tree.Parent
	}
	return ""
}

func (c *client) waitFocus(class string) {
	c.t.Helper()
	eventually(c.t, "focus of "+class, func() bool { return strings.Contains(c.focus(), class) })
}

func equal(t testing.TB, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

// terminal is an xterm that copies what it gets into a file.
type terminal struct {
	t    testing.TB
	path string
	want string
}

func newTerminal(t testing.TB, display string) *terminal {
	t.Helper()
	return newTerminalAt(t, display, "80x24+0+0")
}

func newTerminalAt(t testing.TB, display, geometry string) *terminal {
	t.Helper()
	c := connect(t, display)
	path := filepath.Join(t.TempDir(), "typed")
	startApp(t, display, "xterm", "-u8", "-geometry", geometry, "-e", "sh", "-c",
		"stty raw -echo; : > '"+path+"'; exec cat >> '"+path+"'")
	eventually(t, "xterm", func() bool {
		_, err := os.Stat(path)
		return err == nil && strings.Contains(c.focus(), "xterm")
	})
	return &terminal{t: t, path: path}
}

// expect waits until exactly that text has arrived after the text before.
func (x *terminal) expect(text string) {
	x.t.Helper()
	x.want += text
	expectText(x.t, x.want, func() string {
		data, err := os.ReadFile(x.path)
		if err != nil {
			x.t.Fatal(err)
		}
		return strings.ReplaceAll(string(data), "\r", "\n")
	})
}

// expectText waits until read gives a text of the wanted length, and compares.
func expectText(t testing.TB, want string, read func() string) {
	t.Helper()
	var got string
	// A program that has little of a busy processor goes on slowly; one that stands still has lost text.
	const patience = 20 * time.Second
	deadline := time.Now().Add(patience)
	for len(got) < len(want) && time.Now().Before(deadline) {
		if now := read(); now != got {
			got, deadline = now, time.Now().Add(patience)
			continue
		}
		time.Sleep(5 * time.Millisecond)
	}
	if got == want {
		return
	}
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	t.Fatalf("text differs at byte %d of %d (got %d bytes):\n got …%.60q\nwant …%.60q", i, len(want), len(got), got[max(0, i-8):], want[max(0, i-8):])
}
