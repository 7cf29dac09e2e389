package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"

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
	list, err := readWindows(response.Body)
	if err != nil {
		return nil, s.lost(ctx, err)
	}
	return list, nil
}

// ActivateWindow implements desktop.Agent.
func (s *session) ActivateWindow(ctx context.Context, id uint32) error {
	return s.tell(ctx, "activating the window", http.MethodPost, routeActive, windowRequest{id})
}

// CloseWindow implements desktop.Agent.
func (s *session) CloseWindow(ctx context.Context, id uint32) error {
	return s.tell(ctx, "closing the window", http.MethodPost, routeClose, windowRequest{id})
}

// Clipboard implements desktop.Agent.
func (s *session) Clipboard(ctx context.Context) (string, error) {
	ctx, cancel := within(ctx, deskWait, "reading the clipboard")
	defer cancel()
	response, err := s.do(ctx, http.MethodGet, routeClip, nil)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	text, err := readText(response.Body, desktop.MaxClipboardBytes)
	if err != nil {
		return "", s.lost(ctx, err)
	}
	return text, nil
}

// SetClipboard implements desktop.Agent.
func (s *session) SetClipboard(ctx context.Context, text string) error {
	if len(text) > desktop.MaxClipboardBytes {
		return errTooMuch()
	}
	return s.tell(ctx, "filling the clipboard", http.MethodPut, routeClip, text)
}

// Resize implements desktop.Agent.
func (s *session) Resize(ctx context.Context, size desktop.Size) error {
	return s.tell(ctx, "resizing the display", http.MethodPut, routeSize, size)
}

func errTooMuch() error {
	return desktop.Errorf(desktop.TooLarge, "the text is too long: the clipboard takes %d bytes", desktop.MaxClipboardBytes)
}

// readText reads UTF-8 of at most limit bytes; what is invalid in it is replaced.
func readText(r io.Reader, limit int64) (string, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return "", err
	}
	if int64(len(data)) > limit {
		return "", fmt.Errorf("more than %d bytes", limit)
	}
	text := strings.ToValidUTF8(string(data), "\uFFFD")
	if int64(len(text)) > limit { // it has become longer
		return "", fmt.Errorf("more than %d bytes", limit)
	}
	return text, nil
}

// tell makes a request whose answer is that it was done.
func (s *session) tell(ctx context.Context, doing, method, route string, message any) error {
	ctx, cancel := within(ctx, deskWait, doing)
	defer cancel()
	response, err := s.do(ctx, method, route, message)
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

func (g *guest) serveClipboard(w http.ResponseWriter, r *http.Request) {
	display, err := g.screen.display()
	if err != nil {
		writeError(w, err)
		return
	}
	text, err := display.Clipboard(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	io.WriteString(w, text) // a host that is gone needs no answer
}

func (g *guest) serveSetClipboard(w http.ResponseWriter, r *http.Request) {
	var text strings.Builder
	n, err := io.Copy(&text, io.LimitReader(r.Body, desktop.MaxClipboardBytes+1))
	switch {
	case err != nil:
		err = desktop.Errorf(desktop.Invalid, "the text cannot be read: %w", err)
	case n > desktop.MaxClipboardBytes:
		err = errTooMuch()
	}
	var display Display
	if err == nil {
		display, err = g.screen.display()
	}
	if err == nil {
		err = display.SetClipboard(r.Context(), text.String())
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

func (g *guest) serveResize(w http.ResponseWriter, r *http.Request) {
	var size desktop.Size
	if err := decode(r.Body, maxAnswer, &size); err != nil {
		writeError(w, desktop.Errorf(desktop.Invalid, "the request cannot be read: %w", err))
		return
	}
	display, err := g.screen.display()
	if err == nil {
		err = display.Resize(r.Context(), size)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
