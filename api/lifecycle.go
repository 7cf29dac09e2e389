package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

func (s *Server) lifecycleRoutes() {
	type method = func(d Desktops, ctx context.Context, caller desktop.Caller, id string) (desktop.Desktop, error)
	for _, route := range []struct {
		verb, summary, description string
		do                         method
	}{
		{"start", "Start a desktop", "Queues the boot and answers at once; poll the desktop for `status` and `agentReady`. One that runs stays as it is.", Desktops.Start},
		{"stop", "Stop a desktop", "An orderly shutdown, forced after a grace period. Answers at once. One that is stopped stays as it is.", Desktops.Stop},
		{"restart", "Restart a desktop", "Stops it and starts it. Answers at once.", Desktops.Restart},
	} {
		register(s, needs(desktop.CanLifecycle), once(huma.Operation{
			OperationID: route.verb + "Desktop", Method: http.MethodPost, Path: desktopPath + "/" + route.verb, Tags: []string{tagDesktops},
			Summary: route.summary, Description: route.description,
			DefaultStatus: http.StatusAccepted,
			Errors:        []int{http.StatusConflict, http.StatusInsufficientStorage},
		}, keepAnswer), func(ctx context.Context, in *DesktopPath) (*desktopAnswer, error) {
			if doneBefore(ctx) != "" {
				d, err := s.desktops.Get(ctx, callerOf(ctx), in.ID)
				return &desktopAnswer{d}, err
			}
			d, err := route.do(s.desktops, ctx, callerOf(ctx), in.ID)
			if d.UpdatedAt.Equal(exchangeOf(ctx).desktop.UpdatedAt) {
				unchanged(ctx)
			}
			return &desktopAnswer{d}, err
		})
	}
}
