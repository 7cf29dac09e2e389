package x11

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

func synced(ms int) desktop.Action { return desktop.Action{Sync: &desktop.Sync{MaxMs: ms}} }

// speaks makes the client's window one that answers pings, when told to.
func (c *client) speaks(d *Display) {
	c.t.Helper()
	atom := make([]byte, 4)
	xgb.Put32(atom, uint32(d.atoms.ping))
	err := xproto.ChangePropertyChecked(c.x, xproto.PropModeReplace, c.window, d.atoms.protocols, xproto.AtomAtom, 32, 1, atom).Check()
	if err != nil {
		c.t.Fatal(err)
	}
}

// read waits for the next event that is one of those wanted, and answers a ping when it is one.
func (c *client) read() string {
	c.t.Helper()
	for {
		event, err := c.x.WaitForEvent()
		switch e := event.(type) {
		case nil:
			if err == nil {
				return "the end"
			}
		case xproto.ButtonPressEvent:
			return "press"
		case xproto.ButtonReleaseEvent:
			return "release"
		case xproto.ClientMessageEvent:
			e.Window = c.root
			xproto.SendEvent(c.x, false, c.root, xproto.EventMaskSubstructureNotify|xproto.EventMaskSubstructureRedirect, string(e.Bytes()))
			return "ping"
		}
	}
}

// A sync ends when the application has read what was sent before it, and not earlier.
func TestSync(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	if acted := act(t, d, synced(0)); !acted.Synced {
		t.Error("without any application there is nothing to wait for")
	}
	if acted := act(t, d, pressed("a")); acted.Synced {
		t.Error("synced without a sync")
	}
	c := newClient(t, display)
	c.speaks(d)

	// An application that reads nothing: the time ends it, without an error.
	if acted := act(t, d, desktop.Action{Click: &desktop.Click{}}, synced(20)); acted.Synced {
		t.Error("synced although nothing was read")
	}
	// One miss among several is a miss, and a cancelled call is cancelled.
	ctx, cancel := context.WithCancel(t.Context())
	result := make(chan error, 1)
	go func() {
		_, err := d.Act(ctx, []desktop.Action{synced(desktop.MaxSyncMs)})
		result <- err
	}()
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	c.events()

	answers := make(chan desktop.Acted, 1)
	go func() {
		acted, err := d.Act(t.Context(), []desktop.Action{{Click: &desktop.Click{}}, synced(desktop.MaxSyncMs)})
		if err != nil {
			t.Error(err)
		}
		answers <- acted
	}()
	for _, want := range []string{"press", "release"} {
		if got := c.read(); got != want {
			t.Errorf("read %s, want %s", got, want)
		}
	}
	select {
	case <-answers:
		t.Error("the sync ended before the ping was read")
	default:
	}
	if got := c.read(); got != "ping" {
		t.Errorf("read %s, want a ping", got)
	}
	if acted := <-answers; !acted.Synced {
		t.Error("answered, and not synced")
	}
}

// An application that does not speak of pings is watched until it sleeps.
func TestSyncWithTerminal(t *testing.T) {
	display := startServer(t)
	startWindowManager(t, display)
	d := openDisplay(t, display)
	x := newTerminal(t, display)
	if acted := act(t, d, typed("synced"), synced(desktop.MaxSyncMs)); !acted.Synced {
		t.Error("not synced")
	}
	x.expect("synced")
}

// While a window manager holds a click back, the application has not been sent it: the ping, which
// nobody holds back, must not come first.
func TestSyncAfterClickHeldBack(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	c.speaks(d)
	manager := connect(t, display)
	err := xproto.GrabButtonChecked(manager.x, false, c.window, xproto.EventMaskButtonPress, xproto.GrabModeSync, xproto.GrabModeAsync,
		0, 0, 1, xproto.ModMaskAny).Check()
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if manager.read() == "press" {
			time.Sleep(20 * time.Millisecond) // it thinks
			xproto.AllowEvents(manager.x, xproto.AllowReplayPointer, xproto.TimeCurrentTime)
			manager.x.Sync()
		}
	}()
	answer := make(chan desktop.Acted, 1)
	go func() {
		acted, err := d.Act(t.Context(), []desktop.Action{{Click: &desktop.Click{}}, synced(desktop.MaxSyncMs)})
		if err != nil {
			t.Error(err)
		}
		answer <- acted
	}()
	for _, want := range []string{"press", "release", "ping"} {
		if got := c.read(); got != want {
			t.Errorf("read %s, want %s", got, want)
		}
	}
	if acted := <-answer; !acted.Synced {
		t.Error("not synced")
	}
}
