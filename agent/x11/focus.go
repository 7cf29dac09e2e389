package x11

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// The window manager's fence. A click on a window gives it the focus, but not by itself: the window
// manager has grabbed the button there, is sent the press, and decides; until it has, the server
// holds the click back. When a click is done for the server, the keys may still go to the window that
// had the focus before. So before keys that follow a click the window manager is asked something, and
// as it reads its events in order, it has set the focus when it answers.
//
// The question is one that every window manager has to answer, of whatever kind and age, in the very
// words that we can see: a window that it does not manage wants to be elsewhere. The server hands the
// request to whoever redirects the root window's substructure, who must do it in our stead (ICCCM
// 4.1.5), and we are told that the window was moved. Where nobody redirects, the server itself moves
// it: without a window manager there is nothing to wait for, and the fence is a round trip. The window
// is never mapped. The EWMH's _NET_REQUEST_FRAME_EXTENTS would do the same where it is supported.
//
// It is asked twice: when it sets the focus, the server tells it who has lost and got it, and only then
// does it grab the button of the one window and leave that of the other alone. A click that came
// between the two would reach the window without anybody's giving it the focus. For the same reason a
// click on another window than the last one waits as keys do.
//
// Then some applications take the focus themselves when the window manager tells them to
// (WM_TAKE_FOCUS, the "globally active" model). When the window under the pointer is such a one and
// has not got the focus, its application is waited for as well.

const (
	// managerTime is how long typing waits for a window manager, and for an application that is to
	// take the focus.
	managerTime = time.Second
	// One that has not answered so many times in a row is not asked for a while, unless the answer
	// comes after all.
	managerMisses  = 2
	managerSilence = 30 * time.Second
	// heldGlance is the time between two looks at a click that is held back.
	heldGlance = 2 * time.Millisecond
)

// errUndecided ends the waiting for a window manager that had all of its time.
var errUndecided = errors.New("the window manager does not answer")

// manager is what we know of the window manager. But for the atomics only the holder of the turn
// touches it.
type manager struct {
	// window is the one that is moved.
	window xproto.Window
	// asked is where it was last asked to be, and at is where it is; moved tells that at has changed.
	asked int16
	at    atomic.Int32
	moved chan struct{}
	// misses is how many questions in a row were not answered, and silent until when none is asked.
	misses int
	silent time.Time
	// messaged is set when messages of ours have made it move the focus since the last fence.
	messaged atomic.Bool
}

func (d *Display) openManager() error {
	id, err := xproto.NewWindowId(d.x)
	if err != nil {
		return err
	}
	const copyFromParent = 0
	d.manager.window, d.manager.moved = id, make(chan struct{}, 1)
	// Not override-redirect, or nobody would be asked.
	return d.gone(xproto.CreateWindowChecked(d.x, copyFromParent, id, d.root, 0, 0, 1, 1, 0,
		xproto.WindowClassInputOnly, copyFromParent, 0, nil).Check())
}

// placed hears where the window is.
func (m *manager) placed(x int16) {
	m.at.Store(int32(x))
	select {
	case m.moved <- struct{}{}:
	default:
	}
}

// refocused returns when the focus is where our clicks and messages since the last time bring it. It
// costs nothing when there were none. It gives up after a time, as on a window manager that hangs;
// only the end of ctx is an error.
func (d *Display) refocused(ctx context.Context) error {
	if !d.stirred() {
		return ctx.Err()
	}
	_, err := d.decided(ctx)
	return err
}

// stirred tells whether we have done something since the last fence that may move the focus.
func (d *Display) stirred() bool { return d.hands.stirred || d.manager.messaged.Load() }

// child is the question which child of the root window is at a place.
type child struct {
	at    desktop.Point
	asked xproto.TranslateCoordinatesCookie
}

func (d *Display) childAt(p desktop.Point) *child {
	return &child{p, xproto.TranslateCoordinates(d.x, d.root, d.root, int16(p.X), int16(p.Y))}
}

// approached returns when a window may be clicked at, at a place or where the pointer is. It costs
// nothing when there were no clicks and messages of ours since the last fence.
func (d *Display) approached(ctx context.Context, at *desktop.Point) error {
	ahead := d.hands.ahead
	d.hands.ahead = nil
	if !d.stirred() {
		d.hands.struck, d.hands.striking = xproto.WindowNone, nil
		if at != nil {
			d.net.follow()
			d.hands.striking = d.childAt(*at) // which the end of the call hears
		}
		return ctx.Err()
	}
	window := func() (xproto.Window, error) {
		if at == nil {
			here, err := xproto.QueryPointer(d.x, d.root).Reply()
			if err != nil {
				return xproto.WindowNone, d.gone(err)
			}
			return here.Child, nil
		}
		if ahead == nil || ahead.at != *at {
			ahead = d.childAt(*at)
		}
		there, err := ahead.asked.Reply()
		ahead = nil
		if err != nil {
			return xproto.WindowNone, d.gone(err)
		}
		return there.Child, nil
	}
	struck, err := window()
	if err == nil && (struck != d.hands.struck || d.manager.messaged.Load()) {
		if err = d.refocused(ctx); err == nil {
			struck, err = window() // another one may have been raised
		}
	}
	d.hands.struck = struck
	return err
}

// decided waits until the window manager has dealt with everything that was sent before, and the
// focus has followed. It tells whether that was seen. It gives up after a time; only the end of ctx is
// an error.
func (d *Display) decided(ctx context.Context) (bool, error) {
	limited, cancel := context.WithTimeoutCause(ctx, managerTime, errUndecided)
	defer cancel()
	clicked := d.hands.stirred
	// A message that is sent from here on is for the next fence.
	messaged := d.manager.messaged.Swap(false)
	if !d.allAnswered(limited) || !d.managerAnswers(limited) {
		if messaged {
			d.manager.messaged.Store(true)
		}
		return false, ctx.Err()
	}
	d.hands.stirred = false
	return !clicked || d.focusTaken(limited), ctx.Err()
}

// allAnswered asks until no click was held back when the question was put: of several clicks, the
// server sends the second when the first is decided on, and thus after the question.
func (d *Display) allAnswered(ctx context.Context) bool {
	for {
		held := d.hands.stirred && d.heldBack()
		if !d.managerAnswers(ctx) {
			return false
		}
		if !held {
			return true
		}
		if d.pause(ctx, heldGlance) != nil {
			if context.Cause(ctx) == errUndecided {
				// Somebody else holds a button down, or an application holds the click back. The window
				// manager has done its part, and the next to type need not wait for it.
				d.hands.stirred = false
			}
			return false
		}
	}
}

// heldBack tells whether a button, or a modifier of the kind that window managers listen to, is down
// that we have released: its release waits for somebody's decision about the press.
func (d *Display) heldBack() bool {
	const buttons = xproto.KeyButMaskButton1 | xproto.KeyButMaskButton2 | xproto.KeyButMaskButton3 |
		xproto.KeyButMaskButton4 | xproto.KeyButMaskButton5
	const modifiers = xproto.KeyButMaskMod1 | xproto.KeyButMaskMod4
	var released uint16
	if len(d.hands.stayingButtons) == 0 {
		released |= buttons
	}
	if len(d.hands.keys) == 0 && len(d.hands.staying) == 0 {
		released |= modifiers
	}
	at, err := xproto.QueryPointer(d.x, d.root).Reply()
	return err == nil && at.Mask&released != 0
}

// managerAnswers asks the window manager and tells whether it has answered before ctx ended.
func (d *Display) managerAnswers(ctx context.Context) bool {
	m := &d.manager
	if int16(m.at.Load()) == m.asked {
		m.misses = 0 // it has answered the last question after all
	}
	if m.misses >= managerMisses && time.Now().Before(m.silent) {
		return false
	}
	m.asked = (m.asked + 1) & 0x3fff // elsewhere each time, so that every answer is known by its place
	xproto.ConfigureWindow(d.x, m.window, xproto.ConfigWindowX, []uint32{uint32(m.asked)})
	for int16(m.at.Load()) != m.asked {
		select {
		case <-m.moved:
		case <-d.done:
			return false
		case <-ctx.Done():
			if context.Cause(ctx) == errUndecided {
				m.misses++
				m.silent = time.Now().Add(managerSilence)
				d.log.Warn("the window manager does not answer; going on", "times", m.misses)
			}
			return false
		}
	}
	m.misses = 0
	return true
}

// focusTaken waits for the application under the pointer when it is one that takes the focus itself
// and has not got it. It tells whether there is nothing more to wait for.
func (d *Display) focusTaken(ctx context.Context) bool {
	under, err := d.pointed()
	if err != nil || under == d.root {
		return true
	}
	topLevel, known := d.listing(under, d.atoms.takeFocus)
	if !known || topLevel == xproto.WindowNone {
		return true
	}
	focus, err := xproto.GetInputFocus(d.x).Reply()
	if err != nil {
		return true
	}
	if has, _ := d.listing(focus.Focus, d.atoms.takeFocus); has == topLevel {
		return true
	}
	r, err := d.answering(topLevel)
	if err != nil {
		return true
	}
	answers, err := d.caughtUp(ctx, r)
	if !answers {
		err = d.pause(ctx, quietTime)
	}
	if err != nil {
		d.log.Warn("an application does not take the focus; going on", "window", topLevel)
	}
	return err == nil
}
