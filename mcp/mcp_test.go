package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"image"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api"
	"bureau/api/apitest"
	"bureau/api/client"
	"bureau/assistant/model"
	"bureau/desktop"
)

// house is an API over a World with the handler mounted, and clients of it.
type house struct {
	*apitest.World
	t       *testing.T
	url     string
	handler *Handler
	api     *api.Server
	log     *apitest.Log
}

// The desktops of the two users of a house.
const (
	ours   = "dt-aaaaaaaaaaaaaaaa"
	theirs = "dt-bbbbbbbbbbbbbbbb"
)

func newHouse(t *testing.T, o Options, change func(*api.Options)) *house {
	t.Helper()
	h := &house{World: apitest.NewWorld(), t: t, log: &apitest.Log{}}
	h.AddUser("usr-1")
	h.AddUser("usr-2")
	h.AddDesktop(ours, "usr-1")
	h.AddDesktop(theirs, "usr-2")
	log := slog.New(slog.NewTextHandler(h.log, &slog.HandlerOptions{Level: slog.LevelInfo}))
	options := api.Options{Desktops: h.World, Accounts: h.World, Version: "test", Logger: log}
	if change != nil {
		change(&options)
	}
	h.api = api.New(options)
	o.Version, o.Logger = "test", log
	h.handler = NewHandler(o)
	h.api.Mount("/mcp", "mcp", h.handler)
	web := httptest.NewServer(h.api.Handler())
	h.url = web.URL
	t.Cleanup(func() {
		h.handler.Close()
		web.Close()
	})
	return h
}

// key makes one of the first user's.
func (h *house) key(capabilities ...desktop.Capability) string {
	return h.AddKey("usr-1", nil, capabilities...)
}

// withHeader adds headers to requests.
type withHeader struct {
	next   http.RoundTripper
	header http.Header
}

func (w withHeader) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	for name, values := range w.header {
		r.Header[name] = values
	}
	return w.next.RoundTrip(r)
}

func bearer(key string) http.Header { return http.Header{"Authorization": {"Bearer " + key}} }

// The versions of the protocol before and after sessions were dropped from it.
const (
	withSessions    = "2025-11-25"
	withoutSessions = sessionless
)

// http connects over HTTP.
func (h *house) http(header http.Header, version string, o *sdk.ClientOptions) *sdk.ClientSession {
	h.t.Helper()
	return h.connect(&sdk.StreamableClientTransport{Endpoint: h.url + "/mcp",
		HTTPClient: &http.Client{Transport: withHeader{http.DefaultTransport, header}}}, version, o)
}

// ways are those to a house, by name.
func (h *house) ways(key string) map[string]func(*sdk.ClientOptions) *sdk.ClientSession {
	return map[string]func(*sdk.ClientOptions) *sdk.ClientSession{
		"sessions":    func(o *sdk.ClientOptions) *sdk.ClientSession { return h.http(bearer(key), withSessions, o) },
		"no sessions": func(o *sdk.ClientOptions) *sdk.ClientSession { return h.http(bearer(key), withoutSessions, o) },
		"stdio":       func(o *sdk.ClientOptions) *sdk.ClientSession { return h.connect(h.stdio(key), withSessions, o) },
	}
}

// stdio runs a session over pipes, as `bureau mcp` does.
func (h *house) stdio(key string) *sdk.IOTransport {
	c, err := client.New(h.url, key)
	if err != nil {
		h.t.Fatal(err)
	}
	near, far := pipes()
	ended := make(chan error, 1)
	go func() {
		ended <- Run(h.t.Context(), c, far.Reader, far.Writer, Options{Version: "test"})
	}()
	h.t.Cleanup(func() {
		near.Writer.Close()
		if err := <-ended; err != nil {
			h.t.Errorf("the session over pipes ended with %v", err)
		}
	})
	return near
}

// connect opens a session that ends with the test.
func (h *house) connect(transport sdk.Transport, version string, o *sdk.ClientOptions) *sdk.ClientSession {
	h.t.Helper()
	session, err := sdk.NewClient(&sdk.Implementation{Name: "test", Version: "1"}, o).Connect(h.t.Context(), transport,
		&sdk.ClientSessionOptions{ProtocolVersion: version})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { session.Close() })
	return session
}

// raw makes a request of its own, with headers written "Name: value".
func (h *house) raw(method, key, body string, headers ...string) *http.Response {
	h.t.Helper()
	request, err := http.NewRequestWithContext(h.t.Context(), method, h.url+"/mcp", strings.NewReader(body))
	if err != nil {
		h.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+key)
	request.Header.Set("Accept", "application/json, text/event-stream")
	if body != "" {
		request.Header.Set("Content-Type", "application/json")
	}
	for _, header := range headers {
		name, value, _ := strings.Cut(header, ": ")
		if name == "Host" {
			request.Host = value
		}
		request.Header.Set(name, value)
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { response.Body.Close() })
	return response
}

// each runs a test over every transport.
func (h *house) each(key string, test func(t *testing.T, session *sdk.ClientSession)) {
	for name, connect := range h.ways(key) {
		h.t.Run(name, func(t *testing.T) {
			outer := h.t
			h.t = t
			defer func() { h.t = outer }()
			test(t, connect(nil))
		})
	}
}

func toolsOf(t *testing.T, session *sdk.ClientSession) []string {
	t.Helper()
	var names []string
	for tool, err := range session.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, tool.Name)
	}
	slices.Sort(names)
	return names
}

// use calls a tool and returns its words and its pictures.
func use(t *testing.T, session *sdk.ClientSession, name string, arguments any) (words string, pictures []*sdk.ImageContent, failed bool) {
	t.Helper()
	result, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: name, Arguments: arguments})
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	for _, content := range result.Content {
		switch content := content.(type) {
		case *sdk.TextContent:
			words += content.Text
		case *sdk.ImageContent:
			pictures = append(pictures, content)
		}
	}
	return words, pictures, result.IsError
}

type dict = map[string]any

// The tools by the capability that they take.
var toolsFor = map[desktop.Capability][]string{
	desktop.CanRead:      {"get_desktop", "list_desktops"},
	desktop.CanLifecycle: {"restart_desktop", "start_desktop", "stop_desktop"},
	desktop.CanManage:    {"create_desktop", "destroy_desktop", "update_desktop"},
	desktop.CanControl: {"act", "activate_window", "bash", "click", "close_window", "drag", "list_windows", "move_pointer",
		"press_key", "read_clipboard", "resize_display", "screenshot", "scroll", "type_text", "write_clipboard"},
	desktop.CanChat:  {"chat"},
	desktop.CanFiles: nil,
}

// TestToolsAreThoseOfTheKey: exactly them are listed, and others cannot be called.
func TestToolsAreThoseOfTheKey(t *testing.T) {
	h := newHouse(t, Options{Chat: fakeChat{}}, nil)
	sets := [][]desktop.Capability{{}, {desktop.CanRead, desktop.CanChat}, desktop.Capabilities()}
	for _, one := range desktop.Capabilities() {
		sets = append(sets, []desktop.Capability{one})
	}
	for _, held := range sets {
		var want []string
		for _, capability := range held {
			want = append(want, toolsFor[capability]...)
		}
		slices.Sort(want)
		key := h.key(held...)
		session := h.http(bearer(key), withSessions, nil)
		if got := toolsOf(t, session); !slices.Equal(got, want) {
			t.Errorf("with %v: %v, want %v", held, got, want)
		}
		for _, capability := range desktop.Capabilities() {
			if slices.Contains(held, capability) {
				continue
			}
			for _, name := range toolsFor[capability] {
				if _, err := session.CallTool(t.Context(), &sdk.CallToolParams{Name: name, Arguments: dict{"desktop": ours}}); err == nil || !strings.Contains(err.Error(), "unknown tool") {
					t.Errorf("with %v: %s: %v", held, name, err)
				}
			}
		}
	}
	if len(h.Acted())+len(h.Ran()) > 0 {
		t.Errorf("something was done: %v %v", h.Acted(), h.Ran())
	}
}

// TestToolsAreDescribed: a model has nothing but the words.
func TestToolsAreDescribed(t *testing.T) {
	h := newHouse(t, Options{Chat: fakeChat{}}, nil)
	session := h.http(bearer(h.key(desktop.Capabilities()...)), withSessions, nil)
	for tool, err := range session.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		if len(tool.Description) < 20 || tool.Title == "" || tool.Annotations == nil {
			t.Errorf("%s is not described", tool.Name)
		}
		schema, _ := tool.InputSchema.(map[string]any)
		inputs, _ := schema["properties"].(map[string]any)
		required, _ := schema["required"].([]any)
		if tool.Name != "list_desktops" && tool.Name != "create_desktop" && !slices.Contains(required, any("desktop")) {
			t.Errorf("%s does not require a desktop: %v", tool.Name, required)
		}
		for name, input := range inputs {
			if text, _ := input.(map[string]any)["description"].(string); text == "" && !slices.Contains([]string{"y", "startY", "endY"}, name) {
				t.Errorf("%s: %s is not described", tool.Name, name)
			}
		}
	}
	if session.InitializeResult().Instructions == "" {
		t.Error("there are no instructions")
	}
}

func TestTools(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	h.each(h.key(desktop.Capabilities()...), func(t *testing.T, session *sdk.ClientSession) {
		for _, c := range []struct {
			tool      string
			arguments dict
			words     string // that the answer has
			pictures  int
		}{
			{"list_desktops", nil, `"id":"` + ours + `"`, 0},
			{"get_desktop", dict{"desktop": ours}, `"agentReady":true`, 0},
			{"update_desktop", dict{"desktop": ours, "name": "demo"}, `"name":"demo"`, 0},
			{"get_desktop", dict{"desktop": "demo"}, `"id":"` + ours + `"`, 0},
			{"screenshot", dict{"desktop": "demo"}, "320x200", 1},
			{"screenshot", dict{"desktop": "demo", "region": dict{"x": 10, "y": 10, "width": 50, "height": 40}}, "done", 1},
			{"click", dict{"desktop": ours, "x": 11, "y": 22}, "pointer is at", 1},
			{"click", dict{"desktop": ours, "x": 11, "y": 22, "screenshot": false, "count": 2, "modifiers": []string{"ctrl"}}, "11,22 of 320x200", 0},
			{"move_pointer", dict{"desktop": ours, "x": 3, "y": 4, "screenshot": false}, "3,4", 0},
			{"drag", dict{"desktop": ours, "startX": 1, "startY": 2, "endX": 30, "endY": 40}, "done", 1},
			{"scroll", dict{"desktop": ours, "direction": "down"}, "done", 1},
			{"type_text", dict{"desktop": ours, "text": "Grüße\n"}, "done", 1},
			{"press_key", dict{"desktop": ours, "key": "ctrl+s"}, "done", 1},
			{"act", dict{"desktop": ours, "actions": []dict{
				{"type": "click", "x": 5, "y": 6}, {"type": "screenshot"}, {"type": "wait", "ms": 1}, {"type": "type", "text": "x"}, {"type": "key", "key": "Return"}}}, "done", 2},
			{"bash", dict{"desktop": ours, "script": "true"}, "exit code 3\n<stdout>\nout: true\n</stdout>\n<stderr>\nerr\n</stderr>", 0},
			{"list_windows", dict{"desktop": ours}, `"title":"Töpfe"`, 0},
			{"activate_window", dict{"desktop": ours, "window": 7}, "has the focus", 0},
			{"write_clipboard", dict{"desktop": ours, "text": "copied"}, "6 bytes", 0},
			{"read_clipboard", dict{"desktop": ours}, "copied", 0},
			{"resize_display", dict{"desktop": ours, "width": 320, "height": 200}, "320x200", 0},
			{"update_desktop", dict{"desktop": ours, "name": ours}, "", 0},
		} {
			words, pictures, failed := use(t, session, c.tool, c.arguments)
			if failed || !strings.Contains(words, c.words) || len(pictures) != c.pictures {
				t.Errorf("%s %v: %q, %d pictures, failed %v", c.tool, c.arguments, words, len(pictures), failed)
			}
			for _, p := range pictures {
				if config, format, err := image.DecodeConfig(bytes.NewReader(p.Data)); err != nil || "image/"+format != p.MIMEType ||
					c.arguments["region"] == nil && (config.Width != 320 || config.Height != 200) {
					t.Errorf("%s: a picture of %v, %s, %v", c.tool, config, p.MIMEType, err)
				}
			}
		}
	})
}

// TestForeignDesktopsAreNotFound, by id and by name, with every tool and resource.
func TestForeignDesktopsAreNotFound(t *testing.T) {
	h := newHouse(t, Options{Chat: fakeChat{}}, nil)
	h.each(h.key(desktop.Capabilities()...), func(t *testing.T, session *sdk.ClientSession) {
		arguments := dict{"x": 1, "y": 2, "startX": 1, "startY": 1, "endX": 1, "endY": 1, "direction": "up", "text": "x", "key": "a", "window": 7,
			"width": 640, "height": 400, "script": "true", "actions": []dict{{"type": "click"}}, "name": "x", "message": "x", "waitSeconds": 0}
		for tool, err := range session.Tools(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			if tool.Name == "list_desktops" || tool.Name == "create_desktop" || tool.Name == "chat" {
				continue
			}
			given := dict{"desktop": theirs}
			for name := range tool.InputSchema.(map[string]any)["properties"].(map[string]any) {
				if value, ok := arguments[name]; ok {
					given[name] = value
				}
			}
			var said [2]string
			for i, id := range []string{theirs, "dt-cccccccccccccccc"} {
				given["desktop"] = id
				words, _, failed := use(t, session, tool.Name, given)
				if !failed {
					t.Errorf("%s: %s", tool.Name, words)
				}
				said[i] = strings.ReplaceAll(words, id, "ID")
			}
			if said[0] != said[1] {
				t.Errorf("%s tells a foreign desktop from none: %q", tool.Name, said)
			}
		}
		for _, uri := range []string{"bureau://desktops/" + theirs, "bureau://desktops/" + theirs + "/screen"} {
			if _, err := session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri}); err == nil || !strings.Contains(err.Error(), "not found") {
				t.Errorf("%s: %v", uri, err)
			}
		}
	})
	if len(h.Acted())+len(h.Ran()) > 0 {
		t.Errorf("something was done: %v %v", h.Acted(), h.Ran())
	}
}

// TestFailuresAreResults that a model can read: what the API says, and how far a batch came.
func TestFailuresAreResults(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	session := h.http(bearer(h.key(desktop.Capabilities()...)), withSessions, nil)
	fails := func(words, tool string, arguments dict) {
		t.Helper()
		if got, _, failed := use(t, session, tool, arguments); !failed || !strings.Contains(got, words) {
			t.Errorf("%s %v: %q, failed %v, want %q", tool, arguments, got, failed, words)
		}
	}
	fails("outside the display, which is 320x200", "click", dict{"desktop": ours, "x": 320, "y": 1})
	fails("action 1 (bureau key)", "act", dict{"desktop": ours, "actions": []dict{{"type": "wait", "ms": 1}, {"type": "key", "key": "nokey"}}})
	fails("1 actions were done before", "act", dict{"desktop": ours, "actions": []dict{{"type": "wait", "ms": 1}, {"type": "key", "key": "nokey"}}})
	fails(`validating "arguments"`, "act", dict{"desktop": ours, "actions": []dict{}})
	fails(`validating "arguments"`, "act", dict{"desktop": ours, "actions": []dict{{"type": "dance"}}})
	fails(`validating "arguments"`, "click", dict{"x": 1, "y": 1})
	fails(`validating "arguments"`, "click", dict{"desktop": ours, "z": 1})
	fails("no window 99", "activate_window", dict{"desktop": ours, "window": 99})
	fails(`you have no desktop "nobody"`, "get_desktop", dict{"desktop": "nobody"})
	h.SetStatus(ours, desktop.Stopped)
	fails("try again in 2s", "click", dict{"desktop": ours, "x": 1, "y": 1})
	h.SetStatus(ours, desktop.Running)

	// A person takes over: the agent may look and not act, until the lease has ended.
	caller := desktop.Caller{User: desktop.User{ID: "usr-1"}}
	_, token, err := h.TakeLease(t.Context(), caller, ours, "Ada", 0)
	if err != nil {
		t.Fatal(err)
	}
	fails("Ada holds the desktop's input", "click", dict{"desktop": ours, "x": 1, "y": 1})
	fails("Ada holds the desktop's input", "bash", dict{"desktop": ours, "script": "true"})
	if words, pictures, failed := use(t, session, "screenshot", dict{"desktop": ours}); failed || len(pictures) != 1 {
		t.Errorf("screenshot: %s", words)
	}
	header := bearer(h.key(desktop.Capabilities()...))
	header.Set(leaseHeader, token)
	holder := h.http(header, withSessions, nil)
	if words, _, failed := use(t, holder, "click", dict{"desktop": ours, "x": 1, "y": 1}); failed {
		t.Errorf("the holder's click: %s", words)
	}
}

// TestLargeDisplaysAreShownSmaller, and coordinates are those of the picture.
func TestLargeDisplaysAreShownSmaller(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	session := h.http(bearer(h.key(desktop.Capabilities()...)), withSessions, nil)
	large := desktop.Size{Width: 3136, Height: 1600}
	if err := h.Resize(t.Context(), desktop.Caller{Local: true}, ours, large); err != nil {
		t.Fatal(err)
	}
	h.Shown = &desktop.Frame{Serial: 2, Pixels: image.NewRGBA(image.Rect(0, 0, large.Width, large.Height)), Source: desktop.SourceDBus}
	words, pictures, _ := use(t, session, "screenshot", dict{"desktop": ours})
	if !strings.Contains(words, "1568x800") {
		t.Errorf("%s", words)
	}
	words, after, _ := use(t, session, "click", dict{"desktop": ours, "x": 1000, "y": 400})
	if !strings.Contains(words, "1000,400 of 1568x800") {
		t.Errorf("%s", words)
	}
	for _, p := range append(pictures, after...) {
		if config, _, err := image.DecodeConfig(bytes.NewReader(p.Data)); err != nil || config.Width != 1568 || config.Height != 800 {
			t.Errorf("a picture of %v, %v", config, err)
		}
	}
	acted := h.Acted()
	if c := acted[len(acted)-1].Click; c == nil || *c.X < 2000 || *c.X > 2001 || *c.Y < 800 || *c.Y > 801 {
		t.Errorf("done: %+v", c)
	}
	for size, want := range map[desktop.Size]desktop.Size{{Width: 1280, Height: 800}: {Width: 1280, Height: 800}, {Width: 1920, Height: 1080}: {Width: 1568, Height: 882}, {Width: 200, Height: 8192}: {Width: 38, Height: 1568}} {
		if got := fit(size); got != want {
			t.Errorf("%v is shown as %v, want %v", size, got, want)
		}
	}
}

// TestBootTellsItsProgress: a call that waits says how far the boot has come, and ends when it is done.
func TestBootTellsItsProgress(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	h.SetStatus(ours, desktop.Stopped)
	for name, connect := range h.ways(h.key(desktop.Capabilities()...)) {
		told := make(chan *sdk.ProgressNotificationParams, 100)
		session := connect(&sdk.ClientOptions{ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) {
			told <- r.Params
		}})
		params := &sdk.CallToolParams{Name: "restart_desktop", Arguments: dict{"desktop": ours}}
		params.SetProgressToken("boot")
		answered := make(chan *sdk.CallToolResult, 1)
		go func() {
			result, err := session.CallTool(t.Context(), params)
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			answered <- result
		}()
		first := <-told
		if first.ProgressToken != "boot" || first.Message != "stopping, ready" {
			t.Errorf("%s: %+v", name, first)
		}
		h.SetStatus(ours, desktop.Booting)
		for p := range told {
			if strings.HasPrefix(p.Message, "booting") {
				if p.Progress <= first.Progress {
					t.Errorf("%s: progress went from %v to %v", name, first.Progress, p.Progress)
				}
				break
			}
		}
		h.SetStatus(ours, desktop.Running)
		result := <-answered
		if result == nil || result.IsError || !strings.Contains(result.Content[0].(*sdk.TextContent).Text, `"agentReady":true`) {
			t.Errorf("%s: %+v", name, result)
		}
		if words, _, failed := use(t, session, "stop_desktop", dict{"desktop": ours}); failed || !strings.Contains(words, `"stopping"`) {
			t.Errorf("%s: %s", name, words)
		}
		if words, _, failed := use(t, session, "start_desktop", dict{"desktop": ours, "waitSeconds": 0}); failed || !strings.Contains(words, `"booting"`) {
			t.Errorf("%s: %s", name, words)
		}
		h.SetStatus(ours, desktop.Failed)
		h.Fail = func(method string) error { // a start that leaves it as it is
			if method == "Start" {
				return desktop.Errorf(desktop.Exhausted, "the host has not enough memory")
			}
			return nil
		}
		if words, _, failed := use(t, session, "start_desktop", dict{"desktop": ours}); !failed || !strings.Contains(words, "not enough memory") {
			t.Errorf("%s: %s", name, words)
		}
		h.Fail = nil
	}
}

// TestCancelledCallsEnd: what a call does ends when its client cancels it, when its session ends,
// and when the appliance does.
func TestCancelledCallsEnd(t *testing.T) {
	h := newHouse(t, Options{}, nil)
	began, ended := make(chan struct{}), make(chan error, 1)
	h.OnExec = func(ctx context.Context, _ desktop.Exec, _ func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return desktop.ExecResult{}, ctx.Err()
	}
	run := func(ctx context.Context, session *sdk.ClientSession) chan error {
		answered := make(chan error, 1)
		go func() {
			_, err := session.CallTool(ctx, &sdk.CallToolParams{Name: "bash", Arguments: dict{"desktop": ours, "script": "sleep 1d", "timeoutSeconds": 3600}})
			answered <- err
		}()
		<-began
		return answered
	}
	key := h.key(desktop.Capabilities()...)
	for name, connect := range h.ways(key) {
		session := connect(nil)
		ctx, cancel := context.WithCancel(t.Context())
		answered := run(ctx, session)
		cancel()
		<-ended
		if err := <-answered; err == nil {
			t.Errorf("%s: a cancelled call was answered", name)
		}
		// The session goes on.
		if words, _, failed := use(t, session, "get_desktop", dict{"desktop": ours}); failed {
			t.Errorf("%s: %s", name, words)
		}
	}

	session := h.http(bearer(key), withSessions, nil)
	answered := run(t.Context(), session)
	if response := h.raw(http.MethodDelete, key, "", sessionHeader+": "+session.ID()); response.StatusCode != http.StatusNoContent {
		t.Errorf("the end of a session: %s", response.Status)
	}
	<-ended
	<-answered

	stdio := h.stdio(key)
	session = h.connect(stdio, withSessions, nil)
	answered = run(t.Context(), session)
	stdio.Writer.Close()
	<-ended
	<-answered

	session = h.http(bearer(key), withSessions, nil)
	answered = run(t.Context(), session)
	if err := h.handler.Close(); err != nil {
		t.Error(err)
	}
	<-ended
	<-answered
}

func TestResources(t *testing.T) {
	h := newHouse(t, Options{Chat: fakeChat{}}, nil)
	h.each(h.key(desktop.Capabilities()...), func(t *testing.T, session *sdk.ClientSession) {
		read := func(uri string) *sdk.ResourceContents {
			t.Helper()
			result, err := session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: uri})
			if err != nil || len(result.Contents) != 1 || result.Contents[0].URI != uri {
				t.Fatalf("%s: %+v, %v", uri, result, err)
			}
			return result.Contents[0]
		}
		if got := read("bureau://desktops"); !strings.Contains(got.Text, ours) || strings.Contains(got.Text, theirs) {
			t.Errorf("%s", got.Text)
		}
		if got := read("bureau://desktops/" + ours); !json.Valid([]byte(got.Text)) || !strings.Contains(got.Text, "agentReady") {
			t.Errorf("%s", got.Text)
		}
		got := read("bureau://desktops/" + ours + "/screen")
		if config, _, err := image.DecodeConfig(bytes.NewReader(got.Blob)); err != nil || config.Width != 320 || got.MIMEType != "image/png" {
			t.Errorf("%v %s %v", config, got.MIMEType, err)
		}
		completed, err := session.Complete(t.Context(), &sdk.CompleteParams{
			Ref:      &sdk.CompleteReference{Type: "ref/resource", URI: screenURI},
			Argument: sdk.CompleteParamsArgument{Name: "id", Value: "dt-"},
		})
		if err != nil || !slices.Equal(completed.Completion.Values, []string{ours}) {
			t.Errorf("%+v, %v", completed, err)
		}
	})

	// Only those of the key.
	for _, c := range []struct {
		held []desktop.Capability
		want []string
	}{
		{nil, nil},
		{[]desktop.Capability{desktop.CanRead}, []string{desktopURI}},
		{[]desktop.Capability{desktop.CanControl}, []string{screenURI}},
		{[]desktop.Capability{desktop.CanChat}, []string{chatURI}},
	} {
		session := h.http(bearer(h.key(c.held...)), withSessions, nil)
		var got []string
		for template, err := range session.ResourceTemplates(t.Context(), nil) {
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, template.URITemplate)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("with %v: %v, want %v", c.held, got, c.want)
		}
	}
	// A key that may control and not list takes ids.
	session := h.http(bearer(h.key(desktop.CanControl)), withSessions, nil)
	if words, _, failed := use(t, session, "click", dict{"desktop": ours, "x": 1, "y": 1}); failed {
		t.Errorf("%s", words)
	}
}

// fakeChat is an agent that repeats what it is told.
type fakeChat struct{}

func (fakeChat) Send(ctx context.Context, c *client.Client, id string, m ChatMessage, doing func(string)) (ChatAnswer, error) {
	if _, err := c.Me(ctx); err != nil { // in the caller's name
		return ChatAnswer{}, err
	}
	doing("thinking")
	if m.Message == "forever" {
		<-ctx.Done()
		return ChatAnswer{}, ctx.Err()
	}
	return ChatAnswer{Session: "s-" + id, Message: m.Session + m.Message, StopReason: "end"}, nil
}

func (fakeChat) History(context.Context, *client.Client, string) (json.RawMessage, error) {
	return json.RawMessage(`[{"sessionId":"s"}]`), nil
}

func TestChat(t *testing.T) {
	h := newHouse(t, Options{Chat: fakeChat{}}, nil)
	told := make(chan string, 10)
	session := h.http(bearer(h.key(desktop.CanChat)), withSessions, &sdk.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) { told <- r.Params.Message }})
	params := &sdk.CallToolParams{Name: "chat", Arguments: dict{"desktop": ours, "message": "hello", "sessionId": "s1"}}
	params.SetProgressToken(1)
	result, err := session.CallTool(t.Context(), params)
	if err != nil || result.IsError || !strings.Contains(result.Content[0].(*sdk.TextContent).Text, `"message":"s1hello"`) {
		t.Errorf("%+v, %v", result, err)
	}
	for what := range told {
		if what == "thinking" {
			break
		}
	}
	history, err := session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "bureau://desktops/" + ours + "/chat"})
	if err != nil || history.Contents[0].Text != `[{"sessionId":"s"}]` {
		t.Errorf("%+v, %v", history, err)
	}
}

// TestChatWithTheAgent itself: what it does is told while it does it, its answer is the tool's, what
// was said can be read, and a call that is cancelled ends the turn.
func TestChatWithTheAgent(t *testing.T) {
	seen, began, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	var agents *apitest.Chat
	h := newHouse(t, Options{Chat: Agents{}}, func(o *api.Options) {
		agents = apitest.NewChat(t, o.Desktops.(*apitest.World))
		o.Assistant = agents.Service
	})
	call := model.Call{ID: "call-1", Tool: "bash", Arguments: json.RawMessage(`{"command":"true"}`)}
	agents.SetModel(apitest.InTurn(apitest.Use(call),
		func(ctx context.Context, r model.Request, tell func(model.Delta)) (model.Response, error) {
			<-seen // the client has heard of the step, while the turn goes on
			return apitest.Say("It is done.")(ctx, r, tell)
		},
		func(ctx context.Context, _ model.Request, _ func(model.Delta)) (model.Response, error) {
			close(began)
			<-ctx.Done()
			close(ended)
			return model.Response{}, ctx.Err()
		}))
	session := h.http(bearer(h.key(desktop.CanChat)), withSessions, &sdk.ClientOptions{
		ProgressNotificationHandler: func(_ context.Context, r *sdk.ProgressNotificationClientRequest) {
			if r.Params.Message == "step 1: bash" {
				close(seen)
			}
		}})
	params := &sdk.CallToolParams{Name: "chat", Arguments: dict{"desktop": ours, "message": "do it"}}
	params.SetProgressToken("chat")
	result, err := session.CallTool(t.Context(), params)
	if err != nil || result.IsError {
		t.Fatalf("%+v, %v", result, err)
	}
	var answer ChatAnswer
	if err := json.Unmarshal([]byte(result.Content[0].(*sdk.TextContent).Text), &answer); err != nil || answer.Message != "It is done." || answer.Session == "" {
		t.Errorf("%+v, %v", answer, err)
	}
	history, err := session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "bureau://desktops/" + ours + "/chat"})
	if err != nil || !strings.Contains(history.Contents[0].Text, "It is done.") || !strings.Contains(history.Contents[0].Text, answer.Session) {
		t.Errorf("%+v, %v", history, err)
	}
	if _, err := session.ReadResource(t.Context(), &sdk.ReadResourceParams{URI: "bureau://desktops/" + theirs + "/chat"}); err == nil {
		t.Error("another owner's conversations can be read")
	}

	ctx, cancel := context.WithCancel(t.Context())
	answered := make(chan error, 1)
	go func() {
		_, err := session.CallTool(ctx, &sdk.CallToolParams{Name: "chat", Arguments: dict{"desktop": ours, "message": "for ever"}})
		answered <- err
	}()
	<-began
	cancel()
	<-ended
	if err := <-answered; err == nil {
		t.Error("a cancelled call was answered")
	}
}

func TestLongOutputIsCutInItsMiddle(t *testing.T) {
	long := strings.Repeat("ä", maxOutput)
	got := shorten(long)
	if len(got) > maxOutput+100 || !strings.Contains(got, "bytes are left out") || !strings.HasPrefix(got, "ää") || !strings.HasSuffix(got, "ää") ||
		strings.ToValidUTF8(got, "") != got {
		t.Errorf("%d bytes: %.80s", len(got), got)
	}
	if shorten("short") != "short" {
		t.Error("a short text was changed")
	}
}

// TestManualAgreesWithCode: docs/mcp.md lists the tools and the resources that there are.
func TestManualAgreesWithCode(t *testing.T) {
	manual, err := os.ReadFile("../docs/mcp.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`([a-z_]+)`")
	for _, capability := range desktop.Capabilities() {
		row := regexp.MustCompile("(?m)^\\| `" + string(capability) + "` \\|(.*)$").FindSubmatch(manual)
		var listed []string
		if row != nil {
			for _, name := range names.FindAllSubmatch(row[1], -1) {
				listed = append(listed, string(name[1]))
			}
		}
		slices.Sort(listed)
		if !slices.Equal(listed, toolsFor[capability]) {
			t.Errorf("with %s the manual has %v, the code %v", capability, listed, toolsFor[capability])
		}
	}
	for _, uri := range []string{desktopsURI, desktopURI, screenURI, chatURI} {
		if !bytes.Contains(manual, []byte("`"+strings.ReplaceAll(uri, "{id}", "ID")+"`")) {
			t.Errorf("the manual does not have %s", uri)
		}
	}
}
