package agent

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
	"unicode/utf8"

	"bureau/desktop"
)

// A link that is used as it is meant is never waited for; one that floods is, for as long as it floods.
func TestToll(t *testing.T) {
	toll := &toll{rate: 1000, burst: 2 * time.Second}
	began := time.Now()
	for _, c := range []struct {
		at    time.Duration
		bytes int
		want  time.Duration
	}{
		{0, 1500, 0},
		{0, 500, 0},
		{0, 1000, time.Second},
		{500 * time.Millisecond, 1000, 1500 * time.Millisecond},
		{2 * time.Second, 0, 0},
		{2 * time.Second, 100, 100 * time.Millisecond},
		{time.Hour, 2000, 0}, // what was not spent does not add up
		{time.Hour, 1, time.Millisecond},
	} {
		if got := toll.owe(c.bytes, began.Add(c.at)); got != c.want {
			t.Errorf("%d bytes after %s: wait %s, want %s", c.bytes, c.at, got, c.want)
		}
	}
	done := make(chan struct{})
	close(done)
	toll.pay(1<<30, done) // nobody waits when the link has ended
}

func TestUnread(t *testing.T) {
	u := newUnread(100)
	u.opened(2, true)
	u.opened(3, false)
	u.arrived(2, 99)
	u.arrived(3, 1000) // the host's own calls do not count
	u.arrived(8, 1000) // there is no such stream
	if !u.wait() || u.total != 99 {
		t.Fatalf("%d are unread", u.total)
	}
	u.arrived(2, 1)
	waited := make(chan bool, 1)
	go func() { waited <- u.wait() }()
	select {
	case <-waited:
		t.Fatal("more is read than there may be")
	case <-time.After(10 * time.Millisecond):
	}
	u.read(2, 1)
	if !wait(t, waited, "room") {
		t.Error("it is closed")
	}
	u.arrived(2, maxBody)
	if u.read(2, 99) || !u.read(2, maxBody) || u.read(2, 0) {
		t.Error("a buffer is let go once, when it was large and is empty")
	}
	u.arrived(2, 100)
	u.gone(2)
	u.gone(2)
	if u.total != 0 {
		t.Errorf("%d are unread", u.total)
	}
	u.opened(4, true)
	u.arrived(4, 100)
	go func() { waited <- u.wait() }()
	u.close()
	if wait(t, waited, "the end") {
		t.Error("it is not closed")
	}
}

// What a guest may not do with streams ends the session before the multiplexer sees it.
func TestGuardOfStreams(t *testing.T) {
	open := func(id uint32) []byte {
		b := []byte{0, muxWindow, 0, flagSYN}
		return append(binary.BigEndian.AppendUint32(b, id), 0, 0, 0, 0)
	}
	for name, c := range map[string]struct {
		ids  []uint32
		host bool
		good bool
	}{
		"one after another":    {[]uint32{2, 4, 10}, true, true},
		"one of the host's":    {[]uint32{2, 3}, true, false},
		"one again":            {[]uint32{2, 4, 2}, true, false},
		"none":                 {[]uint32{0}, true, false},
		"the guest trusts all": {[]uint32{3, 1, 2}, false, true},
	} {
		g := &guard{}
		if c.host {
			g.unread = newUnread(maxUnread)
		}
		var err error
		for _, id := range c.ids {
			err = errors.Join(err, g.check(open(id)))
		}
		if (err == nil) != c.good {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stream that the host has closed counts until the guest closes it, too, and what still comes on it is
// not kept: neither are there more streams than slots, nor does anything pile up.
func TestStreamsThatStayOpen(t *testing.T) {
	p := newPort()
	end := p.connect()
	w := newWire(p.open(), true, nil)
	t.Cleanup(w.close)
	guestMux := make(chan *mux, 1)
	go func() {
		l := w.leg()
		if answer(testContext(t), l, peer{}) != nil {
			return
		}
		if m, err := newMux(l, false, testLog(t)); err == nil {
			guestMux <- m
			m.serve(context.Background(), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, `{"version":"x"}`+"\n")
				w.(http.Flusher).Flush()
				<-r.Context().Done()
			}), hostStreams, testLog(t))
		}
	}()
	var served atomic.Int32
	a, err := (&Connector{Handler: func(string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			served.Add(1)
			w.Header().Set("Connection", "close") // nothing of the body is read
		})
	}}).Connect(testContext(t), testDesktop, end)
	if err != nil {
		t.Fatal(err)
	}
	m := wait(t, guestMux, "the session")
	defer m.close()
	defer a.Close()

	for range guestStreams {
		s, err := m.session.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			io.WriteString(s, "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
			for fill := make([]byte, 32<<10); ; time.Sleep(100 * time.Millisecond) { // or the race detector has no time for anything else
				if _, err := s.Write(fill); err != nil {
					return
				}
			}
		}()
	}
	poll(t, "all to be answered", func() bool { return served.Load() == guestStreams })
	s, err := m.session.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(s, "GET /x HTTP/1.1\r\nHost: h\r\n\r\n")
	u := a.(*session).mux.unread
	for end := time.Now().Add(closeTimeout / 5); time.Now().Before(end); time.Sleep(time.Second / pingsPerSecond) {
		u.mu.Lock()
		total := u.total
		u.mu.Unlock()
		if n := served.Load(); n != guestStreams || total > maxUnread+2*maxBody {
			t.Fatalf("%d requests were served at once, %d bytes lie unread", n, total)
		}
		if _, err := a.(*session).mux.session.Ping(); err != nil {
			t.Fatal(err)
		}
	}
}

// A guest that answers without end is not listened to without end.
func TestEndlessOutput(t *testing.T) {
	for _, output := range []func(desktop.Stream, []byte){nil, func(desktop.Stream, []byte) {}} {
		a, _, err := hostile(t, map[string]http.HandlerFunc{routeExec: func(w http.ResponseWriter, r *http.Request) {
			for writeChunk(w, chunkStdout, make([]byte, maxChunk)) == nil {
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		_, err = a.Exec(testContext(t), desktop.Exec{Script: "x"}, output)
		code(t, err, desktop.Unavailable, "output without end")
		a.Close()
	}
}

// Output is valid UTF-8 within the bound, however it is cut and whatever becomes longer in it. Raw it is
// left as it is.
func TestKeptOutput(t *testing.T) {
	for _, c := range []struct{ pieces, want string }{
		{"a|b", "ab"},
		{"a\xe2\x82|\xac", "a€"},
		{"\xe2|\x82|\xac", "€"},
		{"a\xe2\x82|b", "a\uFFFDb"},
		{"a\xff|", "a\uFFFD"},
		{"end\xf0\x9f", "end\uFFFD"},
	} {
		var k keptOutput
		for piece := range strings.SplitSeq(c.pieces, "|") {
			k.add([]byte(piece))
		}
		if got := k.end(); got != c.want || k.full {
			t.Errorf("%q is %q, full %t", c.pieces, got, k.full)
		}
	}
	var k keptOutput
	for range desktop.MaxExecOutput / 1000 {
		k.add(bytes.Repeat([]byte("\xffa"), 500))
	}
	if text := k.end(); !k.full || len(text) > desktop.MaxExecOutput || len(text) < desktop.MaxExecOutput-4 || !utf8.ValidString(text) {
		t.Errorf("%d bytes, full %t", len(text), k.full)
	}
	// Raw it is what it was, as far as there is room.
	raw := keptOutput{raw: true}
	piece := bytes.Repeat([]byte("\xff\xe2\x82a"), 999)
	for range desktop.MaxExecOutput/len(piece) + 1 {
		raw.add(piece)
	}
	whole := bytes.Repeat(piece, desktop.MaxExecOutput/len(piece)+1)[:desktop.MaxExecOutput]
	if got := raw.end(); !raw.full || got != string(whole) {
		t.Errorf("raw, %d bytes are kept of %d, full %t", len(got), len(whole), raw.full)
	}
}

// A list of windows takes as much memory as it may have windows, not as much as it has brackets.
func TestWindowsOfNothing(t *testing.T) {
	text := "[{}" + strings.Repeat(",{}", maxWindows/3-10) + "]"
	in := strings.NewReader(text)
	list, err := readWindows(in)
	if err != nil || len(list) != desktop.MaxWindows {
		t.Fatalf("%d windows, %v", len(list), err)
	}
	if read := len(text) - in.Len(); read > 1<<20 {
		t.Errorf("%d bytes were read for them", read)
	}
	if list, err := readWindows(strings.NewReader("null")); err != nil || len(list) != 0 {
		t.Errorf("none are %v, %v", list, err)
	}
}

func TestCleanLineIsBounded(t *testing.T) {
	for in, want := range map[string]string{
		"plain":                   "plain",
		"a\x00\nb":                "a  b",
		"123456789é":              "123456789",
		"12345678éx":              "12345678é",
		strings.Repeat("\xff", 9): "\uFFFD",
		"\xffa\xffa\xffa\xffa":    "\uFFFDa\uFFFDa",
	} {
		if got := cleanLine(in, 10); got != want {
			t.Errorf("%q is %q, want %q", in, got, want)
		}
	}
}

// A deadline holds also while there is always something to read.
func TestDeadlineUnderAFlood(t *testing.T) {
	p := newPort()
	end := p.connect()
	p.stale(nil, randomBytes(portBuffer))
	w := newWire(end, false, newToll())
	defer w.close()
	l := w.leg()
	poll(t, "the flood", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return w.to > w.from
	})
	l.setReadDeadline(time.Now().Add(-time.Second))
	if n, err := l.Read(make([]byte, 10)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read %d, %v", n, err)
	}
	l.setReadDeadline(time.Time{})
	if n, err := l.Read(make([]byte, 10)); n != 10 || err != nil {
		t.Errorf("read %d, %v", n, err)
	}
}
