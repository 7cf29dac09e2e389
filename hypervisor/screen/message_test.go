package screen

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"bureau/desktop"
)

func TestMessagesSurviveTheWire(t *testing.T) {
	var body encoder
	body.uint32(7)
	body.string("seven")
	sent := []message{
		{kind: methodCall, serial: 1, path: "/a/b", iface: "c.d", member: "E", sender: ":f.1", signature: "us", fds: 2, body: body.buf},
		{kind: methodReturn, flags: noReply, serial: 9, replyTo: 1, body: []byte{}},
		{kind: errorReply, serial: 10, replyTo: 1, errorName: "a.Error", signature: "ay", body: make([]byte, 1<<20)},
	}
	var wire bytes.Buffer
	for _, m := range sent {
		wire.Write(m.encode())
	}
	in := &messageReader{r: &wire}
	for _, want := range sent {
		got, err := in.next()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%+v came out as %+v", want, got)
		}
	}
	if _, err := in.next(); err != io.EOF {
		t.Errorf("after the last message: %v", err)
	}
}

func TestBadMessages(t *testing.T) {
	good := message{kind: methodCall, serial: 1, path: "/a", member: "B", signature: "u", body: []byte{1, 0, 0, 0}}.encode()
	with := func(at int, b ...byte) []byte {
		bad := bytes.Clone(good)
		copy(bad[at:], b)
		return bad
	}
	for name, wire := range map[string][]byte{
		"big-endian":            with(0, 'B'),
		"another version":       with(3, 2),
		"a huge body":           with(4, 0xff, 0xff, 0xff, 0x7f),
		"a huge header":         with(12, 0xff, 0xff, 0xff, 0x7f),
		"a string too long":     with(20, 200),
		"a field of a variant":  with(18, 'v'),
		"a signature cut short": with(17, 200),
		"nothing after a while": good[:len(good)-2],
		"half a header":         good[:10],
	} {
		if _, err := (&messageReader{r: bytes.NewReader(wire)}).next(); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// qemuCall is a call as QEMU makes it.
func qemuCall(member, signature string, numbers []int, data []byte) []byte {
	var body encoder
	for _, n := range numbers {
		body.uint32(uint32(n))
	}
	if data != nil {
		body.uint32(uint32(len(data)))
		body.buf = append(body.buf, data...)
	}
	return message{
		kind: methodCall, flags: noReply, serial: 1, path: "/org/qemu/Display1/Listener",
		iface: listenIface, member: member, signature: signature, body: body.buf,
	}.encode()
}

// serveAll feeds a listener what QEMU would say and returns why it stopped.
func serveAll(t testing.TB, m *mirror, wire []byte) error {
	ours, theirs := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- (&listener{mirror: m, conn: ours}).serve()
		ours.Close()
	}()
	go io.Copy(io.Discard, theirs)
	theirs.Write([]byte("OK 0123456789abcdef\r\n"))
	theirs.Write(wire)
	theirs.Close()
	return <-done
}

func TestHostileCalls(t *testing.T) {
	picture := qemuCall("Scanout", "uuuuay", []int{2, 2, 8, int(formatX8R8G8B8)}, make([]byte, 16))
	for _, c := range []struct {
		name, says string
		wire       []byte
	}{
		{"other arguments", "signature", qemuCall("Scanout", "iiiiay", []int{2, 2, 8, 0}, make([]byte, 16))},
		{"arguments cut short", "cut short", qemuCall("Scanout", "uuuuay", []int{2, 2}, nil)},
		{"data cut short", "cut short", qemuCall("CursorDefine", "iiiiay", []int{2, 2, 0, 0, 16, 1}, nil)},
		{"a huge display", "bounds", qemuCall("Scanout", "uuuuay", []int{16384, 16384, 65536, int(formatX8R8G8B8)}, make([]byte, 16))},
		{"a size beyond 31 bits", "bounds", qemuCall("Scanout", "uuuuay", []int{0x80000002, 2, 8, int(formatX8R8G8B8)}, make([]byte, 16))},
		{"an unknown format", "0x00000001", qemuCall("Scanout", "uuuuay", []int{2, 2, 8, 1}, make([]byte, 16))},
		{"too little data", "not a picture", qemuCall("Scanout", "uuuuay", []int{2, 2, 8, int(formatX8R8G8B8)}, make([]byte, 15))},
		{"an update first", "before any picture", qemuCall("Update", "iiiiuuay", []int{0, 0, 1, 1, 4, int(formatX8R8G8B8)}, make([]byte, 4))},
		{"a huge cursor", "bounds", qemuCall("CursorDefine", "iiiiay", []int{1024, 1, 0, 0}, make([]byte, 4096))},
		{"graphics memory", "graphics processor", qemuCall("ScanoutDMABUF", "huuuutb", []int{0, 1, 1, 4, 0, 0, 0, 0}, nil)},
	} {
		m := newMirror(desktop.SourceDBus)
		if err := serveAll(t, m, c.wire); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: ended with %v", c.name, err)
		}
	}
	m, s := newTestScreen()
	if err := serveAll(t, m, picture); err != io.EOF {
		t.Fatalf("a good picture: ended with %v", err)
	}
	if frame, err := s.Frame(t.Context()); err != nil || frame.Pixels.Rect.Dx() != 2 {
		t.Errorf("a good picture: %v", err)
	}
}

func TestResizeHidesTheMixture(t *testing.T) {
	m, s := newTestScreen()
	white := bytes.Repeat([]byte{255}, 16)
	small := qemuCall("Scanout", "uuuuay", []int{2, 2, 8, int(formatX8R8G8B8)}, make([]byte, 16))
	outside := qemuCall("Update", "iiiiuuay", []int{0, 0, 4, 1, 16, int(formatX8R8G8B8)}, white)
	if err := serveAll(t, m, bytes.Join([][]byte{small, outside, outside}, nil)); err != io.EOF {
		t.Fatal(err)
	}
	if !m.partial {
		t.Error("a display between two sizes is shown")
	}
	large := qemuCall("Scanout", "uuuuay", []int{4, 1, 16, int(formatX8R8G8B8)}, white)
	if err := serveAll(t, m, bytes.Join([][]byte{small, outside, large, outside}, nil)); err != io.EOF {
		t.Fatal(err)
	}
	if frame, err := s.Frame(t.Context()); err != nil || frame.Pixels.Rect.Dx() != 4 || frame.Pixels.Pix[0] != 255 {
		t.Errorf("after the new size: %v", err)
	}
}

func TestWhatNewerQEMUAsks(t *testing.T) {
	for _, c := range []struct {
		iface, member string
		kind          messageType
		signature     string
		says          string
	}{
		{propsIface, "GetAll", methodReturn, "a{sv}", "Interfaces"},
		{propsIface, "Get", methodReturn, "v", "as"},
		{peerIface, "Ping", methodReturn, "", ""},
		{listenIface, "Tomorrow", errorReply, "", ""},
		{"org.qemu.Display1.Listener.Unix.Map", "ScanoutMap", errorReply, "", ""},
	} {
		reply, err := (&listener{mirror: newMirror(desktop.SourceDBus)}).answer(message{kind: methodCall, iface: c.iface, member: c.member})
		if err != nil {
			t.Fatal(err)
		}
		if reply.kind != c.kind || reply.signature != c.signature || !strings.Contains(string(reply.body), c.says) {
			t.Errorf("%s answers %+v", c.member, reply)
		}
	}
}

func TestRefusedAuthentication(t *testing.T) {
	ours, theirs := net.Pipe()
	s := newScreen(desktop.SourceDBus, ours, slog.New(slog.DiscardHandler))
	s.run((&listener{mirror: s.mirror, conn: ours}).serve)
	theirs.Write([]byte("REJECTED DBUS_COOKIE_SHA1\r\n"))
	<-s.Done()
	_, err := s.Frame(t.Context())
	if e := new(desktop.Error); !errors.As(err, &e) || e.Code != desktop.Unavailable || !strings.Contains(e.Err.Error(), "REJECTED") {
		t.Errorf("refused: %v", err)
	}
	s.Close()
	s.Close()
}

func TestOpeningEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var silent *os.File
	dial := func(context.Context) (net.Conn, error) {
		ours, theirs, err := socketPair()
		silent = theirs
		time.AfterFunc(10*time.Millisecond, cancel) // most likely while the answer is waited for
		return ours, err
	}
	_, err := OpenDBus(ctx, dial, slog.New(slog.DiscardHandler))
	silent.Close()
	if desktop.CodeOf(err) != desktop.Unavailable || !errors.Is(err, context.Canceled) {
		t.Errorf("a display that says nothing: %v", cause(err))
	}
	refused := errors.New("refused")
	dial = func(context.Context) (net.Conn, error) { return nil, refused }
	if _, err := OpenDBus(t.Context(), dial, slog.New(slog.DiscardHandler)); !errors.Is(err, refused) {
		t.Errorf("a display that cannot be dialled: %v", err)
	}
}

// FuzzListener feeds the listener arbitrary messages: it may refuse them, and must neither panic nor
// show a picture out of bounds.
func FuzzListener(f *testing.F) {
	picture := qemuCall("Scanout", "uuuuay", []int{3, 2, 12, int(formatX8R8G8B8)}, make([]byte, 24))
	f.Add(picture)
	f.Add(append(bytes.Clone(picture), qemuCall("Update", "iiiiuuay", []int{1, 1, 2, 1, 8, int(formatA8B8G8R8)}, make([]byte, 8))...))
	f.Add(append(bytes.Clone(picture), qemuCall("Update", "iiiiuuay", []int{1, 1, 9, 1, 36, int(formatX8R8G8B8)}, make([]byte, 36))...))
	f.Add(qemuCall("CursorDefine", "iiiiay", []int{2, 2, 1, 1}, make([]byte, 16)))
	f.Add(qemuCall("MouseSet", "iii", []int{-5, 7, 1}, nil))
	f.Add(append(bytes.Clone(picture), qemuCall("Disable", "", nil, nil)...))
	f.Add(message{kind: methodCall, serial: 3, iface: propsIface, member: "GetAll", signature: "s", body: []byte{0, 0, 0, 0, 0}}.encode())
	f.Fuzz(func(t *testing.T, wire []byte) {
		m := newMirror(desktop.SourceDBus)
		l := &listener{mirror: m, conn: deaf{}}
		in := &messageReader{r: bytes.NewReader(wire)}
		for {
			call, err := in.next()
			if err != nil {
				break
			}
			if reply, err := l.answer(call); err != nil {
				break
			} else if again, err := (&messageReader{r: bytes.NewReader(reply.encode())}).next(); err != nil || again.kind != reply.kind {
				t.Fatalf("our own answer is malformed: %v", err)
			}
		}
		if m.canvas != nil && (m.canvas.Rect.Dx() > maxSide || m.canvas.Rect.Dy() > maxSide || len(m.canvas.Pix) > 4*maxPixels) {
			t.Fatalf("a display of %v", m.canvas.Rect)
		}
		if m.cursor != nil && (m.cursor.Rect.Dx() > maxCursor || m.cursor.Rect.Dy() > maxCursor) {
			t.Fatalf("a cursor of %v", m.cursor.Rect)
		}
	})
}

// deaf is a connection that takes everything and says nothing.
type deaf struct{ net.Conn }

func (deaf) SetReadDeadline(time.Time) error  { return nil }
func (deaf) SetWriteDeadline(time.Time) error { return nil }
func (deaf) Write(p []byte) (int, error)      { return len(p), nil }
func (deaf) Close() error                     { return nil }
