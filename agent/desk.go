package agent

import (
	"context"
	"encoding/json"
	"net/http"

	"bureau/desktop"
)

// What lies on the desk: its windows, its clipboard and the display's size, at both ends.

// Windows implements desktop.Agent.
func (s *session) Windows(ctx context.Context) ([]desktop.Window, error) {
	ctx, cancel := within(ctx, deskWait, "listing the windows")
	defer cancel()
	response, err := s.do(ctx, http.MethodGet, routeWindows, nil)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	var list []desktop.Window
	if err := decode(response.Body, maxWindows, &list); err != nil {
		return nil, s.lost(ctx, err)
	}
	return cleanWindows(list), nil
}

// ActivateWindow implements desktop.Agent.
func (s *session) ActivateWindow(ctx context.Context, id uint32) error {
	return s.tell(ctx, "activating the window", routeActive, windowRequest{id})
}

// CloseWindow implements desktop.Agent.
func (s *session) CloseWindow(ctx context.Context, id uint32) error {
	return s.tell(ctx, "closing the window", routeClose, windowRequest{id})
}

// tell makes a request whose answer is that it was done.
func (s *session) tell(ctx context.Context, doing, route string, message any) error {
	ctx, cancel := within(ctx, deskWait, doing)
	defer cancel()
	response, err := s.do(ctx, http.MethodPost, route, message)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func (g *guest) serveWindows(w http.ResponseWriter, r *http.Request) {
	display, err := g.screen.display()
	if err != nil {
		writeError(w, err)
		return
	}
	list, err := display.Windows(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	json.NewEncoder(w).Encode(cleanWindows(list)) // a host that is gone needs no answer
}

// serveWindow does something to the window that the request names.
func (g *guest) serveWindow(do func(Display, context.Context, uint32) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		var request windowRequest
		if err := decode(r.Body, maxAnswer, &request); err != nil {
			writeError(w, desktop.Errorf(desktop.Invalid, "the request cannot be read: %w", err))
			return
		}
		display, err := g.screen.display()
		if err == nil {
			err = do(display, r.Context(), request.ID)
		}
		if err != nil {
			writeError(w, err)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}
