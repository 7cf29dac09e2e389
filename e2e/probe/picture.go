package main

import (
	"compress/gzip"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"
)

// pattern is the colour (0xRRGGBB) of a pixel of paint's window. The tests hold the same formula:
// every pixel differs from its neighbours, and every row and column from those next to it, so that
// a picture that is off by one pixel anywhere is a different picture.
func pattern(x, y, seed int) uint32 {
	r := uint32(x*5+y*3+seed*17) & 0xff
	g := uint32(x*3+y*7+(x>>8)*31+seed*29) & 0xff
	b := uint32((x>>3)*11+(y>>2)*13+seed*43) & 0xff
	return r<<16 | g<<8 | b
}

// paint covers the display with the pattern, prints "painted" and stays until it is killed.
func paint(args []string) error {
	flags := flag.NewFlagSet("paint", flag.ContinueOnError)
	seed := flags.Int("seed", 0, "which pattern")
	if err := flags.Parse(args); err != nil {
		return err
	}
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	width, height, err := d.size()
	if err != nil {
		return err
	}
	pixmap, err := xproto.NewPixmapId(d.Conn)
	if err != nil {
		return err
	}
	if err := xproto.CreatePixmapChecked(d.Conn, 24, pixmap, xproto.Drawable(d.root), width, height).Check(); err != nil {
		return err
	}
	gc, err := xproto.NewGcontextId(d.Conn)
	if err != nil {
		return err
	}
	if err := xproto.CreateGCChecked(d.Conn, gc, xproto.Drawable(pixmap), 0, nil).Check(); err != nil {
		return err
	}
	strip := 200_000 / (int(width) * 4) // rows that fit into one request
	for top := 0; top < int(height); top += strip {
		rows := min(strip, int(height)-top)
		data := make([]byte, 0, rows*int(width)*4)
		for y := top; y < top+rows; y++ {
			for x := range int(width) {
				c := pattern(x, y, *seed)
				data = append(data, byte(c), byte(c>>8), byte(c>>16), 0)
			}
		}
		err := xproto.PutImageChecked(d.Conn, xproto.ImageFormatZPixmap, xproto.Drawable(pixmap), gc,
			width, uint16(rows), 0, int16(top), 0, 24, data).Check()
		if err != nil {
			return err
		}
	}
	w, err := d.overlay(0, 0, width, height, "bureau-probe-paint", 0, xproto.EventMaskVisibilityChange)
	if err != nil {
		return err
	}
	// As its background the picture is there whenever the window is, with nobody drawing it again.
	if err := xproto.ChangeWindowAttributesChecked(d.Conn, w, xproto.CwBackPixmap, []uint32{uint32(pixmap)}).Check(); err != nil {
		return err
	}
	if err := xproto.MapWindowChecked(d.Conn, w).Check(); err != nil {
		return err
	}
	said := false
	for {
		raw, xerr := d.WaitForEvent()
		if raw == nil && xerr == nil {
			return io.ErrUnexpectedEOF
		}
		if xerr != nil {
			return fmt.Errorf("an X error: %v", xerr)
		}
		v, ok := raw.(xproto.VisibilityNotifyEvent)
		switch {
		case !ok:
		case v.State != xproto.VisibilityUnobscured:
			xproto.ConfigureWindow(d.Conn, w, xproto.ConfigWindowStackMode, []uint32{xproto.StackModeAbove})
		case !said:
			said = true
			fmt.Println("painted")
		}
	}
}

// grab prints the display's width and height and, as base64 of gzip, its pixels as R, G, B.
func grab([]string) error {
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	width, height, err := d.size()
	if err != nil {
		return err
	}
	fmt.Println(width, height)
	encoded := base64.NewEncoder(base64.StdEncoding, os.Stdout)
	packed, err := gzip.NewWriterLevel(encoded, gzip.BestSpeed)
	if err != nil {
		return err
	}
	reply, err := xproto.GetImage(d.Conn, xproto.ImageFormatZPixmap, xproto.Drawable(d.root), 0, 0, width, height, ^uint32(0)).Reply()
	if err != nil {
		return err
	}
	rgb := make([]byte, 0, len(reply.Data)/4*3)
	for i := 0; i+3 < len(reply.Data); i += 4 {
		rgb = append(rgb, reply.Data[i+2], reply.Data[i+1], reply.Data[i])
	}
	if _, err := packed.Write(rgb); err != nil {
		return err
	}
	if err := packed.Close(); err != nil {
		return err
	}
	return encoded.Close()
}

// cursor prints the pointer's picture as the X server composes it: premultiplied ARGB.
func cursor([]string) error {
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	if err := xfixes.Init(d.Conn); err != nil {
		return err
	}
	if _, err := xfixes.QueryVersion(d.Conn, 4, 0).Reply(); err != nil {
		return err
	}
	reply, err := xfixes.GetCursorImage(d.Conn).Reply()
	if err != nil {
		return err
	}
	return printJSON(map[string]any{
		"x": reply.X, "y": reply.Y, "width": reply.Width, "height": reply.Height,
		"hotX": reply.Xhot, "hotY": reply.Yhot, "argb": reply.CursorImage,
	})
}
