package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"github.com/jezek/xgb/xproto"
)

// eventsName is how collect finds the window of events.
const eventsName = "bureau-probe-events"

// event is one line of the log.
type event struct {
	Type   string `json:"type"` // press, release, motion, keypress, keyrelease, fence, ready
	X      int    `json:"x"`    // on the display
	Y      int    `json:"y"`
	Button int    `json:"button,omitempty"`
	State  int    `json:"state,omitempty"` // modifiers and buttons before the event
	Code   int    `json:"code,omitempty"`
	Keysym int    `json:"keysym,omitempty"` // unshifted
	Time   int    `json:"time,omitempty"`   // of the X server, in milliseconds
	Token  int    `json:"token,omitempty"`
}

// keepFocus takes the keyboard until it has had it for a moment: a window manager gives it to
// another window when one that had it goes, as one of a test before may just do.
func (d *display) keepFocus(w xproto.Window) error {
	for held := 0; held < 5; {
		focus, err := xproto.GetInputFocus(d.Conn).Reply()
		if err != nil {
			return err
		}
		if held++; focus.Focus != w {
			held = 0
			if err := xproto.SetInputFocusChecked(d.Conn, xproto.InputFocusPointerRoot, w, xproto.TimeCurrentTime).Check(); err != nil {
				return err
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return nil
}

// events covers a part of the display, the whole of it by default, with a window above all others
// that has the keyboard, and logs every event that reaches it until it is killed.
func events(args []string) error {
	flags := flag.NewFlagSet("events", flag.ContinueOnError)
	log := flags.String("log", "", "file to append events to")
	geometry := flags.String("geometry", "", "WxH+X+Y; the whole display when empty")
	if err := flags.Parse(args); err != nil {
		return err
	}
	out, err := os.OpenFile(*log, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer out.Close()
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	width, height, err := d.size()
	if err != nil {
		return err
	}
	var x, y int16
	if *geometry != "" {
		if _, err := fmt.Sscanf(*geometry, "%dx%d+%d+%d", &width, &height, &x, &y); err != nil {
			return fmt.Errorf("geometry %q: %w", *geometry, err)
		}
	}
	fence, err := d.atom(eventsName)
	if err != nil {
		return err
	}
	w, err := d.overlay(x, y, width, height, eventsName, 0x336699,
		xproto.EventMaskButtonPress|xproto.EventMaskButtonRelease|xproto.EventMaskPointerMotion|
			xproto.EventMaskKeyPress|xproto.EventMaskKeyRelease|xproto.EventMaskVisibilityChange)
	if err != nil {
		return err
	}
	if err := xproto.MapWindowChecked(d.Conn, w).Check(); err != nil {
		return err
	}
	keymap, err := d.keymap()
	if err != nil {
		return err
	}
	write := func(e event) error {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		_, err = out.Write(append(line, '\n'))
		return err
	}
	ready := false
	for {
		raw, xerr := d.WaitForEvent()
		if xerr != nil {
			return fmt.Errorf("an X error: %v", xerr)
		}
		if raw == nil {
			return errors.New("the X server has gone")
		}
		var e event
		switch v := raw.(type) {
		case xproto.VisibilityNotifyEvent:
			if v.State != xproto.VisibilityUnobscured {
				xproto.ConfigureWindow(d.Conn, w, xproto.ConfigWindowStackMode, []uint32{xproto.StackModeAbove})
				continue
			}
			if ready {
				continue
			}
			if err := d.keepFocus(w); err != nil {
				return err
			}
			ready = true
			e = event{Type: "ready"}
		case xproto.MappingNotifyEvent:
			if keymap, err = d.keymap(); err != nil {
				return err
			}
			continue
		case xproto.ButtonPressEvent:
			e = event{Type: "press", X: int(v.RootX), Y: int(v.RootY), Button: int(v.Detail), State: int(v.State), Time: int(v.Time)}
		case xproto.ButtonReleaseEvent:
			e = event{Type: "release", X: int(v.RootX), Y: int(v.RootY), Button: int(v.Detail), State: int(v.State), Time: int(v.Time)}
		case xproto.MotionNotifyEvent:
			e = event{Type: "motion", X: int(v.RootX), Y: int(v.RootY), State: int(v.State), Time: int(v.Time)}
		case xproto.KeyPressEvent:
			e = event{Type: "keypress", X: int(v.RootX), Y: int(v.RootY), Code: int(v.Detail), Keysym: keymap[v.Detail], State: int(v.State), Time: int(v.Time)}
		case xproto.KeyReleaseEvent:
			e = event{Type: "keyrelease", X: int(v.RootX), Y: int(v.RootY), Code: int(v.Detail), Keysym: keymap[v.Detail], State: int(v.State), Time: int(v.Time)}
		case xproto.ClientMessageEvent:
			if v.Type != fence {
				continue
			}
			at, err := xproto.QueryPointer(d.Conn, d.root).Reply()
			if err != nil {
				return err
			}
			e = event{Type: "fence", X: int(at.RootX), Y: int(at.RootY), Token: int(v.Data.Data32[0])}
		default:
			continue
		}
		if err := write(e); err != nil {
			return err
		}
	}
}

// keymap is the unshifted symbol of every key.
func (d *display) keymap() (map[xproto.Keycode]int, error) {
	setup := xproto.Setup(d.Conn)
	reply, err := xproto.GetKeyboardMapping(d.Conn, setup.MinKeycode, byte(setup.MaxKeycode-setup.MinKeycode+1)).Reply()
	if err != nil {
		return nil, err
	}
	m := make(map[xproto.Keycode]int)
	per := int(reply.KeysymsPerKeycode)
	for i := 0; i*per < len(reply.Keysyms); i++ {
		m[setup.MinKeycode+xproto.Keycode(i)] = int(reply.Keysyms[i*per])
	}
	return m, nil
}

// collect prints what the events window has received since the last collect, and last where the
// pointer is, as the place of a fence. It sends the window a
// message and waits for it to appear in the log: a window gets its events in order, so everything
// that had happened before is in the log by then, and nothing has to be waited for by the clock.
func collect(args []string) error {
	flags := flag.NewFlagSet("collect", flag.ContinueOnError)
	log := flags.String("log", "", "file that events writes")
	patience := flags.Duration("patience", 30*time.Second, "how long to wait for the window and its answer")
	if err := flags.Parse(args); err != nil {
		return err
	}
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	end := time.Now().Add(*patience)
	var w xproto.Window
	for {
		if data, err := os.ReadFile(*log); err == nil && bytes.Contains(data, []byte(`"ready"`)) {
			if w, err = d.find(eventsName); err != nil {
				return err
			}
			if w != 0 {
				break
			}
		}
		if time.Now().After(end) {
			return errors.New("there is no window of probe events")
		}
		time.Sleep(10 * time.Millisecond)
	}
	fence, err := d.atom(eventsName)
	if err != nil {
		return err
	}
	token := rand.Uint32N(1<<31-1) + 1
	message := xproto.ClientMessageEvent{Format: 32, Window: w, Type: fence,
		Data: xproto.ClientMessageDataUnionData32New([]uint32{token, 0, 0, 0, 0})}
	if err := xproto.SendEventChecked(d.Conn, false, w, 0, string(message.Bytes())).Check(); err != nil {
		return err
	}
	for {
		data, err := os.ReadFile(*log)
		if err != nil {
			return err
		}
		var since []event
		lines := bufio.NewScanner(bytes.NewReader(data[:bytes.LastIndexByte(data, '\n')+1]))
		for lines.Scan() {
			var e event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				return fmt.Errorf("the log: %w", err)
			}
			switch {
			case e.Type == "fence" && e.Token == int(token):
				return printJSON(append(since, e))
			case e.Type == "fence" || e.Type == "ready":
				since = nil
			default:
				since = append(since, e)
			}
		}
		if time.Now().After(end) {
			return errors.New("the window of probe events does not answer")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// find is the window of a name among the root's own children.
func (d *display) find(name string) (xproto.Window, error) {
	tree, err := xproto.QueryTree(d.Conn, d.root).Reply()
	if err != nil {
		return 0, err
	}
	for i := len(tree.Children) - 1; i >= 0; i-- {
		got, err := d.property(tree.Children[i], "WM_NAME")
		var gone xproto.WindowError
		if errors.As(err, &gone) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if string(got) == name {
			return tree.Children[i], nil
		}
	}
	return 0, nil
}
