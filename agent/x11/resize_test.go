package x11

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"bureau/desktop"
)

func TestSetSize(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	for _, size := range []desktop.Size{
		{Width: 1024, Height: 768}, {Width: 801, Height: 603}, {Width: 500, Height: 800}, {Width: 1280, Height: 300},
		{Width: 1280, Height: 300}, {Width: 1280, Height: 800}, {Width: 200, Height: 200}, {Width: 1024, Height: 768},
	} {
		before := d.Size()
		for len(d.Changed()) > 0 {
			<-d.Changed()
		}
		if err := d.Resize(t.Context(), size); err != nil {
			t.Fatalf("%v: %v", size, err)
		}
		if d.Size() != size {
			t.Errorf("the size is %v, want %v", d.Size(), size)
		}
		if size != before {
			select {
			case <-d.Changed():
			case <-time.After(10 * time.Second):
				t.Error("the change was not announced")
			}
		}
		// Another program's view of it.
		told := tool(t, display, "xrandr")
		if want := fmt.Sprintf("current %d x %d", size.Width, size.Height); !strings.Contains(told, want) {
			t.Errorf("xrandr does not say %q: %s", want, told)
		}
		if want := fmt.Sprintf("screen connected %dx%d+0+0", size.Width, size.Height); !strings.Contains(told, want) {
			t.Errorf("xrandr does not say %q: %s", want, told)
		}
		if n := strings.Count(told, modePrefix); n > 1 {
			t.Errorf("%d modes of ours are left: %s", n, told)
		}
		corner := desktop.Point{X: size.Width - 1, Y: size.Height - 1}
		if acted := act(t, d, desktop.Action{Move: &desktop.Move{X: corner.X, Y: corner.Y}}); acted.Cursor != corner || acted.Display != size {
			t.Errorf("in the corner: %+v", acted)
		}
		frame, err := d.Capture(t.Context())
		if err != nil || frame.Pixels.Rect.Dx() != size.Width || frame.Pixels.Rect.Dy() != size.Height {
			t.Errorf("picture %v", err)
		}
	}
	for _, test := range []struct {
		size desktop.Size
		want string
	}{
		{desktop.Size{Width: 199, Height: 800}, "width is 199"}, {desktop.Size{Width: 800, Height: 8193}, "height is 8193"},
		{desktop.Size{Width: 1281, Height: 800}, "to 1280x800"}, {desktop.Size{}, "width is 0"},
	} {
		if err := d.Resize(t.Context(), test.size); desktop.CodeOf(err) != desktop.Invalid || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %q", test.size, err, test.want)
		}
	}
	if want := (desktop.Size{Width: 1024, Height: 768}); d.Size() != want {
		t.Errorf("after the refusals the size is %v", d.Size())
	}
	d.Close()
	if err := d.Resize(t.Context(), desktop.Size{Width: 800, Height: 600}); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("after Close: %v", err)
	}
}

// The timings are those that the cvt program gives (cvt -r 1920 1080), but for the length of the
// vertical pulse, which stands for the shape of the display.
func TestTimings(t *testing.T) {
	m := timings(desktop.Size{Width: 1920, Height: 1080})
	got := fmt.Sprint(m.DotClock, m.Width, m.HsyncStart, m.HsyncEnd, m.Htotal, m.Height, m.VsyncStart, m.VsyncEnd, m.Vtotal)
	if want := "138500000 1920 1968 2000 2080 1080 1083 1093 1111"; got != want {
		t.Errorf("timings %s, want %s", got, want)
	}
	for _, size := range []desktop.Size{{Width: 200, Height: 200}, {Width: 8192, Height: 8192}} {
		m := timings(size)
		if rate := float64(m.DotClock) / float64(m.Htotal) / float64(m.Vtotal); rate < 55 || rate > 61 {
			t.Errorf("%v at %v Hz", size, rate)
		}
	}
}
