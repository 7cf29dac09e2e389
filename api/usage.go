package api

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bureau/assistant/usage"
	"bureau/desktop"
)

// Usage is what models took.
type Usage interface {
	// Usage is of the caller's desktops, for the operator of everybody's; the largest consumers first.
	Usage(ctx context.Context, caller desktop.Caller, query usage.Query) ([]usage.Row, error)
}

func (s *Server) usageRoutes() {
	type input struct {
		Since   time.Time `query:"since" doc:"From this hour on; from the beginning when absent"`
		Until   time.Time `query:"until" doc:"Up to this hour, which is not part of it; up to now when absent"`
		Desktop string    `query:"desktop" maxLength:"63" doc:"Id of the one desktop to tell of, which may be destroyed"`
		Owner   string    `query:"owner" maxLength:"63" doc:"Id of the one user whose desktops to tell of; only on the administration socket"`
	}
	type answer struct {
		Body []usage.Row
	}
	register(s, needs(desktop.CanRead), huma.Operation{
		OperationID: "getUsage", Method: http.MethodGet, Path: "/v1/usage", Tags: []string{tagModels},
		Summary:     "What models took",
		Description: "Answers and tokens of each desktop, provider and model, the largest consumers first. It is kept by the hour.",
	}, func(ctx context.Context, in *input) (*answer, error) {
		rows, err := s.usage.Usage(ctx, callerOf(ctx), usage.Query{Owner: in.Owner, DesktopID: in.Desktop, Since: in.Since, Until: in.Until})
		return &answer{append([]usage.Row{}, rows...)}, err
	})
}
