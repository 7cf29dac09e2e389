package x11

import (
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// Windows as the window manager tells them, by the EWMH: it keeps lists of them on the root window
// and does what messages to the root window ask for.

const (
	maxTitle = 512 // bytes
	maxClass = 128
	// activateTime is how long a window manager gets to give a window the focus.
	activateTime = 2 * time.Second
)

// ewmh is the vocabulary of window managers.
type ewmh struct {
	check, list, stacking, active, close, name, utf8, compound, state, hidden, workspace, kind xproto.Atom
	kinds                                                                                      map[xproto.Atom]string
}

var windowKinds = []string{"normal", "dialog", "desktop", "dock", "toolbar", "menu", "utility", "splash",
	"dropdown_menu", "popup_menu", "tooltip", "notification", "combo", "dnd"}

func (d *Display) internEWMH() error {
	e := &d.ewmh
	atoms := []interned{
		{&e.check, "_NET_SUPPORTING_WM_CHECK"}, {&e.list, "_NET_CLIENT_LIST"}, {&e.stacking, "_NET_CLIENT_LIST_STACKING"},
		{&e.active, "_NET_ACTIVE_WINDOW"}, {&e.close, "_NET_CLOSE_WINDOW"}, {&e.name, "_NET_WM_NAME"}, {&e.utf8, "UTF8_STRING"},
		{&e.compound, "COMPOUND_TEXT"},
		{&e.state, "_NET_WM_STATE"}, {&e.hidden, "_NET_WM_STATE_HIDDEN"}, {&e.workspace, "_NET_WM_DESKTOP"},
		{&e.kind, "_NET_WM_WINDOW_TYPE"},
	}
	kinds := make([]xproto.Atom, len(windowKinds))
	for i, kind := range windowKinds {
		atoms = append(atoms, interned{&kinds[i], "_NET_WM_WINDOW_TYPE_" + strings.ToUpper(kind)})
	}
	if err := d.intern(atoms); err != nil {
		return err
	}
	e.kinds = make(map[xproto.Atom]string)
	for i, kind := range windowKinds {
		e.kinds[kinds[i]] = kind
	}
	return nil
}

// Managed tells whether a window manager runs: whether somebody's session is there, and not just the
// bare display before the log-in.
func (d *Display) Managed() bool {
	manager, err := d.numbers(d.root, d.ewmh.check, 1)
	return err == nil && len(manager) == 1
}

// Windows lists the managed windows, the topmost first.
func (d *Display) Windows(ctx context.Context) ([]desktop.Window, error) {
	return await(ctx, d.windows)
}

func (d *Display) windows() ([]desktop.Window, error) {
	ids, active, err := d.managed()
	if err != nil {
		return nil, err
	}
	windows := make([]desktop.Window, 0, len(ids))
	const together = 64 // how many are asked about in one go
	for some := range slices.Chunk(ids, together) {
		questions := make([]windowQuestions, len(some))
		d.net.gather()
		for i, id := range some {
			questions[i] = d.askWindow(id)
		}
		d.net.flush()
		for i, id := range some {
			if w, ok := d.window(id, questions[i]); ok {
				w.Focused = id == active
				windows = append(windows, w)
			}
		}
	}
	return windows, nil
}

// managed is the ids of the managed windows, the topmost first, and that of the active one.
func (d *Display) managed() (ids []xproto.Window, active xproto.Window, err error) {
	d.net.gather()
	check := d.askNumbers(d.root, d.ewmh.check, 1)
	lists := []xproto.GetPropertyCookie{ // not every window manager keeps the first
		d.askNumbers(d.root, d.ewmh.stacking, desktop.MaxWindows), d.askNumbers(d.root, d.ewmh.list, desktop.MaxWindows)}
	focus := d.askNumbers(d.root, d.ewmh.active, 1)
	d.net.flush()
	// All are read, so that none waits for its reader.
	manager, err := d.answered(check)
	var list []uint32
	for _, asked := range lists {
		numbers, listErr := d.answered(asked)
		if err = cmp.Or(err, listErr); len(list) == 0 {
			list = numbers
		}
	}
	one, focusErr := d.answered(focus)
	if err = cmp.Or(err, focusErr); err != nil {
		return nil, 0, err
	}
	if len(manager) == 0 {
		return nil, 0, desktop.Errorf(desktop.Unavailable, "no window manager is running on the desktop that tells of its windows")
	}
	for _, id := range slices.Backward(list) {
		ids = append(ids, xproto.Window(id))
	}
	return ids, windowOf(one), nil
}

func (d *Display) active() (xproto.Window, error) {
	active, err := d.numbers(d.root, d.ewmh.active, 1)
	return windowOf(active), err
}

// windowOf is the one window in a property, WindowNone when there is none.
func windowOf(numbers []uint32) xproto.Window {
	if len(numbers) == 0 {
		return xproto.WindowNone
	}
	return xproto.Window(numbers[0])
}

// numbers reads a property of 32-bit numbers, most of them at most.
func (d *Display) numbers(window xproto.Window, property xproto.Atom, most uint32) ([]uint32, error) {
	return d.answered(d.askNumbers(window, property, most))
}

func (d *Display) askNumbers(window xproto.Window, property xproto.Atom, most uint32) xproto.GetPropertyCookie {
	return xproto.GetProperty(d.x, false, window, property, xproto.GetPropertyTypeAny, 0, most)
}

func (d *Display) answered(asked xproto.GetPropertyCookie) ([]uint32, error) {
	reply, err := asked.Reply()
	if err != nil {
		return nil, d.gone(err)
	}
	return numbersOf(reply), nil
}

func numbersOf(reply *xproto.GetPropertyReply) []uint32 {
	if reply == nil || reply.Format != 32 {
		return nil
	}
	numbers := make([]uint32, len(reply.Value)/4)
	for i := range numbers {
		numbers[i] = binary.LittleEndian.Uint32(reply.Value[4*i:])
	}
	return numbers
}

// windowQuestions are the requests about one window, sent before any answer is read.
type windowQuestions struct {
	name, oldName, class, state, workspace, kind xproto.GetPropertyCookie
	geometry                                     xproto.GetGeometryCookie
	place                                        xproto.TranslateCoordinatesCookie
}

func (d *Display) askWindow(id xproto.Window) windowQuestions {
	property := func(atom xproto.Atom, bytes uint32) xproto.GetPropertyCookie {
		return xproto.GetProperty(d.x, false, id, atom, xproto.GetPropertyTypeAny, 0, bytes/4)
	}
	return windowQuestions{
		name: property(d.ewmh.name, maxTitle), oldName: property(xproto.AtomWmName, maxTitle),
		class: property(xproto.AtomWmClass, 2*maxClass), state: property(d.ewmh.state, 4*32),
		workspace: property(d.ewmh.workspace, 4), kind: property(d.ewmh.kind, 4*8),
		geometry: xproto.GetGeometry(d.x, xproto.Drawable(id)),
		place:    xproto.TranslateCoordinates(d.x, id, d.root, 0, 0),
	}
}

// window puts the answers together; false when the window has gone meanwhile.
func (d *Display) window(id xproto.Window, q windowQuestions) (desktop.Window, bool) {
	// All are read, so that none waits for its reader.
	name, _ := q.name.Reply()
	oldName, _ := q.oldName.Reply()
	class, _ := q.class.Reply()
	state, _ := q.state.Reply()
	workspace, _ := q.workspace.Reply()
	kind, _ := q.kind.Reply()
	geometry, geometryErr := q.geometry.Reply()
	place, placeErr := q.place.Reply()
	if geometryErr != nil || placeErr != nil {
		return desktop.Window{}, false
	}
	w := desktop.Window{
		ID: uint32(id), Title: d.text(name), Class: classOf(class), Kind: "normal",
		X: int(place.DstX), Y: int(place.DstY), Width: int(geometry.Width), Height: int(geometry.Height),
		Minimized: slices.Contains(numbersOf(state), uint32(d.ewmh.hidden)),
	}
	if w.Title == "" {
		w.Title = d.text(oldName)
	}
	if n := numbersOf(workspace); len(n) == 1 {
		w.Workspace = int(int32(n[0]))
	}
	for _, atom := range numbersOf(kind) {
		if known, ok := d.ewmh.kinds[xproto.Atom(atom)]; ok {
			w.Kind = known
			break
		}
	}
	return w, true
}

// text is a property's, whose type says how it is encoded.
func (d *Display) text(reply *xproto.GetPropertyReply) string {
	if reply == nil || reply.Format != 8 {
		return ""
	}
	switch reply.Type {
	case xproto.AtomString:
		return latin1(reply.Value)
	case d.ewmh.compound: // Latin-1 until an escape sequence says otherwise
		plain, _, _ := bytes.Cut(reply.Value, []byte{0x1b})
		return latin1(plain)
	}
	return strings.ToValidUTF8(strings.TrimRight(string(reply.Value), "\x00"), "\uFFFD")
}

// latin1 reads the encoding of X11's old STRING.
func latin1(b []byte) string {
	runes := make([]rune, len(b))
	for i, c := range b {
		runes[i] = rune(c)
	}
	return strings.TrimRight(string(runes), "\x00")
}

// classOf is the second of the two names in WM_CLASS, that of the application.
func classOf(reply *xproto.GetPropertyReply) string {
	if reply == nil || reply.Format != 8 {
		return ""
	}
	instance, class, _ := strings.Cut(string(reply.Value), "\x00")
	class, _, _ = strings.Cut(class, "\x00")
	if class == "" {
		class = instance
	}
	return strings.ToValidUTF8(class, "\uFFFD")
}

// ActivateWindow gives a window the focus, and brings it and its workspace to the front. It returns
// when the window manager has done so.
func (d *Display) ActivateWindow(ctx context.Context, id uint32) error {
	const pager = 2 // who asks: not an application for itself, which may be refused, but for the user
	window := xproto.Window(id)
	active, err := await(ctx, func() (xproto.Window, error) {
		if err := d.askManager(window, d.ewmh.active, pager, 0, 0); err != nil {
			return 0, err
		}
		return d.active()
	})
	for began := time.Now(); err == nil && active != window; {
		if time.Since(began) > activateTime {
			return desktop.Errorf(desktop.Conflict, "the window manager does not give window %d the focus", id)
		}
		if err = d.pause(ctx, 5*time.Millisecond); err == nil {
			active, err = await(ctx, d.active)
		}
	}
	return err
}

// CloseWindow asks a window's application to close it, as the button on its frame does. The
// application may ask its user first.
func (d *Display) CloseWindow(ctx context.Context, id uint32) error {
	_, err := await(ctx, func() (struct{}, error) {
		return struct{}{}, d.askManager(xproto.Window(id), d.ewmh.close, 0, 2, 0)
	})
	return err
}

// askManager sends a message about one of its windows to the window manager.
func (d *Display) askManager(window xproto.Window, message xproto.Atom, data ...uint32) error {
	managed, _, err := d.managed()
	if err != nil {
		return err
	}
	_, err = xproto.GetGeometry(d.x, xproto.Drawable(window)).Reply()
	if errors.Is(err, io.EOF) {
		return d.gone(err)
	}
	// A window that has just gone may be in the list for a moment longer.
	if err != nil || !slices.Contains(managed, window) {
		return desktop.Errorf(desktop.NotFound, "the desktop has no window %d", window)
	}
	event := xproto.ClientMessageEvent{
		Format: 32, Window: window, Type: message,
		Data: xproto.ClientMessageDataUnionData32New(append(data, make([]uint32, 5-len(data))...)),
	}
	err = xproto.SendEventChecked(d.x, false, d.root,
		xproto.EventMaskSubstructureNotify|xproto.EventMaskSubstructureRedirect, string(event.Bytes())).Check()
	d.manager.messaged.Store(true)
	return d.gone(err)
}
