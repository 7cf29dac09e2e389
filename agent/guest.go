package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// Where things are in a guest.
const (
	DefaultPort   = "/dev/virtio-ports/org.bureau.agent.0"
	DefaultRunDir = "/run/bureau"
	// DefaultModels is where the host's models are found in a guest.
	DefaultModels = "127.0.0.1:7879"
)

// Options are what the agent in a guest needs to know.
type Options struct {
	// Version of this binary, told to the host.
	Version string
	// Port is the device that leads to the host; DefaultPort when empty.
	Port string
	// RunDir is where a delivered agent is put, under the name "agent"; DefaultRunDir when empty.
	RunDir string
	// User is the desktop's user where no session tells; the one with uid 1000 when empty.
	User string
	// OpenDisplay connects to the display. It is called again until it succeeds, and whenever the
	// display has gone.
	OpenDisplay OpenDisplay
	// Uplink, when not nil, carries requests to the host.
	Uplink *Uplink
	// Models is the address at which programs in the guest find the models that the host lends;
	// when it is empty they find none.
	Models string
	// Root is where the guest's files are, "/" when empty.
	Root string
	Log  *slog.Logger
}

// releaseWait bounds the letting go at a session's end.
const releaseWait = 5 * time.Second

// ErrReplaced is Serve's error when the host has delivered another agent, which is to be started in
// the place of this one.
var ErrReplaced = errors.New("another agent has been delivered")

// probeVariable is set for a delivered binary that is asked whether it runs here at all.
const probeVariable = "BUREAU_AGENT_PROBE"

// Run is the agent's life in a guest: Serve, and when another agent has been delivered this process
// becomes that one.
func Run(ctx context.Context, o Options) error {
	if os.Getenv(probeVariable) != "" {
		return nil
	}
	unix.Umask(0o022)
	// Commands inherit nothing that this process was given by mistake.
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC) // a kernel before 5.11 lacks it
	if err := dropStart(); err != nil && o.Log != nil {
		o.Log.Debug("the pages of the start stay in memory", "error", err)
	}
	err := Serve(ctx, o)
	if !errors.Is(err, ErrReplaced) {
		return err
	}
	path := filepath.Join(o.runDir(), delivered)
	args := append([]string{path}, os.Args[1:]...)
	if err := syscall.Exec(path, args, os.Environ()); err != nil {
		return fmt.Errorf("starting the delivered agent: %w", err)
	}
	return nil
}

func (o Options) runDir() string {
	if o.RunDir == "" {
		return DefaultRunDir
	}
	return o.RunDir
}

// guest is the agent's server.
type guest struct {
	options  Options
	log      *slog.Logger
	screen   *screen
	runner   *runner
	arrival  func() time.Time // of what came last from the host
	acting   chan struct{}    // holds the one who acts
	replaced chan struct{}    // closed when another agent has been delivered
	once     sync.Once
	putting  sync.Mutex
}

// Serve answers the host on the port until ctx ends, another agent has been delivered
// (ErrReplaced), or the port breaks.
func Serve(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Models != "" {
		// Before anything is waited for: the desktop's session is about to begin, and reads them.
		announceModels(o.Root, o.Models, o.Log)
	}
	port, err := openPort(ctx, o.Port, o.Log)
	if err != nil {
		return err
	}
	return serve(ctx, port, o)
}

// serve is Serve on an open port.
func serve(ctx context.Context, port io.ReadWriteCloser, o Options) (err error) {
	log := o.Log
	w := newWire(port, true, nil)
	defer w.close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	if o.Uplink == nil {
		o.Uplink = new(Uplink)
	}
	g := &guest{
		options: o, log: log,
		screen:   newScreen(o.OpenDisplay, o.Version, log),
		runner:   newRunner(o.User, modelVariables(o.Models), log),
		arrival:  w.arrival,
		acting:   make(chan struct{}, 1),
		replaced: make(chan struct{}),
	}
	var working sync.WaitGroup
	defer working.Wait()
	working.Go(func() { g.screen.run(ctx) })
	if o.Models != "" {
		working.Go(func() { serveModels(ctx, o.Models, o.Uplink, g.screen.models, log) })
	}
	defer cancel()

	self := peer{version: o.Version}
	if self.binary, err = fingerprint("/proc/self/exe"); err != nil {
		return err
	}
	handler := g.routes()
	for ctx.Err() == nil {
		if err := g.session(ctx, w, self, handler); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

// session waits for a host and serves it until the session ends.
func (g *guest) session(ctx context.Context, w *wire, self peer, handler http.Handler) error {
	l := w.leg()
	defer l.Close()
	switch err := answer(ctx, l, self); {
	case absent(err):
		return nil
	case err != nil:
		return fmt.Errorf("talking to the host: %w", err)
	}
	m, err := newMux(l, false, g.log)
	if err != nil {
		return err
	}
	g.log.Info("a session with the host begins")
	stop := context.AfterFunc(ctx, m.close)
	defer stop()
	ending := make(chan struct{})
	go func() {
		defer close(ending)
		select {
		case <-m.done():
			return
		case <-g.replaced:
		}
		// The host ends the session once it has its answer.
		select {
		case <-m.done():
		case <-time.After(2 * time.Second):
			m.close()
		}
	}()
	up := m.transport()
	g.options.Uplink.set(up)
	m.serve(ctx, handler, hostStreams, g.log)
	g.options.Uplink.set(nil)
	up.CloseIdleConnections()
	m.close()
	<-ending
	g.release(ctx)
	g.log.Info("the session with the host has ended")
	select {
	case <-g.replaced:
		return ErrReplaced
	default:
		return nil
	}
}

// release lets go of what the host that has gone left pressed: the next one does not know of it.
func (g *guest) release(ctx context.Context) {
	display, err := g.screen.display()
	if err != nil || ctx.Err() != nil {
		return // the end of the display lets go of everything too
	}
	ctx, cancel := context.WithTimeout(ctx, releaseWait)
	defer cancel()
	if err := display.Release(ctx); err != nil {
		g.log.Warn("keys or buttons may have stayed pressed", "error", err)
	}
}

// openPort opens the device, waiting for it to appear and for another process to let it go.
func openPort(ctx context.Context, path string, log *slog.Logger) (*os.File, error) {
	if path == "" {
		path = DefaultPort
	}
	pause := 50 * time.Millisecond
	for said := false; ; {
		// Non-blocking, so that the runtime waits for it and Close and deadlines end the waiting.
		port, err := os.OpenFile(path, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		switch {
		case err == nil:
			if err := port.SetDeadline(time.Time{}); err != nil {
				port.Close()
				return nil, fmt.Errorf("%s cannot be waited for: %w", path, err)
			}
			return port, nil
		case !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENODEV):
			return nil, fmt.Errorf("opening the port to the host: %w", err)
		case !said:
			log.Warn("waiting for the port to the host", "error", err)
			said = true
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pause):
			pause = min(2*pause, time.Second)
		}
	}
}

func (g *guest) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+routeStatus, g.serveStatus)
	mux.HandleFunc("POST "+routeAct, g.serveAct)
	mux.HandleFunc("GET "+routeCapture, g.serveCapture)
	mux.HandleFunc("GET "+routeCursor, g.serveCursor)
	mux.HandleFunc("GET "+routeWindows, g.serveWindows)
	mux.HandleFunc("POST "+routeActive, g.serveWindow(Display.ActivateWindow))
	mux.HandleFunc("POST "+routeClose, g.serveWindow(Display.CloseWindow))
	mux.HandleFunc("GET "+routeClip, g.serveClipboard)
	mux.HandleFunc("PUT "+routeClip, g.serveSetClipboard)
	mux.HandleFunc("PUT "+routeSize, g.serveResize)
	mux.HandleFunc("POST "+routeExec, g.serveExec)
	mux.HandleFunc("PUT "+routeAgent, g.servePut)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		writeError(w, desktop.Errorf(desktop.NotFound, "this agent has no %s %s", r.Method, r.URL.Path))
	})
	return mux
}

func (g *guest) serveStatus(w http.ResponseWriter, r *http.Request) {
	out, enc := http.NewResponseController(w), json.NewEncoder(w)
	for {
		status, changed := g.screen.now()
		if enc.Encode(status) != nil || out.Flush() != nil {
			return
		}
		select {
		case <-changed:
		case <-r.Context().Done():
			return
		}
	}
}

func (g *guest) serveAct(w http.ResponseWriter, r *http.Request) {
	arrived := g.arrival() // of the request, or of something since
	var request actRequest
	if err := decode(r.Body, maxRequest, &request); err != nil {
		writeError(w, desktop.Errorf(desktop.Invalid, "the request cannot be read: %w", err))
		return
	}
	acted, err := g.act(r.Context(), request.Actions)
	if err != nil {
		writeError(w, err)
		return
	}
	acted.TookMs = float64(time.Since(arrived).Microseconds()) / 1000
	// A host that is gone needs no answer. The end of the answer says that it is shown.
	json.NewEncoder(w).Encode(actAnswer{acted, acted.Synced})
	if http.NewResponseController(w).Flush() == nil {
		g.screen.shown(r.Context())
	}
}

// act does actions when nobody else does any.
func (g *guest) act(ctx context.Context, actions []desktop.Action) (desktop.Acted, error) {
	select {
	case g.acting <- struct{}{}:
		defer func() { <-g.acting }()
	case <-ctx.Done():
		return desktop.Acted{}, context.Cause(ctx)
	}
	display, err := g.screen.display()
	if err != nil {
		return desktop.Acted{}, err
	}
	return display.Act(ctx, actions)
}

func (g *guest) serveCapture(w http.ResponseWriter, r *http.Request) {
	display, err := g.screen.display()
	if err != nil {
		writeError(w, err)
		return
	}
	f, err := display.Capture(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	if err := writeCapture(w, f); err != nil {
		g.log.Debug("a picture was not taken", "error", err)
	}
}

func (g *guest) serveCursor(w http.ResponseWriter, r *http.Request) {
	display, err := g.screen.display()
	if err != nil {
		writeError(w, err)
		return
	}
	c, err := display.Cursor(r.Context())
	if err != nil {
		writeError(w, err)
		return
	}
	if err := writeCursor(w, c); err != nil {
		g.log.Debug("a cursor was not taken", "error", err)
	}
}

func (g *guest) serveExec(w http.ResponseWriter, r *http.Request) {
	var command desktop.Exec
	if err := decode(r.Body, maxRequest, &command); err != nil {
		writeError(w, desktop.Errorf(desktop.Invalid, "the request cannot be read: %w", err))
		return
	}
	out := http.NewResponseController(w)
	var mu sync.Mutex
	send := func(kind byte, content []byte) error {
		mu.Lock()
		defer mu.Unlock()
		if err := writeChunk(w, kind, content); err != nil {
			return err
		}
		return out.Flush()
	}
	var begun atomic.Bool
	result, err := g.runner.run(r.Context(), command, func(s desktop.Stream, p []byte) error {
		begun.Store(true)
		g.screen.shown(r.Context())
		if s == desktop.Stdout {
			return send(chunkStdout, p)
		}
		return send(chunkStderr, p)
	})
	switch {
	case err != nil && !begun.Load():
		writeError(w, err)
	case err != nil:
		content, _ := json.Marshal(failureOf(err))
		send(chunkError, content)
	default:
		content, _ := json.Marshal(result)
		if send(chunkExit, content) == nil {
			g.screen.shown(r.Context())
		}
	}
}

// Uplink carries a guest's requests to the host: an http.RoundTripper that uses the session there
// is. The zero value is ready to be put in Options.
type Uplink struct {
	transport atomic.Pointer[http.Transport]
}

func (u *Uplink) set(t *http.Transport) {
	if u != nil {
		u.transport.Store(t)
	}
}

// RoundTrip implements http.RoundTripper. Without a session it is Unavailable.
func (u *Uplink) RoundTrip(r *http.Request) (*http.Response, error) {
	t := u.transport.Load()
	if t == nil {
		if r.Body != nil {
			r.Body.Close()
		}
		return nil, desktop.Errorf(desktop.Unavailable, "the host is not connected")
	}
	return t.RoundTrip(r)
}

var _ http.RoundTripper = (*Uplink)(nil)
var _ io.ReadWriteCloser = (*leg)(nil)
