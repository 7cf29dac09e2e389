package agent

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// A wire is the byte pipe between host and guest, and a leg is one use of it: a handshake, or a
// session. A leg ends without ending the pipe, and neither its reads nor its writes wait for a
// peer that has gone mute once it is closed, whatever the pipe's own Read and Write do. To that
// end two goroutines alone touch the pipe: one fills a ring with what arrives, one empties what is
// to be sent.

const (
	ringSize = 64 << 10
	// sendLimit is how much may wait to be written before a leg's Write waits.
	sendLimit = 64 << 10
)

// wire owns the pipe.
type wire struct {
	pipe io.ReadWriteCloser
	// absence says that an end of file is not the pipe's end: nobody is connected at the other
	// side just now. It ends the leg, and reading goes on.
	absence bool

	toll *toll // of what arrives; nil at the guest, who trusts the host

	done chan struct{} // closed by close
	once sync.Once
	wait sync.WaitGroup

	mu       sync.Mutex
	ring     [ringSize]byte
	from, to int       // ever read from and written to the ring
	last     time.Time // when something was written to it
	gone     int       // how often the other side has been absent
	err      error     // why the pipe ended
	out      []byte
	sending  bool // a Write of the pipe is under way

	arrived chan struct{} // something arrived, or the pipe ended
	space   chan struct{} // there is room in the ring
	queued  chan struct{} // there is something to send
	sent    chan struct{} // out was taken
}

func newWire(pipe io.ReadWriteCloser, absence bool, toll *toll) *wire {
	w := &wire{
		pipe: pipe, absence: absence, toll: toll, done: make(chan struct{}),
		arrived: make(chan struct{}, 1), space: make(chan struct{}, 1),
		queued: make(chan struct{}, 1), sent: make(chan struct{}, 1),
	}
	w.wait.Add(2)
	go w.receive()
	go w.send()
	return w
}

// close closes the pipe and waits for the wire's goroutines, which end when the pipe's Close ends
// its Read and Write; a pipe that breaks that rule is left behind rather than waited for for ever.
func (w *wire) close() {
	w.once.Do(func() {
		close(w.done)
		w.pipe.Close()
	})
	ended := make(chan struct{})
	go func() { w.wait.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
	}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func (w *wire) fail(err error) {
	w.mu.Lock()
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	notify(w.arrived)
	notify(w.sent)
}

// receive fills the ring.
func (w *wire) receive() {
	defer w.wait.Done()
	const shortest, longest = 20 * time.Millisecond, 250 * time.Millisecond
	pause := shortest
	for {
		w.mu.Lock()
		used, at := w.to-w.from, w.to%ringSize
		w.mu.Unlock()
		if used == ringSize {
			select {
			case <-w.space:
				continue
			case <-w.done:
				return
			}
		}
		n, err := w.pipe.Read(w.ring[at:min(ringSize, at+ringSize-used)])
		if n > 0 {
			pause = shortest
			w.mu.Lock()
			w.to += n
			w.last = time.Now()
			w.mu.Unlock()
			notify(w.arrived)
			w.toll.pay(n, w.done)
		}
		switch {
		case err == nil:
		case w.absence && errors.Is(err, io.EOF):
			if pause == shortest {
				w.mu.Lock()
				w.gone++
				w.mu.Unlock()
				notify(w.arrived)
			}
			select {
			case <-time.After(pause):
			case <-w.done:
				return
			}
			pause = min(2*pause, longest)
		default:
			w.fail(err)
			return
		}
	}
}

// send writes what legs have queued.
func (w *wire) send() {
	defer w.wait.Done()
	var batch []byte
	for {
		select {
		case <-w.queued:
		case <-w.done:
			return
		}
		for {
			w.mu.Lock()
			batch, w.out = w.out, batch[:0]
			w.sending = len(batch) > 0
			w.mu.Unlock()
			if len(batch) == 0 {
				break
			}
			notify(w.sent)
			if _, err := w.pipe.Write(batch); err != nil {
				w.fail(err)
				return
			}
		}
	}
}

// arrival is when something arrived the last time.
func (w *wire) arrival() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.last
}

// idle tells whether the pipe has taken everything that was queued.
func (w *wire) idle() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.out) == 0 && !w.sending
}

// leg begins a new use of the wire. The one before must be closed and its readers gone. What it
// had queued is dropped: it would be stale.
func (w *wire) leg() *leg {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.out = w.out[:0]
	return &leg{wire: w, gone: w.gone, done: make(chan struct{})}
}

// leg is one use of a wire. One goroutine may read and one write.
type leg struct {
	wire *wire
	gone int
	once sync.Once
	done chan struct{}

	unread   []byte // read before by a handshake
	deadline time.Time
}

// Close ends the leg and its blocked reads and writes; the wire stays.
func (l *leg) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// setReadDeadline is for the goroutine that reads.
func (l *leg) setReadDeadline(t time.Time) { l.deadline = t }

func (l *leg) Read(p []byte) (int, error) {
	if len(l.unread) > 0 {
		n := copy(p, l.unread)
		l.unread = l.unread[n:]
		return n, nil
	}
	var expired <-chan time.Time
	if !l.deadline.IsZero() {
		left := time.Until(l.deadline)
		if left <= 0 { // also when there is always something to read
			return 0, os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		expired = timer.C
	}
	w := l.wire
	for {
		select {
		case <-l.done:
			return 0, net.ErrClosed
		default:
		}
		w.mu.Lock()
		if w.to > w.from {
			at := w.from % ringSize
			n := copy(p, w.ring[at:min(ringSize, at+w.to-w.from)])
			w.from += n
			w.mu.Unlock()
			notify(w.space)
			return n, nil
		}
		gone, err := w.gone, w.err
		w.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case gone != l.gone:
			return 0, io.EOF
		}
		select {
		case <-w.arrived:
		case <-l.done:
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		case <-w.done:
			return 0, net.ErrClosed
		}
	}
}

func (l *leg) Write(p []byte) (int, error) {
	w := l.wire
	for {
		select {
		case <-l.done:
			return 0, net.ErrClosed
		default:
		}
		w.mu.Lock()
		err := w.err
		room := len(w.out) < sendLimit
		if err == nil && room {
			w.out = append(w.out, p...)
		}
		w.mu.Unlock()
		switch {
		case err != nil:
			return 0, err
		case room:
			notify(w.queued)
			return len(p), nil
		}
		select {
		case <-w.sent:
		case <-l.done:
			return 0, net.ErrClosed
		case <-w.done:
			return 0, net.ErrClosed
		}
	}
}
