package desktop

import (
	"context"
	"fmt"
	"time"
)

const (
	// connectTimeout bounds one attempt at a session; a guest that boots is tried again.
	connectTimeout = 60 * time.Second
	sessionRetry   = 250 * time.Millisecond
	sessionRetries = 5 * time.Second // the longest pause between attempts
	sessionGood    = 5 * time.Second // a session that lasted as long is followed by the next at once
)

// beginSession starts keeping a session with the guest's agent, unless that is being done.
func (k *keeper) beginSession() {
	if k.session != nil {
		return
	}
	ctx, cancel := context.WithCancel(k.m.ctx)
	ended := make(chan struct{})
	k.session, k.ended = cancel, ended
	go func() {
		defer close(ended)
		k.keepSession(ctx)
	}()
}

// endSession ends the session, if there is one, and waits for its end.
func (k *keeper) endSession() {
	if k.session == nil {
		return
	}
	k.session()
	<-k.ended
	k.session, k.ended = nil, nil
}

// keepSession connects to the agent, again and again, until ctx ends.
func (k *keeper) keepSession(ctx context.Context) {
	pause := sessionRetry
	for ctx.Err() == nil {
		began := time.Now()
		agent, err := k.connect(ctx)
		if err == nil {
			k.log.Info("agent connected", "version", agent.Status().Version, "took", time.Since(began))
			began = time.Now()
			k.attend(ctx, agent)
			if time.Since(began) > sessionGood {
				pause = sessionRetry
			}
		}
		if ctx.Err() != nil {
			return
		}
		k.log.Debug("no session with the agent", "error", err, "again", pause)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, sessionRetries)
	}
}

func (k *keeper) connect(ctx context.Context) (Agent, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	stream, err := k.m.machines.OpenAgent(ctx, k.id)
	if err != nil {
		return nil, fmt.Errorf("opening the agent's channel: %w", err)
	}
	agent, err := k.m.connector.Connect(ctx, k.id, stream)
	if err != nil {
		return nil, fmt.Errorf("connecting to the agent: %w", err)
	}
	return agent, nil
}

// attend makes an agent the desktop's and returns when its session has ended.
func (k *keeper) attend(ctx context.Context, agent Agent) {
	k.setAgent(agent)
	defer func() {
		k.setAgent(nil)
		_ = agent.Close()
	}()
	for {
		if agent.Status().Ready {
			k.mu.Lock()
			first := !k.answered
			k.answered = true
			k.mu.Unlock()
			if first {
				k.log.Info("agent ready", "display", agent.Status().Display, "since boot", time.Since(k.booted()))
			}
			k.seedCursor() // of a screen that somebody opened before
		}
		select {
		case <-ctx.Done():
			return
		case <-agent.Done():
			return
		case <-agent.Changed():
		}
	}
}

func (k *keeper) setAgent(agent Agent) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.agent = agent
}
