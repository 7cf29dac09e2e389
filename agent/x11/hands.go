package x11

import (
	"slices"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
	"github.com/jezek/xgb/xtest"

	"bureau/desktop"
)

// hands presses keys and buttons and remembers which it holds, so that a call that ends early can
// let go of all of them.
type hands struct {
	x       *xgb.Conn
	root    xproto.Window
	keys    []byte         // keycodes held, in the order pressed
	buttons []byte         // physical buttons held by the action under way
	goal    *desktop.Point // where the call under way last put the pointer
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

func (h *hands) holds(code byte) bool { return slices.Contains(h.keys, code) }

func (h *hands) buttonDown(button byte) {
	h.buttons = append(h.buttons, button)
	h.fake(xproto.ButtonPress, button)
}

func (h *hands) buttonUp(button byte) {
	if i := slices.Index(h.buttons, button); i >= 0 {
		h.buttons = slices.Delete(h.buttons, i, i+1)
	}
	h.fake(xproto.ButtonRelease, button)
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
