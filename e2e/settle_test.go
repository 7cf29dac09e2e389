package e2e

import (
	"fmt"
	"image"
	"image/color"
	"net/http"
	"strings"
	"testing"
)

// drawing is probe draw's window, on the display.
var drawing = image.Rect(200, 150, 800, 550)

// draws shows probe draw.
func (g *guest) draws(t *testing.T, mode string) {
	t.Helper()
	log := "/tmp/drawn-" + strings.ReplaceAll(t.Name(), "/", "_")
	g.sh(t, "rm -f "+log)
	b := drawing
	g.background(t, fmt.Sprintf("sh -c 'exec %s draw -mode %s -geometry %dx%d+%d+%d >%s'", probePath, mode, b.Dx(), b.Dy(), b.Min.X, b.Min.Y, log))
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "grep -q drawn "+log)
		return err
	})
}

// seen is what an action answers that settles and shows.
type seen struct {
	acted
	Settled    *bool
	WaitedMs   float64
	Screenshot struct {
		ContentType string
		Data        []byte
	}
}

// clickAndSee clicks into the drawing and returns it as it is when the display is at rest.
func (g *guest) clickAndSee(t *testing.T, settleMs int) (seen, image.Image) {
	t.Helper()
	b := drawing
	r := g.call(t, http.MethodPost, g.path("click"), map[string]any{
		"x": b.Min.X + b.Dx()/2, "y": b.Min.Y + b.Dy()/2, "settleMs": settleMs,
		"screenshot": map[string]any{"cursor": false, "region": fmt.Sprintf("%d,%d,%d,%d", b.Min.X, b.Min.Y, b.Dx(), b.Dy())},
	})
	s := decode[seen](t, r.body)
	if s.Settled == nil {
		t.Fatalf("the answer does not say whether the display is at rest: %.200s", r.body)
	}
	return s, decodePicture(t, s.Screenshot.ContentType, s.Screenshot.Data)
}

// drawn is the colour of probe draw's window after so many clicks.
func drawn(clicks int) *image.Uniform {
	if clicks%2 == 1 {
		return image.NewUniform(color.RGBA{0x00, 0xa0, 0x40, 0xff})
	}
	return image.NewUniform(color.RGBA{0xa0, 0x40, 0x00, 0xff})
}

// plain is a picture of one colour, of the drawing's size.
func plain(c *image.Uniform) image.Image {
	m := image.NewRGBA(image.Rect(0, 0, drawing.Dx(), drawing.Dy()))
	for y := range drawing.Dy() {
		for x := range drawing.Dx() {
			m.Set(x, y, c.C)
		}
	}
	return m
}

// A window that draws for 700 ms after a click is seen when it is complete.
func TestSettlingSeesTheWholeDrawing(t *testing.T) {
	g := shared(t)
	g.draws(t, "work")
	for click := 1; click <= 6; click++ {
		s, picture := g.clickAndSee(t, 20_000)
		if !*s.Settled {
			t.Errorf("click %d: not at rest after %.0f ms", click, s.WaitedMs)
		}
		if err := differs(plain(drawn(click)), picture, 0); err != nil {
			t.Errorf("click %d, seen after %.0f ms: %v", click, s.WaitedMs, err)
		}
		t.Logf("click %d: at rest after %.0f ms", click, s.WaitedMs)
	}
}

// A text cursor that blinks does not keep the display from being at rest.
func TestSettlingIgnoresACaret(t *testing.T) {
	g := shared(t)
	g.draws(t, "caret")
	for click := 1; click <= 10; click++ {
		s, picture := g.clickAndSee(t, 20_000)
		if !*s.Settled {
			t.Errorf("click %d: a caret keeps the display from being at rest", click)
		}
		// All but the caret's corner.
		want := plain(drawn(click)).(*image.RGBA)
		body := image.Rect(0, 40, drawing.Dx(), drawing.Dy())
		if err := differs(want.SubImage(body), rgba(picture).SubImage(body), 0); err != nil {
			t.Errorf("click %d: %v", click, err)
		}
		t.Logf("click %d: at rest after %.0f ms", click, s.WaitedMs)
	}
}

// What never rests is seen when the time is up, and the answer says so.
func TestSettlingEndsAtTheDeadline(t *testing.T) {
	g := shared(t)
	g.draws(t, "video")
	const settleMs = 1500
	s, _ := g.clickAndSee(t, settleMs)
	if *s.Settled || s.WaitedMs < settleMs {
		t.Errorf("a display that never rests is at rest: %t after %.0f ms", *s.Settled, s.WaitedMs)
	}
	shot := g.call(t, http.MethodGet, g.path("screenshot")+fmt.Sprintf("?settleMs=%d", settleMs), nil)
	if got := shot.header.Get("X-Bureau-Settled"); got != "false" {
		t.Errorf("a screenshot of it says X-Bureau-Settled: %q", got)
	}
	// Without an end to wait for, it is seen as it is.
	g.call(t, http.MethodGet, g.path("screenshot"), nil)
}
