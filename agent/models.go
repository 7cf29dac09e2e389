package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The models that the host lends, as programs in the guest find them: an address on loopback whose
// requests go to the host over the link, and variables that tell of it. The guest decides nothing
// here. Which requests pass, with whose credential, is the host's business.

const (
	// modelRequests is how many requests are under way at once; others wait for their turn. It
	// leaves room among the host's guestStreams.
	modelRequests = 48
	modelsRetry   = time.Second // between attempts to listen
	hostRetry     = 2           // seconds after which a program may ask again while the host is away
	modelHeaders  = 16 << 10
)

// serveModels passes requests at the address on to the host until ctx ends. A busy port is tried
// again and again; tell is told why it is not served, and "" when it is.
func serveModels(ctx context.Context, address string, up http.RoundTripper, tell func(why string), log *slog.Logger) {
	for said := false; ctx.Err() == nil; {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err == nil {
			log.Debug("models are served", "address", address)
			tell("")
			passOn(ctx, listener, up, log)
			return
		}
		if !said && ctx.Err() == nil {
			log.Warn("programs in this desktop cannot reach the host's models yet; trying again", "address", address, "error", err)
			tell(unserved(address, err))
			said = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(modelsRetry):
		}
	}
}

// unserved says why models are not served at an address, and what helps.
func unserved(address string, err error) string {
	if !errors.Is(err, unix.EADDRINUSE) {
		return "Programs in it cannot reach the models that its host lends: " + err.Error()
	}
	_, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf("Programs in it cannot reach the models that its host lends, for another program listens at %s: "+
		"\"ss -ltnp 'sport = :%s'\" there names it. The agent takes the address when it is free.", address, port)
}

// passOn serves a listener until ctx ends.
func passOn(ctx context.Context, listener net.Listener, up http.RoundTripper, log *slog.Logger) {
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			// The path, the query and the Host stay as they came: the host looks at them.
			r.Out.URL.Scheme, r.Out.URL.Host = "http", "host"
			r.Out.URL.RawQuery = r.In.URL.RawQuery
			r.Out.Host = r.In.Host
		},
		Transport:     up,
		FlushInterval: -1, // each piece of a stream at once
		ErrorLog:      slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			if errors.Is(err, context.Canceled) {
				return // the program has gone
			}
			w.Header().Set("Content-Type", "application/json")
			w.Header().Set("Retry-After", fmt.Sprint(hostRetry))
			w.WriteHeader(http.StatusServiceUnavailable)
			io.WriteString(w, `{"error":{"type":"unavailable","message":"this desktop's host is not connected; ask again in a moment"}}`+"\n")
		},
	}
	slots := make(chan struct{}, modelRequests)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			select {
			case slots <- struct{}{}:
				defer func() { <-slots }()
				proxy.ServeHTTP(w, r)
			case <-r.Context().Done():
			}
		}),
		ReadHeaderTimeout: 30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    modelHeaders,
		BaseContext:       func(net.Listener) context.Context { return ctx },
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	stop := context.AfterFunc(ctx, func() { server.Close() })
	defer stop()
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		log.Error("the host's models are no longer served in this desktop", "error", err)
	}
	// Those that were under way have lost their connection, and end.
	for range modelRequests {
		slots <- struct{}{}
	}
}

// placeholder stands where programs insist on a key. It opens nothing: the host drops it.
const placeholder = "lent-by-bureau"

// vendors are the variables in which programs look for each vendor's address and key.
var vendors = []struct {
	address, path string
	keys          []string
}{
	{"ANTHROPIC_BASE_URL", "/anthropic", []string{"ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN"}},
	{"OPENAI_BASE_URL", "/openai/v1", []string{"OPENAI_API_KEY"}},
	{"GOOGLE_GEMINI_BASE_URL", "/gemini", []string{"GEMINI_API_KEY"}},
}

// modelVariables are all of them, for models at an address; none without one.
func modelVariables(address string) map[string]string {
	variables := map[string]string{}
	if address == "" {
		return variables
	}
	for _, v := range vendors {
		variables[v.address] = "http://" + address + v.path
		for _, key := range v.keys {
			variables[key] = placeholder
		}
	}
	return variables
}

// modelScript sets them in a shell. Whoever has set any of a vendor's before keeps all of them: a
// key of one's own does not go with an address of ours.
func modelScript(address string) []byte {
	var s bytes.Buffer
	s.WriteString("# Written by bureau's agent at its start. Programs find the models that this desktop's host lends\n" +
		"# here. The keys open nothing; they are for programs that insist on one.\n")
	for _, v := range vendors {
		names := append([]string{v.address}, v.keys...)
		fmt.Fprintf(&s, "if [ -z \"${%s-}\" ]; then\n", strings.Join(names, "-}${"))
		fmt.Fprintf(&s, "\texport %s=http://%s%s\n", v.address, address, v.path)
		for _, key := range v.keys {
			fmt.Fprintf(&s, "\texport %s=%s\n", key, placeholder)
		}
		s.WriteString("fi\n")
	}
	return s.Bytes()
}

// modelAssignments are them for systemd's own programs, in the notation of environment.d.
func modelAssignments(address string) []byte {
	var s bytes.Buffer
	variables := modelVariables(address)
	for _, name := range slices.Sorted(maps.Keys(variables)) {
		fmt.Fprintf(&s, "%s=${%s:-%s}\n", name, name, variables[name])
	}
	return s.Bytes()
}

// announceModels puts the variables where the desktop's session, login shells and the user's
// services read them when they begin. What cannot be written is reported, and the desktop does
// without.
func announceModels(root, address string, log *slog.Logger) {
	script := modelScript(address)
	for _, place := range []struct {
		path    string
		content []byte
		always  bool // also where there is no such folder yet
	}{
		{"/etc/profile.d/bureau-models.sh", script, false},
		{"/etc/X11/Xsession.d/61bureau-models", script, false},
		{"/etc/X11/xinit/xinitrc.d/61-bureau-models.sh", script, false},
		{"/run/environment.d/61-bureau-models.conf", modelAssignments(address), true},
	} {
		if err := put(filepath.Join("/", root, place.path), place.content, place.always); err != nil {
			log.Warn("some programs of this desktop will not find the host's models", "error", err)
		}
	}
}

// put gives a file a content, at one stroke, unless it has it.
func put(path string, content []byte, always bool) error {
	dir := filepath.Dir(path)
	if always {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	} else if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if present, err := os.ReadFile(path); err == nil && bytes.Equal(present, content) {
		return nil
	}
	f, err := os.CreateTemp(dir, ".bureau-models.*.new") // a name that nothing there reads
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when it took its place
	_, err = f.Write(content)
	if err := errors.Join(err, f.Chmod(0o755), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
