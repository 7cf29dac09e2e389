package x11

import (
	"context"
	"encoding/binary"
	"slices"
	"sync"
	"time"

	"github.com/jezek/xgb/xproto"
)

// The fence. An application reads its events in order, so when it answers a _NET_WM_PING, it has
// read all strokes that were sent before. The ping goes to the focused window's top level, the
// ancestor that lists it in WM_PROTOCOLS; the answer comes to the root window. Window managers
// ping too, and ignore answers to a number that is not theirs, as we do.
//
// For a window that does not speak it, xterm above all, there is only waiting, so that few
// rebindings matter most there.

const (
	// pingTime is the least time an application gets to answer, pingStroke what it gets more for
	// each stroke it has to read first: an emulated machine is slow.
	pingTime   = 2 * time.Second
	pingStroke = 5 * time.Millisecond
	// quietTime and quietStroke are the same for an application that does not answer pings.
	quietTime   = 150 * time.Millisecond
	quietStroke = 500 * time.Microsecond
)

// pongs are the answers that are waited for.
type pongs struct {
	mu      sync.Mutex
	serial  uint32
	waiting map[uint32]chan struct{}
}

func (p *pongs) expect() (uint32, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.waiting == nil {
		p.waiting = make(map[uint32]chan struct{})
		p.serial = uint32(time.Now().UnixNano()) | 1 // unlike those of a window manager or a former agent
	}
	p.serial++
	answered := make(chan struct{})
	p.waiting[p.serial] = answered
	return p.serial, answered
}

func (p *pongs) arrived(serial uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if answered, ok := p.waiting[serial]; ok {
		close(answered)
		delete(p.waiting, serial)
	}
}

func (p *pongs) forget(serial uint32) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.waiting, serial)
}

// reader is a window that gets strokes: its top level when that answers pings, 0 otherwise.
type reader struct {
	topLevel xproto.Window
}

// focused finds who reads the keyboard now.
func (d *Display) focused() (reader, error) {
	focus, err := xproto.GetInputFocus(d.x).Reply()
	if err != nil {
		return reader{}, d.gone(err)
	}
	window := focus.Focus
	switch window {
	case xproto.InputFocusNone:
		return reader{}, nil
	case xproto.InputFocusPointerRoot, d.root:
		if window, err = d.pointed(); err != nil {
			return reader{}, err
		}
	}
	return d.answering(window)
}

// pointed is the innermost window under the pointer.
func (d *Display) pointed() (xproto.Window, error) {
	window := d.root
	for range 100 {
		at, err := xproto.QueryPointer(d.x, window).Reply()
		if err != nil {
			return d.root, nil // the window has just gone
		}
		if at.Child == 0 {
			break
		}
		window = at.Child
	}
	return window, nil
}

// answering walks up to the ancestor that answers pings.
func (d *Display) answering(window xproto.Window) (reader, error) {
	for range 100 { // a loop in the tree cannot be, an adversary can
		if window == 0 || window == d.root {
			return reader{}, nil
		}
		property := xproto.GetProperty(d.x, false, window, d.atoms.protocols, xproto.AtomAtom, 0, 64)
		tree := xproto.QueryTree(d.x, window)
		protocols, err := property.Reply()
		parent, treeErr := tree.Reply()
		if err != nil || treeErr != nil {
			return reader{}, nil // the window has just gone
		}
		if protocols.Format == 32 {
			for atom := range slices.Chunk(protocols.Value, 4) {
				if len(atom) == 4 && xproto.Atom(binary.LittleEndian.Uint32(atom)) == d.atoms.ping {
					return reader{window}, nil
				}
			}
		}
		window = parent.Parent
	}
	return reader{}, nil
}

// fence waits until the readers have read everything that was sent to them, strokes strokes at
// most. It gives up after a time, as on an application that hangs; only the end of ctx is an error.
func (d *Display) fence(ctx context.Context, readers []reader, strokes int) error {
	limit := time.NewTimer(pingTime + time.Duration(strokes)*pingStroke)
	defer limit.Stop()
	quiet := len(readers) == 0
	var last xproto.Window
	for _, r := range readers {
		if r.topLevel == 0 {
			quiet = true
			continue
		}
		if r.topLevel == last {
			continue
		}
		last = r.topLevel
		answered, forget, err := d.ping(r.topLevel)
		if err != nil {
			continue // the window has gone, and with it whoever might misread
		}
		select {
		case <-answered:
		case <-limit.C:
			d.log.Warn("an application does not answer; typing on", "window", r.topLevel)
			forget()
			return nil
		case <-ctx.Done():
			forget()
			return ctx.Err()
		case <-d.done:
			forget()
			return nil
		}
	}
	if quiet {
		return d.pause(ctx, quietTime+time.Duration(strokes)*quietStroke)
	}
	return nil
}

// ping sends one to a window.
func (d *Display) ping(window xproto.Window) (answered <-chan struct{}, forget func(), err error) {
	serial, answered := d.pongs.expect()
	event := xproto.ClientMessageEvent{
		Format: 32, Window: window, Type: d.atoms.protocols,
		Data: xproto.ClientMessageDataUnionData32New([]uint32{uint32(d.atoms.ping), serial, uint32(window), 0, 0}),
	}
	forget = func() { d.pongs.forget(serial) }
	if err := xproto.SendEventChecked(d.x, false, window, 0, string(event.Bytes())).Check(); err != nil {
		forget()
		return nil, nil, err
	}
	return answered, forget, nil
}

// pause waits for a time; only the end of ctx is an error.
func (d *Display) pause(ctx context.Context, length time.Duration) error {
	if length <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(length)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-d.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
