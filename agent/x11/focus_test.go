package x11

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// managers are the window managers that the focus is tested with. xfwm4 does not run without a
// session bus.
var managers = map[string][]string{
	"openbox": {"openbox"},
	"xfwm4":   {"dbus-run-session", "--", "xfwm4", "--compositor=off"},
}

func clicked(x, y int) desktop.Action {
	return desktop.Action{Click: &desktop.Click{X: &x, Y: &y}}
}

// managerProcess is the window manager's process, which is let go on and ended with the test.
func managerProcess(t testing.TB, d *Display) *os.Process {
	t.Helper()
	check, err := d.numbers(d.root, d.ewmh.check, 1)
	if err != nil || len(check) != 1 {
		t.Fatalf("window manager: %v %v", check, err)
	}
	p, err := os.FindProcess(int(d.owner(xproto.Window(check[0]))))
	if err != nil || p.Pid == 0 {
		t.Fatalf("process of the window manager: %v %v", p, err)
	}
	t.Cleanup(func() {
		p.Signal(syscall.SIGTERM)
		p.Signal(syscall.SIGCONT)
	})
	return p
}

// stop stops a process and waits until it stands.
func stop(t testing.TB, p *os.Process) {
	t.Helper()
	p.Signal(syscall.SIGSTOP)
	eventually(t, "the process stopped", func() bool {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		return err == nil && bytes.Contains(status, []byte(") T "))
	})
}

// placed waits until the window manager has put n windows where they stay, so that a click finds
// them.
func placed(t testing.TB, d *Display, n int) {
	t.Helper()
	eventually(t, "the windows in their places", func() bool {
		windows, err := d.Windows(t.Context())
		return err == nil && len(windows) == n
	})
}

// Text that is typed right after a click lands in the window that was clicked.
func TestTypeFollowsClick(t *testing.T) {
	for name, command := range managers {
		t.Run(name, func(t *testing.T) {
			display := startServer(t)
			startWindowManager(t, display, command...)
			d := openDisplay(t, display)
			manager := managerProcess(t, d)
			terminals := []*terminal{newTerminalAt(t, display, "60x20+20+40"), newTerminalAt(t, display, "60x20+640+40")}
			places := []desktop.Point{{X: 120, Y: 120}, {X: 740, Y: 120}}
			placed(t, d, 2)
			const rounds = 60

			t.Run("in calls of their own", func(t *testing.T) {
				for i := range rounds {
					act(t, d, clicked(places[i%2].X, places[i%2].Y))
					act(t, d, typed(fmt.Sprintf("<%d>", i)))
					terminals[i%2].want += fmt.Sprintf("<%d>", i)
				}
				terminals[0].expect("")
				terminals[1].expect("")
			})
			t.Run("in one call", func(t *testing.T) {
				var actions []desktop.Action
				for i := range rounds {
					actions = append(actions, clicked(places[i%2].X, places[i%2].Y), typed(fmt.Sprintf("<%d>", i)))
					terminals[i%2].want += fmt.Sprintf("<%d>", i)
				}
				act(t, d, actions...)
				terminals[0].expect("")
				terminals[1].expect("")
			})
			// Of several clicks the server holds the later ones back until the first is decided on.
			t.Run("after several clicks", func(t *testing.T) {
				for i := range rounds {
					here, there := places[i%2], places[1-i%2]
					act(t, d, clicked(here.X, here.Y), clicked(there.X, there.Y), clicked(here.X, here.Y), pressed("x"))
					terminals[i%2].want += "x"
				}
				terminals[0].expect("")
				terminals[1].expect("")
			})
			t.Run("activated", func(t *testing.T) {
				windows, err := d.Windows(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				for i := range rounds {
					w := windows[0]
					if left := windows[0].X < windows[1].X; left != (i%2 == 0) {
						w = windows[1]
					}
					if err := d.ActivateWindow(t.Context(), w.ID); err != nil {
						t.Fatal(err)
					}
					act(t, d, typed(fmt.Sprintf("<%d>", i)))
					terminals[i%2].want += fmt.Sprintf("<%d>", i)
				}
				terminals[0].expect("")
				terminals[1].expect("")
			})
			t.Run("however slow the window manager", func(t *testing.T) {
				for i := range 4 {
					stop(t, manager)
					act(t, d, clicked(places[i%2].X, places[i%2].Y))
					go func() {
						time.Sleep(300 * time.Millisecond)
						manager.Signal(syscall.SIGCONT)
					}()
					act(t, d, typed(fmt.Sprintf("slow<%d>", i)))
					terminals[i%2].expect(fmt.Sprintf("slow<%d>", i))
					terminals[1-i%2].expect("")
				}
			})
			// One that hangs is given its time, and then not asked until it answers again.
			t.Run("without its answer", func(t *testing.T) {
				act(t, d, clicked(places[0].X, places[0].Y), typed("before"))
				terminals[0].expect("before")
				stop(t, manager)
				act(t, d, clicked(places[1].X, places[1].Y))
				for i := range 10 {
					act(t, d, typed(fmt.Sprint(i)))
				}
				inTurn(t, d, func() {
					if d.manager.misses != managerMisses {
						t.Errorf("it was asked %d times, not %d", d.manager.misses, managerMisses)
					}
				})
				if acted := act(t, d, synced(desktop.MaxSyncMs)); acted.Synced {
					t.Error("synced, and the click is not decided on")
				}
				terminals[0].expect("0123456789")
				manager.Signal(syscall.SIGCONT)
				eventually(t, "a late answer", func() (answered bool) {
					inTurn(t, d, func() { answered = int16(d.manager.at.Load()) == d.manager.asked })
					return answered
				})
				act(t, d, typed("again"))
				terminals[1].expect("again")
				if acted := act(t, d, synced(desktop.MaxSyncMs)); !acted.Synced {
					t.Error("not synced")
				}
			})
			if name == "openbox" {
				return // it does not switch windows when alt is released at once
			}
			t.Run("its keys", func(t *testing.T) {
				act(t, d, clicked(places[0].X, places[0].Y))
				act(t, d, clicked(places[1].X, places[1].Y), synced(desktop.MaxSyncMs))
				for i := range rounds {
					act(t, d, desktop.Action{Press: &desktop.Press{Keys: []string{"alt+Tab", "x"}}})
					terminals[i%2].want += "x"
				}
				terminals[0].expect("")
				terminals[1].expect("")
			})
		})
	}
}

// The same with an editor, whose toolkit takes part in the focus.
func TestTypeFollowsClickIntoAnEditor(t *testing.T) {
	for name, command := range managers {
		t.Run(name, func(t *testing.T) {
			display := startServer(t)
			startWindowManager(t, display, command...)
			d, c := openDisplay(t, display), connect(t, display)
			managerProcess(t, d)
			file := filepath.Join(t.TempDir(), "text")
			if err := os.WriteFile(file, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			startApp(t, display, "mousepad", "--disable-server", file)
			c.waitFocus("mousepad")
			terminal := newTerminalAt(t, display, "60x20+800+480")
			placed(t, d, 2)
			var editor desktop.Window
			windows, err := d.Windows(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, w := range windows {
				if strings.EqualFold(w.Class, "mousepad") {
					editor = w
				}
			}
			want := ""
			var inEditor, inTerminal desktop.Action
			for i := range 60 {
				word := fmt.Sprintf("%d ", i)
				// Below the text a click puts the cursor at its end; never at the same place, as two of
				// them would be a double click, which selects.
				inEditor, inTerminal = clicked(editor.X+60+40*(i%3), editor.Y+editor.Height/2), clicked(900, 700)
				act(t, d, inEditor)
				act(t, d, typed(word))
				want += word
				act(t, d, inTerminal, typed(word))
				terminal.want += word
			}
			act(t, d, inEditor)
			act(t, d, pressed("ctrl+s"))
			terminal.expect("")
			expectText(t, want, func() string {
				data, err := os.ReadFile(file)
				if err != nil {
					t.Fatal(err)
				}
				return strings.TrimSuffix(string(data), "\n")
			})
		})
	}
}

// An application that takes the focus itself, as the window manager asks it to, is waited for.
func TestTypeWaitsForTakenFocus(t *testing.T) {
	display := startServer(t)
	startWindowManager(t, display)
	d, c := openDisplay(t, display), connect(t, display)
	terminal := newTerminalAt(t, display, "40x10+800+500")

	// A window of the globally active model: no input by the window manager.
	c.window, _ = xproto.NewWindowId(c.x)
	screen := xproto.Setup(c.x).DefaultScreen(c.x)
	err := xproto.CreateWindowChecked(c.x, screen.RootDepth, c.window, c.root, 0, 0, 400, 300, 0, xproto.WindowClassInputOutput,
		screen.RootVisual, xproto.CwEventMask, []uint32{xproto.EventMaskKeyPress}).Check()
	if err != nil {
		t.Fatal(err)
	}
	set := func(property, kind xproto.Atom, numbers ...uint32) {
		t.Helper()
		data := make([]byte, 4*len(numbers))
		for i, n := range numbers {
			xgb.Put32(data[4*i:], n)
		}
		err := xproto.ChangePropertyChecked(c.x, xproto.PropModeReplace, c.window, property, kind, 32, uint32(len(numbers)), data).Check()
		if err != nil {
			t.Fatal(err)
		}
	}
	const inputHint, noInput = 1, 0
	set(xproto.AtomWmHints, xproto.AtomWmHints, inputHint, noInput, 0, 0, 0, 0, 0, 0, 0)
	set(d.atoms.protocols, xproto.AtomAtom, uint32(d.atoms.takeFocus), uint32(d.atoms.ping))
	xproto.MapWindow(c.x, c.window)
	placed(t, d, 2)
	if err := d.ActivateWindow(t.Context(), d.windowOfClass(t, "XTerm")); err != nil {
		t.Fatal(err)
	}
	c.events()

	at, err := xproto.TranslateCoordinates(c.x, c.window, c.root, 200, 150).Reply()
	if err != nil {
		t.Fatal(err)
	}
	result := make(chan error, 1)
	go func() {
		_, err := d.Act(t.Context(), []desktop.Action{clicked(int(at.DstX), int(at.DstY)), typed("a")})
		result <- err
	}()
	for taken := false; ; {
		event, _ := c.x.WaitForEvent()
		switch e := event.(type) {
		case xproto.ClientMessageEvent:
			switch xproto.Atom(e.Data.Data32[0]) {
			case d.atoms.takeFocus:
				time.Sleep(50 * time.Millisecond) // it thinks
				xproto.SetInputFocus(c.x, xproto.InputFocusParent, c.window, xproto.Timestamp(e.Data.Data32[1]))
				taken = true
			case d.atoms.ping:
				if !taken {
					t.Error("asked before the window manager had told it to take the focus")
				}
				e.Window = c.root
				xproto.SendEvent(c.x, false, c.root, xproto.EventMaskSubstructureNotify|xproto.EventMaskSubstructureRedirect, string(e.Bytes()))
			}
		case xproto.KeyPressEvent:
			if sym := c.sym(e.Detail, e.State); sym != 'a' {
				t.Errorf("key %v", sym)
			}
			if err := <-result; err != nil {
				t.Error(err)
			}
			terminal.expect("")
			return
		case nil:
			t.Fatal("the connection is gone")
		}
	}
}

func (d *Display) windowOfClass(t testing.TB, class string) uint32 {
	t.Helper()
	windows, err := d.Windows(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, w := range windows {
		if w.Class == class {
			return w.ID
		}
	}
	t.Fatalf("no window of class %s", class)
	return 0
}

// inTurn looks at what only a call may touch, or the preparation for the next one after it.
func inTurn(t *testing.T, d *Display, look func()) {
	t.Helper()
	if err := d.takeTurn(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer func() { <-d.turn }()
	look()
}

// A caller that goes away is not kept waiting by a window manager that hangs.
func TestCancelledBeforeFocus(t *testing.T) {
	display := startServer(t)
	startWindowManager(t, display)
	d := openDisplay(t, display)
	stop(t, managerProcess(t, d))
	for _, action := range []desktop.Action{typed("a"), pressed("a"), synced(desktop.MaxSyncMs)} {
		act(t, d, clicked(10, 10))
		var asked int16
		inTurn(t, d, func() { asked = d.manager.asked })
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := d.Act(ctx, []desktop.Action{action}); err != context.Canceled {
			t.Errorf("cancelled: %v", err)
		}
		inTurn(t, d, func() {
			if d.manager.misses != 0 {
				t.Errorf("counted as missed; asked %d times", d.manager.asked-asked)
			}
		})
	}
}

func benchmarkFence(b *testing.B, command ...string) {
	display := startServer(b)
	if len(command) > 0 {
		startWindowManager(b, display, command...)
	}
	d := openDisplay(b, display)
	if len(command) > 0 {
		managerProcess(b, d)
	}
	newTerminalAt(b, display, "80x24+0+0")
	act(b, d, desktop.Action{Move: &desktop.Move{X: 100, Y: 100}})
	for b.Loop() {
		d.hands.stirred = true
		if done, err := d.decided(b.Context()); !done || err != nil {
			b.Fatal(done, err)
		}
	}
}

func BenchmarkFocusOpenbox(b *testing.B) { benchmarkFence(b, managers["openbox"]...) }
func BenchmarkFocusXfwm4(b *testing.B)   { benchmarkFence(b, managers["xfwm4"]...) }
