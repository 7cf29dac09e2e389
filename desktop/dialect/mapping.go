package dialect

import (
	"image"

	"bureau/desktop"
)

// Mapping is between the pixels of a display as it was announced to a model and the real ones.
//
// Both displays cover the same picture, so that a pixel of one is an area of the other: the announced
// pixel x covers the real stretch from x·R/A to (x+1)·R/A. It maps to the real pixel in which the
// middle of that stretch lies, and back likewise. All of it is in whole numbers, so there is no
// rounding to drift: the corners stay inside, and where the real display is at least as large as
// the announced one, there and back is where it began.
type Mapping struct {
	// Announced is the display's size as the model knows it; zero is the real one.
	Announced desktop.Size
	Real      desktop.Size
}

// geminiGrid is the size of the display in Gemini's coordinates, whatever was announced.
var geminiGrid = desktop.Size{Width: 1000, Height: 1000}

// maxEdge is the longest side of a display.
const maxEdge = 1 << 16

func (m Mapping) check() (Mapping, error) {
	if m.Announced == (desktop.Size{}) {
		m.Announced = m.Real
	}
	for _, s := range []struct {
		what string
		size desktop.Size
	}{{"real", m.Real}, {"announced", m.Announced}} {
		if s.size.Width < 1 || s.size.Height < 1 || s.size.Width > maxEdge || s.size.Height > maxEdge {
			return m, desktop.Errorf(desktop.Invalid, "the %s display is %dx%d; its sides must be from 1 to %d", s.what, s.size.Width, s.size.Height, maxEdge)
		}
	}
	return m, nil
}

// ToReal is the real pixel in the middle of what an announced one covers.
func (m Mapping) ToReal(p desktop.Point) desktop.Point {
	return desktop.Point{
		X: middle(p.X, m.Announced.Width, m.Real.Width),
		Y: middle(p.Y, m.Announced.Height, m.Real.Height),
	}
}

// FromReal is the announced pixel in the middle of what a real one covers.
func (m Mapping) FromReal(p desktop.Point) desktop.Point {
	return desktop.Point{
		X: middle(p.X, m.Real.Width, m.Announced.Width),
		Y: middle(p.Y, m.Real.Height, m.Announced.Height),
	}
}

func middle(v, from, to int) int { return (2*v + 1) * to / (2 * from) }

// RegionToReal is the smallest region of real pixels that covers a region of announced ones.
func (m Mapping) RegionToReal(r image.Rectangle) image.Rectangle {
	up := func(v, from, to int) int { return (v*to + from - 1) / from }
	return image.Rect(
		r.Min.X*m.Real.Width/m.Announced.Width, r.Min.Y*m.Real.Height/m.Announced.Height,
		up(r.Max.X, m.Announced.Width, m.Real.Width), up(r.Max.Y, m.Announced.Height, m.Real.Height))
}

// Budget is what a model takes of a picture: a larger one is made smaller before the model sees it,
// and what it then says of places is in pixels that nobody here has seen.
type Budget struct {
	LongEdge int // pixels of the longer side
	Tile     int // side of a tile, in pixels
	Tiles    int // that the picture may touch
}

// Anthropic's two budgets, from the image sizing of its computer use best practices and its guide to
// coordinates ("How Claude resizes and pads images").
var (
	AnthropicStandard = Budget{LongEdge: 1568, Tile: 28, Tiles: 1568}
	AnthropicHigh     = Budget{LongEdge: 2576, Tile: 28, Tiles: 4784} // Claude 4.7 and later
)

// Fit is the largest size of the same shape within the budget, never larger than size itself. It is
// the one to announce, and to scale pictures to.
func (b Budget) Fit(size desktop.Size) desktop.Size {
	if b.holds(size) {
		return size
	}
	long, short := max(size.Width, size.Height), min(size.Width, size.Height)
	fit := desktop.Size{Width: 1, Height: 1}
	// Fewer than LongEdge tries: nothing larger can fit.
	for edge := min(long, b.LongEdge); edge > 1; edge-- {
		fit = desktop.Size{Width: edge, Height: max(1, (2*edge*short+long)/(2*long))} // rounded
		if b.holds(fit) {
			break
		}
	}
	if size.Height > size.Width {
		fit.Width, fit.Height = fit.Height, fit.Width
	}
	return fit
}

func (b Budget) holds(size desktop.Size) bool {
	tiles := func(v int) int { return (v + b.Tile - 1) / b.Tile }
	return max(size.Width, size.Height) <= b.LongEdge && tiles(size.Width)*tiles(size.Height) <= b.Tiles
}
