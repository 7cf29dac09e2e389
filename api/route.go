package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"bureau/desktop"
)

// rule says who may use a route. There is no route without one: its zero value is refused.
type rule struct {
	kind       ruleKind
	capability desktop.Capability
}

type ruleKind int

const (
	ruleless ruleKind = iota
	forAnybody
	forAnyKey
	forCapability
	forOperator
)

var (
	anybody  = rule{kind: forAnybody}  // no key needed
	anyKey   = rule{kind: forAnyKey}   // any good key
	operator = rule{kind: forOperator} // the local operator alone, on the administration socket
)

// needs is the rule of a route that takes a capability.
func needs(capability desktop.Capability) rule { return rule{forCapability, capability} }

// administrationSocket is what a key lacks on the operator's routes, since no capability gives it.
const administrationSocket = "administration-socket"

const (
	defaultBodyLimit = 1 << 20
	largeBodyLimit   = 2 << 20 // of text and scripts
)

// desktopPath is the beginning of the routes of one desktop.
const desktopPath = "/v1/desktops/{id}"

// DesktopPath is the input of a route of one desktop.
type DesktopPath struct {
	ID string `path:"id" doc:"The desktop's id" example:"dt-7k3m9q2w5x8r4t6y"`
}

// register adds a route. op.Errors lists the statuses that this route can fail with beyond those
// that follow from its rule, path and input, which are documented by themselves.
func register[I, O any](s *Server, r rule, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	if r.kind == ruleless || r.kind == forCapability && !slices.Contains(desktop.Capabilities(), r.capability) {
		panic("route " + op.OperationID + " has no rule")
	}
	failures := append([]int{http.StatusInternalServerError}, op.Errors...)
	op.Errors = nil
	if op.MaxBodyBytes == 0 {
		op.MaxBodyBytes = defaultBodyLimit
	}
	limit := op.MaxBodyBytes
	op.MaxBodyBytes++       // huma refuses the limit itself, and never sees more than it
	op.BodyReadTimeout = -1 // the body has been read by then
	op.Middlewares = huma.Middlewares{s.guard(r)}
	if strings.HasPrefix(op.Path, desktopPath) {
		op.Middlewares = append(op.Middlewares, s.existence)
		failures = append(failures, http.StatusNotFound)
	}
	op.Middlewares = append(op.Middlewares, s.emptyQueries, s.body(limit))
	kept, isOnce := op.Metadata[onceKey].(answerKept)
	if isOnce {
		op.Middlewares = append(op.Middlewares, s.only(kept))
	}

	switch r.kind {
	case forAnybody:
		op.Security = []map[string][]string{}
	case forOperator:
		op.Security = []map[string][]string{}
		op.Description += "\n\nOnly the operator, on the administration socket."
		failures = append(failures, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	default:
		op.Security = []map[string][]string{{bearer: {}}}
		failures = append(failures, http.StatusUnauthorized, http.StatusTooManyRequests, http.StatusServiceUnavailable)
	}
	if r.kind == forCapability {
		op.Description += "\n\nNeeds the capability `" + string(r.capability) + "`."
		op.Extensions = map[string]any{"x-bureau-capability": string(r.capability)}
		failures = append(failures, http.StatusForbidden)
	}
	op.Description = strings.TrimSpace(op.Description)

	if op.Responses == nil {
		op.Responses = map[string]*huma.Response{}
	}
	op.Responses["500"] = s.problemResponse(http.StatusInternalServerError) // so that huma adds no default
	huma.Register(s.api, op, func(ctx context.Context, input *I) (*O, error) {
		output, err := handler(ctx, input)
		if err != nil {
			return nil, s.problem(ctx, err)
		}
		return output, nil
	})
	s.rules[op.Method+" "+op.Path] = r

	documented := s.operation(op.Method, op.Path)
	if r == needs(desktop.CanControl) && op.Method != http.MethodGet {
		documented.Parameters = append(documented.Parameters, &huma.Param{Name: leaseHeader, In: "header",
			Description: "Token of the desktop's input lease, while the caller holds it", Schema: &huma.Schema{Type: huma.TypeString}})
		failures = append(failures, http.StatusLocked)
	}
	if isOnce {
		failures = append(failures, s.documentOnce(documented, kept)...)
	}
	if documented.RequestBody != nil {
		failures = append(failures, http.StatusBadRequest, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	for _, parameter := range documented.Parameters {
		if parameter.In == "query" || parameter.In == "path" && constrained(parameter.Schema) {
			failures = append(failures, http.StatusBadRequest)
		}
	}
	for _, status := range failures {
		documented.Responses[strconv.Itoa(status)] = s.problemResponse(status)
	}
}

// operation is a registered one, in the OpenAPI document.
func (s *Server) operation(method, path string) *huma.Operation {
	item := s.api.OpenAPI().Paths[path]
	switch method {
	case http.MethodGet:
		return item.Get
	case http.MethodPost:
		return item.Post
	case http.MethodPut:
		return item.Put
	case http.MethodPatch:
		return item.Patch
	case http.MethodDelete:
		return item.Delete
	}
	panic("no place for method " + method)
}

type callerKey struct{}

// callerOf is who makes the request; the guard has seen to it that there is somebody.
func callerOf(ctx context.Context) desktop.Caller {
	caller, _ := ctx.Value(callerKey{}).(desktop.Caller)
	return caller
}

// fail answers with an error from a middleware.
func (s *Server) fail(ctx huma.Context, err error) {
	s.problem(ctx.Context(), err).write(humagin.Unwrap(ctx).Writer)
}

// guard lets through whom the rule is for.
func (s *Server) guard(r rule) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		exchangeOf(ctx.Context()).route = ctx.Operation().OperationID
		if r.kind == forAnybody {
			next(ctx)
			return
		}
		caller, err := s.admit(ctx.Context(), r, ctx.Header("Authorization"), ctx.Header(leaseHeader))
		if err != nil {
			s.fail(ctx, err)
			return
		}
		next(huma.WithValue(ctx, callerKey{}, caller))
	}
}

// admit finds out who makes a request, and refuses who makes too many or may not make this one.
func (s *Server) admit(ctx context.Context, r rule, authorization, lease string) (desktop.Caller, error) {
	caller, err := s.identify(ctx, authorization)
	if err != nil {
		return caller, err
	}
	caller.Lease = lease
	exchangeOf(ctx).caller = caller
	if !caller.Local && !isWithin(ctx) {
		if wait := s.rates.wait(caller.Key.ID, time.Now()); wait > 0 {
			failure := desktop.Errorf(desktop.RateLimited, "too many requests with this key")
			failure.RetryAfter = wait
			return caller, failure
		}
	}
	return caller, r.allow(caller)
}

// allow is nil when the rule is for the caller.
func (r rule) allow(caller desktop.Caller) error {
	required, sentence := "", ""
	switch {
	case caller.Local:
	case r.kind == forCapability && !caller.Can(r.capability):
		required, sentence = string(r.capability), "the key does not have the capability "+string(r.capability)
	case r.kind == forOperator:
		required, sentence = administrationSocket, "only the operator on the administration socket may do this"
	}
	if required == "" {
		return nil
	}
	held := append([]desktop.Capability{}, caller.Key.Capabilities...)
	return &desktop.Error{Code: desktop.Forbidden, Message: sentence, Details: map[string]any{"required": required, "held": held}}
}

// maxKeyLength bounds what is taken for a key, so that nonsense costs no look-up.
const maxKeyLength = 128

// authenticate finds the caller. A key counts wherever the request came in; without one, the
// administration socket makes the operator.
func (s *Server) authenticate(ctx context.Context, header string) (desktop.Caller, error) {
	if header == "" {
		if isLocal(ctx) {
			return desktop.Caller{Local: true, User: desktop.User{Role: desktop.RoleAdmin}}, nil
		}
		return desktop.Caller{}, desktop.Errorf(desktop.Unauthenticated, `there is no key: send "Authorization: Bearer sk_live_…"`)
	}
	secret := bearerOf(header)
	if secret == "" {
		return desktop.Caller{}, desktop.Errorf(desktop.Unauthenticated, "there is no key in the Authorization header: send \"Bearer sk_live_…\"")
	}
	caller, err := s.accounts.Authenticate(ctx, secret)
	caller.Local = false
	return caller, err
}

// bearerOf is the key in an Authorization header; "" when there is nothing in it that looks like one.
func bearerOf(header string) string {
	scheme, secret, _ := strings.Cut(header, " ")
	secret = strings.TrimSpace(secret)
	if !strings.EqualFold(scheme, "Bearer") || !strings.HasPrefix(secret, desktop.KeyPrefix) || len(secret) > maxKeyLength {
		return ""
	}
	return secret
}

// existence ends a request for a desktop that the caller may not know of, before anything of the
// request is looked at.
func (s *Server) existence(ctx huma.Context, next func(huma.Context)) {
	d, err := s.desktops.Get(ctx.Context(), callerOf(ctx.Context()), ctx.Param("id"))
	if err != nil {
		did(ctx.Context()).DesktopID = ctx.Param("id") // in the log of who asked
		s.fail(ctx, err)
		return
	}
	about(ctx.Context(), d)
	next(ctx)
}

// constrained tells whether a path's parameter can be a bad one. Of others any text is the name of
// something, which may not be there.
func constrained(schema *huma.Schema) bool {
	return schema.Type != huma.TypeString || schema.Format != "" || schema.Pattern != "" || schema.MinLength != nil || schema.MaxLength != nil || len(schema.Enum) > 0
}

// emptyQueries refuses a parameter of the query without a value where no text is meant. huma takes it
// for one that is not there.
func (s *Server) emptyQueries(ctx huma.Context, next func(huma.Context)) {
	var values url.Values
	for _, p := range ctx.Operation().Parameters {
		if p.In != "query" || p.Schema.Type == huma.TypeString && p.Schema.Format == "" && len(p.Schema.Enum) == 0 {
			continue
		}
		if values == nil {
			u := ctx.URL()
			values = u.Query()
		}
		if given, there := values[p.Name]; there && given[0] == "" {
			s.fail(ctx, desktop.Errorf(desktop.Invalid, "%s is given without a value", p.Name))
			return
		}
	}
	next(ctx)
}

// body reads the body, within its limit and in time. It is read as a whole and its deadline, which
// serveHTTP has set, lifted before the handler runs: net/http ends a request's context when a read
// deadline passes, and some handlers take a day. The deadline of a request that is refused stays:
// net/http reads on for a while before it sends the answer.
func (s *Server) body(limit int64) func(huma.Context, func(huma.Context)) {
	return func(ctx huma.Context, next func(huma.Context)) {
		if ctx.Operation().RequestBody == nil {
			next(ctx)
			return
		}
		c := humagin.Unwrap(ctx)
		data, err := readBody(c.Writer, c.Request, limit)
		if err != nil {
			c.Writer.Header().Set("Connection", "close") // what is left of the body is not waited for
			s.fail(ctx, err)
			return
		}
		c.Request.Body = io.NopCloser(bytes.NewReader(data))
		next(ctx)
	}
}

func readBody(w http.ResponseWriter, r *http.Request, limit int64) ([]byte, error) {
	tooLarge := desktop.Errorf(desktop.TooLarge, "the body is larger than %d bytes", limit)
	if r.ContentLength > limit {
		return nil, tooLarge
	}
	data, err := io.ReadAll(io.LimitReader(r.Body, limit+1))
	var network net.Error
	switch {
	case err != nil && errors.As(err, &network) && network.Timeout():
		return nil, desktop.Errorf(requestTimeout, "the body did not arrive in time")
	case err != nil:
		return nil, desktop.Errorf(desktop.Invalid, "the body cannot be read: %w", err)
	case int64(len(data)) > limit:
		return nil, tooLarge
	}
	http.NewResponseController(w).SetReadDeadline(time.Time{})
	return data, nil
}
