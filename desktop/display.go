package desktop

import (
	"context"
	"errors"
	"sync"
	"time"
)

// seedWait bounds the asking for a cursor, which a picture waits for.
const seedWait = time.Second

// display is a keeper's connection to its machine's screen: made when somebody looks, let go when
// nobody has for a while, so that an unwatched desktop costs nothing.
type display struct {
	mu     sync.Mutex
	screen Screen
	seeded *sync.Once // of this screen
	still  *stillness // of this screen
	shows  uint64     // the keeper's doings that it is known to show,
	fenced bool       // if any are
	idle   *time.Timer
	uses   int
}

// frame is the present picture: the host's mirror of the display, or where there is none the
// agent's own capture.
func (k *keeper) frame(ctx context.Context) (*Frame, error) {
	k.mu.Lock()
	state, agent := k.machine.State, k.agent
	k.mu.Unlock()
	if state != MachineRunning && state != MachinePaused {
		_, err := k.readyAgent()
		if err == nil {
			err = Errorf(Unavailable, "the desktop is changing its state")
		}
		return nil, err
	}
	screen, _, release, err := k.display.acquire(ctx, k)
	if err == nil {
		defer release()
		k.seedCursor()
		k.refresh(ctx, agent, screen)
		var frame *Frame
		if frame, err = screen.Frame(ctx); err == nil {
			return frame, nil
		}
	}
	if agent != nil && agent.Status().Ready && ctx.Err() == nil {
		k.log.Debug("the agent's own capture stands in for the display", "error", err)
		return agent.Capture(ctx)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	e := Errorf(Unavailable, "the desktop's display is not there: %w", err)
	e.RetryAfter = unavailableFor
	return nil, e
}

// refresh makes the next picture show whatever the guest drew before it was asked for. What an action
// or a command answered may have overtaken the picture, which comes another way: first the guest has
// to hand it to its display, then that has to reach us. Where nothing has been done since that was last
// so, there is nothing to wait for. A display that cannot say is no reason to show nothing.
func (k *keeper) refresh(ctx context.Context, agent Agent, screen Screen) {
	k.mu.Lock()
	doings, busy := k.doings, len(k.inputs) > 0
	k.mu.Unlock()
	if !busy && k.display.fresh(screen, doings) {
		return
	}
	var err error
	if agent != nil {
		err = agent.Shown(ctx)
	}
	if err = errors.Join(err, screen.Sync(ctx)); err != nil {
		if ctx.Err() == nil {
			k.log.Warn("the picture may be older than the last action", "error", err)
		}
		return
	}
	if !busy {
		k.display.freshen(screen, doings)
	}
}

// fresh tells whether a screen shows what these doings led to.
func (d *display) fresh(screen Screen, doings uint64) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.screen == screen && d.shows == doings && d.fenced
}

// freshen notes that it does.
func (d *display) freshen(screen Screen, doings uint64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.screen == screen {
		d.shows, d.fenced = doings, true
	}
}

// seedCursor tells a newly opened screen the cursor that the agent knows, once, if that takes it: a
// hypervisor may tell a new viewer nothing of the cursor until it changes. It does nothing while
// there is no screen, or no agent that is ready; whoever comes later asks again.
func (k *keeper) seedCursor() {
	k.display.mu.Lock()
	screen, seeded := k.display.screen, k.display.seeded
	k.display.mu.Unlock()
	takes, ok := screen.(interface{ SeedCursor(Cursor) })
	if !ok {
		return
	}
	k.mu.Lock()
	agent := k.agent
	k.mu.Unlock()
	if agent == nil || !agent.Status().Ready {
		return
	}
	seeded.Do(func() {
		ctx, cancel := context.WithTimeout(k.m.ctx, seedWait)
		defer cancel()
		cursor, err := agent.Cursor(ctx)
		if err != nil {
			k.log.Warn("the cursor is not known until it changes", "error", err)
			return
		}
		if cursor != nil {
			takes.SeedCursor(*cursor)
		}
	})
}

// acquire is the screen, connected to if need be, until release is called.
func (d *display) acquire(ctx context.Context, k *keeper) (_ Screen, _ *stillness, release func(), err error) {
	done := k.inUse()
	defer func() {
		if err != nil {
			done()
		}
	}()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.screen != nil {
		select {
		case <-d.screen.Done():
			d.drop()
		default:
		}
	}
	if d.screen == nil {
		if d.screen, err = k.m.machines.OpenScreen(ctx, k.id); err != nil {
			return nil, nil, nil, err
		}
		d.seeded, d.still, d.fenced = new(sync.Once), new(stillness), false
		d.screen.Watch(d.still.note) // until it is closed
	}
	d.uses++
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
	}
	return d.screen, d.still, func() { d.release(k.m.config.ScreenIdle); done() }, nil
}

func (d *display) release(idle time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uses--; d.uses == 0 && d.screen != nil {
		d.idle = time.AfterFunc(idle, d.closeIdle)
	}
}

func (d *display) closeIdle() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.uses == 0 {
		d.drop()
	}
}

func (d *display) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.drop()
}

// drop lets the screen go. d.mu must be held.
func (d *display) drop() {
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
	}
	if d.screen != nil {
		_ = d.screen.Close()
		d.screen = nil
	}
}
