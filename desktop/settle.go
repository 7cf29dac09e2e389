package desktop

import (
	"bytes"
	"context"
	"image"
	"sync"
	"time"
)

// Settling answers the question that everybody who acts on a screen has: is what I did on it yet?
// Others wait one or two seconds and hope. Here, first the focused application has to have taken in
// the input (Action.Sync), and then the display has to have been still for a quiet time.
//
// A screen is never wholly still: text cursors blink and clocks tick. Such a change is small and
// comes back to the same place at an even pace, and does not count. The first two of its kind do,
// for nothing is known of them yet; each costs one quiet time.

const (
	// quietTime is how long nothing has to change. It is longer than the pauses in which
	// applications draw something step by step, also in an emulated guest.
	quietTime = 100 * time.Millisecond
	// promptAnswer is how fast an application answers that has nothing else to do.
	promptAnswer = 30 * time.Millisecond
	// MaxSettle bounds how long a caller may wait.
	MaxSettle = time.Minute

	smallArea  = 96 * 96                // pixels of what may be a cursor or a clock
	paceMin    = 200 * time.Millisecond // a quicker one is an animation, which is something going on
	paceMemory = 3 * time.Minute        // so that a clock that shows minutes is known
	maxRecent  = 64                     // small changes remembered
)

// Sight is a picture of the display and how long it was waited for.
type Sight struct {
	Frame *Frame
	// Settled says that the display had come to rest; otherwise the time was up, or none was given.
	Settled bool
	Waited  time.Duration
	// Changed is when the display last changed in a way that counts; zero where that is not known.
	Changed time.Time
}

// stillness keeps account of a display's changes. It is safe for concurrent use.
type stillness struct {
	mu     sync.Mutex
	last   time.Time // of the newest change that counts
	recent []Damage  // small ones, oldest first
}

// note takes a change into account.
func (s *stillness) note(d Damage) {
	if d.Rect.Empty() {
		return // the pointer
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.recurs(d) {
		s.last = d.At
	}
}

// recurs tells whether a change is a small one that comes evenly, and remembers it. s.mu must be
// held.
func (s *stillness) recurs(d Damage) bool {
	if d.Rect.Dx()*d.Rect.Dy() > smallArea {
		return false
	}
	var before []time.Time // of the same place, newest first
	for i := len(s.recent) - 1; i >= 0 && len(before) < 2; i-- {
		if same(s.recent[i].Rect, d.Rect) && d.At.Sub(s.recent[i].At) < paceMemory {
			before = append(before, s.recent[i].At)
		}
	}
	if len(s.recent) == maxRecent {
		s.recent = append(s.recent[:0], s.recent[1:]...)
	}
	s.recent = append(s.recent, d)
	if len(before) < 2 {
		return false
	}
	pace, former := d.At.Sub(before[0]), before[0].Sub(before[1])
	return pace >= paceMin && (pace-former).Abs() <= pace/3
}

// same tells whether two small changes are of the same thing: the digits of a clock differ in width.
func same(a, b image.Rectangle) bool {
	return a == b || a.Inset(-16).Overlaps(b) && b.In(a.Inset(-16)) && a.In(b.Inset(-16))
}

// since tells whether anything that counts has changed since then.
func (s *stillness) since(then time.Time) bool { return s.changed().After(then) }

// changed is when something that counts last changed, zero for never.
func (s *stillness) changed() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// await returns when nothing that counts has changed for so long, counted from since at the earliest,
// and whether that was so before the deadline.
func (s *stillness) await(ctx context.Context, since, deadline time.Time, length time.Duration) (settled bool, err error) {
	for {
		quiet := s.changed()
		if quiet.Before(since) {
			quiet = since
		}
		wake := quiet.Add(length)
		if !time.Now().Before(wake) {
			return true, nil
		}
		if wake.After(deadline) {
			wake = deadline
		}
		timer := time.NewTimer(time.Until(wake))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false, ctx.Err()
		case <-timer.C:
		}
		if !time.Now().Before(deadline) {
			return false, nil
		}
	}
}

// See is a picture of a desktop, as Frame gives it. With settle, which is at most MaxSettle, it is
// taken when the display has come to rest, or after that time.
func (m *Manager) See(ctx context.Context, caller Caller, id string, settle time.Duration) (Sight, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return Sight{}, err
	}
	return k.look(ctx, settle, nil)
}

// ActAndSee does actions, as Act does, and takes the picture that they leave behind, as See does.
// When the actions were done and only the picture failed, Acted is set beside the error.
func (m *Manager) ActAndSee(ctx context.Context, caller Caller, id string, settle time.Duration, actions ...Action) (*Acted, Sight, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return nil, Sight{}, err
	}
	agent, err := k.readyAgent()
	if err != nil {
		return nil, Sight{}, err
	}
	var acted *Acted
	sight, err := k.look(ctx, settle, func() error {
		return k.input(ctx, caller, func(ctx context.Context) error {
			done, err := agent.Act(ctx, actions...)
			if err == nil {
				acted = &done
			}
			return err
		})
	})
	return acted, sight, err
}

// look does act, when there is one, lets the display come to rest, and takes the picture.
func (k *keeper) look(ctx context.Context, settle time.Duration, act func() error) (Sight, error) {
	var sight Sight
	settle = min(settle, MaxSettle)
	var still *stillness
	if settle > 0 {
		// Changes are watched from before the action, and the screen is kept until after the picture.
		if _, watched, release, err := k.display.acquire(ctx, k); err == nil {
			defer release()
			still = watched
		}
	}
	if act != nil {
		if err := act(); err != nil {
			return sight, err
		}
	}
	if settle <= 0 {
		var err error
		sight.Frame, err = k.frame(ctx)
		return sight, err
	}
	began := time.Now()
	deadline := began.Add(settle)
	var err error
	if still != nil {
		if sight.Settled, err = k.rest(ctx, still, deadline); err == nil {
			sight.Frame, err = k.frame(ctx)
		}
		sight.Changed = still.changed()
	} else {
		sight.Frame, sight.Settled, err = k.pollStill(ctx, deadline)
	}
	sight.Waited = time.Since(began)
	return sight, err
}

// rest returns when the application has taken in what was done and the display is still, and whether
// that was so before the deadline. Toolkits take in input first and draw later, and a slow machine
// pauses between the two: so the application is asked again near the end of the quiet time, and one that
// takes its time to answer was drawing. It is believed to be slow, or not to answer at all, when that
// happens a second time and it has drawn nothing in between.
func (k *keeper) rest(ctx context.Context, still *stillness, deadline time.Time) (bool, error) {
	k.takeIn(ctx, deadline)
	slow := false
	for {
		since := time.Now()
		settled, err := still.await(ctx, since, deadline, quietTime-promptAnswer)
		if err != nil || !settled {
			return false, err
		}
		asked := time.Now()
		answered := k.takeIn(ctx, deadline)
		prompt := time.Since(asked) < promptAnswer
		if !still.since(asked) && (prompt || !answered || slow && !still.since(since)) {
			if settled, err = still.await(ctx, since, deadline, quietTime); err != nil || !settled {
				return false, err
			}
			if !still.since(asked) {
				return true, nil
			}
		}
		slow = !still.since(asked)
	}
}

// takeIn returns when the focused application has taken in all input, and whether it said so. A guest
// that cannot tell is watched all the same.
func (k *keeper) takeIn(ctx context.Context, deadline time.Time) bool {
	left := time.Until(deadline).Milliseconds()
	agent, err := k.readyAgent()
	if err != nil || left <= 0 {
		return false
	}
	acted, err := agent.Act(ctx, Action{Sync: &Sync{MaxMs: int(min(left, DefaultSyncMs))}})
	return err == nil && acted.Synced
}

// pollStill is the picture of a display whose changes are not told, once it is the same twice.
func (k *keeper) pollStill(ctx context.Context, deadline time.Time) (*Frame, bool, error) {
	frame, err := k.frame(ctx)
	for err == nil {
		wait := min(quietTime, time.Until(deadline))
		if wait <= 0 {
			return frame, false, nil
		}
		select {
		case <-ctx.Done():
			return nil, false, ctx.Err()
		case <-time.After(wait):
		}
		before := frame
		if frame, err = k.frame(ctx); err == nil && bytes.Equal(before.Pixels.Pix, frame.Pixels.Pix) {
			return frame, true, nil
		}
	}
	return nil, false, err
}
