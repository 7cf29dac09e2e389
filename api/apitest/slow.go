package apitest

import (
	"context"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Slow are clients that keep a server waiting: a quarter sends headers a byte at a time, a quarter
// bodies that never end, half never reads an answer. One that the server cuts off comes back at once.
type Slow struct {
	Address string // of the server, which speaks plain HTTP
	// Key is a good one for every other client that sends a body or does not read; "" for none of them.
	Key string
	// Body is the path of a route that takes one, Answer that of a GET with a large answer.
	Body, Answer string
	// Pace is how often each sends another byte, or asks again.
	Pace time.Duration

	connected, open atomic.Int64
	cutOff          [4]atomic.Int64 // by kind
}

// Kinds counts slow clients by what they are slow in.
type Kinds struct{ Headers, Bodies, Answers int }

// Run keeps n clients busy until ctx ends, and waits for their end.
func (s *Slow) Run(ctx context.Context, n int) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			for ctx.Err() == nil {
				s.once(ctx, i)
			}
		})
	}
	all.Wait()
}

// Connected is how many connections were made.
func (s *Slow) Connected() int { return int(s.connected.Load()) }

// Open is how many there are.
func (s *Slow) Open() int { return int(s.open.Load()) }

// CutOff is how many the server has ended.
func (s *Slow) CutOff() Kinds {
	var n [4]int
	for i := range n {
		n[i] = int(s.cutOff[i].Load())
	}
	return Kinds{n[0], n[1], n[2] + n[3]}
}

// once is the life of one connection.
func (s *Slow) once(ctx context.Context, kind int) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.Address)
	if err != nil {
		select {
		case <-ctx.Done():
		case <-time.After(s.Pace):
		}
		return
	}
	s.connected.Add(1)
	s.open.Add(1)
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		s.open.Add(-1)
		if stop() {
			s.cutOff[kind%4].Add(1)
			conn.Close()
		}
	}()
	authorization := ""
	if s.Key != "" && kind/4%2 == 0 {
		authorization = "Authorization: Bearer " + s.Key + "\r\n"
	}
	reads := true
	first, next := "", ""
	switch kind % 4 {
	case 0:
		first, next = "GET /healthz HTTP/1.1\r\nHost: slow\r\nX-Slow: ", "x"
	case 1:
		first, next = "POST "+s.Body+" HTTP/1.1\r\nHost: slow\r\nContent-Type: application/json\r\n"+authorization+"Content-Length: 100000\r\n\r\n{", " "
	default:
		reads = false
		path := s.Answer
		if authorization == "" {
			path = "/openapi.json" // which is there for anybody
		}
		next = "GET " + path + " HTTP/1.1\r\nHost: slow\r\n" + authorization + "\r\n"
		first = strings.Repeat(next, 30) // what fits into the system's buffers is soon written
		if tcp, ok := conn.(*net.TCPConn); ok {
			_ = tcp.SetReadBuffer(4096) // so that the answer stays the server's matter
		}
	}
	if reads {
		go func() { // an answer, or the end, ends the writing below
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}()
	}
	if _, err := io.WriteString(conn, first); err != nil {
		return
	}
	tick := time.NewTicker(s.Pace)
	defer tick.Stop()
	for {
		if _, err := io.WriteString(conn, next); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Latency are times that requests took.
type Latency []time.Duration

// At is the time within which a share of the requests was answered.
func (l Latency) At(share float64) time.Duration {
	if len(l) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(l))
	return sorted[min(len(sorted)-1, int(share*float64(len(sorted))))]
}

// String is what a person wants to know of them.
func (l Latency) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d requests", len(l))
	for _, p := range []struct {
		name  string
		share float64
	}{{"median", 0.5}, {"p95", 0.95}, {"p99", 0.99}, {"longest", 1}} {
		fmt.Fprintf(&b, ", %s %s", p.name, l.At(p.share).Round(10*time.Microsecond))
	}
	return b.String()
}
