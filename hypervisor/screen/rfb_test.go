package screen

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"bureau/desktop"
)

// rfbServer is the other end of a viewer's connection, played by a test.
type rfbServer struct {
	t    *testing.T
	conn net.Conn
}

// rfbHello is what a server with a display of 4x2 says until the session begins.
const rfbHello = rfbVersion + "\x01\x01" + "\x00\x00\x00\x00" +
	"\x00\x04\x00\x02" + "\x20\x18\x00\x01\x00\xff\x00\xff\x00\xff\x10\x08\x00\x00\x00\x00" + "\x00\x00\x00\x04QEMU"

func openWith(t *testing.T, hello string) (*rfbServer, *Screen, error) {
	t.Helper()
	ours, file, err := socketPair()
	must(t, err)
	theirs, err := net.FileConn(file)
	must(t, err)
	file.Close()
	t.Cleanup(func() { theirs.Close() })
	io.WriteString(theirs, hello)
	if hello != rfbHello {
		theirs.(*net.UnixConn).CloseWrite()
	}
	s, err := OpenRFB(t.Context(), ours, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { s.Close() })
	server := &rfbServer{t: t, conn: theirs}
	if got := server.read(len(rfbVersion) + 1 + 1 + 20 + 12); !bytes.HasPrefix(got, []byte(rfbVersion+"\x01\x01")) {
		t.Fatalf("the client says %q", got)
	}
	return server, s, nil
}

func (s *rfbServer) read(n int) []byte {
	s.t.Helper()
	b := make([]byte, n)
	s.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	if _, err := io.ReadFull(s.conn, b); err != nil {
		s.t.Fatal(err)
	}
	return b
}

func (s *rfbServer) wantRequest(incremental byte, width, height int) {
	s.t.Helper()
	want := []byte{3, incremental, 0, 0, 0, 0, byte(width >> 8), byte(width), byte(height >> 8), byte(height)}
	if got := s.read(10); !bytes.Equal(got, want) {
		s.t.Fatalf("the request is %v instead of %v", got, want)
	}
}

// update sends rectangles, each made by rfbRect.
func (s *rfbServer) update(rects ...[]byte) {
	s.conn.Write(append([]byte{0, 0, 0, byte(len(rects))}, bytes.Join(rects, nil)...))
}

func rfbRect(x, y, w, h int, encoding int32, data []byte) []byte {
	var b []byte
	for _, n := range []int{x, y, w, h} {
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	}
	return append(appendInt32(b, encoding), data...)
}

func TestRFBSession(t *testing.T) {
	server, s, err := openWith(t, rfbHello)
	must(t, err)
	frames := make(chan *desktop.Frame)
	look := func() {
		frame, err := s.Frame(t.Context())
		if err != nil {
			t.Error(cause(err))
		}
		frames <- frame
	}
	go look()
	server.wantRequest(0, 4, 2)
	white := bytes.Repeat([]byte{255}, 4*4*2)
	server.conn.Write([]byte("\x02" + "\x03\x00\x00\x00\x00\x00\x00\x02hi")) // a bell, a clipboard
	server.update(rfbRect(0, 0, 4, 1, encodingRaw, white[:16]), rfbRect(0, 1, 4, 1, encodingRaw, white[16:]))
	first := <-frames
	if first.Pixels.Rect.Dx() != 4 || first.Pixels.Pix[0] != 255 || first.Cursor != nil {
		t.Fatalf("the first frame: %+v", first)
	}

	// Who has just looked is told what changes, one request after the other.
	server.wantRequest(1, 4, 2)
	if again, err := s.Frame(t.Context()); err != nil || again != first {
		t.Errorf("nothing changed, but the frame did: %v", err)
	}
	server.update(rfbRect(1, 1, 1, 1, encodingRaw, []byte{30, 20, 10, 0}))
	server.wantRequest(1, 4, 2)
	must(t, s.Wait(t.Context(), first.Serial))
	second, err := s.Frame(t.Context())
	must(t, err)
	if got := second.Pixels.RGBAAt(1, 1); got.R != 10 || got.G != 20 || got.B != 30 {
		t.Errorf("the changed pixel is %v", got)
	}

	// Another size: the whole of it is asked for, and nobody sees it before it is there.
	server.update(rfbRect(0, 0, 2, 3, encodingDesktopSize, nil))
	server.wantRequest(0, 2, 3)
	must(t, s.Wait(t.Context(), second.Serial))
	go look()
	server.update(rfbRect(0, 0, 2, 3, encodingRaw, white[:24]))
	if third := <-frames; third.Pixels.Rect.Dy() != 3 || third.Pixels.Pix[20] != 255 {
		t.Errorf("after the new size: %v", third.Pixels)
	}
}

// A fresh picture is the second that arrives: the first may have been on its way already.
func TestRFBSync(t *testing.T) {
	server, s, err := openWith(t, rfbHello)
	must(t, err)
	s.rounds.patience = time.Minute // a busy machine is no failure
	done := s.syncing(t)
	server.wantRequest(0, 4, 2) // the first look's
	server.wantRequest(0, 1, 1)
	server.update(rfbRect(0, 0, 4, 2, encodingRaw, make([]byte, 4*4*2)))
	server.wantRequest(1, 4, 2)
	server.wantRequest(0, 1, 1)
	select {
	case err := <-done:
		t.Fatalf("it returned with the first answer: %v", err)
	default:
	}
	server.update(rfbRect(0, 0, 1, 1, encodingRaw, []byte{30, 20, 10, 0}))
	must(t, <-done)
	frame, err := s.Frame(t.Context())
	must(t, err)
	if got := frame.Pixels.RGBAAt(0, 0); got.R != 10 || got.G != 20 || got.B != 30 {
		t.Errorf("the frame shows %v", got)
	}
	server.wantRequest(1, 4, 2)

	s.rounds.patience = time.Millisecond
	if err := s.Sync(t.Context()); desktop.CodeOf(err) != desktop.Unavailable || !errors.Is(err, errNotFresh) {
		t.Errorf("a server that says nothing: %v", err)
	}
}

// When nobody looks for a while the requests stop; the next look asks for everything.
func TestRFBRestsWhenNobodyLooks(t *testing.T) {
	ours, theirs := net.Pipe()
	clock := time.Unix(1e9, 0)
	v := &viewer{mirror: newMirror(desktop.SourceRFB), conn: ours, width: 1, height: 1, now: func() time.Time { return clock }}
	requests := make(chan []byte, 10)
	go func() {
		for b := make([]byte, 10); ; b = make([]byte, 10) {
			if _, err := io.ReadFull(theirs, b); err != nil {
				close(requests)
				return
			}
			requests <- b
		}
	}()
	answer := func() {
		t.Helper()
		v.r.Reset(bytes.NewReader(append([]byte{0, 0, 0, 1}, rfbRect(0, 0, 1, 1, encodingRaw, make([]byte, 4))...)))
		must(t, v.serverMessage())
	}
	v.r = newReader()
	release := v.ask()
	if r := <-requests; r[1] != 0 {
		t.Error("the first look asks only for changes")
	}
	clock = clock.Add(time.Hour)
	answer() // still looking
	if r := <-requests; r[1] != 1 {
		t.Error("a look that lasts asks for everything again")
	}
	release()
	clock = clock.Add(interest - 1)
	answer()
	if r := <-requests; r[1] != 1 {
		t.Error("just after a look everything is asked for again")
	}
	clock = clock.Add(1)
	answer()
	if v.pending {
		t.Error("nobody looks, and yet there is a request")
	}
	v.ask()
	if r := <-requests; r[1] != 0 || !v.mirror.partial {
		t.Error("after a rest an old picture is shown")
	}
	ours.Close()
	if _, more := <-requests; more {
		t.Error("there was another request")
	}
}

func TestRFBHandshakeRefusals(t *testing.T) {
	for says, hello := range map[string]string{
		"not RFB 3.8":           "SSH-2.0-Open",
		"003.003":               "RFB 003.003\n",
		"refuses: \"too many\"": rfbVersion + "\x00\x00\x00\x00\x08too many",
		"password":              rfbVersion + "\x01\x02",
		"refuses: \"no\"":       rfbVersion + "\x01\x01\x00\x00\x00\x01\x00\x00\x00\x02no",
		"EOF":                   rfbVersion + "\x01\x01",
		"bounds":                strings.Replace(rfbHello, "\x00\x04\x00\x02", "\xff\xff\xff\xff", 1),
		"of 4294967295 bytes":   strings.Replace(rfbHello, "\x00\x00\x00\x04QEMU", "\xff\xff\xff\xffQEMU", 1),
	} {
		_, _, err := openWith(t, hello)
		if desktop.CodeOf(err) != desktop.Unavailable || !strings.Contains(cause(err).Error(), says) {
			t.Errorf("%q: %v", hello, err)
		}
	}
	ours, _ := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := OpenRFB(ctx, ours, slog.New(slog.DiscardHandler)); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("a server that says nothing: %v", err)
	}
}

func TestHostileRFB(t *testing.T) {
	for says, wire := range map[string]string{
		"unknown RFB message 9": "\x09",
		"which was not asked":   "\x00\x00\x00\x01" + string(rfbRect(0, 0, 1, 1, 7, nil)),
		"outside":               "\x00\x00\x00\x01" + string(rfbRect(3, 0, 2, 1, encodingRaw, make([]byte, 8))),
		"bounds":                "\x00\x00\x00\x01" + string(rfbRect(0, 0, 65535, 65535, encodingDesktopSize, nil)),
		"a clipboard":           "\x03\x00\x00\x00\xff\xff\xff\xff",
		"unexpected EOF":        "\x00\x00\x00\x01" + string(rfbRect(0, 0, 4, 2, encodingRaw, make([]byte, 31))),
	} {
		server, s, err := openWith(t, rfbHello)
		must(t, err)
		io.WriteString(server.conn, wire)
		server.conn.(*net.UnixConn).CloseWrite()
		<-s.Done()
		if _, err := s.Frame(t.Context()); desktop.CodeOf(err) != desktop.Unavailable || !strings.Contains(cause(err).Error(), says) {
			t.Errorf("%q: %v", says, cause(err))
		}
	}
}

func FuzzRFB(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01" + string(rfbRect(0, 0, 4, 2, encodingRaw, make([]byte, 32)))))
	f.Add([]byte("\x00\x00\x00\x01" + string(rfbRect(0, 0, 9, 9, encodingDesktopSize, nil)) + "\x02"))
	f.Add([]byte("\x03\x00\x00\x00\x00\x00\x00\x02hi"))
	f.Fuzz(func(t *testing.T, wire []byte) {
		v := &viewer{mirror: newMirror(desktop.SourceRFB), conn: deaf{}, width: 4, height: 2, now: time.Now, r: newReader()}
		v.r.Reset(bytes.NewReader(wire))
		if v.serve() == nil {
			t.Fatal("it ended without a reason")
		}
		if c := v.mirror.canvas; c != nil && (len(c.Pix) > 4*maxPixels || c.Rect.Dx() > maxSide || c.Rect.Dy() > maxSide) {
			t.Fatalf("a display of %v", c.Rect)
		}
	})
}

func newReader() *bufio.Reader { return bufio.NewReader(strings.NewReader("")) }
