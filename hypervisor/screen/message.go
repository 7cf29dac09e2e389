package screen

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A codec for as much of the D-Bus wire format as QEMU's display needs: a general library decodes
// byte arrays element by element, which takes longer than everything else together. Here a message is
// read into one buffer that is used again for the next, and its bytes are looked at in place. The bytes
// of a picture are left where they are, for whoever draws them to read piece by piece: the guest says
// how many there are, and none of the host's memory is to depend on that.
//
// A message is a fixed header of 12 bytes, an array of header fields, padding to 8, and a body
// whose types the signature field tells. Every value is aligned to its size, counted from the start
// of the message.

// Bounds of a message. The largest body that is held is that of a cursor.
const (
	maxHeader  = 16 << 10
	maxBody    = maxCursor*maxCursor*4 + 1024
	maxPicture = maxPixels*4 + maxPixels*4 // a row may be followed by as much again
)

type messageType byte

const (
	methodCall   messageType = 1
	methodReturn messageType = 2
	errorReply   messageType = 3
	signal       messageType = 4
)

// noReply is the flag of a call that wants no answer.
const noReply = 1

// Codes of the header fields.
const (
	fieldPath        = 1
	fieldInterface   = 2
	fieldMember      = 3
	fieldErrorName   = 4
	fieldReplySerial = 5
	fieldSender      = 7
	fieldSignature   = 8
	fieldUnixFDs     = 9
)

// message is one D-Bus message. A body that was read is valid until the next one is read.
type message struct {
	kind      messageType
	flags     byte
	serial    uint32
	path      string
	iface     string
	member    string
	errorName string
	replyTo   uint32
	sender    string
	signature string
	fds       uint32
	body      []byte
	picture   *io.LimitedReader // what follows body, when it is a picture: to be read before the next message
}

var errMalformed = errors.New("malformed D-Bus message")

// messageReader reads messages from a connection on which nothing but messages comes any more.
type messageReader struct {
	r       io.Reader // buffered
	header  []byte
	body    []byte
	picture io.LimitedReader // of the last message
}

// pictureArguments is how long a body is up to the bytes of its picture.
var pictureArguments = map[string]int{"Scanout": 5 * 4, "Update": 7 * 4}

func (mr *messageReader) next() (message, error) {
	if _, err := io.Copy(io.Discard, &mr.picture); err != nil {
		return message{}, err
	}
	if mr.picture.N > 0 {
		return message{}, io.ErrUnexpectedEOF
	}
	var fixed [16]byte
	if _, err := io.ReadFull(mr.r, fixed[:]); err != nil {
		return message{}, err
	}
	bodyLength := binary.LittleEndian.Uint32(fixed[4:])
	fieldsLength := binary.LittleEndian.Uint32(fixed[12:])
	switch {
	case fixed[0] != 'l':
		return message{}, fmt.Errorf("%w: byte order %q", errMalformed, fixed[0])
	case fixed[3] != 1:
		return message{}, fmt.Errorf("%w: protocol version %d", errMalformed, fixed[3])
	case fieldsLength > maxHeader:
		return message{}, fmt.Errorf("%w: header of %d bytes", errMalformed, fieldsLength)
	}
	// The header is decoded with its 16 fixed bytes in front, for alignment counts from there.
	var err error
	mr.header = append(mr.header[:0], fixed[:]...)
	if mr.header, err = appendRead(mr.header, mr.r, align(int(fieldsLength), 8)); err != nil {
		return message{}, err
	}
	m := message{
		kind:   messageType(fixed[1]),
		flags:  fixed[2],
		serial: binary.LittleEndian.Uint32(fixed[8:]),
	}
	if err := m.decodeFields(mr.header[:16+fieldsLength]); err != nil {
		return message{}, err
	}
	length, limit := bodyLength, uint32(maxBody)
	if arguments := uint32(pictureArguments[m.member]); m.kind == methodCall && m.iface == listenIface && arguments > 0 {
		length, limit = min(arguments, bodyLength), maxPicture
		mr.picture = io.LimitedReader{R: mr.r, N: int64(bodyLength - length)}
		m.picture = &mr.picture
	}
	if bodyLength > limit {
		mr.picture = io.LimitedReader{}
		return message{}, fmt.Errorf("%w: body of %d bytes", errMalformed, bodyLength)
	}
	mr.body, err = appendRead(mr.body[:0], mr.r, int(length))
	m.body = mr.body
	return m, err
}

// appendRead appends n bytes of r to buf. Memory grows with what has arrived, not with what was
// announced.
func appendRead(buf []byte, r io.Reader, n int) ([]byte, error) {
	const step = 1 << 20
	for n > 0 {
		chunk := n
		if free := cap(buf) - len(buf); chunk > free {
			chunk = min(chunk, max(free, step, len(buf)))
		}
		start := len(buf)
		if cap(buf)-start < chunk {
			grown := make([]byte, start, start+chunk)
			copy(grown, buf)
			buf = grown
		}
		buf = buf[:start+chunk]
		if _, err := io.ReadFull(r, buf[start:]); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return buf, err
		}
		n -= chunk
	}
	return buf, nil
}

func (m *message) decodeFields(header []byte) error {
	d := decoder{buf: header, at: 16}
	for d.at < len(d.buf) {
		d.pad(8)
		code := d.byte()
		kind := d.signature()
		if d.failed {
			break
		}
		var text string
		var number uint32
		switch kind {
		case "s", "o":
			text = d.string()
		case "g":
			text = d.signature()
		case "u":
			number = d.uint32()
		default:
			return fmt.Errorf("%w: header field %d of type %q", errMalformed, code, kind)
		}
		switch code {
		case fieldPath:
			m.path = text
		case fieldInterface:
			m.iface = text
		case fieldMember:
			m.member = text
		case fieldErrorName:
			m.errorName = text
		case fieldReplySerial:
			m.replyTo = number
		case fieldSender:
			m.sender = text
		case fieldSignature:
			m.signature = text
		case fieldUnixFDs:
			m.fds = number
		}
	}
	if d.failed {
		return fmt.Errorf("%w: header cut short", errMalformed)
	}
	return nil
}

// decoder reads values one after another. The first that does not fit sets failed, and it gives
// zero values from then on, so that the error is looked at once.
type decoder struct {
	buf    []byte
	at     int
	failed bool
}

func (d *decoder) pad(to int) { d.at = align(d.at, to) }

func (d *decoder) take(n int) []byte {
	if d.failed || n < 0 || d.at > len(d.buf) || n > len(d.buf)-d.at {
		d.failed = true
		return nil
	}
	b := d.buf[d.at : d.at+n : d.at+n]
	d.at += n
	return b
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	d.pad(4)
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) int32() int { return int(int32(d.uint32())) }

// bytes is an array of bytes, in place.
func (d *decoder) bytes() []byte {
	n := d.uint32()
	if n > maxBody {
		d.failed = true
		return nil
	}
	return d.take(int(n))
}

func (d *decoder) string() string { return d.text(d.bytes) }

func (d *decoder) signature() string {
	return d.text(func() []byte { return d.take(int(d.byte())) })
}

func (d *decoder) text(read func() []byte) string {
	s := string(read())
	if d.byte() != 0 {
		d.failed = true
	}
	return s
}

func align(n, to int) int { return (n + to - 1) &^ (to - 1) }

// encode gives the message's bytes. Its body is there already, encoded by an encoder.
func (m message) encode() []byte {
	e := encoder{buf: make([]byte, 0, 256+len(m.body))}
	e.buf = append(e.buf, 'l', byte(m.kind), m.flags, 1)
	e.uint32(uint32(len(m.body)))
	e.uint32(m.serial)
	e.uint32(0) // the fields' length, filled in below
	text := func(code byte, kind, value string) {
		if value == "" {
			return
		}
		e.pad(8)
		e.buf = append(e.buf, code)
		e.signature(kind)
		if kind == "g" {
			e.signature(value)
		} else {
			e.string(value)
		}
	}
	number := func(code byte, value uint32) {
		if value == 0 {
			return
		}
		e.pad(8)
		e.buf = append(e.buf, code)
		e.signature("u")
		e.uint32(value)
	}
	text(fieldPath, "o", m.path)
	text(fieldInterface, "s", m.iface)
	text(fieldMember, "s", m.member)
	text(fieldErrorName, "s", m.errorName)
	number(fieldReplySerial, m.replyTo)
	text(fieldSender, "s", m.sender)
	text(fieldSignature, "g", m.signature)
	number(fieldUnixFDs, m.fds)
	binary.LittleEndian.PutUint32(e.buf[12:], uint32(len(e.buf)-16))
	e.pad(8)
	return append(e.buf, m.body...)
}

// encoder writes values one after another, from an offset that is a multiple of 8.
type encoder struct{ buf []byte }

func (e *encoder) pad(to int) {
	for len(e.buf)%to != 0 {
		e.buf = append(e.buf, 0)
	}
}

func (e *encoder) uint32(v uint32) {
	e.pad(4)
	e.buf = binary.LittleEndian.AppendUint32(e.buf, v)
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.buf = append(append(e.buf, s...), 0)
}

func (e *encoder) signature(s string) {
	e.buf = append(append(append(e.buf, byte(len(s))), s...), 0)
}
