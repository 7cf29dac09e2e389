package assistant

import (
	"context"
	"errors"
	"time"

	"bureau/desktop"
	"bureau/desktop/activity"
)

// watched is a Desktop whose activity log tells what a turn does to it.
type watched struct {
	Desktop
	note  func(activity.Entry)
	entry activity.Entry // what all of the turn's have in common
}

// watch has what a turn does noted, where somebody takes notes.
func (s *Service) watch(work Desktop, caller desktop.Caller, d desktop.Desktop, turnID string) Desktop {
	if s.Note == nil {
		return work
	}
	entry := activity.Entry{Owner: d.Owner, DesktopID: d.ID, DesktopName: d.Name, Target: turnID}
	entry.From(caller)
	entry.Actor, entry.Via = activity.ByAgent, "chat"
	return watched{work, s.Note, entry}
}

func (w watched) did(action string, details map[string]int64, began time.Time, err error) {
	if errors.Is(err, context.Canceled) {
		err = nil // it was begun
	}
	entry := w.entry
	entry.Action, entry.Details, entry.At, entry.Until = action, details, began, time.Now()
	entry.Outcome = activity.Done
	if err != nil {
		entry.Outcome = activity.Refused
		if desktop.CodeOf(err) == desktop.Internal || desktop.CodeOf(err) == desktop.Unavailable {
			entry.Outcome = activity.Failed
		}
	}
	w.note(entry)
}

func (w watched) See(ctx context.Context, settle time.Duration) (desktop.Sight, error) {
	began := time.Now()
	sight, err := w.Desktop.See(ctx, settle)
	w.did("screenshot", nil, began, err)
	return sight, err
}

func (w watched) ActAndSee(ctx context.Context, settle time.Duration, actions ...desktop.Action) (*desktop.Acted, desktop.Sight, error) {
	began, details := time.Now(), map[string]int64{}
	for _, action := range actions {
		if kind := activity.KindOf(action); kind != "" {
			details[kind]++
		}
	}
	acted, sight, err := w.Desktop.ActAndSee(ctx, settle, actions...)
	done := err
	if acted != nil { // only the picture failed
		done = nil
	}
	w.did("input", details, began, done)
	return acted, sight, err
}

func (w watched) Exec(ctx context.Context, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
	began := time.Now()
	result, err := w.Desktop.Exec(ctx, command, output)
	w.did("exec", map[string]int64{activity.CommandOf(command): 1}, began, err)
	return result, err
}
