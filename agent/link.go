package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"time"

	"bureau/desktop"
)

// The handshake. The pipe has no connections of its own, so every session begins by finding its
// peer in whatever bytes are still under way:
//
//	host                                guest
//	flush, HELLO(h) … every 250 ms ──>
//	                               <──  ACK(h, g, version, binary)
//	START(h, g)                    ──>
//	                               <──  READY(h, g)
//	multiplexer                    <─>  multiplexer
//
// A host that dies and comes back while the guest still is in the old session ends that session by
// its HELLO; a guest agent that starts while the host still is in the old session ends it by its
// BOOT. Both are no multiplexer header. As the reader of the old session may be in the middle of a
// frame's body, both are preceded by a flush: filler that is longer than any body (maxBody).

const (
	helloFirst = 250 * time.Millisecond
	helloMost  = time.Second
	helloLeast = 20 * time.Millisecond // between two, also when the guest asks for them
	readyWait  = 3 * time.Second
)

// flush ends the reading of any frame of the multiplexer.
var flush = bytes.Repeat([]byte{0xFF}, maxBody+headerSize)

// peer is what the guest says of itself in the handshake.
type peer struct {
	version string
	binary  [32]byte
}

// greet is the host's side. The leg is ready for the multiplexer when it returns.
func greet(ctx context.Context, l *leg) (peer, error) {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	fail := func(err error) (peer, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return peer{}, err
	}
	if _, err := l.Write(flush); err != nil {
		return fail(err)
	}
	frames := &frameReader{r: l}
	wait := helloFirst
	for first := true; ; first = false {
		hello := frame{kind: kindHello, protocol: protocol, host: newNonce()}
		answer, err := helloUntilAck(l, frames, hello, &wait, first)
		if err != nil {
			return fail(err)
		}
		if answer.protocol != protocol {
			return fail(desktop.Errorf(desktop.Unavailable,
				"the agent in the desktop speaks protocol %d and this bureau speaks %d: restart the desktop", answer.protocol, protocol))
		}
		start := frame{kind: kindStart, protocol: protocol, host: hello.host, guest: answer.guest}
		if _, err := l.Write(start.encode()); err != nil {
			return fail(err)
		}
		ready, err := awaitReady(l, frames, start)
		if err != nil {
			return fail(err)
		}
		if ready {
			l.setReadDeadline(time.Time{})
			l.unread = frames.rest()
			return peer{version: answer.version, binary: answer.binary}, nil
		}
		// A guest that begins and begins again does so at a pace.
		select {
		case <-time.After(helloLeast):
		case <-ctx.Done():
		}
	}
}

// helloUntilAck says hello until the guest has answered this very hello, and the first time whether the
// flush has been taken yet or not.
func helloUntilAck(l *leg, frames *frameReader, hello frame, wait *time.Duration, first bool) (frame, error) {
	for ; ; first = false {
		// A guest that is not up yet takes nothing; hellos do not pile up before it.
		if first || l.wire.idle() {
			if _, err := l.Write(hello.encode()); err != nil {
				return frame{}, err
			}
		}
		sent := time.Now()
		l.setReadDeadline(sent.Add(*wait))
		for again := false; !again; {
			f, err := frames.next()
			switch {
			case errors.Is(err, os.ErrDeadlineExceeded):
				*wait = min(*wait*5/4, helloMost)
				again = true
			case err != nil:
				return frame{}, err
			case f.kind == kindAck && f.host == hello.host:
				return f, nil
			case f.kind == kindBoot:
				*wait = helloFirst
				l.setReadDeadline(sent.Add(helloLeast))
			}
		}
	}
}

// awaitReady waits for the guest to begin; false is to start anew.
func awaitReady(l *leg, frames *frameReader, start frame) (bool, error) {
	l.setReadDeadline(time.Now().Add(readyWait))
	for {
		f, err := frames.next()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			return false, nil
		case err != nil:
			return false, err
		case f.kind == kindReady && f.host == start.host && f.guest == start.guest:
			return true, nil
		case f.kind == kindBoot:
			return false, nil
		}
	}
}

// answer is the guest's side. It waits for a host for as long as it takes; io.EOF says that the
// host went away meanwhile.
func answer(ctx context.Context, l *leg, self peer) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	boot := frame{kind: kindBoot, protocol: protocol}
	if _, err := l.Write(append(bytes.Clone(flush), boot.encode()...)); err != nil {
		return err
	}
	frames := &frameReader{r: l}
	mine := newNonce()
	var host nonce
	greeted := false
	for {
		f, err := frames.next()
		if err != nil {
			return err
		}
		switch {
		case f.kind == kindHello:
			host, greeted = f.host, true
			ack := frame{
				kind: kindAck, protocol: protocol, host: host, guest: mine,
				binary: self.binary, version: self.version,
			}
			if _, err := l.Write(ack.encode()); err != nil {
				return err
			}
		case f.kind == kindStart && greeted && f.host == host && f.guest == mine:
			ready := frame{kind: kindReady, protocol: protocol, host: host, guest: mine}
			if _, err := l.Write(ready.encode()); err != nil {
				return err
			}
			l.unread = frames.rest()
			return nil
		}
	}
}

// absent tells whether an error says that the host is not there just now.
func absent(err error) bool { return errors.Is(err, io.EOF) }
