package x11

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jezek/xgb/res"
	"github.com/jezek/xgb/xproto"
)

// The fence. An application reads its events in order, so when it answers a _NET_WM_PING, it has
// read all strokes that were sent before. The ping goes to the focused window's top level, the
// ancestor that lists it in WM_PROTOCOLS; the answer comes to the root window. Window managers
// ping too, and ignore answers to a number that is not theirs, as we do.
//
// A window that does not speak it, xterm above all, belongs to a process, which the server knows. A
// process that has read all its events sleeps until the next one: when the server has nothing left
// to send and every thread is seen in the same sleep several times running, the strokes have been
// taken in.
// Where the process cannot be seen, there is only waiting, and few rebindings matter most.

const (
	// pingTime is the least time an application gets to answer, pingStroke what it gets more for
	// each stroke it has to read first. A browser on an emulated and busy machine was seen to take
	// more than 3 s for 200 characters that it has to find fonts for; only one that hangs is waited
	// for in vain, and what it is given too early does harm: a key that has its own meaning back is
	// a multimedia key, which opens a sidebar or goes to another page.
	pingTime   = 20 * time.Second
	pingStroke = 50 * time.Millisecond
	// idleTime and idleStroke are the same for a process that is watched: one that is never seen asleep
	// may just be busy with something else, as a game is. An xterm that met new fonts was busy with 52
	// characters for more than 2 s, on a machine that had other guests to emulate. It is less than
	// cleanupTime: a cancelled call returns when borrowed keys have been given back.
	idleTime   = 4 * time.Second
	idleStroke = pingStroke
	// quietTime and quietStroke are how long an application is left alone about which nothing can
	// be found out.
	quietTime   = 150 * time.Millisecond
	quietStroke = 500 * time.Microsecond
	// An application is idle when it is seen in the same sleep so many times more, so far apart.
	idleGlances = 5
	idleGlance  = 5 * time.Millisecond
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

// reader is who gets strokes: a top level that answers pings or, failing that, a process. The zero
// value is one of which neither is known.
type reader struct {
	topLevel xproto.Window
	process  uint32
}

// focused finds who reads the keyboard now.
func (d *Display) focused() (reader, error) {
	window, err := d.focusWindow()
	if err != nil || window == xproto.WindowNone {
		return reader{}, err
	}
	return d.answering(window)
}

// focusWindow is the window that keys go to, WindowNone when they go nowhere.
func (d *Display) focusWindow() (xproto.Window, error) {
	focus, err := xproto.GetInputFocus(d.x).Reply()
	if err != nil {
		return 0, d.gone(err)
	}
	switch focus.Focus {
	case xproto.InputFocusNone:
		return xproto.WindowNone, nil
	case xproto.InputFocusPointerRoot, d.root:
		return d.pointed()
	}
	return focus.Focus, nil
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
	topLevel, known := d.listing(window, d.atoms.ping)
	switch {
	case !known:
		return reader{}, nil
	case topLevel == xproto.WindowNone:
		return reader{process: d.owner(window)}, nil
	}
	return reader{topLevel: topLevel}, nil
}

// listing is the window or the nearest ancestor that lists a protocol in WM_PROTOCOLS, WindowNone when
// none does. It is not known when the window has gone.
func (d *Display) listing(window xproto.Window, protocol xproto.Atom) (topLevel xproto.Window, known bool) {
	for range 100 { // a loop in the tree cannot be, an adversary can
		if window == xproto.WindowNone || window == d.root {
			return xproto.WindowNone, true
		}
		property := xproto.GetProperty(d.x, false, window, d.atoms.protocols, xproto.AtomAtom, 0, 64)
		tree := xproto.QueryTree(d.x, window)
		protocols, err := property.Reply()
		parent, treeErr := tree.Reply()
		if err != nil || treeErr != nil {
			return xproto.WindowNone, false
		}
		if slices.Contains(numbersOf(protocols), uint32(protocol)) {
			return window, true
		}
		window = parent.Parent
	}
	return xproto.WindowNone, false
}

// owner is the local process that made a window, 0 when the server does not say.
func (d *Display) owner(window xproto.Window) uint32 {
	if !d.processes || window == 0 || window == d.root {
		return 0
	}
	reply, err := res.QueryClientIds(d.x, 1, []res.ClientIdSpec{{Client: uint32(window), Mask: res.ClientIdMaskLocalClientPID}}).Reply()
	if err != nil {
		return 0
	}
	for _, id := range reply.Ids {
		if id.Spec.Mask == res.ClientIdMaskLocalClientPID && len(id.Value) == 1 {
			return id.Value[0]
		}
	}
	return 0
}

// fence waits until the readers have read everything that was sent to them, strokes strokes at
// most. It gives up after a time, as on an application that hangs; only the end of ctx is an error.
func (d *Display) fence(ctx context.Context, readers []reader, strokes int) error {
	limited, cancel := context.WithTimeout(ctx, pingTime+time.Duration(strokes)*pingStroke)
	defer cancel()
	for _, r := range readers {
		watching, stop := limited, func() {}
		if r.topLevel == xproto.WindowNone {
			watching, stop = context.WithTimeout(limited, idleTime+time.Duration(strokes)*idleStroke)
		}
		known, err := d.caughtUp(watching, r)
		stop()
		if !known {
			err = d.pause(limited, quietTime+time.Duration(strokes)*quietStroke)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			d.log.Warn("an application does not take its input in; going on", "window", r.topLevel, "process", r.process)
			return nil
		}
	}
	return nil
}

// caughtUp waits until a reader has read everything that was sent to it; only the end of ctx is an
// error. It returns at once when the reader is not known.
func (d *Display) caughtUp(ctx context.Context, r reader) (known bool, err error) {
	switch {
	case r.topLevel != xproto.WindowNone:
		return true, d.answer(ctx, r.topLevel)
	case r.process != 0:
		return true, d.idle(ctx, r.process)
	}
	return false, nil
}

// answer waits until a top level has answered a ping.
func (d *Display) answer(ctx context.Context, topLevel xproto.Window) error {
	answered, forget, err := d.ping(topLevel)
	if err != nil {
		return nil // the window has gone, and with it whoever might misread
	}
	defer forget()
	select {
	case <-answered:
	case <-d.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// idle waits until a process has read its events.
func (d *Display) idle(ctx context.Context, process uint32) error {
	var before uint64
	for glances := 0; glances <= idleGlances; glances++ {
		// Two round trips: the server writes what it has for all clients between them.
		for range 2 {
			if _, err := xproto.GetInputFocus(d.x).Reply(); err != nil {
				return nil
			}
		}
		asleep, naps := rest(process)
		if !asleep || naps != before {
			glances, before = 0, naps // the first of a new series
		}
		if !asleep {
			glances = -1
		}
		if err := d.pause(ctx, idleGlance); err != nil {
			return err
		}
	}
	return nil
}

// rest tells whether every thread of a process waits for something, as all do when it has ended,
// and how often they have begun to wait. The number matters as much: a process that asks the server
// one question after another is mostly seen waiting, for an answer.
func rest(process uint32) (asleep bool, naps uint64) {
	threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", process))
	asleep = true
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(status)) {
			name, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			switch name {
			case "State":
				asleep = asleep && !strings.HasPrefix(value, "R") && !strings.HasPrefix(value, "D")
			case "voluntary_ctxt_switches":
				n, _ := strconv.ParseUint(value, 10, 64)
				naps += n
			}
		}
	}
	return asleep, naps
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

// pause waits for a time, with all that was asked for under way; only the end of ctx is an error.
func (d *Display) pause(ctx context.Context, length time.Duration) error {
	if length <= 0 {
		return ctx.Err()
	}
	d.net.flush()
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
