package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// sample is a text that is typed and read back.
type sample struct{ name, text string }

// samples are what people and programs type.
func samples() []sample {
	var ascii strings.Builder
	for c := ' '; c <= '~'; c++ {
		ascii.WriteRune(c)
	}
	return []sample{
		{"ASCII", ascii.String()},
		{"pangram", "The quick brown fox jumps over the lazy dog. THE QUICK BROWN FOX!"},
		{"spaces", "  two before,  two between, two after  "},
		{"repetition", "aaaa    BBBB....éééé漢漢漢漢👍👍👍👍"},
		{"quotes", `"double" 'single' ` + "`back`" + ` “curly” ‘single’ „German“ «French» ‹inner› 「日本」`},
		{"shell", `$(rm -rf ~) && echo "\$HOME" | cat > /dev/null; # \\ * ? [a-z] {a,b} !! ~ %d\n`},
		{"dead keys", "^ ~ ` ´ ¨ ¸ ^a ~n `e ´e ¨u"},
		{"tabs", "a\tb\t\tc\td"},
		{"newlines", "one\ntwo\n\nfour\n"},
		{"code", "func main() {\n\tfmt.Println(\"héllo, 世界\")\n}\n"},
		{"French", "Ça coûte 42 € à l’œuvre, où naïve façade rime avec maïs."},
		{"German", "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich; ẞ."},
		{"Polish and Czech", "Zażółć gęślą jaźń. Příliš žluťoučký kůň úpěl ďábelské ódy."},
		{"Vietnamese", "Tiếng Việt có nhiều dấu: ặ ể ỗ ữ."},
		{"Greek", "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία."},
		{"Russian", "Съешь же ещё этих мягких французских булок, да выпей чаю."},
		{"Chinese", "我能吞下玻璃而不伤身体。繁體中文：龜龍鬱。"},
		{"Japanese", "いろはにほへと チリヌルヲ 日本語入力、㈱。"},
		{"Korean", "키스의 고유조건은 입술끼리 만나야 하고"},
		{"Hebrew", "שלום עולם, דג סקרן שט בים"},
		{"Arabic", "نص حكيم له سر قاطع وذو شأن عظيم"},
		{"both directions", "left ימין left يمين 123 left"},
		{"Devanagari and Thai", "ऋषियों को सताने वाले, เป็นมนุษย์สุดประเสริฐ"},
		{"emoji", "😀 👍 🎉 ❤ 🚀 ☕"},
		{"emoji in sequence", "👩‍💻 👨‍👩‍👧‍👦 🇫🇷🇯🇵 👋🏽 1️⃣ 🏳️‍🌈"},
		{"combining", "e\u0301 n\u0303 o\u0308\u0304 Z\u0351\u036b"},
		{"mathematics", "∀x∈ℝ: ⌈x⌉ ≠ ∅ → 𝔘𝔫𝔦𝕔𝕠𝕕𝕖 ≤ ∞ ∑ √2 ±½"},
		{"invisible", "no\u00a0break, thin\u2009space, zero\u200bwidth, soft\u00adhyphen"},
		{"boxes", "┌─┬─┐ │█▓▒░│ └─┴─┘ ● ○ ◆ → ⇒ ⌘ ⏎"},
		{"500 distinct characters", distinct(500)},
		{"5000 characters", long(5000)},
	}
}

// fewSamples are those for a browser, which takes seconds under emulation for each font that it meets.
func fewSamples() []sample {
	return slices.DeleteFunc(samples(), func(s sample) bool {
		switch s.name {
		case "pangram", "repetition", "shell", "code", "Polish and Czech", "Vietnamese", "Greek", "mathematics", "boxes":
			return true
		}
		return false
	})
}

// distinct is that many different characters, most of them CJK.
func distinct(n int) string {
	text := []rune("äöüßéèçñøå")
	for r := rune(0x4e00); len(text) < n; r += 7 {
		text = append(text, r)
	}
	return string(text)
}

// long is that many characters of prose with a few accents, in lines of moderate length.
func long(n int) string {
	var b strings.Builder
	for i := 1; b.Len() < 2*n; i++ {
		fmt.Fprintf(&b, "Zeile %d: Übung macht den Meister, déjà vu, naïve façade, 50 €.\n", i)
	}
	return string([]rune(b.String())[:n])
}

// diff tells where two texts part.
func diff(want, got string) string {
	w, g := []rune(want), []rune(got)
	i := 0
	for i < len(w) && i < len(g) && w[i] == g[i] {
		i++
	}
	from := max(0, i-10)
	return fmt.Sprintf("%d characters arrived of %d; they part at %d: want %q, got %q", len(g), len(w), i,
		string(w[from:min(len(w), i+20)]), string(g[from:min(len(g), i+20)]))
}

// A terminal in raw mode, with a program that keeps what it reads. The text is followed by ctrl+d:
// a terminal hands its keys on in order, so when that has arrived all of the text has.
func TestTypingIntoATerminal(t *testing.T) {
	g := shared(t)
	typeIntoTerminal(t, g, "xfce4-terminal", "xfce4-terminal --disable-server -x", samples())
}

func typeIntoTerminal(t *testing.T, g *guest, class, command string, texts []sample) {
	file := "/tmp/typed-" + class
	g.sh(t, "rm -f "+file)
	g.background(t, command+" sh -c 'stty raw -echo; exec cat >"+file+"'")
	g.await(t, class)
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "test -e "+file)
		return err
	})
	before := ""
	for _, s := range texts {
		t.Run(s.name, func(t *testing.T) {
			g.typeText(t, s.text)
			g.press(t, "ctrl+d")
			got := ""
			eventually(t, patience, func() error {
				all := strings.ReplaceAll(g.sh(t, "cat "+file), "\r", "\n")
				got = strings.TrimPrefix(all, before)
				if !strings.HasSuffix(got, "\x04") {
					return fmt.Errorf("the end has not come; %s", diff(s.text, got))
				}
				before = all
				return nil
			})
			if got := strings.TrimSuffix(got, "\x04"); got != s.text {
				t.Error(diff(s.text, got))
			}
		})
	}
	g.wantReleased(t)
}

// A GTK text editor. The text is read back through its clipboard, as a person would: ctrl+a,
// ctrl+c; at the end it is saved with ctrl+s and read from the file.
func TestTypingIntoAnEditor(t *testing.T) {
	g := shared(t)
	const file = "/tmp/typed-editor.txt"
	g.sh(t, "echo before >"+file)
	g.background(t, "mousepad --disable-server "+file)
	g.await(t, "mousepad")
	for _, s := range samples() {
		t.Run(s.name, func(t *testing.T) {
			g.sh(t, "echo -n nothing | xclip -selection clipboard -i >/dev/null 2>&1")
			g.press(t, "ctrl+a")
			g.press(t, "Delete")
			g.typeText(t, s.text)
			g.act(t, "key", map[string]any{"key": []string{"ctrl+a", "ctrl+c"}})
			got := ""
			eventually(t, patience, func() error {
				var err error
				if got, err = g.trySh(t.Context(), "", "xclip -selection clipboard -o -t UTF8_STRING"); err == nil && got == "nothing" {
					err = fmt.Errorf("nothing was copied")
				}
				return err
			})
			if got != s.text {
				t.Error(diff(s.text, got))
			}
		})
	}
	t.Run("saved", func(t *testing.T) {
		const text = "saved — 保存 ✓"
		g.press(t, "ctrl+a")
		g.typeText(t, text) // in the place of what was selected
		g.press(t, "ctrl+s")
		eventually(t, patience, func() error {
			if got := strings.TrimSuffix(g.sh(t, "cat "+file), "\n"); got != text {
				return fmt.Errorf("the file has %.100q", got)
			}
			return nil
		})
	})
	g.wantReleased(t)
}

// browserSettings let an emulated processor work on the keys: pictures are drawn seldom, and nothing
// moves for beauty's sake. What the browser makes of a key is the same.
const browserSettings = `user_pref("layout.frame_rate", 5);
user_pref("general.smoothScroll", false);
user_pref("ui.prefersReducedMotion", 1);
user_pref("accessibility.force_disabled", 1);
user_pref("browser.sessionstore.interval", 3600000);
`

// A browser's text field, which a page hands in when ctrl+Return is pressed.
func TestTypingIntoABrowser(t *testing.T) {
	g := shared(t)
	const dir = "/tmp/typed-browser"
	g.sh(t, "rm -rf "+dir)
	g.background(t, probePath+" web -addr 127.0.0.1:8765 -dir "+dir)
	g.sh(t, "mkdir -p "+dir+" && cat >"+dir+"/user.js <<'END'\n"+browserSettings+"END")
	g.background(t, "firefox-esr --no-remote --profile "+dir+" http://127.0.0.1:8765/")
	w := g.await(t, "firefox-esr")
	eventually(t, 3*time.Minute, func() error {
		_, err := g.trySh(t.Context(), "", "test -e "+dir+"/loaded")
		return err
	})
	// Into the text field, which lies near the page's top left corner, below the browser's bars.
	inner := strings.Fields(g.sh(t, "cat "+dir+"/loaded"))
	var innerHeight int
	if _, err := fmt.Sscan(inner[1], &innerHeight); err != nil {
		t.Fatal(err)
	}
	x, y := w.X+200, w.Y+w.Height-innerHeight+200
	g.act(t, "click", map[string]any{"x": x, "y": y})
	handedIn := 0
	for _, s := range fewSamples() {
		t.Run(s.name, func(t *testing.T) {
			g.typeText(t, s.text)
			g.press(t, "ctrl+Return")
			got := ""
			limit := patience + time.Duration(len([]rune(s.text)))*100*time.Millisecond
			eventually(t, limit, func() error {
				var err error
				got, err = g.trySh(t.Context(), "", fmt.Sprintf("cat %s/%d", dir, handedIn+1))
				return err
			})
			handedIn++
			if got != s.text {
				t.Error(diff(s.text, got))
			}
		})
	}
	t.Run("scrolling", func(t *testing.T) {
		// Beside the field, which would take the wheel for itself.
		at := map[string]any{"x": w.X + w.Width - 100, "y": y}
		place := func() (p [2]float64, err error) {
			text, err := g.trySh(t.Context(), "", "cat "+dir+"/scroll")
			if err == nil {
				_, err = fmt.Sscan(text, &p[0], &p[1])
			}
			return p, err
		}
		// The page glides, and what was scrolled before may be under way still: what counts is that it
		// comes to lie further in this direction.
		for _, c := range []struct {
			direction string
			axis      int
			sign      float64
		}{{"down", 1, 1}, {"right", 0, 1}, {"up", 1, -1}, {"left", 0, -1}} {
			before, _ := place() // before anything was scrolled there is none
			at["direction"] = c.direction
			g.act(t, "scroll", at)
			eventually(t, patience, func() error {
				now, err := place()
				if err == nil && c.sign*(now[c.axis]-before[c.axis]) <= 0 {
					err = fmt.Errorf("scrolling %s: the page is at %v, before at %v", c.direction, now, before)
				}
				return err
			})
		}
	})
	g.wantReleased(t)
}

// The names of keys, in all spellings, press the key that they name.
func TestKeyNames(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	const (
		keysymReturn = 0xff0d
		keysymUp     = 0xff52
		keysymEscape = 0xff1b
	)
	for name, want := range map[string]struct{ keysym, state int }{
		"Return": {keysymReturn, 0}, "ENTER": {keysymReturn, 0}, "return": {keysymReturn, 0},
		"ArrowUp": {keysymUp, 0}, "Up": {keysymUp, 0}, "UP": {keysymUp, 0},
		"Escape": {keysymEscape, 0}, "esc": {keysymEscape, 0},
		"Tab": {0xff09, 0}, "BackSpace": {0xff08, 0}, "Delete": {0xffff, 0}, "Home": {0xff50, 0},
		"F5": {0xffc2, 0}, "Page_Down": {0xff56, 0}, "PageDown": {0xff56, 0}, "space": {' ', 0},
		"a": {'a', 0}, "A": {'a', stateShift}, "ctrl+k": {'k', stateCtrl}, "CTRL+SHIFT+K": {'k', stateCtrl | stateShift},
		"shift+F6": {0xffc3, stateShift}, "7": {'7', 0}, "plus": {'=', stateShift},
	} {
		t.Run(name, func(t *testing.T) {
			g.press(t, name)
			var pressed []event
			for _, e := range screen.collect(t) {
				if e.Type == "keypress" && (e.Keysym < 0xffe1 || e.Keysym > 0xffee) {
					pressed = append(pressed, e)
				}
			}
			if len(pressed) != 1 || pressed[0].Keysym != want.keysym || pressed[0].State&stateModifiers != want.state {
				t.Errorf("pressed %+v, not keysym %#x with state %#x", pressed, want.keysym, want.state)
			}
			g.wantReleased(t)
		})
	}
	t.Run("repeated and in order", func(t *testing.T) {
		g.act(t, "key", map[string]any{"key": []string{"x", "y", "ctrl+z"}, "repeat": 3})
		var story strings.Builder
		for _, e := range screen.collect(t) {
			if e.Type == "keypress" && e.Keysym < 0xff00 {
				fmt.Fprintf(&story, "%c%d ", e.Keysym, e.State&stateModifiers)
			}
		}
		if got, want := story.String(), strings.Repeat("x0 y0 z4 ", 3); got != want {
			t.Errorf("pressed %q, not %q", got, want)
		}
	})
	t.Run("held", func(t *testing.T) {
		g.act(t, "key", map[string]any{"key": "F9", "holdMs": 700})
		first, last := 0, 0
		for _, e := range screen.collect(t) {
			if e.Keysym == 0xffc6 && e.Type == "keypress" && first == 0 {
				first = e.Time
			} else if e.Keysym == 0xffc6 && e.Type == "keyrelease" {
				last = e.Time
			}
		}
		if held := last - first; first == 0 || held < 700 {
			t.Errorf("held for %d ms, not 700", held)
		}
	})
	g.wantReleased(t)
}

func TestAltF4ClosesAWindow(t *testing.T) {
	g := shared(t)
	g.terminalWindow(t)
	g.press(t, "alt+F4")
	g.gone(t, "xfce4-terminal")
	g.wantReleased(t)
}

func TestCtrlCInterrupts(t *testing.T) {
	g := shared(t)
	g.sh(t, "rm -f /tmp/interrupted")
	g.background(t, `xfce4-terminal --disable-server -x sh -c 'trap "touch /tmp/interrupted" INT; touch /tmp/waits; sleep 600'`)
	g.await(t, "xfce4-terminal")
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "test -e /tmp/waits")
		return err
	})
	g.press(t, "ctrl+c")
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "test -e /tmp/interrupted")
		return err
	})
}

// A caller that goes away in the middle of a long action leaves no key and no button pressed, and
// the action stops.
func TestCancelledActionsLeaveNothingPressed(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	for _, c := range []struct {
		name, route, kind string
		count             int
		body              map[string]any
	}{
		{"type", "type", "keypress", 6, map[string]any{"text": strings.Repeat("A", 5000), "delayMs": 20}},
		{"key", "key", "keypress", 3, map[string]any{"key": "ctrl+shift+k", "holdMs": 60000}},
		{"repeated key", "key", "keypress", 4, map[string]any{"key": "alt+j", "repeat": 100, "holdMs": 500}},
		{"drag", "drag", "motion", 5, map[string]any{"startX": 50, "startY": 50, "endX": 1000, "endY": 600,
			"durationMs": 60000, "modifiers": []string{"shift"}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			screen.collect(t)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan error, 1)
			go func() {
				r, err := g.send(ctx, "POST", g.path(c.route), c.body)
				if err == nil {
					err = fmt.Errorf("it ended by itself: %s", r)
				}
				ended <- err
			}()
			screen.awaitEvents(t, c.kind, c.count)
			cancel()
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			eventually(t, patience, func() error {
				if held := decode[keyboard](t, g.probe(t, "keys")); len(held.Held) != 0 || held.Mask&^stateLocks != 0 {
					return fmt.Errorf("still held: %+v", held)
				}
				return nil
			})
			screen.collect(t)
			// The next action comes at once and alone.
			g.act(t, "click", map[string]any{"x": 30, "y": 40})
			wantClicks(t, screen.collect(t), 1, 1, 30, 40, 0)
		})
	}
}
