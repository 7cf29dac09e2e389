package cmd

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

// Exit codes, one for each kind of failure that a script may want to treat on its own.
const (
	exitGeneral     = 1
	exitUsage       = 2
	exitNotFound    = 3
	exitDenied      = 4
	exitConflict    = 5
	exitUnavailable = 6
	exitInterrupted = 130
	// exec and bash hand on the exit code of the guest's command, as ssh does.
	exitTimedOut = 124
	exitWrapper  = 255
)

// exitCode ends the program with a code and no further message.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func (a *app) codeFor(err error) int {
	switch {
	case !a.running:
		return exitUsage
	case a.wrapsExit:
		return exitWrapper
	case errors.Is(err, context.DeadlineExceeded):
		return exitUnavailable
	}
	switch desktop.CodeOf(err) {
	case desktop.Invalid, desktop.TooLarge:
		return exitUsage
	case desktop.NotFound:
		return exitNotFound
	case desktop.Unauthenticated, desktop.Forbidden:
		return exitDenied
	case desktop.Conflict, desktop.Locked:
		return exitConflict
	case desktop.RateLimited, desktop.Exhausted, desktop.Unavailable:
		return exitUnavailable
	}
	return exitGeneral
}

func exitCodesTopic() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `A failure is one line on standard error that begins with "bureau:", and an exit code:

    0  done
    1  a failure of another kind, such as a fault of the appliance
    2  the command line or the request is wrong and will stay so
    3  there is no such thing, or it is not yours
    4  no key, a bad key, or one without the capability
    5  not in its present state, such as a name that is taken
    6  not now: the appliance or the desktop is not ready, or it took too long
  130  interrupted

"bureau desktop exec" and "bureau desktop bash" end with the exit code of the command in
the desktop instead: 124 when its time was up, 255 when bureau itself failed or could not
pass on all of the output.

"bureau doctor" ends with 1 when something is wrong with the host.`,
	}
}
