package screen

import (
	"context"
	"errors"
	"fmt"
	"image"
	"sync"
	"time"
	"weak"

	"bureau/desktop"
)

// mirror keeps a display's newest picture. One goroutine, the session's reader, draws into it; any
// number look at it.
//
// The canvas is drawn on in place and never handed out. A look copies it, once per change however
// many look, and not at all when only the cursor moved; so an unwatched display costs the drawing
// of its damage and nothing else. A copy lasts for as long as somebody has it.
type mirror struct {
	source desktop.Source
	now    func() time.Time

	mu     sync.Mutex
	serial uint64                      // grows with each change
	canvas *image.RGBA                 // nil before the first picture
	drawn  uint64                      // serial of the last change of the canvas
	copied uint64                      // what drawn was when frame's pixels were copied
	frame  weak.Pointer[desktop.Frame] // the last one handed out
	// partial is set while the canvas is between two pictures: part of an update has been drawn.
	partial bool
	lookers int            // who wait for a picture
	handed  *desktop.Frame // what they are shown while it is partial, if anything

	cursor  *image.RGBA // nil until the guest has defined one
	hot     image.Point
	placed  bool        // the guest has said where it is
	corner  image.Point // the cursor image's top left corner
	pointer bool        // whether the guest shows it

	wake     chan struct{} // made by who waits, closed by the next change
	watchers map[*func(desktop.Damage)]struct{}
	ended    error
	done     chan struct{}
}

func newMirror(source desktop.Source) *mirror {
	return &mirror{source: source, now: time.Now, done: make(chan struct{})}
}

// setSize gives the display another size; it is black until something is drawn.
func (m *mirror) setSize(width, height int) error {
	if err := checkSize(width, height); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.resize(width, height)
	return nil
}

func (m *mirror) resize(width, height int) {
	if m.canvas != nil && m.canvas.Rect.Dx() == width && m.canvas.Rect.Dy() == height {
		return
	}
	// A display that changes its size again and again uses the same memory.
	var pix []byte
	if size := width * height * 4; m.canvas != nil && cap(m.canvas.Pix) >= size {
		pix = m.canvas.Pix[:size]
	} else {
		pix = make([]byte, size)
	}
	m.canvas = &image.RGBA{Pix: pix, Stride: width * 4, Rect: image.Rect(0, 0, width, height)}
	fillBlack(m.canvas)
	m.drew(m.canvas.Rect)
}

// holds tells whether a rectangle lies on the display.
func (m *mirror) holds(rect image.Rectangle) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.check(rect)
}

// check is holds under the lock.
func (m *mirror) check(rect image.Rectangle) error {
	if m.canvas == nil {
		return fmt.Errorf("an update of %v came before any picture", rect)
	}
	if !rect.In(m.canvas.Rect) {
		return fmt.Errorf("an update of %v: %w of %v", rect, errOutside, m.canvas.Rect.Size())
	}
	return nil
}

// errOutside is what update says of a part that is not all on the display.
var errOutside = errors.New("it lies outside the display")

// update takes a part of the picture.
func (m *mirror) update(x, y int, p pixels) error {
	if err := p.check(); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	at := image.Pt(x, y)
	if err := m.check(image.Rect(0, 0, p.width, p.height).Add(at)); err != nil {
		return err
	}
	m.drew(draw(m.canvas, at, p))
	return nil
}

// blank turns the display black.
func (m *mirror) blank() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.canvas != nil {
		fillBlack(m.canvas)
		m.drew(m.canvas.Rect)
	}
}

// defineCursor takes another shape of the cursor, of premultiplied ARGB.
func (m *mirror) defineCursor(width, height, hotX, hotY int, data []byte) error {
	img, err := cursorImage(width, height, data)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cursor = img
	m.hot = image.Pt(min(max(hotX, 0), width-1), min(max(hotY, 0), height-1))
	m.changed(image.Rectangle{})
	return nil
}

// moveCursor takes the place of the cursor image's corner.
func (m *mirror) moveCursor(x, y int, visible bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	corner := image.Pt(x, y)
	if m.placed && m.corner == corner && m.pointer == visible {
		return
	}
	m.placed, m.corner, m.pointer = true, corner, visible
	m.changed(image.Rectangle{})
}

// seedCursor takes a cursor from elsewhere for as much of it as the guest has not told yet.
func (m *mirror) seedCursor(c desktop.Cursor) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.cursor != nil && m.placed || c.Image == nil {
		return
	}
	if m.cursor == nil {
		m.cursor, m.hot = c.Image, c.Hot
	}
	if !m.placed {
		m.placed, m.corner, m.pointer = true, c.Position.Sub(c.Hot), true
	}
	m.changed(image.Rectangle{})
}

// begin and finish enclose an update that comes in several pieces, so that nobody sees half of it.
// What was there before is not shown any more, either.
func (m *mirror) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.partial, m.handed = true, nil
}

// beginNext is begin for an update of a picture that is good until then: whoever waits for one is handed
// it. A display that never rests would otherwise leave no moment to look.
func (m *mirror) beginNext() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.lookers > 0 && m.canvas != nil && !m.partial {
		m.handed = m.copy()
	}
	m.partial = true
}

func (m *mirror) finish() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.partial = false
	m.wakeUp()
}

// drew records a change of the canvas, unless it made no difference.
func (m *mirror) drew(rect image.Rectangle) {
	if rect.Empty() {
		return
	}
	m.drawn = m.serial + 1
	m.changed(rect)
}

// changed records a change; an empty rectangle is the cursor's.
func (m *mirror) changed(rect image.Rectangle) {
	m.serial++
	if len(m.watchers) > 0 {
		damage := desktop.Damage{Serial: m.serial, Rect: rect, At: m.now()}
		for watch := range m.watchers {
			(*watch)(damage)
		}
	}
	m.wakeUp()
}

func (m *mirror) wakeUp() {
	if m.wake != nil {
		close(m.wake)
		m.wake = nil
	}
}

// end is called once, by the reader, when nothing more will come.
func (m *mirror) end(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ended = &desktop.Error{Code: desktop.Unavailable, Message: "the connection to the display has ended", Err: cause}
	close(m.done)
	m.wakeUp()
}

// until waits for the condition, which is looked at under the lock, and returns with the lock held.
// On an error it is not held.
func (m *mirror) until(ctx context.Context, condition func() bool) error {
	for {
		m.mu.Lock()
		if m.ended != nil {
			m.mu.Unlock()
			return m.ended
		}
		if condition() {
			return nil
		}
		if m.wake == nil {
			m.wake = make(chan struct{})
		}
		wake := m.wake
		m.mu.Unlock()
		select {
		case <-wake:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (m *mirror) look(ctx context.Context) (*desktop.Frame, error) {
	m.mu.Lock()
	m.lookers++
	m.mu.Unlock()
	err := m.until(ctx, func() bool { return m.canvas != nil && !m.partial || m.handed != nil })
	if err != nil {
		m.mu.Lock()
	}
	defer m.mu.Unlock()
	var frame *desktop.Frame
	switch {
	case err != nil:
	case m.partial:
		frame = m.handed
	default:
		frame = m.copy()
	}
	if m.lookers--; m.lookers == 0 {
		m.handed = nil
	}
	return frame, err
}

// copy is the canvas as it is, to be handed out.
func (m *mirror) copy() *desktop.Frame {
	last := m.frame.Value()
	if last != nil && last.Serial == m.serial {
		return last
	}
	next := &desktop.Frame{Serial: m.serial, Source: m.source}
	if last != nil && m.copied == m.drawn {
		next.Pixels = last.Pixels
	} else {
		next.Pixels = &image.RGBA{Pix: append([]byte(nil), m.canvas.Pix...), Stride: m.canvas.Stride, Rect: m.canvas.Rect}
		m.copied = m.drawn
	}
	if m.pointer && m.cursor != nil {
		next.Cursor = &desktop.Cursor{Image: m.cursor, Hot: m.hot, Position: m.corner.Add(m.hot)}
	}
	m.frame = weak.Make(next)
	return next
}

func (m *mirror) wait(ctx context.Context, serial uint64) error {
	err := m.until(ctx, func() bool { return m.canvas != nil && m.serial > serial })
	if err == nil {
		m.mu.Unlock()
	}
	return err
}

func (m *mirror) watch(f func(desktop.Damage)) (stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.watchers == nil {
		m.watchers = make(map[*func(desktop.Damage)]struct{})
	}
	key := &f
	m.watchers[key] = struct{}{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.watchers, key)
	}
}

func fillBlack(img *image.RGBA) {
	for i := range img.Pix {
		img.Pix[i] = 0
	}
	for i := 3; i < len(img.Pix); i += 4 {
		img.Pix[i] = 0xff
	}
}
