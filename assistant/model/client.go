package model

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// Limits of one exchange with a provider.
const (
	maxIdle   = 5 * time.Minute // without a byte; models that think before they speak take minutes
	maxAnswer = 32 << 20        // bytes
)

// New is the model at an endpoint. It reaches it through client, whose redirects it does not follow
// (they would take the key elsewhere), and reads no environment variables. Its error is an *Error:
// Invalid.
func New(endpoint Endpoint, client *http.Client, log *slog.Logger) (Model, error) {
	return newClient(endpoint, client, log, maxIdle, maxAnswer)
}

// wire is a vendor's format.
type wire interface {
	// next asks and tells what arrives. Errors that are not *Error are of an answer that cannot be
	// read; those of the way to the provider and back are known to the guard already.
	next(ctx context.Context, request Request, tell func(Delta)) (Response, error)
}

type client struct {
	endpoint Endpoint
	wire     wire
	log      *slog.Logger
}

func newClient(endpoint Endpoint, base *http.Client, log *slog.Logger, idle time.Duration, most int64) (*client, error) {
	if err := endpoint.check(); err != nil {
		return nil, err
	}
	guarded := http.Client{}
	if base != nil {
		guarded = *base
	}
	guarded.Transport = &guard{next: guarded.Transport, key: endpoint.Key, idle: idle, most: most}
	guarded.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

	c := &client{endpoint: endpoint, log: log.With("format", endpoint.Format, "model", endpoint.Model)}
	switch endpoint.Format {
	case Anthropic:
		c.wire = newAnthropic(endpoint, &guarded)
	case OpenAI:
		c.wire = newResponses(endpoint, &guarded)
	case OpenAIChat:
		c.wire = newChat(endpoint, &guarded)
	case Gemini:
		g, err := newGemini(endpoint, &guarded)
		if err != nil {
			return nil, err
		}
		c.wire = g
	}
	return c, nil
}

// check tells what is wrong with an endpoint, without its key.
func (e Endpoint) check() error {
	invalid := func(format string, args ...any) error {
		return &Error{Code: Invalid, Message: fmt.Sprintf(format, args...)}
	}
	switch e.Format {
	case Anthropic, OpenAI, OpenAIChat:
	case Gemini:
		if e.Key == "" {
			return invalid("Gemini needs a key")
		}
	default:
		return invalid("the format is %q; it must be one of %v", e.Format, Formats())
	}
	if e.Model == "" {
		return invalid("no model is named")
	}
	for _, r := range e.Key {
		if r <= ' ' || r > '~' {
			return invalid("the key has characters that no key has")
		}
	}
	if e.BaseURL == "" {
		return nil
	}
	u, err := url.Parse(e.BaseURL)
	switch {
	case err != nil, u.Scheme != "http" && u.Scheme != "https", u.Host == "":
		return invalid("the base URL must be http:// or https:// with a host")
	case u.User != nil, u.RawQuery != "", u.Fragment != "":
		return invalid("the base URL must be without a user, a query and a fragment")
	}
	return nil
}

// base is where the paths of an SDK begin. People give the URL of a provider with its version and
// without; the SDKs of version's formats want it in the one way that is told by with.
func (e Endpoint) base(vendor, version string, with bool) string {
	base := strings.TrimRight(e.BaseURL, "/")
	if base == "" {
		base = vendor
	}
	if !with {
		return strings.TrimSuffix(base, "/"+version) + "/"
	}
	if u, err := url.Parse(base); err == nil && u.Path == "" {
		base += "/" + version
	}
	return base + "/"
}

func (c *client) Next(ctx context.Context, request Request, tell func(Delta)) (Response, error) {
	if tell == nil {
		tell = func(Delta) {}
	}
	if request.MaxTokens <= 0 {
		request.MaxTokens = DefaultMaxTokens
	}
	start := time.Now()
	way := &exchange{}
	asking, cancel := context.WithCancel(context.WithValue(ctx, exchange{}, way))
	defer cancel() // whatever an SDK left open ends here

	response, err := c.wire.next(asking, request, tell)
	if err == nil {
		err = response.finish()
	}
	if err != nil {
		err = c.explain(ctx, way, err)
		c.log.DebugContext(ctx, "A model did not answer", "error", err, "time", time.Since(start))
		return Response{}, err
	}
	response.Message.Role = Assistant
	if response.Model == "" {
		response.Model = c.endpoint.Model
	}
	c.log.DebugContext(ctx, "A model answered", "stop", response.Stop, "usage", response.Usage, "time", time.Since(start))
	return response, nil
}

// explain finds what an SDK's error came of.
func (c *client) explain(ctx context.Context, way *exchange, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if way.err != nil {
		return way.err
	}
	var known *Error
	if errors.As(err, &known) {
		known.Message = redact(known.Message, c.endpoint.Key)
		return known
	}
	// An SDK's own words may quote the answer at length.
	message := "its answer cannot be read"
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &kind) {
		message = "its answer is not JSON of the format"
	}
	return &Error{Code: Malformed, Message: message, Cause: err}
}

// finish checks what a model wants called. A call that was cut off with its message is left out.
func (r *Response) finish() error {
	kept := make([]Part, 0, len(r.Message.Parts))
	calls := false
	for _, part := range r.Message.Parts {
		if part.Call != nil {
			whole := wellFormed(part.Call)
			switch {
			case r.Stop == Refusal, r.Stop == MaxTokens && !whole:
				continue
			case !whole:
				return &Error{Code: Malformed, Message: fmt.Sprintf("the arguments of its call of %q are not a JSON object", shorten(part.Call.Tool, 60))}
			case part.Call.Tool == "":
				return &Error{Code: Malformed, Message: "a call does not say of which tool"}
			}
			calls = true
		}
		kept = append(kept, part)
	}
	r.Message.Parts = kept
	// Formats differ in whether a message with calls ends its turn.
	if calls && r.Stop == EndTurn {
		r.Stop = ToolUse
	} else if !calls && r.Stop == ToolUse {
		r.Stop = EndTurn
	}
	return nil
}

func wellFormed(call *Call) bool {
	var object map[string]json.RawMessage
	if json.Unmarshal(call.Arguments, &object) == nil && object != nil {
		return true
	}
	var list []json.RawMessage
	return call.Tool == Computer && call.Format == OpenAIChat && json.Unmarshal(call.Arguments, &list) == nil && list != nil
}

// Check asks a model for a word, which proves the address, the key and the model. It says in a
// sentence what answered; its error is an *Error that says what is wrong, or that of an ended ctx.
func Check(ctx context.Context, endpoint Endpoint, client *http.Client, log *slog.Logger) (string, error) {
	m, err := New(endpoint, client, log)
	if err != nil {
		return "", err
	}
	response, err := m.Next(ctx, Request{
		Messages:  []Message{{Role: User, Parts: []Part{{Text: "Say OK."}}}},
		MaxTokens: 16, // OpenAI takes no less
	}, nil)
	if err != nil {
		return "", err
	}
	if response.Stop == Refusal {
		return fmt.Sprintf("The model %s can be reached with this key, but refuses to say OK.", response.Model), nil
	}
	return fmt.Sprintf("The model %s answers.", response.Model), nil
}
