package main

import (
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/xproto"
)

// Colours of draw's window, as 0xRRGGBB: before the first click, and once it has drawn what the
// odd and the even ones ask for.
const (
	drawBlank = 0x336699
	drawOdd   = 0x00a040
	drawEven  = 0xa04000
)

// draw shows a window that takes its time. With -mode work each click makes it fill itself strip by
// strip in another colour, for as long as -for says; with caret it does so at once, and a text cursor
// blinks in its corner all the while; with video it never rests. It prints "drawn" once it is there
// and stays until it is killed.
func draw(args []string) error {
	flags := flag.NewFlagSet("draw", flag.ContinueOnError)
	mode := flags.String("mode", "work", "work, caret or video")
	long := flags.Duration("for", 700*time.Millisecond, "how long the drawing takes after a click")
	geometry := flags.String("geometry", "600x400+200+150", "WxH+X+Y")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var x, y int16
	var width, height uint16
	if _, err := fmt.Sscanf(*geometry, "%dx%d+%d+%d", &width, &height, &x, &y); err != nil {
		return fmt.Errorf("geometry %q: %w", *geometry, err)
	}
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	w, err := d.overlay(x, y, width, height, "bureau-probe-draw", drawBlank,
		xproto.EventMaskButtonPress|xproto.EventMaskVisibilityChange)
	if err != nil {
		return err
	}
	gc, err := xproto.NewGcontextId(d.Conn)
	if err != nil {
		return err
	}
	if err := xproto.CreateGCChecked(d.Conn, gc, xproto.Drawable(w), 0, nil).Check(); err != nil {
		return err
	}
	if err := xproto.MapWindowChecked(d.Conn, w).Check(); err != nil {
		return err
	}
	fill := func(colour uint32, r xproto.Rectangle) error {
		xproto.ChangeGC(d.Conn, gc, xproto.GcForeground, []uint32{colour})
		return xproto.PolyFillRectangleChecked(d.Conn, xproto.Drawable(w), gc, []xproto.Rectangle{r}).Check()
	}

	type input struct {
		event xgb.Event
		err   error
	}
	inputs := make(chan input)
	go func() { // ends with the program
		for {
			event, xerr := d.WaitForEvent()
			switch {
			case xerr != nil:
				inputs <- input{err: fmt.Errorf("the X server: %v", xerr)}
			case event == nil:
				inputs <- input{err: errors.New("the X server has gone")}
			default:
				inputs <- input{event: event}
			}
		}
	}()

	const strips = 28 // each within the time in which a display does not yet count as still
	pace := *long / strips
	switch *mode {
	case "caret":
		pace = 250 * time.Millisecond
	case "video":
		pace = 25 * time.Millisecond
	}
	tick := time.NewTicker(pace)
	defer tick.Stop()
	said, clicks, strip, ticks := false, 0, strips, 0
	colour := func() uint32 {
		switch {
		case clicks == 0:
			return drawBlank
		case clicks%2 == 1:
			return drawOdd
		}
		return drawEven
	}
	for {
		select {
		case in := <-inputs:
			if in.err != nil {
				return in.err
			}
			switch event := in.event.(type) {
			case xproto.VisibilityNotifyEvent:
				if event.State != xproto.VisibilityUnobscured {
					xproto.ConfigureWindow(d.Conn, w, xproto.ConfigWindowStackMode, []uint32{xproto.StackModeAbove})
				} else if !said {
					said = true
					fmt.Println("drawn")
				}
			case xproto.ButtonPressEvent:
				clicks++
				if strip = 0; *mode == "caret" {
					if err := fill(colour(), xproto.Rectangle{Width: width, Height: height}); err != nil {
						return err
					}
				}
				tick.Reset(pace)
			}
		case <-tick.C:
			ticks++
			switch {
			case *mode == "caret":
				caret := colour()
				if ticks%2 == 0 {
					caret = 0xffffff
				}
				err = fill(caret, xproto.Rectangle{X: 10, Y: 10, Width: 2, Height: 18})
			case *mode == "video":
				err = fill(uint32(ticks*0x050301)&0xffffff, xproto.Rectangle{Width: width, Height: height})
			case strip < strips:
				top, bottom := int(height)*strip/strips, int(height)*(strip+1)/strips
				err = fill(colour(), xproto.Rectangle{Y: int16(top), Width: width, Height: uint16(bottom - top)})
				strip++
			}
			if err != nil {
				return err
			}
		}
	}
}
