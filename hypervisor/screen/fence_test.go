package screen

import (
	"context"

	"image"

	"slices"
	"testing"
	"time"
)

// What QEMU's own dump shows has been handed to its display: after Sync the next frame shows it.
func TestQEMUIsFreshAfterSync(t *testing.T) {
	const changes = 200
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m := startMachine(t)
	m.command("cont", nil)
	for _, c := range []struct {
		name    string
		open    func(context.Context) *Screen
		changes int
	}{{"D-Bus", m.openDBus, changes}, {"RFB", m.openRFB, changes / 10}} {
		s := c.open(ctx)
		eventually(t, "the boot sector's resolution", func() bool { return pattern(frameOf(t, ctx, s)) })
		stale, behind := 0, 0
		var took []time.Duration
		last := m.dump()
		for seen := 0; seen < c.changes; {
			m.command("send-key", map[string]any{"hold-time": 1, "keys": []any{map[string]string{"type": "qcode", "data": "spc"}}})
			var before, after *image.RGBA
			for before = m.dump(); same(before, last); before = m.dump() {
			}
			unsynced := frameOf(t, ctx, s)
			began := time.Now()
			if err := s.Sync(ctx); err != nil {
				t.Fatalf("%s: %v", c.name, cause(err))
			}
			took = append(took, time.Since(began))
			frame := frameOf(t, ctx, s)
			if after = m.dump(); !same(before, after) {
				continue // it was still drawing
			}
			last = after
			seen++
			if !same(frame.Pixels, after) {
				stale++
			}
			if !same(unsynced.Pixels, after) {
				behind++
			}
		}
		t.Logf("%s: %d changes, %d of them not seen without Sync; Sync took %v", c.name, c.changes, behind, quantiles(took))
		if stale > 0 {
			t.Errorf("%s: %d of %d frames are older than the display", c.name, stale, c.changes)
		}
	}
}

// quantiles are the median and the 99th percentile.
func quantiles(took []time.Duration) [2]time.Duration {
	slices.Sort(took)
	return [2]time.Duration{took[len(took)/2], took[len(took)*99/100]}
}
