package x11

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

func TestClick(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	const shift, ctrl, alt, super = 1, 4, 8, 0x40
	for _, spot := range []desktop.Point{{X: 0, Y: 0}, {X: 1279, Y: 799}, {X: 777, Y: 333}} {
		act(t, d, desktop.Action{Move: &desktop.Move{X: 640, Y: 400}})
		for button, code := range map[string]int{"": 1, "left": 1, "middle": 2, "right": 3, "back": 8, "forward": 9} {
			for count := 1; count <= 3; count++ {
				for _, m := range []struct {
					names []string
					state int
				}{{nil, 0}, {[]string{"shift"}, shift}, {[]string{"ctrl", "ALT"}, ctrl | alt}, {[]string{"cmd+Shift_R"}, super | shift}} {
					act(t, d, desktop.Action{Move: &desktop.Move{X: 640, Y: 400}})
					c.events()
					acted := act(t, d, desktop.Action{Click: &desktop.Click{X: &spot.X, Y: &spot.Y, Button: button, Count: count, Modifiers: m.names}})
					if acted.Cursor != spot || acted.Display != (desktop.Size{Width: 1280, Height: 800}) || acted.TookMs <= 0 {
						t.Errorf("answer %+v", acted)
					}
					var want []string
					want = append(want, fmt.Sprintf("motion to %d,%d state %x", spot.X, spot.Y, m.state))
					down := 0
					if code <= 5 {
						down = 0x80 << code
					}
					for range count {
						want = append(want,
							fmt.Sprintf("button %d down at %d,%d state %x", code, spot.X, spot.Y, m.state),
							fmt.Sprintf("button %d up at %d,%d state %x", code, spot.X, spot.Y, m.state|down))
					}
					var got []string
					for _, e := range c.events() {
						if !strings.HasPrefix(e, "key") {
							got = append(got, e)
						}
					}
					equal(t, fmt.Sprintf("%s click of %q ×%d with %v", fmt.Sprint(spot), button, count, m.names), got, want)
				}
			}
		}
	}
	equal(t, "left pressed", c.down(), nil)
}

func TestClickWithoutPlaceAndHalves(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	act(t, d, desktop.Action{Move: &desktop.Move{X: 5, Y: 6}})
	c.events()
	act(t, d, desktop.Action{Click: &desktop.Click{Double: true}})
	equal(t, "double", c.events(), []string{
		"button 1 down at 5,6 state 0", "button 1 up at 5,6 state 100",
		"button 1 down at 5,6 state 0", "button 1 up at 5,6 state 100"})
	act(t, d, desktop.Action{Click: &desktop.Click{Action: "down", Button: "right", Modifiers: []string{"ctrl"}}})
	equal(t, "down", c.down(), []string{"button 3"})
	act(t, d, desktop.Action{Move: &desktop.Move{X: 9, Y: 9}})
	equal(t, "down stays", c.down(), []string{"button 3"})
	act(t, d, desktop.Action{Click: &desktop.Click{Action: "up", Button: "right"}})
	equal(t, "up", c.down(), nil)
}

// A left-handed mouse has its buttons exchanged; a left click is a left click all the same.
func TestClickOnLeftHandedMouse(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	mapping, err := xproto.GetPointerMapping(c.x).Reply()
	if err != nil {
		t.Fatal(err)
	}
	mapping.Map[0], mapping.Map[2] = 3, 1
	if _, err := xproto.SetPointerMapping(c.x, mapping.MapLen, mapping.Map).Reply(); err != nil {
		t.Fatal(err)
	}
	x, y := at2(3, 4)
	act(t, d, desktop.Action{Click: &desktop.Click{X: x, Y: y}})
	equal(t, "click", c.events(), []string{"motion to 3,4 state 0", "button 1 down at 3,4 state 0", "button 1 up at 3,4 state 100"})
}

func TestScroll(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	x, y := at2(100, 200)
	zero, two := 0, 2
	for _, test := range []struct {
		scroll desktop.Scroll
		want   string // buttons in order
	}{
		{desktop.Scroll{Direction: "up"}, "444"},
		{desktop.Scroll{Direction: "down", Amount: &two}, "55"},
		{desktop.Scroll{Direction: "left"}, "666"},
		{desktop.Scroll{Direction: "right", Amount: &two, Modifiers: []string{"ctrl"}}, "77"},
		{desktop.Scroll{Direction: "right", Amount: &zero}, ""},
		{desktop.Scroll{DeltaX: 1, DeltaY: -2}, "447"},
		{desktop.Scroll{DeltaX: -2, DeltaY: 1}, "566"},
	} {
		test.scroll.X, test.scroll.Y = x, y
		act(t, d, desktop.Action{Scroll: &test.scroll})
		state := 0
		if len(test.scroll.Modifiers) > 0 {
			state = 4
		}
		got := ""
		for _, e := range c.events() {
			var button, gx, gy, s int
			if n, _ := fmt.Sscanf(e, "button %d down at %d,%d state %x", &button, &gx, &gy, &s); n == 4 {
				got += fmt.Sprint(button)
				if gx != 100 || gy != 200 || s != state {
					t.Errorf("%+v: %s", test.scroll, e)
				}
			}
		}
		if got != test.want {
			t.Errorf("%+v: buttons %q, want %q", test.scroll, got, test.want)
		}
	}
}

func TestDragEvents(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	path := []desktop.Point{{X: 10, Y: 10}, {X: 60, Y: 10}, {X: 60, Y: 90}}
	act(t, d, desktop.Action{Drag: &desktop.Drag{Path: path, Button: "middle", Modifiers: []string{"shift"}, DurationMs: 50}})
	var got []string
	for _, e := range c.events() {
		if !strings.HasPrefix(e, "key") {
			got = append(got, e)
		}
	}
	if len(got) < dragSteps {
		t.Fatalf("only %d events: %q", len(got), got)
	}
	equal(t, "begin", got[:2], []string{"motion to 10,10 state 1", "button 2 down at 10,10 state 1"})
	equal(t, "end", got[len(got)-1:], []string{"button 2 up at 60,90 state 201"})
	for _, e := range got[2 : len(got)-1] {
		var x, y, state int
		if n, _ := fmt.Sscanf(e, "motion to %d,%d state %x", &x, &y, &state); n != 3 || state != 0x201 || y != 10 && x != 60 {
			t.Errorf("unexpected in the drag: %s", e)
		}
	}
	if !strings.Contains(strings.Join(got, ";"), "motion to 60,10 ") {
		t.Error("the corner of the path was cut")
	}
}

// Without a start a drag begins where the pointer is when its turn comes.
func TestDragFromPointer(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	endX, endY := at2(200, 150)
	acted := act(t, d, desktop.Action{Move: &desktop.Move{X: 33, Y: 44}}, desktop.Action{Drag: &desktop.Drag{EndX: endX, EndY: endY}})
	if want := (desktop.Point{X: 200, Y: 150}); acted.Cursor != want {
		t.Errorf("the pointer is at %v", acted.Cursor)
	}
	got := c.events()
	for _, e := range got {
		if strings.HasPrefix(e, "button") {
			equal(t, "begin", []string{e}, []string{"button 1 down at 33,44 state 0"})
			break
		}
	}
	equal(t, "end", got[len(got)-1:], []string{"button 1 up at 200,150 state 100"})
}

// A window manager moves a window that is dragged by its title.
func TestDragMovesWindow(t *testing.T) {
	display := startServer(t)
	startWindowManager(t, display)
	d, c := openDisplay(t, display), connect(t, display)
	startApp(t, display, "xterm", "-geometry", "40x10+200+200")
	c.waitFocus("xterm")
	place := func() desktop.Point {
		focus, err := xproto.GetInputFocus(c.x).Reply()
		if err != nil {
			t.Fatal(err)
		}
		window := focus.Focus
		at, err := xproto.TranslateCoordinates(c.x, window, c.root, 0, 0).Reply()
		if err != nil {
			t.Fatal(err)
		}
		return desktop.Point{X: int(at.DstX), Y: int(at.DstY)}
	}
	// The frame and the title bar are there some time after the focus.
	eventually(t, "the window in its frame", func() bool { p := place(); return p.X >= 200 && p.Y > 205 })
	for _, duration := range []int{0, 300} {
		before := place()
		startX, startY := at2(before.X+60, before.Y-8)
		endX, endY := at2(before.X+360, before.Y+92)
		act(t, d, desktop.Action{Drag: &desktop.Drag{StartX: startX, StartY: startY, EndX: endX, EndY: endY, DurationMs: duration}})
		want := desktop.Point{X: before.X + 300, Y: before.Y + 100}
		eventually(t, fmt.Sprintf("window from %v at %v", before, want), func() bool { return place() == want })
	}
}

func TestRefusals(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	n := func(i int) *int { return &i }
	for _, test := range []struct{ action, want string }{
		{`{}`, "exactly one of"},
		{`{"move":{"x":1,"y":2},"press":{"keys":["a"]}}`, "exactly one of"},
		{`{"move":{"x":1280,"y":0}}`, "x,y 1280,0 is outside the display, which is 1280x800"},
		{`{"click":{"x":0,"y":-1}}`, "is outside the display"},
		{`{"click":{"x":0}}`, "y is missing beside x"},
		{`{"click":{"y":0}}`, "x is missing beside y"},
		{`{"click":{"button":"wheel"}}`, "button is"},
		{`{"click":{"count":4}}`, "count is 4"},
		{`{"click":{"count":3,"double":true}}`, "double asks"},
		{`{"click":{"action":"hold"}}`, "action is"},
		{`{"click":{"action":"down","count":2}}`, "count is for"},
		{`{"click":{"modifiers":["a"]}}`, "not a modifier"},
		{`{"click":{"modifiers":["schift"]}}`, "did you mean"},
		{`{"drag":{"startX":1,"startY":1,"endX":5}}`, "endY is missing"},
		{`{"drag":{"startX":1,"startY":1}}`, "drag needs endX"},
		{`{"drag":{}}`, "drag needs endX"},
		{`{"drag":{"path":[{"x":1,"y":1}]}}`, "one point"},
		{`{"drag":{"path":[{"x":1,"y":1},{"x":1,"y":800}]}}`, "is outside"},
		{`{"drag":{"path":[{"x":1,"y":1},{"x":1,"y":80}],"endX":1}}`, "both a path"},
		{`{"drag":{"path":[{"x":1,"y":1},{"x":1,"y":80}],"durationMs":60001}}`, "durationMs is 60001"},
		{`{"scroll":{}}`, "neither direction"},
		{`{"scroll":{"direction":"north"}}`, "direction is"},
		{`{"scroll":{"direction":"up","amount":-1}}`, "amount is -1"},
		{`{"scroll":{"direction":"up","deltaX":1}}`, "both deltaX"},
		{`{"scroll":{"deltaY":1001}}`, "deltaY is 1001"},
		{`{"type":{"text":"ab\u0007"}}`, "position 2"},
		{`{"type":{"text":"a","delayMs":1001}}`, "delayMs is 1001"},
		{`{"sync":{"maxMs":10001}}`, "maxMs is 10001"},
		{`{"sync":{},"move":{"x":1,"y":1}}`, "exactly one of"},
		{`{"press":{"keys":[]}}`, "no key"},
		{`{"press":{"keys":["Retrun"]}}`, "did you mean Return?"},
		{`{"press":{"keys":["a"],"repeat":101}}`, "repeat is 101"},
		{`{"press":{"keys":["a"],"action":"hold"}}`, "action is"},
		{`{"press":{"keys":["a"],"action":"down","holdMs":5}}`, "down acts once"},
		{`{"press":{"keys":["a"],"action":"up","repeat":2}}`, "up acts once"},
		{`{"press":{"keys":["a","b"],"repeat":100,"holdMs":60000}}`, "add up to more"},
	} {
		var action desktop.Action
		if err := json.Unmarshal([]byte(test.action), &action); err != nil {
			t.Fatal(err)
		}
		_, err := d.Act(t.Context(), []desktop.Action{action})
		if desktop.CodeOf(err) != desktop.Invalid || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want invalid %q", test.action, err, test.want)
		}
	}
	// One bad action among several: nothing is done, and the answer says which and how big the
	// display is.
	_, err := d.Act(t.Context(), []desktop.Action{pressed("a"), {Click: &desktop.Click{X: n(5000), Y: n(1)}}})
	e, ok := err.(*desktop.Error)
	if !ok || e.Details["index"] != 1 || e.Details["done"] != 0 || e.Details["display"] != (desktop.Size{Width: 1280, Height: 800}) {
		t.Errorf("error %#v", err)
	}
	equal(t, "events", c.events(), nil)
}
