package hypervisor

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"
)

// saying is a connection whose other side says what there is, ends, and takes everything.
type saying struct {
	net.Conn
	*bytes.Reader
}

func (s saying) Read(p []byte) (int, error)       { return s.Reader.Read(p) }
func (saying) Write(p []byte) (int, error)        { return len(p), nil }
func (saying) Close() error                       { return nil }
func (saying) SetDeadline(time.Time) error        { return nil }
func (saying) SetReadDeadline(t time.Time) error  { return nil }
func (saying) SetWriteDeadline(t time.Time) error { return nil }
func newSaying(b []byte) saying                   { return saying{Reader: bytes.NewReader(b)} }
func packet(kind, serial, status uint32, payload string) []byte {
	return append(appendHeader(nil, len(payload), procOpenChannel, kind, serial, status), payload...)
}

// FuzzChannel has a daemon say anything, while it is logged in to and as a stream: it is told that it
// makes no sense, and gives no more bytes than it sent.
func FuzzChannel(f *testing.F) {
	words := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 1), authNone)
	f.Add(append(append(appendHeader(nil, len(words), procAuthList, typeReply, 1, statusOK), words...),
		appendHeader(nil, 0, procConnectOpen, typeReply, 2, statusOK)...), uint8(9))
	f.Add(append(packet(typeStream, 0, statusContinue, "hello"), packet(typeStream, 0, statusContinue, "")...), uint8(3))
	f.Add(packet(typeStream, 0, statusError, "\x00\x00\x00\x26\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x04gone"), uint8(1))
	f.Add(packet(typeReply, 1, statusError, "\x00\x00\x00\x26\x00\x00\x00\x07\x00\x00\x00\x01\xff\xff\xff\xffgone"), uint8(1))
	f.Fuzz(func(t *testing.T, said []byte, size uint8) {
		c := &channel{conn: newSaying(said), release: func() {}}
		_ = c.login("qemu:///system") // an error or none, but it comes back

		c = &channel{conn: newSaying(said), proc: procOpenChannel, release: func() {}}
		buf, total := make([]byte, int(size)+1), 0
		for {
			n, err := c.Read(buf)
			if total += n; total > len(said) {
				t.Fatalf("%d bytes came of %d", total, len(said))
			}
			if err != nil {
				break
			}
		}
		if _, err := c.Read(buf); err == nil {
			t.Fatal("it goes on after its end")
		}
		c.leave(t.Context())
	})
}

// FuzzRemoteError reads the errors of a daemon, which quote what a guest has caused.
func FuzzRemoteError(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x26\x00\x00\x00\x07\x00\x00\x00\x01\x00\x00\x00\x04gone"))
	f.Add([]byte("\x00\x00\x00\x26\x00\x00\x00\x07\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		if e := parseRemoteError(payload); e.Error() == "" || len(e.message) > len(payload)+40 {
			t.Fatalf("%q says %q", payload, e.message)
		}
	})
}

var _ io.Reader = saying{}
