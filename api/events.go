package api

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"bureau/desktop"
	"bureau/desktop/activity"
)

const (
	// glance is between two looks at the desktops, while somebody follows them. A look is at memory alone.
	glance = 100 * time.Millisecond
	// leaf is how many looks at the desktops there are for one at the log.
	leaf = 10
	// remembered is how many events can be resumed after.
	remembered = 4096
)

// Kinds of events.
const (
	eventStatus   = "desktop.status"
	eventReady    = "desktop.agentReady"
	eventActivity = "activity"
	eventReset    = "reset"
)

// news is what happens to all desktops, for those who follow it.
//
// It looks at the desktops and tells what is other than it was. So an event is a state and not a
// change: whoever has missed some is right again with the next, and nothing has to remember to report
// what it does. It looks only while somebody follows.
type news struct {
	s     *Server
	epoch string // tells ids of this process from those of another

	looking sync.Mutex // one look at a time

	mu        sync.Mutex
	followers int
	stop      context.CancelFunc
	ended     chan struct{}
	states    map[string]state // by desktop
	seen      int64            // the last entry of the log
	began     bool             // seen is known
	next      int64
	tail      []happened    // the newest last
	changed   chan struct{} // closed, and replaced, with each event
}

// state is a desktop as it was last seen.
type state struct {
	desktop desktop.Desktop
	text    []byte
}

// happened is an event.
type happened struct {
	number  int64
	kind    string
	owner   string // whose it is
	desktop string // id
	log     bool   // an administrator's, too
	data    []byte
}

func newNews(s *Server) *news {
	return &news{s: s, epoch: strings.ToLower(rand.Text()[:8]), states: map[string]state{}, next: 1, changed: make(chan struct{})}
}

// join begins to follow; leave ends it. What is known is of this moment when join returns.
func (n *news) join(ctx context.Context) (leave func()) {
	n.look(ctx, true)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.followers++; n.followers == 1 {
		var looking context.Context
		looking, n.stop = context.WithCancel(context.WithoutCancel(ctx))
		n.ended = make(chan struct{})
		go n.run(looking, n.ended)
	}
	return func() {
		n.mu.Lock()
		n.followers--
		last, ended := n.followers == 0, n.ended
		if last {
			n.stop()
		}
		n.mu.Unlock()
		if last {
			<-ended
		}
	}
}

func (n *news) run(ctx context.Context, ended chan struct{}) {
	defer close(ended)
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for i := 1; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			n.look(ctx, i%leaf == 0)
		}
	}
}

// look tells what is other than it was.
func (n *news) look(ctx context.Context, log bool) {
	n.looking.Lock()
	defer n.looking.Unlock()
	all := n.s.desktops.All()
	var entries []activity.Entry
	if log && n.s.activity != nil {
		entries = n.read(ctx)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	there := map[string]bool{}
	for _, d := range all {
		there[d.ID] = true
		text := asJSON(d)
		was, known := n.states[d.ID]
		if known && bytes.Equal(was.text, text) {
			continue
		}
		n.states[d.ID] = state{d, text}
		n.tell(happened{kind: eventStatus, owner: d.Owner, desktop: d.ID, data: text})
		if d.AgentReady != was.desktop.AgentReady {
			n.tell(readiness(d))
		}
	}
	for id, was := range n.states {
		if !there[id] {
			delete(n.states, id)
			gone := was.desktop
			gone.Status, gone.AgentReady, gone.IPAddress, gone.BootStage, gone.Lease = desktop.Destroyed, false, nil, "", nil
			n.tell(happened{kind: eventStatus, owner: gone.Owner, desktop: id, data: asJSON(gone)})
		}
	}
	for _, e := range entries {
		n.seen = e.ID
		n.tell(happened{kind: eventActivity, owner: e.Owner, desktop: e.DesktopID, log: true, data: asJSON(e)})
	}
}

// read is what is new in the log. The first time it is nothing: what was before is for the log's own
// route to tell.
func (n *news) read(ctx context.Context) []activity.Entry {
	query := activity.Query{Cursor: n.seen, Oldest: true, Limit: remembered / 4}
	if !n.began {
		query = activity.Query{Limit: 1}
	}
	entries, err := n.s.activity.List(ctx, desktop.Caller{Local: true}, query)
	if err != nil {
		if ctx.Err() == nil {
			n.s.log.Warn("the activity log cannot be followed", "error", err)
		}
		return nil
	}
	if n.began {
		return entries
	}
	n.began = true
	for _, e := range entries {
		n.seen = e.ID
	}
	return nil
}

func readiness(d desktop.Desktop) happened {
	return happened{kind: eventReady, owner: d.Owner, desktop: d.ID, data: asJSON(map[string]any{"id": d.ID, "agentReady": d.AgentReady})}
}

// tell adds an event. n.mu must be held.
func (n *news) tell(e happened) {
	e.number = n.next
	n.next++
	if n.tail = append(n.tail, e); len(n.tail) > 2*remembered {
		n.tail = append([]happened{}, n.tail[len(n.tail)-remembered:]...)
	}
	close(n.changed)
	n.changed = make(chan struct{})
}

// after are the events after one that concern somebody, the number of the last event of all, and what is
// closed when there are more. lost tells that some are no longer known.
func (n *news) after(number int64, concerns func(happened) bool) (events []happened, last int64, more <-chan struct{}, lost bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	first := n.next - int64(len(n.tail))
	if number < first-1 || number >= n.next {
		return nil, n.next - 1, n.changed, true
	}
	for _, e := range n.tail[number-first+1:] {
		if concerns(e) {
			events = append(events, e)
		}
	}
	return events, n.next - 1, n.changed, false
}

// present are events that tell how everything is now.
func (n *news) present(concerns func(happened) bool) (events []happened, last int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.states {
		e := happened{number: n.next - 1, kind: eventStatus, owner: s.desktop.Owner, desktop: s.desktop.ID, data: s.text}
		if concerns(e) {
			events = append(events, e)
		}
	}
	return events, n.next - 1
}

// position is the event that an id names; ok is false for one that is not of this process.
func (n *news) position(id string) (number int64, ok bool) {
	epoch, rest, _ := strings.Cut(id, "-")
	number, err := strconv.ParseInt(rest, 10, 64)
	return number, err == nil && epoch == n.epoch && number >= 0
}

func (n *news) id(number int64) string { return fmt.Sprintf("%s-%d", n.epoch, number) }

func asJSON(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil { // of our own types: cannot be
		panic(err)
	}
	return text
}

func (s *Server) eventRoutes() {
	type input struct {
		Desktop     string `query:"desktop" maxLength:"63" doc:"Id of the one desktop to follow; all that are the caller's when absent"`
		DurationMs  int64  `query:"durationMs" minimum:"1" maximum:"86400000" doc:"For how long; without end when absent"`
		LastEventID string `header:"Last-Event-ID" doc:"The id of the last event that was read: those after it follow"`
	}
	register(s, needs(desktop.CanRead), huma.Operation{
		OperationID: "followEvents", Method: http.MethodGet, Path: "/v1/events", Tags: []string{tagDesktops},
		Summary: "Follow the caller's desktops",
		Description: "Events, each with an `id`: `desktop.status` (the desktop, whatever has changed of it; with the status `destroyed` when it is gone), " +
			"`desktop.agentReady` (`{id, agentReady}`, when that has changed) and `activity` (an entry of the log).\n\n" +
			"It begins with how every desktop is. After `Last-Event-ID` it goes on from there instead; when those events are no longer " +
			"known, `reset` says so and everything is told as at the beginning. The stream ends when the key is revoked, and when the " +
			"appliance does.",
		Responses: map[string]*huma.Response{"200": {Description: "Events, for as long as they are followed", Content: map[string]*huma.MediaType{
			eventStream: streamOf("id: k7-1\nevent: desktop.status\ndata: {\"id\":\"dt-7k3m9q2w5x8r4t6y\",\"status\":\"running\"}\n\n")}}},
	}, func(_ context.Context, in *input) (*bodyAnswer, error) {
		return &bodyAnswer{func(ctx huma.Context) {
			s.followEvents(ctx, in.Desktop, in.LastEventID, milliseconds(int(in.DurationMs)))
		}}, nil
	})
}

func (s *Server) followEvents(ctx huma.Context, id, lastID string, duration time.Duration) {
	caller := callerOf(ctx.Context())
	concerns := func(e happened) bool {
		if id != "" && e.desktop != id {
			return false
		}
		return caller.Owns(e.owner) || e.log && caller.User.Role == desktop.RoleAdmin
	}
	within, cancel := context.WithCancel(ctx.Context())
	defer cancel()
	if duration > 0 {
		defer time.AfterFunc(duration, cancel).Stop()
	}
	out := &eventWriter{w: humagin.Unwrap(ctx).Writer, gone: cancel}
	leave := s.news.join(within)
	defer leave()
	out.comment("alive") // the answer has begun, if nothing else is to be said
	at, resumed := s.news.position(lastID)
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	for first := true; ; first = false {
		events, last, more, lost := s.news.after(at, concerns)
		if first && !resumed || lost {
			if lastID != "" || !first {
				out.write("event: " + eventReset + "\ndata: {}\n\n")
			}
			events, last = s.news.present(concerns)
		}
		for _, e := range events {
			out.write("id: " + s.news.id(e.number) + "\nevent: " + e.kind + "\ndata: " + string(e.data) + "\n\n")
		}
		at = last
		for waiting := true; waiting; {
			select {
			case <-more:
				waiting = false
			case <-within.Done():
				return
			case <-s.ending:
				return
			case <-beat.C:
				out.comment("alive")
				if _, err := s.authenticate(within, ctx.Header("Authorization")); err != nil {
					return
				}
			}
		}
	}
}
