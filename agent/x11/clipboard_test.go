package x11

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// paste is what another program gets from the clipboard, in a form of its choice.
func paste(t *testing.T, display, form string) string {
	t.Helper()
	cmd := exec.Command(program(t, "xclip"), "-o", "-selection", "clipboard", "-t", form)
	cmd.Env = append(os.Environ(), "DISPLAY="+display)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("xclip -t %s: %v", form, err)
	}
	return string(out)
}

// clipCopy makes another program own the clipboard.
func clipCopy(t *testing.T, display, form, text string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "copied")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program(t, "xclip"), "-i", "-quiet", "-selection", "clipboard", "-t", form, path)
	cmd.Env = append(os.Environ(), "DISPLAY="+display)
	c := connect(t, display)
	before := c.clipboardOwner()
	run(t, cmd)
	eventually(t, "another owner", func() bool { o := c.clipboardOwner(); return o != before && o != 0 })
}

func (c *client) clipboardOwner() xproto.Window {
	c.t.Helper()
	const name = "CLIPBOARD"
	atom, err := xproto.InternAtom(c.x, false, uint16(len(name)), name).Reply()
	if err != nil {
		c.t.Fatal(err)
	}
	owner, err := xproto.GetSelectionOwner(c.x, atom.Atom).Reply()
	if err != nil {
		c.t.Fatal(err)
	}
	return owner.Owner
}

// texts of all sizes: none, one piece, exactly one, many, and the most.
func clipTexts() map[string]string {
	return map[string]string{
		"empty": "", "short": "häß 字 🙂\n\ttab\r\n", "a piece": strings.Repeat("x", clipPiece), "more": strings.Repeat("é", clipPiece),
		"the most": strings.Repeat("0123456789abcdef", desktop.MaxClipboardBytes/16),
	}
}

func differ(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %d bytes %.40q, want %d bytes %.40q", what, len(got), got, len(want), want)
	}
}

func TestSetClipboard(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	for name, text := range clipTexts() {
		if err := d.SetClipboard(t.Context(), text); err != nil {
			t.Fatal(err)
		}
		for _, form := range []string{"UTF8_STRING", "TEXT", "text/plain;charset=utf-8"} {
			differ(t, name+" as "+form, paste(t, display, form), text)
		}
		got, err := d.Clipboard(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		differ(t, name+" by ourselves", got, text)
	}
	if err := d.SetClipboard(t.Context(), "é字"); err != nil {
		t.Fatal(err)
	}
	differ(t, "Latin-1", paste(t, display, "STRING"), "\xe9?")
	targets := paste(t, display, "TARGETS")
	for _, want := range []string{"TARGETS", "TIMESTAMP", "UTF8_STRING", "STRING", "TEXT"} {
		if !strings.Contains(targets, want+"\n") {
			t.Errorf("no target %s: %q", want, targets)
		}
	}
	cmd := exec.Command(program(t, "xclip"), "-o", "-selection", "clipboard", "-t", "image/png")
	cmd.Env = append(os.Environ(), "DISPLAY="+display)
	if out, err := cmd.CombinedOutput(); err == nil {
		t.Errorf("text was given as a picture: %q", out)
	}

	err := d.SetClipboard(t.Context(), strings.Repeat("x", desktop.MaxClipboardBytes+1))
	if desktop.CodeOf(err) != desktop.TooLarge {
		t.Error(err)
	}
	if err := d.SetClipboard(t.Context(), "\xff"); desktop.CodeOf(err) != desktop.Invalid {
		t.Error(err)
	}
	differ(t, "after the refusals", paste(t, display, "UTF8_STRING"), "é字")
	d.Close()
	if err := d.SetClipboard(t.Context(), "x"); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

func TestClipboard(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	read := func() string {
		t.Helper()
		text, err := d.Clipboard(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	differ(t, "nobody's", read(), "")
	if err := d.SetClipboard(t.Context(), "ours"); err != nil {
		t.Fatal(err)
	}
	for name, text := range clipTexts() {
		clipCopy(t, display, "UTF8_STRING", text)
		differ(t, name, read(), text)
		if err := d.SetClipboard(t.Context(), "ours again"); err != nil {
			t.Fatal(err)
		}
		differ(t, "back", paste(t, display, "UTF8_STRING"), "ours again")
	}
	clipCopy(t, display, "STRING", "caf\xe9")
	differ(t, "Latin-1", read(), "café")
	clipCopy(t, display, "UTF8_STRING", "a\xffb")
	differ(t, "invalid", read(), "a\uFFFDb")
	for _, extra := range []int{1, 3 << 20} {
		clipCopy(t, display, "UTF8_STRING", strings.Repeat("x", desktop.MaxClipboardBytes+extra))
		if _, err := d.Clipboard(t.Context()); desktop.CodeOf(err) != desktop.TooLarge {
			t.Errorf("%d bytes too many: %v", extra, err)
		}
	}
}

// An owner whose thing is no text refuses every form that we ask for.
func TestClipboardWithoutText(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	err := xproto.SetSelectionOwnerChecked(c.x, c.window, d.clip.atoms.clipboard, xproto.TimeCurrentTime).Check()
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan int, 1)
	go func() {
		for n := 0; ; {
			event, xerr := c.x.WaitForEvent()
			if event == nil && xerr == nil {
				asked <- n
				return
			}
			if e, ok := event.(xproto.SelectionRequestEvent); ok {
				n++
				no := xproto.SelectionNotifyEvent{Time: e.Time, Requestor: e.Requestor, Selection: e.Selection, Target: e.Target}
				xproto.SendEvent(c.x, false, e.Requestor, 0, string(no.Bytes()))
			}
		}
	}()
	if _, err := d.Clipboard(t.Context()); desktop.CodeOf(err) != desktop.Conflict {
		t.Errorf("a picture: %v", err)
	}
	c.x.Close()
	if n := <-asked; n != 2 {
		t.Errorf("asked %d times", n)
	}
}

// A request in the name of the root window does not make us deaf to the rest of the display.
func TestClipboardForRoot(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	if err := d.SetClipboard(t.Context(), strings.Repeat("x", 10*clipPiece)); err != nil {
		t.Fatal(err)
	}
	xproto.ConvertSelection(c.x, c.root, d.clip.atoms.clipboard, d.ewmh.utf8, d.clip.atoms.property, xproto.TimeCurrentTime)
	c.x.Sync()
	differ(t, "text", paste(t, display, "UTF8_STRING"), strings.Repeat("x", 10*clipPiece))
	c.speaks(d)
	ponged := make(chan struct{})
	go func() {
		defer close(ponged)
		c.read()
	}()
	if acted := act(t, d, synced(desktop.MaxSyncMs)); !acted.Synced {
		t.Error("the answers to pings do not arrive any more")
	}
	<-ponged
}

// An owner that does not answer holds nobody for ever.
func TestMuteClipboard(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	err := xproto.SetSelectionOwnerChecked(c.x, c.window, d.clip.atoms.clipboard, xproto.TimeCurrentTime).Check()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Clipboard(t.Context()); desktop.CodeOf(err) != desktop.Unavailable || !strings.Contains(err.Error(), "does not answer") {
		t.Errorf("mute: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := d.Clipboard(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("no patience: %v", err)
	}
}
