package desktop

import (
	"context"
	"errors"
	"image"
	"sync"
	"sync/atomic"
	"testing"
)

// A screen that was just opened is told the cursor that the agent knows, before the first picture.
func TestCursorIsSeeded(t *testing.T) {
	arrow := Cursor{Image: image.NewRGBA(image.Rect(0, 0, 4, 4)), Hot: image.Pt(1, 2), Position: image.Pt(30, 40)}
	var asked atomic.Int32
	known := func(context.Context) (*Cursor, error) { asked.Add(1); return &arrow, nil }
	setup := func(t *testing.T, agents fakeAgents) (*appliance, Desktop, func() []*fakeScreen) {
		asked.Store(0)
		a := newApplianceWith(t, agents)
		var mu sync.Mutex
		var screens []*fakeScreen
		a.machines.screen = func() Screen {
			mu.Lock()
			defer mu.Unlock()
			s := &fakeScreen{done: make(chan struct{})}
			screens = append(screens, s)
			return s
		}
		d := a.create(ann, Draft{Name: "one"})
		return a, d, func() []*fakeScreen { mu.Lock(); defer mu.Unlock(); return screens }
	}
	look := func(a *appliance, d Desktop) *Frame {
		t.Helper()
		f, err := a.Frame(a.t.Context(), ann, d.ID)
		if err != nil {
			a.t.Fatal(err)
		}
		return f
	}

	t.Run("ready", func(t *testing.T) {
		a, d, screens := setup(t, fakeAgents{cursor: known})
		a.await(d.ID, ready)
		for range 2 {
			if f := look(a, d); f.Cursor == nil || *f.Cursor != arrow {
				t.Errorf("the first picture has the cursor %+v", f.Cursor)
			}
		}
		// The next screen is told as well, and none more than once.
		screens()[0].Close()
		look(a, d)
		for i, s := range screens() {
			if n := len(s.seeded()); n != 1 {
				t.Errorf("screen %d was told %d times", i, n)
			}
		}
		if n := len(screens()); n != 2 || asked.Load() != 2 {
			t.Errorf("%d screens, asked %d times", n, asked.Load())
		}
	})
	t.Run("ready later", func(t *testing.T) {
		late := make(chan struct{})
		a, d, screens := setup(t, fakeAgents{cursor: known, late: late})
		a.await(d.ID, func(d Desktop) bool { return d.BootStage == StageAgent })
		if f := look(a, d); f.Cursor != nil {
			t.Errorf("the picture has the cursor %+v", f.Cursor)
		}
		late <- struct{}{}
		eventually(t, func() bool { return len(screens()[0].seeded()) == 1 }, func() any { return screens()[0].seeded() })
	})
	t.Run("not known", func(t *testing.T) {
		for _, agents := range []fakeAgents{
			{cursor: func(context.Context) (*Cursor, error) { return nil, nil }},
			{cursor: func(context.Context) (*Cursor, error) { return nil, errors.New("no") }},
			{cursor: func(ctx context.Context) (*Cursor, error) { <-ctx.Done(); return nil, ctx.Err() }}, // stuck
		} {
			a, d, screens := setup(t, agents)
			a.await(d.ID, ready)
			if f := look(a, d); f.Cursor != nil || f.Source != SourceDBus || len(screens()[0].seeded()) != 0 {
				t.Errorf("picture %+v", f)
			}
		}
	})
}

// A picture after an action or a command is taken when the display has caught up with it, and so is one
// while a command runs; others need no waiting. A display that cannot say is shown all the same, and is
// asked each time.
func TestPicturesAreFresh(t *testing.T) {
	for _, unfit := range []error{nil, errors.New("it does not answer")} {
		running, end := make(chan struct{}), make(chan struct{})
		a := newApplianceWith(t, fakeAgents{exec: func(context.Context) (ExecResult, error) {
			running <- struct{}{}
			<-end
			return ExecResult{}, nil
		}})
		a.machines.screen = func() Screen { return &fakeScreen{unfit: unfit, done: make(chan struct{})} }
		d := a.create(ann, Draft{Name: "one"})
		a.await(d.ID, ready)
		synced := uint64(0)
		look := func(when string, needed bool) {
			t.Helper()
			if needed || unfit != nil {
				synced++
			}
			if f, err := a.Frame(t.Context(), ann, d.ID); err != nil || f.Serial != synced || f.Source != SourceDBus {
				t.Fatalf("%s, where Sync says %v: %+v, %v; it should have been asked %d times", when, unfit, f, err, synced)
			}
		}
		look("at first", true)
		look("again", false)
		if _, err := a.Act(t.Context(), ann, d.ID, Action{Move: &Move{X: 1, Y: 2}}); err != nil {
			t.Fatal(err)
		}
		look("after an action", true)
		look("again", false)
		ended := make(chan error)
		go func() { _, err := a.Exec(t.Context(), ann, d.ID, Exec{Script: "x"}, nil); ended <- err }()
		<-running
		look("beside a command", true)
		look("beside it still", true)
		close(end)
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		look("after the command", true)
		look("again", false)
	}
}
