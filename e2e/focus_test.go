package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// Text that is typed as soon as a click was answered lands in the window that was clicked: the window
// manager, which sets the focus, may not have got to it by then.
func TestTypeFollowsClick(t *testing.T) {
	g := shared(t)
	const rounds = 60
	var places [2]map[string]any
	var want [2]strings.Builder
	file := func(i int) string { return fmt.Sprintf("/tmp/focus-%d", i) }
	for i := range places {
		title := fmt.Sprintf("focus-%d", i)
		g.sh(t, "rm -f "+file(i))
		g.background(t, fmt.Sprintf("xfce4-terminal --disable-server --hide-menubar --title=%s --geometry=40x12+%d+160 "+
			"-x sh -c 'stty raw -echo; exec cat >%s'", title, 60+560*i, file(i)))
		eventually(t, bootPatience, func() error {
			for _, w := range g.windows(t) {
				if w.Title == title && w.Active {
					places[i] = map[string]any{"x": w.X + w.Width/2, "y": w.Y + w.Height/2}
					_, err := g.trySh(t.Context(), "", "test -e "+file(i))
					return err
				}
			}
			return fmt.Errorf("the window %s does not become active", title)
		})
	}
	if places[0]["x"] == places[1]["x"] {
		t.Fatalf("one window covers the other: %v", places)
	}
	landed := func(t *testing.T) {
		t.Helper()
		for i := range places {
			eventually(t, patience, func() error {
				if got := g.sh(t, "cat "+file(i)); got != want[i].String() {
					return fmt.Errorf("window %d: %s", i, diff(want[i].String(), got))
				}
				return nil
			})
		}
	}
	t.Run("typed", func(t *testing.T) {
		for n := range rounds {
			text := fmt.Sprintf("<%d>", n)
			g.act(t, "click", places[n%2])
			g.typeText(t, text)
			want[n%2].WriteString(text)
		}
		landed(t)
	})
	t.Run("pressed", func(t *testing.T) {
		for n := range rounds {
			g.act(t, "click", places[n%2])
			g.press(t, "x")
			want[n%2].WriteString("x")
		}
		landed(t)
	})
	t.Run("after several clicks", func(t *testing.T) {
		for n := range rounds / 4 {
			g.act(t, "click", places[n%2])
			g.act(t, "click", places[1-n%2])
			g.act(t, "click", places[n%2])
			g.typeText(t, "y")
			want[n%2].WriteString("y")
		}
		landed(t)
	})
	// The window manager stands still when the click comes, and goes on while the text waits.
	t.Run("however slow the window manager", func(t *testing.T) {
		for n := range 4 {
			text := fmt.Sprintf("slow<%d>", n)
			g.sh(t, "pkill -STOP -x xfwm4; setsid sh -c 'sleep 0.6; pkill -CONT -x xfwm4' >/dev/null 2>&1 </dev/null &")
			g.act(t, "click", places[n%2])
			g.typeText(t, text)
			want[n%2].WriteString(text)
		}
		landed(t)
	})
	g.wantReleased(t)
}
