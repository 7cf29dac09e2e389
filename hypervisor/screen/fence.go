package screen

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"bureau/desktop"
)

// How a picture is made fresh over QEMU's D-Bus display:
//
// What the guest has handed to its display lies in a queue that QEMU's main loop empties; doing so
// puts an Update into the queue of each listener's connection, and a thread of its own writes those
// to the sockets. What the guest says by other ways, such as its agent's answer, can be here before.
// So two questions are asked, one after the other:
//
// On the control connection, for a property of the console. QEMU answers that in its main loop, as
// an event of the same loop, after those that were there already: the queue that the guest had
// filled is in the listener's queue when this answer is made. It says nothing of that queue, for a
// picture larger than the socket's buffer leaves it as fast as we read.
//
// Then on the listener's connection, a ping. Its answer goes to the end of the same queue, and our
// reader comes to it after everything before.
//
// A display of the old kind, such as the firmware's, is no queue but memory, which QEMU looks at
// every 30 ms. There the second picture after a change is fresh.
//
// QEMU has its objects on the newest control connection only. If somebody else has opened the
// display since, ours answers that it knows nothing, and is made anew.

// syncPatience bounds what a picture waits to become fresh. On a machine with several times more work
// than processors, one answer in hundreds takes a quarter of a second.
const syncPatience = time.Second

var errNotFresh = errors.New("the display takes too long to say what is new")

// rounds lets all who ask while a round trip is under way share the next one. The one under way
// began before they asked, so it proves nothing to them.
type rounds struct {
	start    func(*round)
	patience time.Duration

	mu       sync.Mutex
	underWay *round
	next     *round
}

type round struct {
	done chan struct{}
	err  error // once done
}

// pass waits for a round trip that begins from now on.
func (rs *rounds) pass(ctx context.Context) error {
	rs.mu.Lock()
	if rs.next == nil {
		rs.next = &round{done: make(chan struct{})}
	}
	mine := rs.next
	begun := rs.begin()
	rs.mu.Unlock()
	if begun != nil {
		rs.start(begun)
	}
	patience := time.NewTimer(rs.patience)
	defer patience.Stop()
	select {
	case <-mine.done:
		return mine.err
	case <-patience.C:
		return errNotFresh
	case <-ctx.Done():
		return ctx.Err()
	}
}

// begin makes the next round the one under way, if there is one to begin.
func (rs *rounds) begin() *round {
	if rs.underWay != nil || rs.next == nil {
		return nil
	}
	rs.underWay, rs.next = rs.next, nil
	return rs.underWay
}

// finish ends a round and begins the next. One that is not under way any more is ignored.
func (rs *rounds) finish(r *round, err error) {
	rs.mu.Lock()
	if r == nil || rs.underWay != r {
		rs.mu.Unlock()
		return
	}
	r.err = err
	close(r.done)
	rs.underWay = nil
	begun := rs.begin()
	rs.mu.Unlock()
	if begun != nil {
		rs.start(begun)
	}
}

// control is a connection to QEMU's objects, authenticated.
type control struct {
	conn    *net.UnixConn
	replies *messageReader
	serial  uint32 // of our last message
}

// fence is the two questions of one session.
type fence struct {
	rounds rounds
	open   func(context.Context) (*control, error)
	ping   func(answered func()) // asks the second question
	life   context.Context
	stop   context.CancelFunc

	mu      sync.Mutex
	stopped bool
	control *control // nil while there is none
	round   *round   // that is asked for
	began   time.Time
	asked   uint32 // the serial of its first question
	servers sync.WaitGroup
}

func newFence(ping func(answered func())) *fence {
	f := &fence{ping: ping}
	f.life, f.stop = context.WithCancel(context.Background())
	f.rounds.start, f.rounds.patience = f.begin, syncPatience
	return f
}

// adopt starts to use a control connection.
func (f *fence) adopt(c *control) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.use(c)
	f.servers.Go(func() { f.serve(c) })
}

// end lets the control connection go and waits for its reader.
func (f *fence) end() {
	f.stop()
	f.mu.Lock()
	f.stopped = true
	if f.control != nil {
		f.control.conn.Close()
	}
	f.mu.Unlock()
	f.servers.Wait()
}

func (f *fence) begin(r *round) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.round, f.began = r, time.Now()
	switch {
	case f.stopped: // whoever waits hears of it from the mirror
	case f.control != nil:
		f.ask()
	default:
		f.servers.Go(func() { f.serve(nil) })
	}
}

// use makes c the control connection, unless the session has ended. f.mu is held.
func (f *fence) use(c *control) bool {
	if f.stopped {
		c.conn.Close()
		return false
	}
	f.control = c
	return true
}

// ask puts the first question. Where writing fails, reading does. f.mu is held.
func (f *fence) ask() {
	c := f.control
	c.serial++
	f.asked = c.serial
	var body encoder
	body.string(consoleIface)
	body.string("Label")
	question := message{
		kind: methodCall, serial: c.serial, path: consolePath, iface: propsIface, member: "Get",
		signature: "ss", body: body.buf,
	}
	c.conn.SetWriteDeadline(time.Now().Add(writePatience))
	if _, err := c.conn.Write(question.encode()); err != nil {
		c.conn.Close()
	}
}

// serve reads a control connection, or a new one when c is nil, until it ends; and then another,
// when QEMU knew nothing on it. There is one at a time.
func (f *fence) serve(c *control) {
	for {
		err := f.follow(c)
		f.mu.Lock()
		f.control = nil
		r, began := f.round, f.began
		f.mu.Unlock()
		if !errors.Is(err, errUnknown) || time.Since(began) > registerPatience {
			f.rounds.finish(r, err)
			return
		}
		c = nil
		select {
		case <-time.After(registerPause):
		case <-f.life.Done():
		}
	}
}

// follow reads what comes on a control connection. Signals of the display's size come unasked, and
// must be read for QEMU not to hoard them.
func (f *fence) follow(c *control) error {
	if c == nil {
		var err error
		if c, err = f.open(f.life); err != nil {
			return err
		}
		f.mu.Lock()
		used := f.use(c)
		if used {
			f.ask()
		}
		f.mu.Unlock()
		if !used {
			return net.ErrClosed
		}
	}
	defer c.conn.Close()
	for {
		reply, err := c.replies.next()
		if err != nil {
			return err
		}
		f.mu.Lock()
		r, answered := f.round, reply.replyTo != 0 && reply.replyTo == f.asked
		if answered {
			f.asked = 0
		}
		f.mu.Unlock()
		switch {
		case !answered:
		case reply.kind == methodReturn:
			f.ping(func() { f.rounds.finish(r, nil) })
		case reply.kind == errorReply && strings.HasPrefix(reply.errorName, errorUnknown):
			return errUnknown
		case reply.kind == errorReply:
			f.rounds.finish(r, errors.New(reply.errorName))
		}
	}
}

// Sync returns when everything that the guest had handed to its display before the call is in the
// next Frame. Over D-Bus that takes well under a millisecond. Over RFB it takes one or two of the
// server's refreshes of 30 ms, and while the whole display changes all the time the picture may be
// one refresh older. An error, after a second at most, means that it is not known.
func (s *Screen) Sync(ctx context.Context) error {
	defer s.ask()()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.life, func() { cancel(errEnded) })()
	err := s.rounds.pass(ctx)
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errEnded):
		<-s.mirror.done
		return s.mirror.ended
	case ctx.Err() != nil:
		return ctx.Err()
	}
	return &desktop.Error{Code: desktop.Unavailable, Message: "the display does not say whether it is fresh", Err: err}
}

var errEnded = errors.New("the session has ended")
