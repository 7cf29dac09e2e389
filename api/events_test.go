package api

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"bureau/desktop"
)

// event is one as a client reads it.
type event struct{ id, kind, data string }

// feed is a stream that a client reads; next waits for an event.
type feed struct {
	t      *testing.T
	lines  *bufio.Scanner
	cancel context.CancelFunc
}

func (b *bench) follow(query, key, last string) *feed {
	b.t.Helper()
	ctx, cancel := context.WithCancel(b.t.Context())
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, b.url+"/v1/events"+query, nil)
	if err != nil {
		b.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
	if last != "" {
		request.Header.Set("Last-Event-ID", last)
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil || answer.StatusCode != 200 || answer.Header.Get("Content-Type") != eventStream {
		b.t.Fatalf("%v, %v", answer, err)
	}
	b.t.Cleanup(func() { cancel(); answer.Body.Close() })
	return &feed{b.t, bufio.NewScanner(answer.Body), cancel}
}

// next is the next event; its kind is "" when the stream has ended.
func (e *feed) next() event {
	e.t.Helper()
	var got event
	for e.lines.Scan() {
		name, value, _ := strings.Cut(e.lines.Text(), ": ")
		switch name {
		case "id":
			got.id = value
		case "event":
			got.kind = value
		case "data":
			got.data = value
		}
		if e.lines.Text() == "" && got.kind != "" {
			return got
		}
	}
	return event{}
}

// until reads up to an event of a kind whose data has a text.
func (e *feed) until(kind, text string) event {
	e.t.Helper()
	for {
		got := e.next()
		if got.kind == "" {
			e.t.Fatalf("the stream ended before %s with %s", kind, text)
		}
		if got.kind == kind && strings.Contains(got.data, text) {
			return got
		}
	}
}

// Whoever follows is told how things are, then what changes, and after a break what was missed; and
// never of others' desktops.
func TestEvents(t *testing.T) {
	b := newBench(t, nil)
	mine := b.follow("", b.key, "")
	first := mine.next()
	var d desktop.Desktop
	if err := json.Unmarshal([]byte(first.data), &d); err != nil || first.kind != eventStatus || d.ID != "dt-1" || first.id == "" {
		t.Fatalf("got %+v, %v", first, err)
	}
	b.Change("dt-2", func(d *desktop.Desktop) { d.Name = "secret" })
	b.Change("dt-1", func(d *desktop.Desktop) { d.AgentReady, d.Status = false, desktop.Stopping })
	if got := mine.next(); got.kind != eventStatus || !strings.Contains(got.data, `"status":"stopping"`) {
		t.Errorf("got %+v", got)
	}
	last := mine.next()
	if last.kind != eventReady || last.data != `{"agentReady":false,"id":"dt-1"}` {
		t.Errorf("got %+v", last)
	}
	mine.cancel()

	// Nobody follows: what happens now is told afterwards.
	b.Change("dt-1", func(d *desktop.Desktop) { d.Name = "meanwhile" })
	b.do("POST", "/v1/desktops/dt-1/click", `{}`)
	again := b.follow("", b.key, last.id)
	if got := again.next(); got.kind != eventStatus || !strings.Contains(got.data, "meanwhile") {
		t.Errorf("got %+v", got)
	}
	if got := again.until(eventActivity, `"action":"input"`); !strings.Contains(got.data, `"dt-1"`) || strings.Contains(got.data, "secret") {
		t.Errorf("got %+v", got)
	}
	b.do("DELETE", "/v1/desktops/dt-1", "")
	again.until(eventStatus, `"status":"destroyed"`)
	again.until(eventActivity, `"action":"desktop.destroy"`)

	// An id of another process, or one that is long gone: everything anew.
	for _, id := range []string{"other-1", "nonsense", b.server.news.id(1 << 40)} {
		lost := b.follow("", b.other, id)
		if got := lost.next(); got.kind != eventReset {
			t.Errorf("after %s: got %+v", id, got)
		}
		if got := lost.next(); got.kind != eventStatus || !strings.Contains(got.data, `"dt-2"`) {
			t.Errorf("after %s: got %+v", id, got)
		}
	}
}

// More than is remembered has happened while a client was away.
func TestEventsThatAreForgotten(t *testing.T) {
	b := newBench(t, nil)
	stream := b.follow("?desktop=dt-1", b.key, "")
	first := stream.next()
	n := b.server.news
	for range 3 * remembered {
		n.mu.Lock()
		n.tell(happened{kind: eventStatus, owner: "usr-9", data: []byte("{}")})
		n.mu.Unlock()
	}
	n.mu.Lock()
	kept := len(n.tail)
	n.mu.Unlock()
	if kept > 2*remembered {
		t.Errorf("%d events are kept", kept)
	}
	again := b.follow("?desktop=dt-1", b.key, first.id)
	if got := again.next(); got.kind != eventReset {
		t.Errorf("got %+v", got)
	}
	if got := again.next(); got.kind != eventStatus || !strings.Contains(got.data, `"dt-1"`) {
		t.Errorf("got %+v", got)
	}
}

// A stream ends after its time, and with the last one the looking ends, too.
func TestEventsEnd(t *testing.T) {
	b := newBench(t, nil)
	stream := b.follow("?durationMs=50", b.key, "")
	for stream.next().kind != "" {
	}
	n := b.server.news
	n.mu.Lock()
	ended := n.ended
	n.mu.Unlock()
	<-ended // or the test hangs
}
