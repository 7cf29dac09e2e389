package picture

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"math"
	"math/rand/v2"
	"testing"

	"bureau/desktop"
)

// desk draws something like a desktop: a panel, windows with lines of text and, when photo is set,
// a photograph as the background.
func desk(width, height int, photo bool) *image.RGBA {
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	random := rand.New(rand.NewPCG(1, 2))
	for y := range height {
		for x := range width {
			c := color.RGBA{40, 44, 52, 255}
			if photo {
				u, v := float64(x)/float64(width), float64(y)/float64(height)
				wave := math.Sin(7*u+3*math.Sin(5*v))*math.Cos(9*v-2*u)*60 + 128
				grain := random.NormFloat64() * 3
				c = color.RGBA{clamp(wave + grain), clamp(wave*(1-v) + 60 + grain), clamp(200*u + 30*v + grain), 255}
			}
			img.SetRGBA(x, y, c)
		}
	}
	fill := func(r image.Rectangle, c color.RGBA) { draw.Draw(img, r, image.NewUniform(c), image.Point{}, draw.Src) }
	fill(image.Rect(0, 0, width, height/30), color.RGBA{30, 30, 32, 255})
	for i := range 3 {
		w := image.Rect(0, 0, width*2/5, height/2).Add(image.Pt(width/20+i*width/4, height/12+i*height/6))
		fill(w.Inset(-1), color.RGBA{20, 20, 20, 255})
		fill(w, color.RGBA{250, 250, 250, 255})
		for y := w.Min.Y; y < w.Min.Y+22; y++ { // a title bar with a gradient
			shade := uint8(120 - 2*(y-w.Min.Y))
			fill(image.Rect(w.Min.X, y, w.Max.X, y+1), color.RGBA{shade / 2, shade, shade, 255})
		}
		for y := w.Min.Y + 30; y < w.Max.Y-12; y += 15 {
			for x := w.Min.X + 8; x < w.Max.X-12; x += 7 {
				glyph := random.IntN(40)
				for dy := range 10 {
					for dx := range 6 {
						if ink := (glyph*31 + dx*7 + dy*13) % 11; ink < 3 && glyph > 5 {
							shade := uint8(40 * ink)
							img.SetRGBA(x+dx, y+dy, color.RGBA{shade, shade, shade, 255})
						}
					}
				}
			}
		}
	}
	return img
}

func clamp(v float64) uint8 { return uint8(min(max(v, 0), 255)) }

func BenchmarkRender(b *testing.B) {
	for _, photo := range []bool{false, true} {
		frame := &desktop.Frame{Pixels: desk(1280, 800, photo)}
		for _, o := range []Options{
			{Format: PNG}, {Format: JPEG}, {Format: WebP}, {Format: PNG, Scale: 0.5}, {Format: JPEG, MaxWidth: 1024},
		} {
			b.Run(fmt.Sprintf("photo=%v/%v/scale=%v,%v", photo, o.Format, o.Scale, o.MaxWidth), func(b *testing.B) {
				var size int
				for b.Loop() {
					p, err := Render(frame, o)
					if err != nil {
						b.Fatal(err)
					}
					size = len(p.Bytes)
				}
				b.ReportMetric(float64(size), "bytes")
			})
		}
	}
}

// BenchmarkStandardPNG is what the encoder of the standard library would take.
func BenchmarkStandardPNG(b *testing.B) {
	for _, photo := range []bool{false, true} {
		img := desk(1280, 800, photo)
		b.Run(fmt.Sprintf("photo=%v", photo), func(b *testing.B) {
			var out bytes.Buffer
			encoder := png.Encoder{CompressionLevel: png.BestSpeed}
			for b.Loop() {
				out.Reset()
				if err := encoder.Encode(&out, img); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(out.Len()), "bytes")
		})
	}
}

// BenchmarkStandardJPEG is what the standard library's encoder takes on one processor.
func BenchmarkStandardJPEG(b *testing.B) {
	for _, photo := range []bool{false, true} {
		img := desk(1280, 800, photo)
		b.Run(fmt.Sprintf("photo=%v", photo), func(b *testing.B) {
			var out bytes.Buffer
			for b.Loop() {
				out.Reset()
				if err := jpeg.Encode(&out, img, &jpeg.Options{Quality: DefaultQuality}); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(out.Len()), "bytes")
		})
	}
}
