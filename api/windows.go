package api

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

func (s *Server) windowRoutes() {
	type windowPath struct {
		DesktopPath
		Window uint32 `path:"windowId" maximum:"4294967295" doc:"The window's id" example:"27262979"`
	}
	type listAnswer struct {
		Body []desktop.Window
	}
	operation := func(id, method, path, summary, description string) huma.Operation {
		return huma.Operation{
			OperationID: id, Method: method, Path: desktopPath + "/windows" + path, Tags: []string{tagControl},
			Summary: summary, Description: description, Errors: []int{http.StatusConflict},
		}
	}
	withPath := func(op huma.Operation) huma.Operation {
		op.Errors = append(op.Errors, http.StatusBadRequest)
		return op
	}
	register(s, needs(desktop.CanControl), operation("listWindows", http.MethodGet, "", "List the windows",
		"Those that the window manager manages, the topmost first."),
		func(ctx context.Context, in *DesktopPath) (*listAnswer, error) {
			list, err := s.desktops.Windows(ctx, callerOf(ctx), in.ID)
			return &listAnswer{append([]desktop.Window{}, list...)}, err // [] and never null
		})
	register(s, needs(desktop.CanControl), withPath(operation("activateWindow", http.MethodPost, "/{windowId}/activate", "Activate a window",
		"Gives it the focus and brings it to the front, from another workspace or out of its icon, too.")),
		func(ctx context.Context, in *windowPath) (*struct{}, error) {
			counts(ctx, "window.activate", 1)
			return nil, s.desktops.ActivateWindow(ctx, callerOf(ctx), in.ID, in.Window)
		})
	register(s, needs(desktop.CanControl), withPath(operation("closeWindow", http.MethodDelete, "/{windowId}", "Close a window",
		"Asks its application to close it, as the button on its frame does; the application may ask its user first.")),
		func(ctx context.Context, in *windowPath) (*struct{}, error) {
			counts(ctx, "window.close", 1)
			return nil, s.desktops.CloseWindow(ctx, callerOf(ctx), in.ID, in.Window)
		})
}
