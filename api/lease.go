package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

// leaseHeader carries the token of an input lease.
const leaseHeader = "Bureau-Lease"

// LeaseRequest is how a lease is wanted.
type LeaseRequest struct {
	Holder     string `json:"holder,omitempty" maxLength:"100" doc:"Who holds it, in words for those who are refused; made of the user and the key when absent" example:"Ada"`
	DurationMs int    `json:"durationMs,omitempty" minimum:"1000" maximum:"3600000" default:"300000" doc:"How long from now, unless it is renewed"`
}

// TakenLease is a lease with its token.
type TakenLease struct {
	desktop.Lease
	Token string `json:"token" doc:"Sent with the holder's requests as the header Bureau-Lease; shown this once" example:"lease_…"`
}

func (s *Server) leaseRoutes() {
	operation := func(id, method, summary, description string) huma.Operation {
		return huma.Operation{
			OperationID: id, Method: method, Path: desktopPath + "/lease", Tags: []string{tagControl},
			Summary: summary, Description: description,
		}
	}
	type takenAnswer struct {
		Body TakenLease
	}
	taking := operation("takeLease", http.MethodPost, "Take the input lease",
		"Be alone at the desktop's input: until the lease expires or is ended, input, commands, window changes, clipboard "+
			"writes and display changes of everybody else are refused with 423, those of the same key, too; pictures stay "+
			"allowed. The holder's requests carry its token in the header `Bureau-Lease`. With that header this renews the "+
			"lease and the token stays.\n\nIt answers when nobody else's input is being done any more; what is under way has "+
			"two seconds to end and is then stopped. Commands that run go on, as all programs of the desktop do.")
	taking.Errors = []int{http.StatusConflict, http.StatusLocked}
	register(s, needs(desktop.CanControl), once(taking, makeAnswer), func(ctx context.Context, in *optionalInput[LeaseRequest]) (*takenAnswer, error) {
		if id := doneBefore(ctx); id != "" {
			return nil, secretGone("a lease of desktop "+id, id, "end the lease, and take it again")
		}
		body := valueOf(in.Body)
		if callerOf(ctx).Lease != "" { // it is renewed
			unchanged(ctx)
		}
		lease, token, err := s.desktops.TakeLease(ctx, callerOf(ctx), in.ID, body.Holder, milliseconds(body.DurationMs))
		return &takenAnswer{TakenLease{lease, token}}, err
	})

	type answer struct {
		Body struct {
			Lease *desktop.Lease `json:"lease,omitempty" doc:"Absent when nobody holds it"`
		}
	}
	register(s, needs(desktop.CanControl), operation("getLease", http.MethodGet, "Who holds the input lease",
		"The desktop has it, too, as `lease`."),
		func(ctx context.Context, in *DesktopPath) (*answer, error) {
			d, err := s.desktops.Get(ctx, callerOf(ctx), in.ID)
			out := &answer{}
			out.Body.Lease = d.Lease
			return out, err
		})
	register(s, needs(desktop.CanControl), operation("endLease", http.MethodDelete, "End the input lease",
		"The holder gives it back so; the desktop's owner ends it so with any key that allows control, without the token. "+
			"Where there is none nothing happens."),
		func(ctx context.Context, in *DesktopPath) (*struct{}, error) {
			return nil, s.desktops.ReleaseLease(ctx, callerOf(ctx), in.ID)
		})
}
