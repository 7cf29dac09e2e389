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

// Every picture is taken after the display has caught up; one that cannot say is shown all the same.
func TestPicturesAreFresh(t *testing.T) {
	for _, unfit := range []error{nil, errors.New("it does not answer")} {
		a := newApplianceWith(t, fakeAgents{})
		a.machines.screen = func() Screen { return &fakeScreen{unfit: unfit, done: make(chan struct{})} }
		d := a.create(ann, Draft{Name: "one"})
		a.await(d.ID, ready)
		for n := uint64(1); n < 4; n++ {
			f, err := a.Frame(t.Context(), ann, d.ID)
			if err != nil || f.Serial != n || f.Source != SourceDBus {
				t.Fatalf("picture %d, where Sync says %v: %+v, %v", n, unfit, f, err)
			}
		}
	}
}
