package x11

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// The clipboard. In X11 nothing is kept anywhere: the application in which something was copied owns
// the selection CLIPBOARD, and whoever pastes asks that application for it, in a form of his choice,
// through a property of a window of his own. What is too large for one request goes piece by piece:
// the owner puts one into the property when the reader has taken the last away, and an empty one at
// the end (INCR).
//
// Reading, we are such an asker, with a new window for each time, so that an owner that answers too
// late, or does not stop, answers to nobody. Writing, we are the owner: the text is ours for as long
// as no other application copies something, and the keeper (one goroutine) answers those who paste.
// Afterwards nobody asks us any more.

const (
	// clipPatience is how long the other side may take for each step.
	clipPatience = 3 * time.Second
	// clipPiece is the most that is given in one piece.
	clipPiece = 64 << 10
	// clipTransfers is how many may take a large text piece by piece at the same time.
	clipTransfers = 16
	// clipWaiting is how many requests of other applications may wait; those beyond get no answer.
	clipWaiting = 64
)

// clipboard is our side of the selection.
type clipboard struct {
	atoms clipAtoms
	// owner is the window that owns what we have copied.
	owner xproto.Window
	// setting is held by the one who becomes the owner.
	setting chan struct{}
	// requests are events for the keeper.
	requests chan any

	mu    sync.Mutex
	text  string
	since xproto.Timestamp // when the text became ours; 0 before the first
	// listeners get the events about windows of ours.
	listeners map[xproto.Window]chan any
}

type clipAtoms struct {
	clipboard, property, incr, targets, timestamp, text, plain, plainUTF8 xproto.Atom
}

func (d *Display) openClipboard() error {
	c := &d.clip
	err := d.intern([]interned{
		{&c.atoms.clipboard, "CLIPBOARD"}, {&c.atoms.property, "_BUREAU_CLIPBOARD"}, {&c.atoms.incr, "INCR"},
		{&c.atoms.targets, "TARGETS"}, {&c.atoms.timestamp, "TIMESTAMP"}, {&c.atoms.text, "TEXT"},
		{&c.atoms.plain, "text/plain"}, {&c.atoms.plainUTF8, "text/plain;charset=utf-8"},
	})
	if err != nil {
		return err
	}
	c.setting = make(chan struct{}, 1)
	c.requests = make(chan any, clipWaiting)
	c.listeners = make(map[xproto.Window]chan any)
	if c.owner, err = d.quietWindow(); err != nil {
		return err
	}
	d.work.Go(d.keepClipboard)
	return nil
}

// quietWindow makes a window that is never seen, whose properties we hear of.
func (d *Display) quietWindow() (xproto.Window, error) {
	id, err := xproto.NewWindowId(d.x)
	if err != nil {
		return 0, err
	}
	const copyFromParent = 0
	err = xproto.CreateWindowChecked(d.x, copyFromParent, id, d.root, -1, -1, 1, 1, 0, xproto.WindowClassInputOnly, copyFromParent,
		xproto.CwOverrideRedirect|xproto.CwEventMask, []uint32{1, xproto.EventMaskPropertyChange}).Check()
	return id, d.gone(err)
}

// event takes an event that concerns the clipboard. It never waits: it is called by the reader of
// events.
func (c *clipboard) event(event any) {
	var about xproto.Window
	switch e := event.(type) {
	case xproto.PropertyNotifyEvent:
		about = e.Window
	case xproto.SelectionNotifyEvent:
		about = e.Requestor
	}
	c.mu.Lock()
	listener := c.listeners[about]
	c.mu.Unlock()
	if listener == nil {
		listener = c.requests
	}
	select {
	case listener <- event:
	default:
	}
}

// listen makes events about a window come to a channel, until quit is called.
func (c *clipboard) listen(window xproto.Window) (events <-chan any, quit func()) {
	channel := make(chan any, 16)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners[window] = channel
	return channel, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.listeners, window)
	}
}

// errMute says that the other side of the clipboard does not answer.
var errMute = errors.New("the application that owns the clipboard does not answer")

// heard waits for an event that is as wanted.
func heard[E any](ctx context.Context, d *Display, events <-chan any, want func(E) bool) (E, error) {
	timer := time.NewTimer(clipPatience)
	defer timer.Stop()
	for {
		select {
		case event := <-events:
			if e, ok := event.(E); ok && want(e) {
				return e, nil
			}
			continue
		case <-timer.C:
			return *new(E), errMute
		case <-d.done:
			return *new(E), io.EOF
		case <-ctx.Done():
			return *new(E), context.Cause(ctx)
		}
	}
}

// Clipboard is the text on the clipboard, "" when nothing was copied. Conflict says that what was
// copied is no text, TooLarge that it is more than is read, Unavailable that its application does
// not give it.
func (d *Display) Clipboard(ctx context.Context) (string, error) {
	owner, err := await(ctx, func() (xproto.Window, error) {
		reply, err := xproto.GetSelectionOwner(d.x, d.clip.atoms.clipboard).Reply()
		if err != nil {
			return 0, d.gone(err)
		}
		return reply.Owner, nil
	})
	switch {
	case err != nil:
		return "", err
	case owner == xproto.WindowNone:
		return "", nil
	case owner == d.clip.owner:
		d.clip.mu.Lock()
		defer d.clip.mu.Unlock()
		return d.clip.text, nil
	}
	// Every application gives the first; those that do not are very old.
	for _, form := range []xproto.Atom{d.ewmh.utf8, xproto.AtomString} {
		text, given, err := d.paste(ctx, form)
		switch {
		case errors.Is(err, errMute):
			return "", desktop.Errorf(desktop.Unavailable, "%w", err)
		case err != nil:
			return "", d.gone(err)
		case given:
			return text, nil
		}
	}
	return "", desktop.Errorf(desktop.Conflict, "what is on the clipboard is not text")
}

// paste asks the owner for the clipboard in a form; given is false when he has no such form.
func (d *Display) paste(ctx context.Context, form xproto.Atom) (text string, given bool, err error) {
	window, err := await(ctx, d.quietWindow)
	if err != nil {
		return "", false, err
	}
	events, quit := d.clip.listen(window)
	defer quit()
	defer xproto.DestroyWindow(d.x, window)
	property := d.clip.atoms.property
	xproto.ConvertSelection(d.x, window, d.clip.atoms.clipboard, form, property, xproto.TimeCurrentTime)
	answer, err := heard(ctx, d, events, func(e xproto.SelectionNotifyEvent) bool { return e.Target == form })
	if err != nil || answer.Property == xproto.AtomNone {
		return "", false, err
	}
	kind, data, err := d.take(ctx, window)
	if err != nil {
		return "", false, err
	}
	if kind == d.clip.atoms.incr {
		data = nil
		for {
			_, err := heard(ctx, d, events, func(e xproto.PropertyNotifyEvent) bool {
				return e.Atom == property && e.State == xproto.PropertyNewValue
			})
			if err != nil {
				return "", false, err
			}
			var piece []byte
			if kind, piece, err = d.take(ctx, window); err != nil {
				return "", false, err
			}
			if len(piece) == 0 {
				break
			}
			if data = append(data, piece...); len(data) > desktop.MaxClipboardBytes {
				return "", false, errTooMuch()
			}
		}
	}
	if kind == xproto.AtomString {
		text = latin1(data)
	} else {
		text = strings.ToValidUTF8(string(data), "\uFFFD")
	}
	if len(text) > desktop.MaxClipboardBytes { // it may have become longer
		return "", false, errTooMuch()
	}
	return text, true, nil
}

func errTooMuch() error {
	return desktop.Errorf(desktop.TooLarge, "the clipboard has more than %d bytes", desktop.MaxClipboardBytes)
}

// take reads the property that the owner has filled and deletes it, which asks for the next piece.
func (d *Display) take(ctx context.Context, window xproto.Window) (kind xproto.Atom, data []byte, err error) {
	reply, err := await(ctx, func() (*xproto.GetPropertyReply, error) {
		return xproto.GetProperty(d.x, true, window, d.clip.atoms.property, xproto.GetPropertyTypeAny, 0, desktop.MaxClipboardBytes/4).Reply()
	})
	if err != nil {
		return 0, nil, err
	}
	if reply.BytesAfter > 0 {
		return 0, nil, errTooMuch()
	}
	if reply.Format != 8 {
		return reply.Type, nil, nil
	}
	return reply.Type, reply.Value, nil
}

// SetClipboard puts a text on the clipboard.
func (d *Display) SetClipboard(ctx context.Context, text string) error {
	switch {
	case len(text) > desktop.MaxClipboardBytes:
		return desktop.Errorf(desktop.TooLarge, "the text has %d bytes; the clipboard takes %d", len(text), desktop.MaxClipboardBytes)
	case !utf8.ValidString(text):
		return desktop.Errorf(desktop.Invalid, "the text is not valid UTF-8")
	}
	c := &d.clip
	select {
	case c.setting <- struct{}{}:
		defer func() { <-c.setting }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	// The time since when we own it must be the server's own: it says so when a property changes.
	events, quit := c.listen(c.owner)
	defer quit()
	xproto.ChangeProperty(d.x, xproto.PropModeReplace, c.owner, c.atoms.property, xproto.AtomCardinal, 32, 0, nil)
	changed, err := heard(ctx, d, events, func(e xproto.PropertyNotifyEvent) bool { return e.Window == c.owner })
	switch {
	case errors.Is(err, errMute):
		return desktop.Errorf(desktop.Unavailable, "the X server does not answer")
	case err != nil:
		return d.gone(err)
	}
	// Before it is ours, so that the first who asks finds it; a later loss is for the keeper to see.
	c.mu.Lock()
	c.text, c.since = text, changed.Time
	c.mu.Unlock()
	owner, err := await(ctx, func() (xproto.Window, error) {
		xproto.SetSelectionOwner(d.x, c.owner, c.atoms.clipboard, changed.Time)
		reply, err := xproto.GetSelectionOwner(d.x, c.atoms.clipboard).Reply()
		if err != nil {
			return 0, d.gone(err)
		}
		return reply.Owner, nil
	})
	if err == nil && owner != c.owner {
		err = desktop.Errorf(desktop.Conflict, "another application has put something on the clipboard at the same time")
	}
	return err
}

// transfer is a large text on its way to an application, piece by piece.
type transfer struct {
	requestor      xproto.Window
	property, kind xproto.Atom
	rest           []byte
	since          time.Time // the last step
}

// keepClipboard answers those who paste what we have copied.
func (d *Display) keepClipboard() {
	var transfers []*transfer
	for {
		var event any
		select {
		case event = <-d.clip.requests:
		case <-d.done:
			return
		}
		switch e := event.(type) {
		case xproto.SelectionRequestEvent:
			transfers = slices.DeleteFunc(transfers, func(t *transfer) bool {
				late := time.Since(t.since) > clipPatience
				if late {
					d.endTransfer(t)
				}
				return late || t.requestor == e.Requestor && t.property == e.Property
			})
			if t := d.serve(e, len(transfers) < clipTransfers); t != nil {
				transfers = append(transfers, t)
			}
		case xproto.PropertyNotifyEvent:
			if e.State != xproto.PropertyDelete {
				continue
			}
			transfers = slices.DeleteFunc(transfers, func(t *transfer) bool {
				return t.requestor == e.Window && t.property == e.Atom && !d.next(t)
			})
		}
	}
}

// serve answers one request. It returns what remains to be transferred.
func (d *Display) serve(e xproto.SelectionRequestEvent, room bool) *transfer {
	c := &d.clip
	c.mu.Lock()
	text, since := c.text, c.since
	c.mu.Unlock()
	property := e.Property
	if property == xproto.AtomNone { // as old clients ask
		property = e.Target
	}
	var kind xproto.Atom
	var data []byte
	format := byte(8)
	switch e.Target {
	case c.atoms.targets:
		kind, format = xproto.AtomAtom, 32
		for _, atom := range []xproto.Atom{c.atoms.targets, c.atoms.timestamp, d.ewmh.utf8, c.atoms.plainUTF8, c.atoms.plain,
			c.atoms.text, xproto.AtomString} {
			data = appendNumber(data, uint32(atom))
		}
	case c.atoms.timestamp:
		kind, format, data = xproto.AtomInteger, 32, appendNumber(nil, uint32(since))
	case d.ewmh.utf8, c.atoms.text:
		kind, data = d.ewmh.utf8, []byte(text)
	case c.atoms.plainUTF8, c.atoms.plain:
		kind, data = e.Target, []byte(text)
	case xproto.AtomString:
		kind, data = xproto.AtomString, toLatin1(text)
	default:
		property = xproto.AtomNone
	}
	// The events of these two windows are ours to choose.
	forbidden := e.Requestor == d.root || e.Requestor == c.owner
	if since == 0 || e.Selection != c.atoms.clipboard || forbidden || !room && len(data) > clipPiece {
		property = xproto.AtomNone
	}
	var rest *transfer
	switch {
	case property == xproto.AtomNone:
	case len(data) > clipPiece:
		rest = &transfer{requestor: e.Requestor, property: property, kind: kind, rest: data, since: time.Now()}
		xproto.ChangeWindowAttributes(d.x, e.Requestor, xproto.CwEventMask, []uint32{xproto.EventMaskPropertyChange})
		xproto.ChangeProperty(d.x, xproto.PropModeReplace, e.Requestor, property, c.atoms.incr, 32, 1, appendNumber(nil, uint32(len(data))))
	default:
		xproto.ChangeProperty(d.x, xproto.PropModeReplace, e.Requestor, property, kind, format, uint32(len(data))/uint32(format/8), data)
	}
	answer := xproto.SelectionNotifyEvent{Time: e.Time, Requestor: e.Requestor, Selection: e.Selection, Target: e.Target, Property: property}
	xproto.SendEvent(d.x, false, e.Requestor, 0, string(answer.Bytes()))
	return rest
}

// next gives the next piece, and false after the last, which is empty.
func (d *Display) next(t *transfer) bool {
	piece := t.rest[:min(len(t.rest), clipPiece)]
	xproto.ChangeProperty(d.x, xproto.PropModeReplace, t.requestor, t.property, t.kind, 8, uint32(len(piece)), piece)
	if len(piece) == 0 {
		d.endTransfer(t)
		return false
	}
	t.rest, t.since = t.rest[len(piece):], time.Now()
	return true
}

func (d *Display) endTransfer(t *transfer) {
	xproto.ChangeWindowAttributes(d.x, t.requestor, xproto.CwEventMask, []uint32{xproto.EventMaskNoEvent})
}

func appendNumber(b []byte, n uint32) []byte {
	return append(b, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
}

// toLatin1 writes X11's old STRING, with a question mark for what it lacks.
func toLatin1(text string) []byte {
	b := make([]byte, 0, len(text))
	for _, r := range text {
		if r > 0xff {
			r = '?'
		}
		b = append(b, byte(r))
	}
	return b
}
