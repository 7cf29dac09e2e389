package x11

import (
	"github.com/jezek/xgb/xproto"
)

// The levels of a key that we reach, as bits: Shift and AltGr.
const (
	levelShift byte = 1 << iota
	levelAltGr
)

// stroke is a key and the level on which it is pressed.
type stroke struct {
	code  byte
	level byte
}

// keymap is the server's keyboard layout as the core protocol shows it: per key, two columns for
// the first group (plain, Shift), two for the second, then the first group's AltGr levels.
type keymap struct {
	first     byte
	width     int
	syms      []Keysym
	modifiers map[byte]byte // keycode to its modifier bit
	shift     byte          // keycodes; 0 when the layout has none
	altGr     byte
	strokes   map[Keysym]stroke
	runes     map[rune]stroke
}

func (d *Display) keymap() (*keymap, error) {
	first, last := byte(d.setup.MinKeycode), byte(d.setup.MaxKeycode)
	mapCookie := xproto.GetKeyboardMapping(d.x, xproto.Keycode(first), last-first+1)
	modCookie := xproto.GetModifierMapping(d.x)
	mapping, err := mapCookie.Reply()
	if err != nil {
		return nil, d.gone(err)
	}
	modifiers, err := modCookie.Reply()
	if err != nil {
		return nil, d.gone(err)
	}
	syms := make([]Keysym, len(mapping.Keysyms))
	for i, sym := range mapping.Keysyms {
		syms[i] = Keysym(sym)
	}
	held := make(map[byte]byte)
	per := int(modifiers.KeycodesPerModifier)
	for i, code := range modifiers.Keycodes {
		if code != 0 {
			held[byte(code)] |= 1 << (i / per)
		}
	}
	return newKeymap(first, int(mapping.KeysymsPerKeycode), syms, held), nil
}

func newKeymap(first byte, width int, syms []Keysym, modifiers map[byte]byte) *keymap {
	k := &keymap{first: first, width: width, syms: syms, modifiers: modifiers,
		strokes: make(map[Keysym]stroke), runes: make(map[rune]stroke)}
	for i := range k.count() {
		code := first + byte(i)
		switch sym := k.sym(code, 0); {
		case sym == symShift && k.shift == 0 && modifiers[code]&xproto.ModMaskShift != 0:
			k.shift = code
		case sym == symLevel3 && k.altGr == 0 && modifiers[code] != 0:
			k.altGr = code
		}
	}
	// Low levels first, so that a character on several is entered the simplest way.
	for _, level := range []struct {
		column int
		level  byte
	}{{0, 0}, {1, levelShift}, {4, levelAltGr}, {5, levelAltGr | levelShift}} {
		if level.level&levelShift != 0 && k.shift == 0 || level.level&levelAltGr != 0 && k.altGr == 0 {
			continue
		}
		for i := range k.count() {
			code := first + byte(i)
			sym := k.sym(code, level.column)
			if sym == noSymbol {
				continue
			}
			s := stroke{code, level.level}
			if _, taken := k.strokes[sym]; !taken {
				k.strokes[sym] = s
			}
			if r := sym.Rune(); r != 0 {
				if _, taken := k.runes[r]; !taken {
					k.runes[r] = s
				}
			}
		}
	}
	return k
}

func (k *keymap) count() int {
	if k.width == 0 {
		return 0
	}
	return len(k.syms) / k.width
}

// sym is the keysym in a column of a key, noSymbol beyond the last column.
func (k *keymap) sym(code byte, column int) Keysym {
	if column >= k.width {
		return noSymbol
	}
	return k.syms[int(code-k.first)*k.width+column]
}

// row is all columns of a key.
func (k *keymap) row(code byte) []Keysym {
	at := int(code-k.first) * k.width
	return k.syms[at : at+k.width]
}

// find is how the layout enters a keysym, or the character that it stands for.
func (k *keymap) find(sym Keysym) (stroke, bool) {
	s, ok := k.strokes[sym]
	if !ok {
		if r := sym.Rune(); r != 0 {
			s, ok = k.runes[r]
		}
	}
	return s, ok
}

// spares are the keys that may be lent out: those without any meaning first, then the multimedia
// keys, which no text needs.
func (k *keymap) spares() (unused, multimedia []byte) {
	for i := range k.count() {
		code := k.first + byte(i)
		if k.modifiers[code] != 0 {
			continue
		}
		empty := true
		for _, sym := range k.row(code) {
			empty = empty && sym == noSymbol
		}
		first := k.sym(code, 0)
		switch {
		case empty:
			unused = append(unused, code)
		case first >= 0x1008ff00 && first <= 0x1008ffff, first >= 0x10081000 && first <= 0x10081fff:
			multimedia = append(multimedia, code)
		}
	}
	return unused, multimedia
}
