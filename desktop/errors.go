package desktop

import (
	"errors"
	"fmt"
	"time"
)

// Code is the kind of a failure, the same in every layer. The API derives the HTTP status from it,
// the command line its exit code. An error without a code is an internal fault: logged in full,
// shown to the caller as nothing more than that.
type Code string

// The kinds of failure.
const (
	Invalid         Code = "invalid"         // the request can never succeed as it is
	Unauthenticated Code = "unauthenticated" // no key, or one that is not (or no longer) good
	Forbidden       Code = "forbidden"       // a good key that does not carry the capability
	NotFound        Code = "not-found"       // no such thing, or not the caller's
	Conflict        Code = "conflict"        // not in the present state
	Locked          Code = "locked"          // a person holds the desktop's input lease
	TooLarge        Code = "too-large"       // over a documented limit
	RateLimited     Code = "rate-limited"    // too many requests
	Exhausted       Code = "exhausted"       // the host has not enough memory or disk
	Unavailable     Code = "unavailable"     // not now; the same request may succeed later
	Internal        Code = "internal"        // a fault of ours
)

// Error is the one error type that crosses all layers.
type Error struct {
	Code    Code
	Message string // one sentence for the person who made the request
	// Details are further members of the problem document, such as "required" and "held".
	Details map[string]any
	// RetryAfter, when positive, says how long to wait before the same request may succeed.
	RetryAfter time.Duration
	// Err is the cause, for errors.Is and for the operator's log.
	Err error
}

func (e *Error) Error() string { return e.Message }

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an Error of the given kind. A %w verb records the cause as it does in fmt.Errorf.
func Errorf(code Code, format string, args ...any) *Error {
	wrapped := fmt.Errorf(format, args...)
	return &Error{Code: code, Message: wrapped.Error(), Err: errors.Unwrap(wrapped)}
}

// Because records a cause that is the operator's business alone: the message stays as it is.
func (e *Error) Because(err error) *Error {
	e.Err = err
	return e
}

// CodeOf is the kind of the first Error in err's chain, Internal when there is none.
func CodeOf(err error) Code {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return Internal
}
