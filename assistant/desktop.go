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
}
