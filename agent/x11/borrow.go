package x11

import (
	"context"
	"encoding/binary"
	"slices"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// Borrowed keys are spare ones that mean something else for the moment. What they meant before is
// kept in a property of the root window before the first is changed: it lives exactly as long as
// the server's keymap, and the agent that comes after a crash finds it there.

// lender finds keys to borrow and gives them back.
type lender struct {
	d    *Display
	keys *keymap
	lent []byte // keycodes whose meaning has been changed
	syms map[byte][2]Keysym
}

// places finds room for n characters, and as much as there is when that is less. The keys without
// a meaning come first; multimedia keys that a program listens to (a volume control grabs them) are
// left alone, as it would get the strokes.
func (l *lender) places(n int) ([]place, error) {
	shift := l.keys.shift != 0
	unused, multimedia := l.keys.spares()
	free := places(unused, shift)
	if len(free) >= n {
		return free, nil
	}
	quiet, err := l.d.notGrabbed(multimedia)
	if err != nil {
		return nil, err
	}
	if free = places(append(unused, quiet...), shift); len(free) == 0 {
		return nil, desktop.Errorf(desktop.Unavailable, "the keyboard layout has no spare key for what it lacks")
	}
	return free, nil
}

// notGrabbed keeps the keys that no other client has grabbed, by trying to: the server refuses a
// second grab.
func (d *Display) notGrabbed(codes []byte) ([]byte, error) {
	cookies := make([]xproto.GrabKeyCookie, len(codes))
	for i, code := range codes {
		cookies[i] = xproto.GrabKeyChecked(d.x, false, d.root, xproto.ModMaskAny, xproto.Keycode(code),
			xproto.GrabModeAsync, xproto.GrabModeAsync)
		xproto.UngrabKey(d.x, xproto.Keycode(code), d.root, xproto.ModMaskAny)
	}
	var free []byte
	for i, cookie := range cookies {
		switch err := cookie.Check(); err.(type) {
		case nil:
			free = append(free, codes[i])
		case xproto.AccessError:
		default:
			return nil, d.gone(err)
		}
	}
	return free, nil
}

// bind gives places new meanings. The journal is written before the first key changes.
func (l *lender) bind(meanings map[place]Keysym) error {
	if l.syms == nil {
		l.syms = make(map[byte][2]Keysym)
	}
	var codes []byte
	for p, sym := range meanings {
		pair := l.syms[p.code]
		if p.shifted {
			pair[1] = sym
		} else {
			pair[0] = sym
		}
		l.syms[p.code] = pair
		if !slices.Contains(codes, p.code) {
			codes = append(codes, p.code)
		}
		if !slices.Contains(l.lent, p.code) {
			l.lent = append(l.lent, p.code)
		}
	}
	if err := l.d.writeJournal(l.keys, l.lent); err != nil {
		return err
	}
	rows := make(map[byte][]Keysym)
	for _, code := range codes {
		pair := l.syms[code]
		// A key with one keysym only would get the other case of a letter on its Shift level, and
		// a capital alone would be moved there. Both levels filled are taken as they are.
		if pair[0] == noSymbol {
			pair[0] = pair[1]
		}
		if pair[1] == noSymbol {
			pair[1] = pair[0]
		}
		rows[code] = pair[:]
	}
	return l.d.changeKeys(rows, 2)
}

// giveBack restores what the borrowed keys meant. The caller has fenced.
func (l *lender) giveBack() error {
	if len(l.lent) == 0 {
		return nil
	}
	rows := make(map[byte][]Keysym)
	for _, code := range l.lent {
		rows[code] = l.keys.row(code)
	}
	if err := l.d.changeKeys(rows, l.keys.width); err != nil {
		return err
	}
	l.lent, l.syms = nil, nil
	return l.d.gone(xproto.DeletePropertyChecked(l.d.x, l.d.root, l.d.atoms.journal).Check())
}

// changeKeys sets the meaning of keys, with one request for each run of neighbours.
func (d *Display) changeKeys(rows map[byte][]Keysym, width int) error {
	codes := make([]byte, 0, len(rows))
	for code := range rows {
		codes = append(codes, code)
	}
	slices.Sort(codes)
	var last xproto.ChangeKeyboardMappingCookie
	for start := 0; start < len(codes); {
		end := start + 1
		for end < len(codes) && codes[end] == codes[end-1]+1 {
			end++
		}
		var syms []xproto.Keysym
		for _, code := range codes[start:end] {
			for _, sym := range rows[code] {
				syms = append(syms, xproto.Keysym(sym))
			}
		}
		last = xproto.ChangeKeyboardMappingChecked(d.x, byte(end-start), xproto.Keycode(codes[start]), byte(width), syms)
		start = end
	}
	if last.Cookie == nil {
		return nil
	}
	return d.gone(last.Check())
}

// The journal is one number for the columns and then, per key, its code and its columns.
func (d *Display) writeJournal(keys *keymap, codes []byte) error {
	data := binary.LittleEndian.AppendUint32(nil, uint32(keys.width))
	for _, code := range codes {
		data = binary.LittleEndian.AppendUint32(data, uint32(code))
		for _, sym := range keys.row(code) {
			data = binary.LittleEndian.AppendUint32(data, uint32(sym))
		}
	}
	return d.gone(xproto.ChangePropertyChecked(d.x, xproto.PropModeReplace, d.root, d.atoms.journal,
		xproto.AtomCardinal, 32, uint32(len(data)/4), data).Check())
}

// giveBackJournal restores the keys that a former agent had borrowed when it died. Any program of
// the session could have written the property, so what it says is checked.
func (d *Display) giveBackJournal() error {
	property, err := xproto.GetProperty(d.x, false, d.root, d.atoms.journal, xproto.AtomCardinal, 0, 1<<16).Reply()
	if err != nil {
		return d.gone(err)
	}
	if property.Format != 32 || len(property.Value) < 4 {
		return nil
	}
	numbers := make([]uint32, len(property.Value)/4)
	for i := range numbers {
		numbers[i] = binary.LittleEndian.Uint32(property.Value[4*i:])
	}
	width, rest := numbers[0], numbers[1:]
	if width == 0 || width > 255 || len(rest)%int(width+1) != 0 {
		d.log.Warn("the record of borrowed keys is damaged; leaving the keymap")
		return nil
	}
	rows := make(map[byte][]Keysym)
	for entry := range slices.Chunk(rest, int(width+1)) {
		if entry[0] < uint32(d.setup.MinKeycode) || entry[0] > uint32(d.setup.MaxKeycode) {
			d.log.Warn("the record of borrowed keys is damaged; leaving the keymap")
			return nil
		}
		for _, sym := range entry[1:] {
			rows[byte(entry[0])] = append(rows[byte(entry[0])], Keysym(sym))
		}
	}
	for _, row := range rows {
		if len(row) != int(width) {
			d.log.Warn("the record of borrowed keys is damaged; leaving the keymap")
			return nil
		}
	}
	d.log.Info("giving back the keys that a former agent had borrowed", "keys", len(rows))
	if err := d.changeKeys(rows, int(width)); err != nil {
		return err
	}
	return d.gone(xproto.DeletePropertyChecked(d.x, d.root, d.atoms.journal).Check())
}

// returnKeys fences, whatever became of the call's context, and gives back.
func (l *lender) returnKeys(readers []reader, strokes int) error {
	if len(l.lent) == 0 {
		return nil
	}
	if err := l.d.fence(context.Background(), readers, strokes); err != nil {
		return err
	}
	return l.giveBack()
}
