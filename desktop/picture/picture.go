// Package picture makes image files of frames: it crops, draws the cursor, scales and encodes. It
// knows nothing of where a frame came from.
package picture

import (
	"bytes"
	"image"
	"image/jpeg"
	"image/png"

	"github.com/HugoSmits86/nativewebp"
	"golang.org/x/image/draw"

	"bureau/desktop"
)

// Options say what picture is wanted of a frame. Zero values mean: PNG, the whole display, its own
// size, without the cursor.
type Options struct {
	Format              string // png, jpeg or webp
	Quality             int    // of JPEG, 1 to 100
	Region              *image.Rectangle
	Scale               float64
	MaxWidth, MaxHeight int
	Cursor              bool
}

// Picture is an encoded image.
type Picture struct {
	Bytes         []byte
	ContentType   string
	Width, Height int
}

// Render makes the picture.
func Render(frame *desktop.Frame, o Options) (Picture, error) {
	whole := image.NewRGBA(frame.Pixels.Bounds())
	draw.Draw(whole, whole.Rect, frame.Pixels, whole.Rect.Min, draw.Src)
	if c := frame.Cursor; o.Cursor && c != nil && c.Image != nil {
		at := c.Position.Sub(c.Hot)
		draw.Draw(whole, c.Image.Bounds().Sub(c.Image.Bounds().Min).Add(at), c.Image, c.Image.Bounds().Min, draw.Over)
	}
	region := whole.Rect
	if o.Region != nil {
		region = o.Region.Intersect(whole.Rect)
		if region.Empty() {
			return Picture{}, desktop.Errorf(desktop.Invalid, "the region lies outside the display")
		}
	}
	scale := 1.0
	if o.Scale > 0 {
		scale = o.Scale
	}
	if o.MaxWidth > 0 {
		scale = min(scale, float64(o.MaxWidth)/float64(region.Dx()))
	}
	if o.MaxHeight > 0 {
		scale = min(scale, float64(o.MaxHeight)/float64(region.Dy()))
	}
	width, height := max(1, int(float64(region.Dx())*scale)), max(1, int(float64(region.Dy())*scale))
	cut := image.NewRGBA(image.Rect(0, 0, width, height))
	draw.ApproxBiLinear.Scale(cut, cut.Rect, whole, region, draw.Src, nil)

	var (
		buffer bytes.Buffer
		err    error
		kind   = "image/png"
	)
	switch o.Format {
	case "", "png":
		err = (&png.Encoder{CompressionLevel: png.BestSpeed}).Encode(&buffer, cut)
	case "jpeg":
		kind = "image/jpeg"
		quality := o.Quality
		if quality == 0 {
			quality = 80
		}
		err = jpeg.Encode(&buffer, cut, &jpeg.Options{Quality: quality})
	case "webp":
		kind = "image/webp"
		err = nativewebp.Encode(&buffer, cut, nil)
	default:
		err = desktop.Errorf(desktop.Invalid, "there is no picture format %q", o.Format)
	}
	return Picture{Bytes: buffer.Bytes(), ContentType: kind, Width: width, Height: height}, err
}
