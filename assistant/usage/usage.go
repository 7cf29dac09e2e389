// Package usage keeps count of what models are asked and how many tokens that takes, and holds
// desktops and their owners to limits.
package usage

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

// Bucket is the precision in which usage is kept.
const Bucket = time.Hour

// Row is what one model took for one desktop.
type Row struct {
	Owner     string       `json:"owner" doc:"Id of the desktop's owner"`
	DesktopID string       `json:"desktopId"`
	Provider  string       `json:"provider" doc:"Id of the provider that lent the model; it may be gone since"`
	Format    model.Format `json:"format" enum:"anthropic,openai,openai-chat,gemini"`
	Model     string       `json:"model"`
	Requests  int64        `json:"requests" doc:"Answers of the model"`
	model.Usage
}

// Query selects from what was used. Empty members select everything; times are rounded down to the
// hour, and Until is not part of it.
type Query struct {
	Owner     string
	DesktopID string
	Since     time.Time
	Until     time.Time
}

// Store keeps usage.
type Store interface {
	// AddUsage adds to what is kept of a row's desktop, provider and model in the hour of at.
	AddUsage(ctx context.Context, at time.Time, row Row) error
	// Usage is the sums over time for each desktop, provider and model, the largest consumers first.
	Usage(ctx context.Context, query Query) ([]Row, error)
}

// Limits are how much may be asked; 0 is no limit. Tokens are those of answers, those read anew and
// those written to a cache; what is read from a provider's cache, which costs little, is not counted.
type Limits struct {
	RequestsPerMinute int64
	TokensPerMinute   int64
	RequestsPerDay    int64
	TokensPerDay      int64
}

// Meter is an assistant.Meter. Minutes are the clock's, days those of UTC. What an answer took is
// known when it has come, so that a limit on tokens is overrun by those that are under way.
type Meter struct {
	store   Store
	desktop Limits
	owner   Limits
	log     *slog.Logger
	clock   func() time.Time

	mu     sync.Mutex
	day    int64 // which all counts are of
	counts map[subject]*count
}

var _ assistant.Meter = (*Meter)(nil)

// subject is who is held to limits: a desktop, or an owner with all their desktops.
type subject struct{ owner, desktopID string }

func (s subject) String() string {
	if s.desktopID != "" {
		return "this desktop"
	}
	return "the owner's desktops together"
}

// count is what a subject has used of a day, and of the present minute.
type count struct {
	requests, tokens             int64
	minute                       int64
	minuteRequests, minuteTokens int64
}

// NewMeter makes a Meter that holds each desktop, and each owner, to limits.
func NewMeter(store Store, perDesktop, perOwner Limits, log *slog.Logger) *Meter {
	return &Meter{store: store, desktop: perDesktop, owner: perOwner, log: log, clock: time.Now, counts: map[subject]*count{}}
}

const day = 24 * time.Hour

// Allow implements assistant.Meter. A request that is allowed is counted.
func (m *Meter) Allow(ctx context.Context, owner, desktopID string) error {
	at := m.clock()
	both := []struct {
		subject
		limits Limits
		count  *count
	}{{subject{owner, desktopID}, m.desktop, nil}, {subject{owner, ""}, m.owner, nil}}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i := range both {
		var err error
		if both[i].count, err = m.of(ctx, both[i].subject, at); err != nil {
			return err
		}
		if err := both[i].limits.exceeded(both[i].subject, both[i].count, at); err != nil {
			return err
		}
	}
	for _, b := range both {
		b.count.requests++
		b.count.minuteRequests++
	}
	return nil
}

// of is the present count of a subject, from the store when it is the day's first. m.mu is held: two
// first requests must not both begin at what the store has.
func (m *Meter) of(ctx context.Context, s subject, at time.Time) (*count, error) {
	today := at.UTC().Truncate(day)
	if m.day != today.Unix() {
		m.day = today.Unix()
		clear(m.counts)
	}
	c := m.counts[s]
	if c == nil {
		rows, err := m.store.Usage(ctx, Query{Owner: s.owner, DesktopID: s.desktopID, Since: today})
		if err != nil {
			return nil, fmt.Errorf("look up what was used today: %w", err)
		}
		c = &count{}
		for _, row := range rows {
			c.requests += row.Requests
			c.tokens += counted(row.Usage)
		}
		m.counts[s] = c
	}
	if minute := at.Unix() / 60; c.minute != minute {
		c.minute, c.minuteRequests, c.minuteTokens = minute, 0, 0
	}
	return c, nil
}

// counted is how many tokens of a usage count towards limits.
func counted(u model.Usage) int64 { return u.Input + u.CacheWrite + u.Output }

// exceeded is RateLimited when a subject has used up what it may.
func (l Limits) exceeded(s subject, c *count, at time.Time) error {
	for _, limit := range []struct {
		most, used   int64
		what, period string
		length       time.Duration
	}{
		{l.RequestsPerDay, c.requests, "requests", "a day", day},
		{l.TokensPerDay, c.tokens, "tokens", "a day", day},
		{l.RequestsPerMinute, c.minuteRequests, "requests", "a minute", time.Minute},
		{l.TokensPerMinute, c.minuteTokens, "tokens", "a minute", time.Minute},
	} {
		if limit.most > 0 && limit.used >= limit.most {
			e := desktop.Errorf(desktop.RateLimited, "%s may use %d %s of models %s, and has", s, limit.most, limit.what, limit.period)
			e.RetryAfter = at.UTC().Truncate(limit.length).Add(limit.length).Sub(at)
			return e
		}
	}
	return nil
}

// Record implements assistant.Meter.
func (m *Meter) Record(ctx context.Context, owner, desktopID string, endpoint model.Endpoint, u model.Usage) error {
	at := m.clock()
	row := Row{Owner: owner, DesktopID: desktopID, Provider: endpoint.Provider, Format: endpoint.Format, Model: endpoint.Model, Requests: 1, Usage: u}
	m.mu.Lock()
	for _, s := range []subject{{owner, desktopID}, {owner, ""}} {
		// The store does not have this yet: a count that is made now begins without it.
		c, err := m.of(ctx, s, at)
		if err != nil {
			m.mu.Unlock()
			return err
		}
		c.tokens += counted(u)
		c.minuteTokens += counted(u)
	}
	m.mu.Unlock()
	if err := m.store.AddUsage(ctx, at, row); err != nil {
		return fmt.Errorf("record what a model took: %w", err)
	}
	return nil
}

// Usage is what was used, the largest consumers first: of the caller's desktops, or for the operator
// of everybody's or those of an owner.
func (m *Meter) Usage(ctx context.Context, caller desktop.Caller, query Query) ([]Row, error) {
	if !caller.Local {
		if query.Owner != "" && query.Owner != caller.User.ID {
			return nil, desktop.Errorf(desktop.Invalid, "owner: only the operator on the administration socket names one")
		}
		query.Owner = caller.User.ID
	}
	if !query.Until.IsZero() && !query.Until.After(query.Since) {
		return nil, desktop.Errorf(desktop.Invalid, "until is not after since")
	}
	return m.store.Usage(ctx, query)
}
