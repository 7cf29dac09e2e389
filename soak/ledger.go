package main

import (
	"slices"
	"strings"
	"sync"
	"time"

	"bureau/soak/check"
)

// outcome is what a client knows of an operation.
type outcome string

const (
	done    outcome = "done"    // answered with success
	refused outcome = "refused" // answered that it was not done
	unknown outcome = "unknown" // the answer did not come, or says nothing of what was done
	skipped outcome = "skipped" // there was no desktop to do it to
)

// write is one request for a value.
type write struct {
	value      string
	begin, end time.Time
	sure       bool // it was answered with success
}

// register is a value that several clients ask for, as one of them would see it from outside.
type register struct{ writes []write }

func (r *register) add(value string, begin, end time.Time, o outcome) {
	if o == done || o == unknown {
		r.writes = append(r.writes, write{value, begin, end, o == done})
	}
}

// candidates are the values that it may have when nothing is under way: those of the writes that no
// sure one follows. Two that were under way at the same time may have happened in either order.
func (r *register) candidates() []string {
	var values []string
	for _, w := range r.writes {
		overwritten := slices.ContainsFunc(r.writes, func(later write) bool {
			return later.sure && later.begin.After(w.end)
		})
		if !overwritten && !slices.Contains(values, w.value) {
			values = append(values, w.value)
		}
	}
	return values
}

// forget keeps only the writes that still matter, once the value was seen.
func (r *register) forget(seen string, at time.Time) {
	r.writes = []write{{seen, at, at, true}}
}

// entry is a desktop that clients know of.
type entry struct {
	id          string
	name, wish  register
	gone, going bool
}

// attempt is a create whose answer did not come.
type attempt struct {
	name       string
	slot       int
	wish       string
	begin, end time.Time
}

// ledger is what the clients were told.
type ledger struct {
	mu      sync.Mutex
	slots   []*entry
	entries map[string]*entry
	open    []attempt
	unborn  []string
}

func newLedger(slots int) *ledger {
	return &ledger{slots: make([]*entry, slots), entries: map[string]*entry{}}
}

// at is the desktop in a slot, nil when there is none.
func (l *ledger) at(slot int) *entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.slots[slot]
}

// create takes note of a create's outcome.
func (l *ledger) create(a attempt, o outcome, id string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch o {
	case done:
		l.born(a, id)
	case unknown:
		l.open = append(l.open, a)
	}
}

func (l *ledger) born(a attempt, id string) {
	e := &entry{id: id}
	e.name.add(a.name, a.begin, a.end, done)
	e.wish.add(a.wish, a.begin, a.end, done)
	l.entries[id] = e
	if l.slots[a.slot] == nil {
		l.slots[a.slot] = e
	}
}

// all are the desktops that are there.
func (l *ledger) all() []*entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []*entry
	for _, e := range l.entries {
		if !e.gone {
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b *entry) int { return strings.Compare(a.id, b.id) })
	return list
}

// surplus are those in no slot: a create that was not answered and asked for again has made them.
func (l *ledger) surplus() []*entry {
	list := l.all()
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.DeleteFunc(list, func(e *entry) bool { return slices.Contains(l.slots, e) })
}

// change takes note of an operation on a desktop.
func (l *ledger) change(e *entry, kind opKind, name string, begin, end time.Time, o outcome) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch kind {
	case opStart, opRestart:
		e.wish.add("run", begin, end, o)
	case opStop:
		e.wish.add("halt", begin, end, o)
	case opPowerOff:
		// The appliance hears of it when the guest has done it, and only if it wants the machine on then:
		// it may be what comes last of all that is under way, or nothing.
		if o == done {
			o = unknown
		}
		e.wish.add("halt", begin, end.Add(time.Hour), o)
	case opPatch:
		e.name.add(name, begin, end, o)
	case opDestroy:
		e.gone = e.gone || o == done
		e.going = e.going || o == unknown
	}
}

// adopt is told of the records that there are: among them may be those of creates that were not
// answered.
func (l *ledger) adopt(records []check.Record) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open = slices.DeleteFunc(l.open, func(a attempt) bool {
		i := slices.IndexFunc(records, func(r check.Record) bool { return r.Name == a.name })
		if i >= 0 && l.entries[records[i].ID] == nil {
			l.born(a, records[i].ID)
		}
		return i >= 0
	})
}

// settled takes what was found sound for what is, so that the next round begins with it.
func (l *ledger) settled(w check.World) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, a := range l.open {
		l.unborn = append(l.unborn, a.name)
	}
	l.open = nil
	now := time.Now()
	for _, r := range w.Records {
		e := l.entries[r.ID]
		if e == nil {
			continue
		}
		if r.Destroyed {
			e.gone = true
			for i, s := range l.slots {
				if s == e {
					l.slots[i] = nil
				}
			}
			continue
		}
		e.going = false
		e.name.forget(r.Name, now)
		e.wish.forget(r.Wish, now)
	}
}

// expected is what has to be.
func (l *ledger) expected() check.Expected {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := check.Expected{Unborn: slices.Clone(l.unborn)}
	for _, entry := range l.entries {
		e.Desktops = append(e.Desktops, check.Known{
			ID:     entry.id,
			Names:  entry.name.candidates(),
			Wishes: entry.wish.candidates(),
			Gone:   entry.gone,
			Going:  entry.going,
		})
	}
	slices.SortFunc(e.Desktops, func(a, b check.Known) int { return strings.Compare(a.ID, b.ID) })
	return e
}
