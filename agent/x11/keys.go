package x11

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"bureau/desktop"
)

// Combination is keys pressed together: down in this order, up in the reverse.
type Combination []Keysym

// maxCombination is the most keys of one combination; nobody has more fingers.
const maxCombination = 10

// aliases are the names that are not X11's own, in lower case: the DOM's (KeyboardEvent.key and
// .code) and those that people and models write. Meta is the key with the logo, as in browsers.
var aliases = map[string]string{
	"enter": "Return", "esc": "Escape", "bksp": "BackSpace", "back_space": "BackSpace",
	"del": "Delete", "ins": "Insert", "spacebar": "space", "arrowup": "Up", "arrowdown": "Down",
	"arrowleft": "Left", "arrowright": "Right", "pageup": "Prior", "pagedown": "Next", "pgup": "Prior",
	"pgdn": "Next", "pgdown": "Next", "page up": "Prior", "page down": "Next",
	"contextmenu": "Menu", "apps": "Menu", "printscreen": "Print", "prtsc": "Print", "prtscr": "Print",
	"prtscn": "Print", "sysrq": "Sys_Req", "capslock": "Caps_Lock", "caps": "Caps_Lock",
	"numlock": "Num_Lock", "scrolllock": "Scroll_Lock",

	"ctrl": "Control_L", "control": "Control_L", "controlleft": "Control_L", "controlright": "Control_R",
	"ctrl_l": "Control_L", "ctrl_r": "Control_R", "shift": "Shift_L", "shiftleft": "Shift_L", "shiftright": "Shift_R",
	"alt": "Alt_L", "altleft": "Alt_L", "altright": "Alt_R", "option": "Alt_L", "opt": "Alt_L",
	"altgraph": "ISO_Level3_Shift", "altgr": "ISO_Level3_Shift",
	"super": "Super_L", "win": "Super_L", "windows": "Super_L", "meta": "Super_L", "cmd": "Super_L",
	"command": "Super_L", "os": "Super_L", "logo": "Super_L", "metaleft": "Super_L", "metaright": "Super_R",
	"osleft": "Super_L", "osright": "Super_R", "hyper": "Hyper_L",

	"quote": "apostrophe", "backquote": "grave", "backtick": "grave", "intlbackslash": "less",
	"dash": "minus", "dot": "period", "equals": "equal",
	"convert": "Henkan", "nonconvert": "Muhenkan", "kanamode": "Kana_Lock", "hangulmode": "Hangul",
	"hanjamode": "Hangul_Hanja", "zenkakuhankaku": "Zenkaku_Hankaku",

	"numpadadd": "KP_Add", "numpadsubtract": "KP_Subtract", "numpadmultiply": "KP_Multiply",
	"numpaddivide": "KP_Divide", "numpaddecimal": "KP_Decimal", "numpadenter": "KP_Enter",
	"numpadequal": "KP_Equal", "numpadcomma": "KP_Separator",

	"audiovolumeup": "XF86AudioRaiseVolume", "volumeup": "XF86AudioRaiseVolume",
	"audiovolumedown": "XF86AudioLowerVolume", "volumedown": "XF86AudioLowerVolume",
	"audiovolumemute": "XF86AudioMute", "volumemute": "XF86AudioMute",
	"mediaplaypause": "XF86AudioPlay", "mediaplay": "XF86AudioPlay", "mediapause": "XF86AudioPause",
	"mediastop": "XF86AudioStop", "mediatracknext": "XF86AudioNext", "mediatrackprevious": "XF86AudioPrev",
	"brightnessup": "XF86MonBrightnessUp", "brightnessdown": "XF86MonBrightnessDown",
	"browserback": "XF86Back", "browserforward": "XF86Forward", "browserrefresh": "XF86Refresh",
	"browserhome": "XF86HomePage", "browsersearch": "XF86Search", "browserfavorites": "XF86Favorites",
	"browserstop": "XF86Stop", "launchmail": "XF86Mail", "launchcalculator": "XF86Calculator",
	"eject": "XF86Eject", "power": "XF86PowerOff", "wakeup": "XF86WakeUp",
}

func init() {
	for c := 'a'; c <= 'z'; c++ {
		aliases["key"+string(c)] = string(c)
	}
	for c := '0'; c <= '9'; c++ {
		aliases["digit"+string(c)] = string(c)
		aliases["numpad"+string(c)] = "KP_" + string(c)
	}
}

// ParseKeys reads combinations as people write them, such as "ctrl+shift+t", "Return" or "é". A
// name is X11's (as in xdotool), the DOM's or a usual short one, in any case; a single character is
// itself; "+" is a key where a name is expected ("ctrl++"). A single letter means its case only when
// it stands alone: "A" enters a capital, while "ctrl+A" is "ctrl+a" as on the label of a key
// (xdotool would add Shift; say "ctrl+shift+a").
//
// The error is desktop.Invalid and names the key.
func ParseKeys(keys []string) ([]Combination, error) {
	combinations := make([]Combination, 0, len(keys))
	for _, text := range keys {
		combination, err := parseCombination(text)
		if err != nil {
			return nil, err
		}
		combinations = append(combinations, combination)
	}
	return combinations, nil
}

// parseModifiers reads a list of keys that are held during something else.
func parseModifiers(names []string) (Combination, error) {
	if len(names) > desktop.MaxModifiers {
		return nil, desktop.Errorf(desktop.Invalid, "modifiers has more than %d entries", desktop.MaxModifiers)
	}
	var held Combination
	for _, name := range names {
		combination, err := parseCombination(name)
		if err != nil {
			return nil, desktop.Errorf(desktop.Invalid, "modifiers: %w", err)
		}
		for _, sym := range combination {
			if !sym.modifier() {
				return nil, desktop.Errorf(desktop.Invalid, "modifiers: %q is not a modifier such as shift, ctrl, alt or super", name)
			}
			held = append(held, sym)
		}
	}
	return held, nil
}

func parseCombination(text string) (Combination, error) {
	if len(text) > 200 {
		return nil, desktop.Errorf(desktop.Invalid, "a key combination of %d bytes is too long", len(text))
	}
	names := splitCombination(text)
	if len(names) > maxCombination {
		return nil, desktop.Errorf(desktop.Invalid, "key %q has more than %d keys", text, maxCombination)
	}
	combination := make(Combination, 0, len(names))
	for _, name := range names {
		sym, ok := keysymNamed(name)
		switch {
		case ok:
		case text == "":
			return nil, desktop.Errorf(desktop.Invalid, "a key is empty")
		case name == "":
			return nil, desktop.Errorf(desktop.Invalid, "key %q lacks a key beside a +", text)
		default:
			hint := ""
			if strings.ContainsAny(name, " \t\n") {
				hint = "; keys to press one after another are a list"
			} else if near := nearName(name); near != "" {
				hint = "; did you mean " + near + "?"
			}
			return nil, desktop.Errorf(desktop.Invalid, "there is no key called %q%s", name, hint)
		}
		if len(names) > 1 {
			if r := sym.Rune(); r != 0 {
				if lower := unicode.ToLower(r); lower != r {
					sym = keysymOf(lower)
				}
			}
		}
		combination = append(combination, sym)
	}
	return combination, nil
}

// splitCombination cuts at each + that does not stand where a name is expected.
func splitCombination(text string) []string {
	if utf8.RuneCountInString(text) == 1 {
		return []string{text}
	}
	var names []string
	for rest := text; ; {
		trimmed := strings.TrimLeft(rest, " ")
		if strings.HasPrefix(trimmed, "+") {
			names, rest = append(names, "+"), strings.TrimLeft(trimmed[1:], " ")
			if rest == "" {
				return names
			}
			if rest[0] != '+' {
				return append(names, "+"+rest) // as in "+x", which is no name
			}
			rest = rest[1:]
			continue
		}
		name, tail, more := strings.Cut(rest, "+")
		names = append(names, strings.TrimSpace(name))
		if !more {
			return names
		}
		rest = tail
	}
}

func keysymNamed(name string) (Keysym, bool) {
	if r, size := utf8.DecodeRuneInString(name); size == len(name) && size > 0 {
		if r == utf8.RuneError || checkRune(r) != nil {
			return noSymbol, false
		}
		return keysymOf(r), true
	}
	index := keysyms()
	if sym, ok := index.exact[name]; ok && sym != noSymbol && sym != 0xffffff {
		return sym, true
	}
	folded := strings.ToLower(name)
	if alias, ok := aliases[folded]; ok {
		if len(alias) == 1 {
			return Keysym(alias[0]), true
		}
		return index.exact[alias], true
	}
	if sym, ok := index.folded[folded]; ok && sym != 0xffffff { // not VoidSymbol
		return sym, true
	}
	// X11 names any character by its code point: U20AC.
	if len(folded) >= 5 && len(folded) <= 7 && folded[0] == 'u' {
		if n, err := strconv.ParseUint(folded[1:], 16, 32); err == nil && checkRune(rune(n)) == nil {
			return keysymOf(rune(n)), true
		}
	}
	return noSymbol, false
}

// nearName is the name that a mistyped one is most like, "" when none is near.
func nearName(name string) string {
	folded := strings.ToLower(name)
	if len(folded) < 3 || len(folded) > 30 {
		return ""
	}
	best, bestDistance := "", 1+min(2, len(folded)/3)
	consider := func(candidate, spelled string) {
		if d := distance(folded, candidate); d < bestDistance || d == bestDistance && best != "" && spelled < best {
			best, bestDistance = spelled, d
		}
	}
	for _, known := range [...]string{"Return", "Escape", "BackSpace", "Delete", "Insert", "Page_Up", "Page_Down", "Control_L"} {
		consider(strings.ToLower(known), known)
	}
	for alias := range aliases {
		consider(alias, alias)
	}
	if best != "" {
		return best
	}
	for known := range keysyms().exact {
		consider(strings.ToLower(known), known)
	}
	return best
}

// distance counts the single letters to change, add, drop or swap with their neighbour to get from
// a to b.
func distance(a, b string) int {
	if diff := len(a) - len(b); diff > 3 || diff < -3 {
		return 4
	}
	before := make([]int, len(b)+1)
	last, row := make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// checkRune says why no key can enter a character.
func checkRune(r rune) error {
	switch {
	case r == '\n' || r == '\t' || r == '\r':
		return nil
	case unicode.IsControl(r):
		return desktop.Errorf(desktop.Invalid, "the control character U+%04X, which no key enters", r)
	case !utf8.ValidRune(r), r&0xfffe == 0xfffe, r >= 0xfdd0 && r <= 0xfdef:
		return desktop.Errorf(desktop.Invalid, "U+%04X, which is not a character", r)
	}
	return nil
}
