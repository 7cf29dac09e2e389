package dialect

import (
	"image"
	"testing"

	"bureau/desktop"
)

// checkMapping holds a mapping to its promises at one announced and one real pixel.
func checkMapping(t *testing.T, m Mapping, announced, real desktop.Point) {
	t.Helper()
	got := m.ToReal(announced)
	if !within(got, m.Real) {
		t.Fatalf("%+v: announced %v is real %v, which is outside", m, announced, got)
	}
	axis := func(v, from, got, to int) {
		// The pixel got holds the middle of the stretch that v covers: 2·from·got ≤ (2v+1)·to <
		// 2·from·(got+1), in units of 1/(2·from) of a real pixel.
		if middle := (2*v + 1) * to; middle < 2*from*got || middle >= 2*from*(got+1) {
			t.Fatalf("%+v: the middle of what %d covers is not in %d", m, v, got)
		}
	}
	axis(announced.X, m.Announced.Width, got.X, m.Real.Width)
	axis(announced.Y, m.Announced.Height, got.Y, m.Real.Height)
	back := m.FromReal(got)
	if m.Real.Width >= m.Announced.Width && back.X != announced.X || m.Real.Height >= m.Announced.Height && back.Y != announced.Y {
		t.Fatalf("%+v: announced %v is real %v, which is announced %v", m, announced, got, back)
	}
	if from := m.FromReal(real); !within(from, m.Announced) {
		t.Fatalf("%+v: real %v is announced %v, which is outside", m, real, from)
	}
	region := m.RegionToReal(image.Rect(announced.X, announced.Y, announced.X+1, announced.Y+1))
	if !(image.Point{X: got.X, Y: got.Y}).In(region) || !region.In(image.Rect(0, 0, m.Real.Width, m.Real.Height)) {
		t.Fatalf("%+v: the region of announced %v is %v", m, announced, region)
	}
}

var usualSizes = []desktop.Size{
	{Width: 1, Height: 1}, {Width: 640, Height: 480}, {Width: 1000, Height: 1000}, {Width: 1024, Height: 768},
	{Width: 1280, Height: 800}, {Width: 1366, Height: 768}, {Width: 1456, Height: 819}, {Width: 1920, Height: 1080},
	{Width: 1080, Height: 1920}, {Width: 2560, Height: 1600}, {Width: 3840, Height: 2160}, {Width: 7, Height: 65536},
}

func TestMappingEveryPixel(t *testing.T) {
	for _, announced := range usualSizes {
		for _, real := range usualSizes {
			m := Mapping{Announced: announced, Real: real}
			for i := range max(announced.Width, announced.Height, real.Width, real.Height) {
				checkMapping(t, m,
					desktop.Point{X: i % announced.Width, Y: i % announced.Height},
					desktop.Point{X: i % real.Width, Y: i % real.Height})
			}
			if whole := m.RegionToReal(image.Rect(0, 0, announced.Width, announced.Height)); whole != image.Rect(0, 0, real.Width, real.Height) {
				t.Errorf("%+v: all of it is %v", m, whole)
			}
			if announced == real && m.ToReal(desktop.Point{X: real.Width - 1, Y: 0}) != (desktop.Point{X: real.Width - 1, Y: 0}) {
				t.Errorf("%+v is not the identity", m)
			}
		}
	}
}

func FuzzMapping(f *testing.F) {
	f.Add(uint16(1456), uint16(819), uint16(1920), uint16(1080), uint16(1455), uint16(818))
	f.Add(uint16(1000), uint16(1000), uint16(1280), uint16(800), uint16(999), uint16(0))
	f.Add(uint16(65535), uint16(1), uint16(1), uint16(65535), uint16(65534), uint16(65534))
	f.Fuzz(func(t *testing.T, announcedW, announcedH, realW, realH, x, y uint16) {
		m := Mapping{
			Announced: desktop.Size{Width: int(announcedW) + 1, Height: int(announcedH) + 1},
			Real:      desktop.Size{Width: int(realW) + 1, Height: int(realH) + 1},
		}
		checkMapping(t, m,
			desktop.Point{X: int(x) % m.Announced.Width, Y: int(y) % m.Announced.Height},
			desktop.Point{X: int(x) % m.Real.Width, Y: int(y) % m.Real.Height})
	})
}

func TestFit(t *testing.T) {
	for _, test := range []struct {
		budget     Budget
		size, want desktop.Size
	}{
		{AnthropicStandard, desktop.Size{Width: 1280, Height: 800}, desktop.Size{Width: 1280, Height: 800}},
		{AnthropicStandard, desktop.Size{Width: 1920, Height: 1080}, desktop.Size{Width: 1456, Height: 819}}, // Anthropic's own examples
		{AnthropicStandard, desktop.Size{Width: 1075, Height: 1520}, desktop.Size{Width: 924, Height: 1307}},
		{AnthropicHigh, desktop.Size{Width: 4000, Height: 3000}, desktop.Size{Width: 2212, Height: 1659}},
		{AnthropicHigh, desktop.Size{Width: 1920, Height: 1080}, desktop.Size{Width: 1920, Height: 1080}},
		{AnthropicStandard, desktop.Size{Width: 10000, Height: 1}, desktop.Size{Width: 1568, Height: 1}},
		{Budget{LongEdge: 1, Tile: 1, Tiles: 1}, desktop.Size{Width: 5, Height: 3}, desktop.Size{Width: 1, Height: 1}},
	} {
		if got := test.budget.Fit(test.size); got != test.want {
			t.Errorf("%v in %+v is %v, want %v", test.size, test.budget, got, test.want)
		}
	}
}

// TestFitIsLargest checks sizes against the rule itself: within the budget, of the same shape, and one
// more pixel would be too many.
func TestFitIsLargest(t *testing.T) {
	for _, budget := range []Budget{AnthropicStandard, AnthropicHigh} {
		for width := 200; width < 5200; width += 97 {
			for height := 150; height < 4200; height += 89 {
				size := desktop.Size{Width: width, Height: height}
				fit := budget.Fit(size)
				if !budget.holds(fit) || fit.Width > width || fit.Height > height {
					t.Fatalf("%v becomes %v", size, fit)
				}
				if fit == size {
					continue
				}
				long, short, fitLong, fitShort := width, height, fit.Width, fit.Height
				if height > width {
					long, short, fitLong, fitShort = height, width, fit.Height, fit.Width
				}
				if off := fitShort*long*2 - fitLong*short*2; off > long || off < -long {
					t.Fatalf("%v becomes %v, of another shape", size, fit)
				}
				next := desktop.Size{Width: fitLong + 1, Height: (2*(fitLong+1)*short + long) / (2 * long)}
				if budget.holds(next) {
					t.Fatalf("%v becomes %v, and %v would fit", size, fit, next)
				}
			}
		}
	}
}
