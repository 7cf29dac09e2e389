package desktop

import (
	"context"
	"image"
	"time"
)

// Source says where a picture came from.
type Source string

// The sources of pictures, best first.
const (
	SourceDBus  Source = "dbus"  // the host's mirror of QEMU's D-Bus display
	SourceRFB   Source = "rfb"   // QEMU's VNC server
	SourceAgent Source = "agent" // captured in the guest by its agent
)

// Frame is a display at one moment. It is immutable and may be shared.
type Frame struct {
	// Serial grows whenever pixels or cursor changed; equal serials of one Screen mean equal frames.
	Serial uint64
	// Pixels is the display without its cursor; every pixel is opaque.
	Pixels *image.RGBA
	// Cursor is nil where the source draws none or the guest hides it.
	Cursor *Cursor
	Source Source
}

// Cursor is the pointer's picture and place.
type Cursor struct {
	Image    *image.RGBA // alpha-premultiplied, as X draws it
	Hot      image.Point // the pixel of Image that points
	Position image.Point // where on the display that pixel is
}

// Damage is a change of the display.
type Damage struct {
	Serial uint64 // of the first frame that shows it
	// Rect holds every pixel that became different. It is empty when only the cursor changed.
	Rect image.Rectangle
	At   time.Time
}

// Screen is a desktop's display as the host sees it. It is safe for concurrent use.
type Screen interface {
	// Frame is the newest picture. It waits, until ctx is done, for the first one.
	Frame(ctx context.Context) (*Frame, error)
	// Wait returns when a frame newer than serial is there, or with ctx's error.
	Wait(ctx context.Context, serial uint64) error
	// Sync returns when everything that the guest had handed to its display before the call is in
	// the next Frame. It is quick, and bounded: an error means that the next Frame may be older.
	Sync(ctx context.Context) error
	// Watch calls f with each change of the display until stop is called, one call at a time and not
	// after stop has returned. The display waits meanwhile: f must neither block nor use the screen.
	Watch(f func(Damage)) (stop func())
	// Done is closed when the screen has ended: the machine is off or the connection lost.
	Done() <-chan struct{}
	// Close lets the display go. It may be called more than once.
	Close() error
}
