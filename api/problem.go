package api

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/validation"
	"github.com/gin-gonic/gin"

	"bureau/desktop"
)

// Kinds of failure that only HTTP knows.
const (
	methodNotAllowed desktop.Code = "method-not-allowed"
	requestTimeout   desktop.Code = "request-timeout"
	unsupportedMedia desktop.Code = "unsupported-media-type"
)

// Kind is one way for a request to fail: what a problem document of it says. Its type member is
// "/problems/" and the name, where the server explains it.
type Kind struct {
	Name    string `json:"name" example:"not-found"`
	Status  int    `json:"status" example:"404"`
	Title   string `json:"title" example:"Not found"`
	Meaning string `json:"meaning" doc:"What it means and what to do about it"`
}

// kinds lists every way in which a request can fail; there are no others.
var kinds = []Kind{
	{string(desktop.Invalid), http.StatusBadRequest, "Invalid request",
		"The request can never succeed as it is. \"errors\" names each fault and its place; unknown fields are faults. Mend the request."},
	{string(desktop.Unauthenticated), http.StatusUnauthorized, "Not authenticated",
		"There is no key in the request, or it is unknown, revoked or expired. Send \"Authorization: Bearer sk_live_…\" with a good one."},
	{string(desktop.Forbidden), http.StatusForbidden, "Not allowed",
		"The key is good and does not carry the capability that \"required\" names; \"held\" lists those it has. Capabilities never change: make another key."},
	{string(desktop.NotFound), http.StatusNotFound, "Not found",
		"There is no such thing, or it belongs to somebody else."},
	{string(methodNotAllowed), http.StatusMethodNotAllowed, "Method not allowed",
		"The path exists, not for this method. The Allow header lists those it is for."},
	{string(requestTimeout), http.StatusRequestTimeout, "Request timeout",
		"The body did not arrive in time. Send it again."},
	{string(desktop.Conflict), http.StatusConflict, "Conflict",
		"Not in the present state, which the sentence names. Wait for another state, or lead there. With \"resource\", the owner has as many desktops, or running ones, as their tier allows: \"limit\"."},
	{string(keyReused), http.StatusUnprocessableEntity, "Idempotency key reused",
		"The Idempotency-Key came with another request within the last 24 hours. Make a new key for each request, and send a repetition exactly as the first."},
	{string(desktop.TooLarge), http.StatusRequestEntityTooLarge, "Too large",
		"The request is over a documented limit. Send less at once."},
	{string(unsupportedMedia), http.StatusUnsupportedMediaType, "Unsupported media type",
		"Bodies are JSON: send \"Content-Type: application/json\"."},
	{string(desktop.Locked), http.StatusLocked, "Held by a person",
		"A person holds the desktop's input lease: \"holder\" says who, \"expiresAt\" until when. Pictures stay allowed; act after the lease has ended."},
	{string(desktop.RateLimited), http.StatusTooManyRequests, "Too many requests",
		"The key is over its rate, or too many requests with no good key have come from your address. Wait as long as the Retry-After header says."},
	{string(desktop.Internal), http.StatusInternalServerError, "Internal fault",
		"A fault of ours. The operator finds it in the log under the request's id."},
	{string(desktop.Unavailable), http.StatusServiceUnavailable, "Not available now",
		"The same request may succeed later, such as when the desktop has booted and its agent is ready. Wait as long as the Retry-After header says."},
	{string(desktop.Exhausted), http.StatusInsufficientStorage, "Host exhausted",
		"The host has not enough memory, processors or disk for this desktop: \"resource\" says which, \"needed\" how much, \"free\" how much there is. Nothing was changed. Stop or destroy a desktop, ask for a smaller one, or ask the operator."},
}

// problemPath is where the kinds are explained, and the beginning of every type.
const problemPath = "/problems/"

func kindOf(code desktop.Code) Kind {
	for _, k := range kinds {
		if k.Name == string(code) {
			return k
		}
	}
	return kindOf(desktop.Internal)
}

// codeOfStatus is the kind behind a status that the HTTP library has decided on.
func codeOfStatus(status int) desktop.Code {
	if status == http.StatusUnprocessableEntity {
		return desktop.Invalid // a validation failure is a 400 here
	}
	for _, k := range kinds {
		if k.Status == status {
			return desktop.Code(k.Name)
		}
	}
	if status < http.StatusInternalServerError {
		return desktop.Invalid
	}
	return desktop.Internal
}

// Problem is an RFC 9457 problem document, and an error that the HTTP library knows how to render.
type Problem struct {
	Type      string  `json:"type" format:"uri-reference" doc:"Names the kind of failure, and is where the server explains it" example:"/problems/not-found"`
	Title     string  `json:"title" doc:"The kind in words" example:"Not found"`
	Status    int     `json:"status" doc:"The HTTP status" example:"404"`
	Detail    string  `json:"detail" doc:"What happened to this request" example:"there is no desktop dt-7k3m9q2w5x8r4t6y"`
	Message   string  `json:"error" doc:"The same in one short sentence, for clients that read only this" example:"there is no desktop dt-7k3m9q2w5x8r4t6y"`
	RequestID string  `json:"requestId" doc:"The request's id, under which the operator finds it in the log"`
	Faults    []Fault `json:"errors,omitempty" doc:"Each fault of an invalid request"`

	// extra are further members, from the error's details.
	extra      map[string]any
	retryAfter time.Duration

	_ struct{} `additionalProperties:"true"`
}

// Fault is one thing that is wrong with a request.
type Fault struct {
	Location string `json:"location,omitempty" doc:"Where" example:"body.x"`
	Message  string `json:"message" doc:"What is wrong there" example:"expected integer"`
}

// maxFaults is how many faults one problem document lists.
const maxFaults = 20

// TransformSchema documents the members that only some problems have.
func (*Problem) TransformSchema(r huma.Registry, schema *huma.Schema) *huma.Schema {
	schema.Properties["required"] = &huma.Schema{Type: huma.TypeString,
		Description: "With status 403: the capability that is missing", Examples: []any{string(desktop.CanControl)}}
	schema.Properties["held"] = &huma.Schema{Type: huma.TypeArray, Items: &huma.Schema{Type: huma.TypeString},
		Description: "With status 403: the capabilities of the key"}
	schema.Properties["holder"] = &huma.Schema{Type: huma.TypeString,
		Description: "With status 423: who holds the desktop's input", Examples: []any{"ada@example.org"}}
	schema.Properties["expiresAt"] = &huma.Schema{Type: huma.TypeString, Format: "date-time",
		Description: "With status 423: when that ends at the latest, unless it is renewed"}
	schema.Properties["made"] = &huma.Schema{Type: huma.TypeString,
		Description: "With status 409 of a repetition: id of what the first request with its Idempotency-Key has made"}
	schema.Properties["resource"] = &huma.Schema{Type: huma.TypeString, Enum: []any{
		desktop.ResourceMemory, desktop.ResourceVCPUs, desktop.ResourceDisk, desktop.ResourceDesktops, desktop.ResourceRunning, "database"},
		Description: "What there is not enough of: with status 507 of the host's, with 409 of the owner's tier, with 503 the database's disk"}
	schema.Properties["needed"] = &huma.Schema{Type: huma.TypeInteger, Description: "With resource: how much of it is needed, in bytes or in number"}
	schema.Properties["free"] = &huma.Schema{Type: huma.TypeInteger, Description: "With resource: how much of it is free"}
	schema.Properties["limit"] = &huma.Schema{Type: huma.TypeInteger, Description: "With resource and status 409: how many the owner may have"}
	schema.Properties["acted"] = &huma.Schema{Type: huma.TypeBoolean,
		Description: "true when the input was done and only what comes after it failed: do not do it again"}
	schema.Properties["index"] = &huma.Schema{Type: huma.TypeInteger, Description: "Of several actions: the one that failed, from 0"}
	schema.Properties["completed"] = &huma.Schema{Type: huma.TypeInteger, Description: "Of several actions: how many were done, from the first on"}
	schema.Properties["results"] = &huma.Schema{Type: huma.TypeArray, Items: new(Result).Schema(nil),
		Description: "Of several actions: the results up to the one that failed, which is the last"}
	return schema
}

func (p *Problem) Error() string { return p.Message }

// GetStatus and the next two are how the HTTP library asks.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType is the media type of problem documents.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// GetHeaders are the headers that belong to a kind.
func (p *Problem) GetHeaders() http.Header {
	header := http.Header{}
	switch p.Status {
	case http.StatusUnauthorized:
		header.Set("WWW-Authenticate", `Bearer realm="bureau"`)
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		seconds := max(1, int(math.Ceil(p.retryAfter.Seconds())))
		header.Set("Retry-After", strconv.Itoa(seconds))
	}
	return header
}

// MarshalJSON puts the details beside the standard members, which they cannot replace.
func (p *Problem) MarshalJSON() ([]byte, error) {
	type plain Problem
	standard, err := json.Marshal((*plain)(p))
	if err != nil || len(p.extra) == 0 {
		return standard, err
	}
	members := map[string]any{}
	for name, value := range p.extra {
		members[name] = value
	}
	var own map[string]json.RawMessage
	if err := json.Unmarshal(standard, &own); err != nil {
		return nil, err
	}
	for name, value := range own {
		members[name] = value
	}
	return json.Marshal(members)
}

// problem is what the caller is told of an error. It is the one place that decides so, and that
// logs what the caller is not told.
func (s *Server) problem(ctx context.Context, err error) *Problem { return problemOf(ctx, err) }

func problemOf(ctx context.Context, err error) *Problem {
	var decided *Problem
	if errors.As(err, &decided) {
		return decided
	}
	x := exchangeOf(ctx)
	var known *desktop.Error
	if !errors.As(err, &known) || kindOf(known.Code).Name != string(known.Code) {
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			// The caller has gone, or the server is about to.
			known = &desktop.Error{Code: desktop.Unavailable, Message: "the request was cut short"}
		} else {
			known = &desktop.Error{Code: desktop.Internal, Message: "an internal fault; the operator finds it in the log under request " + x.id}
		}
	}
	if known.Code == desktop.Internal {
		x.log.LogAttrs(ctx, slog.LevelError, "internal fault", slog.Any("error", err))
		known = &desktop.Error{Code: desktop.Internal, Message: "an internal fault; the operator finds it in the log under request " + x.id}
	} else if known.Err != nil || err != error(known) {
		x.log.LogAttrs(ctx, slog.LevelDebug, "request refused", slog.String("code", string(known.Code)), slog.Any("error", err), slog.Any("cause", known.Err))
	}
	kind := kindOf(known.Code)
	p := &Problem{
		Type: problemPath + kind.Name, Title: kind.Title, Status: kind.Status,
		Detail: known.Message, Message: known.Message, RequestID: x.id,
		extra: known.Details, retryAfter: known.RetryAfter,
	}
	if known.Code == desktop.Unavailable && p.retryAfter <= 0 {
		p.retryAfter = 2 * time.Second
	}
	return p
}

// refuse answers with an error.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	s.problem(r.Context(), err).write(w)
}

// refusedBody is how long the rest of a body may take to arrive when its request has been refused.
const refusedBody = 5 * time.Second

func (p *Problem) write(w http.ResponseWriter) {
	for name, values := range p.GetHeaders() {
		w.Header()[name] = values
	}
	w.Header().Set("Content-Type", p.ContentType(""))
	body, err := json.Marshal(p)
	if err != nil { // details that are no JSON; the rest is
		p.extra = nil
		body, _ = json.Marshal(p)
	}
	// What is left of the request's body is read for a while before the answer is sent; a test's recorder
	// reads nothing.
	http.NewResponseController(w).SetReadDeadline(time.Now().Add(refusedBody))
	w.WriteHeader(p.Status)
	w.Write(append(body, '\n'))
}

// How huma makes its own errors and what it checks, and whether gin chats on standard output, are
// variables of those packages; they are set once here, to the contract's.
func init() {
	gin.SetMode(gin.ReleaseMode)
	huma.NewErrorWithContext = func(ctx huma.Context, status int, message string, errs ...error) huma.StatusError {
		return invalid(ctx.Context(), status, message, errs)
	}
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return invalid(context.Background(), status, message, errs)
	}
	huma.ValidateStrictCasing = true
	huma.DefaultArrayNullable = false
}

// invalid is a problem that huma has found with a request.
func invalid(ctx context.Context, status int, message string, errs []error) *Problem {
	code := codeOfStatus(status)
	if code == desktop.Internal {
		return problemOf(ctx, errors.Join(append([]error{errors.New(message)}, errs...)...))
	}
	var faults []Fault
	for _, err := range errs {
		var detail *huma.ErrorDetail
		if errors.As(err, &detail) {
			// Never its Value: that may be the whole body, and what is typed may be secret.
			faults = append(faults, Fault{shorten(detail.Location), shorten(detail.Message)})
		} else if err != nil {
			faults = append(faults, Fault{Message: shorten(err.Error())})
		}
	}
	slices.SortStableFunc(faults, func(a, b Fault) int { return strings.Compare(a.Location, b.Location) })
	faults = slices.Compact(faults)
	if len(faults) > maxFaults {
		faults = faults[:maxFaults]
	}
	if code == unsupportedMedia {
		message, faults = `the body must be JSON, with "Content-Type: application/json"`, nil
	}
	p := problemOf(ctx, &desktop.Error{Code: code, Message: message})
	if len(faults) > 0 {
		p.Faults = faults
		sentences := make([]string, len(faults))
		for i, fault := range faults {
			sentences[i] = fault.sentence()
		}
		p.Message, p.Detail = sentences[0], strings.Join(sentences, "; ")
	}
	return p
}

// sentence is a fault in words that name the field as the caller wrote it.
func (f Fault) sentence() string {
	place, field, _ := strings.Cut(f.Location, ".")
	switch {
	case f.Message == validation.MsgUnexpectedProperty:
		return "unknown field " + strconv.Quote(field)
	case field != "":
		return field + ": " + f.Message
	case place != "" && place != "body":
		return place + ": " + f.Message
	}
	return f.Message
}

// shorten bounds what is echoed of a request.
func shorten(text string) string {
	const most = 200
	if len(text) <= most {
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
