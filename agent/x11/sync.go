package x11

import (
	"context"
	"time"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

// syncing is a desktop.Sync that has been checked.
type syncing struct {
	limit time.Duration
	taken bool // the input was seen to be taken in
}

func checkSync(a desktop.Sync) (step, error) {
	if err := checkRange("maxMs", a.MaxMs, 0, desktop.MaxSyncMs); err != nil {
		return nil, err
	}
	limit := a.MaxMs
	if limit == 0 {
		limit = desktop.DefaultSyncMs
	}
	return &syncing{limit: time.Duration(limit) * time.Millisecond}, nil
}

func (s *syncing) pauses() time.Duration { return s.limit }

// do raises the fence for whoever reads the keys and whoever is under the pointer: a click goes to
// the latter, and need not bring it the focus. Of an application about which nothing can be found
// out nothing is waited for; the clock, which the caller has as well, is all there would be.
func (s *syncing) do(ctx context.Context, d *Display) error {
	limited, cancel := context.WithTimeout(ctx, s.limit)
	defer cancel()
	// A click that a window manager still holds back would come after the ping, and only when it has
	// decided is it known who reads the keys.
	stirred := d.stirred()
	decided, _ := d.decided(limited)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.taken = decided || !stirred
	focus, err := d.focusWindow()
	if err != nil {
		return err
	}
	under, err := d.pointed()
	if err != nil {
		return err
	}
	var asked []reader
	for _, window := range []xproto.Window{focus, under} {
		if window == xproto.WindowNone || window == d.root {
			continue // the keys, or the click, went to nobody
		}
		r, err := d.answering(window)
		if err != nil {
			return err
		}
		known := false
		for _, before := range asked {
			known = known || before == r
		}
		if known {
			continue
		}
		asked = append(asked, r)
		knows, err := d.caughtUp(limited, r)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		s.taken = s.taken && knows && err == nil
	}
	return nil
}
