package agent

import (
	"context"
	"testing"

	"bureau/desktop"
)

// BenchmarkAct is a click's way over the link and back, both ends in this process, with a display that
// is done at once and a pipe that takes no time: what the link itself costs.
func BenchmarkAct(b *testing.B) {
	d := newDisplay()
	d.act = func(context.Context, []desktop.Action) (desktop.Acted, error) {
		return desktop.Acted{Cursor: desktop.Point{X: 400, Y: 300}, Display: desktop.Size{Width: 1280, Height: 800}}, nil
	}
	a := pair(b, d)
	status(b, a, func(s desktop.AgentStatus) bool { return s.Ready })
	x, y := 400, 300
	click := desktop.Action{Click: &desktop.Click{X: &x, Y: &y}}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Act(b.Context(), click); err != nil {
			b.Fatal(err)
		}
	}
}
