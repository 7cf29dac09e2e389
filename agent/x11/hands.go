package x11

import (
	"slices"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"github.com/jezek/xgb/xtest"

	"bureau/desktop"
)

// hands presses keys and buttons and remembers which it holds, so that a call that ends early can
// let go of all of them. What an action asked to stay pressed is remembered apart: it outlives the
// call, and is let go of when an action says so or the display is closed.
type hands struct {
	x       *xgb.Conn
	root    xproto.Window
	mapping []byte         // of physical buttons to logical ones, as of the call under way
	keys    []byte         // keycodes held by the action under way, in the order pressed
	buttons []byte         // physical buttons held by it
	goal    *desktop.Point // where the call under way last put the pointer
	struck  xproto.Window  // the child of the root window that was last clicked at
	ahead   *child         // asked for beforehand, for the first step of the call
	// striking is the question for struck, sent along with the click.
	striking *child
	stirred  bool // something was pressed that may move the focus, since the last fence of focus.go

	staying        []staying // keys, in the order pressed
	stayingButtons []byte
}

// staying is a key that stays pressed until it is named again.
type staying struct {
	sym   Keysym
	code  byte
	codes []byte // what was pressed for it: the keys of its level, and its own
}

func (h *hands) fake(kind, detail byte) {
	xtest.FakeInput(h.x, kind, detail, 0, h.root, 0, 0, 0)
}

func (h *hands) keyDown(code byte) {
	h.keys = append(h.keys, code)
	h.fake(xproto.KeyPress, code)
}

func (h *hands) keyUp(code byte) {
	if i := slices.Index(h.keys, code); i >= 0 {
		h.keys = slices.Delete(h.keys, i, i+1)
	}
	h.fake(xproto.KeyRelease, code)
}

// holds tells whether the action under way holds a key.
func (h *hands) holds(code byte) bool { return slices.Contains(h.keys, code) }

// stays tells whether a key is one of those that stay pressed.
func (h *hands) stays(code byte) bool {
	return slices.ContainsFunc(h.staying, func(s staying) bool { return slices.Contains(s.codes, code) })
}

// stroke presses and releases a key. One that stays pressed is lifted first and stays pressed
// afterwards, as the application is to see a press.
func (h *hands) stroke(code byte) {
	if h.stays(code) {
		h.fake(xproto.KeyRelease, code)
		h.fake(xproto.KeyPress, code)
		return
	}
	h.keyDown(code)
	h.keyUp(code)
}

// stay presses a key, and before it those of its level, and leaves them pressed.
func (h *hands) stay(sym Keysym, code byte, level []byte) {
	s := staying{sym: sym, code: code, codes: append(slices.Clone(level), code)}
	for _, code := range s.codes {
		if !h.stays(code) {
			h.fake(xproto.KeyPress, code)
		}
	}
	h.staying = append(h.staying, s)
}

// lift ends the staying of keys, the last pressed first. A key that another one needs stays.
func (h *hands) lift(which func(staying) bool) {
	for i := len(h.staying) - 1; i >= 0; i-- {
		s := h.staying[i]
		if !which(s) {
			continue
		}
		h.staying = slices.Delete(h.staying, i, i+1)
		for _, code := range slices.Backward(s.codes) {
			if !h.stays(code) {
				h.fake(xproto.KeyRelease, code)
			}
		}
	}
}

// letGo lets go of everything, also of what was asked to stay.
func (h *hands) letGo() {
	h.release()
	h.lift(func(staying) bool { return true })
	for len(h.stayingButtons) > 0 {
		h.buttonUp(h.stayingButtons[0])
	}
}

// heard notes that a combination was released that a window manager may have listened to.
func (h *hands) heard(combination Combination) {
	if slices.ContainsFunc(combination, Keysym.managers) {
		h.stirred, h.struck = true, xproto.WindowNone
	}
}

func (h *hands) buttonDown(button byte) {
	h.buttons = append(h.buttons, button)
	h.stirred = true
	h.fake(xproto.ButtonPress, button)
}

func (h *hands) buttonUp(button byte) {
	if i := slices.Index(h.buttons, button); i >= 0 {
		h.buttons = slices.Delete(h.buttons, i, i+1)
	}
	h.stayingButtons = slices.DeleteFunc(h.stayingButtons, func(b byte) bool { return b == button })
	h.stirred = true
	h.fake(xproto.ButtonRelease, button)
}

// buttonStay presses a button and leaves it pressed.
func (h *hands) buttonStay(button byte) {
	if !slices.Contains(h.stayingButtons, button) {
		h.stayingButtons = append(h.stayingButtons, button)
	}
	h.stirred = true
	h.fake(xproto.ButtonPress, button)
}

func (h *hands) move(x, y int) {
	xtest.FakeInput(h.x, xproto.MotionNotify, 0, 0, h.root, int16(x), int16(y), 0)
}

// release lets go of everything, the last pressed first.
func (h *hands) release() {
	for len(h.buttons) > 0 {
		h.buttonUp(h.buttons[len(h.buttons)-1])
	}
	for len(h.keys) > 0 {
		h.keyUp(h.keys[len(h.keys)-1])
	}
}
