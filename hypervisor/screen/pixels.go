package screen

import (
	"encoding/binary"
	"fmt"
	"image"

	"bureau/desktop"
)

// Bounds of a display. The area keeps a hostile guest from making the host hold gigabytes.
const (
	maxSide   = desktop.MaxDisplaySide
	maxPixels = desktop.MaxDisplayPixels
	maxStride = 8 * maxSide // bytes: twice the widest row
	maxCursor = 512         // pixels, each way
)

// pixelFormat is a code of the pixman library: bits per pixel, order of the channels, bits of each.
// The channels lie in a 32-bit word of the host's byte order, which is little-endian (checked with
// every D-Bus message).
type pixelFormat uint32

const (
	formatX8R8G8B8 pixelFormat = 0x20020888
	formatA8R8G8B8 pixelFormat = 0x20028888
	formatX8B8G8R8 pixelFormat = 0x20030888
	formatA8B8G8R8 pixelFormat = 0x20038888
	formatB8G8R8X8 pixelFormat = 0x20080888
	formatB8G8R8A8 pixelFormat = 0x20088888
	formatR8G8B8X8 pixelFormat = 0x20090888
	formatR8G8B8A8 pixelFormat = 0x20098888
)

// shifts tells where red, green and blue lie in the word.
func (f pixelFormat) shifts() (red, green, blue uint, err error) {
	switch f {
	case formatX8R8G8B8, formatA8R8G8B8:
		return 16, 8, 0, nil
	case formatX8B8G8R8, formatA8B8G8R8:
		return 0, 8, 16, nil
	case formatB8G8R8X8, formatB8G8R8A8:
		return 8, 16, 24, nil
	case formatR8G8B8X8, formatR8G8B8A8:
		return 24, 16, 8, nil
	}
	return 0, 0, 0, fmt.Errorf("pixel format %#08x is not supported", uint32(f))
}

// pixels is a picture as it arrives: rows of 32-bit words, stride bytes apart.
type pixels struct {
	width, height int
	stride        int
	format        pixelFormat
	data          []byte
}

// check makes sure that every pixel lies within data and that the size is one that a display has.
func (p pixels) check() error { return p.checkLength(len(p.data)) }

// checkLength is check for data of a length that is still to come.
func (p pixels) checkLength(length int) error {
	if err := checkSize(p.width, p.height); err != nil {
		return err
	}
	if _, _, _, err := p.format.shifts(); err != nil {
		return err
	}
	if p.stride < p.width*4 || p.stride > maxStride || p.need() > length {
		return fmt.Errorf("%d bytes with a stride of %d are not a picture of %dx%d", length, p.stride, p.width, p.height)
	}
	return nil
}

// need is how many bytes its rows are, up to the last pixel.
func (p pixels) need() int { return p.stride*(p.height-1) + p.width*4 }

func checkSize(width, height int) error {
	if width < 1 || height < 1 || width > maxSide || height > maxSide || width*height > maxPixels {
		return fmt.Errorf("a display of %dx%d is out of bounds", width, height)
	}
	return nil
}

// draw copies p, which has been checked, to at in canvas, which holds all of it, and returns the
// smallest rectangle of pixels that became different: displays are often told to repaint what
// they show already, and nobody should be woken for that.
func draw(canvas *image.RGBA, at image.Point, p pixels) image.Rectangle {
	red, green, blue, _ := p.format.shifts()
	left, right, top, bottom := p.width, 0, p.height, 0
	for y := range p.height {
		from := p.data[y*p.stride:][: p.width*4 : p.width*4]
		to := canvas.Pix[canvas.PixOffset(at.X, at.Y+y):][: p.width*4 : p.width*4]
		first, last := copyRow(to, from, red, green, blue)
		if first > last {
			continue
		}
		left, right = min(left, first), max(right, last+1)
		top, bottom = min(top, y), y+1
	}
	if right == 0 {
		return image.Rectangle{}
	}
	return image.Rect(left, top, right, bottom).Add(at)
}

// copyRow converts a row to RGBA and returns the first and last pixel that differ from what was
// there; first is beyond last when none does.
func copyRow(to, from []byte, red, green, blue uint) (first, last int) {
	first, last = len(to), -1
	if len(to) != len(from) {
		return
	}
	if red == 16 && green == 8 && blue == 0 { // what QEMU sends in practice, with constant shifts
		for i := 0; i+4 <= len(from) && i+4 <= len(to); i += 4 {
			word := binary.LittleEndian.Uint32(from[i:])
			pixel := word>>16&0xff | word&0xff00 | word&0xff<<16 | 0xff000000
			if binary.LittleEndian.Uint32(to[i:]) != pixel {
				binary.LittleEndian.PutUint32(to[i:], pixel)
				first, last = min(first, i), i
			}
		}
	} else {
		for i := 0; i+4 <= len(from) && i+4 <= len(to); i += 4 {
			word := binary.LittleEndian.Uint32(from[i:])
			pixel := word>>red&0xff | word>>green&0xff<<8 | word>>blue&0xff<<16 | 0xff000000
			if binary.LittleEndian.Uint32(to[i:]) != pixel {
				binary.LittleEndian.PutUint32(to[i:], pixel)
				first, last = min(first, i), i
			}
		}
	}
	if last < 0 {
		return 1, 0
	}
	return first / 4, last / 4
}

// cursorImage turns a cursor of premultiplied ARGB words into an image.
func cursorImage(width, height int, data []byte) (*image.RGBA, error) {
	if width < 1 || height < 1 || width > maxCursor || height > maxCursor {
		return nil, fmt.Errorf("a cursor of %dx%d is out of bounds", width, height)
	}
	if len(data) != width*height*4 {
		return nil, fmt.Errorf("%d bytes are not a cursor of %dx%d", len(data), width, height)
	}
	img := image.NewRGBA(image.Rect(0, 0, width, height))
	for i := 0; i < len(data); i += 4 {
		word := binary.LittleEndian.Uint32(data[i:])
		alpha := word >> 24
		// No channel of a premultiplied pixel exceeds its alpha; one that does is the guest's
		// fault and must not overflow where the cursor is drawn.
		img.Pix[i] = byte(min(word>>16&0xff, alpha))
		img.Pix[i+1] = byte(min(word>>8&0xff, alpha))
		img.Pix[i+2] = byte(min(word&0xff, alpha))
		img.Pix[i+3] = byte(alpha)
	}
	return img, nil
}
