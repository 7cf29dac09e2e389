package activity

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"bureau/desktop"
)

const (
	// queued is how many entries wait to be written; more are dropped, and counted.
	queued = 4096
	// kinds is how many kinds of entries are counted at once; entries of further ones are written as
	// they are.
	kinds = 4096
	// pause is between two writings of what is noted.
	pause = 250 * time.Millisecond
	// window is how long entries of a kind are counted together.
	window = time.Minute
	// pruneEvery is how often what is too old is looked for.
	pruneEvery = time.Hour
	// writeTimeout bounds one writing.
	writeTimeout = 30 * time.Second
	// stubborn is how often a writing is tried again before its entries are given up.
	stubborn = 40
	// lastTries is how often when the Log is closed.
	lastTries = 3
)

// Log writes entries down and finds them again. One goroutine does all the writing of what was noted.
type Log struct {
	store Store
	keep  time.Duration
	log   *slog.Logger

	queue   chan Entry
	flushes chan chan error
	dropped atomic.Int64

	mu     sync.RWMutex // held for reading while something is noted
	closed bool
	ctx    context.Context // ends when the Log is closed
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// NewLog makes a Log that forgets entries older than keep, or none when that is 0. The caller closes
// it after everything that notes.
func NewLog(store Store, keep time.Duration, log *slog.Logger) *Log {
	l := &Log{store: store, keep: keep, log: log,
		queue: make(chan Entry, queued), flushes: make(chan chan error)}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.wg.Go(l.run)
	l.wg.Go(l.prune)
	return l
}

// Close writes down what was noted, and waits for that.
func (l *Log) Close() error {
	l.mu.Lock()
	if !l.closed {
		l.closed = true
		close(l.queue)
		l.cancel()
	}
	l.mu.Unlock()
	l.wg.Wait()
	return nil
}

// Record writes an entry down and returns when it is durable.
func (l *Log) Record(ctx context.Context, entry Entry) error {
	entry.tidy()
	// What has happened is told also of a caller that has gone.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeTimeout)
	defer cancel()
	return l.store.AppendActivity(ctx, []Entry{entry})
}

// Note has an entry written down soon, counted together with others of its kind. It never waits:
// when the store is far behind, the entry is dropped, and the log tells how many were.
func (l *Log) Note(entry Entry) {
	entry.tidy()
	l.mu.RLock()
	defer l.mu.RUnlock()
	if l.closed {
		l.dropped.Add(1)
		return
	}
	select {
	case l.queue <- entry:
	default:
		l.dropped.Add(1)
	}
}

// List finds entries for a caller: an administrator finds everybody's, a user those of their own log.
// What was noted before is among them, except for what is still being counted.
func (l *Log) List(ctx context.Context, caller desktop.Caller, query Query) ([]Entry, error) {
	if !caller.Local && caller.User.Role != desktop.RoleAdmin {
		if caller.User.ID == "" {
			return nil, desktop.Errorf(desktop.Unauthenticated, "nobody's log")
		}
		query.Owner = caller.User.ID
	}
	if err := l.flush(ctx); err != nil && ctx.Err() != nil {
		return nil, err
	}
	return l.store.Activity(ctx, query)
}

// flush has what was noted written down, except for what is being counted.
func (l *Log) flush(ctx context.Context) error {
	answer := make(chan error, 1)
	select {
	case l.flushes <- answer:
	case <-l.ctx.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// run owns what was noted: it counts, and writes.
func (l *Log) run() {
	c := counter{open: map[kindOf]*counting{}}
	var batch []Entry
	failures := 0
	write := func() error {
		if n := l.dropped.Swap(0); n > 0 {
			l.log.Error("entries of the activity log were dropped, since the store is too slow", "count", n)
			lost := Entry{Actor: ByAppliance, Via: "appliance", Action: "activity.lost", Count: n, Outcome: Failed}
			lost.tidy()
			batch = append(batch, lost)
		}
		if len(batch) == 0 {
			return nil
		}
		ctx, cancel := context.WithTimeout(context.Background(), writeTimeout)
		defer cancel()
		err := l.store.AppendActivity(ctx, batch)
		if err == nil {
			batch, failures = batch[:0], 0
			return nil
		}
		if failures++; failures == 1 {
			l.log.Error("the activity log cannot be written; it is tried again", "error", err)
		}
		if failures >= stubborn || len(batch) >= queued {
			l.log.Error("entries of the activity log are given up", "count", len(batch), "error", err)
			for _, entry := range batch {
				l.dropped.Add(entry.Count)
			}
			batch, failures = batch[:0], 0
		}
		return err
	}
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for {
		select {
		case entry, ok := <-l.queue:
			if !ok {
				batch = append(batch, c.end()...)
				for tries := 0; tries < lastTries && write() != nil; tries++ {
				}
				return
			}
			if first, ok := c.add(entry, time.Now()); ok {
				batch = append(batch, first)
			}
		case <-tick.C:
			batch = append(batch, c.due(time.Now())...)
			write()
		case answer := <-l.flushes:
			for range len(l.queue) { // what was noted before the question
				entry, ok := <-l.queue
				if !ok {
					break
				}
				if first, ok := c.add(entry, time.Now()); ok {
					batch = append(batch, first)
				}
			}
			batch = append(batch, c.due(time.Now())...)
			answer <- write()
		}
	}
}

// counter counts entries of a kind together.
type counter struct {
	open map[kindOf]*counting
}

type counting struct {
	until time.Time // when the window ends
	entry *Entry    // what came after the first one; nil when nothing has
}

// add returns the entry when it is to be written as it is: the first of its kind in a while.
func (c *counter) add(entry Entry, now time.Time) (Entry, bool) {
	kind := entry.kind()
	open := c.open[kind]
	switch {
	case open == nil && len(c.open) < kinds:
		c.open[kind] = &counting{until: now.Add(window)}
		return entry, true
	case open == nil:
		return entry, true
	case open.entry == nil:
		open.entry = &entry
	default:
		open.entry.add(entry)
	}
	return Entry{}, false
}

// due returns what was counted in the windows that have ended. A kind that goes on has another window.
func (c *counter) due(now time.Time) []Entry {
	var list []Entry
	for kind, open := range c.open {
		switch {
		case now.Before(open.until):
		case open.entry == nil:
			delete(c.open, kind)
		default:
			list = append(list, *open.entry)
			open.entry, open.until = nil, now.Add(window)
		}
	}
	sortByTime(list)
	return list
}

// end returns all that was counted.
func (c *counter) end() []Entry {
	var list []Entry
	for _, open := range c.open {
		if open.entry != nil {
			list = append(list, *open.entry)
		}
	}
	clear(c.open)
	sortByTime(list)
	return list
}

// prune forgets what is too old.
func (l *Log) prune() {
	if l.keep <= 0 {
		return
	}
	tick := time.NewTicker(pruneEvery)
	defer tick.Stop()
	for {
		n, err := l.store.PruneActivity(l.ctx, time.Now().Add(-l.keep))
		switch {
		case err != nil && l.ctx.Err() == nil:
			l.log.Error("old entries of the activity log could not be deleted", "error", err)
		case n > 0:
			l.log.Info("old entries of the activity log were deleted", "count", n, "keep", l.keep)
		}
		select {
		case <-tick.C:
		case <-l.ctx.Done():
			return
		}
	}
}
