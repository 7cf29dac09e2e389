package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"time"
)

const portPath = "/dev/virtio-ports/org.bureau.agent.0"

// Kinds of the handshake's frames.
const (
	hello = 1
	ack   = 2
	start = 3
	ready = 4
	boot  = 5
)

const frameSize = 128

var magic = []byte("\xf5BUREAU\n")

// port is the link, open. Its reads and writes end when the attack's time is over.
type port struct {
	*os.File
	until time.Time
	seen  []byte
}

func openPort(until time.Time) (*port, error) {
	f, err := os.OpenFile(portPath, os.O_RDWR|0o4000, 0) // O_NONBLOCK, so that there are deadlines
	if err != nil {
		return nil, err
	}
	if err := f.SetDeadline(until); err != nil {
		f.Close()
		return nil, err
	}
	return &port{File: f, until: until}, nil
}

func frame(kind byte, host, guest []byte) []byte {
	b := make([]byte, frameSize)
	copy(b, magic)
	b[8], b[9] = kind, 1
	copy(b[10:26], host)
	copy(b[26:42], guest)
	copy(b[74:], "hostile")
	binary.BigEndian.PutUint32(b[124:], crc32.ChecksumIEEE(b[:124]))
	return b
}

// await is the next frame of a kind that the host sends.
func (p *port) await(kind byte) ([]byte, error) {
	buf := make([]byte, 4096)
	for {
		for len(p.seen) >= frameSize {
			at := bytes.Index(p.seen, magic)
			if at < 0 {
				p.seen = p.seen[len(p.seen)-len(magic):]
				break
			}
			p.seen = p.seen[at:]
			if len(p.seen) < frameSize {
				break
			}
			f := bytes.Clone(p.seen[:frameSize])
			p.seen = p.seen[frameSize:]
			if f[8] == kind {
				return f, nil
			}
		}
		n, err := p.Read(buf)
		p.seen = append(p.seen, buf[:n]...)
		switch {
		case err == io.EOF && time.Now().Before(p.until): // there is no host just now
			time.Sleep(20 * time.Millisecond)
		case err != nil:
			return nil, err
		}
	}
}

// fingerprint is the true agent's, so that the host delivers nothing.
var fingerprint [32]byte

// learn finds it out from the agent's file, as agent/doc.go says.
func learn() error {
	var f *os.File
	var err error
	for _, path := range []string{"/run/bureau/agent", "/run/bureau/disk/bureau"} {
		if f, err = os.Open(path); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	h, block := sha256.New(), make([]byte, 8192)
	h.Write(binary.BigEndian.AppendUint64(nil, uint64(info.Size())))
	for i := range int64(64) {
		if _, err := f.ReadAt(block, (info.Size()-8192)*i/63); err != nil {
			return err
		}
		h.Write(block)
	}
	copy(fingerprint[:], h.Sum(nil))
	return nil
}

// greet shakes hands as an agent does.
func (p *port) greet() error {
	if _, err := p.Write(append(bytes.Repeat([]byte{0xff}, 40_000), frame(boot, nil, nil)...)); err != nil {
		return err
	}
	guest := []byte("0123456789abcdef")
	for {
		h, err := p.await(hello)
		if err != nil {
			return err
		}
		a := frame(ack, h[10:26], guest)
		copy(a[42:74], fingerprint[:])
		binary.BigEndian.PutUint32(a[124:], crc32.ChecksumIEEE(a[:124]))
		if _, err := p.Write(a); err != nil {
			return err
		}
		s, err := p.await(start)
		if err != nil {
			return err
		}
		if !bytes.Equal(s[10:26], h[10:26]) {
			continue
		}
		_, err = p.Write(frame(ready, h[10:26], guest))
		return err
	}
}

// meet waits until the host is there: after a bad session it takes its time.
func meet() error {
	p, err := openPort(time.Now().Add(time.Minute))
	if err != nil {
		return err
	}
	defer p.Close()
	if _, err := p.Write(append(bytes.Repeat([]byte{0xff}, 40_000), frame(boot, nil, nil)...)); err != nil {
		return err
	}
	_, err = p.await(hello)
	return err
}

// raw makes an attack of bytes, after a handshake when there is to be one.
func raw(handshake bool, do func(p *port, until time.Time) error) func(time.Time) error {
	return func(until time.Time) error {
		p, err := openPort(until)
		if err != nil {
			return err
		}
		defer p.Close()
		if handshake {
			if err := p.greet(); err != nil {
				return err
			}
		}
		return do(p, until)
	}
}

// flood writes the same again and again.
func flood(p *port, piece []byte) error {
	for {
		if _, err := p.Write(piece); err != nil {
			return err
		}
	}
}

// stall says something and then nothing.
func stall(said ...byte) func(*port, time.Time) error {
	return func(p *port, until time.Time) error {
		if _, err := p.Write(said); err != nil {
			return err
		}
		time.Sleep(time.Until(until))
		return nil
	}
}

// muxFrame is the header of a frame of the multiplexer.
func muxFrame(kind byte, flags uint16, stream, length uint32) []byte {
	b := []byte{0, kind}
	b = binary.BigEndian.AppendUint16(b, flags)
	b = binary.BigEndian.AppendUint32(b, stream)
	return binary.BigEndian.AppendUint32(b, length)
}

const (
	data   = 0
	window = 1
	ping   = 2

	syn = 1
	rst = 8
)

var linkAttacks = []attack{
	{"garbage", raw(false, func(p *port, _ time.Time) error {
		noise := make([]byte, 1<<20)
		for i := range noise {
			noise[i] = byte(rand.Uint32())
		}
		return flood(p, noise)
	})},
	{"half-frames", raw(false, func(p *port, _ time.Time) error {
		return flood(p, bytes.Repeat(append(bytes.Clone(magic), 2, 1, 0, 0), 10_000))
	})},
	{"boots", raw(false, func(p *port, _ time.Time) error {
		return flood(p, bytes.Repeat(frame(boot, nil, nil), 1000))
	})},
	{"handshakes", raw(false, func(p *port, _ time.Time) error {
		for {
			h, err := p.await(hello)
			if err != nil {
				return err
			}
			a := frame(ack, h[10:26], h[10:26])
			if _, err := p.Write(append(a, frame(boot, nil, nil)...)); err != nil {
				return err
			}
		}
	})},
	{"wrong-binary", func(until time.Time) error {
		fingerprint[0] ^= 0xff
		defer func() { fingerprint[0] ^= 0xff }()
		return raw(true, func(p *port, until time.Time) error {
			_, err := io.Copy(io.Discard, p) // it is delivered another, and never says that it has it
			return err
		})(until)
	}},
	{"silence", raw(true, stall())},
	{"half-header", raw(true, stall(0, 0, 0))},
	{"half-body", raw(true, stall(append(muxFrame(data, syn, 2, 32<<10), "half"...)...))},
	{"lies", raw(true, func(p *port, until time.Time) error {
		return stall(muxFrame(data, syn, 2, 0xffffffff)...)(p, until)
	})},
	{"pings", raw(true, func(p *port, _ time.Time) error {
		return flood(p, bytes.Repeat(muxFrame(ping, syn, 0, 7), 1000))
	})},
	{"windows-of-nothing", raw(true, func(p *port, _ time.Time) error {
		return flood(p, bytes.Repeat(muxFrame(window, 0, 2, 0xffff), 10_000))
	})},
	{"host-streams", raw(true, func(p *port, until time.Time) error {
		return stall(bytes.Join([][]byte{muxFrame(window, syn, 3, 0), muxFrame(window, syn, 5, 0)}, nil)...)(p, until)
	})},
	{"opened-and-reset", raw(true, func(p *port, _ time.Time) error {
		var piece []byte
		for id := uint32(2); ; id += 2 {
			piece = append(append(piece, muxFrame(window, syn, id, 0)...), muxFrame(window, rst, id, 0)...)
			if len(piece) > 1<<16 {
				if _, err := p.Write(piece); err != nil {
					return err
				}
				piece = piece[:0]
			}
		}
	})},
	// Thousands of streams, each of which fills its window and is never closed, whatever the host does.
	{"streams", raw(true, func(p *port, _ time.Time) error {
		go io.Copy(io.Discard, p)
		fill := make([]byte, 32<<10)
		for id := uint32(2); ; id += 2 {
			piece := append(muxFrame(data, syn, id, 5), "GET /"...)
			for range 7 {
				piece = append(append(piece, muxFrame(data, 0, id, uint32(len(fill)))...), fill...)
			}
			if _, err := p.Write(piece); err != nil {
				return err
			}
		}
	})},
	{"answers", session(badAnswers)},
	{"bombs", session(bombs)},
	{"slow", session(slowAnswers)},
	{"requests", session(badRequests)},
}
