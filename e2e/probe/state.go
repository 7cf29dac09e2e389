package main

import (
	"encoding/binary"
	"errors"
	"strings"

	"github.com/jezek/xgb/xproto"
)

// pointer prints where the pointer is and what is held.
func pointer([]string) error {
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	reply, err := xproto.QueryPointer(d.Conn, d.root).Reply()
	if err != nil {
		return err
	}
	return printJSON(map[string]any{"x": reply.RootX, "y": reply.RootY, "mask": reply.Mask})
}

// keys prints the keys that are down and the modifiers and buttons in force.
func keys([]string) error {
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	reply, err := xproto.QueryKeymap(d.Conn).Reply()
	if err != nil {
		return err
	}
	held := []int{}
	for i, bits := range reply.Keys {
		for b := range 8 {
			if bits&(1<<b) != 0 {
				held = append(held, i*8+b)
			}
		}
	}
	p, err := xproto.QueryPointer(d.Conn, d.root).Reply()
	if err != nil {
		return err
	}
	return printJSON(map[string]any{"held": held, "mask": p.Mask})
}

type window struct {
	ID       uint32 `json:"id"`
	Title    string `json:"title"`
	Instance string `json:"instance"`
	Class    string `json:"class"`
	X        int    `json:"x"` // of its contents, on the display
	Y        int    `json:"y"`
	Width    int    `json:"width"`
	Height   int    `json:"height"`
	Active   bool   `json:"active"`
	FrameX   int    `json:"frameX"` // with the window manager's decorations
	FrameY   int    `json:"frameY"`
	FrameW   int    `json:"frameWidth"`
	FrameH   int    `json:"frameHeight"`
}

// windows prints those that the window manager lists, lowest first.
func windows([]string) error {
	d, err := connect()
	if err != nil {
		return err
	}
	defer d.Close()
	list, err := d.property(d.root, "_NET_CLIENT_LIST_STACKING")
	if err != nil {
		return err
	}
	active, err := d.property(d.root, "_NET_ACTIVE_WINDOW")
	if err != nil {
		return err
	}
	found := []window{}
	for ; len(list) >= 4; list = list[4:] {
		id := binary.LittleEndian.Uint32(list)
		w, err := d.describe(xproto.Window(id))
		var gone xproto.WindowError
		var undrawable xproto.DrawableError
		if errors.As(err, &gone) || errors.As(err, &undrawable) {
			continue // it closed in the meantime
		}
		if err != nil {
			return err
		}
		w.Active = len(active) >= 4 && binary.LittleEndian.Uint32(active) == id
		found = append(found, w)
	}
	return printJSON(found)
}

func (d *display) describe(id xproto.Window) (w window, err error) {
	w.ID = uint32(id)
	title, err := d.property(id, "_NET_WM_NAME")
	if err != nil {
		return w, err
	}
	w.Title = string(title)
	class, err := d.property(id, "WM_CLASS")
	if err != nil {
		return w, err
	}
	w.Instance, w.Class, _ = strings.Cut(strings.TrimSuffix(string(class), "\x00"), "\x00")
	if w.X, w.Y, w.Width, w.Height, err = d.place(id); err != nil {
		return w, err
	}
	// The frame is the ancestor just below the root.
	for frame := id; ; {
		tree, err := xproto.QueryTree(d.Conn, frame).Reply()
		if err != nil {
			return w, err
		}
		if tree.Parent == d.root || tree.Parent == 0 {
			w.FrameX, w.FrameY, w.FrameW, w.FrameH, err = d.place(frame)
			return w, err
		}
		frame = tree.Parent
	}
}

func (d *display) place(id xproto.Window) (x, y, width, height int, err error) {
	g, err := xproto.GetGeometry(d.Conn, xproto.Drawable(id)).Reply()
	if err != nil {
		return 0, 0, 0, 0, err
	}
	t, err := xproto.TranslateCoordinates(d.Conn, id, d.root, 0, 0).Reply()
	if err != nil {
		return 0, 0, 0, 0, err
	}
	return int(t.DstX), int(t.DstY), int(g.Width), int(g.Height), nil
}
