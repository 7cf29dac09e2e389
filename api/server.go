// Package api is the public HTTP API: routes, authentication and capabilities, limits, problem
// documents and the OpenAPI document. A handler validates, calls one method of the domain and
// renders what it returns. Nothing here knows SQL, libvirt or X11.
//
// The Go types of the routes are the contract: huma checks requests against them and writes the
// OpenAPI document from them. A request passes, in this order:
//
//	exchange   its id, the access log, panics              (exchange.go)
//	router     404 and 405                                 (server.go)
//	guard      who is it, how often, may it                (route.go)   401, 429, 403
//	existence  is there such a desktop, for this caller    (route.go)   404
//	body       read within its limits, then validated      (route.go)   400, 408, 413, 415
//	only       is it the first with its Idempotency-Key    (idempotency.go)  409, 422
//	handler    the domain's answer                                      409, 503 and the rest
//
// so that whoever may not know of a desktop learns nothing from the errors either.
package api

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"
	"github.com/gin-gonic/gin"

	"bureau/desktop"
	"bureau/desktop/picture"
)

// Desktops is what the API asks of the domain. A desktop that the caller may not know of is
// NotFound, exactly as one that does not exist.
type Desktops interface {
	// List is one page of the caller's desktops, destroyed ones excluded; more tells of a next page.
	// page.Owner is set by List, from the caller.
	List(ctx context.Context, caller desktop.Caller, page desktop.Page) (desktops []desktop.Desktop, more bool, err error)
	Get(ctx context.Context, caller desktop.Caller, id string) (desktop.Desktop, error)
	// All is everybody's desktops as they are now, from memory; destroyed ones excluded.
	All() []desktop.Desktop
	Create(ctx context.Context, caller desktop.Caller, draft desktop.Draft) (desktop.Desktop, error)
	Update(ctx context.Context, caller desktop.Caller, id string, change desktop.Change) (desktop.Desktop, error)
	// Start, Stop and Restart record the wish and return at once.
	Start(ctx context.Context, caller desktop.Caller, id string) (desktop.Desktop, error)
	Stop(ctx context.Context, caller desktop.Caller, id string) (desktop.Desktop, error)
	Restart(ctx context.Context, caller desktop.Caller, id string) (desktop.Desktop, error)
	Destroy(ctx context.Context, caller desktop.Caller, id string) error

	// Act, Exec, See and ActAndSee are Unavailable while the desktop cannot be used.
	Act(ctx context.Context, caller desktop.Caller, id string, actions ...desktop.Action) (desktop.Acted, error)
	Exec(ctx context.Context, caller desktop.Caller, id string, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error)
	// See is a picture of the display; with settle it waits, at most so long, for it to come to rest.
	See(ctx context.Context, caller desktop.Caller, id string, settle time.Duration) (desktop.Sight, error)
	// ActAndSee does actions and sees what they leave behind. When they were done and only the
	// picture failed, Acted is set beside the error.
	ActAndSee(ctx context.Context, caller desktop.Caller, id string, settle time.Duration, actions ...desktop.Action) (*desktop.Acted, desktop.Sight, error)

	// What the desktop's session has: windows, the clipboard, the display. Unavailable as above.
	Windows(ctx context.Context, caller desktop.Caller, id string) ([]desktop.Window, error)
	ActivateWindow(ctx context.Context, caller desktop.Caller, id string, window uint32) error
	CloseWindow(ctx context.Context, caller desktop.Caller, id string, window uint32) error
	Clipboard(ctx context.Context, caller desktop.Caller, id string) (string, error)
	SetClipboard(ctx context.Context, caller desktop.Caller, id, text string) error
	Resize(ctx context.Context, caller desktop.Caller, id string, size desktop.Size) error

	// TakeLease takes or renews the lease of a desktop's input and returns it with its token; Locked
	// while somebody else holds it, as all input then is. ReleaseLease ends it, whoever holds it.
	TakeLease(ctx context.Context, caller desktop.Caller, id, holder string, duration time.Duration) (lease desktop.Lease, token string, err error)
	ReleaseLease(ctx context.Context, caller desktop.Caller, id string) error

	// Orphans lists what is on the host and no desktop here owns, RemoveOrphan deletes a volume of it,
	// and Adopt makes a desktop of a machine of it. They are the operator's.
	Orphans(ctx context.Context, caller desktop.Caller) (desktop.Orphans, error)
	RemoveOrphan(ctx context.Context, caller desktop.Caller, volume string) error
	Adopt(ctx context.Context, caller desktop.Caller, name, owner string) (desktop.Desktop, error)

	// Host tells what the host has, what of it is promised to desktops and what is free.
	Host(ctx context.Context) (desktop.HostState, error)

	// Ready tells whether the appliance can do its work.
	Ready(ctx context.Context) error
}

// Accounts is who may use the API. Users are named by id or by e-mail address.
type Accounts interface {
	// Authenticate finds the caller behind a key; Unauthenticated for an unknown, revoked or
	// expired one.
	Authenticate(ctx context.Context, secret string) (desktop.Caller, error)
	CreateUser(ctx context.Context, email string, role desktop.Role, tier string) (desktop.User, error)
	UpdateUser(ctx context.Context, user string, change desktop.UserChange) (desktop.User, error)
	Users(ctx context.Context) ([]desktop.User, error)
	// CreateKey makes a key; its secret is returned this once.
	CreateKey(ctx context.Context, user, name string, capabilities []desktop.Capability, expiresAt *time.Time) (key desktop.Key, secret string, err error)
	// Keys lists a user's keys, or everybody's for "".
	Keys(ctx context.Context, user string) ([]desktop.Key, error)
	RevokeKey(ctx context.Context, id string) (desktop.Key, error)
}

// Renderer makes an image file of a frame.
type Renderer func(frame *desktop.Frame, o picture.Options) (picture.Picture, error)

// Options are what a Server is made of. The domain's parts are required to serve; without them a
// Server still tells its OpenAPI document.
type Options struct {
	Desktops  Desktops
	Accounts  Accounts
	Assistant Assistant
	// Providers and Usage are of the models that desktops use. They are required like those above.
	Providers Providers
	Usage     Usage
	Claims    desktop.Claims // remembers requests with an Idempotency-Key
	Activity  Activity       // nothing is recorded when nil
	Render    Renderer       // picture.Render when nil
	Logger    *slog.Logger   // none when nil

	// RatePerMinute is how many requests a minute one key may make, 0 for any number; Burst is how
	// many of them at once (RatePerMinute when 0).
	RatePerMinute float64
	Burst         int

	// FailuresPerMinute is how many requests a minute may fail to authenticate from one address, 0 for
	// any number.
	FailuresPerMinute float64
	// Proxies are the networks of the proxies that are believed about whom they pass requests on for.
	Proxies []netip.Prefix
	// Connections is how many TCP connections there may be, ConnectionsPerAddress how many of one address
	// that is no proxy's; 0 for any number.
	Connections, ConnectionsPerAddress int
	// Origins are the web origins, such as https://example.org, whose pages may use the API.
	Origins []string
	// TLS, when not nil, is how Serve's TCP listener speaks TLS. HTTP/2 is not spoken: all limits here are
	// of connections that carry one request at a time.
	TLS *tls.Config
	// StrictTransport tells whether browsers are to insist on TLS from now on; nil for no.
	StrictTransport func() bool

	// Version is what the OpenAPI document says it describes.
	Version string

	// Grace is how long Serve lets requests in flight go on once it has been told to end.
	Grace time.Duration
}

// Server is the API.
type Server struct {
	desktops  Desktops
	accounts  Accounts
	providers Providers
	usage     Usage
	claims    desktop.Claims
	assistant Assistant
	activity  Activity
	news      *news
	album     *album
	log       *slog.Logger
	rates     *limiter
	failures  *failures
	grace     time.Duration
	times     times

	proxies                      []netip.Prefix
	connections, connectionsEach int
	origins                      []string
	tls                          *tls.Config
	strictTransport              func() bool

	router   *gin.Engine
	api      huma.API
	rules    map[string]rule // by method and path, as they were registered
	document []byte          // the OpenAPI document

	inFlight sync.WaitGroup
	ending   chan struct{} // closed when Serve has been told to end
	mounted  []io.Closer
}

// New makes the API. It serves nothing yet.
func New(o Options) *Server {
	s := &Server{
		desktops:  o.Desktops,
		accounts:  o.Accounts,
		providers: o.Providers,
		usage:     o.Usage,
		claims:    o.Claims,
		assistant: o.Assistant,
		activity:  o.Activity,
		log:       o.Logger,
		rates:     newLimiter(o.RatePerMinute, o.Burst),
		failures:  newFailures(o.FailuresPerMinute),
		grace:     o.Grace,
		times:     defaultTimes,

		proxies:         o.Proxies,
		connections:     o.Connections,
		connectionsEach: o.ConnectionsPerAddress,
		origins:         o.Origins,
		tls:             o.TLS,
		strictTransport: o.StrictTransport,

		router: gin.New(),
		rules:  map[string]rule{},
		ending: make(chan struct{}),
	}
	if o.Render == nil {
		o.Render = picture.Render
	}
	s.album = newAlbum(o.Render, albumBytes)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.grace <= 0 {
		s.grace = 10 * time.Second
	}
	if s.tls != nil {
		s.tls = s.tls.Clone()
		s.tls.NextProtos = []string{"http/1.1"}
	}
	if s.strictTransport == nil {
		s.strictTransport = func() bool { return false }
	}

	s.router.HandleMethodNotAllowed = true
	s.router.RedirectTrailingSlash = false
	s.router.NoRoute(func(c *gin.Context) {
		s.refuse(c.Writer, c.Request, desktop.Errorf(desktop.NotFound, "there is nothing at %s", shorten(c.Request.URL.Path)))
	})
	s.router.NoMethod(func(c *gin.Context) {
		s.refuse(c.Writer, c.Request, desktop.Errorf(methodNotAllowed, "%s is not for %s here, but for %s",
			shorten(c.Request.URL.Path), shorten(c.Request.Method), c.Writer.Header().Get("Allow")))
	})

	s.api = humagin.New(s.router, description(o.Version))
	s.healthRoutes()
	s.accountRoutes()
	s.desktopRoutes()
	s.lifecycleRoutes()
	s.controlRoutes()
	s.actionsRoutes()
	s.windowRoutes()
	s.clipboardRoutes()
	s.displayRoutes()
	s.execRoutes()
	s.screenshotRoutes()
	s.leaseRoutes()
	s.providerRoutes()
	s.usageRoutes()
	s.activityRoutes()
	s.news = newNews(s)
	s.eventRoutes()
	s.chatRoutes()
	s.completionRoutes()
	s.adminRoutes()
	s.orphanRoutes()
	s.hostRoutes()
	s.documentRoutes()

	var err error
	if s.document, err = json.Marshal(s.api.OpenAPI()); err != nil {
		panic(fmt.Errorf("write the OpenAPI document: %w", err)) // of our own types: found by any test
	}
	return s
}

// Handler serves the API. It is for tests and for embedding; Serve is the whole of it.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serveHTTP) }

// OpenAPI is the OpenAPI 3.1 document in JSON.
func (s *Server) OpenAPI() []byte { return s.document }
