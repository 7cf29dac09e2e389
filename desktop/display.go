package desktop

import (
	"context"
	"sync"
	"time"
)

// display is a keeper's connection to its machine's screen: made when somebody looks, let go when
// nobody has for a while, so that an unwatched desktop costs nothing.
type display struct {
	mu     sync.Mutex
	screen Screen
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
	screen, release, err := k.display.acquire(ctx, k)
	if err == nil {
		defer release()
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

// acquire is the screen, connected to if need be, until release is called.
func (d *display) acquire(ctx context.Context, k *keeper) (_ Screen, release func(), err error) {
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
			return nil, nil, err
		}
	}
	d.uses++
	if d.idle != nil {
		d.idle.Stop()
		d.idle = nil
	}
	return d.screen, func() { d.release(k.m.config.ScreenIdle) }, nil
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
