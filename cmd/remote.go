package cmd

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"mime"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bureau/api/certificate"
	"bureau/cmd/config"
	"bureau/desktop"
)

// remote is the appliance as the command line reaches it: over the administration socket, or at an
// address with a key. Answers stay JSON until they are printed, so that --json shows exactly what
// the API gave, including what a newer appliance may have added.
type remote struct {
	http *http.Client
	base string
	key  string
	name string      // for messages
	tls  *tls.Config // what to trust; nil for what the system does
}

func (a *app) remote() (*remote, error) {
	if a.url != "" {
		base, err := url.Parse(a.url)
		if err != nil || base.Host == "" || base.Scheme != "http" && base.Scheme != "https" {
			return nil, usage("%q is not an address such as http://127.0.0.1:7878", a.url)
		}
		key := a.key
		if key == "" {
			key = os.Getenv("BUREAU_KEY")
		}
		if key == "" {
			return nil, desktop.Errorf(desktop.Unauthenticated, "an address needs a key too: set BUREAU_KEY or give --key")
		}
		r := &remote{http: &http.Client{}, base: strings.TrimSuffix(a.url, "/"), key: key, name: a.url}
		if a.ca != "" && base.Scheme == "https" {
			if r.tls, err = certificate.Trust(a.ca); err != nil {
				return nil, usage("--ca or BUREAU_CA: %w", err)
			}
			transport := http.DefaultTransport.(*http.Transport).Clone()
			transport.TLSClientConfig = r.tls
			r.http.Transport = transport
		}
		return r, nil
	}
	if a.key != "" {
		return nil, usage("a key needs an address too: set BUREAU_URL or give --url")
	}
	socket := a.socket
	if socket == "" {
		c, err := config.Load(a.config, nil)
		switch {
		case err == nil:
			socket = c.AdminSocket
		case a.config == "" && errors.Is(err, fs.ErrPermission):
			socket = config.DefaultSocket // the file is the appliance's own business
		default:
			return nil, err
		}
	}
	dialer := &net.Dialer{}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", socket)
	}}
	return &remote{http: &http.Client{Transport: transport}, base: "http://bureau", name: socket}, nil
}

// request is one call. body, when not nil, is sent as JSON.
type request struct {
	method, path string
	query        url.Values
	body         any
	accept       string
	lastEventID  string // of a stream that goes on
}

// send does a request and returns an answer of 2xx, whose body the caller closes.
func (r *remote) send(ctx context.Context, req request) (*http.Response, error) {
	var body io.Reader
	if req.body != nil {
		text, err := json.Marshal(req.body)
		if err != nil {
			return nil, err
		}
		body = bytes.NewReader(text)
	}
	address := r.base + req.path
	if len(req.query) > 0 {
		address += "?" + req.query.Encode()
	}
	h, err := http.NewRequestWithContext(ctx, req.method, address, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		h.Header.Set("Content-Type", "application/json")
	}
	accept := req.accept
	if accept == "" {
		accept = "application/json"
	}
	h.Header.Set("Accept", accept)
	if req.lastEventID != "" {
		h.Header.Set("Last-Event-ID", req.lastEventID)
	}
	h.Header.Set("User-Agent", "bureau/"+Version())
	if r.key != "" {
		h.Header.Set("Authorization", "Bearer "+r.key)
	}
	if token := os.Getenv(leaseVariable); token != "" {
		h.Header.Set("Bureau-Lease", token)
	}
	answer, err := r.http.Do(h)
	if err != nil {
		return nil, r.unreachable(ctx, err)
	}
	if answer.StatusCode >= 200 && answer.StatusCode < 300 {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, problem(answer)
}

// call does a request and decodes the answer into out, unless that is nil.
func (r *remote) call(ctx context.Context, req request, out any) error {
	answer, err := r.send(ctx, req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer))
	if err != nil {
		return r.unreachable(ctx, err)
	}
	if out == nil || len(text) == 0 {
		return nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		return fmt.Errorf("%s %s gave an answer that is not what the API promises: %w", req.method, req.path, err)
	}
	return nil
}

// maxAnswer bounds what is read of an answer. exec's is the largest: two streams, with escapes.
const maxAnswer = 128 << 20

// list collects all pages of a listing.
func (r *remote) list(ctx context.Context, path string, query url.Values) ([]json.RawMessage, error) {
	all := []json.RawMessage{}
	req := request{method: http.MethodGet, path: path, query: query}
	for {
		answer, err := r.send(ctx, req)
		if err != nil {
			return nil, err
		}
		var page []json.RawMessage
		err = json.NewDecoder(io.LimitReader(answer.Body, maxAnswer)).Decode(&page)
		answer.Body.Close()
		if err != nil {
			return nil, fmt.Errorf("GET %s gave an answer that is not a list: %w", path, err)
		}
		all = append(all, page...)
		next := nextPage(answer.Header.Values("Link"))
		if next == "" || len(page) == 0 {
			return all, nil
		}
		// Only the query is taken over: where the key is sent is not for an answer to decide.
		target, err := url.Parse(next)
		if err != nil {
			return nil, fmt.Errorf("GET %s: next page: %w", path, err)
		}
		req.query = target.Query()
	}
}

var linkRule = regexp.MustCompile(`<([^>]*)>\s*;[^,]*rel="?next"?`)

func nextPage(links []string) string {
	for _, link := range links {
		if m := linkRule.FindStringSubmatch(link); m != nil {
			return m[1]
		}
	}
	return ""
}

// unreachable says why there was no answer, and what helps.
func (r *remote) unreachable(ctx context.Context, err error) error {
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case r.key == "" && errors.Is(err, fs.ErrPermission):
		return desktop.Errorf(desktop.Forbidden, "%s is only for root: use sudo, or an address and a key (BUREAU_URL, BUREAU_KEY)", r.name)
	case r.key == "" && (errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)):
		return desktop.Errorf(desktop.Unavailable, "no appliance answers at %s: start it (make up, or systemctl start bureau), or give --url and BUREAU_KEY", r.name)
	case errors.Is(err, syscall.ECONNREFUSED):
		return desktop.Errorf(desktop.Unavailable, "no appliance answers at %s", r.name)
	case errors.As(err, &timeout) && timeout.Timeout():
		return desktop.Errorf(desktop.Unavailable, "%s did not answer in time", r.name)
	}
	var untrusted *tls.CertificateVerificationError
	if errors.As(err, &untrusted) {
		return desktop.Errorf(desktop.Unavailable, "%s shows a certificate that is not trusted here (%w): give its file, or its fingerprint as the appliance tells it, with --ca or BUREAU_CA", r.name, untrusted.Err)
	}
	var inner *url.Error
	if errors.As(err, &inner) {
		err = inner.Err
	}
	return desktop.Errorf(desktop.Unavailable, "%s: %w", r.name, err)
}

// problem makes an error of an RFC 9457 document, or of whatever else came.
func problem(answer *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	var document struct {
		Title  string `json:"title"`
		Detail string `json:"detail"`
		Error  string `json:"error"`
	}
	message := ""
	if kind, _, _ := mime.ParseMediaType(answer.Header.Get("Content-Type")); strings.HasSuffix(kind, "json") && json.Unmarshal(text, &document) == nil {
		for _, m := range []string{document.Error, document.Detail, document.Title} {
			if m != "" {
				message = m
				break
			}
		}
	}
	if message == "" {
		message = answer.Status
	}
	e := &desktop.Error{Code: statusCode(answer.StatusCode), Message: printable(message)}
	if seconds, err := strconv.Atoi(answer.Header.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

func statusCode(status int) desktop.Code {
	switch status {
	case http.StatusUnauthorized:
		return desktop.Unauthenticated
	case http.StatusForbidden:
		return desktop.Forbidden
	case http.StatusNotFound:
		return desktop.NotFound
	case http.StatusConflict:
		return desktop.Conflict
	case http.StatusRequestEntityTooLarge:
		return desktop.TooLarge
	case http.StatusLocked:
		return desktop.Locked
	case http.StatusTooManyRequests:
		return desktop.RateLimited
	case http.StatusInsufficientStorage:
		return desktop.Exhausted
	case http.StatusServiceUnavailable, http.StatusBadGateway, http.StatusGatewayTimeout:
		return desktop.Unavailable
	}
	if status >= 400 && status < 500 {
		return desktop.Invalid
	}
	return desktop.Internal
}
