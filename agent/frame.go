package agent

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"hash/crc32"
	"io"
	"strings"
)

// The frames of the handshake: all of one size, found by a magic word and believed by a checksum,
// so that a reader can pick them out of whatever a dead session left in the pipe. doc.go has the
// layout. The first byte of the magic word can be no multiplexer's header (those begin with 0).

const (
	frameSize = 128
	// protocol is the version of everything that follows the handshake. The layout of these frames
	// never changes, so that two ends of different protocols can still tell each other apart.
	protocol = 1

	versionLength = 46
)

var magic = [8]byte{0xF5, 'B', 'U', 'R', 'E', 'A', 'U', 0x0A}

// frameKind says what a frame is.
type frameKind byte

const (
	// kindHello is the host's: a host with this nonce is here, who are you?
	kindHello frameKind = 1 + iota
	// kindAck is the guest's answer, with its own nonce, version and binary.
	kindAck
	// kindStart is the host's: with these two nonces the session begins.
	kindStart
	// kindReady is the guest's last frame; the multiplexer's bytes follow it.
	kindReady
	// kindBoot is the guest's, unasked: there is no session, say hello (again).
	kindBoot
)

type nonce [16]byte

func newNonce() nonce {
	var n nonce
	rand.Read(n[:]) // never fails: crypto/rand
	return n
}

type frame struct {
	kind     frameKind
	protocol byte
	host     nonce
	guest    nonce
	binary   [32]byte // fingerprint of the guest's executable
	version  string
}

// encode lays the frame out in frameSize bytes.
func (f frame) encode() []byte {
	b := make([]byte, frameSize)
	copy(b, magic[:])
	b[8] = byte(f.kind)
	b[9] = f.protocol
	copy(b[10:], f.host[:])
	copy(b[26:], f.guest[:])
	copy(b[42:], f.binary[:])
	copy(b[74:74+versionLength], f.version)
	binary.BigEndian.PutUint32(b[124:], crc32.ChecksumIEEE(b[:124]))
	return b
}

// findFrame looks for the first frame in buf. used is how many bytes are done with: the frame and
// everything before it, or, without a frame, everything that cannot be the beginning of one.
func findFrame(buf []byte) (f frame, used int, ok bool) {
	for at := 0; ; at++ {
		next := bytes.IndexByte(buf[at:], magic[0])
		if next < 0 {
			return frame{}, len(buf), false
		}
		at += next
		rest := buf[at:]
		if !bytes.HasPrefix(rest, magic[:min(len(magic), len(rest))]) {
			continue
		}
		if len(rest) < frameSize {
			return frame{}, at, false
		}
		if binary.BigEndian.Uint32(rest[124:]) != crc32.ChecksumIEEE(rest[:124]) {
			continue
		}
		f = frame{kind: frameKind(rest[8]), protocol: rest[9]}
		copy(f.host[:], rest[10:])
		copy(f.guest[:], rest[26:])
		copy(f.binary[:], rest[42:])
		version, _, _ := strings.Cut(string(rest[74:74+versionLength]), "\x00")
		f.version = cleanLine(version, versionLength)
		return f, at + frameSize, true
	}
}

// frameReader reads frames from a byte stream and drops everything between them. It holds a fixed
// amount of memory whatever the stream says.
type frameReader struct {
	r   io.Reader
	buf [4 * frameSize]byte
	n   int
}

// next returns the next frame. After an error of the reader it may be called again.
func (fr *frameReader) next() (frame, error) {
	for {
		f, used, ok := findFrame(fr.buf[:fr.n])
		fr.n = copy(fr.buf[:], fr.buf[used:fr.n])
		if ok {
			return f, nil
		}
		n, err := fr.r.Read(fr.buf[fr.n:])
		fr.n += n
		if n == 0 && err != nil {
			return frame{}, err
		}
	}
}

// rest is what was read beyond the last frame.
func (fr *frameReader) rest() []byte { return bytes.Clone(fr.buf[:fr.n]) }
