package dialect

import (
	"errors"
	"testing"
	"unicode/utf8"

	"bureau/desktop"
)

// FuzzDecode feeds anything: nothing panics, errors are the client's, and what is accepted keeps all
// the promises that a caller builds on.
func FuzzDecode(f *testing.F) {
	for _, file := range readVectors(f) {
		for _, v := range file.Vectors {
			f.Add([]byte(v.Input), string(v.Dialect))
		}
	}
	mapping := Mapping{Announced: desktop.Size{Width: 1456, Height: 819}, Real: desktop.Size{Width: 1920, Height: 1080}}
	f.Fuzz(func(t *testing.T, data []byte, dialect string) {
		batch, err := Decode(data, Name(dialect), mapping)
		if err != nil {
			var e *desktop.Error
			if !errors.As(err, &e) || e.Code != desktop.Invalid && e.Code != desktop.TooLarge || e.Message == "" {
				t.Fatalf("the error is %#v", err)
			}
			return
		}
		last := 0
		for _, call := range batch.Calls {
			if len(call.Steps) == 0 || call.Action != call.Steps[0].Action {
				t.Fatalf("call %+v", call)
			}
			for _, step := range call.Steps {
				if step.Action < last || step.Action >= MaxActions {
					t.Fatalf("action %d after %d", step.Action, last)
				}
				last = step.Action
				checkStep(t, step, mapping.Real)
			}
			results, err := call.Result(Outcome{Picture: []byte{1}, Cursor: &desktop.Point{X: 1919, Y: 1079}, Err: errors.New("no")})
			if err != nil || len(results) == 0 {
				t.Fatalf("no result of %+v: %v", call, err)
			}
		}
		// What was found out is what a client may say.
		again, err := Decode(data, batch.Dialect, mapping)
		if err != nil || string(shown(again)) != string(shown(batch)) {
			t.Fatalf("as %s it is %v, %v", batch.Dialect, again, err)
		}
	})
}

func checkStep(t *testing.T, s Step, display desktop.Size) {
	kinds := 0
	for _, set := range []bool{s.Act != nil, s.Pause > 0, s.Look != nil, s.Cursor, s.Exec != nil} {
		if set {
			kinds++
		}
	}
	if kinds != 1 || s.Pause > MaxPause {
		t.Fatalf("step %+v", s)
	}
	if s.Look != nil && s.Look.Region != nil {
		r := s.Look.Region
		if r.Empty() || r.Min.X < 0 || r.Min.Y < 0 || r.Max.X > display.Width || r.Max.Y > display.Height {
			t.Fatalf("region %v", r)
		}
	}
	if s.Act == nil {
		return
	}
	points := []desktop.Point{}
	at := func(x, y *int) {
		if (x == nil) != (y == nil) {
			t.Fatalf("half a place in %+v", s.Act)
		}
		if x != nil {
			points = append(points, desktop.Point{X: *x, Y: *y})
		}
	}
	a, parts := s.Act, 0
	if a.Click != nil {
		parts++
		at(a.Click.X, a.Click.Y)
	}
	if a.Move != nil {
		parts++
		at(&a.Move.X, &a.Move.Y)
	}
	if a.Drag != nil {
		parts++
		at(a.Drag.StartX, a.Drag.StartY)
		at(a.Drag.EndX, a.Drag.EndY)
		points = append(points, a.Drag.Path...)
		if (a.Drag.EndX == nil) == (len(a.Drag.Path) < 2) {
			t.Fatalf("drag %+v", a.Drag)
		}
	}
	if a.Scroll != nil {
		parts++
		at(a.Scroll.X, a.Scroll.Y)
		if (a.Scroll.Direction != "") == (a.Scroll.DeltaX != 0 || a.Scroll.DeltaY != 0) {
			t.Fatalf("scroll %+v", a.Scroll)
		}
	}
	if a.Type != nil {
		parts++
		if n := utf8.RuneCountInString(a.Type.Text); n > desktop.MaxTextLength {
			t.Fatalf("%d characters", n)
		}
	}
	if a.Press != nil {
		parts++
		if n := len(a.Press.Keys); n == 0 || n > desktop.MaxKeys || a.Press.HoldMs > desktop.MaxHoldMs || a.Press.Repeat > desktop.MaxRepeat {
			t.Fatalf("press %.200v", a.Press)
		}
		for _, keys := range a.Press.Keys {
			if keys == "" {
				t.Fatalf("press %+v", a.Press)
			}
		}
	}
	if parts != 1 {
		t.Fatalf("action %+v", a)
	}
	for _, p := range points {
		if !within(p, display) {
			t.Fatalf("%v is outside in %+v", p, a)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	input := []byte(`{"type":"computer_call","call_id":"c","actions":[{"type":"click","button":"left","x":640,"y":400},{"type":"type","text":"hello"},{"type":"keypress","keys":["ENTER"]}]}`)
	mapping := Mapping{Real: desktop.Size{Width: 1280, Height: 800}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Decode(input, Auto, mapping); err != nil {
			b.Fatal(err)
		}
	}
}
