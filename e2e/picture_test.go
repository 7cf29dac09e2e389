package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/image/webp"
)

// pattern is the colour of a pixel of probe paint's window; the same formula stands there.
func pattern(x, y, seed int) color.RGBA {
	return color.RGBA{
		R: uint8(x*5 + y*3 + seed*17),
		G: uint8(x*3 + y*7 + (x>>8)*31 + seed*29),
		B: uint8((x>>3)*11 + (y>>2)*13 + seed*43),
		A: 0xff,
	}
}

// painted is the whole display under probe paint.
func painted(width, height, seed int) *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			m.SetRGBA(x, y, pattern(x, y, seed))
		}
	}
	return m
}

// paint covers the guest's display with a pattern.
func (g *guest) paint(t testing.TB, seed int) *image.RGBA {
	t.Helper()
	log := "/tmp/painted-" + strings.ReplaceAll(t.Name(), "/", "_")
	g.sh(t, "rm -f "+log)
	g.background(t, fmt.Sprintf("sh -c 'exec %s paint -seed %d >%s'", probePath, seed, log))
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "grep -q painted "+log)
		return err
	})
	width, height := g.display(t)
	return painted(width, height, seed)
}

func (g *guest) screenshot(t testing.TB, query string) image.Image {
	t.Helper()
	r := g.call(t, http.MethodGet, g.path("screenshot")+query, nil)
	return decodePicture(t, r.header.Get("Content-Type"), r.body)
}

func decodePicture(t testing.TB, contentType string, data []byte) image.Image {
	t.Helper()
	decoders := map[string]func(io.Reader) (image.Image, error){
		"image/png": png.Decode, "image/jpeg": jpeg.Decode, "image/webp": webp.Decode,
	}
	if decoders[contentType] == nil {
		t.Fatalf("content type is %q", contentType)
	}
	m, err := decoders[contentType](bytes.NewReader(data))
	if err != nil {
		t.Fatalf("%s: %v", contentType, err)
	}
	return m
}

// rgba is a picture in the one form in which pictures are compared.
func rgba(m image.Image) *image.RGBA {
	b := m.Bounds()
	out := image.NewRGBA(image.Rect(0, 0, b.Dx(), b.Dy()))
	draw.Draw(out, out.Bounds(), m, b.Min, draw.Src)
	return out
}

// differs says where two pictures differ, if they do by more than tolerance in any colour.
func differs(want, got image.Image, tolerance int) error {
	a, b := rgba(want), rgba(got)
	if a.Bounds() != b.Bounds() {
		return fmt.Errorf("the picture is %v, not %v", b.Bounds().Size(), a.Bounds().Size())
	}
	count, first := 0, ""
	var box image.Rectangle
	for i := 0; i < len(a.Pix); i += 4 {
		for c := range 3 {
			if d := int(a.Pix[i+c]) - int(b.Pix[i+c]); d > tolerance || d < -tolerance {
				x, y := i%a.Stride/4, i/a.Stride
				if count == 0 {
					first = fmt.Sprintf("%d,%d is %v, not %v", x, y, b.RGBAAt(x, y), a.RGBAAt(x, y))
				}
				count++
				box = box.Union(image.Rect(x, y, x+1, y+1))
				break
			}
		}
	}
	if count == 0 {
		return nil
	}
	return fmt.Errorf("%d pixels differ, within %v; %s", count, box, first)
}

// grabbed is the display as the guest's X server gives it to the probe.
func (g *guest) grabbed(t testing.TB) *image.RGBA {
	t.Helper()
	head, rest, _ := strings.Cut(string(g.probe(t, "grab")), "\n")
	var width, height int
	if _, err := fmt.Sscan(head, &width, &height); err != nil {
		t.Fatalf("%v in %q", err, head)
	}
	z, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(rest)))
	if err != nil {
		t.Fatal(err)
	}
	rgb, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if len(rgb) != 3*width*height {
		t.Fatalf("%d bytes for %dx%d pixels", len(rgb), width, height)
	}
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		copy(m.Pix[4*i:], rgb[3*i:3*i+3])
		m.Pix[4*i+3] = 0xff
	}
	return m
}

// dumped is the display as libvirt's own tool saves it.
func (g *guest) dumped(t testing.TB) image.Image {
	t.Helper()
	file := filepath.Join(t.TempDir(), "dump")
	virsh(t, "screenshot", g.domain(), file)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.HasPrefix(data, []byte("\x89PNG")) {
		return decodePicture(t, "image/png", data)
	}
	var width, height, most int
	r := bytes.NewReader(data)
	if _, err := fmt.Fscanf(r, "P6\n%d %d\n%d\n", &width, &height, &most); err != nil || most != 255 {
		t.Fatalf("the dump is no PPM: %v in %.20q", err, data)
	}
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := range width * height {
		if _, err := io.ReadFull(r, m.Pix[4*i:4*i+3]); err != nil {
			t.Fatal(err)
		}
		m.Pix[4*i+3] = 0xff
	}
	return m
}

// What a window has painted is what the screenshot shows, to the last pixel, and what libvirt and
// the X server say.
func TestScreenshotIsWhatWasPainted(t *testing.T) {
	g := shared(t)
	for _, seed := range []int{1, 2} { // the second must not show the first
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			want := g.paint(t, seed)
			eventually(t, patience, func() error { return differs(want, g.screenshot(t, "?cursor=false"), 0) })
			eventually(t, patience, func() error { return differs(want, g.dumped(t), 0) })
			if err := differs(want, g.grabbed(t), 0); err != nil {
				t.Errorf("the X server's own picture: %v", err)
			}
		})
	}
}

func TestScreenshotForms(t *testing.T) {
	g := shared(t)
	want := g.paint(t, 3)
	size := want.Bounds().Size()
	eventually(t, patience, func() error { return differs(want, g.screenshot(t, "?cursor=false"), 0) })

	region := func(x, y, w, h int) image.Image { return want.SubImage(image.Rect(x, y, x+w, y+h)) }
	for _, c := range []struct {
		name, query string
		want        image.Image
	}{
		{"PNG", "&format=png", want},
		{"WebP", "&format=webp", want},
		{"region", "&region=100,50,333,77", region(100, 50, 333, 77)},
		{"a corner's pixel", fmt.Sprintf("&region=%d,%d,1,1", size.X-1, size.Y-1), region(size.X-1, size.Y-1, 1, 1)},
		{"larger limits", "&maxWidth=5000&maxHeight=5000", want},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := differs(c.want, g.screenshot(t, "?cursor=false"+c.query), 0); err != nil {
				t.Error(err)
			}
		})
	}
	for _, c := range []struct {
		query         string
		width, height int
	}{
		{"?scale=0.5", size.X / 2, size.Y / 2},
		{"?scale=2&region=10,10,100,60", 200, 120},
		{"?maxWidth=320", 320, size.Y * 320 / size.X},
		{"?maxHeight=200&format=webp", size.X * 200 / size.Y, 200},
		{"?format=jpeg&quality=90", size.X, size.Y},
		{"?format=jpeg&maxWidth=640&maxHeight=100", size.X * 100 / size.Y, 100},
	} {
		t.Run(c.query, func(t *testing.T) {
			got := g.screenshot(t, c.query).Bounds().Size()
			if d := got.Sub(image.Pt(c.width, c.height)); d.X < -1 || d.X > 1 || d.Y < -1 || d.Y > 1 {
				t.Errorf("the picture is %v, not %dx%d", got, c.width, c.height)
			}
		})
	}
	t.Run("the same picture", func(t *testing.T) {
		first := g.call(t, http.MethodGet, g.path("screenshot")+"?cursor=false", nil)
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url+g.path("screenshot")+"?cursor=false", nil)
		if err != nil {
			t.Fatal(err)
		}
		request.Header.Set("Authorization", "Bearer "+g.key)
		request.Header.Set("If-None-Match", first.header.Get("ETag"))
		response, err := g.http.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusNotModified {
			t.Errorf("a display that has not changed gives %s", response.Status)
		}
	})
}

// A JPEG of something smooth is close to it everywhere.
func TestScreenshotJPEGIsClose(t *testing.T) {
	g := shared(t)
	g.events(t, "") // one colour, 0x336699, all over
	width, height := g.display(t)
	want := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.Draw(want, want.Bounds(), image.NewUniform(color.RGBA{0x33, 0x66, 0x99, 0xff}), image.Point{}, draw.Src)
	eventually(t, patience, func() error { return differs(want, g.screenshot(t, "?cursor=false&format=jpeg&quality=90"), 4) })
	small := g.screenshot(t, "?cursor=false&scale=0.37")
	if err := differs(want.SubImage(image.Rectangle{Max: small.Bounds().Size()}), small, 1); err != nil {
		t.Errorf("a smaller picture: %v", err)
	}
}

// The cursor is where it was put, and looks as the X server says.
func TestScreenshotShowsTheCursor(t *testing.T) {
	g := shared(t)
	background := g.paint(t, 4)
	size := background.Bounds().Size()
	for _, at := range []image.Point{{400, 300}, {0, 0}, {size.X - 1, size.Y - 1}, {777, 333}} {
		t.Run(at.String(), func(t *testing.T) {
			g.act(t, "move", map[string]any{"x": at.X, "y": at.Y})
			c := decode[struct {
				X, Y, Width, Height, HotX, HotY int
				ARGB                            []uint32
			}](t, g.probe(t, "cursor"))
			if c.X != at.X || c.Y != at.Y {
				t.Fatalf("the X server has the cursor at %d,%d", c.X, c.Y)
			}
			want := rgba(background)
			shape := image.NewRGBA(image.Rect(0, 0, c.Width, c.Height))
			seen := false
			for i, p := range c.ARGB {
				shape.SetRGBA(i%c.Width, i/c.Width, color.RGBA{uint8(p >> 16), uint8(p >> 8), uint8(p), uint8(p >> 24)})
				seen = seen || p>>24 != 0
			}
			if !seen {
				t.Fatal("the X server has an empty cursor")
			}
			corner := at.Sub(image.Pt(c.HotX, c.HotY))
			draw.Draw(want, shape.Bounds().Add(corner), shape, image.Point{}, draw.Over)
			eventually(t, patience, func() error { return differs(want, g.screenshot(t, ""), 2) })
			if err := differs(background, g.screenshot(t, "?cursor=false"), 0); err != nil {
				t.Errorf("without the cursor: %v", err)
			}
		})
	}
}

// The picture in an action's answer is the display after the action.
func TestActionWithScreenshot(t *testing.T) {
	g := shared(t)
	background := g.paint(t, 5)
	eventually(t, patience, func() error { return differs(background, g.screenshot(t, "?cursor=false"), 0) })
	r := g.call(t, http.MethodPost, g.path("move"), map[string]any{"x": 10, "y": 20,
		"screenshot": map[string]any{"region": "200,100,300,200", "format": "webp", "cursor": false}})
	answer := decode[struct {
		acted
		Screenshot struct {
			ContentType   string
			Width, Height int
			Data          []byte
		}
	}](t, r.body)
	g.wantPointer(t, answer.acted, 10, 20)
	if answer.Screenshot.Width != 300 || answer.Screenshot.Height != 200 {
		t.Errorf("the answer says %dx%d", answer.Screenshot.Width, answer.Screenshot.Height)
	}
	got := decodePicture(t, answer.Screenshot.ContentType, answer.Screenshot.Data)
	if err := differs(background.SubImage(image.Rect(200, 100, 500, 300)), got, 0); err != nil {
		t.Error(err)
	}
}
