// Package picture renders a desktop.Frame as the bytes of an image file: cropped, scaled, with the
// cursor drawn in or left out, as PNG, JPEG or WebP.
//
// It must not know where a frame comes from or where the bytes go.
package picture

import (
	"image"
	"math"

	"golang.org/x/image/draw"

	"bureau/desktop"
)

// Format is a kind of image file.
type Format string

// The formats. PNG and WebP are exact, JPEG is small.
const (
	PNG  Format = "png"
	JPEG Format = "jpeg"
	WebP Format = "webp"
)

// Limits of a picture.
const (
	MaxScale       = 2.0
	MaxPixels      = 16 << 20
	DefaultQuality = 80
)

// Options say how a frame is to be rendered. The zero value is a PNG of the whole display without
// the cursor.
type Options struct {
	Format  Format           // PNG when empty
	Quality int              // of JPEG: 1 to 100, DefaultQuality when 0
	Region  *image.Rectangle // of the display; all of it when nil
	Scale   float64          // up to MaxScale; 1 when 0
	// MaxWidth and MaxHeight, when positive, shrink the picture to fit, its proportions kept. They
	// never enlarge it, and Scale cannot be given with them.
	MaxWidth, MaxHeight int
	// Exact, when not nil, is the size of the picture, whatever its proportions are then. It goes
	// with none of the others that say how large.
	Exact  *desktop.Size
	Cursor bool // draw it
}

// Picture is an image file.
type Picture struct {
	Bytes         []byte
	ContentType   string
	Width, Height int
}

// Check says what is wrong with options whatever the display; its errors are desktop.Invalid.
func (o Options) Check() error {
	switch o.Format {
	case "", PNG, JPEG, WebP:
	default:
		return desktop.Errorf(desktop.Invalid, "format %q is not one of png, jpeg and webp", string(o.Format))
	}
	switch {
	case o.Quality < 0 || o.Quality > 100:
		return desktop.Errorf(desktop.Invalid, "quality %d is not between 1 and 100", o.Quality)
	case o.Quality != 0 && o.Format != JPEG:
		return desktop.Errorf(desktop.Invalid, "quality is for jpeg only; png and webp are exact")
	case o.Scale != 0 && !(o.Scale > 0 && o.Scale <= MaxScale): // also catches NaN
		return desktop.Errorf(desktop.Invalid, "scale %v is not above 0 and at most %v", o.Scale, MaxScale)
	case o.MaxWidth < 0 || o.MaxHeight < 0:
		return desktop.Errorf(desktop.Invalid, "the largest width and height cannot be negative")
	case o.Scale != 0 && (o.MaxWidth > 0 || o.MaxHeight > 0):
		return desktop.Errorf(desktop.Invalid, "give either a scale or a largest width and height")
	case o.Exact != nil && (o.Scale != 0 || o.MaxWidth > 0 || o.MaxHeight > 0):
		return desktop.Errorf(desktop.Invalid, "give either an exact size or a scale or a largest width and height")
	case o.Exact != nil && (o.Exact.Width < 1 || o.Exact.Height < 1):
		return desktop.Errorf(desktop.Invalid, "an exact size of %dx%d is none", o.Exact.Width, o.Exact.Height)
	case o.Region != nil && o.Region.Empty():
		return desktop.Errorf(desktop.Invalid, "the region is empty")
	}
	return nil
}

// Render makes a picture of a frame, which it does not change. Errors that the options cause are
// desktop.Invalid.
func Render(frame *desktop.Frame, o Options) (Picture, error) {
	if err := o.Check(); err != nil {
		return Picture{}, err
	}
	display := frame.Pixels.Rect
	region := display
	if o.Region != nil {
		region = *o.Region
		if !region.In(display) {
			return Picture{}, outside(region, display)
		}
	}
	width, height, err := o.size(region)
	if err != nil {
		return Picture{}, err
	}
	img := frame.Pixels.SubImage(region).(*image.RGBA)
	if o.Cursor && frame.Cursor != nil {
		img = withCursor(img, frame.Cursor)
	}
	img = scaled(img, width, height)

	p := Picture{Width: width, Height: height}
	switch o.Format {
	case JPEG:
		quality := o.Quality
		if quality == 0 {
			quality = DefaultQuality
		}
		if p.Bytes, err = encodeJPEG(img, quality); err != nil {
			return Picture{}, err
		}
		p.ContentType = "image/jpeg"
	case WebP:
		p.Bytes, p.ContentType = encodeWebP(img), "image/webp"
	default:
		p.Bytes, p.ContentType = encodePNG(img), "image/png"
	}
	return p, nil
}

func outside(region, display image.Rectangle) error {
	e := desktop.Errorf(desktop.Invalid, "the region %dx%d at %d,%d does not lie within the display of %dx%d",
		region.Dx(), region.Dy(), region.Min.X, region.Min.Y, display.Dx(), display.Dy())
	e.Details = map[string]any{"display": desktop.Size{Width: display.Dx(), Height: display.Dy()}}
	return e
}

// size is the picture's size: at least a pixel, within MaxPixels.
func (o Options) size(region image.Rectangle) (width, height int, err error) {
	scale := o.Scale
	if scale == 0 {
		scale = 1
	}
	if o.MaxWidth > 0 {
		scale = min(scale, float64(o.MaxWidth)/float64(region.Dx()))
	}
	if o.MaxHeight > 0 {
		scale = min(scale, float64(o.MaxHeight)/float64(region.Dy()))
	}
	width = max(1, int(math.Round(float64(region.Dx())*scale)))
	height = max(1, int(math.Round(float64(region.Dy())*scale)))
	if o.Exact != nil {
		width, height = o.Exact.Width, o.Exact.Height
	}
	if int64(width)*int64(height) > MaxPixels {
		return 0, 0, desktop.Errorf(desktop.Invalid, "a picture of %dx%d is larger than %d pixels", width, height, MaxPixels)
	}
	return width, height, nil
}

// withCursor is img with the cursor drawn over it, in a copy, as X draws it: each channel is the
// cursor's, premultiplied, plus what its alpha lets through of the display. A cursor that lies
// outside img leaves it as it is.
func withCursor(img *image.RGBA, c *desktop.Cursor) *image.RGBA {
	at := c.Image.Rect.Sub(c.Image.Rect.Min).Add(c.Position.Sub(c.Hot))
	visible := at.Intersect(img.Rect)
	if visible.Empty() {
		return img
	}
	out := image.NewRGBA(img.Rect)
	copyRows(out, img)
	draw.Draw(out, visible, c.Image, c.Image.Rect.Min.Add(visible.Min.Sub(at.Min)), draw.Over)
	return out
}

func copyRows(to, from *image.RGBA) {
	row := 4 * from.Rect.Dx()
	for y := from.Rect.Min.Y; y < from.Rect.Max.Y; y++ {
		copy(to.Pix[to.PixOffset(to.Rect.Min.X, y):][:row], from.Pix[from.PixOffset(from.Rect.Min.X, y):][:row])
	}
}
