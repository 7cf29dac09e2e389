package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"bureau/desktop"
)

// denial is a refusal with an HTTP status; vendors' clients go by that and by the type in the body.
type denial struct {
	status     int
	message    string
	retryAfter time.Duration
	cause      error // the operator's business alone
}

func (d *denial) Error() string {
	if d.cause != nil {
		return d.message + ": " + d.cause.Error()
	}
	return d.message
}

func (d *denial) Unwrap() error { return d.cause }

func deny(status int, format string, args ...any) *denial {
	return &denial{status: status, message: fmt.Sprintf(format, args...)}
}

// unreachable is for a provider that there is no connection to. Where it is is no business of the
// guest's.
func unreachable(err error) error {
	d := deny(http.StatusBadGateway, "the model provider cannot be reached")
	d.cause = err
	return d
}

// refusal is what a guest is told of an error.
func refusal(err error) *denial {
	var d *denial
	if errors.As(err, &d) {
		return d
	}
	d = &denial{status: http.StatusInternalServerError, message: "a fault of this desktop's host", cause: err}
	var known *desktop.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		d.status, d.message = http.StatusGatewayTimeout, "the model took too long"
	case errors.As(err, &known) && known.Code == desktop.RateLimited:
		d.status, d.message, d.retryAfter = http.StatusTooManyRequests, known.Message, known.RetryAfter
	case errors.As(err, &known) && known.Code != desktop.Internal:
		d.status, d.message, d.retryAfter = http.StatusServiceUnavailable, "this desktop's host cannot lend models just now; its log says why", 5*time.Second
	}
	return d
}

// write answers with a denial in the words of a vendor.
func (d *denial) write(w http.ResponseWriter, v vendor) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Connection", "close") // what is left of the request is not waited for
	if d.retryAfter > 0 {
		w.Header().Set("Retry-After", seconds(d.retryAfter))
	}
	w.WriteHeader(d.status)
	json.NewEncoder(w).Encode(d.body(v)) // to one who may be gone
}

func (d *denial) body(v vendor) any {
	kinds := map[int]struct{ anthropic, openai, gemini string }{
		http.StatusForbidden:             {"permission_error", "permission_error", "PERMISSION_DENIED"},
		http.StatusNotFound:              {"not_found_error", "invalid_request_error", "NOT_FOUND"},
		http.StatusRequestEntityTooLarge: {"request_too_large", "invalid_request_error", "INVALID_ARGUMENT"},
		http.StatusTooManyRequests:       {"rate_limit_error", "rate_limit_error", "RESOURCE_EXHAUSTED"},
		http.StatusServiceUnavailable:    {"overloaded_error", "server_error", "UNAVAILABLE"},
		http.StatusBadGateway:            {"api_error", "server_error", "UNAVAILABLE"},
		http.StatusGatewayTimeout:        {"timeout_error", "server_error", "DEADLINE_EXCEEDED"},
		http.StatusInternalServerError:   {"api_error", "server_error", "INTERNAL"},
	}
	kind, known := kinds[d.status]
	if !known {
		kind.anthropic, kind.openai, kind.gemini = "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"
	}
	switch v {
	case anthropic:
		return map[string]any{"type": "error", "error": map[string]any{"type": kind.anthropic, "message": d.message}}
	case gemini:
		return map[string]any{"error": map[string]any{"code": d.status, "message": d.message, "status": kind.gemini}}
	}
	return map[string]any{"error": map[string]any{"message": d.message, "type": kind.openai, "param": nil, "code": nil}}
}

// redact takes a key out of a text, and what a vendor has left of it readable.
func redact(text []byte, key string) []byte {
	if len(key) < 8 {
		return text
	}
	text = bytes.ReplaceAll(text, []byte(key), []byte("[key]"))
	for _, start := range []string{"sk-", "AIza"} {
		if !strings.HasPrefix(key, start) {
			continue
		}
		for at := bytes.Index(text, []byte(start)); at >= 0; at = bytes.Index(text, []byte(start)) {
			end := at
			for end < len(text) && text[end] > ' ' && !bytes.ContainsRune([]byte(`"',;\`), rune(text[end])) {
				end++
			}
			text = append(append(bytes.Clone(text[:at]), "[key]"...), text[end:]...)
		}
	}
	return text
}
