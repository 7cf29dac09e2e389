package apitest

import (
	"context"
	"slices"
	"sync"
	"time"

	"bureau/desktop/activity"
)

// Ledger is an activity.Store in memory.
type Ledger struct {
	mu      sync.Mutex
	entries []activity.Entry

	// Fail, when not nil, is what every writing fails with.
	Fail error
}

// AppendActivity implements activity.Store.
func (l *Ledger) AppendActivity(_ context.Context, entries []activity.Entry) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Fail != nil {
		return l.Fail
	}
	for _, e := range entries {
		e.ID = int64(len(l.entries) + 1)
		l.entries = append(l.entries, e)
	}
	return nil
}

// Activity implements activity.Store, with the filters that the API's tests use.
func (l *Ledger) Activity(_ context.Context, q activity.Query) ([]activity.Entry, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []activity.Entry
	for _, e := range l.entries {
		switch {
		case q.Owner != "" && e.Owner != q.Owner, q.Desktop != "" && e.DesktopID != q.Desktop, q.User != "" && e.UserID != q.User,
			q.Action != "" && e.Action != q.Action, !q.Since.IsZero() && e.Until.Before(q.Since):
		case q.Cursor != 0 && q.Oldest && e.ID <= q.Cursor, q.Cursor != 0 && !q.Oldest && e.ID >= q.Cursor:
		default:
			list = append(list, e)
		}
	}
	if !q.Oldest {
		slices.Reverse(list)
	}
	if q.Limit > 0 && len(list) > q.Limit {
		list = list[:q.Limit]
	}
	return list, nil
}

// PruneActivity implements activity.Store: nothing here is old.
func (l *Ledger) PruneActivity(context.Context, time.Time) (int64, error) { return 0, nil }

// Entries are those so far, the oldest first.
func (l *Ledger) Entries() []activity.Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.entries)
}
