package assistant

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"
)

const (
	journalTail  = 1024                   // events kept in memory for readers that keep up
	journalLimit = 8 * journalTail        // events that may wait for the store; then the turn waits, too
	journalPause = 100 * time.Millisecond // between writes, so that a token is not a transaction
	journalPage  = 256                    // events of one reading
)

// journal is the news of a turn that runs. An event is there for its readers at once and in the store
// a moment later; they read at their own pace, the newest from memory and what is older from the
// store, so that one who is slow, or stops, costs nothing and hinders nobody.
type journal struct {
	turn  string
	store Store
	log   *slog.Logger

	mu      sync.Mutex
	tail    []Event       // consecutive, the newest last
	next    int64         // number of the next event
	saved   int64         // number of the newest event that is in the store, or lost to it
	closed  bool          // there will be no more
	changed chan struct{} // closed, and replaced, with each change
	room    *sync.Cond    // signalled when events have been saved
	hurry   chan struct{} // closed with the journal
	kept    chan struct{} // closed when the writer has ended
}

func newJournal(turn string, store Store, log *slog.Logger) *journal {
	j := &journal{turn: turn, store: store, log: log, next: 1, changed: make(chan struct{}),
		hurry: make(chan struct{}), kept: make(chan struct{})}
	j.room = sync.NewCond(&j.mu)
	go j.keep()
	return j
}

// add tells of something.
func (j *journal) add(kind EventKind, data any) {
	text := asJSON(data)
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.next-1-j.saved >= journalLimit {
		j.room.Wait()
	}
	j.tail = append(j.tail, Event{Number: j.next, Kind: kind, Data: text})
	j.next++
	j.announce()
}

// announce wakes whoever waits. j.mu must be held.
func (j *journal) announce() {
	close(j.changed)
	j.changed = make(chan struct{})
}

// close says that there are no more events, and returns when all are in the store.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	close(j.hurry)
	j.announce()
	j.mu.Unlock()
	<-j.kept
}

// keep writes the events to the store until the journal is closed.
func (j *journal) keep() {
	defer close(j.kept)
	for {
		j.mu.Lock()
		unsaved, closed, changed := j.after(j.saved), j.closed, j.changed
		j.mu.Unlock()
		if len(unsaved) == 0 {
			if closed {
				return
			}
			<-changed
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
		err := j.store.AppendEvents(ctx, j.turn, unsaved)
		cancel()
		if err != nil {
			j.log.Warn("events are lost to those who ask for them later", "events", len(unsaved), "error", err)
		}
		j.mu.Lock()
		j.saved = unsaved[len(unsaved)-1].Number
		if spare := min(len(j.tail)-journalTail, len(j.after(0))-len(j.after(j.saved))); spare > 0 {
			j.tail = append(make([]Event, 0, 2*journalTail), j.tail[spare:]...)
		}
		j.room.Broadcast()
		j.mu.Unlock()
		select {
		case <-time.After(journalPause):
		case <-j.hurry:
		}
	}
}

// after are the events in memory after a number. j.mu must be held; the events are never changed.
func (j *journal) after(number int64) []Event {
	first := j.next - int64(len(j.tail))
	skip := max(0, number-first+1)
	if skip >= int64(len(j.tail)) {
		return nil
	}
	return j.tail[skip:]
}

// read waits for events after a number and returns some of them; none when there are no more.
func (j *journal) read(ctx context.Context, number int64) ([]Event, error) {
	for {
		j.mu.Lock()
		first, events, closed, changed := j.next-int64(len(j.tail)), j.after(number), j.closed, j.changed
		saved := j.saved
		j.mu.Unlock()
		switch {
		case number+1 < first && number < saved: // it lags behind what is in memory
			older, err := j.store.Events(ctx, j.turn, number, journalPage)
			if err != nil || len(older) > 0 {
				return older, err
			}
			number = first - 1 // they are lost
		case len(events) > 0:
			return events[:min(len(events), journalPage)], nil
		case closed:
			return nil, nil
		default:
			select {
			case <-changed:
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
	}
}

// asJSON is a value of our own types, which always can be written.
func asJSON(value any) json.RawMessage {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return text
}
