package x11

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"
	"sync"
)

//go:generate go run gen_keysyms.go

// Keysym is X11's number for what a key means.
type Keysym uint32

// The keysyms that the code needs by name.
const (
	noSymbol       Keysym = 0
	symTab         Keysym = 0xff09
	symReturn      Keysym = 0xff0d
	symShift       Keysym = 0xffe1
	symLevel3      Keysym = 0xfe03 // ISO_Level3_Shift, AltGr
	symNumLock     Keysym = 0xff7f
	unicodeKeysyms Keysym = 0x1000000
)

//go:embed keysyms.txt
var keysymTable string

// keysymIndex is the table of names, read once when it is first needed.
type keysymIndex struct {
	exact   map[string]Keysym // as X11 spells it
	folded  map[string]Keysym // in lower case; where two differ in case only, the lower-case one
	names   map[Keysym]string
	unicode map[Keysym]rune
}

var keysyms = sync.OnceValue(func() *keysymIndex {
	x := &keysymIndex{
		exact:   make(map[string]Keysym),
		folded:  make(map[string]Keysym),
		names:   make(map[Keysym]string),
		unicode: make(map[Keysym]rune),
	}
	for line := range strings.Lines(keysymTable) {
		fields := strings.Fields(line)
		n, err := strconv.ParseUint(fields[1], 16, 32)
		if err != nil {
			panic("x11: keysyms.txt: " + line) // a test reads the whole table
		}
		name, sym := fields[0], Keysym(n)
		x.exact[name] = sym
		fold := strings.ToLower(name)
		if _, taken := x.folded[fold]; !taken || fold == name {
			x.folded[fold] = sym
		}
		if _, taken := x.names[sym]; !taken {
			x.names[sym] = name
		}
		if len(fields) > 2 {
			r, err := strconv.ParseUint(fields[2], 16, 32)
			if err != nil {
				panic("x11: keysyms.txt: " + line)
			}
			x.unicode[sym] = rune(r)
		}
	}
	return x
})

// String is the keysym's X11 name, or its number.
func (s Keysym) String() string {
	if name, ok := keysyms().names[s]; ok {
		return name
	}
	if s > unicodeKeysyms && s <= unicodeKeysyms+0x10ffff {
		return fmt.Sprintf("U%04X", uint32(s-unicodeKeysyms))
	}
	return "0x" + strconv.FormatUint(uint64(s), 16)
}

// Rune is the character that the keysym enters, 0 when it enters none.
func (s Keysym) Rune() rune {
	switch {
	case s >= 0x20 && s <= 0x7e, s >= 0xa0 && s <= 0xff:
		return rune(s)
	case s >= unicodeKeysyms+0x100 && s <= unicodeKeysyms+0x10ffff:
		return rune(s - unicodeKeysyms)
	case s >= 0xfd00 && s < unicodeKeysyms: // function, modifier and keypad keys
		return 0
	}
	return keysyms().unicode[s]
}

// keysymOf is the keysym that enters a character in every toolkit. For characters beyond Latin-1
// it is the one that says the code point; the older ones of single alphabets mean the same where a
// layout has them.
func keysymOf(r rune) Keysym {
	switch {
	case r == '\n' || r == '\r':
		return symReturn
	case r == '\t':
		return symTab
	case r < 0x100:
		return Keysym(r)
	}
	return unicodeKeysyms + Keysym(r)
}

// modifier tells whether the key acts only while it is held, together with others.
func (s Keysym) modifier() bool {
	switch {
	case s >= 0xffe1 && s <= 0xffe4, s >= 0xffe7 && s <= 0xffee: // shift, control, meta, alt, super, hyper
		return true
	case s == symLevel3, s == 0xff7e: // Mode_switch
		return true
	}
	return false
}

// managers tells whether the key, alone or with others, is one that window managers listen to, to
// switch windows above all.
func (s Keysym) managers() bool {
	return s >= 0xffe7 && s <= 0xffee // meta, alt, super, hyper
}

// lock tells whether pressing the key changes how later keys are read.
func (s Keysym) lock() bool {
	switch {
	case s == 0xffe5, s == 0xffe6, s == 0xff7f: // Caps_Lock, Shift_Lock, Num_Lock
		return true
	case s >= 0xfe01 && s <= 0xfe0f: // the ISO locks and groups
		return s != symLevel3
	}
	return false
}

// keypad tells whether the key is one of those that Num Lock turns over.
func (s Keysym) keypad() bool { return s >= 0xff95 && s <= 0xffb9 }
