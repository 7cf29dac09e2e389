package api

import (
	"context"
	"fmt"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

// DisplayRequest is the size that a display is to have.
type DisplayRequest struct {
	Width  int `json:"width" minimum:"200" maximum:"8192" doc:"In pixels"`
	Height int `json:"height" minimum:"200" maximum:"8192" doc:"In pixels"`
}

func (s *Server) displayRoutes() {
	type answer struct {
		Body desktop.Size
	}
	register(s, needs(desktop.CanControl), huma.Operation{
		OperationID: "resizeDisplay", Method: http.MethodPatch, Path: desktopPath + "/display", Tags: []string{tagControl},
		Summary: "Change the display's size", Description: fmt.Sprintf("At once, with all that runs on it. A display has %d pixels at most, as many as 2560 × 1600. Answers with the size that it has then.", desktop.MaxDisplayPixels),
		Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *bodyInput[DisplayRequest]) (*answer, error) {
		caller := callerOf(ctx)
		if err := s.desktops.Resize(ctx, caller, in.ID, desktop.Size(in.Body)); err != nil {
			return nil, err
		}
		now, err := s.desktops.Act(ctx, caller, in.ID) // nothing, which tells the size
		return &answer{now.Display}, err
	})
}
