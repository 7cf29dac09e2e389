package main

import (
	"errors"
	"flag"
	"fmt"

	"github.com/jezek/xgb/xproto"
)

// The number that counter shows is a row of blocks, one for each bit, the lowest on the left, white
// where it is set; under it the same row inverted, so that a picture of two numbers is known as one.
// The tests hold the same measures.
const (
	counterX, counterY = 64, 64
	counterBits        = 12
	counterBlock       = 48
	counterMargin      = 32 // below the blocks, to be clicked at
)

// counter shows a number over everything else. With each press of a mouse button in its window it
// paints the next one, makes sure that the X server has drawn it, and prints it. It begins with 0,
// for which nothing needs to be pressed, and stays until it is killed.
func counter(args []string) error {
	flags := flag.NewFlagSet("counter", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil {
		return err
	}
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	w, err := d.overlay(counterX, counterY, counterBits*counterBlock, 2*counterBlock+counterMargin, "bureau-probe-counter",
		0x336699, xproto.EventMaskButtonPress|xproto.EventMaskVisibilityChange)
	if err != nil {
		return err
	}
	if err := xproto.MapWindowChecked(d.Conn, w).Check(); err != nil {
		return err
	}
	inks := [2]xproto.Gcontext{}
	for i, colour := range []uint32{0x000000, 0xffffff} {
		if inks[i], err = xproto.NewGcontextId(d.Conn); err != nil {
			return err
		}
		if err := xproto.CreateGCChecked(d.Conn, inks[i], xproto.Drawable(w), xproto.GcForeground, []uint32{colour}).Check(); err != nil {
			return err
		}
	}
	show := func(n int) error {
		var blocks [2][]xproto.Rectangle
		for bit := range counterBits {
			set := n >> bit & 1
			for row, ink := range []int{set, 1 - set} {
				blocks[ink] = append(blocks[ink], xproto.Rectangle{
					X: int16(bit * counterBlock), Y: int16(row * counterBlock), Width: counterBlock, Height: counterBlock,
				})
			}
		}
		for ink, rectangles := range blocks {
			xproto.PolyFillRectangle(d.Conn, xproto.Drawable(w), inks[ink], rectangles)
		}
		// The server answers this when it has drawn all of it, which is all that an application can
		// know of its drawing.
		if _, err := xproto.GetInputFocus(d.Conn).Reply(); err != nil {
			return err
		}
		_, err := fmt.Println(n)
		return err
	}
	shown := false
	n := 0
	for {
		raw, xerr := d.WaitForEvent()
		if xerr != nil {
			return fmt.Errorf("an error of the X server: %v", xerr)
		}
		switch v := raw.(type) {
		case nil:
			return errors.New("the X server has gone")
		case xproto.VisibilityNotifyEvent:
			if v.State != xproto.VisibilityUnobscured {
				xproto.ConfigureWindow(d.Conn, w, xproto.ConfigWindowStackMode, []uint32{xproto.StackModeAbove})
				continue
			}
			if shown {
				continue
			}
			shown = true
		case xproto.ButtonPressEvent:
			n++
		default:
			continue
		}
		if err := show(n); err != nil {
			return err
		}
	}
}
