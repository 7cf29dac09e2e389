package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jezek/xgb"
	"github.com/jezek/xgb/randr"
	"github.com/jezek/xgb/xproto"
)

var screenAttacks = []attack{
	{"noise", noise},
	{"resolutions", resolutions},
	{"cursors", cursors},
}

// noise repaints the whole display with pixels that are all new, as fast as it can.
func noise(until time.Time) error {
	c, err := xgb.NewConn()
	if err != nil {
		return err
	}
	defer c.Close()
	screen := xproto.Setup(c).DefaultScreen(c)
	gc, err := xproto.NewGcontextId(c)
	if err != nil {
		return err
	}
	if err := xproto.CreateGCChecked(c, gc, xproto.Drawable(screen.Root), xproto.GcSubwindowMode, []uint32{xproto.SubwindowModeIncludeInferiors}).Check(); err != nil {
		return err
	}
	g, err := xproto.GetGeometry(c, xproto.Drawable(screen.Root)).Reply()
	if err != nil {
		return err
	}
	rows := max(1, 200_000/(4*int(g.Width)))
	pixels := make([]byte, 4*int(g.Width)*rows+1<<16)
	for i := range pixels {
		pixels[i] = byte(rand.Uint32())
	}
	for frames := 0; time.Now().Before(until); frames++ {
		for y := 0; y < int(g.Height); y += rows {
			height := min(rows, int(g.Height)-y)
			at := rand.IntN(1 << 14)
			xproto.PutImage(c, xproto.ImageFormatZPixmap, xproto.Drawable(screen.Root), gc, g.Width, uint16(height), 0, int16(y), 0,
				screen.RootDepth, pixels[4*at:][:4*int(g.Width)*height])
		}
		if _, err := xproto.GetInputFocus(c).Reply(); err != nil { // all of it is drawn
			return err
		}
	}
	return nil
}

// resolutions gives the display every size that it has, again and again, and the one it had at the end.
func resolutions(until time.Time) error {
	c, err := xgb.NewConn()
	if err != nil {
		return err
	}
	defer c.Close()
	if err := randr.Init(c); err != nil {
		return err
	}
	root := xproto.Setup(c).DefaultScreen(c).Root
	resources, err := randr.GetScreenResourcesCurrent(c, root).Reply()
	if err != nil {
		return err
	}
	sizes := map[randr.Mode]randr.ModeInfo{}
	for _, m := range resources.Modes {
		sizes[randr.Mode(m.Id)] = m
	}
	for _, output := range resources.Outputs {
		info, err := randr.GetOutputInfo(c, output, resources.ConfigTimestamp).Reply()
		if err != nil {
			return err
		}
		if info.Crtc == 0 || len(info.Modes) == 0 {
			continue
		}
		before, err := randr.GetCrtcInfo(c, info.Crtc, resources.ConfigTimestamp).Reply()
		if err != nil {
			return err
		}
		set := func(mode randr.Mode) {
			m := sizes[mode]
			// The screen must hold the mode before and after.
			randr.SetCrtcConfig(c, info.Crtc, 0, resources.ConfigTimestamp, 0, 0, 0, randr.RotationRotate0, nil).Reply()
			randr.SetScreenSizeChecked(c, root, m.Width, m.Height, uint32(m.Width)/4+1, uint32(m.Height)/4+1).Check()
			randr.SetCrtcConfig(c, info.Crtc, 0, resources.ConfigTimestamp, 0, 0, mode, randr.RotationRotate0, []randr.Output{output}).Reply()
		}
		changes := 0
		for time.Now().Before(until) {
			for _, mode := range info.Modes {
				set(mode)
				changes++
				if time.Now().After(until) {
					break
				}
			}
		}
		set(before.Mode)
		fmt.Printf("resolutions: %d changes between %d sizes\n", changes, len(info.Modes))
		return nil
	}
	return fmt.Errorf("there is no output with modes")
}

// cursors defines one pointer after another, and moves it.
func cursors(until time.Time) error {
	c, err := xgb.NewConn()
	if err != nil {
		return err
	}
	defer c.Close()
	root := xproto.Setup(c).DefaultScreen(c).Root
	pixmap, err := xproto.NewPixmapId(c)
	if err != nil {
		return err
	}
	xproto.CreatePixmap(c, 1, pixmap, xproto.Drawable(root), 64, 64)
	for n := uint16(0); time.Now().Before(until); n++ {
		cursor, err := xproto.NewCursorId(c)
		if err != nil {
			return err
		}
		xproto.CreateCursor(c, cursor, pixmap, pixmap, n*1000, n, ^n, n, 0, n*7, n%64, n%64)
		xproto.ChangeWindowAttributes(c, root, xproto.CwCursor, []uint32{uint32(cursor)})
		xproto.FreeCursor(c, cursor)
		xproto.WarpPointer(c, 0, root, 0, 0, 0, 0, int16(n%1000), int16(n%700))
		if n%100 == 0 {
			if _, err := xproto.GetInputFocus(c).Reply(); err != nil {
				return err
			}
		}
	}
	return nil
}
