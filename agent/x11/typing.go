package x11

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// typing is a desktop.Type that has been checked.
type typing struct {
	text  []rune
	delay time.Duration
}

func checkType(a desktop.Type) (step, error) {
	if !utf8.ValidString(a.Text) {
		return nil, desktop.Errorf(desktop.Invalid, "text is not valid UTF-8")
	}
	if n := utf8.RuneCountInString(a.Text); n > desktop.MaxTextLength {
		return nil, desktop.Errorf(desktop.TooLarge, "text has %d characters; at most %d are typed at once", n, desktop.MaxTextLength)
	}
	if err := checkRange("delayMs", a.DelayMs, 0, desktop.MaxDelayMs); err != nil {
		return nil, err
	}
	position := 0
	for _, r := range a.Text {
		if err := checkRune(r); err != nil {
			return nil, desktop.Errorf(desktop.Invalid, "text has at position %d %w", position, err)
		}
		position++
	}
	text := strings.ReplaceAll(a.Text, "\r\n", "\n")
	text = strings.ReplaceAll(text, "\r", "\n")
	return typing{[]rune(text), time.Duration(a.DelayMs) * time.Millisecond}, nil
}

func (t typing) pauses() time.Duration { return time.Duration(len(t.text)) * t.delay }

func (t typing) do(ctx context.Context, d *Display) (err error) {
	if len(t.text) == 0 {
		return nil
	}
	if err := d.refocused(ctx); err != nil {
		return err
	}
	keys, err := d.keymap()
	if err != nil {
		return err
	}
	plain, err := d.plain(keys, true, false)
	if err != nil {
		return err
	}
	defer plain()

	has := func(r rune) (stroke, bool) { return keys.find(keysymOf(r)) }
	lender := &lender{d: d, keys: keys}
	var free []place
	var readers []reader // who has been given strokes of borrowed keys
	if n := missing(t.text, has); n > 0 {
		if free, err = lender.places(n); err != nil {
			return err
		}
	}
	sent := 0 // strokes since the last fence
	defer func() {
		d.hands.release()
		if returnErr := lender.returnKeys(readers, sent); err == nil {
			err = returnErr
		}
	}()
	for i, chunk := range plan(t.text, has, free) {
		if i > 0 {
			if err := d.fence(ctx, readers, sent); err != nil {
				return err
			}
			sent, readers = 0, nil
		}
		if free != nil {
			// The focus may move while the text is typed; whoever has it before or after is asked.
			if readers, err = d.alsoFocused(readers); err != nil {
				return err
			}
		}
		if len(chunk.bind) > 0 {
			meanings := make(map[place]Keysym, len(chunk.bind))
			for p, r := range chunk.bind {
				meanings[p] = keysymOf(r)
			}
			if err := lender.bind(meanings); err != nil {
				return err
			}
		}
		for _, s := range chunk.strokes {
			if err := ctx.Err(); err != nil {
				return err
			}
			d.level(keys, s.level)
			d.hands.stroke(s.code)
			sent++
			if t.delay > 0 {
				if err := d.pause(ctx, t.delay); err != nil {
					return err
				}
			}
		}
		if free != nil {
			if readers, err = d.alsoFocused(readers); err != nil {
				return err
			}
		}
	}
	return nil
}

// alsoFocused adds whoever reads the keyboard now.
func (d *Display) alsoFocused(readers []reader) ([]reader, error) {
	now, err := d.focused()
	if err != nil {
		return nil, err
	}
	for _, r := range readers {
		if r == now {
			return readers, nil
		}
	}
	return append(readers, now), nil
}

// level holds exactly the keys of a level. They stay held from one character to the next of the
// same level, as in a person's hands.
func (d *Display) level(keys *keymap, want byte) {
	for _, m := range [...]struct{ bit, code byte }{{levelShift, keys.shift}, {levelAltGr, keys.altGr}} {
		held := m.code != 0 && d.hands.holds(m.code)
		switch {
		case want&m.bit != 0 && !held:
			d.hands.keyDown(m.code)
		case want&m.bit == 0 && held:
			d.hands.keyUp(m.code)
		}
	}
}

// plain makes the keyboard read every key for what its labels say: no Caps Lock, no latches, the
// first layout; and no modifier that another program holds, when held is set. No key repeats, unless
// repeat is set. The function that it returns puts all of it back.
func (d *Display) plain(keys *keymap, held, repeat bool) (restore func(), err error) {
	repeating := d.xkb.askRepeats()
	state, err := d.xkb.state()
	if err != nil {
		return nil, d.gone(err)
	}
	repeats, err := repeating()
	if err != nil {
		return nil, d.gone(err)
	}
	const lock = xproto.ModMaskLock
	locks := state.locked&lock != 0 || state.sticky != 0 || state.group != 0
	if locks {
		if err := d.xkb.setLocks(lock, 0, 0); err != nil {
			return nil, d.gone(err)
		}
	}
	still := repeats && !repeat
	if still {
		d.xkb.repeat(false)
	}
	var released []byte
	if held && state.held != 0 {
		down, err := xproto.QueryKeymap(d.x).Reply()
		if err != nil {
			return nil, d.gone(err)
		}
		for code := range keys.modifiers {
			if down.Keys[code/8]&(1<<(code%8)) != 0 {
				released = append(released, code)
				d.hands.fake(xproto.KeyRelease, code)
			}
		}
	}
	return func() {
		d.hands.release()
		for _, code := range released {
			d.hands.fake(xproto.KeyPress, code)
		}
		if still {
			d.xkb.repeat(true)
		}
		if locks {
			if err := d.xkb.setLocks(lock, state.locked&lock, state.group); err != nil {
				d.log.Warn("locks of the keyboard could not be put back", "error", err)
			}
		}
	}, nil
}
