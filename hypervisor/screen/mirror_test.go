package screen

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"bureau/desktop"
)

// solid is a picture of one colour, of words in the given format.
func solid(width, height int, format pixelFormat, word [4]byte) pixels {
	return pixels{width: width, height: height, stride: width * 4, format: format, data: bytes.Repeat(word[:], width*height)}
}

// scanout takes a whole picture, of any size, as a listener does.
func (m *mirror) scanout(p pixels) error {
	if err := p.check(); err != nil {
		return err
	}
	if err := m.setSize(p.width, p.height); err != nil {
		return err
	}
	return m.update(0, 0, p)
}

func newTestScreen() (*mirror, *Screen) {
	m := newMirror(desktop.SourceDBus)
	return m, &Screen{mirror: m, ask: func() func() { return func() {} }}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPixelFormats(t *testing.T) {
	want := color.RGBA{1, 2, 3, 255}
	for format, word := range map[pixelFormat][4]byte{ // as the bytes lie in memory
		formatX8R8G8B8: {3, 2, 1, 0},
		formatA8R8G8B8: {3, 2, 1, 99},
		formatX8B8G8R8: {1, 2, 3, 0},
		formatA8B8G8R8: {1, 2, 3, 99},
		formatB8G8R8X8: {0, 1, 2, 3},
		formatB8G8R8A8: {99, 1, 2, 3},
		formatR8G8B8X8: {0, 3, 2, 1},
		formatR8G8B8A8: {99, 3, 2, 1},
	} {
		m, s := newTestScreen()
		must(t, m.scanout(solid(3, 2, format, word)))
		frame, err := s.Frame(t.Context())
		must(t, err)
		for y := range 2 {
			for x := range 3 {
				if got := frame.Pixels.RGBAAt(x, y); got != want {
					t.Errorf("format %#x: pixel %d,%d is %v", uint32(format), x, y, got)
				}
			}
		}
	}
}

func TestImpossiblePictures(t *testing.T) {
	good := solid(4, 4, formatX8R8G8B8, [4]byte{})
	for _, c := range []struct {
		name   string
		change func(*pixels)
		says   string
	}{
		{"no width", func(p *pixels) { p.width = 0 }, "bounds"},
		{"negative height", func(p *pixels) { p.height = -4 }, "bounds"},
		{"too wide", func(p *pixels) { p.width = maxSide + 1 }, "bounds"},
		{"too many pixels", func(p *pixels) { p.width, p.height = maxSide, maxSide }, "bounds"},
		{"16384 square", func(p *pixels) { p.width, p.height = 16384, 16384 }, "bounds"},
		{"stride too small", func(p *pixels) { p.stride = 12 }, "stride of 12"},
		{"stride beyond the data", func(p *pixels) { p.stride = 1 << 30 }, "stride"},
		{"negative stride", func(p *pixels) { p.stride = -16 }, "stride"},
		{"data too short", func(p *pixels) { p.data = p.data[:63] }, "63 bytes"},
		{"no data", func(p *pixels) { p.data = nil }, "0 bytes"},
		{"16 bits a pixel", func(p *pixels) { p.format = 0x10020565 }, "0x10020565"},
	} {
		p := good
		c.change(&p)
		m := newMirror(desktop.SourceDBus)
		if err := m.scanout(p); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
		if m.canvas != nil {
			t.Errorf("%s: it left a canvas", c.name)
		}
	}
	m := newMirror(desktop.SourceDBus)
	if err := m.update(0, 0, good); err == nil {
		t.Error("an update before any picture was taken")
	}
	must(t, m.scanout(good))
	for _, at := range []image.Point{{1, 0}, {0, 1}, {-1, 0}, {0, -1}, {1 << 31, 0}} {
		if err := m.update(at.X, at.Y, good); err == nil {
			t.Errorf("an update at %v was taken", at)
		}
	}
	for _, c := range []struct{ width, height, bytes int }{
		{0, 1, 0}, {1, -1, 4}, {maxCursor + 1, 1, (maxCursor + 1) * 4}, {2, 2, 15}, {2, 2, 17}, {1 << 30, 1 << 30, 0},
	} {
		if err := m.defineCursor(c.width, c.height, 0, 0, make([]byte, c.bytes)); err == nil {
			t.Errorf("a cursor of %dx%d in %d bytes was taken", c.width, c.height, c.bytes)
		}
	}
}

// Whatever is drawn, the mirror shows what a plain reference does, and tells exactly the damage.
func TestUpdatesAndDamage(t *testing.T) {
	const width, height = 60, 40
	m, s := newTestScreen()
	random := rand.New(rand.NewPCG(5, 6))
	reference := image.NewRGBA(image.Rect(0, 0, width, height))
	fillBlack(reference)
	must(t, m.scanout(solid(width, height, formatX8R8G8B8, [4]byte{})))
	var damage image.Rectangle
	defer s.Watch(func(d desktop.Damage) { damage = damage.Union(d.Rect) })()
	for range 300 {
		w, h := 1+random.IntN(20), 1+random.IntN(20)
		x, y := random.IntN(width-w+1), random.IntN(height-h+1)
		stride := w*4 + 4*random.IntN(3)
		p := pixels{width: w, height: h, stride: stride, format: formatX8R8G8B8, data: make([]byte, stride*h)}
		var changed image.Rectangle
		for py := range h {
			for px := range w {
				c := color.RGBA{byte(random.IntN(2)), byte(random.IntN(2)), byte(random.IntN(2)), 255}
				copy(p.data[py*stride+px*4:], []byte{c.B, c.G, c.R, 77})
				if reference.RGBAAt(x+px, y+py) != c {
					changed = changed.Union(image.Rect(x+px, y+py, x+px+1, y+py+1))
				}
				reference.SetRGBA(x+px, y+py, c)
			}
		}
		before, damage0 := m.serial, damage
		damage = image.Rectangle{}
		must(t, m.update(x, y, p))
		if damage != changed {
			t.Fatalf("damage is %v instead of %v", damage, changed)
		}
		if (m.serial == before) != changed.Empty() {
			t.Fatalf("serial %d became %d with damage %v", before, m.serial, changed)
		}
		damage = damage0
	}
	frame, err := s.Frame(t.Context())
	must(t, err)
	if !same(frame.Pixels, reference) {
		t.Error("the frame differs from the reference")
	}
}

func TestFramesAreSharedAndNeverChange(t *testing.T) {
	m, s := newTestScreen()
	look := func() *desktop.Frame {
		frame, err := s.Frame(t.Context())
		must(t, err)
		return frame
	}
	red := [4]byte{0, 0, 255, 0}
	must(t, m.scanout(solid(8, 8, formatX8R8G8B8, red)))
	first := look()
	if look() != first {
		t.Error("the same picture gave two frames")
	}
	must(t, m.scanout(solid(8, 8, formatX8R8G8B8, red)))
	if look() != first {
		t.Error("repainting the same gave another frame")
	}
	must(t, m.update(2, 2, solid(1, 1, formatX8R8G8B8, [4]byte{})))
	second := look()
	if second.Serial <= first.Serial || first.Pixels.RGBAAt(2, 2) != (color.RGBA{255, 0, 0, 255}) {
		t.Error("an update changed a frame that was handed out, or not the serial")
	}

	// A cursor alone needs no copy of the pixels.
	must(t, m.defineCursor(2, 1, 1, 0, []byte{9, 9, 200, 100, 0, 0, 0, 0}))
	if frame := look(); frame.Cursor != nil {
		t.Error("a cursor is there before its place is known")
	}
	m.moveCursor(3, 4, true)
	third := look()
	if third.Cursor == nil || third.Cursor.Position != image.Pt(4, 4) || third.Cursor.Hot != image.Pt(1, 0) {
		t.Fatalf("cursor: %+v", third.Cursor)
	}
	if got := third.Cursor.Image.RGBAAt(0, 0); got != (color.RGBA{100, 9, 9, 100}) {
		t.Errorf("the cursor's pixel is %v, which is not premultiplied", got)
	}
	if &third.Pixels.Pix[0] != &second.Pixels.Pix[0] || third.Serial <= second.Serial {
		t.Error("moving the cursor copied the pixels, or left the serial")
	}
	m.moveCursor(3, 4, true)
	if look() != third {
		t.Error("a cursor that stays gave another frame")
	}
	m.moveCursor(3, 4, false)
	if look().Cursor != nil {
		t.Error("a hidden cursor is in the frame")
	}
	must(t, m.scanout(solid(4, 4, formatX8R8G8B8, red)))
	if got := look().Pixels.Rect.Size(); got != image.Pt(4, 4) {
		t.Errorf("after a change of size the frame is %v", got)
	}
	m.blank()
	if got := look().Pixels.RGBAAt(0, 0); got != (color.RGBA{0, 0, 0, 255}) {
		t.Errorf("a display that is off shows %v", got)
	}
}

func TestSeedCursor(t *testing.T) {
	m, s := newTestScreen()
	must(t, m.scanout(solid(8, 8, formatX8R8G8B8, [4]byte{})))
	seed := desktop.Cursor{Image: image.NewRGBA(image.Rect(0, 0, 3, 3)), Hot: image.Pt(1, 2), Position: image.Pt(5, 6)}
	s.SeedCursor(seed)
	frame, err := s.Frame(t.Context())
	must(t, err)
	if frame.Cursor == nil || *frame.Cursor != seed {
		t.Fatalf("the seeded cursor is %+v", frame.Cursor)
	}
	must(t, m.defineCursor(1, 1, 0, 0, []byte{1, 1, 1, 255}))
	m.moveCursor(2, 2, true)
	s.SeedCursor(seed)
	if frame, err = s.Frame(t.Context()); err != nil || frame.Cursor.Position != image.Pt(2, 2) || frame.Cursor.Image.Rect.Dx() != 1 {
		t.Errorf("a seed counted for more than the display's own cursor: %+v, %v", frame.Cursor, err)
	}
}

// Many look, wait and watch while one draws; the race detector looks on.
func TestManyLook(t *testing.T) {
	m, s := newTestScreen()
	const last = 200
	var lookers sync.WaitGroup
	for range 4 {
		lookers.Go(func() {
			defer s.Watch(func(desktop.Damage) {})()
			var serial uint64
			for {
				frame, err := s.Frame(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				if frame.Serial < serial {
					t.Errorf("serial %d came after %d", frame.Serial, serial)
				}
				serial = frame.Serial
				shade := frame.Pixels.RGBAAt(0, 0).R
				for i := 0; i < len(frame.Pixels.Pix); i += 4 {
					if frame.Pixels.Pix[i] != shade {
						t.Error("a frame mixes two pictures")
						return
					}
				}
				if shade == last {
					return
				}
				if err := s.Wait(t.Context(), serial); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for i := range last + 1 {
		must(t, m.scanout(solid(50, 50, formatX8R8G8B8, [4]byte{byte(i), byte(i), byte(i), 0})))
	}
	lookers.Wait()
}

func TestFrameAndWaitEndWithTheirContext(t *testing.T) {
	m := newMirror(desktop.SourceDBus)
	s := &Screen{mirror: m, ask: func() func() { return func() {} }}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Frame(ctx); err != context.Canceled {
		t.Errorf("frame: %v", err)
	}
	if err := s.Wait(ctx, 0); err != context.Canceled {
		t.Errorf("wait: %v", err)
	}
}
