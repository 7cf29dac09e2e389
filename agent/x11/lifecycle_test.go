package x11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// A call that is cancelled in its middle releases what it holds and puts the keyboard back.
func TestCancelLeavesNothingPressed(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	before := fmt.Sprint(c.keymap())
	startX, startY := at2(10, 10)
	endX, endY := at2(900, 700)
	for name, action := range map[string]desktop.Action{
		"type":  {Type: &desktop.Type{Text: strings.Repeat("ABCé字", 1000), DelayMs: 20}},
		"press": {Press: &desktop.Press{Keys: []string{"ctrl+shift+a", "字"}, HoldMs: 50_000}},
		"drag": {Drag: &desktop.Drag{StartX: startX, StartY: startY, EndX: endX, EndY: endY, DurationMs: 50_000,
			Modifiers: []string{"alt"}}},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error, 1)
		go func() {
			_, err := d.Act(ctx, []desktop.Action{action})
			result <- err
		}()
		eventually(t, name+" holds something", func() bool { return len(c.down()) > 0 })
		cancel()
		if err := <-result; !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", name, err)
		}
		equal(t, name+" left pressed", c.down(), nil)
		if fmt.Sprint(c.keymap()) != before {
			t.Errorf("%s: the keymap has changed", name)
		}
	}
	// One that has ended before its turn does nothing.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c.events()
	if _, err := d.Act(ctx, []desktop.Action{pressed("a")}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	equal(t, "events", c.events(), nil)
}

// An agent that is killed leaves keys pressed and keys borrowed; the next one puts it right.
func TestOpenAfterCrash(t *testing.T) {
	display := startServer(t)
	c := newClient(t, display)
	before := fmt.Sprint(c.keymap())
	crashed, err := Open(t.Context(), display, "", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	keys, err := crashed.keymap()
	if err != nil {
		t.Fatal(err)
	}
	l := &lender{d: crashed, keys: keys}
	for _, text := range []string{"éÉ字ж", strings.Repeat("x", 1) + "€"} {
		free, err := l.places(1000)
		if err != nil {
			t.Fatal(err)
		}
		meanings := make(map[place]Keysym)
		for i, r := range []rune(text) {
			meanings[free[i*20]] = keysymOf(r)
		}
		if err := l.bind(meanings); err != nil {
			t.Fatal(err)
		}
	}
	for _, code := range []byte{keys.shift, 37, 64, 38} {
		crashed.hands.fake(xproto.KeyPress, code)
	}
	for _, button := range []byte{1, 3, 8} {
		crashed.hands.fake(xproto.ButtonPress, button)
	}
	if _, err := crashed.pointer(t.Context()); err != nil {
		t.Fatal(err)
	}
	crashed.net.Close()
	<-crashed.Done()
	if fmt.Sprint(c.keymap()) == before || len(c.down()) != 6 {
		t.Fatalf("the crash left nothing: %v", c.down())
	}
	d := openDisplay(t, display)
	equal(t, "pressed after the next Open", c.down(), nil)
	if fmt.Sprint(c.keymap()) != before {
		t.Error("the borrowed keys were not given back")
	}
	crashed.Close()
	c.events()
	act(t, d, pressed("a"))
	equal(t, "events", c.events(), []string{"key a down state 0", "key a up state 0"})
	// The button beyond the fifth, of which the server does not tell, is up as well.
	act(t, d, desktop.Action{Click: &desktop.Click{Button: "back"}})
	equal(t, "events", c.events(), []string{"button 8 down at 640,400 state 0", "button 8 up at 640,400 state 0"})
}

// Whatever stands in the journal, opening does not fail for it.
func TestDamagedJournal(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), connect(t, display)
	before := fmt.Sprint(c.keymap())
	for _, data := range [][]byte{nil, {0, 0, 0, 0}, {2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {2, 0, 0, 0, 99, 0, 0, 0},
		{1, 0, 0, 0, 99, 0, 0, 0, 'a', 0, 0, 0, 99, 0, 0, 0, 'a', 0, 0, 0}, {255, 255, 255, 255, 1, 0, 0, 0}} {
		err := xproto.ChangePropertyChecked(c.x, xproto.PropModeReplace, c.root, d.atoms.journal, xproto.AtomCardinal, 32,
			uint32(len(data)/4), data).Check()
		if err != nil {
			t.Fatal(err)
		}
		openDisplay(t, display).Close()
		if fmt.Sprint(c.keymap()) != before {
			t.Errorf("journal %v changed the keymap", data)
		}
	}
}

// A key that a program of the desktop listens to is not borrowed.
func TestGrabbedKeysAreNotBorrowed(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), connect(t, display)
	keys, err := d.keymap()
	if err != nil {
		t.Fatal(err)
	}
	mute := keys.strokes[keysyms().exact["XF86AudioMute"]].code
	if err := xproto.GrabKeyChecked(c.x, false, c.root, 0, xproto.Keycode(mute), xproto.GrabModeAsync, xproto.GrabModeAsync).Check(); err != nil {
		t.Fatal(err)
	}
	free, err := (&lender{d: d, keys: keys}).places(1000)
	if err != nil {
		t.Fatal(err)
	}
	if len(free) < 150 {
		t.Errorf("only %d places", len(free))
	}
	for _, p := range free {
		if p.code == mute {
			t.Error("the grabbed key would be borrowed")
		}
	}
}

func TestServerGoes(t *testing.T) {
	server, display := startServerProcess(t)
	d := openDisplay(t, display)
	result := make(chan error, 1)
	go func() {
		_, err := d.Act(t.Context(), []desktop.Action{{Press: &desktop.Press{Keys: []string{"ctrl+a"}, HoldMs: 50_000}}})
		result <- err
	}()
	c := connect(t, display)
	eventually(t, "a key pressed", func() bool { return len(c.down()) > 0 })
	// A server that stands still holds a call no longer than its context and the time to clean up.
	if err := server.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := d.Capture(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("picture of a stuck server: %v", err)
	}
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("the call under way: %v", err)
	}
	<-d.Done()
	if _, err := d.Act(t.Context(), []desktop.Action{pressed("a")}); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("the next call: %v", err)
	}
}

func TestResize(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	if d.Size() != (desktop.Size{Width: 1280, Height: 800}) {
		t.Fatalf("size %v", d.Size())
	}
	tool(t, display, "xrandr", strings.Fields("--newmode small 40 800 840 968 1056 600 601 605 628")...)
	tool(t, display, "xrandr", "--addmode", "screen", "small")
	tool(t, display, "xrandr", "--output", "screen", "--mode", "small")
	select {
	case <-d.Changed():
	case <-time.After(10 * time.Second):
		t.Fatal("the change was not announced")
	}
	want := desktop.Size{Width: 800, Height: 600}
	if d.Size() != want {
		t.Errorf("size %v", d.Size())
	}
	_, err := d.Act(t.Context(), []desktop.Action{{Move: &desktop.Move{X: 800, Y: 0}}})
	if desktop.CodeOf(err) != desktop.Invalid || !strings.Contains(err.Error(), "800x600") {
		t.Error(err)
	}
	if acted := act(t, d, desktop.Action{Move: &desktop.Move{X: 799, Y: 599}}); acted.Display != want || acted.Cursor != (desktop.Point{X: 799, Y: 599}) {
		t.Errorf("%+v", acted)
	}
	frame, err := d.Capture(t.Context())
	if err != nil || frame.Pixels.Rect.Dx() != 800 || frame.Pixels.Rect.Dy() != 600 {
		t.Errorf("picture %v %v", frame, err)
	}
}

// The cookie of the X server is found and used; without it the server refuses.
func TestCookie(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cookie")
	entry := func(number, protocol string, cookie []byte) []byte {
		b := []byte{1, 0}
		for _, field := range [][]byte{[]byte("otherhost"), []byte(number), []byte(protocol), cookie} {
			b = append(append(b, byte(len(field)>>8), byte(len(field))), field...)
		}
		return b
	}
	cookie := []byte("0123456789abcdef")
	data := append(entry("", "XDM-AUTHORIZATION-1", []byte("x")), entry("", "MIT-MAGIC-COOKIE-1", cookie)...)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	display := startServer(t, "-auth", path)
	if _, err := Open(t.Context(), display, "", slog.New(slog.DiscardHandler)); err == nil {
		t.Error("opened without the cookie")
	}
	d, err := Open(t.Context(), display, path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	act(t, d, desktop.Action{Move: &desktop.Move{X: 1, Y: 1}})
	for _, data := range [][]byte{nil, data[:len(data)-1], entry("99999", "MIT-MAGIC-COOKIE-1", cookie), {1}} {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if d, err := Open(t.Context(), display, path, slog.New(slog.DiscardHandler)); err == nil {
			d.Close()
			t.Errorf("opened with %q", data)
		}
	}
}

func TestOpenFails(t *testing.T) {
	for _, display := range []string{"", "0", ":x", ":987654", "nonsense"} {
		if _, err := Open(t.Context(), display, "", slog.New(slog.DiscardHandler)); err == nil {
			t.Errorf("opened %q", display)
		}
	}
}

func TestClose(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	result := make(chan error, 1)
	go func() {
		_, err := d.Act(t.Context(), []desktop.Action{{Press: &desktop.Press{Keys: []string{"ctrl+a"}, HoldMs: 50_000}}})
		result <- err
	}()
	eventually(t, "a key pressed", func() bool { return len(c.down()) > 0 })
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if err := <-result; desktop.CodeOf(err) != desktop.Unavailable {
		t.Error(err)
	}
	equal(t, "left pressed", c.down(), nil)
	<-d.Done()
	if _, err := d.Act(t.Context(), []desktop.Action{pressed("a")}); desktop.CodeOf(err) != desktop.Unavailable {
		t.Error(err)
	}
	if _, err := d.Capture(t.Context()); desktop.CodeOf(err) != desktop.Unavailable {
		t.Error(err)
	}
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

// A display is managed from when a window manager runs on it.
func TestManaged(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	if d.Managed() {
		t.Error("a bare display is managed")
	}
	startWindowManager(t, display)
	if !d.Managed() {
		t.Error("a display with a window manager is not managed")
	}
}
