package x11

import (
	"context"
	"time"

	"bureau/desktop"
)

// press is a desktop.Press that has been checked.
type press struct {
	combinations []Combination
	repeat       int
	hold         time.Duration
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
	return press{combinations, max(1, a.Repeat), time.Duration(a.HoldMs) * time.Millisecond}, nil
}

func (p press) pauses() time.Duration {
	return time.Duration(p.repeat*len(p.combinations)) * p.hold
}

func (p press) do(ctx context.Context, d *Display) (err error) {
	keys, err := d.keymap()
	if err != nil {
		return err
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
		plain, err := d.plain(keys, false)
		if err != nil {
			return err
		}
		defer plain()
	}
	state, err := d.xkb.state()
	if err != nil {
		return d.gone(err)
	}
	numLock := byte(0)
	if s, ok := keys.strokes[symNumLock]; ok {
		numLock = keys.modifiers[s.code] & state.locked
	}
	for range p.repeat {
		for i, combination := range p.combinations {
			if err := ctx.Err(); err != nil {
				return err
			}
			if len(lender.lent) > 0 {
				if readers, err = d.alsoFocused(readers); err != nil {
					return err
				}
			}
			for j, sym := range combination {
				s := strokes[i][j]
				if numLock != 0 && sym.keypad() {
					s.level ^= levelShift
				}
				d.reach(keys, s.level)
				if !d.hands.holds(s.code) {
					d.hands.keyDown(s.code)
					sent++
				}
			}
			if p.hold > 0 {
				if err := d.pause(ctx, p.hold); err != nil {
					return err
				}
			}
			d.hands.release()
		}
	}
	return nil
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

// reach holds what a level needs in addition to what the combination holds already.
func (d *Display) reach(keys *keymap, level byte) {
	for _, m := range [...]struct{ bit, code byte }{{levelShift, keys.shift}, {levelAltGr, keys.altGr}} {
		if level&m.bit == 0 || m.code == 0 {
			continue
		}
		held := false
		for _, code := range d.hands.keys {
			held = held || keys.modifiers[code]&keys.modifiers[m.code] != 0
		}
		if !held {
			d.hands.keyDown(m.code)
		}
	}
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
