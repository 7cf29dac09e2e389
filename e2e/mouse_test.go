package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// The X server's names of modifiers and buttons in an event's state.
const (
	stateShift = 1 << 0
	stateCtrl  = 1 << 2
	stateAlt   = 1 << 3 // Mod1
	stateSuper = 1 << 6 // Mod4

	stateModifiers = stateShift | stateCtrl | stateAlt | stateSuper
	stateLeft      = 1 << 8
)

// buttonNumber is X's number of a button of the API.
var buttonNumber = map[string]int{"left": 1, "middle": 2, "right": 3, "back": 8, "forward": 9}

// buttonEvents are the presses and releases among events.
func buttonEvents(all []event) []event {
	var found []event
	for _, e := range all {
		if e.Type == "press" || e.Type == "release" {
			found = append(found, e)
		}
	}
	return found
}

// wantClicks checks that events hold exactly count clicks of a button on a pixel, with the given
// modifiers and no others.
func wantClicks(t *testing.T, all []event, button, count, x, y, modifiers int) {
	t.Helper()
	got := buttonEvents(all)
	if len(got) != 2*count {
		t.Fatalf("%d presses and releases, not %d: %+v", len(got), 2*count, got)
	}
	for i, e := range got {
		if want := []string{"press", "release"}[i%2]; e.Type != want {
			t.Errorf("event %d is a %s, not a %s: %+v", i, e.Type, want, got)
		}
		if e.Button != button || e.X != x || e.Y != y {
			t.Errorf("event %d is button %d at %d,%d, not button %d at %d,%d", i, e.Button, e.X, e.Y, button, x, y)
		}
		if e.State&stateModifiers != modifiers {
			t.Errorf("event %d has the modifiers %#x, not %#x", i, e.State&stateModifiers, modifiers)
		}
	}
}

// wantReleased checks that no key and no button is down.
func (g *guest) wantReleased(t testing.TB) {
	t.Helper()
	if held := decode[keyboard](t, g.probe(t, "keys")); len(held.Held) != 0 || held.Mask&^stateLocks != 0 {
		t.Errorf("still held: keys %v, modifiers and buttons %#x", held.Held, held.Mask)
	}
}

// keyboard is what probe keys tells.
type keyboard struct {
	Held []int
	Mask int
}

// stateLocks are CapsLock and NumLock, which are on without being held.
const stateLocks = 1<<1 | 1<<4

func (g *guest) wantPointer(t testing.TB, a acted, x, y int) {
	t.Helper()
	if a.Cursor.X != x || a.Cursor.Y != y {
		t.Errorf("the answer says %d,%d, not %d,%d", a.Cursor.X, a.Cursor.Y, x, y)
	}
	at := decode[struct{ X, Y int }](t, g.probe(t, "pointer"))
	if at.X != x || at.Y != y {
		t.Errorf("the pointer is at %d,%d, not %d,%d", at.X, at.Y, x, y)
	}
}

func TestClick(t *testing.T) {
	g := shared(t)
	width, height := g.display(t)
	screen := g.events(t, "")

	for _, at := range [][2]int{{0, 0}, {width - 1, height - 1}, {width - 1, 0}, {0, height - 1}, {777, 333}} {
		t.Run(fmt.Sprintf("at %d,%d", at[0], at[1]), func(t *testing.T) {
			a := g.act(t, "click", map[string]any{"x": at[0], "y": at[1]})
			wantClicks(t, screen.collect(t), 1, 1, at[0], at[1], 0)
			g.wantPointer(t, a, at[0], at[1])
			if a.Display.Width != width || a.Display.Height != height {
				t.Errorf("the answer says that the display is %v, not %dx%d", a.Display, width, height)
			}
		})
	}
	for name, number := range buttonNumber {
		for count := 1; count <= 3; count++ {
			t.Run(fmt.Sprintf("%s %d", name, count), func(t *testing.T) {
				g.act(t, "click", map[string]any{"x": 200 + count, "y": 300, "button": name, "count": count})
				got := screen.collect(t)
				wantClicks(t, got, number, count, 200+count, 300, 0)
				// Toolkits take two clicks for a double click within 400 ms or so.
				clicks := buttonEvents(got)
				for i := 2; i < len(clicks); i += 2 {
					if gap := clicks[i].Time - clicks[i-2].Time; gap > 400 {
						t.Errorf("%d ms between two clicks of a multiple one", gap)
					}
				}
			})
		}
	}
	t.Run("double", func(t *testing.T) {
		g.act(t, "click", map[string]any{"x": 210, "y": 310, "double": true})
		wantClicks(t, screen.collect(t), 1, 2, 210, 310, 0)
	})
	for modifiers, state := range map[string]int{
		"shift": stateShift, "ctrl": stateCtrl, "alt": stateAlt, "super": stateSuper,
		"ctrl shift": stateCtrl | stateShift, "ctrl alt shift super": stateModifiers,
	} {
		t.Run("with "+modifiers, func(t *testing.T) {
			g.act(t, "click", map[string]any{"x": 220, "y": 320, "modifiers": strings.Fields(modifiers)})
			wantClicks(t, screen.collect(t), 1, 1, 220, 320, state)
			g.wantReleased(t)
		})
	}
	t.Run("where the pointer is", func(t *testing.T) {
		g.act(t, "move", map[string]any{"x": 400, "y": 250})
		screen.collect(t)
		a := g.act(t, "click", map[string]any{"button": "right"})
		got := screen.collect(t)
		wantClicks(t, got, 3, 1, 400, 250, 0)
		if len(got) != 2 {
			t.Errorf("the pointer moved: %+v", got)
		}
		g.wantPointer(t, a, 400, 250)
	})
	t.Run("without a body", func(t *testing.T) {
		g.act(t, "click", nil)
		wantClicks(t, screen.collect(t), 1, 1, 400, 250, 0)
	})
	t.Run("down and up", func(t *testing.T) {
		g.act(t, "click", map[string]any{"x": 500, "y": 400, "action": "down"})
		if got := buttonEvents(screen.collect(t)); len(got) != 1 || got[0].Type != "press" || got[0].X != 500 || got[0].Y != 400 {
			t.Fatalf("down gives %+v", got)
		}
		if held := decode[keyboard](t, g.probe(t, "keys")); held.Mask&stateLeft == 0 {
			t.Errorf("the button does not stay down: %#x", held.Mask)
		}
		g.act(t, "move", map[string]any{"x": 520, "y": 410})
		g.act(t, "click", map[string]any{"action": "up"})
		if got := buttonEvents(screen.collect(t)); len(got) != 1 || got[0].Type != "release" || got[0].X != 520 || got[0].Y != 410 {
			t.Errorf("up gives %+v", got)
		}
		g.wantReleased(t)
	})
}

func TestMove(t *testing.T) {
	g := shared(t)
	width, height := g.display(t)
	screen := g.events(t, "")
	for _, at := range [][2]int{{640, 400}, {0, 0}, {width - 1, height - 1}, {1, height - 2}, {776, 332}} {
		a := g.act(t, "move", map[string]any{"x": at[0], "y": at[1]})
		g.wantPointer(t, a, at[0], at[1])
		got := screen.collect(t)
		if len(got) == 0 || got[len(got)-1].X != at[0] || got[len(got)-1].Y != at[1] {
			t.Errorf("moving to %v gives %+v", at, got)
		}
		if len(buttonEvents(got)) != 0 {
			t.Errorf("moving presses a button: %+v", got)
		}
	}
}

func TestDragAlongAPath(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	path := [][2]int{{100, 100}, {300, 120}, {320, 400}, {700, 410}}
	var points []map[string]int
	for _, p := range path {
		points = append(points, map[string]int{"x": p[0], "y": p[1]})
	}
	a := g.act(t, "drag", map[string]any{"path": points, "button": "middle", "modifiers": []string{"shift"}})
	g.wantPointer(t, a, 700, 410)
	got := screen.collect(t)
	buttons := buttonEvents(got)
	if len(buttons) != 2 || buttons[0].Type != "press" || buttons[1].Type != "release" {
		t.Fatalf("a drag is not one press and one release: %+v", buttons)
	}
	for i, at := range [][2]int{path[0], path[len(path)-1]} {
		if e := buttons[i]; e.X != at[0] || e.Y != at[1] || e.Button != 2 || e.State&stateModifiers != stateShift {
			t.Errorf("%s: %+v, not button 2 at %v with shift", e.Type, e, at)
		}
	}
	// The pointer passes through every point of the path, in order, with the button down.
	next, down := 0, false
	for _, e := range got {
		down = down && e.Type != "release" || e.Type == "press"
		if down && next < len(path) && e.X == path[next][0] && e.Y == path[next][1] {
			next++
		}
	}
	if next != len(path) {
		t.Errorf("the drag does not pass through %v: %+v", path[next], got)
	}
	g.wantReleased(t)
}

func TestDragTakesItsTime(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	g.act(t, "drag", map[string]any{"startX": 100, "startY": 500, "endX": 900, "endY": 520, "durationMs": 600})
	got := buttonEvents(screen.collect(t))
	if len(got) != 2 {
		t.Fatalf("a drag is not one press and one release: %+v", got)
	}
	if took := got[1].Time - got[0].Time; took < 600 {
		t.Errorf("a drag of 600 ms takes %d ms", took)
	}
}

// terminalWindow opens a terminal that does nothing.
func (g *guest) terminalWindow(t *testing.T) window {
	t.Helper()
	g.background(t, "xfce4-terminal --disable-server --title=terminal --geometry=60x15+300+200 -x sleep infinity")
	return g.await(t, "xfce4-terminal")
}

func TestDragMovesAWindow(t *testing.T) {
	g := shared(t)
	before := g.terminalWindow(t)
	if before.FrameY == before.Y {
		t.Fatalf("the window has no title bar: %+v", before)
	}
	const dx, dy = 170, 90
	x, y := before.X+before.Width/2, (before.FrameY+before.Y)/2
	g.act(t, "drag", map[string]any{"startX": x, "startY": y, "endX": x + dx, "endY": y + dy})
	eventually(t, patience, func() error {
		after, found := g.find(t, "xfce4-terminal")
		if !found || after.X != before.X+dx || after.Y != before.Y+dy {
			return fmt.Errorf("the window was dragged by %d,%d from %d,%d and is at %d,%d", dx, dy, before.X, before.Y, after.X, after.Y)
		}
		return nil
	})
}

func TestScroll(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	g.act(t, "move", map[string]any{"x": 300, "y": 300})
	screen.collect(t)
	number := map[string]int{"up": 4, "down": 5, "left": 6, "right": 7}
	for direction, button := range number {
		t.Run(direction, func(t *testing.T) {
			g.act(t, "scroll", map[string]any{"direction": direction})
			wantClicks(t, screen.collect(t), button, 3, 300, 300, 0)
			a := g.act(t, "scroll", map[string]any{"direction": direction, "amount": 7, "x": 640, "y": 123, "modifiers": []string{"ctrl"}})
			wantClicks(t, screen.collect(t), button, 7, 640, 123, stateCtrl)
			g.wantPointer(t, a, 640, 123)
			g.act(t, "move", map[string]any{"x": 300, "y": 300})
			screen.collect(t)
		})
	}
	t.Run("deltas", func(t *testing.T) {
		g.act(t, "scroll", map[string]any{"deltaX": -2, "deltaY": 3})
		count := map[int]int{}
		for _, e := range screen.collect(t) {
			if e.Type == "press" {
				count[e.Button]++
			}
		}
		if len(count) != 2 || count[6] != 2 || count[5] != 3 {
			t.Errorf("2 to the left and 3 down give %v", count)
		}
	})
	t.Run("by nothing", func(t *testing.T) {
		g.act(t, "scroll", map[string]any{"direction": "up", "amount": 0})
		if got := buttonEvents(screen.collect(t)); len(got) != 0 {
			t.Errorf("0 notches give %+v", got)
		}
	})
	g.wantReleased(t)
}

// Requests of several callers to one desktop are done one after another, whole.
func TestRequestsDoNotInterleave(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	const rounds = 6
	jobs := []struct {
		route string
		body  map[string]any
	}{
		{"click", map[string]any{"x": 100, "y": 100, "button": "right", "count": 3, "modifiers": []string{"ctrl", "shift"}}},
		{"drag", map[string]any{"startX": 600, "startY": 200, "endX": 800, "endY": 500, "durationMs": 50}},
		{"scroll", map[string]any{"x": 900, "y": 700, "direction": "down", "amount": 5, "modifiers": []string{"alt"}}},
		{"type", map[string]any{"text": "abcdefghij", "delayMs": 5}},
		{"key", map[string]any{"key": "ctrl+x"}},
	}
	failures := make(chan error, rounds*len(jobs))
	for range rounds {
		for _, job := range jobs {
			go func() {
				r, err := g.send(t.Context(), "POST", g.path(job.route), job.body)
				if err == nil && r.status != 200 {
					err = fmt.Errorf("%s: %s", job.route, r)
				}
				failures <- err
			}()
		}
	}
	for range rounds * len(jobs) {
		if err := <-failures; err != nil {
			t.Error(err)
		}
	}
	// Told without repetition, the log must be the jobs' own stories, one after another.
	var story []string
	for _, e := range screen.collect(t) {
		switch e.Type {
		case "press", "release":
			story = append(story, fmt.Sprintf("%s %d at %d,%d with %#x", e.Type, e.Button, e.X, e.Y, e.State&stateModifiers))
		case "keypress":
			if e.Keysym < 0xff00 && e.Keysym < 0x1000000 {
				story = append(story, fmt.Sprintf("key %c with %#x", e.Keysym, e.State&stateModifiers))
			}
		}
	}
	repeat := func(n int, lines ...string) (all []string) {
		for range n {
			all = append(all, lines...)
		}
		return all
	}
	stories := map[string][]string{
		"click":  repeat(3, "press 3 at 100,100 with 0x5", "release 3 at 100,100 with 0x5"),
		"drag":   {"press 1 at 600,200 with 0x0", "release 1 at 800,500 with 0x0"},
		"scroll": repeat(5, "press 5 at 900,700 with 0x8", "release 5 at 900,700 with 0x8"),
		"type":   nil,
		"key":    {"key x with 0x4"},
	}
	for c := 'a'; c <= 'j'; c++ {
		stories["type"] = append(stories["type"], fmt.Sprintf("key %c with 0x0", c))
	}
	told := map[string]int{}
next:
	for at := 0; at < len(story); {
		for name, lines := range stories {
			if len(story)-at >= len(lines) && strings.Join(story[at:at+len(lines)], "\n") == strings.Join(lines, "\n") {
				told[name]++
				at += len(lines)
				continue next
			}
		}
		t.Fatalf("at event %d two requests are mixed:\n%s", at, strings.Join(story[max(0, at-5):min(len(story), at+15)], "\n"))
	}
	for name := range stories {
		if told[name] != rounds {
			t.Errorf("%s was seen %d times, not %d", name, told[name], rounds)
		}
	}
	g.wantReleased(t)
}

// awaitEvents collects until enough of a kind have come.
func (e events) awaitEvents(t testing.TB, kind string, count int) {
	t.Helper()
	seen := 0
	eventually(t, patience, func() error {
		for _, got := range e.collect(t) {
			if got.Type == kind {
				seen++
			}
		}
		if seen < count {
			return fmt.Errorf("%d of %d events %s", seen, count, kind)
		}
		return nil
	})
}
