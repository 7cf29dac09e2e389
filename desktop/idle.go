package desktop

import (
	"context"
	"maps"
	"time"
)

// A desktop that nobody uses can be stopped, to give its memory to others. What counts as use is what
// somebody asks of it: input, commands, pictures, its session's windows and clipboard, a lease of its
// input, an open view, a turn of its agent, and models that are lent to its programs. That it is asked
// how it is counts as nothing, or a dashboard would keep all desktops awake; nor does what goes on in
// the guest by itself, since a guest that idles always does something.
//
// A use that has begun keeps its desktop until it ends, however long it takes. The stop is decided under
// the same lock under which uses begin: a use begins before, and there is no stop, or after, and finds
// the desktop stopping.
//
// When a desktop was last used is kept from time to time, so that the count goes on when the appliance
// is restarted; and for a while after a restart none is stopped, for nobody could use it meanwhile.

const (
	// idleGrace is that while.
	idleGrace = 5 * time.Minute
	// idleLooks is how often it is looked in the time after which an idle desktop is stopped.
	idleLooks    = 20
	idleLookMin  = time.Second
	idleLookMax  = time.Minute
	idleKeepTime = 5 * time.Second // for what is kept when the Manager closes
)

// use is the use of one desktop. The keeper's mu guards it.
type use struct {
	last    time.Time // when it was last used
	kept    time.Time // what of that the store has
	now     int       // how many uses are under way
	leaving bool      // its stop for inactivity has been decided, and is not kept yet
	left    bool      // it was stopped for inactivity
}

// why says why a desktop that is stopped is, when that was nobody's wish.
func (u use) why(after time.Duration) string {
	if !u.left {
		return ""
	}
	return "It was stopped because nobody had used it for " + after.String() + "."
}

// touch notes that the desktop is used.
func (k *keeper) touch() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.use.last = k.m.config.Now()
}

// inUse notes that the desktop is used until done is called.
func (k *keeper) inUse() (done func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.use.now++
	k.use.last = k.m.config.Now()
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.use.now--
		k.use.last = k.m.config.Now()
	}
}

// asked notes that its owner asked something of the desktop as a whole.
func (k *keeper) asked() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.use.last, k.use.left = k.m.config.Now(), false
}

// Use notes that a desktop is used until done is called: by its agent, or by programs in it. One that is
// not there has no use to be noted.
func (m *Manager) Use(id string) (done func()) {
	m.mu.Lock()
	k := m.keepers[id]
	m.mu.Unlock()
	if k == nil {
		return func() {}
	}
	return k.inUse()
}

// watchIdle stops desktops that nobody uses, and keeps when they were used.
func (m *Manager) watchIdle() {
	ticker := time.NewTicker(min(max(m.config.IdleStop/idleLooks, idleLookMin), idleLookMax))
	defer ticker.Stop()
	for {
		select {
		case <-m.ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(m.ctx), idleKeepTime)
			m.keepUses(ctx)
			cancel()
			return
		case <-ticker.C:
			m.stopIdle(m.ctx)
			m.keepUses(m.ctx)
		}
	}
}

// resumeUses takes up when the desktops were last used, in an earlier process.
func (m *Manager) resumeUses(ctx context.Context) error {
	kept, err := m.store.Uses(ctx)
	if err != nil {
		return err
	}
	began := m.config.Now()
	earliest := began.Add(min(idleGrace, m.config.IdleStop) - m.config.IdleStop)
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, k := range m.keepers {
		last, known := kept[id]
		k.mu.Lock()
		k.use.kept = last
		switch {
		case !known, last.After(began): // used by nobody yet, or the clock was set back
			k.use.last = began
		case last.Before(earliest):
			k.use.last = earliest
		default:
			k.use.last = last
		}
		k.mu.Unlock()
	}
	return nil
}

// stopIdle stops each desktop that has not been used for long enough.
func (m *Manager) stopIdle(ctx context.Context) {
	m.mu.Lock()
	keepers := maps.Clone(m.keepers)
	m.mu.Unlock()
	for _, k := range keepers {
		if err := k.stopIfIdle(ctx); err != nil && ctx.Err() == nil {
			k.log.Warn("an idle desktop is not stopped yet", "error", err)
		}
	}
}

// idle tells whether a desktop of that record is to be stopped for inactivity. k.mu must be held.
func (k *keeper) idle(r Record) bool {
	now := k.m.config.Now()
	if k.use.now > 0 || r.Lease.heldAt(now) {
		k.use.last = now
	}
	return !r.KeepAlive && r.Wish == WishRun && r.Boot == BootNone && r.Failure == "" && k.machine.State == MachineRunning &&
		now.Sub(k.use.last) >= k.m.config.IdleStop
}

func (k *keeper) stopIfIdle(ctx context.Context) error {
	k.mu.Lock()
	idle := k.idle(k.rec)
	k.mu.Unlock()
	if !idle {
		return nil
	}
	stopped := false
	err := k.change(ctx, func(r *Record) error {
		k.mu.Lock()
		defer k.mu.Unlock()
		if !k.idle(*r) {
			return errUnchanged
		}
		// From here on it is stopping for whoever comes.
		k.use.leaving, stopped = true, true
		r.Wish, r.UpdatedAt = WishHalt, now()
		return nil
	})
	k.mu.Lock()
	k.use.leaving, k.use.left = false, stopped && err == nil
	last := k.use.last
	k.mu.Unlock()
	if stopped && err == nil {
		k.log.Info("a desktop that nobody uses is stopped", "lastUsed", last)
	}
	return err
}

// keepUses keeps when the desktops were last used, of those that have been since.
func (m *Manager) keepUses(ctx context.Context) {
	m.mu.Lock()
	keepers := maps.Clone(m.keepers)
	m.mu.Unlock()
	uses := map[string]time.Time{}
	for id, k := range keepers {
		k.mu.Lock()
		if k.use.last.Sub(k.use.kept) > m.config.IdleStop/idleLooks {
			uses[id] = k.use.last
		}
		k.mu.Unlock()
	}
	if len(uses) == 0 {
		return
	}
	if err := m.store.KeepUses(ctx, uses); err != nil {
		m.log.Warn("when the desktops were last used is not kept", "error", err)
		return
	}
	for id, last := range uses {
		k := keepers[id]
		k.mu.Lock()
		k.use.kept = last
		k.mu.Unlock()
	}
}
