package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// These attacks speak the multiplexer as they should, and HTTP on its streams as they like.

// session is a session with the host whose status says that the desktop is ready.
func session(misbehave func(*yamux.Session, time.Time)) func(time.Time) error {
	return raw(true, func(p *port, until time.Time) error {
		config := yamux.DefaultConfig()
		config.LogOutput = io.Discard
		config.KeepAliveInterval = time.Minute
		s, err := yamux.Server(p, config)
		if err != nil {
			return err
		}
		defer s.Close()
		go misbehave(s, until)
		select {
		case <-s.CloseChan():
			return io.EOF
		case <-time.After(time.Until(until)):
			return nil
		}
	})
}

const status = `{"ready":true,"display":{"width":1280,"height":800},"version":"hostile","bootId":"b"}` + "\n"

// serve answers each of the host's requests by what answer writes after its head.
func serve(s *yamux.Session, answer func(conn net.Conn, request *http.Request)) {
	for {
		accepted, err := s.Accept()
		if err != nil {
			return
		}
		conn := pieces{accepted}
		go func() {
			defer conn.Close()
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, r.Body); err != nil {
				return
			}
			if r.URL.Path == "/status" {
				io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
				endless(conn, strings.Repeat(status, 300)) // as fast as it can
				return
			}
			answer(conn, r)
		}()
	}
}

// pieces writes frames no larger than the host takes.
type pieces struct{ net.Conn }

func (p pieces) Write(b []byte) (int, error) {
	total := 0
	for {
		n, err := p.Conn.Write(b[total:min(len(b), total+32<<10)])
		if total += n; err != nil || total == len(b) {
			return total, err
		}
	}
}

// endless repeats a piece until nobody takes it.
func endless(w io.Writer, piece string) {
	for {
		if _, err := io.WriteString(w, piece); err != nil {
			return
		}
	}
}

// badAnswers never end, and hold what is dearest to read.
func badAnswers(s *yamux.Session, _ time.Time) {
	serve(s, func(conn net.Conn, r *http.Request) {
		io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		switch r.URL.Path {
		case "/exec": // output of characters that become six each
			endless(conn, "\x01\x00\x01\x00\x00"+strings.Repeat("\x01", 65536))
		case "/windows":
			io.WriteString(conn, "[{}")
			endless(conn, strings.Repeat(",{}", 20_000))
		case "/capture":
			io.WriteString(conn, "\x00\x00\x20\x00\x00\x00\x20\x00"+strings.Repeat("\x00", 24))
			endless(conn, strings.Repeat("rgba", 16_000))
		default:
			endless(conn, strings.Repeat("x", 65_536))
		}
	})
}

// bombs are small and claim to be large.
func bombs(s *yamux.Session, _ time.Time) {
	var small bytes.Buffer
	z, _ := gzip.NewWriterLevel(&small, gzip.BestCompression)
	zeros := make([]byte, 1<<20)
	for range 256 {
		z.Write(zeros)
	}
	z.Close()
	var mu sync.Mutex
	n := 0
	serve(s, func(conn net.Conn, r *http.Request) {
		mu.Lock()
		n++
		kind := n % 4
		mu.Unlock()
		switch kind {
		case 0:
			fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n%s", small.Len(), small.Bytes())
		case 1:
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 9000000000000000000\r\n\r\n")
			io.WriteString(conn, strings.Repeat("[", 1<<20))
		case 2: // a head without end
			io.WriteString(conn, "HTTP/1.1 200 OK\r\n")
			endless(conn, strings.Repeat("A: "+strings.Repeat("b", 1000)+"\r\n", 50))
		case 3: // heads without end
			endless(conn, strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n", 1000))
		}
	})
}

// slowAnswers come a byte a second, on every stream that there is; and so do requests.
func slowAnswers(s *yamux.Session, until time.Time) {
	go serve(s, func(conn net.Conn, r *http.Request) {
		drip(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n"+strings.Repeat(" ", 1000), until)
	})
	for range 200 {
		go func() {
			if conn, err := s.Open(); err == nil {
				drip(conn, "POST /anthropic/v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\n", until)
			}
		}()
	}
}

func drip(w io.Writer, text string, until time.Time) {
	for i := range len(text) {
		if _, err := io.WriteString(w, text[i:i+1]); err != nil || time.Now().After(until) {
			return
		}
		time.Sleep(time.Second)
	}
}

// badRequests ask the host for models: large ones, that say that they are larger, that nobody waits for.
func badRequests(s *yamux.Session, until time.Time) {
	go serve(s, func(conn net.Conn, _ *http.Request) { time.Sleep(time.Until(until)) })
	for i := range 100 {
		go func() {
			for time.Now().Before(until) && !s.IsClosed() {
				opened, err := s.Open()
				if err != nil {
					return
				}
				conn := pieces{opened}
				length := 32 << 20
				if i%2 == 0 {
					length = 9 << 40
				}
				fmt.Fprintf(conn, "POST /anthropic/v1/messages HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n{\"model\":\"", length)
				endless(conn, strings.Repeat("a", 32<<10)) // it is left open when nobody takes more
			}
		}()
	}
}
