// Package client speaks to a bureau server over HTTP: what the command line and the end-to-end tests
// use. Its errors are *desktop.Error, made of the server's problem documents, so that a caller treats
// a failure far away as one at home.
package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"bureau/api"
	"bureau/assistant"
	"bureau/desktop"
)

// Client is a server and a key. It is safe for concurrent use.
type Client struct {
	base string
	key  string
	http *http.Client
	// lease is the token of an input lease that goes with every request; "" for none.
	lease string
	// once is the key of a request that must not be done twice; "" for none.
	once string
}

// WithLease is the same client with the token of an input lease, as its holder.
func (c *Client) WithLease(token string) *Client {
	holder := *c
	holder.lease = token
	return &holder
}

// Once is the same client for one request that makes or changes something: sent again with the same
// key within a day, after a failure that leaves open whether it was done, it is not done again.
func (c *Client) Once(key string) *Client {
	careful := *c
	careful.once = key
	return &careful
}

// Option changes how a Client connects.
type Option func(*Client)

// WithTransport wraps the client's own transport, such as to check every exchange.
func WithTransport(wrap func(http.RoundTripper) http.RoundTripper) Option {
	return func(c *Client) { c.http.Transport = wrap(c.http.Transport) }
}

// WithTLS says what the client trusts at an https URL, such as certificate.Trust has it; nil for what the
// system trusts. It comes before WithTransport.
func WithTLS(config *tls.Config) Option {
	return func(c *Client) {
		if transport, ok := c.http.Transport.(*http.Transport); ok && config != nil {
			transport.TLSClientConfig = config
		}
	}
}

// New makes a client of the server at an http or https URL, or at a Unix socket: "unix:///run/…" or
// a path. key may be empty, as on the administration socket. Nothing is connected yet.
func New(server, key string, options ...Option) (*Client, error) {
	transport := http.DefaultTransport.(*http.Transport).Clone()
	c := &Client{key: key, http: &http.Client{Transport: transport}}
	socket, unix := strings.CutPrefix(server, "unix://")
	if unix || strings.HasPrefix(server, "/") { // a path that is cut of nothing is the whole of it
		transport.Proxy = nil
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}
		c.base = "http://bureau"
	} else {
		u, err := url.Parse(server)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, desktop.Errorf(desktop.Invalid, "%q is neither a URL (https://…) nor a Unix socket (unix:///…)", server)
		}
		c.base = strings.TrimSuffix(u.String(), "/")
	}
	for _, option := range options {
		option(c)
	}
	return c, nil
}

// maxAnswer bounds an answer in memory; command output is the largest there is, escaped.
const maxAnswer = 256 << 20

// send makes a request; an answer that is not a good one becomes its error.
func (c *Client) send(ctx context.Context, method, path string, body any, accept string) (*http.Response, error) {
	return c.sendWith(ctx, method, path, body, accept, nil)
}

// sendWith is the same with further headers.
func (c *Client) sendWith(ctx context.Context, method, path string, body any, accept string, header http.Header) (*http.Response, error) {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return nil, fmt.Errorf("write the request: %w", err)
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if c.key != "" {
		request.Header.Set("Authorization", "Bearer "+c.key)
	}
	if c.lease != "" {
		request.Header.Set("Bureau-Lease", c.lease)
	}
	if c.once != "" {
		request.Header.Set("Idempotency-Key", c.once)
	}
	if body != nil {
		request.Header.Set("Content-Type", "application/json")
	}
	request.Header.Set("Accept", accept)
	maps.Copy(request.Header, header)
	response, err := c.http.Do(request)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, desktop.Errorf(desktop.Unavailable, "the server does not answer: %w", err)
	}
	if response.StatusCode >= 300 && response.StatusCode != http.StatusNotModified {
		defer response.Body.Close()
		return nil, failure(response)
	}
	return response, nil
}

// call makes a request and decodes its answer.
func (c *Client) call(ctx context.Context, method, path string, body, into any) (http.Header, error) {
	response, err := c.send(ctx, method, path, body, "application/json")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, desktop.Errorf(desktop.Unavailable, "the answer broke off: %w", err)
	}
	if into != nil {
		if err := json.Unmarshal(data, into); err != nil {
			return nil, fmt.Errorf("read the answer: %w", err)
		}
	}
	return response.Header, nil
}

func get[T any](ctx context.Context, c *Client, method, path string, body any) (T, error) {
	var value T
	_, err := c.call(ctx, method, path, body, &value)
	return value, err
}

// failure is the error in an answer.
func failure(response *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	e := problem(data)
	if e == nil {
		code := desktop.Internal
		if response.StatusCode == http.StatusServiceUnavailable || response.StatusCode == http.StatusBadGateway || response.StatusCode == http.StatusGatewayTimeout {
			code = desktop.Unavailable // of something between
		}
		return desktop.Errorf(code, "the server answered %s", response.Status)
	}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil {
		e.RetryAfter = time.Duration(seconds) * time.Second
	}
	return e
}

// standard are the members of a problem document that are not details.
var standard = []string{"type", "title", "status", "detail", "error"}

// problem reads a problem document; nil when it is none.
func problem(data []byte) *desktop.Error {
	var members map[string]any
	if json.Unmarshal(data, &members) != nil {
		return nil
	}
	kind, _ := members["type"].(string)
	message, _ := members["error"].(string)
	code := kind[strings.LastIndex(kind, "/")+1:]
	if code == "" || message == "" {
		return nil
	}
	for _, name := range standard {
		delete(members, name)
	}
	return &desktop.Error{Code: desktop.Code(code), Message: message, Details: members}
}

// at is the path of one desktop.
func at(id, verb string) string {
	path := "/v1/desktops/" + url.PathEscape(id)
	if verb != "" {
		path += "/" + verb
	}
	return path
}

// Me is who the caller is.
func (c *Client) Me(ctx context.Context) (api.Me, error) {
	return get[api.Me](ctx, c, http.MethodGet, "/v1/me", nil)
}

// Ready tells whether the server can do its work.
func (c *Client) Ready(ctx context.Context) error {
	_, err := c.call(ctx, http.MethodGet, "/readyz", nil, nil)
	return err
}

// OpenAPI is the server's OpenAPI document.
func (c *Client) OpenAPI(ctx context.Context) ([]byte, error) {
	return get[json.RawMessage](ctx, c, http.MethodGet, "/openapi.json", nil)
}

// Page is one page of desktops, of at most limit (100 when 0) after the desktop of that id; more
// tells of a next one.
func (c *Client) Page(ctx context.Context, after string, limit int) (list []desktop.Desktop, more bool, err error) {
	query := url.Values{}
	if after != "" {
		query.Set("after", after)
	}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	path := "/v1/desktops"
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	header, err := c.call(ctx, http.MethodGet, path, nil, &list)
	return list, err == nil && strings.Contains(header.Get("Link"), `rel="next"`), err
}

// List is all desktops of the caller.
func (c *Client) List(ctx context.Context) ([]desktop.Desktop, error) {
	all := []desktop.Desktop{}
	for after, more := "", true; more; {
		var (
			page []desktop.Desktop
			err  error
		)
		if page, more, err = c.Page(ctx, after, 0); err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		all, after = append(all, page...), page[len(page)-1].ID
	}
	return all, nil
}

func (c *Client) Get(ctx context.Context, id string) (desktop.Desktop, error) {
	return get[desktop.Desktop](ctx, c, http.MethodGet, at(id, ""), nil)
}

func (c *Client) Create(ctx context.Context, draft desktop.Draft) (desktop.Desktop, error) {
	return get[desktop.Desktop](ctx, c, http.MethodPost, "/v1/desktops", draft)
}

func (c *Client) Update(ctx context.Context, id string, change desktop.Change) (desktop.Desktop, error) {
	return get[desktop.Desktop](ctx, c, http.MethodPatch, at(id, ""), change)
}

func (c *Client) Start(ctx context.Context, id string) (desktop.Desktop, error) {
	return get[desktop.Desktop](ctx, c, http.MethodPost, at(id, "start"), nil)
}

func (c *Client) Stop(ctx context.Context, id string) (desktop.Desktop, error) {
	return get[desktop.Desktop](ctx, c, http.MethodPost, at(id, "stop"), nil)
}

func (c *Client) Restart(ctx context.Context, id string) (desktop.Desktop, error) {
	return get[desktop.Desktop](ctx, c, http.MethodPost, at(id, "restart"), nil)
}

func (c *Client) Destroy(ctx context.Context, id string) error {
	_, err := c.call(ctx, http.MethodDelete, at(id, ""), nil, nil)
	return err
}

// Act does one input action; after says what to wait for then, and whether to answer with a picture.
func (c *Client) Act(ctx context.Context, id string, action desktop.Action, after api.After) (api.Acted, error) {
	verb, body := "", any(nil)
	switch {
	case action.Click != nil:
		verb, body = "click", api.ClickRequest{Click: *action.Click, After: after}
	case action.Move != nil:
		verb, body = "move", api.MoveRequest{Move: *action.Move, After: after}
	case action.Drag != nil:
		verb, body = "drag", api.DragRequest{Drag: *action.Drag, After: after}
	case action.Scroll != nil:
		verb, body = "scroll", api.ScrollRequest{Scroll: *action.Scroll, After: after}
	case action.Type != nil:
		verb, body = "type", api.TypeRequest{Type: *action.Type, After: after}
	case action.Press != nil:
		verb, body = "key", api.KeyRequest{Key: action.Press.Keys, Repeat: action.Press.Repeat, HoldMs: action.Press.HoldMs, After: after}
	default:
		return api.Acted{}, desktop.Errorf(desktop.Invalid, "there is nothing to do")
	}
	return get[api.Acted](ctx, c, http.MethodPost, at(id, verb), body)
}

// Actions does several actions, in any dialect, and stops at the first error: a *desktop.Error whose
// Details tell its index, and the results until then.
func (c *Client) Actions(ctx context.Context, id string, request api.ActionsRequest) (api.ActionsDone, error) {
	return get[api.ActionsDone](ctx, c, http.MethodPost, at(id, "actions"), request)
}

// Windows lists a desktop's windows, the topmost first.
func (c *Client) Windows(ctx context.Context, id string) ([]desktop.Window, error) {
	return get[[]desktop.Window](ctx, c, http.MethodGet, at(id, "windows"), nil)
}

// ActivateWindow gives a window the focus.
func (c *Client) ActivateWindow(ctx context.Context, id string, window uint32) error {
	_, err := c.call(ctx, http.MethodPost, at(id, fmt.Sprintf("windows/%d/activate", window)), nil, nil)
	return err
}

// CloseWindow asks for a window to be closed.
func (c *Client) CloseWindow(ctx context.Context, id string, window uint32) error {
	_, err := c.call(ctx, http.MethodDelete, at(id, fmt.Sprintf("windows/%d", window)), nil, nil)
	return err
}

// Clipboard is the text on a desktop's clipboard.
func (c *Client) Clipboard(ctx context.Context, id string) (string, error) {
	clipboard, err := get[api.Clipboard](ctx, c, http.MethodGet, at(id, "clipboard"), nil)
	return clipboard.Text, err
}

// SetClipboard puts a text there.
func (c *Client) SetClipboard(ctx context.Context, id, text string) error {
	_, err := c.call(ctx, http.MethodPut, at(id, "clipboard"), api.Clipboard{Text: text}, nil)
	return err
}

// Resize changes the size of a desktop's display.
func (c *Client) Resize(ctx context.Context, id string, size desktop.Size) error {
	_, err := c.call(ctx, http.MethodPatch, at(id, "display"), api.DisplayRequest{Width: size.Width, Height: size.Height}, nil)
	return err
}

// TakeLease takes the lease of a desktop's input, or renews the client's own; see WithLease.
func (c *Client) TakeLease(ctx context.Context, id string, request api.LeaseRequest) (api.TakenLease, error) {
	return get[api.TakenLease](ctx, c, http.MethodPost, at(id, "lease"), request)
}

// ReleaseLease ends it, whoever holds it.
func (c *Client) ReleaseLease(ctx context.Context, id string) error {
	_, err := c.call(ctx, http.MethodDelete, at(id, "lease"), nil, nil)
	return err
}

// Shot is a picture of a display.
type Shot struct {
	Bytes       []byte
	ContentType string
	Source      desktop.Source
	ETag        string
	Settled     bool          // whether the display had come to rest, when that was asked for
	Waited      time.Duration // how long that was waited for
}

// Screenshot is the display as it is now. For the cursor, p.Cursor must be set.
func (c *Client) Screenshot(ctx context.Context, id string, p api.Picture) (Shot, error) {
	query := url.Values{"cursor": {strconv.FormatBool(p.Cursor)}}
	set := func(name, value, none string) {
		if value != none {
			query.Set(name, value)
		}
	}
	set("format", p.Format, "")
	set("quality", strconv.Itoa(p.Quality), "0")
	if p.Region != (api.Region{}) {
		region, _ := p.Region.MarshalText() // never fails
		query.Set("region", string(region))
	}
	set("scale", strconv.FormatFloat(p.Scale, 'g', -1, 64), "0")
	set("maxWidth", strconv.Itoa(p.MaxWidth), "0")
	set("maxHeight", strconv.Itoa(p.MaxHeight), "0")
	set("settleMs", strconv.Itoa(p.SettleMs), "0")
	response, err := c.send(ctx, http.MethodGet, at(id, "screenshot")+"?"+query.Encode(), nil, "image/*, application/problem+json")
	if err != nil {
		return Shot{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return Shot{}, desktop.Errorf(desktop.Unavailable, "the picture broke off: %w", err)
	}
	header := response.Header
	waited, _ := strconv.Atoi(header.Get("X-Bureau-Waited-Ms")) // absent unless asked for
	return Shot{
		Bytes: data, ContentType: header.Get("Content-Type"), Source: desktop.Source(header.Get("X-Bureau-Source")), ETag: header.Get("ETag"),
		Settled: header.Get("X-Bureau-Settled") == "true", Waited: time.Duration(waited) * time.Millisecond,
	}, nil
}

// Exec runs a command and waits for its end. output, when not nil, receives the output as it is
// produced; Stdout and Stderr of the result are then empty. Input and output pass as text, in which bytes
// that are not UTF-8 are replaced: command.Raw does not reach the appliance.
func (c *Client) Exec(ctx context.Context, id string, command desktop.Exec, output func(desktop.Stream, string)) (desktop.ExecResult, error) {
	setting := api.Setting{Cwd: command.Cwd, Env: command.Env, Stdin: string(command.Stdin), TimeoutMs: command.Timeout.Milliseconds(), User: command.User}
	verb, body := "exec", any(api.ExecRequest{Command: command.Script, Setting: setting})
	if command.Bash {
		verb, body = "bash", api.BashRequest{Script: command.Script, Setting: setting}
	}
	if output == nil {
		return get[desktop.ExecResult](ctx, c, http.MethodPost, at(id, verb), body)
	}
	response, err := c.send(ctx, http.MethodPost, at(id, verb), body, "text/event-stream")
	if err != nil {
		return desktop.ExecResult{}, err
	}
	defer response.Body.Close()
	return follow(response.Body, output)
}

// follow reads the events of a running command.
func follow(stream io.Reader, output func(desktop.Stream, string)) (desktop.ExecResult, error) {
	var event string
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return desktop.ExecResult{}, desktop.Errorf(desktop.Unavailable, "the output broke off: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		if name, ok := strings.CutPrefix(line, "event: "); ok {
			event = name
		}
		data, ok := strings.CutPrefix(line, "data: ")
		if !ok {
			continue
		}
		switch event {
		case "stdout", "stderr":
			var piece struct {
				Data string `json:"data"`
			}
			if err := json.Unmarshal([]byte(data), &piece); err != nil {
				return desktop.ExecResult{}, fmt.Errorf("read the output: %w", err)
			}
			output(desktop.Stream(event), piece.Data)
		case "result":
			var result desktop.ExecResult
			if err := json.Unmarshal([]byte(data), &result); err != nil {
				return desktop.ExecResult{}, fmt.Errorf("read the result: %w", err)
			}
			return result, nil
		case "error":
			if e := problem([]byte(data)); e != nil {
				return desktop.ExecResult{}, e
			}
			return desktop.ExecResult{}, fmt.Errorf("read the error: %s", data)
		}
	}
}

// Chat gives a desktop's agent a message and returns the turn when it has ended, however it did. told,
// when not nil, is told of the turn's events as they come; a stream that breaks off is gone on with.
func (c *Client) Chat(ctx context.Context, id string, message api.ChatRequest, told func(assistant.Event)) (assistant.Turn, error) {
	if told == nil {
		return get[assistant.Turn](ctx, c, http.MethodPost, at(id, "chat"), message)
	}
	response, err := c.send(ctx, http.MethodPost, at(id, "chat"), message, "text/event-stream")
	if err != nil {
		return assistant.Turn{}, err
	}
	var (
		turn assistant.Turn
		last int64
	)
	for broken := 0; ; broken++ {
		turn, err = followTurn(response.Body, turn, &last, told)
		response.Body.Close()
		if err == nil || ctx.Err() != nil || turn.ID == "" || broken == chatResumes {
			return turn, errors.Join(err, ctx.Err())
		}
		select {
		case <-ctx.Done():
			return turn, ctx.Err()
		case <-time.After(time.Duration(broken) * 500 * time.Millisecond):
		}
		if response, err = c.sendWith(ctx, http.MethodGet, at(id, "chat/turns/"+url.PathEscape(turn.ID)+"/events"), nil, "text/event-stream",
			http.Header{"Last-Event-Id": {strconv.FormatInt(last, 10)}}); err != nil {
			return turn, err
		}
	}
}

// chatResumes is how often the stream of one turn is gone on with.
const chatResumes = 5

// followTurn reads a turn's events until the one that ends it.
func followTurn(stream io.Reader, turn assistant.Turn, last *int64, told func(assistant.Event)) (assistant.Turn, error) {
	var event assistant.Event
	lines := bufio.NewReader(stream)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return turn, desktop.Errorf(desktop.Unavailable, "the turn's events broke off: %w", err)
		}
		line = strings.TrimRight(line, "\r\n")
		name, value, _ := strings.Cut(line, ": ")
		switch name {
		case "id":
			event.Number, _ = strconv.ParseInt(value, 10, 64)
		case "event":
			event.Kind = assistant.EventKind(value)
		case "data":
			event.Data = json.RawMessage(value)
		}
		if line != "" || event.Data == nil {
			continue
		}
		if event.Kind == "error" {
			if e := problem(event.Data); e != nil {
				return turn, e
			}
			return turn, fmt.Errorf("read the error: %s", event.Data)
		}
		*last = event.Number
		told(event)
		if event.Kind == assistant.EventTurn || event.Kind == assistant.EventDone {
			if err := json.Unmarshal(event.Data, &turn); err != nil {
				return turn, fmt.Errorf("read the turn: %w", err)
			}
			if event.Kind == assistant.EventDone {
				return turn, nil
			}
		}
		event = assistant.Event{}
	}
}

// Turn is a turn of a desktop's agent as it is now.
func (c *Client) Turn(ctx context.Context, id, turn string) (assistant.Turn, error) {
	return get[assistant.Turn](ctx, c, http.MethodGet, at(id, "chat/turns/"+url.PathEscape(turn)), nil)
}

// CancelChat ends the turn that runs on a desktop, or that turn or none.
func (c *Client) CancelChat(ctx context.Context, id, turn string) (assistant.Turn, error) {
	return get[assistant.Turn](ctx, c, http.MethodPost, at(id, "chat/cancel"), api.CancelRequest{TurnID: turn})
}

// ChatSessions are the sessions with a desktop's agent, the most recently used first.
func (c *Client) ChatSessions(ctx context.Context, id string) ([]assistant.Session, error) {
	return get[[]assistant.Session](ctx, c, http.MethodGet, at(id, "chat/sessions"), nil)
}

// ChatSession is a session with its history.
func (c *Client) ChatSession(ctx context.Context, id, session string) (api.ChatSession, error) {
	return get[api.ChatSession](ctx, c, http.MethodGet, at(id, "chat/sessions/"+url.PathEscape(session)), nil)
}

// DeleteChatSession forgets a session.
func (c *Client) DeleteChatSession(ctx context.Context, id, session string) error {
	_, err := c.call(ctx, http.MethodDelete, at(id, "chat/sessions/"+url.PathEscape(session)), nil, nil)
	return err
}

// Approvals are the steps of a desktop's agent that wait, or waited, for a yes, the newest first.
func (c *Client) Approvals(ctx context.Context, id string) ([]assistant.Approval, error) {
	return get[[]assistant.Approval](ctx, c, http.MethodGet, at(id, "approvals"), nil)
}

// Decide says yes or no to a step.
func (c *Client) Decide(ctx context.Context, id, approval string, approve bool) (assistant.Approval, error) {
	return get[assistant.Approval](ctx, c, http.MethodPost, at(id, "approvals/"+url.PathEscape(approval)), api.Decision{Approve: approve})
}

// The operator's own, on the administration socket.

// Host is what the host has and how much of it is free; for the operator.
func (c *Client) Host(ctx context.Context) (desktop.HostState, error) {
	return get[desktop.HostState](ctx, c, http.MethodGet, "/v1/admin/host", nil)
}

func (c *Client) Users(ctx context.Context) ([]desktop.User, error) {
	return get[[]desktop.User](ctx, c, http.MethodGet, "/v1/admin/users", nil)
}

func (c *Client) CreateUser(ctx context.Context, email string, role desktop.Role, tier string) (desktop.User, error) {
	return get[desktop.User](ctx, c, http.MethodPost, "/v1/admin/users", api.UserRequest{Email: email, Role: role, Tier: tier})
}

// UpdateUser changes a user, named by id or e-mail address; what is nil in change stays as it is.
func (c *Client) UpdateUser(ctx context.Context, user string, change desktop.UserChange) (desktop.User, error) {
	return get[desktop.User](ctx, c, http.MethodPatch, "/v1/admin/users/"+url.PathEscape(user), api.UserUpdate{Role: change.Role, Tier: change.Tier})
}

// Keys lists a user's keys, or everybody's for "".
func (c *Client) Keys(ctx context.Context, user string) ([]desktop.Key, error) {
	path := "/v1/admin/keys"
	if user != "" {
		path += "?" + url.Values{"user": {user}}.Encode()
	}
	return get[[]desktop.Key](ctx, c, http.MethodGet, path, nil)
}

// CreateKey makes a key; its secret is in the answer and nowhere else.
func (c *Client) CreateKey(ctx context.Context, user, name string, capabilities []desktop.Capability, expiresAt *time.Time) (api.NewKey, error) {
	return get[api.NewKey](ctx, c, http.MethodPost, "/v1/admin/keys",
		api.KeyDraft{User: user, Name: name, Capabilities: slices.Clone(capabilities), ExpiresAt: expiresAt})
}

func (c *Client) RevokeKey(ctx context.Context, id string) (desktop.Key, error) {
	return get[desktop.Key](ctx, c, http.MethodDelete, "/v1/admin/keys/"+url.PathEscape(id), nil)
}

// Orphans is what is on the host and no desktop owns.
func (c *Client) Orphans(ctx context.Context) (desktop.Orphans, error) {
	return get[desktop.Orphans](ctx, c, http.MethodGet, "/v1/admin/orphans", nil)
}

// RemoveOrphan deletes a volume that no desktop owns.
func (c *Client) RemoveOrphan(ctx context.Context, volume string) error {
	_, err := c.call(ctx, http.MethodDelete, "/v1/admin/orphans/volumes/"+url.PathEscape(volume), nil, nil)
	return err
}

// Adopt makes a desktop of a machine that has no record.
func (c *Client) Adopt(ctx context.Context, machine, owner string) (desktop.Desktop, error) {
	return get[desktop.Desktop](ctx, c, http.MethodPost, "/v1/admin/orphans/adopt", api.Adoption{Machine: machine, Owner: owner})
}
