package api

import (
	"context"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

// Clipboard is the text on a desktop's clipboard.
type Clipboard struct {
	Text string `json:"text" doc:"Up to 1 MiB of UTF-8; empty when nothing was copied"`
}

func (s *Server) clipboardRoutes() {
	type answer struct {
		Body Clipboard
	}
	operation := huma.Operation{
		OperationID: "getClipboard", Method: http.MethodGet, Path: desktopPath + "/clipboard", Tags: []string{tagControl},
		Summary: "Read the clipboard", Description: "Its text: 409 when what was copied is none.",
		Errors: []int{http.StatusConflict, http.StatusRequestEntityTooLarge},
	}
	register(s, needs(desktop.CanControl), operation, func(ctx context.Context, in *DesktopPath) (*answer, error) {
		text, err := s.desktops.Clipboard(ctx, callerOf(ctx), in.ID)
		return &answer{Clipboard{text}}, err
	})
	operation = huma.Operation{
		OperationID: "setClipboard", Method: http.MethodPut, Path: desktopPath + "/clipboard", Tags: []string{tagControl},
		Summary: "Put a text on the clipboard", Description: "To be pasted in the desktop's applications.",
		MaxBodyBytes: 8 << 20, // a text of 1 MiB can be six times as long in JSON
		Errors:       []int{http.StatusConflict},
	}
	register(s, needs(desktop.CanControl), operation, func(ctx context.Context, in *bodyInput[Clipboard]) (*struct{}, error) {
		text := in.Body.Text
		switch {
		case len(text) > desktop.MaxClipboardBytes:
			return nil, desktop.Errorf(desktop.TooLarge, "text: longer than %d bytes", desktop.MaxClipboardBytes)
		case strings.ContainsRune(text, 0):
			return nil, desktop.Errorf(desktop.Invalid, "text: has a NUL character")
		}
		return nil, s.desktops.SetClipboard(ctx, callerOf(ctx), in.ID, text)
	})
}
