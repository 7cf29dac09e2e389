package usage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
)

// memory keeps every row that was added.
type memory struct {
	mu   sync.Mutex
	rows []Row
	at   []time.Time
	fail error
}

func (m *memory) AddUsage(_ context.Context, at time.Time, row Row) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rows, m.at = append(m.rows, row), append(m.at, at)
	return m.fail
}

func (m *memory) Usage(_ context.Context, q Query) ([]Row, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []Row
	for i, row := range m.rows {
		if (q.Owner == "" || row.Owner == q.Owner) && (q.DesktopID == "" || row.DesktopID == q.DesktopID) && !m.at[i].Before(q.Since) {
			list = append(list, row)
		}
	}
	return list, m.fail
}

func refused(t *testing.T, err error, wait time.Duration) {
	t.Helper()
	var e *desktop.Error
	if !errors.As(err, &e) || e.Code != desktop.RateLimited || e.RetryAfter != wait {
		t.Errorf("the error is %v, want one that says to wait %s", err, wait)
	}
}

func TestLimits(t *testing.T) {
	store := &memory{}
	now := time.Date(2026, 3, 1, 23, 58, 30, 0, time.UTC)
	meter := func(perDesktop, perOwner Limits) *Meter {
		m := NewMeter(store, perDesktop, perOwner, slog.New(slog.DiscardHandler))
		m.clock = func() time.Time { return now }
		return m
	}
	ctx := t.Context()
	ask := func(m *Meter, owner, id string) error { return m.Allow(ctx, owner, id) }
	ok := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	took := func(m *Meter, owner, id string, u model.Usage) {
		t.Helper()
		ok(m.Record(ctx, owner, id, model.Endpoint{Model: "m", Provider: "prv-1"}, u))
	}

	// Requests of a minute, for a desktop and for all of an owner's.
	m := meter(Limits{RequestsPerMinute: 2}, Limits{RequestsPerMinute: 3})
	ok(ask(m, "a", "1"))
	ok(ask(m, "a", "1"))
	refused(t, ask(m, "a", "1"), 30*time.Second)
	ok(ask(m, "a", "2"))
	refused(t, ask(m, "a", "2"), 30*time.Second)
	ok(ask(m, "b", "3"))
	now = now.Add(30 * time.Second)
	ok(ask(m, "a", "1"))

	// Tokens: what is read from a cache is not counted.
	m = meter(Limits{TokensPerMinute: 100}, Limits{TokensPerDay: 300})
	ok(ask(m, "a", "1"))
	took(m, "a", "1", model.Usage{Input: 50, CacheRead: 1000, CacheWrite: 20, Output: 29})
	ok(ask(m, "a", "1"))
	took(m, "a", "1", model.Usage{Output: 1})
	refused(t, ask(m, "a", "1"), time.Minute)
	ok(ask(m, "a", "2"))
	took(m, "a", "2", model.Usage{Input: 200})
	refused(t, ask(m, "a", "3"), time.Minute) // the day ends then, too

	// A new process knows of the day what the store has, and the next day begins with nothing.
	m = meter(Limits{}, Limits{TokensPerDay: 300})
	refused(t, ask(m, "a", "3"), time.Minute)
	ok(ask(m, "b", "3"))
	now = now.Add(time.Minute)
	ok(ask(m, "a", "3"))

	store.fail = errors.New("the disk is full")
	if err := m.Record(ctx, "a", "1", model.Endpoint{}, model.Usage{}); !errors.Is(err, store.fail) {
		t.Errorf("%v", err)
	}
}

// Limits hold however many ask at once.
func TestLimitsAtOnce(t *testing.T) {
	m := NewMeter(&memory{}, Limits{RequestsPerDay: 50}, Limits{}, slog.New(slog.DiscardHandler))
	m.clock = func() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }
	allowed := make(chan bool, 200)
	for range cap(allowed) {
		go func() { allowed <- m.Allow(t.Context(), "a", "1") == nil }()
	}
	n := 0
	for range cap(allowed) {
		if <-allowed {
			n++
		}
	}
	if n != 50 {
		t.Errorf("%d were allowed", n)
	}
}

func TestWhoseUsage(t *testing.T) {
	store := &memory{rows: []Row{{Owner: "a", DesktopID: "1"}, {Owner: "b", DesktopID: "2"}}, at: make([]time.Time, 2)}
	m := NewMeter(store, Limits{}, Limits{}, slog.New(slog.DiscardHandler))
	caller := desktop.Caller{User: desktop.User{ID: "a"}}
	if rows, err := m.Usage(t.Context(), caller, Query{}); err != nil || len(rows) != 1 || rows[0].Owner != "a" {
		t.Errorf("%+v, %v", rows, err)
	}
	if rows, err := m.Usage(t.Context(), caller, Query{DesktopID: "2"}); err != nil || len(rows) != 0 {
		t.Errorf("%+v, %v", rows, err)
	}
	if _, err := m.Usage(t.Context(), caller, Query{Owner: "b"}); desktop.CodeOf(err) != desktop.Invalid {
		t.Errorf("%v", err)
	}
	if rows, err := m.Usage(t.Context(), desktop.Caller{Local: true}, Query{}); err != nil || len(rows) != 2 {
		t.Errorf("%+v, %v", rows, err)
	}
	now := time.Now()
	if _, err := m.Usage(t.Context(), caller, Query{Since: now, Until: now}); desktop.CodeOf(err) != desktop.Invalid {
		t.Errorf("%v", err)
	}
}
