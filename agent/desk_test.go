package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"

	"bureau/desktop"
)

func TestWindowsOverLink(t *testing.T) {
	d := newDisplay()
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	want := []desktop.Window{
		{ID: 1<<32 - 1, Title: "häß <b>", Class: "Xterm", Kind: "normal", X: -5, Y: 3, Width: 40, Height: 50, Focused: true},
		{ID: 7, Kind: "dock", Minimized: true, Workspace: -1},
	}
	d.windows = want
	got, err := a.Windows(testContext(t))
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("windows %+v, %v", got, err)
	}
	d.windows = make([]desktop.Window, 5000)
	for i := range d.windows {
		d.windows[i].Title = strings.Repeat("<", 10_000)
	}
	if got, err = a.Windows(testContext(t)); err != nil || len(got) != desktop.MaxWindows || len(got[0].Title) != maxTitle {
		t.Errorf("of too many: %d, %v", len(got), err)
	}

	var told []string
	d.told = func(what string, id uint32) error {
		told = append(told, fmt.Sprint(what, " ", id))
		if id == 9 {
			return desktop.Errorf(desktop.NotFound, "no window 9")
		}
		return nil
	}
	for id, want := range map[uint32]desktop.Code{3: "", 9: desktop.NotFound} {
		for _, do := range []func(context.Context, uint32) error{a.ActivateWindow, a.CloseWindow} {
			if err := do(testContext(t), id); want == "" && err != nil || want != "" && desktop.CodeOf(err) != want {
				t.Errorf("window %d: %v", id, err)
			}
		}
	}
	if len(told) != 4 {
		t.Errorf("told %q", told)
	}
}

func TestClipboardOverLink(t *testing.T) {
	d := newDisplay()
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	kept := ""
	d.clip = func(text *string) (string, error) {
		if text != nil {
			kept = *text
		}
		return kept, nil
	}
	for _, want := range []string{"", "häß\x00字\n", strings.Repeat("x", desktop.MaxClipboardBytes)} {
		if err := a.SetClipboard(testContext(t), want); err != nil {
			t.Fatal(err)
		}
		if got, err := a.Clipboard(testContext(t)); err != nil || got != want {
			t.Errorf("%d bytes, %v, want %d", len(got), err, len(want))
		}
	}
	code(t, a.SetClipboard(testContext(t), kept+"x"), desktop.TooLarge, "takes 1048576 bytes")
	d.clip = func(*string) (string, error) { return "", desktop.Errorf(desktop.Conflict, "not text") }
	_, err := a.Clipboard(testContext(t))
	code(t, err, desktop.Conflict, "not text")
}

func TestResizeOverLink(t *testing.T) {
	d := newDisplay()
	a := pair(t, d)
	status(t, a, func(s desktop.AgentStatus) bool { return s.Ready })
	want := desktop.Size{Width: 1920, Height: 1080}
	if err := a.Resize(testContext(t), want); err != nil {
		t.Fatal(err)
	}
	status(t, a, func(s desktop.AgentStatus) bool { return s.Display == want })
	code(t, a.Resize(testContext(t), desktop.Size{Width: 1, Height: 1}), desktop.Invalid, "too small")
}

func TestHostileDesk(t *testing.T) {
	clip := func(a desktop.Agent) error { _, err := a.Clipboard(context.Background()); return err }
	list := func(a desktop.Agent) error { _, err := a.Windows(context.Background()); return err }
	for name, c := range map[string]struct {
		route string
		body  string
		call  func(desktop.Agent) error
		want  string
	}{
		"too many windows":    {routeWindows, "[" + strings.Repeat(" ", maxWindows), list, "more than"},
		"too much text":       {routeClip, strings.Repeat("x", desktop.MaxClipboardBytes+1), clip, "more than"},
		"text that grows":     {routeClip, strings.Repeat("x\xff", desktop.MaxClipboardBytes/2), clip, "more than"},
		"no list":             {routeWindows, "{}", list, "no list"},
		"a window of no kind": {routeWindows, `[{"id":"x"}]`, list, "cannot unmarshal"},
		"a list cut short":    {routeWindows, `[{"id":1},`, list, "EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			a, _, err := hostile(t, map[string]http.HandlerFunc{c.route: func(w http.ResponseWriter, _ *http.Request) {
				io.WriteString(w, c.body)
			}})
			if err != nil {
				t.Fatal(err)
			}
			code(t, c.call(a), desktop.Unavailable, c.want)
		})
	}
	got := cleanWindows([]desktop.Window{{Title: "a\x00b\xff", Class: strings.Repeat("c", 999), X: -1 << 40, Y: 1 << 40, Width: -1, Workspace: -9}})
	want := []desktop.Window{{Title: "a b\uFFFD", Class: strings.Repeat("c", maxClass), X: -32768, Y: 65535, Workspace: -1}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("cleaned %+v", got)
	}
}
