package x11

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bureau/desktop"
)

// texts are what is typed into every application, which must have exactly that afterwards.
func texts() []string {
	var distinct strings.Builder
	for i := range 500 {
		distinct.WriteRune(rune(0x4e00 + 7*i))
	}
	return []string{
		"a", "A", "Hello, World!", "the quick brown fox jumps over the lazy dog",
		"THE QUICK BROWN FOX JUMPS OVER THE LAZY DOG", "aAaAbBbB  double  spaces ",
		"0123456789 !\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
		"\"quotes\" and 'apostrophes' and `ticks`", "line one\nline two\n\nline four\n", "tab\tseparated\tvalues\t\n",
		"windows\r\nlines\r\n", "àéîõü ÀÉÎÕÜ ß ÿ Ÿ œ Œ", "naïve café, “curly” ‘quotes’ – — …", "łódź ŁÓDŹ žluťoučký kůň",
		"Привет, мир! ЁЖ", "Ελληνικά Ωμέγα", "日本語テキスト、全角。", "中文字符輸入", "한국어 입력", "שלום עולם", "مرحبا بالعالم",
		"ไทย हिन्दी", "emoji 😀🎉👍🏽 👩‍💻 🇫🇷", "e\u0301 a\u0308 combining", "€ £ ¥ ¢ © ® ™ ½ × ÷ ± °", "∑∫√∞≠≤≥→←↔ ℝ𝔸",
		"nbsp\u00a0here", "mixed: é字😀a é字😀a", distinct.String(),
	}
}

func long() string {
	var b strings.Builder
	for i := 0; b.Len() < 6000; i++ {
		fmt.Fprintf(&b, "Line %d: the naïve café costs 5€; UPPER lower 123.\n", i)
	}
	return string([]rune(b.String())[:4900]) + "end\n"
}

func TestTypeIntoTerminal(t *testing.T) {
	t.Parallel()
	display := startServer(t)
	startWindowManager(t, display)
	d, c := openDisplay(t, display), connect(t, display)
	before := fmt.Sprint(c.keymap())
	x := newTerminal(t, display)
	for _, text := range append(texts(), long()) {
		act(t, d, typed(text))
		x.expect(strings.ReplaceAll(text, "\r\n", "\n"))
	}
	if fmt.Sprint(c.keymap()) != before {
		t.Error("the keymap has changed")
	}
	equal(t, "left pressed", c.down(), nil)
}

// Every layout types the same, with the keys it has and borrowed ones for the rest; so does a
// keyboard whose state is not what a text needs.
func TestTypeOnEveryLayout(t *testing.T) {
	t.Parallel()
	display := startServer(t)
	startWindowManager(t, display)
	d, c := openDisplay(t, display), connect(t, display)
	x := newTerminal(t, display)
	sample := "aZ1!qwQW ;:,.<>@#{}[]|\\~^`'\"€éÉäß\n字 /?-_=+ ñ €"
	for _, layout := range [][]string{{"us"}, {"de"}, {"fr"}, {"ru"}, {"us", "intl"}, {"us,ru"}, {"jp"}, {"ch", "fr"}} {
		if len(layout) == 1 {
			layout = append(layout, "")
		}
		tool(t, display, "setxkbmap", "-layout", layout[0], "-variant", layout[1])
		before := fmt.Sprint(c.keymap())
		act(t, d, typed(sample))
		x.expect(sample)
		// Caps Lock is on, and the second layout where there is one.
		act(t, d, pressed("Caps_Lock"))
		if err := d.xkb.setLocks(0, 0, 1); err != nil {
			t.Fatal(err)
		}
		state, err := d.xkb.state()
		if err != nil {
			t.Fatal(err)
		}
		if state.locked&2 == 0 {
			t.Fatalf("%s: Caps Lock is not on", layout)
		}
		act(t, d, typed(sample))
		x.expect(sample)
		act(t, d, pressed("A", "b", "C"))
		x.expect("AbC")
		if after, err := d.xkb.state(); err != nil || after != state {
			t.Errorf("%s: keyboard is %+v, was %+v (%v)", layout, after, state, err)
		}
		act(t, d, pressed("Caps_Lock"))
		if err := d.xkb.setLocks(0, 0, 0); err != nil {
			t.Fatal(err)
		}
		if fmt.Sprint(c.keymap()) != before {
			t.Errorf("%s: the keymap has changed", layout)
		}
	}
	// Another program holds Shift; it still does afterwards.
	tool(t, display, "setxkbmap", "us")
	tool(t, display, "xdotool", "keydown", "Shift_L")
	act(t, d, typed("held by another: abc"))
	x.expect("held by another: abc")
	equal(t, "held by the other", c.down(), []string{"key 50"})
	tool(t, display, "xdotool", "keyup", "Shift_L")
}

func TestTypeIntoEditor(t *testing.T) {
	t.Parallel()
	display := startServer(t)
	startWindowManager(t, display)
	d, c := openDisplay(t, display), connect(t, display)
	path := filepath.Join(t.TempDir(), "typed.txt")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	startApp(t, display, "mousepad", "--disable-server", path)
	c.waitFocus("mousepad")
	want := ""
	for _, text := range append(texts(), long()) {
		act(t, d, typed(text), pressed("ctrl+s"))
		want += strings.ReplaceAll(text, "\r\n", "\n")
		expectText(t, want, func() string {
			data, err := os.ReadFile(path)
			if err != nil && !os.IsNotExist(err) {
				t.Fatal(err)
			}
			return string(data)
		})
	}
}

func TestTypeIntoBrowser(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	value, focused := "", false
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		switch r.URL.Path {
		case "/":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, `<!doctype html><textarea id=t autofocus rows=20 cols=80></textarea><script>
t.onfocus = () => fetch('/focused', {method: 'POST'});
let busy = false, dirty = false;
async function send() {
  if (busy) { dirty = true; return; }
  busy = true;
  do { dirty = false; await fetch('/value', {method: 'POST', body: t.value}); } while (dirty);
  busy = false;
}
t.oninput = send;
// A tab moves the focus in a page; here it is text.
t.onkeydown = e => { if (e.key == 'Tab') { e.preventDefault(); document.execCommand('insertText', false, '\t'); } };
if (document.activeElement == t) t.onfocus();
</script>`)
		case "/value":
			body, _ := io.ReadAll(r.Body)
			value = string(body)
		case "/focused":
			focused = true
		}
	}))
	t.Cleanup(page.Close)
	display := startServer(t)
	startWindowManager(t, display)
	d, c := openDisplay(t, display), connect(t, display)
	profile := t.TempDir()
	prefs := `user_pref("browser.aboutwelcome.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("security.sandbox.content.level", 0);
`
	if err := os.WriteFile(filepath.Join(profile, "user.js"), []byte(prefs), 0o600); err != nil {
		t.Fatal(err)
	}
	startApp(t, display, "firefox-esr", "--no-remote", "--profile", profile, "--new-window", page.URL)
	eventually(t, "the page in the browser", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return focused && strings.Contains(c.focus(), "firefox")
	})
	for _, text := range append(texts(), long()) {
		act(t, d, typed(text))
		expectText(t, strings.ReplaceAll(text, "\r\n", "\n"), func() string {
			mu.Lock()
			defer mu.Unlock()
			return value
		})
		act(t, d, pressed("ctrl+a", "Delete"))
		eventually(t, "the page empty again", func() bool {
			mu.Lock()
			defer mu.Unlock()
			return value == ""
		})
	}
}

// Texts of concurrent calls arrive whole, one after another.
func TestTypingIsNotInterleaved(t *testing.T) {
	t.Parallel()
	display := startServer(t)
	startWindowManager(t, display)
	d := openDisplay(t, display)
	x := newTerminal(t, display)
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			text := strings.Repeat(fmt.Sprintf("%dAé字", i), 100)
			if _, err := d.Act(t.Context(), []desktop.Action{typed(text), typed("\n")}); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	size := 8 * (100*7 + 1)
	var data string
	eventually(t, "all texts", func() bool {
		raw, err := os.ReadFile(x.path)
		data = strings.ReplaceAll(string(raw), "\r", "\n")
		return err == nil && len(data) >= size
	})
	seen := make(map[string]bool)
	for line := range strings.Lines(data) {
		if want := strings.Repeat(line[:1]+"Aé字", 100) + "\n"; line != want || seen[line] {
			t.Fatalf("interleaved: %.100q", line)
		}
		seen[line] = true
	}
	if len(seen) != 8 {
		t.Errorf("%d of 8 texts", len(seen))
	}
}

// Nothing is lost or doubled.
func TestTypingIsExactEveryTime(t *testing.T) {
	t.Parallel()
	display := startServer(t)
	startWindowManager(t, display)
	d := openDisplay(t, display)
	x := newTerminal(t, display)
	text := strings.Repeat("The quick brown Fox, 1234567890 aabbccddeeffgg!! ", 21)[:999] + "\n"
	for range 100 {
		act(t, d, typed(text))
	}
	x.expect(strings.Repeat(text, 100))
}
