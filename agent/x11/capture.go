package x11

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"image"
	"sync"

	"github.com/jezek/xgb/shm"
	"github.com/jezek/xgb/xfixes"
	"github.com/jezek/xgb/xproto"
	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// picture is what capturing keeps between two pictures.
type picture struct {
	cursor bool // XFixes is there

	mu      sync.Mutex
	serial  uint64
	sum     uint64 // of the last frame
	seed    maphash.Seed
	noShare bool // shared memory was refused
	seg     shm.Seg
	shared  []byte
}

// release lets the shared memory go.
func (p *picture) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.shared != nil {
		unix.SysvShmDetach(p.shared)
		p.shared = nil
	}
}

// Capture is the display with its cursor, as the server has them now. The serial grows when the
// frame differs from the last one.
func (d *Display) Capture(ctx context.Context) (*desktop.Frame, error) {
	return await(ctx, d.capture)
}

func (d *Display) capture() (*desktop.Frame, error) {
	p := &d.picture
	p.mu.Lock()
	defer p.mu.Unlock()
	size, err := d.measure()
	if err != nil {
		return nil, err
	}
	order, err := d.pixelOrder()
	if err != nil {
		return nil, err
	}
	frame := &desktop.Frame{Pixels: image.NewRGBA(image.Rect(0, 0, size.Width, size.Height)), Source: desktop.SourceAgent}
	if err := d.grab(size, func(y int, pixels []byte) {
		order.convert(frame.Pixels.Pix[y*frame.Pixels.Stride:], pixels)
	}); err != nil {
		return nil, err
	}
	if p.cursor {
		if frame.Cursor, err = d.cursor(); err != nil {
			return nil, err
		}
	}
	if p.serial == 0 {
		p.seed = maphash.MakeSeed()
	}
	if sum := frameSum(p.seed, frame); p.serial == 0 || sum != p.sum {
		p.serial++
		p.sum = sum
	}
	frame.Serial = p.serial
	return frame, nil
}

func frameSum(seed maphash.Seed, frame *desktop.Frame) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	h.Write(frame.Pixels.Pix)
	if c := frame.Cursor; c != nil {
		h.Write(c.Image.Pix)
		fmt.Fprint(&h, c.Hot, c.Position, c.Image.Rect)
	}
	fmt.Fprint(&h, frame.Pixels.Rect)
	return h.Sum64()
}

// grab reads the root window's pixels, in one piece through shared memory or else in strips.
func (d *Display) grab(size desktop.Size, each func(y int, pixels []byte)) error {
	stride := size.Width * 4
	if shared := d.share(stride * size.Height); shared != nil {
		_, err := shm.GetImage(d.x, xproto.Drawable(d.root), 0, 0, uint16(size.Width), uint16(size.Height),
			^uint32(0), xproto.ImageFormatZPixmap, d.picture.seg, 0).Reply()
		if err != nil {
			return d.resized(err)
		}
		each(0, shared[:stride*size.Height])
		return nil
	}
	const strip = 128
	for y := 0; y < size.Height; y += strip {
		rows := min(strip, size.Height-y)
		reply, err := xproto.GetImage(d.x, xproto.ImageFormatZPixmap, xproto.Drawable(d.root), 0, int16(y),
			uint16(size.Width), uint16(rows), ^uint32(0)).Reply()
		if err != nil {
			return d.resized(err)
		}
		if len(reply.Data) < stride*rows {
			return fmt.Errorf("the X server gave %d bytes for %d rows of %d pixels", len(reply.Data), rows, size.Width)
		}
		each(y, reply.Data[:stride*rows])
	}
	return nil
}

// resized explains a picture that failed because the display has just become smaller.
func (d *Display) resized(err error) error {
	if _, ok := err.(xproto.MatchError); ok {
		return desktop.Errorf(desktop.Unavailable, "the display was resized while its picture was taken: %w", err)
	}
	return d.gone(err)
}

// share is memory of at least that size which the server writes to, nil when it cannot.
func (d *Display) share(size int) []byte {
	p := &d.picture
	if len(p.shared) >= size || p.noShare {
		return p.shared
	}
	if p.shared != nil {
		shm.Detach(d.x, p.seg)
		unix.SysvShmDetach(p.shared)
		p.shared = nil
	}
	// Anything that fails means that the server is not on this machine or may not see our memory.
	p.noShare = true
	id, err := unix.SysvShmGet(unix.IPC_PRIVATE, size, unix.IPC_CREAT|0o600)
	if err != nil {
		return nil
	}
	// It goes away when the last user has let go of it, also after a crash.
	defer unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	shared, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return nil
	}
	if p.seg, err = shm.NewSegId(d.x); err == nil {
		err = shm.AttachChecked(d.x, p.seg, uint32(id), false).Check()
	}
	if err != nil {
		unix.SysvShmDetach(shared)
		return nil
	}
	p.noShare, p.shared = false, shared
	return shared
}

// pixelOrder says which byte of a pixel is which colour.
type pixelOrder struct{ red, green, blue int }

// pixelOrder reads the format of the display. All that people use has 24 bits of colour in 32.
func (d *Display) pixelOrder() (pixelOrder, error) {
	screen := d.setup.DefaultScreen(d.x)
	for _, format := range d.setup.PixmapFormats {
		if format.Depth == d.depth && format.BitsPerPixel != 32 {
			return pixelOrder{}, desktop.Errorf(desktop.Unavailable, "the display has %d bits per pixel; 32 are needed", format.BitsPerPixel)
		}
	}
	for _, depth := range screen.AllowedDepths {
		for _, visual := range depth.Visuals {
			if visual.VisualId != screen.RootVisual {
				continue
			}
			var order pixelOrder
			for _, channel := range []struct {
				mask uint32
				at   *int
			}{{visual.RedMask, &order.red}, {visual.GreenMask, &order.green}, {visual.BlueMask, &order.blue}} {
				switch channel.mask {
				case 0xff:
					*channel.at = 0
				case 0xff00:
					*channel.at = 1
				case 0xff0000:
					*channel.at = 2
				default:
					return pixelOrder{}, desktop.Errorf(desktop.Unavailable, "the display does not have 8 bits for each colour")
				}
				if d.setup.ImageByteOrder != xproto.ImageOrderLSBFirst {
					*channel.at = 3 - *channel.at
				}
			}
			return order, nil
		}
	}
	return pixelOrder{}, desktop.Errorf(desktop.Unavailable, "the X server does not describe its display")
}

// convert makes opaque RGBA of the server's pixels.
func (o pixelOrder) convert(to, from []byte) {
	if o == (pixelOrder{red: 2, green: 1, blue: 0}) { // nearly every server: a word at a time
		for i := 0; i+4 <= len(from); i += 4 {
			bgrx := binary.LittleEndian.Uint32(from[i:])
			binary.LittleEndian.PutUint32(to[i:], bgrx>>16&0xff|bgrx&0xff00|bgrx<<16&0xff0000|0xff000000)
		}
		return
	}
	for i := 0; i+4 <= len(from); i += 4 {
		to[i], to[i+1], to[i+2], to[i+3] = from[i+o.red], from[i+o.green], from[i+o.blue], 0xff
	}
}

// Cursor is the pointer's picture and place, nil while the pointer is hidden.
func (d *Display) Cursor(ctx context.Context) (*desktop.Cursor, error) {
	if !d.picture.cursor {
		return nil, desktop.Errorf(desktop.Unavailable, "the X server does not tell its cursor: it lacks XFIXES")
	}
	return await(ctx, d.cursor)
}

// await lets round trips, which have no time limit of their own, end with the caller's context.
func await[T any](ctx context.Context, ask func() (T, error)) (T, error) {
	type result struct {
		answer T
		err    error
	}
	results := make(chan result, 1)
	go func() { // ends with its round trips, at the latest when the connection is closed
		answer, err := ask()
		results <- result{answer, err}
	}()
	select {
	case r := <-results:
		return r.answer, r.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// cursor is the pointer's picture; nil while it is hidden.
func (d *Display) cursor() (*desktop.Cursor, error) {
	reply, err := xfixes.GetCursorImage(d.x).Reply()
	if err != nil {
		return nil, d.gone(err)
	}
	width, height := int(reply.Width), int(reply.Height)
	if width == 0 || height == 0 || len(reply.CursorImage) < width*height {
		return nil, nil
	}
	picture := image.NewRGBA(image.Rect(0, 0, width, height))
	visible := false
	for i, argb := range reply.CursorImage[:width*height] {
		visible = visible || argb>>24 != 0
		binary.BigEndian.PutUint32(picture.Pix[4*i:], argb<<8|argb>>24)
	}
	if !visible {
		return nil, nil
	}
	return &desktop.Cursor{
		Image:    picture,
		Hot:      image.Pt(int(reply.Xhot), int(reply.Yhot)),
		Position: image.Pt(int(reply.X), int(reply.Y)),
	}, nil
}
