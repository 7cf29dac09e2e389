package screen

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"image"
	"log/slog"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// What QEMU's own dump shows has been handed to its display: after Sync the next frame shows it.
func TestQEMUIsFreshAfterSync(t *testing.T) {
	const changes = 100
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	m := startMachine(t)
	m.command("cont", nil)
	for _, c := range []struct {
		name    string
		open    func(context.Context) *Screen
		changes int
	}{{"D-Bus", m.openDBus, changes}, {"RFB", m.openRFB, changes / 10}} {
		s := c.open(ctx)
		eventually(t, "the boot sector's resolution", func() bool { return pattern(frameOf(t, ctx, s)) })
		s.rounds.patience = time.Minute // a busy machine is no failure
		stale, behind := 0, 0
		var took []time.Duration
		last := m.dump()
		for seen := 0; seen < c.changes; {
			m.command("send-key", map[string]any{"hold-time": 1, "keys": []any{map[string]string{"type": "qcode", "data": "spc"}}})
			var before, after *image.RGBA
			for before = m.dump(); same(before, last); before = m.dump() {
			}
			unsynced := frameOf(t, ctx, s)
			began := time.Now()
			if err := s.Sync(ctx); err != nil {
				t.Fatalf("%s: %v", c.name, cause(err))
			}
			took = append(took, time.Since(began))
			frame := frameOf(t, ctx, s)
			if after = m.dump(); !same(before, after) {
				continue // it was still drawing
			}
			last = after
			seen++
			if !same(frame.Pixels, after) {
				stale++
			}
			if !same(unsynced.Pixels, after) {
				behind++
			}
		}
		t.Logf("%s: %d changes, %d of them not seen without Sync; Sync took %v", c.name, c.changes, behind, quantiles(took))
		if stale > 0 {
			t.Errorf("%s: %d of %d frames are older than the display", c.name, stale, c.changes)
		}
	}
}

// quantiles are the median and the 99th percentile.
func quantiles(took []time.Duration) [2]time.Duration {
	slices.Sort(took)
	return [2]time.Duration{took[len(took)/2], took[len(took)*99/100]}
}

// peer plays QEMU: its control connections, and the connection of one listener.
type peer struct {
	t       *testing.T
	dials   atomic.Int32
	control chan *peerConn // each as it is dialled
	listen  *peerConn
}

// peerConn is QEMU's end of a connection.
type peerConn struct {
	t     *testing.T
	conn  *net.UnixConn
	calls *messageReader
	files []int
}

func (p *peerConn) Read(b []byte) (int, error) {
	rights := make([]byte, 64)
	n, nr, _, _, err := p.conn.ReadMsgUnix(b, rights)
	n = max(n, 0)
	if messages, e := unix.ParseSocketControlMessage(rights[:nr]); e == nil {
		for _, m := range messages {
			if files, e := unix.ParseUnixRights(&m); e == nil {
				p.files = append(p.files, files...)
			}
		}
	}
	return n, err
}

// newPeerConn takes in what the client says of who it is, and welcomes it.
func newPeerConn(t *testing.T, conn net.Conn, welcome string) *peerConn {
	p := &peerConn{t: t, conn: conn.(*net.UnixConn)}
	t.Cleanup(func() { conn.Close() })
	in := bufio.NewReader(p)
	for line := ""; line != "BEGIN\r\n"; {
		var err error
		if line, err = in.ReadString('\n'); err != nil {
			t.Error(err)
			break
		}
	}
	conn.Write([]byte(welcome))
	p.calls = &messageReader{r: in}
	return p
}

func (p *peerConn) want(member string) message {
	p.t.Helper()
	p.conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	call, err := p.calls.next()
	if err != nil || call.member != member {
		p.t.Fatalf("instead of %s came %q: %v", member, call.member, err)
	}
	return call
}

func (p *peerConn) say(m message) { p.conn.Write(m.encode()) }

func (p *peerConn) answer(call message) {
	p.say(message{kind: methodReturn, serial: 1000 + call.serial, replyTo: call.serial})
}

func (p *peer) dial(context.Context) (net.Conn, error) {
	p.dials.Add(1)
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(theirs)
	theirs.Close()
	if err != nil {
		return nil, err
	}
	go func() { p.control <- newPeerConn(p.t, conn, "OK 0123\r\nAGREE_UNIX_FD\r\n") }()
	return ours, nil
}

// openPeer opens a screen of 2x2 black pixels.
func openPeer(t *testing.T) (*peer, *peerConn, *Screen) {
	t.Helper()
	p := &peer{t: t, control: make(chan *peerConn, 1)}
	opened := make(chan *Screen, 1)
	go func() {
		s, err := OpenDBus(t.Context(), p.dial, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Error(cause(err))
		}
		opened <- s
	}()
	control := <-p.control
	call := control.want("RegisterListener")
	file := os.NewFile(uintptr(control.files[0]), "listener")
	conn, err := net.FileConn(file)
	must(t, err)
	file.Close()
	p.listen = newPeerConn(t, conn, "OK 0123\r\n")
	conn.Write(picture(0))
	control.answer(call)
	s := <-opened
	if s == nil {
		t.FailNow()
	}
	t.Cleanup(func() { s.Close() })
	s.rounds.patience = time.Minute // a busy machine is no failure
	return p, control, s
}

// picture is a whole picture of one grey.
func picture(grey byte) []byte {
	return qemuCall("Scanout", "uuuuay", []int{2, 2, 8, int(formatX8R8G8B8)}, bytes.Repeat([]byte{grey}, 16))
}

// syncing calls Sync beside the test.
func (s *Screen) syncing(t *testing.T) <-chan error {
	done := make(chan error, 1)
	go func() { done <- s.Sync(t.Context()) }()
	return done
}

// What QEMU had in its queue for the listener when its main loop answered is in the frame, however
// late it is written.
func TestSyncWaitsForTheListenersQueue(t *testing.T) {
	p, control, s := openPeer(t)
	for grey := byte(1); grey < 100; grey++ {
		done := s.syncing(t)
		call := control.want("Get")
		p.listen.say(message{kind: methodReturn, serial: 5, replyTo: 1 << 20}) // an answer to nothing
		control.say(message{kind: signal, serial: 5, path: consolePath, iface: propsIface, member: "PropertiesChanged"})
		control.answer(call)
		call = p.listen.want("Ping")
		select {
		case err := <-done:
			t.Fatalf("it returned before the ping was answered: %v", err)
		default:
		}
		p.listen.conn.Write(picture(grey))
		p.listen.answer(call)
		must(t, <-done)
		if got := frameOf(t, t.Context(), s).Pixels.Pix[0]; got != grey {
			t.Fatalf("the frame shows %d instead of %d", got, grey)
		}
	}
}

// A round trip that is under way proves nothing to who comes later; those share the next.
func TestRoundsAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := make(chan *round, 10)
		rs := &rounds{patience: time.Minute, start: func(r *round) { begun <- r }}
		done := make(chan error, 10)
		pass := func() { done <- rs.pass(t.Context()) }
		go pass()
		first := <-begun
		for range 5 {
			go pass()
		}
		synctest.Wait()
		if len(begun) != 0 {
			t.Error("two round trips are under way at once")
		}
		rs.finish(first, nil)
		second := <-begun
		synctest.Wait()
		if len(done) != 1 || <-done != nil {
			t.Errorf("the first round trip ended for %d more", len(done))
		}
		go pass()
		synctest.Wait()
		refused := errors.New("refused")
		rs.finish(first, nil) // which is over
		rs.finish(second, refused)
		synctest.Wait()
		if len(done) != 5 {
			t.Errorf("the second round trip ended for %d of 5", len(done))
		}
		for range len(done) {
			if err := <-done; err != refused {
				t.Error(err)
			}
		}
		rs.finish(<-begun, nil)
		if err := <-done; err != nil || len(begun) != 0 {
			t.Errorf("the third: %v, %d more", err, len(begun))
		}
	})
}

// A display that does not answer costs a bounded time, and its late answer helps whoever waits then.
func TestSyncIsBounded(t *testing.T) {
	p, control, s := openPeer(t)
	s.rounds.patience = time.Millisecond
	if err := s.Sync(t.Context()); desktop.CodeOf(err) != desktop.Unavailable || !errors.Is(err, errNotFresh) {
		t.Fatalf("a display that says nothing: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Sync(ctx); err != context.Canceled {
		t.Errorf("a caller that has gone: %v", err)
	}
	s.rounds.patience = time.Minute
	waiting := s.syncing(t)
	go func() { // until the connections end
		for {
			get, err := control.calls.next()
			if err != nil {
				return
			}
			control.answer(get)
			ping, err := p.listen.calls.next()
			if err != nil {
				return
			}
			p.listen.answer(ping)
		}
	}()
	must(t, <-waiting)
}

// When the control connection knows nothing any more, or has gone, there is a new one.
func TestSyncConnectsAnew(t *testing.T) {
	p, control, s := openPeer(t)
	for i, lose := range []func(message){
		func(call message) { // somebody else has opened the display
			control.say(message{kind: errorReply, serial: 9, replyTo: call.serial, errorName: errorUnknown + "Method"})
		},
		func(message) { control.conn.Close() },
	} {
		done := s.syncing(t)
		lose(control.want("Get"))
		if i == 1 {
			if err := <-done; desktop.CodeOf(err) != desktop.Unavailable {
				t.Fatalf("a connection that breaks: %v", err)
			}
			done = s.syncing(t)
		}
		control = <-p.control
		control.answer(control.want("Get"))
		p.listen.answer(p.listen.want("Ping"))
		must(t, <-done)
		if got := p.dials.Load(); int(got) != i+2 {
			t.Errorf("dialled %d times", got)
		}
	}
}

func TestSyncEndsWithTheSession(t *testing.T) {
	p, control, s := openPeer(t)
	done := s.syncing(t)
	control.want("Get")
	p.listen.conn.Close()
	if err := <-done; desktop.CodeOf(err) != desktop.Unavailable || errors.Is(err, errNotFresh) {
		t.Errorf("a display that hangs up: %v", err)
	}
	if err := s.Sync(t.Context()); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("after the end: %v", err)
	}
	s.Close()
	if _, err := control.conn.Read(make([]byte, 1)); err == nil {
		t.Error("the control connection outlives the session")
	}
}

// BenchmarkSync measures what freshness costs a picture, with a real QEMU that has nothing to do.
func BenchmarkSync(b *testing.B) {
	m := startMachine(b)
	s := m.openDBus(b.Context())
	for b.Loop() {
		must(b, s.Sync(b.Context()))
	}
}
