package assistant

import (
	"context"
	"time"

	"bureau/desktop"
)

// Desktop is what a turn works on; a desktop.Manager and a caller behind it make one. Its errors are
// desktop.Error: Unavailable while the desktop cannot be used (it may come back), Locked while a
// person holds its input lease.
type Desktop interface {
	// See is a picture of the display; with settle it waits, at most so long, for it to come to rest.
	See(ctx context.Context, settle time.Duration) (desktop.Sight, error)
	// ActAndSee does actions and sees what they leave behind. When they were done and only the picture
	// failed, Acted is set beside the error.
	ActAndSee(ctx context.Context, settle time.Duration, actions ...desktop.Action) (*desktop.Acted, desktop.Sight, error)
	// Exec runs a command as the desktop's user; output, when not nil, has what it prints meanwhile.
	Exec(ctx context.Context, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error)
	// Windows are those of the desktop's session, the topmost first.
	Windows(ctx context.Context) ([]desktop.Window, error)
}

// Desktops finds desktops and works on them for a caller; a desktop.Manager is one.
type Desktops interface {
	// Get is NotFound for a desktop that the caller may not know of.
	Get(ctx context.Context, caller desktop.Caller, id string) (desktop.Desktop, error)
	See(ctx context.Context, caller desktop.Caller, id string, settle time.Duration) (desktop.Sight, error)
	ActAndSee(ctx context.Context, caller desktop.Caller, id string, settle time.Duration, actions ...desktop.Action) (*desktop.Acted, desktop.Sight, error)
	Exec(ctx context.Context, caller desktop.Caller, id string, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error)
	Windows(ctx context.Context, caller desktop.Caller, id string) ([]desktop.Window, error)
}

// one is a Desktop: one of Desktops, for one caller. It is for one goroutine, and keeps the time that the
// desktop takes.
type one struct {
	all    Desktops
	caller desktop.Caller
	id     string
	took   *time.Duration
}

// timed begins a measurement, which the function that it returns ends.
func (o one) timed() func() {
	began := time.Now()
	return func() { *o.took += time.Since(began) }
}

func (o one) See(ctx context.Context, settle time.Duration) (desktop.Sight, error) {
	defer o.timed()()
	return o.all.See(ctx, o.caller, o.id, settle)
}

func (o one) ActAndSee(ctx context.Context, settle time.Duration, actions ...desktop.Action) (*desktop.Acted, desktop.Sight, error) {
	defer o.timed()()
	return o.all.ActAndSee(ctx, o.caller, o.id, settle, actions...)
}

func (o one) Exec(ctx context.Context, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
	defer o.timed()()
	return o.all.Exec(ctx, o.caller, o.id, command, output)
}

func (o one) Windows(ctx context.Context) ([]desktop.Window, error) {
	defer o.timed()()
	return o.all.Windows(ctx, o.caller, o.id)
}
