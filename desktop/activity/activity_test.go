package activity

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/desktop"
)

// memory is a Store in memory that may fail.
type memory struct {
	mu      sync.Mutex
	entries []Entry
	query   Query
	fail    error
	pruned  chan time.Time
	writing chan struct{} // when not nil, a writing waits for it
}

func (m *memory) AppendActivity(_ context.Context, entries []Entry) error {
	if m.writing != nil {
		<-m.writing
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return m.fail
	}
	for _, e := range entries {
		e.ID = int64(len(m.entries) + 1)
		m.entries = append(m.entries, e)
	}
	return nil
}

func (m *memory) Activity(_ context.Context, query Query) ([]Entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.query = query
	return slices.Clone(m.entries), nil
}

func (m *memory) PruneActivity(_ context.Context, before time.Time) (int64, error) {
	m.pruned <- before
	return 3, nil
}

func (m *memory) all() []Entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.entries)
}

var quiet = slog.New(slog.DiscardHandler)

var start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func input(at time.Duration, kind string, change ...func(*Entry)) Entry {
	e := Entry{At: start.Add(at), Actor: ByKey, UserID: "usr-1", KeyID: "key-1", Action: "input", DesktopID: "dt-1",
		Details: map[string]int64{kind: 1}, Status: 200}
	for _, c := range change {
		c(&e)
	}
	e.tidy()
	return e
}

// The first of a kind is written at once, the others of its minute as one, and another minute begins.
func TestCounting(t *testing.T) {
	c := counter{open: map[kindOf]*counting{}}
	at := func(d time.Duration) time.Time { return start.Add(d) }
	if first, ok := c.add(input(0, "click"), at(0)); !ok || first.Count != 1 {
		t.Fatalf("the first one is held back: %+v", first)
	}
	for i := range 5 {
		kind := "click"
		if i%2 == 1 {
			kind = "type"
		}
		if e, ok := c.add(input(time.Duration(i+1)*time.Second, kind), at(time.Duration(i+1)*time.Second)); ok {
			t.Fatalf("number %d is not counted: %+v", i, e)
		}
	}
	// What differs in who, what, to which, or outcome is of another kind.
	for name, change := range map[string]func(*Entry){
		"key":     func(e *Entry) { e.KeyID = "key-2" },
		"desktop": func(e *Entry) { e.DesktopID = "dt-2" },
		"action":  func(e *Entry) { e.Action = "exec" },
		"status":  func(e *Entry) { e.Status = 423 },
		"address": func(e *Entry) { e.Address = "192.0.2.1" },
		"owner":   func(e *Entry) { e.Owner = "usr-2" },
	} {
		if _, ok := c.add(input(time.Second, "click", change), at(time.Second)); !ok {
			t.Errorf("another %s is counted as the same", name)
		}
	}
	if list := c.due(at(window - 1)); len(list) != 0 {
		t.Fatalf("written before the minute is over: %+v", list)
	}
	list := c.due(at(window))
	if len(list) != 1 {
		t.Fatalf("got %d entries, want one: %+v", len(list), list)
	}
	e := list[0]
	if e.Count != 5 || e.Details["click"] != 3 || e.Details["type"] != 2 || !e.At.Equal(at(time.Second)) || !e.Until.Equal(at(5*time.Second)) {
		t.Errorf("got %+v", e)
	}
	// It goes on: still counted. It rests: the next one is written at once again.
	if _, ok := c.add(input(window, "click"), at(window)); ok {
		t.Error("a kind that goes on is written one by one")
	}
	if list = c.due(at(2 * window)); len(list) != 1 || list[0].Count != 1 {
		t.Errorf("got %+v", list)
	}
	c.due(at(3 * window))
	if len(c.open) != 0 {
		t.Errorf("%d kinds are remembered that rest", len(c.open))
	}
	if _, ok := c.add(input(3*window, "click"), at(3*window)); !ok {
		t.Error("after a rest the first one is held back")
	}
}

// What a hostile caller makes up takes no more room than there is.
func TestCountingIsBounded(t *testing.T) {
	c := counter{open: map[kindOf]*counting{}}
	for i := range 2 * kinds {
		if _, ok := c.add(input(0, "click", func(e *Entry) { e.DesktopID = strings.Repeat("x", 1+i%200) + time.Duration(i).String() }), start); !ok {
			t.Fatalf("number %d is counted together with another", i)
		}
	}
	if len(c.open) != kinds {
		t.Errorf("%d kinds are remembered, want %d", len(c.open), kinds)
	}
	e := input(0, "a")
	for i := range 1000 {
		e.add(input(0, time.Duration(i).String()))
	}
	if len(e.Details) > maxDetails+1 || e.Details[Others] == 0 || e.Count != 1001 {
		t.Errorf("%d details, %d others, count %d", len(e.Details), e.Details[Others], e.Count)
	}
	long := Entry{TargetName: strings.Repeat("ü", MaxText), DesktopID: strings.Repeat("x", 1<<20)}
	long.tidy()
	if len(long.DesktopID) != MaxText || len(long.TargetName) > MaxText+3 {
		t.Errorf("%d and %d bytes", len(long.DesktopID), len(long.TargetName))
	}
}

// Whoever asks for the log finds what was noted before; closing writes what is still counted.
func TestNotedIsFound(t *testing.T) {
	store := &memory{}
	log := NewLog(store, 0, quiet)
	for range 10 {
		log.Note(input(0, "click"))
	}
	list, err := log.List(t.Context(), desktop.Caller{Local: true}, Query{})
	if err != nil || len(list) != 1 || list[0].Count != 1 || list[0].Outcome != Done {
		t.Fatalf("got %+v, %v", list, err)
	}
	log.Close()
	if list = store.all(); len(list) != 2 || list[1].Count != 9 || list[1].Details["click"] != 9 {
		t.Errorf("got %+v", list)
	}
	log.Note(input(0, "click")) // after the end: nothing happens
	if log.Close() != nil || len(store.all()) != 2 {
		t.Error("a closed log writes")
	}
}

// A user finds the entries of the own log alone, whatever is asked for.
func TestWhoFindsWhat(t *testing.T) {
	store := &memory{}
	log := NewLog(store, 0, quiet)
	defer log.Close()
	for _, test := range []struct {
		name   string
		caller desktop.Caller
		want   string
		code   desktop.Code
	}{
		{"operator", desktop.Caller{Local: true}, "asked", ""},
		{"administrator", desktop.Caller{User: desktop.User{ID: "usr-9", Role: desktop.RoleAdmin}}, "asked", ""},
		{"user", desktop.Caller{User: desktop.User{ID: "usr-1", Role: desktop.RoleUser}}, "usr-1", ""},
		{"nobody", desktop.Caller{}, "", desktop.Unauthenticated},
	} {
		store.query = Query{}
		_, err := log.List(t.Context(), test.caller, Query{Owner: "asked"})
		if test.code != "" {
			if desktop.CodeOf(err) != test.code {
				t.Errorf("%s: %v", test.name, err)
			}
		} else if err != nil || store.query.Owner != test.want {
			t.Errorf("%s: asked for the log of %q, want %q; %v", test.name, store.query.Owner, test.want, err)
		}
	}
}

// A store that is behind holds nobody up; how much is lost is told.
func TestNoteNeverWaits(t *testing.T) {
	store := &memory{writing: make(chan struct{})}
	log := NewLog(store, 0, quiet)
	for i := range 3 * queued { // more than the queue and what is being written can hold
		log.Note(input(0, "click", func(e *Entry) { e.Target = time.Duration(i).String() }))
	}
	close(store.writing)
	log.Close()
	var kept, lost int64
	for _, e := range store.all() {
		if e.Action == "activity.lost" {
			lost += e.Count
		} else {
			kept += e.Count
		}
	}
	if kept+lost != 3*queued || lost == 0 {
		t.Errorf("%d kept and %d lost, of %d", kept, lost, 3*queued)
	}
}

// A store that fails for a while loses nothing; one that fails at the end is given up.
func TestFailingStore(t *testing.T) {
	store := &memory{fail: errors.New("disk full")}
	log := NewLog(store, 0, quiet)
	log.Note(input(0, "click"))
	if err := log.flush(t.Context()); err == nil {
		t.Error("the failure is hidden")
	}
	if err := log.Record(t.Context(), input(0, "click")); err == nil {
		t.Error("an entry that is not written counts as written")
	}
	store.mu.Lock()
	store.fail = nil
	store.mu.Unlock()
	if err := log.flush(t.Context()); err != nil || len(store.all()) != 1 {
		t.Errorf("%v, %+v", err, store.all())
	}
	store.mu.Lock()
	store.fail = errors.New("disk full")
	store.mu.Unlock()
	log.Note(input(0, "click", func(e *Entry) { e.KeyID = "key-2" }))
	log.Close() // returns
}

// What was recorded is in the store when Record returns, also for a caller that has gone.
func TestRecord(t *testing.T) {
	store := &memory{}
	log := NewLog(store, 0, quiet)
	defer log.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := log.Record(ctx, Entry{Action: "desktop.stop", Status: 202}); err != nil {
		t.Fatal(err)
	}
	list := store.all()
	if len(list) != 1 || list[0].Count != 1 || list[0].Outcome != Done || list[0].At.IsZero() || list[0].Until.Before(list[0].At) {
		t.Errorf("got %+v", list)
	}
}

func TestPrune(t *testing.T) {
	store := &memory{pruned: make(chan time.Time)}
	began := time.Now()
	log := NewLog(store, 48*time.Hour, quiet)
	if before := <-store.pruned; before.Before(began.Add(-48*time.Hour)) || before.After(time.Now().Add(-48*time.Hour)) {
		t.Errorf("entries from before %s are forgotten at %s", before, began)
	}
	log.Close()
}

// Of a command its program is told, and nothing of what stands behind it or may have been quoted.
func TestProgram(t *testing.T) {
	for command, want := range map[string]string{
		"ls -l /tmp":                         "ls",
		"  /usr/bin/python3 -c 'secret'":     "python3",
		"A=1 B=/x make all":                  "make",
		"ls|wc -l":                           "ls",
		"curl -H 'Authorization: hunter2' x": "curl",
		"TOKEN=hunter2 curl x":               "curl",
		"TOKEN='my hunter2 x' curl":          Shell,
		`TOKEN="my hunter2 x" curl`:          Shell,
		`TOKEN=my\ hunter2 curl`:             Shell,
		"TOKEN=$(cat hunter2) curl":          Shell,
		"TOKEN=`cat hunter2` curl":           Shell,
		"TOKEN=hunter2":                      Shell,
		"TOKEN=hunter2;ls":                   Shell,
		"'hunter2' x":                        Shell,
		"$HUNTER2":                           Shell,
		"(cd /tmp; ls)":                      Shell,
		"":                                   Shell,
		"hünter2 x":                          Shell,
		strings.Repeat("x", 100):             Shell,
		"5z":                                 Shell,
		"# comment\nls":                      Shell,
	} {
		if got := Program(command); got != want {
			t.Errorf("%q is told as %q, want %q", command, got, want)
		}
	}
}

// BenchmarkNote is what input pays for being in the log.
func BenchmarkNote(b *testing.B) {
	log := NewLog(&memory{}, 0, quiet)
	defer log.Close()
	e := input(0, "click")
	for b.Loop() {
		log.Note(e)
	}
}
