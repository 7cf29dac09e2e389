package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// The time limits hold on the streams of an agent link too, whose deadlines are not the kernel's: a
// body that does not come, and an answer that is not taken, end; a slow answer does not.
func TestTimesOnStreams(t *testing.T) {
	b := newBench(t, nil)
	b.gateway.limits.upload = 100 * time.Millisecond
	b.gateway.limits.stuck = 100 * time.Millisecond
	host, guest := net.Pipe()
	config := yamux.DefaultConfig()
	config.LogOutput, config.Logger = nil, log.New(io.Discard, "", 0)
	server, err := yamux.Client(host, config)
	if err != nil {
		t.Fatal(err)
	}
	client, err := yamux.Server(guest, config)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: b.gateway.For("dt-1"), ErrorLog: log.New(io.Discard, "", 0)}
	ended := make(chan struct{})
	go func() { defer close(ended); web.Serve(server) }()
	defer func() { client.Close(); server.Close(); web.Close(); <-ended }()

	open := func(text string) (net.Conn, *bufio.Reader) {
		t.Helper()
		s, err := client.Open()
		if err != nil {
			t.Fatal(err)
		}
		s.SetDeadline(time.Now().Add(patience))
		if _, err := io.WriteString(s, text); err != nil {
			t.Fatal(err)
		}
		return s, bufio.NewReader(s)
	}
	s, in := open("POST " + messages + " HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
	response, err := http.ReadResponse(in, nil)
	if err != nil || response.StatusCode != http.StatusRequestTimeout {
		t.Errorf("a body that does not come: %v, %v", response, err)
	}
	s.Close()

	// The upload's limit is over long before the answer is.
	whole := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%s", messages, len(ask), ask)
	let := make(chan struct{})
	b.answers(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		http.NewResponseController(w).Flush()
		<-let
		io.WriteString(w, `{"late":true}`)
	})
	s, in = open(whole)
	if response, err = http.ReadResponse(in, nil); err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(3*b.gateway.limits.upload, func() { close(let) })
	if text, err := io.ReadAll(response.Body); err != nil || string(text) != `{"late":true}` {
		t.Errorf("a slow answer: %q, %v", text, err)
	}
	s.Close()

	// An answer without end that nobody takes: the provider hears of it.
	gone := make(chan struct{})
	b.answers(func(w http.ResponseWriter, r *http.Request) {
		defer close(gone)
		w.Header().Set("Content-Type", "text/event-stream")
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil {
				return
			}
		}
	})
	s, _ = open(whole)
	defer s.Close()
	select {
	case <-gone:
	case <-time.After(patience):
		t.Error("a guest that takes nothing holds the provider up")
	}
}

// A guest that announces much and sends little costs little.
func TestMemoryGrowsWithWhatArrives(t *testing.T) {
	for _, c := range []struct {
		sent      int
		announced int64
		most      int
	}{
		{0, 32 << 20, 100 << 10},
		{1000, 32 << 20, 100 << 10},
		{10 << 20, 10 << 20, 10<<20 + 1<<10},
		{10 << 20, -1, 32 << 20},
		{10 << 20, 5, 32 << 20},
	} {
		sent := bytes.Repeat([]byte("0123456789"), c.sent/10)
		got, err := readAll(bytes.NewReader(sent), c.announced)
		if err != nil || !bytes.Equal(got, sent) || cap(got) > c.most {
			t.Errorf("%d bytes of %d announced: %d in %d, %v", c.sent, c.announced, len(got), cap(got), err)
		}
	}
}
