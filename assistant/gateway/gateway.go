// Package gateway lends models to the programs in a guest. It answers the requests that come over a
// desktop's agent link as the vendors would, by asking a provider for it with the credential that
// never leaves the host.
//
// # Trust
//
// The guest is hostile. Whose desktop a request is of is known by the link, by nothing in the request.
// Of a request only what is known by name goes on: a path that is put together anew from its known
// pieces, a few headers, a few parameters, and a body that is one JSON object. Of an answer so do the
// status, a few headers and the content. Sizes, times and numbers are bounded for each desktop by
// itself, so that one which uses up what it may have takes nothing from another. Neither keys nor
// content are logged.
//
// The providers are trusted as much as whoever named them is: with the content.
package gateway

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/desktop/activity"
)

// Providers finds the models that a desktop may use.
type Providers interface {
	// Chains are the providers of the nearest owner (the desktop, its owner, the appliance) that has
	// any of these formats: of each the endpoints to be tried one after another, at least one.
	// desktop.NotFound when nobody has.
	Chains(ctx context.Context, owner, desktopID string, formats ...model.Format) ([][]model.Endpoint, error)
}

// Options are what a Gateway is made of.
type Options struct {
	Providers Providers
	Meter     assistant.Meter
	// Client is how an endpoint is reached; it follows no redirects.
	Client func(model.Endpoint) *http.Client
	// Owner is whose a desktop is.
	Owner func(ctx context.Context, desktopID string) (string, error)
	// OnlyConfigured refuses models other than those that the providers name.
	OnlyConfigured bool
	// Note takes down what is refused, for the activity log; nil for nobody. Whose the desktop is is left
	// to it.
	Note func(activity.Entry)
	Log  *slog.Logger
}

// limits are what one desktop may take of the host.
type limits struct {
	atOnce int           // requests under way; others are told to wait
	body   int64         // bytes of one request's
	bodies int64         // bytes of all that are held at once; others wait their turn
	upload time.Duration // for a body to come in
	silent time.Duration // of a provider, in the middle of an answer
	stuck  time.Duration // of a guest that does not take its answer
	whole  time.Duration // for a request and its answer
}

var defaults = limits{
	atOnce: 16,
	body:   32 << 20, // the most that any of the vendors takes
	bodies: 32 << 20,
	upload: time.Minute,
	silent: 10 * time.Minute,
	stuck:  time.Minute,
	whole:  time.Hour,
}

const (
	maxComplaint = 64 << 10         // of a provider's error
	recordWait   = 10 * time.Second // for what was used to be written down
)

// Gateway makes the handlers of desktops.
type Gateway struct {
	options Options
	limits  limits
	log     *slog.Logger

	mu      sync.Mutex
	tenants map[string]*tenant
}

// tenant is what requests of one desktop share, also across sessions of its agent.
type tenant struct {
	id     string
	slots  chan struct{}
	bodies *semaphore.Weighted
}

// New makes a Gateway.
func New(o Options) *Gateway {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Gateway{options: o, limits: defaults, log: o.Log, tenants: map[string]*tenant{}}
}

// For is what answers the requests of a desktop's guest.
func (g *Gateway) For(desktopID string) http.Handler {
	g.mu.Lock()
	defer g.mu.Unlock()
	t := g.tenants[desktopID]
	if t == nil {
		t = &tenant{id: desktopID, slots: make(chan struct{}, g.limits.atOnce), bodies: semaphore.NewWeighted(g.limits.bodies)}
		g.tenants[desktopID] = t
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { g.serve(w, r, t) })
}

// serve answers one request.
func (g *Gateway) serve(w http.ResponseWriter, r *http.Request, t *tenant) {
	began := time.Now()
	// For the whole of the body, whether anybody wants it or not; it is lifted when it has come.
	http.NewResponseController(w).SetReadDeadline(began.Add(g.limits.upload))
	ctx, cancel := context.WithTimeout(r.Context(), g.limits.whole)
	defer cancel()
	c, err := parse(r)
	var x exchange
	if err == nil {
		x = exchange{gateway: g, tenant: t, call: c, w: w, r: r}
		err = x.do(ctx)
	}
	level := slog.LevelDebug
	if err != nil {
		failure := refusal(err)
		if failure.status >= 500 && ctx.Err() == nil {
			level = slog.LevelWarn
		}
		if !x.begun {
			failure.write(w, c.vendor)
		}
		if g.options.Note != nil && failure.status < 500 {
			entry := activity.Entry{Actor: activity.ByGuest, Via: "gateway", Action: "model", DesktopID: t.id,
				Status: failure.status, At: began, Until: time.Now()}
			if name := c.name(); name != "" {
				entry.Details = map[string]int64{name: 1}
			}
			g.options.Note(entry)
		}
	}
	g.log.LogAttrs(ctx, level, "a guest's request to a model", slog.String("desktop", t.id), slog.String("call", c.name()),
		slog.String("provider", x.endpoint.Provider), slog.Int("status", x.status), slog.Duration("took", time.Since(began)), slog.Any("error", err))
	if err != nil && x.begun {
		panic(http.ErrAbortHandler) // what was sent must not look complete
	}
}

// exchange is one request under way.
type exchange struct {
	gateway *Gateway
	tenant  *tenant
	call    call
	w       http.ResponseWriter
	r       *http.Request

	endpoint model.Endpoint // the one that was asked last
	asked    string         // for the model of this name
	status   int            // its answer's
	begun    bool           // the guest has been sent the beginning of an answer
}

func (x *exchange) do(ctx context.Context) error {
	g := x.gateway
	select {
	case x.tenant.slots <- struct{}{}:
		defer func() { <-x.tenant.slots }()
	default:
		return busy("this desktop has %d requests under way, which is the most", g.limits.atOnce)
	}
	owner, err := g.options.Owner(ctx, x.tenant.id)
	if err != nil {
		return err
	}
	if err := g.options.Meter.Allow(ctx, owner, x.tenant.id); err != nil {
		return err
	}
	chains, err := g.options.Providers.Chains(ctx, owner, x.tenant.id, x.call.formats()...)
	if desktop.CodeOf(err) == desktop.NotFound {
		return deny(http.StatusForbidden, "no provider of %s models is configured for this desktop, its owner or its appliance", x.call.vendor)
	}
	if err != nil {
		return err
	}
	sent, release, err := x.body(ctx)
	if err != nil {
		return err
	}
	defer release()
	chain, err := choose(chains, x.call.model, g.options.OnlyConfigured && x.call.generates)
	if err != nil {
		return err
	}
	response, err := x.ask(ctx, chain, sent)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	release()
	return x.answer(ctx, owner, response)
}

// choose is the provider to ask: the one that names the model, else the first.
func choose(chains [][]model.Endpoint, name string, only bool) ([]model.Endpoint, error) {
	for _, chain := range chains {
		for i, endpoint := range chain {
			if endpoint.Model == name {
				return chain[i:], nil
			}
		}
	}
	if only {
		return nil, deny(http.StatusForbidden, "the model %q is not one of those that this appliance lends", name)
	}
	return chains[0], nil
}

// ask asks the endpoints one after another, as long as one is overloaded or failing. All but the
// first are asked for the model that they name.
func (x *exchange) ask(ctx context.Context, chain []model.Endpoint, sent *object) (*http.Response, error) {
	for i, endpoint := range chain {
		name := x.call.model
		if i > 0 {
			name = endpoint.Model
		}
		x.endpoint, x.asked, x.status = endpoint, name, 0
		last := i == len(chain)-1 || !x.call.generates
		request, err := x.call.request(ctx, endpoint, name, sent, x.r.Header)
		if err != nil {
			return nil, err
		}
		response, err := x.gateway.options.Client(endpoint).Do(request)
		switch {
		case err != nil && ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && !last:
			x.gateway.log.Warn("a model provider cannot be reached; asking the next", "desktop", x.tenant.id, "provider", endpoint.Provider, "error", err)
			continue
		case err != nil:
			return nil, unreachable(err)
		}
		x.status = response.StatusCode
		if failing(response.StatusCode) && !last {
			x.gateway.log.Warn("a model provider fails; asking the next", "desktop", x.tenant.id, "provider", endpoint.Provider, "status", response.StatusCode)
			response.Body.Close()
			continue
		}
		return response, nil
	}
	return nil, errors.New("a provider without an endpoint")
}

// failing tells whether another provider may do better than one that answers so.
func failing(status int) bool {
	return status == http.StatusTooManyRequests || status >= 500
}

// answer passes a provider's answer on to the guest.
func (x *exchange) answer(ctx context.Context, owner string, response *http.Response) error {
	switch status := response.StatusCode; {
	case status == http.StatusUnauthorized || status == http.StatusForbidden:
		return deny(http.StatusForbidden, "the model provider refuses the key that this appliance has for it, or what was asked for; its operator, or the owner of the desktop, can test it")
	case status == http.StatusRequestTimeout || status < 200 || status >= 300 && status < 400:
		return deny(http.StatusBadGateway, "the model provider answered %d", status)
	case response.Header.Get("Content-Encoding") != "" && response.Header.Get("Content-Encoding") != "identity":
		return deny(http.StatusBadGateway, "the model provider answered in a way that was not asked for")
	case status >= 400:
		return x.complaint(response)
	}
	meter := newCounter(x.call.vendor, response.Header.Get("Content-Type"))
	if x.call.generates {
		defer func() { x.record(ctx, owner, meter) }()
	}
	copyHeaders(x.w.Header(), response.Header)
	x.w.WriteHeader(response.StatusCode)
	x.begun = true
	return x.pass(ctx, response.Body, meter)
}

// complaint passes a provider's error on. It may quote the request, and so the key.
func (x *exchange) complaint(response *http.Response) error {
	text, err := io.ReadAll(io.LimitReader(response.Body, maxComplaint))
	if err != nil {
		return unreachable(err)
	}
	copyHeaders(x.w.Header(), response.Header)
	x.w.WriteHeader(response.StatusCode)
	x.begun = true
	_, err = x.w.Write(redact(text, x.endpoint.Key))
	return err
}

var errSilent = errors.New("the model provider was silent for too long")

// pass copies a stream piece by piece, as the pieces come.
func (x *exchange) pass(ctx context.Context, from io.ReadCloser, meter *counter) error {
	limits, out := x.gateway.limits, http.NewResponseController(x.w)
	silence := time.AfterFunc(limits.silent, func() { from.Close() })
	defer silence.Stop()
	end := context.AfterFunc(ctx, func() { from.Close() })
	defer end()
	var to io.Writer = x.w
	if x.call.hideUsage {
		to = &usageFilter{to: x.w}
	}
	if err := out.Flush(); err != nil {
		return err
	}
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			silence.Reset(limits.silent)
			meter.Write(buf[:n])
			out.SetWriteDeadline(time.Now().Add(limits.stuck))
			if _, err := to.Write(buf[:n]); err != nil {
				return err
			}
			if err := out.Flush(); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			if filter, ok := to.(*usageFilter); ok {
				return filter.close()
			}
			return nil
		case err != nil && ctx.Err() != nil:
			return ctx.Err()
		case err != nil && !silence.Stop():
			return errSilent
		case err != nil:
			return unreachable(err)
		}
	}
}

// record writes down what an answer took, also of one that the guest did not wait for.
func (x *exchange) record(ctx context.Context, owner string, meter *counter) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordWait)
	defer cancel()
	endpoint := x.endpoint
	// A name that is not configured is written down as the provider has it: a guest may make up any.
	if x.asked != endpoint.Model && meter.model != "" {
		endpoint.Model = meter.model
	}
	if err := x.gateway.options.Meter.Record(ctx, owner, x.tenant.id, endpoint, meter.usage()); err != nil {
		x.gateway.log.Error("what a model took was not recorded", "desktop", x.tenant.id, "error", err)
	}
}

// busy is for a guest that asks for too much at once.
func busy(format string, args ...any) error {
	e := desktop.Errorf(desktop.RateLimited, format, args...)
	e.RetryAfter = time.Second
	return e
}

func seconds(d time.Duration) string { return strconv.Itoa(max(1, int((d+time.Second-1)/time.Second))) }
