package x11

import (
	"strings"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// A stroke whose release comes late, as on a machine that is busy with something else, is one
// character; a key that is held down on purpose repeats, as under a finger.
func TestRepeat(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	presses := func() int {
		t.Helper()
		count := 0
		for _, event := range c.events() {
			if strings.HasPrefix(event, "key a down") {
				count++
			}
		}
		return count
	}
	const long = 1200 * time.Millisecond // the server repeats after 660 ms
	late := func(begin func(*keymap) (func(), error)) {
		t.Helper()
		inTurn(t, d, func() {
			keys, err := d.keymap()
			if err != nil {
				t.Fatal(err)
			}
			end, err := begin(keys)
			if err != nil {
				t.Fatal(err)
			}
			s, _ := keys.find('a')
			d.hands.fake(xproto.KeyPress, s.code)
			d.net.flush()
			time.Sleep(long)
			d.hands.fake(xproto.KeyRelease, s.code)
			end()
			if _, err := xproto.GetInputFocus(d.x).Reply(); err != nil {
				t.Fatal(err)
			}
		})
	}
	before := func(*keymap) (func(), error) { return func() {}, nil }
	amid := func(keys *keymap) (func(), error) { return d.plain(keys, true, false) }
	held := func(hold time.Duration) {
		t.Helper()
		act(t, d, desktop.Action{Press: &desktop.Press{Keys: []string{"a"}, HoldMs: int(hold.Milliseconds())}})
	}
	late(before)
	if n := presses(); n < 2 {
		t.Fatalf("a key that is down for %s was pressed %d times by the server: it repeats nothing, and this shows nothing", long, n)
	}
	late(amid)
	if n := presses(); n != 1 {
		t.Errorf("amid typing, a late release makes it %d characters", n)
	}
	held(long)
	if n := presses(); n < 2 {
		t.Errorf("a key held for %s is pressed %d times", long, n)
	}
	act(t, d, desktop.Action{Press: &desktop.Press{Keys: []string{"a"}, Action: "down"}})
	time.Sleep(long)
	act(t, d, desktop.Action{Press: &desktop.Press{Keys: []string{"a"}, Action: "up"}})
	if n := presses(); n < 2 {
		t.Errorf("a key left down for %s is pressed %d times", long, n)
	}
	act(t, d, typed("b"), pressed("b"))
	late(before)
	if n := presses(); n < 2 {
		t.Errorf("others' keys repeat no more, %d times", n)
	}

	// An agent dies while it types.
	inTurn(t, d, func() { d.xkb.repeat(false) })
	openDisplay(t, display)
	late(before)
	if n := presses(); n < 2 {
		t.Errorf("after an agent that died, keys repeat no more, %d times", n)
	}
}
