package x11

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

func TestWindows(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	if _, err := d.Windows(t.Context()); desktop.CodeOf(err) != desktop.Unavailable || !strings.Contains(err.Error(), "window manager") {
		t.Errorf("without a window manager: %v", err)
	}
	startWindowManager(t, display)
	list := func() []desktop.Window {
		t.Helper()
		windows, err := d.Windows(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return windows
	}
	if got := list(); len(got) != 0 {
		t.Errorf("windows of an empty desktop: %+v", got)
	}
	find := func(title string) (found desktop.Window) {
		for _, w := range list() {
			if w.Title == title {
				found = w
			}
		}
		return found
	}
	startApp(t, display, "xterm", "-T", "first", "-geometry", "40x10+100+120", "-e", "cat")
	eventually(t, "the first window", func() bool { return find("first").Focused })
	const title = "erste häß 字"
	tool(t, display, "xprop", "-id", fmt.Sprint(find("first").ID), "-f", "_NET_WM_NAME", "8u", "-set", "_NET_WM_NAME", title)
	startApp(t, display, "xterm", "-T", "second", "-geometry", "40x10+500+300", "-e", "cat")
	eventually(t, "the second window", func() bool { return find("second").Focused })

	first, second := find(title), find("second")
	if first.Class != "XTerm" || first.Kind != "normal" || first.Focused || first.Minimized || first.Workspace != 0 {
		t.Errorf("first %+v", first)
	}
	if got := list(); len(got) != 2 || got[0].ID != second.ID {
		t.Errorf("the topmost is not the first: %+v", got)
	}
	// Another program's view of it.
	for _, w := range []desktop.Window{first, second} {
		told := tool(t, display, "xwininfo", "-id", fmt.Sprint(w.ID))
		for label, got := range map[string]int{"Absolute upper-left X:": w.X, "Absolute upper-left Y:": w.Y, "Width:": w.Width, "Height:": w.Height} {
			_, after, _ := strings.Cut(told, label)
			if want := strings.Fields(after)[0]; fmt.Sprint(got) != want {
				t.Errorf("%s: %s %d, xwininfo says %s", w.Title, label, got, want)
			}
		}
	}

	if err := d.ActivateWindow(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	if got := list(); got[0].ID != first.ID || !got[0].Focused || got[1].Focused {
		t.Errorf("after activating the first: %+v", got)
	}
	tool(t, display, "xdotool", "windowminimize", "--sync", fmt.Sprint(second.ID))
	eventually(t, "the second minimised", func() bool { return find("second").Minimized })
	if err := d.ActivateWindow(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	if w := find("second"); w.Minimized || !w.Focused {
		t.Errorf("activated from minimised: %+v", w)
	}

	if err := d.CloseWindow(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the second gone", func() bool { return len(list()) == 1 })
	for _, id := range []uint32{second.ID, 0, uint32(d.root)} {
		if err := d.CloseWindow(t.Context(), id); desktop.CodeOf(err) != desktop.NotFound {
			t.Errorf("closing %d: %v", id, err)
		}
		if err := d.ActivateWindow(t.Context(), id); desktop.CodeOf(err) != desktop.NotFound {
			t.Errorf("activating %d: %v", id, err)
		}
	}
}

// What applications write on their windows is taken for no more than that.
func TestOddWindows(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	set := func(window xproto.Window, property, kind xproto.Atom, format byte, data []byte) {
		t.Helper()
		err := xproto.ChangePropertyChecked(c.x, xproto.PropModeReplace, window, property, kind, format, uint32(len(data))/uint32(format/8), data).Check()
		if err != nil {
			t.Fatal(err)
		}
	}
	id := []byte{byte(c.window), byte(c.window >> 8), byte(c.window >> 16), byte(c.window >> 24)}
	set(c.root, d.ewmh.check, xproto.AtomWindow, 32, id)
	// The list names one window that there is, and two that there are not.
	set(c.root, d.ewmh.list, xproto.AtomWindow, 32, slices.Concat(id, []byte{9, 9, 9, 9}, []byte{0, 0, 0, 0}))
	for _, test := range []struct {
		set   func()
		title string
		class string
	}{
		{func() {}, "", ""},
		{func() { set(c.window, xproto.AtomWmName, xproto.AtomString, 8, []byte("caf\xe9")) }, "café", ""},
		{func() { set(c.window, xproto.AtomWmClass, xproto.AtomString, 8, []byte("only")) }, "café", "only"},
		{func() { set(c.window, d.ewmh.name, d.ewmh.utf8, 8, []byte("a\xffb")) }, "a\uFFFDb", "only"},
		{func() { set(c.window, d.ewmh.name, xproto.AtomCardinal, 32, id) }, "café", "only"},
		{func() { set(c.window, d.ewmh.name, d.ewmh.utf8, 8, make([]byte, 100_000)) }, "café", "only"},
		{func() { set(c.window, d.ewmh.state, xproto.AtomAtom, 8, []byte{1}) }, "café", "only"},
	} {
		test.set()
		windows, err := d.Windows(t.Context())
		if err != nil || len(windows) != 1 || windows[0].Title != test.title || windows[0].Class != test.class {
			t.Errorf("%+v %v, want %q of %q", windows, err, test.title, test.class)
		}
	}
}
