package mcp

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api"
	"bureau/api/client"
	"bureau/desktop"
)

const (
	// sessionsPerKey is how many sessions one key may have. One more ends the one that has rested
	// for longest: clients that crash leave theirs behind.
	sessionsPerKey = 32
	// sessionIdle is after how long without a request a session ends.
	sessionIdle = time.Hour
	// resumable is how many bytes of answers are kept, of all sessions together, for clients whose
	// connection has broken.
	resumable = 16 << 20
)

const (
	sessionHeader = "Mcp-Session-Id"
	versionHeader = "Mcp-Protocol-Version"
	// sessionless is the first version of the protocol without sessions.
	sessionless = "2026-07-28"
)

// Handler is MCP over streamable HTTP, to be mounted beside the API (api.Server.Mount), which says
// who calls.
//
// A session belongs to the key that has opened it; for any other it is not there. Older versions of
// the protocol have sessions; from 2026-07-28 on each request stands alone, and ends when its
// connection does.
//
// A web page must not reach it through a browser on the appliance's own network: a request that comes
// in over loopback has to name localhost, or one of Options.Hosts, as its host, and one that a page
// has sent has to come from there or from one of Options.Origins.
type Handler struct {
	options Options
	log     *slog.Logger
	hosts   []string

	sessions *sdk.StreamableHTTPHandler
	alone    *sdk.StreamableHTTPHandler

	mu      sync.Mutex
	servers map[string]*sdk.Server // by what the key may do
	open    map[string]*session    // by id
	opening map[string]int         // sessions that are being opened, by owner
	closed  bool
	life    context.Context // of all sessions
	end     context.CancelFunc
}

// session is what is known here of one.
type session struct {
	owner  string
	caller caller
	end    context.CancelFunc
	busy   int       // requests that are being answered
	used   time.Time // when the last of them ended
}

// NewHandler makes a Handler.
func NewHandler(o Options) *Handler {
	h := &Handler{
		options: o,
		log:     o.Logger,
		servers: map[string]*sdk.Server{},
		open:    map[string]*session{},
		opening: map[string]int{},
	}
	if h.log == nil {
		h.log = slog.New(slog.DiscardHandler)
	}
	for _, host := range o.Hosts {
		h.hosts = append(h.hosts, strings.ToLower(host))
	}
	h.life, h.end = context.WithCancel(context.Background())
	events := sdk.NewMemoryEventStore(nil)
	events.SetMaxBytes(resumable)
	h.sessions = sdk.NewStreamableHTTPHandler(h.server, &sdk.StreamableHTTPOptions{
		Logger: h.log, EventStore: events, SessionTimeout: sessionIdle,
		MaxRequestBodyBytes: -1, DisableLocalhostProtection: true, // the API's limit, and fromElsewhere
	})
	h.alone = sdk.NewStreamableHTTPHandler(h.server, &sdk.StreamableHTTPOptions{
		Logger: h.log, Stateless: true, PropagateRequestCancellation: true,
		MaxRequestBodyBytes: -1, DisableLocalhostProtection: true,
	})
	return h
}

// Close ends all sessions and what they do.
func (h *Handler) Close() error {
	h.mu.Lock()
	h.closed = true
	servers := make([]*sdk.Server, 0, len(h.servers))
	for _, server := range h.servers {
		servers = append(servers, server)
	}
	h.mu.Unlock()
	h.end()
	for _, server := range servers {
		for one := range server.Sessions() {
			_ = one.Close() // its peer may have gone
		}
	}
	return nil
}

// server is the one for what the caller may do.
func (h *Handler) server(r *http.Request) *sdk.Server {
	mounted, ok := api.ContextMounted(r.Context())
	if !ok {
		return nil
	}
	held := mounted.Caller.Key.Capabilities
	if mounted.Caller.Local {
		held = desktop.Capabilities()
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	set := capabilitySet(held)
	server := h.servers[set]
	if server == nil {
		server = newServer(held, h.options)
		h.servers[set] = server
	}
	return server
}

func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	mounted, ok := api.ContextMounted(r.Context())
	if !ok {
		panic("the MCP handler is not mounted beside the API") // a fault of who wires the parts
	}
	if why := h.fromElsewhere(r); why != "" {
		http.Error(w, why, http.StatusForbidden)
		return
	}
	if batch(r) {
		http.Error(w, "batches are not supported: send one message in each request", http.StatusBadRequest)
		return
	}
	if r.Header.Get(versionHeader) >= sessionless {
		c, end := h.caller(mounted)
		defer end()
		h.alone.ServeHTTP(w, r.WithContext(withCaller(r.Context(), c)))
		return
	}
	owner := mounted.Caller.Key.ID
	if mounted.Caller.Local {
		owner = "operator"
	}
	id := r.Header.Get(sessionHeader)
	switch {
	case id != "":
		one := h.use(owner, id, r.Method)
		if one == nil {
			http.Error(w, "session not found", http.StatusNotFound)
			return
		}
		if r.Method != http.MethodGet { // a stream on which the server may speak is no work
			defer h.used(one)
		}
		h.sessions.ServeHTTP(w, r.WithContext(withCaller(r.Context(), one.caller)))
	case r.Method != http.MethodPost:
		h.sessions.ServeHTTP(w, r) // which refuses it
	default:
		h.begin(w, r, mounted, owner)
	}
}

// caller is who has made a request, until end is called.
func (h *Handler) caller(m api.Mounted) (c caller, end context.CancelFunc) {
	within, err := client.New("http://bureau", "", client.WithTransport(func(http.RoundTripper) http.RoundTripper { return m.Transport }))
	if err != nil {
		panic(err) // the address is our own
	}
	life, end := context.WithCancel(h.life)
	return caller{client: within, life: life}, end
}

// begin opens a session.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, m api.Mounted, owner string) {
	if !h.makeRoom(owner) {
		w.Header().Set("Retry-After", "10")
		http.Error(w, "all sessions of this key are busy: end one first", http.StatusTooManyRequests)
		return
	}
	c, end := h.caller(m)
	one := &session{owner: owner, caller: c, end: end, busy: 1}
	opened := ""
	h.sessions.ServeHTTP(&headerWatcher{ResponseWriter: w, begun: func(header http.Header) {
		// Noted before the client has it.
		if opened = header.Get(sessionHeader); opened != "" {
			h.mu.Lock()
			h.open[opened] = one
			h.mu.Unlock()
		}
	}}, r.WithContext(withCaller(r.Context(), c)))
	h.used(one)
	h.mu.Lock()
	if h.opening[owner]--; h.opening[owner] == 0 {
		delete(h.opening, owner)
	}
	h.mu.Unlock()
	if opened == "" {
		end()
	}
}

// use notes that a session is being used, until used is called, or but for a moment by a GET. It is
// nil for one that is not the owner's.
func (h *Handler) use(owner, id, method string) *session {
	h.mu.Lock()
	defer h.mu.Unlock()
	one := h.open[id]
	if one == nil || one.owner != owner {
		return nil
	}
	if method == http.MethodDelete {
		one.end() // what it does, too
		delete(h.open, id)
	}
	if method != http.MethodGet {
		one.busy++
	}
	return one
}

func (h *Handler) used(one *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	one.busy--
	one.used = time.Now()
}

// makeRoom makes room for one more session of an owner, which is then being opened. It is false when
// all there are are busy.
func (h *Handler) makeRoom(owner string) bool {
	h.mu.Lock()
	live := map[string]*sdk.ServerSession{}
	for _, server := range h.servers {
		for one := range server.Sessions() {
			live[one.ID()] = one
		}
	}
	count := h.opening[owner]
	oldest := ""
	for id, one := range h.open {
		if live[id] == nil {
			one.end()
			delete(h.open, id) // it has ended by itself
			continue
		}
		if one.owner != owner {
			continue
		}
		count++
		if one.busy == 0 && (oldest == "" || one.used.Before(h.open[oldest].used)) {
			oldest = id
		}
	}
	full := count >= sessionsPerKey
	if h.closed || full && oldest == "" {
		h.mu.Unlock()
		return false
	}
	var rested *sdk.ServerSession
	if full {
		rested = live[oldest]
		h.open[oldest].end()
		delete(h.open, oldest)
	}
	h.opening[owner]++
	h.mu.Unlock()
	if rested != nil {
		h.log.Info("MCP session ended to make room for another", "key", owner)
		_ = rested.Close() // its peer may have gone
	}
	return true
}

// fromElsewhere is why a request may be a web page's that has no business here; "" when it is not.
func (h *Handler) fromElsewhere(r *http.Request) string {
	local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if tcp, ok := local.(*net.TCPAddr); ok && tcp.IP.IsLoopback() && !h.ours(r.Host) {
		return "this host name is not the appliance's: use localhost, or name it in the setting hosts"
	}
	origin := r.Header.Get("Origin")
	if origin == "" {
		return ""
	}
	if slices.Contains(h.options.Origins, origin) {
		return ""
	}
	page, err := url.Parse(origin)
	if err != nil || page.Host == "" || !strings.EqualFold(page.Host, r.Host) && !h.ours(page.Host) {
		return "web pages of another origin may not use this"
	}
	return ""
}

// ours tells whether a host, with or without a port, is this one by a name that only it has.
func (h *Handler) ours(host string) bool {
	name := host
	if without, _, err := net.SplitHostPort(host); err == nil {
		name = without
	}
	name = strings.ToLower(strings.Trim(name, "[]"))
	if name == "localhost" || slices.Contains(h.hosts, name) {
		return true
	}
	ip := net.ParseIP(name)
	return ip != nil && ip.IsLoopback()
}

// batch tells whether a request's body, which the API has read, is a batch of messages. One request
// is counted once by the key's rate.
func batch(r *http.Request) bool {
	if r.Method != http.MethodPost || r.Body == nil {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false // the API has read it before, into memory
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("["))
}

// headerWatcher tells of the header of an answer before it is sent.
type headerWatcher struct {
	http.ResponseWriter
	begun func(http.Header)
	once  sync.Once
}

func (w *headerWatcher) begin() { w.once.Do(func() { w.begun(w.Header()) }) }

// Unwrap lets http.ResponseController through.
func (w *headerWatcher) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *headerWatcher) WriteHeader(status int) {
	w.begin()
	w.ResponseWriter.WriteHeader(status)
}

func (w *headerWatcher) Write(data []byte) (int, error) {
	w.begin()
	return w.ResponseWriter.Write(data)
}

// FlushError sends what has been written so far.
func (w *headerWatcher) FlushError() error {
	w.begin()
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Flush is FlushError for those who know only that.
func (w *headerWatcher) Flush() { _ = w.FlushError() }
