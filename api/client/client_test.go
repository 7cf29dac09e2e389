package client

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"bureau/api"
	"bureau/api/apitest"
	"bureau/desktop"
)

// serve starts the API over a World and connects the owner of dt-1, with every exchange checked.
func serve(t *testing.T) (*apitest.World, *Client) {
	t.Helper()
	w := apitest.NewWorld()
	w.AddUser("usr-1")
	w.AddDesktop("dt-1", "usr-1")
	server := api.New(api.Options{Desktops: w, Accounts: w})
	web := httptest.NewServer(server.Handler())
	t.Cleanup(web.Close)
	c, err := New(web.URL+"/", w.AddKey("usr-1", nil, desktop.Capabilities()...), WithTransport(func(next http.RoundTripper) http.RoundTripper {
		checked, err := apitest.NewTransport(server.OpenAPI(), next, func(err error) { t.Error(err) })
		if err != nil {
			t.Fatal(err)
		}
		return checked
	}))
	if err != nil {
		t.Fatal(err)
	}
	return w, c
}

func TestRoundTrips(t *testing.T) {
	w, c := serve(t)
	ctx := t.Context()
	n := func(i int) *int { return &i }

	me, err := c.Me(ctx)
	if err != nil || me.ID != "usr-1" {
		t.Errorf("me: %+v, %v", me, err)
	}
	no := false
	made, err := c.Create(ctx, desktop.Draft{Name: "made", Start: &no})
	if err != nil || made.Name != "made" || made.Status != desktop.Stopped {
		t.Errorf("create: %+v, %v", made, err)
	}
	name := "renamed"
	if d, err := c.Update(ctx, made.ID, desktop.Change{Name: &name}); err != nil || d.Name != name {
		t.Errorf("update: %+v, %v", d, err)
	}
	if d, err := c.Get(ctx, made.ID); err != nil || d.Name != name {
		t.Errorf("get: %+v, %v", d, err)
	}
	for verb, call := range map[desktop.Status]func(context.Context, string) (desktop.Desktop, error){desktop.Booting: c.Start, desktop.Stopping: c.Stop} {
		if d, err := call(ctx, made.ID); err != nil || d.Status != verb {
			t.Errorf("%s: %+v, %v", verb, d, err)
		}
	}
	if list, err := c.List(ctx); err != nil || len(list) != 2 {
		t.Errorf("list: %+v, %v", list, err)
	}
	if page, more, err := c.Page(ctx, "", 1); err != nil || len(page) != 1 || !more {
		t.Errorf("page: %+v, %v, %v", page, more, err)
	}
	if err := c.Destroy(ctx, made.ID); err != nil {
		t.Errorf("destroy: %v", err)
	}

	actions := []desktop.Action{
		{Click: &desktop.Click{X: n(1), Y: n(2), Button: "right", Count: 1, Action: "click"}},
		{Move: &desktop.Move{X: 3, Y: 4}},
		{Drag: &desktop.Drag{StartX: n(1), StartY: n(1), EndX: n(5), EndY: n(5), Button: "left"}},
		{Scroll: &desktop.Scroll{Direction: "up", Amount: n(2)}},
		{Type: &desktop.Type{Text: "grüß"}},
		{Press: &desktop.Press{Keys: []string{"ctrl+a"}, Repeat: 1}},
		{Press: &desktop.Press{Keys: []string{"a", "b"}, Repeat: 2}},
	}
	for _, action := range actions {
		acted, err := c.Act(ctx, "dt-1", action, api.After{Screenshot: api.Want(&api.Picture{Format: "jpeg", MaxWidth: 100, SettleMs: 50})})
		if err != nil || acted.Screenshot == nil || acted.Screenshot.Width != 100 || acted.Screenshot.ContentType != "image/jpeg" {
			t.Errorf("act: %+v, %v", acted.Acted, err)
		}
	}
	if got := w.Acted(); !reflect.DeepEqual(got, actions) {
		t.Errorf("did %+v, want %+v", got, actions)
	}
	if _, err := c.Act(ctx, "dt-1", desktop.Action{}, api.After{}); desktop.CodeOf(err) != desktop.Invalid {
		t.Errorf("nothing: %v", err)
	}

	done, err := c.Actions(ctx, "dt-1", api.ActionsRequest{Actions: api.Actions(`{"action":"mouse_move","coordinate":[5,6]}`),
		Display: &desktop.Size{Width: 160, Height: 100}})
	if err != nil || done.Dialect != "anthropic" || len(done.Results) != 1 || done.Completed != 1 || done.Cursor != (desktop.Point{X: 11, Y: 13}) {
		t.Errorf("actions: %+v, %v", done, err)
	}
	_, err = c.Actions(ctx, "dt-1", api.ActionsRequest{Actions: api.Actions(`[{"type":"move","x":1,"y":1},{"type":"key","key":"nokey"}]`)})
	if e, ok := err.(*desktop.Error); !ok || e.Code != desktop.Invalid || e.Details["index"] != 1.0 || e.Details["completed"] != 1.0 {
		t.Errorf("actions: %#v", err)
	}
	if list, err := c.Windows(ctx, "dt-1"); err != nil || len(list) != 2 {
		t.Errorf("windows: %+v, %v", list, err)
	}
	if err := errors.Join(c.ActivateWindow(ctx, "dt-1", 9), c.CloseWindow(ctx, "dt-1", 9), c.SetClipboard(ctx, "dt-1", "grüß"),
		c.Resize(ctx, "dt-1", desktop.Size{Width: 320, Height: 200})); err != nil {
		t.Error(err)
	}
	if err := c.CloseWindow(ctx, "dt-1", 9); desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("close: %v", err)
	}
	if text, err := c.Clipboard(ctx, "dt-1"); err != nil || text != "grüß" {
		t.Errorf("clipboard: %q, %v", text, err)
	}

	shot, err := c.Screenshot(ctx, "dt-1", api.Picture{Format: "png", Scale: 0.5, Cursor: true})
	if err != nil || shot.ContentType != "image/png" || shot.Source != desktop.SourceDBus || len(shot.Bytes) == 0 || shot.ETag == "" {
		t.Errorf("screenshot: %s %s, %v", shot.ContentType, shot.Source, err)
	}
	result, err := c.Exec(ctx, "dt-1", desktop.Exec{Script: "ls", Timeout: time.Second}, nil)
	if err != nil || result.ExitCode != 3 || result.Stdout != "out: ls\n" {
		t.Errorf("exec: %+v, %v", result, err)
	}
	var output strings.Builder
	result, err = c.Exec(ctx, "dt-1", desktop.Exec{Script: "ls", Bash: true}, func(s desktop.Stream, text string) { output.WriteString(string(s) + ":" + text) })
	if err != nil || result.ExitCode != 3 || output.String() != "stdout:out: ls\nstderr:err\n" {
		t.Errorf("stream: %+v, %q, %v", result, output.String(), err)
	}
	if err := c.Ready(ctx); err != nil {
		t.Errorf("ready: %v", err)
	}
	if document, err := c.OpenAPI(ctx); err != nil || !strings.Contains(string(document), `"openapi":"3.1`) {
		t.Errorf("document: %v", err)
	}
}

func TestFailuresComeBackAsTheyWere(t *testing.T) {
	w, c := serve(t)
	ctx := t.Context()
	_, err := c.Get(ctx, "dt-9/../x?y")
	if desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("got %v", err)
	}
	w.SetStatus("dt-1", desktop.Stopped)
	_, err = c.Exec(ctx, "dt-1", desktop.Exec{Script: "ls"}, func(desktop.Stream, string) {})
	var e *desktop.Error
	if !errors.As(err, &e) || e.Code != desktop.Unavailable || e.RetryAfter != 2*time.Second || !strings.Contains(e.Message, "stopped") || e.Details["requestId"] == "" {
		t.Errorf("got %+v", e)
	}
	_, err = c.Users(ctx)
	if !errors.As(err, &e) || e.Code != desktop.Forbidden || e.Details["required"] == nil || e.Details["held"] == nil {
		t.Errorf("got %+v", e)
	}
	w.SetStatus("dt-1", desktop.Running)
	w.OnExec = func(_ context.Context, _ desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		output(desktop.Stdout, []byte("x"))
		return desktop.ExecResult{}, desktop.Errorf(desktop.Unavailable, "lost")
	}
	if _, err = c.Exec(ctx, "dt-1", desktop.Exec{Script: "ls"}, func(desktop.Stream, string) {}); !errors.As(err, &e) || e.Message != "lost" {
		t.Errorf("got %v", err)
	}
}

func TestStrangeServers(t *testing.T) {
	for _, server := range []string{"", "bureau", "ftp://x", "http://"} {
		if _, err := New(server, ""); desktop.CodeOf(err) != desktop.Invalid {
			t.Errorf("%q: %v", server, err)
		}
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listener.Close()
	gone, _ := New("http://"+listener.Addr().String(), "")
	if _, err := gone.Me(t.Context()); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("got %v", err)
	}
	for answer, code := range map[int]desktop.Code{502: desktop.Unavailable, 418: desktop.Internal} {
		web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(answer) }))
		c, _ := New(web.URL, "")
		if _, err := c.Me(t.Context()); desktop.CodeOf(err) != code || !strings.Contains(err.Error(), http.StatusText(answer)) {
			t.Errorf("%d: %v", answer, err)
		}
		web.Close()
	}
}

func TestOperatorOnTheSocket(t *testing.T) {
	w := apitest.NewWorld()
	socket := filepath.Join(t.TempDir(), "admin.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- api.New(api.Options{Desktops: w, Accounts: w}).Serve(ctx, nil, listener) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for _, address := range []string{"unix://" + socket, socket} {
		c, err := New(address, "")
		if err != nil {
			t.Fatal(err)
		}
		email := strings.ReplaceAll(address, "/", "") + "@example.org"
		user, err := c.CreateUser(ctx, strings.ReplaceAll(email, ":", ""), "", "")
		if err != nil || user.Role != desktop.RoleUser {
			t.Fatalf("%+v, %v", user, err)
		}
		tier := "pro"
		if changed, err := c.UpdateUser(ctx, user.Email, desktop.UserChange{Tier: &tier}); err != nil || changed.Tier != tier || changed.ID != user.ID {
			t.Fatalf("%+v, %v", changed, err)
		}
		key, err := c.CreateKey(ctx, user.ID, "test", nil, nil)
		if err != nil || key.Secret == "" {
			t.Fatalf("%+v, %v", key, err)
		}
		if keys, err := c.Keys(ctx, user.Email); err != nil || len(keys) != 1 || keys[0].ID != key.ID {
			t.Errorf("%+v, %v", keys, err)
		}
		if k, err := c.RevokeKey(ctx, key.ID); err != nil || k.RevokedAt == nil {
			t.Errorf("%+v, %v", k, err)
		}
		if users, err := c.Users(ctx); err != nil || len(users) == 0 {
			t.Errorf("%+v, %v", users, err)
		}
	}
}
