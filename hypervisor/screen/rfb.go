package screen

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	"bureau/desktop"
)

// A client for RFB 3.8 (RFC 6143) as small as QEMU's VNC server on a Unix socket allows: no
// authentication, raw pixels in QEMU's own format, changes of size. There is no cursor: QEMU tells
// its shape but never its place.
//
// RFB sends nothing unasked. While somebody looks, or has lately, there is always one request open
// for what changes next. When nobody has for a while, none is made; the first look after that asks
// for the whole picture, since only that is answered at once also when nothing has changed, and
// waits for it.
//
// An answer does not say to which request it is. So that a picture is fresh, one pixel of it is asked
// for at once, whether it changed or not: the server sends it with everything else that did, at its
// next refresh. As the first answer after that may have been on its way already, there is a second
// one. (Two old answers can be on their way only while the display keeps changing, and then the
// picture is one refresh older.)

const (
	rfbVersion = "RFB 003.008\n"

	// interest is how long a look keeps the requests going.
	interest = 5 * time.Second

	securityNone = 1

	encodingRaw         = 0
	encodingDesktopSize = -223

	maxRFBText = 64 << 10 // bytes of a name or a reason
	maxRFBSkip = 16 << 20 // bytes of a clipboard that is skipped

	stripBytes = 1 << 20 // how much of a rectangle is read at a time
)

// OpenRFB mirrors a display through RFB, on a connection to a server that wants no password. It
// owns the connection from then on.
func OpenRFB(ctx context.Context, conn net.Conn, log *slog.Logger) (*Screen, error) {
	s := newScreen(desktop.SourceRFB, conn, log)
	v := &viewer{mirror: s.mirror, conn: conn, r: bufio.NewReaderSize(conn, 64<<10), now: time.Now}
	release := limit(ctx, conn)
	err := v.handshake()
	release()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, &desktop.Error{Code: desktop.Unavailable, Message: "the display does not answer", Err: fmt.Errorf("open the display by RFB: %w", err)}
	}
	v.rounds.start, v.rounds.patience = v.begin, syncPatience
	s.ask, s.rounds = v.ask, &v.rounds
	s.run(v.serve)
	return s, nil
}

// viewer is the client's end of the connection.
type viewer struct {
	mirror *mirror
	conn   net.Conn
	r      *bufio.Reader
	strip  []byte
	now    func() time.Time
	rounds rounds

	mu      sync.Mutex // of what follows, and of writing
	width   int
	height  int
	pending bool      // a request is open
	lookers int       // how many look right now
	looked  time.Time // when the last one stopped
	failed  error     // of a write
	round   *round    // under way, nil when none is
	awaited int       // the updates that end it
}

func (v *viewer) handshake() error {
	version := make([]byte, len(rfbVersion))
	if _, err := io.ReadFull(v.r, version); err != nil {
		return err
	}
	if !strings.HasPrefix(string(version), "RFB 003.") || string(version) < rfbVersion {
		return fmt.Errorf("the server speaks %q, not RFB 3.8", version)
	}
	if _, err := io.WriteString(v.conn, rfbVersion); err != nil {
		return err
	}
	kinds := make([]byte, 1)
	if _, err := io.ReadFull(v.r, kinds); err != nil {
		return err
	}
	if kinds[0] == 0 {
		return v.refusal()
	}
	kinds = make([]byte, kinds[0])
	if _, err := io.ReadFull(v.r, kinds); err != nil {
		return err
	}
	if !strings.Contains(string(kinds), string(rune(securityNone))) {
		return errors.New("the server wants a password")
	}
	if _, err := v.conn.Write([]byte{securityNone}); err != nil {
		return err
	}
	if result, err := v.uint32(); err != nil {
		return err
	} else if result != 0 {
		return v.refusal()
	}
	const shared = 1
	if _, err := v.conn.Write([]byte{shared}); err != nil {
		return err
	}
	var init [20]byte // width, height, pixel format
	if _, err := io.ReadFull(v.r, init[:]); err != nil {
		return err
	}
	if _, err := v.text(); err != nil { // its name
		return err
	}
	v.width, v.height = int(binary.BigEndian.Uint16(init[0:])), int(binary.BigEndian.Uint16(init[2:]))
	if err := checkSize(v.width, v.height); err != nil {
		return err
	}
	setup := []byte{
		0, 0, 0, 0, // SetPixelFormat
		32, 24, 0, 1, // bits per pixel, depth, little-endian, true colour
		0, 255, 0, 255, 0, 255, // the most of each channel
		16, 8, 0, // where each channel lies
		0, 0, 0,
		2, 0, 0, 2, // SetEncodings
	}
	setup = appendInt32(setup, encodingRaw)
	setup = appendInt32(setup, encodingDesktopSize)
	_, err := v.conn.Write(setup)
	return err
}

// ask makes sure that the picture is on its way. It is Screen.ask.
func (v *viewer) ask() (release func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.lookers++
	if !v.pending {
		v.mirror.begin() // what is there may be old
		v.request(false)
	}
	return func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		v.lookers--
		v.looked = v.now()
	}
}

// request asks for what changed, or for everything. The caller holds the lock.
func (v *viewer) request(incremental bool) {
	v.pending = true
	v.requestPart(incremental, v.width, v.height)
}

func (v *viewer) requestPart(incremental bool, width, height int) {
	message := []byte{3, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if incremental {
		message[1] = 1
	}
	binary.BigEndian.PutUint16(message[6:], uint16(width))
	binary.BigEndian.PutUint16(message[8:], uint16(height))
	v.conn.SetWriteDeadline(time.Now().Add(writePatience))
	if _, err := v.conn.Write(message); err != nil && v.failed == nil {
		v.failed = fmt.Errorf("ask for the picture: %w", err)
		v.conn.Close() // which ends serve
	}
}

// begin starts a round trip: it is over with the second update from now.
func (v *viewer) begin(r *round) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.round, v.awaited = r, 2
	v.requestPart(false, 1, 1)
}

// updated is called after each update. It returns the round that ended with it. The caller holds
// the lock.
func (v *viewer) updated() (ended *round) {
	if v.round == nil {
		return nil
	}
	if v.awaited--; v.awaited > 0 {
		v.requestPart(false, 1, 1)
		return nil
	}
	ended, v.round = v.round, nil
	return ended
}

// serve reads what the server says until the connection ends, and returns why it did.
func (v *viewer) serve() error {
	for {
		if err := v.serverMessage(); err != nil {
			v.mu.Lock()
			defer v.mu.Unlock()
			if v.failed != nil {
				return v.failed
			}
			return err
		}
	}
}

func (v *viewer) serverMessage() error {
	kind, err := v.r.ReadByte()
	if err != nil {
		return err
	}
	switch kind {
	case 0:
		if err := v.update(); err != nil {
			return fmt.Errorf("the display's update: %w", err)
		}
		return nil
	case 2: // a bell
		return nil
	case 3: // the guest's clipboard
		if _, err := v.r.Discard(3); err != nil {
			return err
		}
		n, err := v.uint32()
		if err != nil {
			return err
		}
		if n > maxRFBSkip {
			return fmt.Errorf("a clipboard of %d bytes is out of bounds", n)
		}
		_, err = v.r.Discard(int(n))
		return err
	}
	return fmt.Errorf("unknown RFB message %d", kind)
}

// update reads one FramebufferUpdate and asks for the next.
func (v *viewer) update() error {
	var header [3]byte // padding, number of rectangles
	if _, err := io.ReadFull(v.r, header[:]); err != nil {
		return err
	}
	v.mirror.begin()
	resized := false
	for range binary.BigEndian.Uint16(header[1:]) {
		var rect [12]byte
		if _, err := io.ReadFull(v.r, rect[:]); err != nil {
			return err
		}
		x, y := int(binary.BigEndian.Uint16(rect[0:])), int(binary.BigEndian.Uint16(rect[2:]))
		w, h := int(binary.BigEndian.Uint16(rect[4:])), int(binary.BigEndian.Uint16(rect[6:]))
		switch encoding := int32(binary.BigEndian.Uint32(rect[8:])); encoding {
		case encodingRaw:
			if err := v.raw(x, y, w, h); err != nil {
				return err
			}
		case encodingDesktopSize:
			if err := v.mirror.setSize(w, h); err != nil {
				return err
			}
			v.mu.Lock()
			v.width, v.height = w, h
			v.mu.Unlock()
			resized = true
		default:
			return fmt.Errorf("encoding %d, which was not asked for", encoding)
		}
	}
	v.rounds.finish(v.next(resized), nil)
	return nil
}

// next asks for what comes after an update, and returns the round that ended with it.
func (v *viewer) next(resized bool) (ended *round) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.pending = false
	if resized {
		v.request(false) // the mirror stays unfinished until its answer
		return nil
	}
	v.mirror.finish()
	if v.lookers > 0 || v.now().Sub(v.looked) < interest {
		v.request(true)
	}
	return v.updated()
}

// raw reads a rectangle of pixels, a strip at a time.
func (v *viewer) raw(x, y, w, h int) error {
	if w == 0 || h == 0 {
		return nil
	}
	v.mu.Lock()
	width, height := v.width, v.height
	v.mu.Unlock()
	if x+w > width || y+h > height {
		return fmt.Errorf("a rectangle of %dx%d at %d,%d lies outside the display of %dx%d", w, h, x, y, width, height)
	}
	if err := v.mirror.setSize(width, height); err != nil {
		return err
	}
	rows := max(1, stripBytes/(w*4))
	for done := 0; done < h; {
		n := min(rows, h-done)
		var err error
		if v.strip, err = appendRead(v.strip[:0], v.r, n*w*4); err != nil {
			return err
		}
		err = v.mirror.update(x, y+done, pixels{width: w, height: n, stride: w * 4, format: formatX8R8G8B8, data: v.strip})
		if err != nil {
			return err
		}
		done += n
	}
	return nil
}

// refusal is the server's reason for not going on.
func (v *viewer) refusal() error {
	reason, err := v.text()
	if err != nil {
		return err
	}
	return fmt.Errorf("the server refuses: %q", reason)
}

func (v *viewer) text() (string, error) {
	n, err := v.uint32()
	if err != nil {
		return "", err
	}
	if n > maxRFBText {
		return "", fmt.Errorf("a text of %d bytes is out of bounds", n)
	}
	text, err := appendRead(nil, v.r, int(n))
	return string(text), err
}

func (v *viewer) uint32() (uint32, error) {
	var b [4]byte
	_, err := io.ReadFull(v.r, b[:])
	return binary.BigEndian.Uint32(b[:]), err
}

func appendInt32(b []byte, n int32) []byte { return binary.BigEndian.AppendUint32(b, uint32(n)) }
