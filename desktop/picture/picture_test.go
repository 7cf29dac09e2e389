package picture

import (
	"bytes"
	"hash/adler32"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/image/webp"

	"bureau/desktop"
)

func render(t *testing.T, frame *desktop.Frame, o Options) (Picture, image.Image) {
	t.Helper()
	before := slices.Clone(frame.Pixels.Pix)
	p, err := Render(frame, o)
	if err != nil {
		t.Fatalf("render %+v: %v", o, err)
	}
	if !bytes.Equal(before, frame.Pixels.Pix) {
		t.Fatal("rendering changed the frame")
	}
	decode := map[string]func([]byte) (image.Image, error){
		"image/png":  func(b []byte) (image.Image, error) { return png.Decode(bytes.NewReader(b)) },
		"image/jpeg": func(b []byte) (image.Image, error) { return jpeg.Decode(bytes.NewReader(b)) },
		"image/webp": func(b []byte) (image.Image, error) { return webp.Decode(bytes.NewReader(b)) },
	}[p.ContentType]
	if decode == nil {
		t.Fatalf("content type %q", p.ContentType)
	}
	img, err := decode(p.Bytes)
	if err != nil {
		t.Fatalf("decode %s: %v", p.ContentType, err)
	}
	if size := img.Bounds().Size(); size != image.Pt(p.Width, p.Height) {
		t.Fatalf("the file is %v, the picture says %dx%d", size, p.Width, p.Height)
	}
	return p, img
}

// wantPixels compares got with the part of want that begins at from.
func wantPixels(t *testing.T, got image.Image, want *image.RGBA, from image.Point) {
	t.Helper()
	b := got.Bounds()
	have := image.NewRGBA(image.Rectangle{Max: b.Size()})
	draw.Draw(have, have.Rect, got, b.Min, draw.Src)
	for y := range b.Dy() {
		row := want.Pix[want.PixOffset(from.X, from.Y+y):][:have.Stride]
		if bytes.Equal(have.Pix[y*have.Stride:][:have.Stride], row) {
			continue
		}
		for x := range b.Dx() {
			if g, w := have.RGBAAt(x, y), want.RGBAAt(from.X+x, from.Y+y); g != w {
				t.Fatalf("pixel %d,%d is %v instead of %v", x, y, g, w)
			}
		}
	}
}

func noise(width, height int) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	random := rand.New(rand.NewPCG(3, 4))
	for i := range img.Pix {
		img.Pix[i] = byte(random.Uint32()) | byte(0xff*(i%4/3))
	}
	return img
}

func TestExactFormatsKeepEveryPixel(t *testing.T) {
	pictures := map[string]*image.RGBA{
		"desktop":      desk(1280, 800, false),
		"photograph":   desk(640, 480, true),
		"noise":        noise(700, 333),
		"one pixel":    noise(1, 1),
		"one row":      noise(5000, 1),
		"one column":   noise(1, 5000),
		"wider strips": noise(8192, 64),
	}
	for name, img := range pictures {
		for _, format := range []Format{PNG, WebP} {
			t.Run(name+" as "+string(format), func(t *testing.T) {
				_, got := render(t, &desktop.Frame{Pixels: img}, Options{Format: format})
				wantPixels(t, got, img, image.Point{})
			})
		}
	}
}

func TestRegion(t *testing.T) {
	frame := &desktop.Frame{Pixels: desk(640, 400, true)}
	for _, r := range []image.Rectangle{
		image.Rect(0, 0, 640, 400), image.Rect(17, 23, 318, 277), image.Rect(639, 399, 640, 400), image.Rect(0, 200, 640, 201),
	} {
		for _, format := range []Format{PNG, WebP} {
			p, got := render(t, frame, Options{Format: format, Region: &r})
			if image.Pt(p.Width, p.Height) != r.Size() {
				t.Errorf("region %v gives %dx%d", r, p.Width, p.Height)
			}
			wantPixels(t, got, frame.Pixels, r.Min)
		}
	}
}

func TestInvalidOptions(t *testing.T) {
	frame := &desktop.Frame{Pixels: noise(320, 200)}
	region := func(x, y, w, h int) *image.Rectangle {
		return &image.Rectangle{Min: image.Pt(x, y), Max: image.Pt(x+w, y+h)}
	}
	for _, c := range []struct {
		options Options
		says    string
	}{
		{Options{Format: "gif"}, `format "gif"`},
		{Options{Format: JPEG, Quality: 101}, "quality 101"},
		{Options{Format: JPEG, Quality: -1}, "quality -1"},
		{Options{Quality: 50}, "jpeg only"},
		{Options{Scale: -0.5}, "scale -0.5"},
		{Options{Scale: 2.01}, "scale 2.01"},
		{Options{Scale: math.NaN()}, "scale NaN"},
		{Options{Scale: math.Inf(1)}, "scale +Inf"},
		{Options{MaxWidth: -1}, "negative"},
		{Options{Scale: 0.5, MaxHeight: 100}, "either"},
		{Options{Exact: &desktop.Size{Width: 10}}, "10x0"},
		{Options{Exact: &desktop.Size{Width: 10, Height: 10}, MaxWidth: 5}, "exact"},
		{Options{Exact: &desktop.Size{Width: 1 << 20, Height: 1 << 20}}, "larger than"},
		{Options{Region: region(0, 0, 0, 10)}, "empty"},
		{Options{Region: region(0, 0, -5, -5)}, "empty"},
		{Options{Region: region(-1, 0, 10, 10)}, "display of 320x200"},
		{Options{Region: region(311, 0, 10, 10)}, "display of 320x200"},
		{Options{Region: region(math.MaxInt-5, 0, 10, 10)}, "empty"},
	} {
		_, err := Render(frame, c.options)
		if desktop.CodeOf(err) != desktop.Invalid || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%+v: %v, want an invalid error that says %q", c.options, err, c.says)
		}
	}
	big := &desktop.Frame{Pixels: image.NewRGBA(image.Rect(0, 0, 4096, 2048))}
	if _, err := Render(big, Options{Scale: 2}); desktop.CodeOf(err) != desktop.Invalid {
		t.Errorf("a picture of 8192x4096: %v", err)
	}
}

func TestSize(t *testing.T) {
	frame := &desktop.Frame{Pixels: noise(320, 200)}
	for _, c := range []struct {
		options       Options
		width, height int
	}{
		{Options{}, 320, 200},
		{Options{Scale: 1}, 320, 200},
		{Options{Scale: 0.5}, 160, 100},
		{Options{Scale: 2}, 640, 400},
		{Options{Scale: 0.0001}, 1, 1},
		{Options{MaxWidth: 160}, 160, 100},
		{Options{MaxHeight: 50}, 80, 50},
		{Options{MaxWidth: 160, MaxHeight: 50}, 80, 50},
		{Options{MaxWidth: 5000, MaxHeight: 5000}, 320, 200},
		{Options{Exact: &desktop.Size{Width: 161, Height: 99}}, 161, 99},
		{Options{Exact: &desktop.Size{Width: 100, Height: 300}}, 100, 300},
		{Options{MaxWidth: 7, Region: &image.Rectangle{Max: image.Pt(20, 10)}}, 7, 4},
	} {
		p, _ := render(t, frame, c.options)
		if p.Width != c.width || p.Height != c.height {
			t.Errorf("%+v gives %dx%d, want %dx%d", c.options, p.Width, p.Height, c.width, c.height)
		}
	}
}

// A shrunk pixel is the mean of what it covers, here compared with the same in floating point.
func TestShrinkingAverages(t *testing.T) {
	img := noise(41, 29)
	for _, size := range []image.Point{{40, 28}, {20, 14}, {13, 29}, {41, 3}, {10, 6}, {1, 1}} {
		got := scaled(img, size.X, size.Y)
		for y := range size.Y {
			for x := range size.X {
				want := meanOf(img, size, x, y)
				have := got.RGBAAt(x, y)
				for i, v := range []uint8{have.R, have.G, have.B} {
					if math.Abs(float64(v)-want[i]) > 1.5 {
						t.Fatalf("%v: channel %d of %d,%d is %d, want %.1f", size, i, x, y, v, want[i])
					}
				}
				if have.A != 255 {
					t.Fatalf("%v: %d,%d is not opaque", size, x, y)
				}
			}
		}
	}
	white := image.NewRGBA(image.Rect(0, 0, 1279, 799))
	draw.Draw(white, white.Rect, image.White, image.Point{}, draw.Src)
	for i, v := range scaled(white, 1000, 333).Pix {
		if v != 255 {
			t.Fatalf("white became %d at %d", v, i)
		}
	}
}

func meanOf(img *image.RGBA, size image.Point, x, y int) (sums [3]float64) {
	w, h := float64(img.Rect.Dx())/float64(size.X), float64(img.Rect.Dy())/float64(size.Y)
	overlap := func(from, to float64, i int) float64 {
		return max(0, min(to, float64(i+1))-max(from, float64(i)))
	}
	for oy := range img.Rect.Dy() {
		for ox := range img.Rect.Dx() {
			area := overlap(float64(x)*w, float64(x+1)*w, ox) * overlap(float64(y)*h, float64(y+1)*h, oy) / (w * h)
			c := img.RGBAAt(ox, oy)
			sums[0] += area * float64(c.R)
			sums[1] += area * float64(c.G)
			sums[2] += area * float64(c.B)
		}
	}
	return sums
}

func TestCursor(t *testing.T) {
	display := image.NewRGBA(image.Rect(0, 0, 100, 80))
	draw.Draw(display, display.Rect, image.NewUniform(color.RGBA{100, 150, 200, 255}), image.Point{}, draw.Src)
	cursor := image.NewRGBA(image.Rect(0, 0, 10, 10))
	draw.Draw(cursor, image.Rect(0, 0, 5, 10), image.NewUniform(color.RGBA{255, 0, 0, 255}), image.Point{}, draw.Src)
	draw.Draw(cursor, image.Rect(5, 0, 9, 10), image.NewUniform(color.RGBA{0, 64, 0, 128}), image.Point{}, draw.Src)
	background := color.RGBA{100, 150, 200, 255}
	red, blended := color.RGBA{255, 0, 0, 255}, color.RGBA{50, 139, 100, 255} // 64 + 150*127/255

	for _, c := range []struct {
		name     string
		position image.Point
		region   *image.Rectangle
		pixels   map[image.Point]color.RGBA
	}{
		{"inside", image.Pt(22, 33), nil, map[image.Point]color.RGBA{
			{20, 30}: red, {24, 39}: red, {25, 30}: blended, {28, 39}: blended,
			{19, 30}: background, {20, 29}: background, {29, 30}: background, {24, 40}: background,
		}},
		{"over the top left corner", image.Pt(0, 0), nil, map[image.Point]color.RGBA{
			{0, 0}: red, {2, 6}: red, {3, 0}: blended, {0, 7}: background,
		}},
		{"over the bottom right corner", image.Pt(99, 79), nil, map[image.Point]color.RGBA{
			{97, 76}: red, {99, 79}: red, {96, 76}: background,
		}},
		{"outside", image.Pt(-50, 400), nil, map[image.Point]color.RGBA{{0, 79}: background}},
		{"in a region", image.Pt(22, 33), &image.Rectangle{Min: image.Pt(23, 31), Max: image.Pt(60, 60)}, map[image.Point]color.RGBA{
			{0, 0}: red, {1, 8}: red, {2, 0}: blended, {2, 9}: background,
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			frame := &desktop.Frame{Pixels: display, Cursor: &desktop.Cursor{Image: cursor, Hot: image.Pt(2, 3), Position: c.position}}
			_, got := render(t, frame, Options{Cursor: true, Region: c.region})
			for p, want := range c.pixels {
				have := color.RGBAModel.Convert(got.At(p.X, p.Y)).(color.RGBA)
				for _, d := range []int{int(have.R) - int(want.R), int(have.G) - int(want.G), int(have.B) - int(want.B)} {
					if d < -1 || d > 1 {
						t.Errorf("pixel %v is %v, want %v", p, have, want)
						break
					}
				}
			}
			_, without := render(t, frame, Options{Region: c.region})
			from := image.Point{}
			if c.region != nil {
				from = c.region.Min
			}
			wantPixels(t, without, display, from)
		})
	}
}

func TestJPEGQuality(t *testing.T) {
	frame := &desktop.Frame{Pixels: desk(640, 400, true)}
	low, _ := render(t, frame, Options{Format: JPEG, Quality: 20})
	normal, img := render(t, frame, Options{Format: JPEG})
	high, _ := render(t, frame, Options{Format: JPEG, Quality: 100})
	if !(len(low.Bytes) < len(normal.Bytes) && len(normal.Bytes) < len(high.Bytes)) {
		t.Errorf("qualities 20, default, 100 take %d, %d, %d bytes", len(low.Bytes), len(normal.Bytes), len(high.Bytes))
	}
	var off float64
	for y := range 400 {
		for x := range 640 {
			r, _, _, _ := img.At(x, y).RGBA()
			off += math.Abs(float64(r>>8) - float64(frame.Pixels.RGBAAt(x, y).R))
		}
	}
	if off /= 640 * 400; off > 8 {
		t.Errorf("red is off by %.1f on average", off)
	}
}

func TestCombineAdler(t *testing.T) {
	data := noise(300, 300).Pix
	for _, cut := range []int{0, 1, 65521, 70000, len(data)} {
		got := combineAdler(adler32.Checksum(data[:cut]), adler32.Checksum(data[cut:]), len(data)-cut)
		if want := adler32.Checksum(data); got != want {
			t.Errorf("cut at %d: %08x, want %08x", cut, got, want)
		}
	}
}

// A JPEG of strips shows, to the pixel, what one that was encoded as a whole does.
func TestJPEGOfStrips(t *testing.T) {
	for _, size := range []image.Point{{1, 1}, {15, 127}, {640, 128}, {641, 129}, {1280, 800}, {333, 1300}, {5000, 260}} {
		img := desk(size.X, size.Y, true)
		got, err := encodeJPEG(img, 75)
		if err != nil {
			t.Fatal(err)
		}
		var whole bytes.Buffer
		if err := jpeg.Encode(&whole, img, &jpeg.Options{Quality: 75}); err != nil {
			t.Fatal(err)
		}
		have, err := jpeg.Decode(bytes.NewReader(got))
		if err != nil {
			t.Fatalf("%v: %v", size, err)
		}
		want, err := jpeg.Decode(&whole)
		if err != nil {
			t.Fatal(err)
		}
		if have.Bounds() != want.Bounds() {
			t.Fatalf("%v became %v", size, have.Bounds())
		}
		for y := range size.Y {
			for x := range size.X {
				if have.At(x, y) != want.At(x, y) {
					t.Fatalf("%v: pixel %d,%d is %v instead of %v", size, x, y, have.At(x, y), want.At(x, y))
				}
			}
		}
	}
}
