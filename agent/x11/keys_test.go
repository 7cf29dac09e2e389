package x11

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"bureau/desktop"
)

func TestParseKeys(t *testing.T) {
	for text, want := range map[string]string{
		"ctrl+shift+t": "[Control_L Shift_L t]", "Return": "[Return]", "ENTER": "[Return]", "enter": "[Return]",
		"ctrl++": "[Control_L plus]", "+": "[plus]", "plus": "[plus]", "++a": "[plus a]", "ctrl+plus": "[Control_L plus]",
		"shift++": "[Shift_L plus]", " ": "[space]", "Space": "[space]", "SPACE": "[space]",
		"A": "[A]", "a": "[a]", "ctrl+A": "[Control_L a]", "shift+É": "[Shift_L eacute]", "é": "[eacute]", "É": "[Eacute]",
		"€": "[U20AC]", "字": "[U5B57]", "U20AC": "[U20AC]", "EuroSign": "[EuroSign]", "eacute": "[eacute]", "EACUTE": "[eacute]",
		"ArrowUp": "[Up]", "ARROWLEFT": "[Left]", "PageUp": "[Prior]", "page_down": "[Next]", "PGDN": "[Next]",
		"Backspace": "[BackSpace]", "delete": "[Delete]", "DEL": "[Delete]", "esc": "[Escape]", "Escape": "[Escape]",
		"Meta": "[Super_L]", "CMD": "[Super_L]", "super": "[Super_L]", "win": "[Super_L]", "Meta_L": "[Meta_L]",
		"OPTION": "[Alt_L]", "AltGraph": "[ISO_Level3_Shift]", "Control": "[Control_L]", "KeyA": "[a]", "Digit1": "[1]",
		"Numpad7": "[KP_7]", "KP_7": "[KP_7]", "kp_enter": "[KP_Enter]", "NumpadAdd": "[KP_Add]",
		"F1": "[F1]", "f12": "[F12]", "F24": "[F24]", "XF86AudioMute": "[XF86AudioMute]", "AudioVolumeMute": "[XF86AudioMute]",
		"BracketLeft": "[bracketleft]", "Quote": "[apostrophe]", "1": "[1]", "!": "[exclam]", "ctrl + c": "[Control_L c]",
		"ctrl+ +": "[Control_L plus]", "a+++b": "[a plus b]", "\n": "[Return]", "\t": "[Tab]", "ContextMenu": "[Menu]", "minus": "[minus]", "-": "[minus]",
		"Shift_L+shift": "[Shift_L Shift_L]", "dead_acute": "[dead_acute]", "IntlBackslash": "[less]",
	} {
		got, err := ParseKeys([]string{text})
		if err != nil || len(got) != 1 || fmt.Sprint([]Keysym(got[0])) != want {
			t.Errorf("%q: %v %v, want %s", text, got, err, want)
		}
	}
	for text, want := range map[string]string{
		"": "empty", "ctrl+": "lacks a key", "ctrl+++": "lacks a key", "Retrun": "did you mean Return?", "Exscape": "Escape",
		"\x07": "no key called", "\xff": "no key called", "ctrl+a Delete": "a list", "VoidSymbol": "no key called", "NoSymbol": "no key called",
		"éa": "no key called", strings.Repeat("a+", 20) + "a": "more than 10", strings.Repeat("x", 300): "too long", "U110000": "no key called",
	} {
		_, err := ParseKeys([]string{"a", text})
		if desktop.CodeOf(err) != desktop.Invalid || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// Every name of the table and every alias leads to a key.
func TestKeyNames(t *testing.T) {
	for name := range keysyms().exact {
		if name == "VoidSymbol" {
			continue
		}
		for _, spelled := range []string{name, strings.ToUpper(name), strings.ToLower(name)} {
			if sym, ok := keysymNamed(spelled); !ok || sym == noSymbol {
				t.Errorf("%q is no key", spelled)
			}
		}
	}
	for alias, name := range aliases {
		if sym, ok := keysymNamed(alias); !ok || sym == noSymbol {
			t.Errorf("%q, that is %q, is no key", alias, name)
		}
	}
	if n := len(keysyms().exact); n < 2400 {
		t.Errorf("the table has %d names", n)
	}
}

func FuzzParseKeys(f *testing.F) {
	for _, seed := range []string{"ctrl+shift+t", "ctrl++", "+", "++", "A", "é", "U20AC", "a b", "KP_1", "", "\xff", "ctrl+ +", " + ", "u+1"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		combinations, err := ParseKeys([]string{text})
		if err != nil {
			if desktop.CodeOf(err) != desktop.Invalid {
				t.Errorf("%q: %v is not invalid", text, err)
			}
			return
		}
		if len(combinations) != 1 || len(combinations[0]) == 0 {
			t.Fatalf("%q: %v", text, combinations)
		}
		// What was understood can be written down again with the keysyms' own names.
		names := make([]string, len(combinations[0]))
		for i, sym := range combinations[0] {
			if sym == noSymbol {
				t.Errorf("%q: a key that is none", text)
			}
			names[i] = sym.String()
		}
		again, err := ParseKeys([]string{strings.Join(names, "+")})
		if err != nil || fmt.Sprint(again) != fmt.Sprint(combinations) {
			t.Errorf("%q: %v, then %v %v", text, combinations, again, err)
		}
	})
}

func TestPress(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	before := c.keymap()
	for _, test := range []struct {
		keys []string
		want string
	}{
		{[]string{"a"}, "key a down state 0;key a up state 0"},
		{[]string{"A"}, "key Shift_L down state 0;key A down state 1;key A up state 1;key Shift_L up state 1"},
		{[]string{"ctrl+A"}, "key Control_L down state 0;key a down state 4;key a up state 4;key Control_L up state 4"},
		{[]string{"ctrl++"}, "key Control_L down state 0;key Shift_L down state 4;key plus down state 5;key plus up state 5;" +
			"key Shift_L up state 5;key Control_L up state 4"},
		{[]string{"Shift_R+1"}, "key Shift_R down state 0;key exclam down state 1;key exclam up state 1;key Shift_R up state 1"},
		{[]string{"Shift_R+exclam"}, "key Shift_R down state 0;key exclam down state 1;key exclam up state 1;key Shift_R up state 1"},
		{[]string{"ArrowUp", "F12"}, "key Up down state 0;key Up up state 0;key F12 down state 0;key F12 up state 0"},
		{[]string{"XF86AudioMute"}, "key XF86AudioMute down state 0;key XF86AudioMute up state 0"},
		{[]string{"super"}, "key Super_L down state 0;key Super_L up state 40"},
	} {
		act(t, d, pressed(test.keys...))
		equal(t, fmt.Sprint(test.keys), c.events(), strings.Split(test.want, ";"))
	}
	act(t, d, desktop.Action{Press: &desktop.Press{Keys: []string{"x"}, Repeat: 3, HoldMs: 1}})
	if got := c.events(); len(got) != 6 {
		t.Errorf("repeat: %q", got)
	}
	// Every function and keypad key, and some that the layout lacks.
	var names []string
	for i := 1; i <= 24; i++ {
		names = append(names, fmt.Sprintf("F%d", i))
	}
	for i := 0; i <= 9; i++ {
		names = append(names, fmt.Sprintf("KP_%d", i))
	}
	names = append(names, "é", "€", "字", "ctrl+ж")
	act(t, d, pressed(names...))
	if got := c.events(); len(got) < 2*len(names) {
		t.Errorf("%d events for %d keys", len(got), len(names))
	}
	if after := c.keymap(); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Error("the keymap has changed")
	}
	equal(t, "left pressed", c.down(), nil)
}

// Keys that an action leaves pressed outlive calls, also cancelled ones, until they are named.
func TestPressHalves(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	half := func(action string, keys ...string) desktop.Action {
		return desktop.Action{Press: &desktop.Press{Keys: keys, Action: action}}
	}
	const ctrl, shift, a = "key 37", "key 50", "key 38"
	act(t, d, half("down", "ctrl"))
	act(t, d, half("down", "Control"))
	equal(t, "down", c.events(), []string{"key Control_L down state 0"})
	act(t, d, pressed("c"), desktop.Action{Click: &desktop.Click{Modifiers: []string{"ctrl"}}}, pressed("ctrl+v"))
	equal(t, "with ctrl down", c.events(), []string{"key c down state 4", "key c up state 4",
		"button 1 down at 640,400 state 4", "button 1 up at 640,400 state 104", "key v down state 4", "key v up state 4"})
	equal(t, "stays", c.down(), []string{ctrl})
	act(t, d, typed("xY"))
	equal(t, "text all the same", c.events(), []string{"key Control_L up state 4", "key x down state 0", "key x up state 0",
		"key Shift_L down state 0", "key Y down state 1", "key Y up state 1", "key Shift_L up state 1", "key Control_L down state 0"})

	// A call that is cancelled leaves it alone, and so does one that is refused.
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := d.Act(ctx, []desktop.Action{{Press: &desktop.Press{Keys: []string{"ctrl+shift+z"}, HoldMs: 50_000}}})
		ended <- err
	}()
	eventually(t, "three keys", func() bool { return len(c.down()) == 3 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	equal(t, "after the cancelled call", c.down(), []string{ctrl})
	if _, err := d.Act(t.Context(), []desktop.Action{half("down", "字")}); desktop.CodeOf(err) != desktop.Conflict {
		t.Errorf("a key that the layout lacks: %v", err)
	}
	act(t, d, half("up", "Ctrl_L"))
	equal(t, "up", c.down(), nil)
	c.events()

	// A capital holds its Shift, and shares it.
	act(t, d, half("down", "A"), half("down", "shift+b"), half("up", "b", "shift"))
	equal(t, "A", c.down(), []string{a, shift})
	c.events()
	act(t, d, pressed("a"))
	equal(t, "a press of a key that is down", c.events(), []string{"key A up state 1", "key A down state 1"})
	act(t, d, half("up", "a"), half("up", "q"))
	equal(t, "a is the same key", c.down(), nil)

	act(t, d, half("down", "ctrl+alt", "x"), desktop.Action{Click: &desktop.Click{Action: "down"}})
	if got := c.down(); len(got) != 4 {
		t.Errorf("down: %q", got)
	}
	if err := d.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	equal(t, "after Release", c.down(), nil)
	act(t, d, half("down", "ctrl+x"), desktop.Action{Click: &desktop.Click{Action: "down"}})
	d.Close()
	equal(t, "after Close", c.down(), nil)
	if err := d.Release(t.Context()); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("Release after Close: %v", err)
	}
}
