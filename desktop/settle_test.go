package desktop

import (
	"context"
	"image"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRecurringChanges(t *testing.T) {
	caret, clock, window := image.Rect(100, 100, 102, 120), image.Rect(1200, 5, 1270, 25), image.Rect(0, 0, 600, 400)
	type change struct {
		at   time.Duration
		rect image.Rectangle
	}
	every := func(n int, pace time.Duration, r image.Rectangle) (list []change) {
		for i := range n {
			list = append(list, change{time.Duration(i) * pace, r})
		}
		return list
	}
	for _, c := range []struct {
		name    string
		changes []change
		counted int // how many count as changes
	}{
		{"a blinking text cursor", every(20, 600*time.Millisecond, caret), 2},
		{"a clock", every(10, time.Second, clock), 2},
		{"a clock that shows minutes", every(4, time.Minute, clock), 2},
		{"a small animation", every(20, 33*time.Millisecond, caret), 20},
		{"a video", every(20, 600*time.Millisecond, window), 20},
		{"a widget that is clicked twice", every(2, time.Second, caret), 2},
		{"uneven changes in one place", []change{{0, caret}, {300 * time.Millisecond, caret}, {2 * time.Second, caret}, {2300 * time.Millisecond, caret}}, 4},
		{"a cursor beside a window that draws", slices.Concat(every(10, 600*time.Millisecond, caret), []change{{5500 * time.Millisecond, window}}), 3},
		{"text that is typed", []change{{0, caret}, {time.Second, caret.Add(image.Pt(80, 0))}, {2 * time.Second, caret.Add(image.Pt(160, 0))}}, 3},
		{"the pointer alone", every(5, time.Second, image.Rectangle{}), 0},
	} {
		var s stillness
		begin := time.Now()
		counted := 0
		slices.SortStableFunc(c.changes, func(a, b change) int { return int(a.at - b.at) })
		for _, change := range c.changes {
			before := s.last
			s.note(Damage{Rect: change.rect, At: begin.Add(change.at)})
			if s.last != before {
				counted++
			}
		}
		if counted != c.counted {
			t.Errorf("%s: %d changes count, want %d", c.name, counted, c.counted)
		}
	}
}

// stillScreen is a display that changes when a test says so.
type stillScreen struct {
	mu    sync.Mutex
	frame Frame
	watch func(Damage)
	done  chan struct{}
}

func newStillScreen() *stillScreen {
	return &stillScreen{frame: Frame{Serial: 1, Source: SourceDBus, Pixels: image.NewRGBA(image.Rect(0, 0, 8, 8))}, done: make(chan struct{})}
}

func (s *stillScreen) paint() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.frame.Serial++
	if s.watch != nil {
		s.watch(Damage{Serial: s.frame.Serial, Rect: image.Rect(0, 0, 500, 500), At: time.Now()})
	}
}

func (s *stillScreen) Frame(context.Context) (*Frame, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	frame := s.frame
	return &frame, nil
}

func (s *stillScreen) Watch(f func(Damage)) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = f
	return func() {}
}

func (s *stillScreen) Sync(context.Context) error         { return nil }
func (s *stillScreen) Wait(context.Context, uint64) error { return nil }
func (s *stillScreen) Done() <-chan struct{}              { return s.done }
func (s *stillScreen) Close() error                       { return nil }

func TestActAndSee(t *testing.T) {
	// In a bubble, whose clock does not depend on how busy the machine is.
	for name, agents := range map[string]fakeAgents{
		"prompt": {},
		// A guest whose answers always take their time is at rest all the same.
		"slow": {slow: 2 * promptAnswer},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { testActAndSee(t, agents) })
		})
	}
}

func testActAndSee(t *testing.T, agents fakeAgents) {
	screen := newStillScreen()
	a := newApplianceWith(t, agents)
	a.machines.mu.Lock()
	a.machines.screen = func() Screen { return screen }
	a.machines.mu.Unlock()
	d := a.create(ann, Draft{})
	a.await(d.ID, ready)

	paint := func(n int, pause time.Duration) (stop func()) {
		var wg sync.WaitGroup
		wg.Go(func() {
			for range n {
				time.Sleep(pause)
				screen.paint()
			}
		})
		return wg.Wait
	}

	// A window that draws in steps is seen complete, long before the deadline.
	done := paint(10, 20*time.Millisecond)
	acted, sight, err := a.ActAndSee(t.Context(), ann, d.ID, 30*time.Second, Action{Move: &Move{}})
	done()
	if err != nil || acted == nil || !sight.Settled || sight.Frame.Serial != 11 || sight.Waited > 20*time.Second {
		t.Errorf("%+v %+v %v", acted, sight, err)
	}
	if still := time.Since(sight.Changed); still < quietTime || still > 20*time.Second {
		t.Errorf("the display has been still for %v", still)
	}
	// One that never stops is seen at the deadline.
	done = paint(100, 10*time.Millisecond)
	sight, err = a.See(t.Context(), ann, d.ID, 300*time.Millisecond)
	if err != nil || sight.Settled || sight.Waited < 300*time.Millisecond || sight.Frame == nil {
		t.Errorf("%+v %v", sight, err)
	}
	done()
	// Without settling there is no wait.
	if sight, err = a.See(t.Context(), ann, d.ID, 0); err != nil || sight.Settled || sight.Waited != 0 || sight.Frame == nil {
		t.Errorf("%+v %v", sight, err)
	}
	if _, _, err := a.ActAndSee(t.Context(), bob, d.ID, time.Second); CodeOf(err) != NotFound {
		t.Errorf("another's desktop: %v", err)
	}
}

// Where changes are not told, a picture that stays the same is a settled one.
func TestSettlingByCaptures(t *testing.T) {
	a := newAppliance(t)
	d := a.create(ann, Draft{})
	a.await(d.ID, ready)
	_, sight, err := a.ActAndSee(t.Context(), ann, d.ID, 30*time.Second, Action{Move: &Move{}})
	if err != nil || !sight.Settled || sight.Frame.Source != SourceAgent {
		t.Errorf("%+v %v", sight, err)
	}
}
