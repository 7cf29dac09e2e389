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
// dealt with all the input and has shown what it drew by itself upon it, and nothing that it pressed is pressed any more, except what the action
// "down" of a click or a press asked for.
//
// It returns soon after ctx ends. Errors are desktop.Invalid for what can never succeed, with the
// "index" of the action in Details when there are several, and how many were "done".
func (d *Display) Act(ctx context.Context, actions []desktop.Action) (desktop.Acted, error) {
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(d.life, cancel)()
	select {
	case d.turn <- struct{}{}:
	case <-d.done:
		return desktop.Acted{}, errGone()
	case <-ctx.Done():
		return desktop.Acted{}, d.ended(ctx)
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
	size, err := d.survey(actions)
	if err != nil {
		return desktop.Acted{}, err
	}
	steps := make([]step, len(actions))
	var pauses time.Duration
	for i, action := range actions {
		if steps[i], err = check(action, size); err != nil {
			return desktop.Acted{}, at(err, i, 0, len(actions))
		}
		if pauses += steps[i].pauses(); pauses > maxTime {
			return desktop.Acted{}, at(desktop.Errorf(desktop.Invalid,
				"the pauses asked for add up to more than %v", maxTime), i, 0, len(actions))
		}
	}
	d.hands.goal = nil
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
	if acted.Cursor, err = d.pointer(ctx); err != nil {
		return desktop.Acted{}, err
	}
	if err := d.shown(); err != nil {
		return desktop.Acted{}, err
	}
	acted.Display = d.Size()
	return acted, nil
}

// survey asks in one go what the checks and the first step need to know: each question by itself
// would take a turn of the server.
func (d *Display) survey(actions []desktop.Action) (desktop.Size, error) {
	d.net.gather()
	geometry := xproto.GetGeometry(d.x, xproto.Drawable(d.root))
	buttons := xproto.GetPointerMapping(d.x)
	d.hands.ahead = nil
	if len(actions) > 0 {
		if c := actions[0].Click; c != nil && c.X != nil && c.Y != nil {
			d.hands.ahead = d.childAt(desktop.Point{X: *c.X, Y: *c.Y})
		}
	}
	d.net.flush()
	size, err := d.sized(geometry)
	if err != nil {
		return size, err
	}
	mapping, err := buttons.Reply()
	if err != nil {
		return size, d.gone(err)
	}
	d.hands.mapping = mapping.Map
	return size, nil
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
		at, err := xproto.QueryPointer(d.x, d.root).Reply()
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

// shown returns when the server has handed what it has drawn so far to the display. It must follow
// the answer to an earlier request.
//
// The server draws while it works on a request, and hands the damage on (modesetting's DIRTYFB, a
// shadow framebuffer's copy) in its block handlers, once a client's turn is over. But the answers of
// that turn leave before: Dispatch flushes them when it has read the client's last request, and only
// then calls WaitForSomething, where the block handlers are. So the answer to the first request after
// the input may overtake the picture. A request that is sent after that answer was read begins a new
// turn, with the block handlers run between the two.
func (d *Display) shown() error {
	_, err := xproto.GetInputFocus(d.x).Reply()
	return d.gone(err)
}

// Shown is shown for what other clients had the server draw, as far as they had an answer since: the
// request that this makes begins a turn after theirs.
func (d *Display) Shown(ctx context.Context) error {
	_, err := await(ctx, func() (struct{}, error) { return struct{}{}, d.shown() })
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
