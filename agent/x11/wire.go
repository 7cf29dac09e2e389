package x11

import (
	"bufio"
	"net"
	"sync"
)

// wire is the connection under xgb. It does three things that xgb does not:
//
// It authenticates with our cookie; xgb takes one from the process's environment only.
//
// It reads ahead, where xgb asks the kernel twice for each message.
//
// It writes together what need not be written at once, since every write wakes the server, for a turn
// of its own. Strokes wait for the first request of another kind: all that is done ends with a question.
// And questions that do not depend on each other are gathered.
type wire struct {
	net.Conn
	in *bufio.Reader

	mu        sync.Mutex
	cookie    []byte
	greeted   bool
	strokes   byte // the major opcode of XTEST, once known
	along     bool // the next request goes along with the strokes after it
	gathering bool
	out       []byte // not written yet
}

const (
	wireBuffer = 8 << 10
	// xgb asks for the focus by itself when it has many requests without an answer, and waits.
	opGetInputFocus = 43
	opFakeInput     = 2 // XTEST's minor opcode
)

func newWire(conn net.Conn, cookie []byte) *wire {
	return &wire{Conn: conn, in: bufio.NewReaderSize(conn, wireBuffer), cookie: cookie}
}

func (w *wire) Read(b []byte) (int, error) { return w.in.Read(b) }

// Write is called with one request at a time, before NewRequest returns.
func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.greeted {
		w.greeted = true
		if _, err := w.Conn.Write(greeting(w.cookie)); err != nil {
			return 0, err
		}
		return len(b), nil
	}
	w.out = append(w.out, b...)
	stroke := len(b) > 1 && w.strokes != 0 && b[0] == w.strokes && b[1] == opFakeInput
	along := w.along
	w.along = false
	if (stroke || along || w.gathering && b[0] != opGetInputFocus) && len(w.out) < wireBuffer {
		return len(b), nil
	}
	return len(b), w.write()
}

// batch makes strokes wait for the next request of another kind.
func (w *wire) batch(xtest byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.strokes = xtest
}

// follow makes the next request wait as strokes do.
func (w *wire) follow() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.along = true
}

// gather holds requests back until flush.
func (w *wire) gather() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gathering = true
}

// flush writes what has been held back. A failure ends the connection, which its reader notices.
func (w *wire) flush() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.gathering = false
	if w.write() != nil {
		w.Conn.Close()
	}
}

// write writes everything. w.mu must be held.
func (w *wire) write() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.Conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

// greeting is the first message of a connection, of X11.0, little-endian.
func greeting(cookie []byte) []byte {
	const protocol = "MIT-MAGIC-COOKIE-1"
	hello := []byte{'l', 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	if cookie != nil {
		hello[6], hello[8] = byte(len(protocol)), byte(len(cookie))
		hello = append(hello, protocol+"\x00\x00"...)
		hello = append(hello, cookie...)
	}
	return hello
}
