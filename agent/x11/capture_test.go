package x11

import (
	"bytes"
	"context"
	"image"
	"image/color"
	"testing"

	"github.com/jezek/xgb/xproto"

	"bureau/desktop"
)

func TestCapture(t *testing.T) {
	display := startServer(t)
	d, c := openDisplay(t, display), newClient(t, display)
	gc, err := xproto.NewGcontextId(c.x)
	if err != nil {
		t.Fatal(err)
	}
	if err := xproto.CreateGCChecked(c.x, gc, xproto.Drawable(c.window), 0, nil).Check(); err != nil {
		t.Fatal(err)
	}
	fill := func(rgb uint32, x, y int16) {
		t.Helper()
		xproto.ChangeGC(c.x, gc, xproto.GcForeground, []uint32{rgb})
		err := xproto.PolyFillRectangleChecked(c.x, xproto.Drawable(c.window), gc, []xproto.Rectangle{{X: x, Y: y, Width: 10, Height: 10}}).Check()
		if err != nil {
			t.Fatal(err)
		}
	}
	fill(0x123456, 0, 0)
	fill(0xff8001, 1270, 790)
	act(t, d, desktop.Action{Move: &desktop.Move{X: 300, Y: 400}})
	look := func() *desktop.Frame {
		t.Helper()
		frame, err := d.Capture(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return frame
	}
	for _, shared := range []bool{true, false} {
		if d.picture.noShare = !shared; !shared {
			d.picture.release()
		}
		frame := look()
		if (d.picture.shared != nil) != shared {
			t.Errorf("shared memory: %v, want %v", d.picture.shared != nil, shared)
		}
		if frame.Pixels.Rect != image.Rect(0, 0, 1280, 800) || frame.Source != desktop.SourceAgent {
			t.Fatalf("picture %v of %v", frame.Pixels.Rect, frame.Source)
		}
		for at, want := range map[image.Point]color.RGBA{
			{X: 0, Y: 0}: {0x12, 0x34, 0x56, 0xff}, {X: 9, Y: 9}: {0x12, 0x34, 0x56, 0xff},
			{X: 1270, Y: 790}: {0xff, 0x80, 0x01, 0xff}, {X: 1279, Y: 799}: {0xff, 0x80, 0x01, 0xff},
		} {
			if got := frame.Pixels.RGBAAt(at.X, at.Y); got != want {
				t.Errorf("pixel %v is %v, want %v", at, got, want)
			}
		}
		for i := 3; i < len(frame.Pixels.Pix); i += 4 {
			if frame.Pixels.Pix[i] != 0xff {
				t.Fatalf("pixel %d is not opaque", i/4)
			}
		}
		if frame.Cursor == nil || frame.Cursor.Position != image.Pt(300, 400) {
			t.Errorf("cursor %+v", frame.Cursor)
		} else {
			for i := 0; i < len(frame.Cursor.Image.Pix); i += 4 {
				p := frame.Cursor.Image.Pix[i : i+4]
				if p[0] > p[3] || p[1] > p[3] || p[2] > p[3] {
					t.Fatalf("the cursor's pixel %v is not premultiplied", p)
				}
			}
		}
		if again := look(); again.Serial != frame.Serial {
			t.Errorf("serial %d became %d with nothing changed", frame.Serial, again.Serial)
		}
		act(t, d, desktop.Action{Move: &desktop.Move{X: 301, Y: 400}})
		moved := look()
		if moved.Serial <= frame.Serial {
			t.Error("the serial does not grow when the pointer moves")
		}
		act(t, d, desktop.Action{Move: &desktop.Move{X: 300, Y: 400}})
		if shared {
			fill(0x123457, 100, 100)
		} else {
			fill(0x123458, 100, 100)
		}
		if painted := look(); painted.Serial <= moved.Serial {
			t.Error("the serial does not grow when something is drawn")
		}
	}
}

func TestCursor(t *testing.T) {
	display := startServer(t)
	d := openDisplay(t, display)
	act(t, d, desktop.Action{Move: &desktop.Move{X: 77, Y: 88}})
	frame, err := d.Capture(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cursor, err := d.Cursor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cursor == nil || cursor.Position != image.Pt(77, 88) || !cursor.Hot.In(cursor.Image.Rect) ||
		!bytes.Equal(cursor.Image.Pix, frame.Cursor.Image.Pix) {
		t.Errorf("cursor %+v", cursor)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	d.Close()
	if _, err := d.Cursor(ctx); err == nil {
		t.Error("a cursor without a server")
	}
}

func TestShown(t *testing.T) {
	d := openDisplay(t, startServer(t))
	if err := d.Shown(t.Context()); err != nil {
		t.Error(err)
	}
	d.Close()
	if err := d.Shown(t.Context()); err == nil {
		t.Error("it is shown without a server")
	}
}

func TestPixelOrders(t *testing.T) {
	from := []byte{1, 2, 3, 0, 4, 5, 6, 7}
	for order, want := range map[pixelOrder]string{
		{2, 1, 0}: "\x03\x02\x01\xff\x06\x05\x04\xff",
		{0, 1, 2}: "\x01\x02\x03\xff\x04\x05\x06\xff",
	} {
		to := make([]byte, 8)
		order.convert(to, from)
		if string(to) != want {
			t.Errorf("%v: %v", order, to)
		}
	}
}
