package x11

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// cleanupTime is how long a cancelled call is waited for while it lets go of what it holds. Beyond
// it (the server is stuck) the cleaning up goes on without the caller.
const cleanupTime = 5 * time.Second

// maxTime bounds what one call may take by its own pauses.
const maxTime = 10 * time.Minute

// step is an action that has been checked and is ready to be done.
type step interface {
	// do does it. What it presses goes through d.hands, so that its end releases everything.
	do(ctx context.Context, d *Display) error
	// pauses is the time that it takes besides the work.
	pauses() time.Duration
}

// Act does the actions in order and stops at the first error. All of them are checked before the
// first is done. Actions of concurrent calls are never interleaved. When it returns, the server has
// dealt with all the input, and nothing that it pressed is pressed any more, except what the action
// "down" of a click or a press asked for. What the server drew by itself upon it is on its way to the
// display: Shown waits for that.
//
// It returns soon after ctx ends. Errors are desktop.Invalid for what can never succeed, with the
// "index" of the action in Details when there are several, and how many were "done".
func (d *Display) Act(ctx context.Context, actions []desktop.Action) (desktop.Acted, error) {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	if err := d.takeTurn(ctx); err != nil {
		return desktop.Acted{}, err
	}
	// The work runs beside the caller: a server that is stuck must not hold the caller beyond ctx.
	type result struct {
		acted desktop.Acted
		err   error
	}
	results := make(chan result, 1)
	go func() { // ends before the turn does, which Close waits for
		defer func() { <-d.turn }()
		acted, err := d.act(ctx, actions)
		results <- result{acted, err}
		if err == nil {
			d.prepare()
		}
	}()
	var r result
	select {
	case r = <-results:
	case <-ctx.Done():
		select {
		case r = <-results:
		case <-time.After(cleanupTime):
			return desktop.Acted{}, d.ended(ctx)
		}
	}
	if errors.Is(r.err, context.Canceled) {
		r.err = d.ended(ctx)
	}
	r.acted.TookMs = float64(time.Since(began).Microseconds()) / 1000
	return r.acted, r.err
}

func errGone() error { return desktop.Errorf(desktop.Unavailable, "the X server is gone") }

// ended is why a call's context has ended.
func (d *Display) ended(ctx context.Context) error {
	if d.life.Err() != nil {
		return errGone()
	}
	return context.Cause(ctx)
}

func (d *Display) act(ctx context.Context, actions []desktop.Action) (desktop.Acted, error) {
	if err := d.survey(actions); err != nil {
		return desktop.Acted{}, err
	}
	steps, err := checkAll(actions, d.Size())
	if err != nil {
		// The news of another size may still be on its way.
		before := d.Size()
		size, gone := d.measure()
		if gone != nil {
			return desktop.Acted{}, gone
		}
		if size != before {
			steps, err = checkAll(actions, size)
		}
		if err != nil {
			return desktop.Acted{}, err
		}
	}
	d.hands.goal, d.hands.striking = nil, nil
	var acted desktop.Acted
	missed := false
	for i, step := range steps {
		if err = ctx.Err(); err == nil {
			err = step.do(ctx, d)
		}
		d.hands.release()
		if s, ok := step.(*syncing); ok {
			missed = missed || !s.taken
			acted.Synced = !missed
		}
		if err != nil {
			d.pointer(context.Background()) // the releases are done when the caller hears of the error
			return desktop.Acted{}, at(err, i, i, len(actions))
		}
	}
	d.net.gather()
	geometry := xproto.GetGeometry(d.x, xproto.Drawable(d.root))
	if acted.Cursor, err = d.pointer(ctx); err != nil {
		return desktop.Acted{}, err
	}
	if acted.Display, err = d.sized(geometry); err != nil {
		return desktop.Acted{}, err
	}
	if struck := d.hands.striking; struck != nil {
		d.hands.striking = nil
		if there, err := struck.asked.Reply(); err == nil {
			d.hands.struck = there.Child
		}
	}
	return acted, nil
}

// survey asks in one go what the first step needs to know and is not known: every question by itself
// takes a turn of the server, and after most calls prepare has left none.
func (d *Display) survey(actions []desktop.Action) error {
	d.hands.ahead = nil
	var buttons *xproto.GetPointerMappingCookie
	d.net.gather()
	if d.hands.mapping == nil || d.remapped.Swap(false) {
		cookie := xproto.GetPointerMapping(d.x)
		buttons = &cookie
	}
	if len(actions) > 0 && d.stirred() {
		if c := actions[0].Click; c != nil && c.X != nil && c.Y != nil {
			d.hands.ahead = d.childAt(desktop.Point{X: *c.X, Y: *c.Y})
		}
	}
	d.net.flush()
	if buttons != nil {
		mapping, err := buttons.Reply()
		if err != nil {
			return d.gone(err)
		}
		d.hands.mapping = mapping.Map
	}
	return nil
}

// prepare does after a call what the next one would have to wait for: the window manager decides on the
// click (focus.go), and the buttons' meaning is asked for again. It ends when the next call comes. The
// turn must be held.
func (d *Display) prepare() {
	ctx, cancel := context.WithCancel(d.life)
	defer cancel()
	d.preparing.Store(&cancel)
	defer d.preparing.Store(nil)
	if d.waiting.Load() > 0 { // it came before there was anything to end
		return
	}
	if mapping, err := xproto.GetPointerMapping(d.x).Reply(); err == nil {
		d.hands.mapping = mapping.Map
	}
	_ = d.refocused(ctx) // the next call asks again
}

// takeTurn waits for the right to work the input. It ends the preparation for this call.
func (d *Display) takeTurn(ctx context.Context) error {
	d.waiting.Add(1)
	defer d.waiting.Add(-1)
	if cancel := d.preparing.Load(); cancel != nil {
		(*cancel)()
	}
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-d.done:
		return errGone()
	case <-ctx.Done():
		return d.ended(ctx)
	}
}

// checkAll makes steps of actions.
func checkAll(actions []desktop.Action, size desktop.Size) ([]step, error) {
	steps := make([]step, len(actions))
	var pauses time.Duration
	for i, action := range actions {
		var err error
		if steps[i], err = check(action, size); err != nil {
			return nil, at(err, i, 0, len(actions))
		}
		if pauses += steps[i].pauses(); pauses > maxTime {
			return nil, at(desktop.Errorf(desktop.Invalid,
				"the pauses asked for add up to more than %v", maxTime), i, 0, len(actions))
		}
	}
	return steps, nil
}

// at adds the index of the action that failed, and how many were done.
func at(err error, index, done, count int) error {
	if count < 2 {
		return err
	}
	var e *desktop.Error
	if !errors.As(err, &e) {
		return err
	}
	located := *e
	located.Details = maps.Clone(e.Details)
	if located.Details == nil {
		located.Details = make(map[string]any)
	}
	located.Details["index"], located.Details["done"] = index, done
	return &located
}

// pointer is where the pointer is, once the server has done all that was asked before. While a
// window manager holds events back for a moment to decide on a click, the pointer stands still
// although the answer is there; it is waited for, a little.
func (d *Display) pointer(ctx context.Context) (desktop.Point, error) {
	const patience, glance = 250 * time.Millisecond, 2 * time.Millisecond
	goal := d.hands.goal
	for began := time.Now(); ; {
		asked := xproto.QueryPointer(d.x, d.root)
		d.net.flush()
		at, err := asked.Reply()
		if err != nil {
			return desktop.Point{}, d.gone(err)
		}
		here := desktop.Point{X: int(at.RootX), Y: int(at.RootY)}
		if goal == nil || here == *goal || time.Since(began) > patience {
			return here, nil
		}
		if err := d.pause(ctx, glance); err != nil {
			return desktop.Point{}, err
		}
	}
}

// Shown returns when the server has handed what it has drawn so far to the display: what our input made
// it draw, once Act has returned, and what other clients had it draw, as far as they had an answer since.
//
// The server draws while it works on a request, and hands the damage on (modesetting's DIRTYFB, a
// shadow framebuffer's copy) in its block handlers, once a client's turn is over. But the answers of
// that turn leave before: Dispatch flushes them when it has read the client's last request, and only
// then calls WaitForSomething, where the block handlers are. So the answer to the first request after
// the input may overtake the picture. A request that is sent after that answer was read begins a new
// turn, with the block handlers run between the two.
func (d *Display) Shown(ctx context.Context) error {
	_, err := await(ctx, func() (struct{}, error) {
		_, err := xproto.GetInputFocus(d.x).Reply()
		return struct{}{}, d.gone(err)
	})
	return err
}

// check makes a step of an action.
func check(action desktop.Action, size desktop.Size) (step, error) {
	var steps []step
	var err error
	add := func(s step, e error) {
		if steps = append(steps, s); err == nil {
			err = e
		}
	}
	if a := action.Click; a != nil {
		add(checkClick(*a, size))
	}
	if a := action.Move; a != nil {
		add(checkMove(*a, size))
	}
	if a := action.Drag; a != nil {
		add(checkDrag(*a, size))
	}
	if a := action.Scroll; a != nil {
		add(checkScroll(*a, size))
	}
	if a := action.Type; a != nil {
		add(checkType(*a))
	}
	if a := action.Press; a != nil {
		add(checkPress(*a))
	}
	if a := action.Sync; a != nil {
		add(checkSync(*a))
	}
	if len(steps) != 1 {
		return nil, desktop.Errorf(desktop.Invalid, "an action is exactly one of click, move, drag, scroll, type, press and sync")
	}
	return steps[0], err
}

// checkPoint says whether a pixel is on the display.
func checkPoint(name string, p desktop.Point, size desktop.Size) error {
	if p.X < 0 || p.Y < 0 || p.X >= size.Width || p.Y >= size.Height {
		e := desktop.Errorf(desktop.Invalid, "%s %d,%d is outside the display, which is %dx%d", name, p.X, p.Y, size.Width, size.Height)
		e.Details = map[string]any{"display": size}
		return e
	}
	return nil
}

// checkPair makes a point of two optional coordinates; nil when neither is given.
func checkPair(xName, yName string, x, y *int, size desktop.Size) (*desktop.Point, error) {
	switch {
	case x == nil && y == nil:
		return nil, nil
	case x == nil:
		return nil, desktop.Errorf(desktop.Invalid, "%s is missing beside %s", xName, yName)
	case y == nil:
		return nil, desktop.Errorf(desktop.Invalid, "%s is missing beside %s", yName, xName)
	}
	p := desktop.Point{X: *x, Y: *y}
	return &p, checkPoint(xName+","+yName, p, size)
}

// checkRange says whether a number is within its limits.
func checkRange(name string, n, low, high int) error {
	if n < low || n > high {
		return desktop.Errorf(desktop.Invalid, "%s is %d; it must be %d to %d", name, n, low, high)
	}
	return nil
}
