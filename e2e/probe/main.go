// Command probe is the end-to-end tests' eye in the guest: a small X client that tells what the
// display, the pointer and the keyboard really did, and what of the network can be reached. It shares no code with bureau, so that what it
// sees is independent of what it checks.
//
// The tests build it without cgo, so that it runs in any guest, and put it there themselves.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

var commands = map[string]func(args []string) error{
	"events":  events,  // a window that logs what it receives
	"collect": collect, // what that window has received since the last time
	"paint":   paint,   // a window over the whole display, every pixel of which is known
	"draw":    draw,    // a window that takes its time to draw, blinks or never rests
	"grab":    grab,    // the display as the X server gives it
	"cursor":  cursor,  // the pointer's picture and place
	"pointer": pointer, // the pointer's place, buttons and modifiers
	"keys":    keys,    // the keys that are down
	"windows": windows, // the managed windows
	"web":     web,     // a page that says what was typed into it
	"counter": counter, // a number that a click makes larger
	"search":  search,  // where secrets are in files, processes and memory
	"reach":   reach,   // which destinations of the network answer
	"listen":  listen,  // a port that tells who came
	"send":    send,    // frames as they are given, true or not
	"sniff":   sniff,   // the frames that come in
}

func main() {
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: probe COMMAND")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintf(os.Stderr, "probe %s: %v\n", os.Args[1], err)
		os.Exit(1)
	}
}

// display is a connection to the X server with what every command needs of it.
type display struct {
	*xgb.Conn
	screen *xproto.ScreenInfo
	root   xproto.Window
}

func connect() (*display, error) {
	c, err := xgb.NewConn()
	if err != nil {
		return nil, err
	}
	screen := xproto.Setup(c).DefaultScreen(c)
	if screen.RootDepth != 24 {
		c.Close()
		return nil, fmt.Errorf("the display has %d bits a pixel, not 24", screen.RootDepth)
	}
	return &display{Conn: c, screen: screen, root: screen.Root}, nil
}

// size is the display's now, which is not always what it was when the server started.
func (d *display) size() (width, height uint16, err error) {
	g, err := xproto.GetGeometry(d.Conn, xproto.Drawable(d.root)).Reply()
	if err != nil {
		return 0, 0, err
	}
	return g.Width, g.Height, nil
}

func (d *display) atom(name string) (xproto.Atom, error) {
	reply, err := xproto.InternAtom(d.Conn, false, uint16(len(name)), name).Reply()
	if err != nil {
		return 0, err
	}
	return reply.Atom, nil
}

// property is a window's property as bytes, empty when it has none of that name.
func (d *display) property(w xproto.Window, name string) ([]byte, error) {
	atom, err := d.atom(name)
	if err != nil {
		return nil, err
	}
	reply, err := xproto.GetProperty(d.Conn, false, w, atom, xproto.GetPropertyTypeAny, 0, 1<<16).Reply()
	if err != nil {
		return nil, err
	}
	return reply.Value, nil
}

func printJSON(v any) error {
	return json.NewEncoder(os.Stdout).Encode(v)
}

// overlay makes a window that the window manager leaves alone.
func (d *display) overlay(x, y int16, width, height uint16, name string, values ...uint32) (xproto.Window, error) {
	w, err := xproto.NewWindowId(d.Conn)
	if err != nil {
		return 0, err
	}
	if len(values) != 2 {
		return 0, errors.New("overlay wants a background and an event mask")
	}
	err = xproto.CreateWindowChecked(d.Conn, 24, w, d.root, x, y, width, height, 0,
		xproto.WindowClassInputOutput, d.screen.RootVisual,
		xproto.CwBackPixel|xproto.CwOverrideRedirect|xproto.CwEventMask,
		[]uint32{values[0], 1, values[1]}).Check()
	if err != nil {
		return 0, err
	}
	return w, xproto.ChangePropertyChecked(d.Conn, xproto.PropModeReplace, w, xproto.AtomWmName,
		xproto.AtomString, 8, uint32(len(name)), []byte(name)).Check()
}
