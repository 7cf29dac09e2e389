package screen

import (
	"bytes"
	"io"
	"net"
	"testing"

	"bureau/desktop"
)

// large is a picture of one shade that is read in several strips.
func large(shade byte) []byte {
	return qemuCall("Scanout", "uuuuay", []int{1280, 800, 5120, int(formatX8R8G8B8)}, bytes.Repeat([]byte{shade}, 1280*800*4))
}

// A display that never rests is seen all the same, each time whole, and costs the reader no more than
// some rows.
func TestEndlessUpdates(t *testing.T) {
	ours, theirs := net.Pipe()
	m, s := newTestScreen()
	l := &listener{mirror: m, conn: ours}
	served := make(chan error, 1)
	go func() { served <- l.serve() }()
	go io.Copy(io.Discard, theirs)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		defer theirs.Close()
		theirs.Write([]byte("OK 0123456789abcdef\r\n"))
		pictures := [][]byte{large(1), large(2), large(3)}
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if _, err := theirs.Write(pictures[i%len(pictures)]); err != nil {
				return
			}
		}
	}()
	var serial uint64
	for range 10 {
		frame, err := s.Frame(t.Context())
		must(t, err)
		shade := frame.Pixels.Pix[0]
		for i := 0; i < len(frame.Pixels.Pix); i += 4 * 1000 {
			if frame.Pixels.Pix[i] != shade {
				t.Fatalf("the frame mixes %d and %d", shade, frame.Pixels.Pix[i])
			}
		}
		if frame.Serial < serial {
			t.Fatalf("frame %d came after %d", frame.Serial, serial)
		}
		serial = frame.Serial
		must(t, s.Wait(t.Context(), serial))
	}
	close(stop)
	<-stopped
	if err := <-served; err != io.EOF && err != io.ErrUnexpectedEOF && err != io.ErrClosedPipe {
		t.Errorf("it ended with %v", err)
	}
	if cap(l.strip) > 2*stripBytes {
		t.Errorf("%d bytes are held of a picture", cap(l.strip))
	}
	if m.lookers != 0 || m.handed != nil {
		t.Errorf("a frame is kept for %d lookers", m.lookers)
	}
}

// A display that changes its size again and again uses the same memory.
func TestResolutionStorm(t *testing.T) {
	m, _ := newTestScreen()
	must(t, m.setSize(1920, 1080))
	first := &m.canvas.Pix[0]
	for i := range 100 {
		must(t, m.setSize(640+i, 480))
		must(t, m.setSize(1920, 1080-i))
	}
	if &m.canvas.Pix[0] != first {
		t.Error("it took more than once")
	}
	if last := m.canvas.Pix[len(m.canvas.Pix)-4:]; !bytes.Equal(last, []byte{0, 0, 0, 255}) {
		t.Errorf("a new size shows what was there before: %v", last)
	}
	if err := m.setSize(desktop.MaxDisplaySide, desktop.MaxDisplaySide); err == nil {
		t.Error("a display without bounds was taken")
	}
}

// Whatever is wrong with a picture, what follows it is a message again, or the session ends.
func TestPicturesThatLie(t *testing.T) {
	argument := int(formatX8R8G8B8)
	good := qemuCall("Scanout", "uuuuay", []int{2, 2, 8, argument}, make([]byte, 16))
	for name, c := range map[string]struct {
		wire []byte
		ends bool
	}{
		"more bytes than pixels":  {qemuCall("Scanout", "uuuuay", []int{2, 2, 8, argument}, make([]byte, 5000)), false},
		"rows far apart":          {qemuCall("Scanout", "uuuuay", []int{2, 2, 800, argument}, make([]byte, 1608)), false},
		"the last row ends early": {qemuCall("Scanout", "uuuuay", []int{2, 2, 800, argument}, make([]byte, 808)), false},
		"an unknown call with it": {qemuCall("Tomorrow", "uuuuay", []int{2, 2, 8, argument}, make([]byte, 5000)), false},
		"another length":          {qemuCall("Scanout", "uuuuay", []int{2, 2, 8, argument, 99, 0}, nil), true},
		"rows too far apart":      {qemuCall("Scanout", "uuuuay", []int{2, 2, maxStride + 4, argument}, make([]byte, 2*maxStride)), true},
	} {
		m, _ := newTestScreen()
		err := serveAll(t, m, bytes.Join([][]byte{c.wire, good, good}, nil))
		if (err != io.EOF) != c.ends {
			t.Errorf("%s: ended with %v", name, err)
		}
	}
	// A body that no display can have is not waited for.
	header := qemuCall("Scanout", "uuuuay", []int{2, 2, 8, argument}, nil)
	header[4], header[5], header[6], header[7] = 0, 0, 0, 0x7f
	if _, err := (&messageReader{r: bytes.NewReader(header)}).next(); err == nil {
		t.Error("a picture of 2 GiB was taken")
	}
}
