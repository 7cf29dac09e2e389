package x11

import (
	"context"
	"slices"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// press is a desktop.Press that has been checked.
type press struct {
	combinations []Combination
	repeat       int
	hold         time.Duration
	action       string
}

func checkPress(a desktop.Press) (step, error) {
	switch {
	case len(a.Keys) == 0:
		return nil, desktop.Errorf(desktop.Invalid, "there is no key to press")
	case len(a.Keys) > desktop.MaxKeys:
		return nil, desktop.Errorf(desktop.Invalid, "there are more than %d keys to press", desktop.MaxKeys)
	}
	if err := checkRange("repeat", a.Repeat, 0, desktop.MaxRepeat); err != nil {
		return nil, err
	}
	if err := checkRange("holdMs", a.HoldMs, 0, desktop.MaxHoldMs); err != nil {
		return nil, err
	}
	combinations, err := ParseKeys(a.Keys)
	if err != nil {
		return nil, err
	}
	switch a.Action {
	case "", "press":
	case "down", "up":
		if a.Repeat > 1 || a.HoldMs > 0 {
			return nil, desktop.Errorf(desktop.Invalid, "repeat and holdMs are for the action press; %s acts once", a.Action)
		}
	default:
		return nil, desktop.Errorf(desktop.Invalid, "action is %q; it must be press, down or up", a.Action)
	}
	return press{combinations, max(1, a.Repeat), time.Duration(a.HoldMs) * time.Millisecond, a.Action}, nil
}

func (p press) pauses() time.Duration {
	return time.Duration(p.repeat*len(p.combinations)) * p.hold
}

func (p press) do(ctx context.Context, d *Display) (err error) {
	if p.action != "up" {
		if err := d.refocused(ctx); err != nil {
			return err
		}
	}
	keys, err := d.keymap()
	if err != nil {
		return err
	}
	switch p.action {
	case "down":
		return p.down(d, keys)
	case "up":
		p.up(d, keys)
		return nil
	}
	lender := &lender{d: d, keys: keys}
	var readers []reader
	sent := 0
	strokes, err := p.strokes(keys, lender)
	if err != nil {
		return err
	}
	defer func() {
		d.hands.release()
		if returnErr := lender.returnKeys(readers, sent); err == nil {
			err = returnErr
		}
	}()
	// Keys mean what is on their labels, unless the press is about that very thing.
	if !p.touchesLocks() {
		plain, err := d.plain(keys, false, p.hold > 0)
		if err != nil {
			return err
		}
		defer plain()
	}
	numLock, err := d.numLock(keys)
	if err != nil {
		return err
	}
	for range p.repeat {
		for i, combination := range p.combinations {
			if err := d.refocused(ctx); err != nil {
				return err
			}
			if len(lender.lent) > 0 {
				if readers, err = d.alsoFocused(readers); err != nil {
					return err
				}
			}
			for j, sym := range combination {
				s := strokes[i][j]
				if numLock && sym.keypad() {
					s.level ^= levelShift
				}
				for _, code := range d.reach(keys, s.level) {
					d.hands.keyDown(code)
				}
				switch {
				case d.hands.holds(s.code):
				case !d.hands.stays(s.code):
					d.hands.keyDown(s.code)
				case keys.modifiers[s.code] == 0:
					d.hands.stroke(s.code)
				}
				sent++
			}
			if p.hold > 0 {
				if err := d.pause(ctx, p.hold); err != nil {
					return err
				}
			}
			d.hands.release()
			d.hands.heard(combination)
		}
	}
	return nil
}

// down presses the keys and leaves them so.
func (p press) down(d *Display, keys *keymap) error {
	if !p.touchesLocks() {
		plain, err := d.plain(keys, false, true)
		if err != nil {
			return err
		}
		defer plain()
	}
	numLock, err := d.numLock(keys)
	if err != nil {
		return err
	}
	for _, combination := range p.combinations {
		for _, sym := range combination {
			s, ok := keys.find(sym)
			if sym.modifier() {
				s, err = keys.modifierKey(sym)
			} else if !ok {
				// A borrowed key is another one's as soon as the call is over.
				err = desktop.Errorf(desktop.Conflict, "the desktop's keyboard layout has no %v key, so none can be held down", sym)
			}
			if err != nil {
				return err
			}
			if slices.ContainsFunc(d.hands.staying, func(down staying) bool { return down.code == s.code }) {
				continue
			}
			if numLock && sym.keypad() {
				s.level ^= levelShift
			}
			d.hands.stay(sym, s.code, d.reach(keys, s.level))
		}
	}
	return nil
}

// up releases the keys that a "down" has left pressed, by whichever of its names, and a key that
// something else holds down.
func (p press) up(d *Display, keys *keymap) {
	for _, combination := range slices.Backward(p.combinations) {
		d.hands.heard(combination)
		for _, sym := range slices.Backward(combination) {
			s, ok := keys.find(sym)
			is := func(down staying) bool { return down.sym == sym || ok && down.code == s.code }
			switch {
			case slices.ContainsFunc(d.hands.staying, is):
				d.hands.lift(is)
			case ok && !d.hands.stays(s.code):
				d.hands.fake(xproto.KeyRelease, s.code)
			}
		}
	}
}

// numLock tells whether Num Lock is on.
func (d *Display) numLock(keys *keymap) (bool, error) {
	state, err := d.xkb.state()
	if err != nil {
		return false, d.gone(err)
	}
	s, ok := keys.strokes[symNumLock]
	return ok && keys.modifiers[s.code]&state.locked != 0, nil
}

// strokes finds the keys, and borrows some for what the layout lacks.
func (p press) strokes(keys *keymap, lender *lender) ([][]stroke, error) {
	lacking := make(map[Keysym]place)
	all := make([][]stroke, len(p.combinations))
	for i, combination := range p.combinations {
		for _, sym := range combination {
			var s stroke
			if sym.modifier() {
				var err error
				if s, err = keys.modifierKey(sym); err != nil {
					return nil, err
				}
			} else {
				var ok bool
				if s, ok = keys.find(sym); !ok {
					lacking[sym] = place{}
				}
			}
			all[i] = append(all[i], s)
		}
	}
	if len(lacking) == 0 {
		return all, nil
	}
	free, err := lender.places(len(lacking))
	if err != nil {
		return nil, err
	}
	if len(free) < len(lacking) {
		return nil, desktop.Errorf(desktop.Invalid, "the keyboard layout lacks %d of these keys and has room for %d; press them in several requests",
			len(lacking), len(free))
	}
	meanings := make(map[place]Keysym)
	for sym := range lacking {
		spot := free[len(meanings)]
		lacking[sym], meanings[spot] = spot, sym
	}
	for i, combination := range p.combinations {
		for j, sym := range combination {
			if spot, ok := lacking[sym]; ok {
				all[i][j] = spot.stroke()
			}
		}
	}
	if err := lender.bind(meanings); err != nil {
		lender.giveBack()
		return nil, err
	}
	return all, nil
}

// reach is the keys to press for a level in addition to what is pressed already.
func (d *Display) reach(keys *keymap, level byte) []byte {
	var codes []byte
	for _, m := range [...]struct{ bit, code byte }{{levelShift, keys.shift}, {levelAltGr, keys.altGr}} {
		if level&m.bit == 0 || m.code == 0 {
			continue
		}
		held := false
		for _, code := range d.hands.keys {
			held = held || keys.modifiers[code]&keys.modifiers[m.code] != 0
		}
		for _, down := range d.hands.staying {
			for _, code := range down.codes {
				held = held || keys.modifiers[code]&keys.modifiers[m.code] != 0
			}
		}
		if !held {
			codes = append(codes, m.code)
		}
	}
	return codes
}

func (p press) touchesLocks() bool {
	for _, combination := range p.combinations {
		for _, sym := range combination {
			if sym.lock() {
				return true
			}
		}
	}
	return false
}
