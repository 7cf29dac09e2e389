package screen

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"image"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// How a session over QEMU's D-Bus display comes about:
//
// On the control connection, which the caller dials, we are the client: authenticate, then call
// RegisterListener with one end of a pair of sockets. On the other end we are again the side that
// authenticates, but then QEMU calls us: Scanout with the whole picture at once, Update with each
// rectangle that the guest repaints, CursorDefine and MouseSet. It wants no answer to those.
//
// QEMU 7.2 serves the listener's authentication, and the question for the listener's properties
// after it, in its main loop: while it waits for us the whole guest stands still. So all that we
// have to say lies in the socket before QEMU gets it, and the reader runs before we ask.
//
// QEMU exports its objects on the newest control connection only, before 7.1 a moment after it has
// been authenticated: a call that comes too early is answered with "unknown", and we ask again. Once
// registered, a listener lives on its own; the control connection is kept for Sync, see fence.go.
//
// QEMU tells listeners apart by the sender of the call. There is none without a bus, and the second
// nameless listener would end the first; so each call carries a name that we make up.

const (
	consolePath  = "/org/qemu/Display1/Console_0"
	consoleIface = "org.qemu.Display1.Console"
	listenIface  = "org.qemu.Display1.Listener"
	propsIface   = "org.freedesktop.DBus.Properties"
	peerIface    = "org.freedesktop.DBus.Peer"
	listenPath   = "/org/qemu/Display1/Listener"
	errorUnknown = "org.freedesktop.DBus.Error.Unknown" // how the names of several errors begin

	// openPatience is how long opening a session may take.
	openPatience = 10 * time.Second
	// registerPatience is how long QEMU may take to export its objects.
	registerPatience = 5 * time.Second
	registerPause    = 5 * time.Millisecond
	writePatience    = 5 * time.Second
	resizePatience   = time.Second
)

// OpenDBus mirrors a display through QEMU's peer-to-peer D-Bus display. dial makes a Unix socket
// connection that QEMU serves, such as one end of a socket pair whose other end
// virDomainOpenGraphics was given; it is called again, while the screen is open, if that connection
// is lost. Calls for one machine must not overlap, but any number of its screens may be open.
func OpenDBus(ctx context.Context, dial func(context.Context) (net.Conn, error), log *slog.Logger) (*Screen, error) {
	open := func(ctx context.Context) (*control, error) {
		conn, err := dial(ctx)
		if err != nil {
			return nil, fmt.Errorf("dial the display: %w", err)
		}
		unix, ok := conn.(*net.UnixConn)
		if !ok {
			conn.Close()
			return nil, fmt.Errorf("dial the display: a %T cannot pass descriptors", conn)
		}
		c, err := authenticate(ctx, unix)
		if err != nil {
			unix.Close()
			return nil, unanswered(ctx, fmt.Errorf("authenticate to the display: %w", err))
		}
		return c, nil
	}
	c, err := open(ctx)
	if err != nil {
		return nil, err
	}
	release := limit(ctx, c.conn)
	s, l, err := openListener(ctx, c, log)
	release()
	if err != nil {
		c.conn.Close()
		return nil, unanswered(ctx, err)
	}
	l.fence.open = open
	l.fence.adopt(c)
	return s, nil
}

func unanswered(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return &desktop.Error{Code: desktop.Unavailable, Message: "the display does not answer", Err: err}
}

func authenticate(ctx context.Context, conn *net.UnixConn) (*control, error) {
	defer limit(ctx, conn)()
	if err := sayHello(conn, true); err != nil {
		return nil, err
	}
	in := bufio.NewReader(conn)
	if err := readWelcome(in, true); err != nil {
		return nil, err
	}
	return &control{conn: conn, replies: &messageReader{r: in}}, nil
}

func openListener(ctx context.Context, c *control, log *slog.Logger) (*Screen, *listener, error) {
	patience := time.Now().Add(registerPatience)
	for {
		s, l, err := register(c, log)
		if !errors.Is(err, errUnknown) || time.Now().After(patience) {
			return s, l, err
		}
		select {
		case <-time.After(registerPause):
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		}
	}
}

// register passes QEMU one end of a new pair of sockets and mirrors what comes out of the other.
func register(c *control, log *slog.Logger) (*Screen, *listener, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, fmt.Errorf("make a pair of sockets: %w", err)
	}
	if err := sayHello(ours, false); err != nil {
		ours.Close()
		theirs.Close()
		return nil, nil, fmt.Errorf("prepare the listener: %w", err)
	}
	s := newScreen(desktop.SourceDBus, ours, log)
	l := &listener{mirror: s.mirror, conn: ours}
	l.fence = newFence(l.ping)
	s.rounds, s.detach = &l.fence.rounds, l.fence.end
	s.run(l.serve)

	err = callRegister(c, theirs)
	theirs.Close() // QEMU has its own copy, and without ours the end of QEMU is an end of file
	if err != nil {
		s.Close()
		return nil, nil, fmt.Errorf("register as a listener of the display: %w", err)
	}
	return s, l, nil
}

// errUnknown is QEMU's answer while its objects are not there.
var errUnknown = errors.New("unknown object")

func callRegister(c *control, theirs *os.File) error {
	c.serial++
	var body encoder
	body.uint32(0) // the first of the descriptors
	call := message{
		kind: methodCall, serial: c.serial, path: consolePath, iface: consoleIface,
		member: "RegisterListener", signature: "h", fds: 1, body: body.buf,
		sender: fmt.Sprintf(":bureau.%x", rand.Uint64()),
	}
	if _, _, err := c.conn.WriteMsgUnix(call.encode(), unix.UnixRights(int(theirs.Fd())), nil); err != nil {
		return err
	}
	for {
		reply, err := c.replies.next()
		switch {
		case err != nil:
			return err
		case reply.replyTo != c.serial:
			continue // signals about objects coming and going
		case reply.kind == methodReturn:
			return nil
		case reply.kind == errorReply && strings.HasPrefix(reply.errorName, errorUnknown):
			return fmt.Errorf("%w: %s", errUnknown, reply.errorName)
		case reply.kind == errorReply:
			d := decoder{buf: reply.body}
			return fmt.Errorf("%s: %q", reply.errorName, d.string())
		}
	}
}

func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	file := os.NewFile(uintptr(fds[0]), "display")
	theirs = os.NewFile(uintptr(fds[1]), "display")
	conn, err := net.FileConn(file) // which is a copy
	file.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn.(*net.UnixConn), theirs, nil
}

// sayHello writes the client's whole part of the authentication, which depends on no answer. The
// first byte carries our credentials: the kernel attaches them by itself only once the server has
// asked for them, which may be later than this.
func sayHello(conn *net.UnixConn, passFDs bool) error {
	uid := strconv.Itoa(os.Getuid())
	hello := "\x00AUTH EXTERNAL " + hex.EncodeToString([]byte(uid)) + "\r\n"
	if passFDs {
		hello += "NEGOTIATE_UNIX_FD\r\n"
	}
	hello += "BEGIN\r\n"
	who := syscall.UnixCredentials(&syscall.Ucred{
		Pid: int32(os.Getpid()), Uid: uint32(os.Getuid()), Gid: uint32(os.Getgid()),
	})
	_, _, err := conn.WriteMsgUnix([]byte(hello), who, nil)
	return err
}

// readWelcome reads the server's answers to sayHello.
func readWelcome(r *bufio.Reader, passFDs bool) error {
	expected := []string{"OK "}
	if passFDs {
		expected = append(expected, "AGREE_UNIX_FD\r\n")
	}
	for _, prefix := range expected {
		line, err := r.ReadSlice('\n') // bounded by r's buffer
		if err != nil {
			return err
		}
		if !strings.HasPrefix(string(line), prefix) {
			return fmt.Errorf("the answer is %q", line)
		}
	}
	return nil
}

// listener is what QEMU calls.
type listener struct {
	mirror *mirror
	conn   net.Conn
	fence  *fence

	mu     sync.Mutex // of what follows, and of writing
	serial uint32     // of our last message
	pinged uint32     // the serial of the ping that is not answered yet
	pong   func()     // is called when it is

	// resizing is set between an update outside the display and the display's new size.
	resizing bool
	strip    []byte // some rows of a picture
}

// serve answers QEMU until the connection ends, and returns why it did.
func (l *listener) serve() error {
	in := bufio.NewReaderSize(l.conn, 64<<10)
	if err := readWelcome(in, false); err != nil {
		return fmt.Errorf("authenticate to the display as a listener: %w", err)
	}
	calls := &messageReader{r: in}
	for {
		call, err := calls.next()
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("the display changed its size and did not say to what: %w", err)
		}
		if err != nil {
			return err
		}
		if call.kind == methodReturn || call.kind == errorReply {
			l.answered(call.replyTo)
		}
		if call.kind != methodCall {
			continue
		}
		reply, err := l.answer(call)
		if err != nil {
			return fmt.Errorf("the display's %s: %w", call.member, err)
		}
		if call.flags&noReply != 0 {
			continue
		}
		reply.flags, reply.replyTo = noReply, call.serial
		l.mu.Lock()
		err = l.say(reply)
		l.mu.Unlock()
		if err != nil {
			return err
		}
	}
}

// say writes a message. l.mu is held.
func (l *listener) say(m message) error {
	l.serial++
	m.serial = l.serial
	l.conn.SetWriteDeadline(time.Now().Add(writePatience))
	_, err := l.conn.Write(m.encode())
	return err
}

// ping asks for an answer that comes after everything that QEMU has to say already.
func (l *listener) ping(answered func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.say(message{kind: methodCall, path: listenPath, iface: peerIface, member: "Ping"}) != nil {
		l.conn.Close() // which ends serve
		return
	}
	l.pinged, l.pong = l.serial, answered
}

// answered takes an answer of QEMU. What it says does not matter, only when.
func (l *listener) answered(serial uint32) {
	l.mu.Lock()
	pong := l.pong
	if serial == l.pinged {
		l.pong = nil
	} else {
		pong = nil
	}
	l.mu.Unlock()
	if pong != nil {
		pong()
	}
}

// answer does what a call says. An error ends the session; what we do not know is answered so.
func (l *listener) answer(call message) (message, error) {
	done := message{kind: methodReturn}
	switch call.iface {
	case listenIface:
		known, err := l.listen(call)
		if known || err != nil {
			return done, err
		}
	case propsIface:
		// One property: the further interfaces that we offer, such as shared memory. There is
		// none, and QEMU stays on the plain calls.
		var body encoder
		switch call.member {
		case "GetAll":
			body.uint32(0) // the dictionary's length, filled in below
			body.pad(8)
			start := len(body.buf)
			body.string("Interfaces")
			body.signature("as")
			body.uint32(0)
			body.buf[0] = byte(len(body.buf) - start)
			done.signature, done.body = "a{sv}", body.buf
			return done, nil
		case "Get":
			body.signature("as")
			body.uint32(0)
			done.signature, done.body = "v", body.buf
			return done, nil
		}
	case peerIface:
		if call.member == "Ping" {
			return done, nil
		}
	}
	return message{kind: errorReply, errorName: "org.freedesktop.DBus.Error.UnknownMethod"}, nil
}

// listenerCalls are the calls of the listener's interface that we serve, with their arguments.
var listenerCalls = map[string]string{
	"Scanout": "uuuuay", "Update": "iiiiuuay", "CursorDefine": "iiiiay", "MouseSet": "iii", "Disable": "",
}

// listen does the calls of the listener's interface; false is one that it does not know.
func (l *listener) listen(call message) (known bool, err error) {
	switch signature, known := listenerCalls[call.member]; {
	case strings.HasSuffix(call.member, "DMABUF"):
		return false, errors.New("it is drawn by the host's graphics processor, which this mirror cannot read")
	case !known:
		return false, nil
	case signature != call.signature:
		return false, fmt.Errorf("%w: signature %q instead of %q", errMalformed, call.signature, signature)
	}
	d := decoder{buf: call.body}
	var apply func() error
	switch call.member {
	case "Scanout":
		p := pixels{width: d.int32(), height: d.int32(), stride: d.int32(), format: pixelFormat(d.uint32())}
		length := d.uint32()
		apply = func() error { return l.scanout(p, length, call.picture) }
	case "Update":
		x, y := d.int32(), d.int32()
		p := pixels{width: d.int32(), height: d.int32(), stride: d.int32(), format: pixelFormat(d.uint32())}
		length := d.uint32()
		apply = func() error { return l.update(image.Pt(x, y), p, length, call.picture) }
	case "CursorDefine":
		width, height, hotX, hotY, data := d.int32(), d.int32(), d.int32(), d.int32(), d.bytes()
		apply = func() error { return l.mirror.defineCursor(width, height, hotX, hotY, data) }
	case "MouseSet":
		x, y, on := d.int32(), d.int32(), d.int32()
		apply = func() error { l.mirror.moveCursor(x, y, on != 0); return nil }
	case "Disable":
		apply = func() error { l.mirror.blank(); return nil }
	}
	if d.failed {
		return false, fmt.Errorf("%w: cut short", errMalformed)
	}
	return true, apply()
}

// When the display changes its size, QEMU says nothing at first: what is repainted of the new one
// arrives as updates, some of them outside the old, and the whole of it with its size soon after.
// So an update outside the display is not drawn, nobody is shown the mixture, and if the whole does
// not come, the session ends: a new one begins with it.

func (l *listener) update(at image.Point, p pixels, length uint32, from *io.LimitedReader) error {
	if err := p.expect(length, from); err != nil {
		return err
	}
	err := l.mirror.holds(image.Rect(0, 0, p.width, p.height).Add(at))
	switch {
	case errors.Is(err, errOutside):
		if !l.resizing {
			l.resizing = true
			l.mirror.begin()
			l.conn.SetReadDeadline(time.Now().Add(resizePatience)) // where it fails, so does reading
		}
		return nil
	case err != nil:
		return err
	case l.resizing || p.rows() >= p.height:
		return l.draw(at, p, from)
	}
	l.mirror.beginNext()
	if err := l.draw(at, p, from); err != nil {
		return err // which ends the session
	}
	l.mirror.finish()
	return nil
}

func (l *listener) scanout(p pixels, length uint32, from *io.LimitedReader) error {
	if err := p.expect(length, from); err != nil {
		return err
	}
	l.mirror.beginNext()
	if err := l.mirror.setSize(p.width, p.height); err != nil {
		return err
	}
	if err := l.draw(image.Point{}, p, from); err != nil {
		return err
	}
	l.mirror.finish()
	if l.resizing {
		l.resizing = false
		l.conn.SetReadDeadline(time.Time{})
	}
	return nil
}

// expect checks a picture whose bytes are to come: as many as are announced.
func (p pixels) expect(length uint32, from *io.LimitedReader) error {
	if from == nil || int64(length) != from.N {
		return fmt.Errorf("%w: cut short", errMalformed)
	}
	return p.checkLength(int(length))
}

// rows is how many of its rows are read at a time.
func (p pixels) rows() int { return max(1, stripBytes/p.stride) }

// draw draws a picture that has been checked as its bytes arrive, some rows at a time.
func (l *listener) draw(at image.Point, p pixels, from io.Reader) error {
	for top := 0; top < p.height; {
		strip := p
		strip.height = min(p.rows(), p.height-top)
		size := strip.stride * strip.height
		if top+strip.height == p.height {
			size = strip.need() // the last row may end with its last pixel
		}
		var err error
		if l.strip, err = appendRead(l.strip[:0], from, size); err != nil {
			return err
		}
		strip.data = l.strip
		if err := l.mirror.update(at.X, at.Y+top, strip); err != nil {
			return err
		}
		top += strip.height
	}
	return nil
}

// limit makes conn's reads and writes fail when ctx ends or the other side takes too long to open a
// session, until the returned function is called.
func limit(ctx context.Context, conn net.Conn) (release func()) {
	conn.SetDeadline(time.Now().Add(openPatience))
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	return func() {
		if stop() {
			conn.SetDeadline(time.Time{})
		}
	}
}
