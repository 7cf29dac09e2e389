package x11

import (
	"bytes"
	"context"
	"math"
	"time"

	"bureau/desktop"
)

// The logical buttons.
const (
	buttonLeft    = 1
	buttonMiddle  = 2
	buttonRight   = 3
	wheelUp       = 4
	wheelDown     = 5
	wheelLeft     = 6
	wheelRight    = 7
	buttonBack    = 8
	buttonForward = 9
)

func checkButton(name string) (byte, error) {
	switch name {
	case "", "left":
		return buttonLeft, nil
	case "middle":
		return buttonMiddle, nil
	case "right":
		return buttonRight, nil
	case "back":
		return buttonBack, nil
	case "forward":
		return buttonForward, nil
	}
	return 0, desktop.Errorf(desktop.Invalid, "button is %q; it must be left, middle, right, back or forward", name)
}

// physical is the button to press for a logical one: a left-handed mouse has them exchanged.
func (h *hands) physical(logical byte) (byte, error) {
	if int(logical) <= len(h.mapping) && h.mapping[logical-1] == logical {
		return logical, nil
	}
	if i := bytes.IndexByte(h.mapping, logical); i >= 0 {
		return byte(i + 1), nil
	}
	return 0, desktop.Errorf(desktop.Conflict, "the desktop's mouse settings have no button %d", logical)
}

func (d *Display) moveTo(p desktop.Point) {
	d.hands.goal = &p
	d.hands.move(p.X, p.Y)
}

// hold presses the keys to be held during something; the end of the step releases them.
func (d *Display) hold(modifiers Combination) error {
	if len(modifiers) == 0 {
		return nil
	}
	keys, err := d.keymap()
	if err != nil {
		return err
	}
	for _, sym := range modifiers {
		s, err := keys.modifierKey(sym)
		if err != nil {
			return err
		}
		if !d.hands.holds(s.code) && !d.hands.stays(s.code) {
			d.hands.keyDown(s.code)
		}
	}
	return nil
}

func (k *keymap) modifierKey(sym Keysym) (stroke, error) {
	if s, ok := k.strokes[sym]; ok && k.modifiers[s.code] != 0 {
		return s, nil
	}
	return stroke{}, desktop.Errorf(desktop.Conflict, "the desktop's keyboard layout has no %v key", sym)
}

// click is a desktop.Click that has been checked.
type click struct {
	at        *desktop.Point
	button    byte
	count     int
	modifiers Combination
	action    string
}

func checkClick(a desktop.Click, size desktop.Size) (step, error) {
	var c click
	var err error
	if c.at, err = checkPair("x", "y", a.X, a.Y, size); err != nil {
		return nil, err
	}
	if c.button, err = checkButton(a.Button); err != nil {
		return nil, err
	}
	if c.modifiers, err = parseModifiers(a.Modifiers); err != nil {
		return nil, err
	}
	c.count = a.Count
	if a.Double {
		if a.Count != 0 && a.Count != 2 {
			return nil, desktop.Errorf(desktop.Invalid, "double asks for 2 clicks and count for %d", a.Count)
		}
		c.count = 2
	}
	if c.count == 0 {
		c.count = 1
	}
	if err := checkRange("count", c.count, 1, 3); err != nil {
		return nil, err
	}
	switch c.action = a.Action; c.action {
	case "", "click":
	case "down", "up":
		if c.count != 1 {
			return nil, desktop.Errorf(desktop.Invalid, "count is for the action click; %s acts once", c.action)
		}
	default:
		return nil, desktop.Errorf(desktop.Invalid, "action is %q; it must be click, down or up", a.Action)
	}
	return c, nil
}

func (c click) pauses() time.Duration { return 0 }

func (c click) do(ctx context.Context, d *Display) error {
	button, err := d.hands.physical(c.button)
	if err != nil {
		return err
	}
	if c.action != "up" {
		if err := d.approached(ctx, c.at); err != nil {
			return err
		}
	}
	if err := d.hold(c.modifiers); err != nil {
		return err
	}
	if c.at != nil {
		d.moveTo(*c.at)
	}
	switch c.action {
	case "down":
		d.hands.buttonStay(button)
	case "up":
		d.hands.buttonUp(button)
	default:
		for range c.count {
			d.hands.buttonDown(button)
			d.hands.buttonUp(button)
		}
	}
	return nil
}

// move is a desktop.Move that has been checked.
type move struct {
	at        desktop.Point
	modifiers Combination
}

func checkMove(a desktop.Move, size desktop.Size) (step, error) {
	m := move{at: desktop.Point{X: a.X, Y: a.Y}}
	var err error
	if m.modifiers, err = parseModifiers(a.Modifiers); err != nil {
		return nil, err
	}
	return m, checkPoint("x,y", m.at, size)
}

func (m move) pauses() time.Duration { return 0 }

func (m move) do(_ context.Context, d *Display) error {
	if err := d.hold(m.modifiers); err != nil {
		return err
	}
	d.moveTo(m.at)
	return nil
}

// scroll is a desktop.Scroll that has been checked: notches to turn, one wheel after the other.
type scroll struct {
	at        *desktop.Point
	turns     []turn
	modifiers Combination
}

type turn struct {
	wheel   byte
	notches int
}

func checkScroll(a desktop.Scroll, size desktop.Size) (step, error) {
	var s scroll
	var err error
	if s.at, err = checkPair("x", "y", a.X, a.Y, size); err != nil {
		return nil, err
	}
	if s.modifiers, err = parseModifiers(a.Modifiers); err != nil {
		return nil, err
	}
	if a.DeltaX != 0 || a.DeltaY != 0 {
		if a.Direction != "" || a.Amount != nil {
			return nil, desktop.Errorf(desktop.Invalid, "scroll has both deltaX or deltaY and direction or amount; give one of the two")
		}
		for _, axis := range []struct {
			name       string
			delta      int
			less, more byte
		}{{"deltaY", a.DeltaY, wheelUp, wheelDown}, {"deltaX", a.DeltaX, wheelLeft, wheelRight}} {
			if err := checkRange(axis.name, axis.delta, -desktop.MaxScrollAmount, desktop.MaxScrollAmount); err != nil {
				return nil, err
			}
			if axis.delta < 0 {
				s.turns = append(s.turns, turn{axis.less, -axis.delta})
			} else if axis.delta > 0 {
				s.turns = append(s.turns, turn{axis.more, axis.delta})
			}
		}
		return s, nil
	}
	amount := 3
	if a.Amount != nil {
		amount = *a.Amount
	}
	if err := checkRange("amount", amount, 0, desktop.MaxScrollAmount); err != nil {
		return nil, err
	}
	wheels := map[string]byte{"up": wheelUp, "down": wheelDown, "left": wheelLeft, "right": wheelRight}
	wheel, ok := wheels[a.Direction]
	switch {
	case ok:
	case a.Direction == "":
		return nil, desktop.Errorf(desktop.Invalid, "scroll has neither direction nor deltaX or deltaY")
	default:
		return nil, desktop.Errorf(desktop.Invalid, "direction is %q; it must be up, down, left or right", a.Direction)
	}
	s.turns = []turn{{wheel, amount}}
	return s, nil
}

func (s scroll) pauses() time.Duration { return 0 }

func (s scroll) do(ctx context.Context, d *Display) error {
	if err := d.hold(s.modifiers); err != nil {
		return err
	}
	if s.at != nil {
		d.moveTo(*s.at)
	}
	for _, t := range s.turns {
		wheel, err := d.hands.physical(t.wheel)
		if err != nil {
			return err
		}
		for range t.notches {
			if err := ctx.Err(); err != nil {
				return err
			}
			d.hands.buttonDown(wheel)
			d.hands.buttonUp(wheel)
		}
	}
	return nil
}

// drag is a desktop.Drag that has been checked.
type drag struct {
	path      []desktop.Point // after the place of the pointer when there is only one
	button    byte
	modifiers Combination
	duration  time.Duration
}

func checkDrag(a desktop.Drag, size desktop.Size) (step, error) {
	var d drag
	var err error
	if d.button, err = checkButton(a.Button); err != nil {
		return nil, err
	}
	if d.modifiers, err = parseModifiers(a.Modifiers); err != nil {
		return nil, err
	}
	if err := checkRange("durationMs", a.DurationMs, 0, desktop.MaxDurationMs); err != nil {
		return nil, err
	}
	d.duration = time.Duration(a.DurationMs) * time.Millisecond
	ends := a.StartX != nil || a.StartY != nil || a.EndX != nil || a.EndY != nil
	switch {
	case ends && len(a.Path) > 0:
		return nil, desktop.Errorf(desktop.Invalid, "drag has both a path and a start or end; give one of the two")
	case len(a.Path) > desktop.MaxPathLength:
		return nil, desktop.Errorf(desktop.Invalid, "path has more than %d points", desktop.MaxPathLength)
	case len(a.Path) == 1:
		return nil, desktop.Errorf(desktop.Invalid, "path has one point; a drag needs two")
	case len(a.Path) > 0:
		for _, p := range a.Path {
			if err := checkPoint("path", p, size); err != nil {
				return nil, err
			}
		}
		d.path = a.Path
		return d, nil
	}
	start, err := checkPair("startX", "startY", a.StartX, a.StartY, size)
	if err != nil {
		return nil, err
	}
	end, err := checkPair("endX", "endY", a.EndX, a.EndY, size)
	if err != nil {
		return nil, err
	}
	if end == nil {
		return nil, desktop.Errorf(desktop.Invalid, "drag needs endX and endY, or a path")
	}
	if start != nil {
		d.path = append(d.path, *start)
	}
	d.path = append(d.path, *end)
	return d, nil
}

func (g drag) pauses() time.Duration { return g.duration }

// A drag is more than two places. Toolkits begin one only when the pointer has gone some pixels
// with the button down, window managers take the pointer over at that moment, and what lies below
// the destination must have seen the pointer before the button is released. So the pointer moves in
// many small steps, with a fence (or a moment) after the press, after the first pixels and before
// the release.
const (
	dragStep      = 5 * time.Millisecond // between two places when no duration is given
	dragSteps     = 20                   // at least
	dragThreshold = 12                   // pixels that certainly begin a drag
	dragMoment    = 30 * time.Millisecond
	dragPatience  = 500 * time.Millisecond
)

func (g drag) do(ctx context.Context, d *Display) error {
	button, err := d.hands.physical(g.button)
	if err != nil {
		return err
	}
	if len(g.path) == 1 {
		at, err := d.pointer(ctx)
		if err != nil {
			return err
		}
		g.path = []desktop.Point{at, g.path[0]}
	}
	if err := d.approached(ctx, &g.path[0]); err != nil {
		return err
	}
	if err := d.hold(g.modifiers); err != nil {
		return err
	}
	d.moveTo(g.path[0])
	window, err := d.pointed()
	if err != nil {
		return err
	}
	source, err := d.answering(window)
	if err != nil {
		return err
	}
	d.hands.buttonDown(button)
	// However it ends, the button is released where the pointer is then.
	if err := d.follow(ctx, source); err != nil {
		return err
	}
	places := interpolate(g.path, g.duration)
	step := dragStep
	if g.duration > 0 {
		step = g.duration / time.Duration(len(places))
	} else if len(places) > 400 {
		step = 2 * time.Second / time.Duration(len(places))
	}
	begun := false
	started := time.Now()
	for i, p := range places {
		d.moveTo(p)
		if !begun && math.Hypot(float64(p.X-g.path[0].X), float64(p.Y-g.path[0].Y)) >= dragThreshold {
			begun = true
			if err := d.follow(ctx, source); err != nil {
				return err
			}
		}
		// Against the clock, so that the pauses' own inaccuracy does not add up.
		if err := d.pause(ctx, time.Until(started.Add(time.Duration(i+1)*step))); err != nil {
			return err
		}
	}
	if err := d.follow(ctx, source); err != nil {
		return err
	}
	if err := d.pause(ctx, dragMoment); err != nil { // the destination answers the source
		return err
	}
	d.hands.buttonUp(button)
	return nil
}

// follow lets whoever has the dragged window catch up: its application or, of its frame, the window
// manager.
func (d *Display) follow(ctx context.Context, source reader) error {
	limited, cancel := context.WithTimeout(ctx, dragPatience)
	defer cancel()
	if known, _ := d.caughtUp(limited, source); !known {
		return d.pause(ctx, dragMoment)
	}
	return ctx.Err()
}

// interpolate is the places that a drag goes through after its start: the first pixels singly,
// then evenly, every point of the path among them.
func interpolate(path []desktop.Point, duration time.Duration) []desktop.Point {
	length := 0.0
	for i := 1; i < len(path); i++ {
		length += math.Hypot(float64(path[i].X-path[i-1].X), float64(path[i].Y-path[i-1].Y))
	}
	steps := max(dragSteps, int(length/16))
	if duration > 0 {
		steps = max(dragSteps, int(duration/(8*time.Millisecond)))
	}
	stride := max(1, length/float64(steps))
	var places []desktop.Point
	at := path[0]
	add := func(p desktop.Point) {
		if p != at {
			places = append(places, p)
			at = p
		}
	}
	for i := 1; i < len(path); i++ {
		from, to := path[i-1], path[i]
		segment := math.Hypot(float64(to.X-from.X), float64(to.Y-from.Y))
		between := func(done float64) desktop.Point {
			return desktop.Point{
				X: from.X + int(math.Round(float64(to.X-from.X)*done/segment)),
				Y: from.Y + int(math.Round(float64(to.Y-from.Y)*done/segment)),
			}
		}
		done := 0.0
		if i == 1 {
			for done = 1; done < segment && done <= dragThreshold; done += 2 {
				add(between(done))
			}
		}
		for done += stride; done < segment; done += stride {
			add(between(done))
		}
		add(to)
	}
	if len(places) == 0 {
		places = []desktop.Point{path[len(path)-1]}
	}
	return places
}
