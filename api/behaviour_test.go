package api

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"image/color"
	_ "image/jpeg"
	_ "image/png"
	"reflect"
	"strings"
	"testing"
	"time"

	"bureau/api/apitest"
	"bureau/desktop"
)

func TestLifecycle(t *testing.T) {
	b := newBench(t, nil)
	var d desktop.Desktop
	for verb, status := range map[string]desktop.Status{"start": desktop.Booting, "stop": desktop.Stopping, "restart": desktop.Stopping} {
		b.into(b.do("POST", "/v1/desktops/dt-1/"+verb, ""), 202, &d)
		if d.ID != "dt-1" || d.Status != status {
			t.Errorf("%s: got %+v", verb, d)
		}
	}
	b.SetStatus("dt-1", desktop.Destroying)
	if p := b.problem(b.do("POST", "/v1/desktops/dt-1/start", ""), 409); !strings.Contains(p["error"].(string), "destroying") {
		t.Errorf("the conflict does not name the status: %v", p)
	}
	b.SetStatus("dt-1", desktop.Stopped)
	for _, route := range []string{"click", "exec"} {
		got := b.do("POST", "/v1/desktops/dt-1/"+route, map[string]string{"click": "{}", "exec": `{"command":"true"}`}[route])
		b.problem(got, 503)
		if got.Header.Get("Retry-After") != "2" {
			t.Errorf("Retry-After is %q", got.Header.Get("Retry-After"))
		}
	}
	b.problem(b.do("GET", "/v1/desktops/dt-1/screenshot", ""), 503)

	got := b.do("POST", "/v1/desktops", `{"name":"Büro","keepAlive":true}`)
	b.into(got, 201, &d)
	if d.Name != "Büro" || !d.KeepAlive || d.Status != desktop.Pending || got.Header.Get("Location") != "/v1/desktops/"+d.ID {
		t.Errorf("got %+v at %s", d, got.Header.Get("Location"))
	}
	b.into(b.do("POST", "/v1/desktops", `{"start":false}`), 201, &d)
	if d.Status != desktop.Stopped {
		t.Errorf("got %+v", d)
	}
	b.into(b.do("PATCH", "/v1/desktops/"+d.ID, `{"name":"renamed"}`), 200, &d)
	if d.Name != "renamed" || d.KeepAlive {
		t.Errorf("got %+v", d)
	}
	b.into(b.do("DELETE", "/v1/desktops/"+d.ID, ""), 204, nil)
	b.problem(b.do("GET", "/v1/desktops/"+d.ID, ""), 404)
}

func TestListIsABareArrayInPages(t *testing.T) {
	b := newBench(t, nil)
	lonely := b.AddKey("usr-3", nil, desktop.CanRead)
	b.AddUser("usr-3")
	if got := b.do("GET", "/v1/desktops", "", "Authorization: Bearer "+lonely); strings.TrimSpace(string(got.body)) != "[]" {
		t.Errorf("an empty list is %s", got.body)
	}
	for i := range 5 {
		b.AddDesktop(fmt.Sprint("dt-1", i), "usr-1")
	}
	var ids []string
	for path := "/v1/desktops?limit=4"; path != ""; {
		var page []desktop.Desktop
		got := b.do("GET", path, "")
		b.into(got, 200, &page)
		for _, d := range page {
			ids = append(ids, d.ID)
		}
		link := got.Header.Get("Link")
		path, _, _ = strings.Cut(strings.TrimPrefix(link, "<"), ">")
		if link != "" && !strings.HasSuffix(link, `>; rel="next"`) {
			t.Errorf("the link is %s", link)
		}
	}
	if fmt.Sprint(ids) != "[dt-1 dt-10 dt-11 dt-12 dt-13 dt-14]" {
		t.Errorf("got %v", ids)
	}
}

func TestMe(t *testing.T) {
	b := newBench(t, nil)
	key := b.AddKey("usr-1", nil, desktop.DefaultCapabilities()...)
	var me Me
	b.into(b.do("GET", "/v1/me", "", "Authorization: bearer "+key), 200, &me)
	if me.ID != "usr-1" || me.UserID != "usr-1" || me.Email != "usr-1@example.org" || me.Role != desktop.RoleUser || me.Tier != "free" ||
		!reflect.DeepEqual(me.Capabilities, desktop.DefaultCapabilities()) || me.Local {
		t.Errorf("got %+v", me)
	}
	w := b.asLocal("GET", "/v1/me", "")
	if err := json.Unmarshal(w.Body.Bytes(), &me); err != nil || !me.Local || me.Role != desktop.RoleAdmin {
		t.Errorf("got %d %s", w.Code, w.Body)
	}
}

func TestActionsReachTheDesktopAsMeant(t *testing.T) {
	n := func(i int) *int { return &i }
	for _, c := range []struct {
		route, body string
		want        desktop.Action
	}{
		{"click", ``, desktop.Action{Click: &desktop.Click{}}},
		{"click", `{}`, desktop.Action{Click: &desktop.Click{Button: "left", Count: 1, Action: "click"}}},
		{"click", `{"x":100.0,"y":2e1,"double":true,"modifiers":["ctrl"]}`, desktop.Action{Click: &desktop.Click{
			X: n(100), Y: n(20), Button: "left", Count: 2, Double: true, Modifiers: []string{"ctrl"}, Action: "click"}}},
		{"move", `{"x":0,"y":199}`, desktop.Action{Move: &desktop.Move{X: 0, Y: 199}}},
		{"drag", `{"path":[{"x":1,"y":2},{"x":3,"y":4}],"durationMs":5}`, desktop.Action{Drag: &desktop.Drag{
			Path: []desktop.Point{{X: 1, Y: 2}, {X: 3, Y: 4}}, Button: "left", DurationMs: 5}}},
		{"scroll", `{"direction":"up"}`, desktop.Action{Scroll: &desktop.Scroll{Direction: "up"}}},
		{"scroll", `{"deltaY":-3,"x":1,"y":2}`, desktop.Action{Scroll: &desktop.Scroll{X: n(1), Y: n(2), DeltaY: -3}}},
		{"type", `{"text":"漢 ü\n\t😀","sensitive":true}`, desktop.Action{Type: &desktop.Type{Text: "漢 ü\n\t😀", Sensitive: true}}},
		{"key", `{"key":"ctrl+a"}`, desktop.Action{Press: &desktop.Press{Keys: []string{"ctrl+a"}, Repeat: 1}}},
		{"key", `{"key":["Down","ENTER"],"repeat":3,"holdMs":10}`, desktop.Action{Press: &desktop.Press{Keys: []string{"Down", "ENTER"}, Repeat: 3, HoldMs: 10}}},
	} {
		b := newBench(t, nil)
		var acted map[string]any
		b.into(b.do("POST", "/v1/desktops/dt-1/"+c.route, c.body), 200, &acted)
		if got := b.Acted(); len(got) != 1 || !reflect.DeepEqual(got[0], c.want) {
			have, _ := json.Marshal(got)
			want, _ := json.Marshal(c.want)
			t.Errorf("%s %s: did %s, want %s", c.route, c.body, have, want)
		}
		if len(acted) != 3 || acted["tookMs"] == nil || acted["cursor"] == nil || acted["display"] == nil {
			t.Errorf("%s: answered %v", c.route, acted)
		}
		if strings.Contains(b.log.String(), "漢") || strings.Contains(b.log.String(), b.key) {
			t.Errorf("the log tells what was typed, or the key:\n%s", b.log)
		}
	}
}

func TestScreenshotAfterAnAction(t *testing.T) {
	b := newBench(t, nil)
	for option, size := range map[string]string{
		`true`:  "320x200 png",
		`false`: "",
		`{"format":"jpeg","quality":50,"maxWidth":160}`: "160x100 jpeg",
		`{"region":"10,20,30,40"}`:                      "30x40 png",
		// Whole numbers, if not as Go writes them.
		`{"format":"jpeg","quality":50.0,"maxWidth":16e1}`: "160x100 jpeg",
	} {
		var acted Acted
		b.into(b.do("POST", "/v1/desktops/dt-1/click", `{"screenshot":`+option+`}`), 200, &acted)
		if size == "" {
			if acted.Screenshot != nil {
				t.Errorf("%s: there is a picture", option)
			}
			continue
		}
		picture, format, err := image.Decode(bytes.NewReader(acted.Screenshot.Data))
		if err != nil {
			t.Fatal(err)
		}
		got := fmt.Sprintf("%dx%d %s", picture.Bounds().Dx(), picture.Bounds().Dy(), format)
		if got != size || fmt.Sprintf("%dx%d image/%s", acted.Screenshot.Width, acted.Screenshot.Height, format) != strings.Replace(size, " ", " image/", 1) {
			t.Errorf("%s: got %s, want %s", option, got, size)
		}
	}
	// An action that was done is told of even when the picture fails.
	b.Fail = func(method string) error {
		if method == "See" {
			return desktop.Errorf(desktop.Unavailable, "the display is away")
		}
		return nil
	}
	if p := b.problem(b.do("POST", "/v1/desktops/dt-1/click", `{"screenshot":true}`), 503); p["acted"] != true {
		t.Errorf("got %v", p)
	}
}

func TestScreenshot(t *testing.T) {
	b := newBench(t, nil)
	const path = "/v1/desktops/dt-1/screenshot"
	got := b.do("GET", path, "")
	b.into(got, 200, nil)
	for name, want := range map[string]string{"Content-Type": "image/png", "X-Bureau-Source": "dbus", "X-Bureau-Width": "320",
		"X-Bureau-Height": "200", "X-Bureau-Display": "320x200", "Cache-Control": "private, no-cache"} {
		if got.Header.Get(name) != want {
			t.Errorf("%s is %q, want %q", name, got.Header.Get(name), want)
		}
	}
	tag := got.Header.Get("ETag")
	if again := b.do("GET", path, "", "If-None-Match: "+tag); again.StatusCode != 304 || len(again.body) != 0 || again.Header.Get("ETag") != tag {
		t.Errorf("an unchanged display: got %s", again.Status)
	}
	if other := b.do("GET", path+"?cursor=false", "", "If-None-Match: "+tag); other.StatusCode != 200 {
		t.Errorf("another picture of an unchanged display: got %s", other.Status)
	}
	b.World.Shown = apitest.Frame(1, color.RGBA{200, 0, 0, 255}) // of the same serial, from a new connection
	if changed := b.do("GET", path, "", "If-None-Match: "+tag); changed.StatusCode != 200 || changed.Header.Get("ETag") == tag {
		t.Errorf("a changed display: got %s", changed.Status)
	}
	for query, want := range map[string]string{"?format=jpeg&quality=1": "image/jpeg", "?format=webp": "image/webp", "?region=1,2,3,4&scale=2": "image/png"} {
		if got := b.do("GET", path+query, ""); got.StatusCode != 200 || got.Header.Get("Content-Type") != want {
			t.Errorf("%s: got %s, %s", query, got.Status, got.Header.Get("Content-Type"))
		}
	}
}

// With settleMs a picture, and an action with or without one, waits for the display to come to rest
// and tells how that ended; without it nothing is said of it.
func TestSettling(t *testing.T) {
	b := newBench(t, nil)
	const path = "/v1/desktops/dt-1/"
	for _, c := range []struct {
		body     string
		settle   time.Duration
		restless bool
		picture  bool
	}{
		{`{"settleMs":700}`, 700 * time.Millisecond, false, false},
		{`{"settleMs":700,"screenshot":true}`, 700 * time.Millisecond, false, true},
		{`{"screenshot":{"settleMs":500}}`, 500 * time.Millisecond, true, true},
		{`{"settleMs":700,"screenshot":{"settleMs":500}}`, 500 * time.Millisecond, false, true},
		{`{"settleMs":700,"screenshot":false}`, 700 * time.Millisecond, true, false},
	} {
		b.Restless = c.restless
		var acted Acted
		b.into(b.do("POST", path+"click", c.body), 200, &acted)
		settles := b.Settles()
		if got := settles[len(settles)-1]; got != c.settle {
			t.Errorf("%s: waited for %v, want %v", c.body, got, c.settle)
		}
		if acted.Settled == nil || *acted.Settled == c.restless || acted.WaitedMs == nil || *acted.WaitedMs <= 0 || (acted.Screenshot != nil) != c.picture {
			t.Errorf("%s: answered %+v", c.body, acted)
		}
		if known := acted.StillMs != nil; known == c.restless || known && (*acted.StillMs < 120 || *acted.StillMs > 60_000) {
			t.Errorf("%s: stillMs is %v", c.body, acted.StillMs)
		}
	}
	before := len(b.Settles())
	var plain map[string]any
	b.into(b.do("POST", path+"click", `{"screenshot":true,"settleMs":0}`), 200, &plain)
	if _, told := plain["settled"]; told || plain["waitedMs"] != nil || plain["stillMs"] != nil {
		t.Errorf("nothing was asked to settle, and the answer is %v", plain)
	}
	if got := b.Settles()[before:]; len(got) != 1 || got[0] != 0 {
		t.Errorf("waited %v", got)
	}

	b.Restless = true
	got := b.do("GET", path+"screenshot?settleMs=300", "")
	b.into(got, 200, nil)
	if got.Header.Get("X-Bureau-Settled") != "false" || got.Header.Get("X-Bureau-Waited-Ms") != "300" {
		t.Errorf("got %v", got.Header)
	}
	b.Restless = false
	again := b.do("GET", path+"screenshot?settleMs=900", "", "If-None-Match: "+got.Header.Get("ETag"))
	if again.StatusCode != 304 || again.Header.Get("X-Bureau-Settled") != "true" {
		t.Errorf("waiting makes another picture of it: %s %v", again.Status, again.Header)
	}
	if plain := b.do("GET", path+"screenshot", ""); plain.Header.Get("X-Bureau-Settled") != "" || plain.Header.Get("ETag") != got.Header.Get("ETag") {
		t.Errorf("got %v", plain.Header)
	}
	b.Fail = func(method string) error {
		if method == "See" {
			return desktop.Errorf(desktop.Unavailable, "the display is away")
		}
		return nil
	}
	if p := b.problem(b.do("POST", path+"click", `{"settleMs":700}`), 503); p["acted"] != true {
		t.Errorf("got %v", p)
	}
}

func TestWindowsClipboardAndDisplay(t *testing.T) {
	b := newBench(t, nil)
	const path = "/v1/desktops/dt-1/"
	windows := func() (list []desktop.Window) {
		b.into(b.do("GET", path+"windows", ""), 200, &list)
		return list
	}
	if list := windows(); len(list) != 2 || list[0].Title != "Töpfe" || !list[0].Focused || list[1].Workspace != -1 {
		t.Errorf("got %+v", list)
	}
	b.into(b.do("POST", path+"windows/9/activate", ""), 204, nil)
	if list := windows(); list[0].Focused || !list[1].Focused {
		t.Errorf("got %+v", list)
	}
	b.into(b.do("DELETE", path+"windows/9", ""), 204, nil)
	b.into(b.do("DELETE", path+"windows/7", ""), 204, nil)
	b.problem(b.do("POST", path+"windows/7/activate", ""), 404)
	if got := b.do("GET", path+"windows", ""); strings.TrimSpace(string(got.body)) != "[]" {
		t.Errorf("no windows are %s", got.body)
	}

	var clipboard Clipboard
	b.into(b.do("GET", path+"clipboard", ""), 200, &clipboard)
	if clipboard.Text != "" {
		t.Errorf("got %q", clipboard.Text)
	}
	for _, text := range []string{"漢 ü\n\t😀", strings.Repeat("\x01", desktop.MaxClipboardBytes), ""} {
		body, _ := json.Marshal(Clipboard{text})
		b.into(b.do("PUT", path+"clipboard", string(body)), 204, nil)
		if b.into(b.do("GET", path+"clipboard", ""), 200, &clipboard); clipboard.Text != text {
			t.Errorf("got %.100q", clipboard.Text)
		}
	}
	if strings.Contains(b.log.String(), "漢") {
		t.Error("the log tells what is on the clipboard")
	}

	var size desktop.Size
	b.into(b.do("PATCH", path+"display", `{"width":1024,"height":768}`), 200, &size)
	if size != (desktop.Size{Width: 1024, Height: 768}) {
		t.Errorf("got %v", size)
	}
	b.SetStatus("dt-1", desktop.Stopped)
	for _, route := range []string{"GET windows", "DELETE windows/7", "POST windows/7/activate", "GET clipboard", "PUT clipboard", "PATCH display", "POST actions"} {
		method, path, _ := strings.Cut(route, " ")
		body := goodBodies[method+" /v1/desktops/{id}/"+path]
		b.problem(b.do(method, "/v1/desktops/dt-1/"+path, body), 503)
	}
}

func TestExec(t *testing.T) {
	b := newBench(t, nil)
	var result desktop.ExecResult
	b.into(b.do("POST", "/v1/desktops/dt-1/exec", `{"command":"ls","cwd":"/tmp","env":{"A":"b"},"stdin":"in","timeoutMs":1500,"user":"root"}`), 200, &result)
	if result.ExitCode != 3 || result.Stdout != "out: ls\n" {
		t.Errorf("got %+v", result)
	}
	b.into(b.do("POST", "/v1/desktops/dt-1/bash", `{"script":"a\nb"}`), 200, &result)
	b.into(b.do("POST", "/v1/desktops/dt-1/exec", `{"command":"ls","stdin":"/wBh","encoding":"base64"}`), 200, &result)
	if result.Stdout != base64.StdEncoding.EncodeToString([]byte("out: ls\n")) {
		t.Errorf("in base64, stdout is %q", result.Stdout)
	}
	want := []desktop.Exec{
		{Script: "ls", Cwd: "/tmp", Env: map[string]string{"A": "b"}, Stdin: []byte("in"), Timeout: 1500 * time.Millisecond, User: "root"},
		{Script: "a\nb", Bash: true, Timeout: desktop.DefaultExecTimeout},
		{Script: "ls", Stdin: []byte("\xff\x00a"), Timeout: desktop.DefaultExecTimeout, Raw: true},
	}
	if got := b.Ran(); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if p := b.problem(b.do("POST", "/v1/desktops/dt-1/exec", `{"command":"ls","stdin":"not base64","encoding":"base64"}`), 400); !strings.Contains(p["error"].(string), "stdin: ") {
		t.Errorf("stdin that is not base64: %v", p)
	}
	b.problem(b.do("POST", "/v1/desktops/dt-1/exec", `{"command":"ls","encoding":"latin1"}`), 400)
}

func TestExecStreams(t *testing.T) {
	b := newBench(t, nil)
	b.OnExec = func(_ context.Context, _ desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		output(desktop.Stdout, []byte("gr\xc3"))
		output(desktop.Stderr, []byte("oh\n"))
		output(desktop.Stdout, []byte("\xbc\xc3\x9f\xff"))
		output(desktop.Stdout, []byte("\xe2\x82"))
		return desktop.ExecResult{ExitCode: 7}, nil
	}
	got := b.do("POST", "/v1/desktops/dt-1/exec", `{"command":"x"}`, "Accept: text/event-stream")
	b.into(got, 200, nil)
	want := "event: stdout\ndata: {\"data\":\"gr\"}\n\n" +
		"event: stderr\ndata: {\"data\":\"oh\\n\"}\n\n" +
		"event: stdout\ndata: {\"data\":\"üß\uFFFD\"}\n\n" +
		"event: stdout\ndata: {\"data\":\"\uFFFD\"}\n\n" +
		"event: result\ndata: {\"stdout\":\"\",\"stderr\":\"\",\"exitCode\":7,\"durationMs\":0,\"timedOut\":false,\"truncated\":false}\n\n"
	if string(got.body) != want || got.Header.Get("Content-Type") != "text/event-stream" {
		t.Errorf("got %q\nwant %q", got.body, want)
	}
	got = b.do("POST", "/v1/desktops/dt-1/exec", `{"command":"x","encoding":"base64"}`, "Accept: text/event-stream")
	want = "event: stdout\ndata: {\"data\":\"Z3LD\"}\n\n" +
		"event: stderr\ndata: {\"data\":\"b2gK\"}\n\n" +
		"event: stdout\ndata: {\"data\":\"vMOf/w==\"}\n\n" +
		"event: stdout\ndata: {\"data\":\"4oI=\"}\n\n"
	if !strings.HasPrefix(string(got.body), want) {
		t.Errorf("in base64 got %q\nwant %q", got.body, want)
	}
	// Before the first output a failure has its status, after it it is an event.
	for _, first := range []string{"", "some"} {
		b.OnExec = func(_ context.Context, _ desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
			if first != "" {
				output(desktop.Stdout, []byte(first))
			}
			return desktop.ExecResult{}, desktop.Errorf(desktop.Unavailable, "the agent is lost")
		}
		got := b.do("POST", "/v1/desktops/dt-1/exec", `{"command":"x"}`, "Accept: text/event-stream")
		if first == "" {
			b.problem(got, 503)
		} else if !strings.Contains(string(got.body), "event: error\ndata: {\"type\":\"/problems/unavailable\"") {
			t.Errorf("got %s", got.body)
		}
	}
}

func TestExecEndsWithItsCaller(t *testing.T) {
	b := newBench(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	b.OnExec = func(ctx context.Context, _ desktop.Exec, _ func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		cancel()
		<-ctx.Done()
		ended <- ctx.Err()
		return desktop.ExecResult{}, ctx.Err()
	}
	request, _ := httpRequest(ctx, b.url+"/v1/desktops/dt-1/exec", `{"command":"sleep 1d"}`, b.key)
	if _, err := b.client.Do(request); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("the command ended with %v", err)
	}
}

func TestInternalFaultsAreTheLogsAlone(t *testing.T) {
	b := newBench(t, nil)
	for name, fail := range map[string]func(string) error{
		"error": func(string) error { return errors.New("password in /secret/path") },
		"panic": func(string) error { panic("password in /secret/path") },
	} {
		b.Fail = func(method string) error {
			if method == "Start" {
				b.Fail = nil
				return fail(method)
			}
			return nil
		}
		got := b.do("POST", "/v1/desktops/dt-1/start", "", "X-Request-Id: req-"+name)
		p := b.problem(got, 500)
		if strings.Contains(string(got.body), "secret") || p["requestId"] != "req-"+name || !strings.Contains(p["error"].(string), "req-"+name) {
			t.Errorf("%s: got %s", name, got.body)
		}
		if log := b.log.String(); !strings.Contains(log, "secret/path") || !strings.Contains(log, "req-"+name) {
			t.Errorf("%s: the log does not tell:\n%s", name, log)
		}
	}
}

func TestRateLimit(t *testing.T) {
	b := newBench(t, func(o *Options) { o.RatePerMinute, o.Burst = 0.5, 3 })
	for range 3 {
		b.into(b.do("GET", "/v1/me", ""), 200, nil)
	}
	got := b.do("GET", "/v1/me", "")
	b.problem(got, 429)
	if after := got.Header.Get("Retry-After"); after != "120" && after != "119" {
		t.Errorf("Retry-After is %s", after)
	}
	b.into(b.do("GET", "/v1/me", "", "Authorization: Bearer "+b.other), 200, nil) // each key for itself
	b.into(b.do("GET", "/healthz", ""), 200, nil)
}

func TestLimiterForgetsTheRested(t *testing.T) {
	l := newLimiter(60, 1)
	now := time.Now()
	for i := range manyKeys {
		l.wait(fmt.Sprint(i), now)
	}
	if l.wait("0", now) <= 0 {
		t.Error("a key over its rate may go on")
	}
	l.wait("late", now.Add(time.Hour))
	if len(l.keys) != 1 {
		t.Errorf("%d keys are remembered", len(l.keys))
	}
	if newLimiter(0, 0).wait("x", now) != 0 {
		t.Error("no rate is a rate")
	}
}

func TestHeadersOfEveryAnswer(t *testing.T) {
	b := newBench(t, nil)
	for _, path := range []string{"/healthz", "/v1/me", "/nowhere"} {
		got := b.do("GET", path, "", "X-Request-Id: a bad id", "Origin: https://elsewhere.example")
		if id := got.Header.Get("X-Request-Id"); len(id) != 16 {
			t.Errorf("%s: the request id is %q", path, id)
		}
		if got.Header.Get("X-Content-Type-Options") != "nosniff" || got.Header.Get("Cache-Control") != "no-store" ||
			got.Header.Get("Access-Control-Allow-Origin") != "" {
			t.Errorf("%s: %v", path, got.Header)
		}
	}
	b.Fail = func(method string) error { return desktop.Errorf(desktop.Unavailable, "libvirt is away") }
	b.problem(b.do("GET", "/readyz", ""), 503)
	b.into(b.do("GET", "/healthz", ""), 200, nil)
}

func TestAdministration(t *testing.T) {
	b := newBench(t, nil)
	w := b.asLocal("POST", "/v1/admin/users", `{"email":"ada@example.org"}`)
	var user desktop.User
	if err := json.Unmarshal(w.Body.Bytes(), &user); err != nil || w.Code != 201 || user.Role != desktop.RoleUser {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if w := b.asLocal("POST", "/v1/admin/users", `{"email":"Ada <ada@example.org>"}`); w.Code != 400 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := b.asLocal("POST", "/v1/admin/users", `{"email":"ada@example.org"}`); w.Code != 409 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, name := range []string{user.ID, "ada@example.org"} {
		var changed desktop.User
		w := b.asLocal("PATCH", "/v1/admin/users/"+name, `{"tier":"pro"}`)
		if err := json.Unmarshal(w.Body.Bytes(), &changed); err != nil || w.Code != 200 || changed.Tier != "pro" || changed.Role != user.Role || changed.ID != user.ID {
			t.Errorf("%d %s", w.Code, w.Body)
		}
	}
	for body, status := range map[string]int{`{"role":"king"}`: 400, `{"email":"b@example.org"}`: 400, `{"tier":""}`: 400} {
		if w := b.asLocal("PATCH", "/v1/admin/users/"+user.ID, body); w.Code != status {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	if w := b.asLocal("PATCH", "/v1/admin/users/usr-none", `{"tier":"pro"}`); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for body, status := range map[string]int{
		`{"user":"ada@example.org","capabilities":["desktop:fly"]}`:     400,
		`{"user":"ada@example.org","capabilities":[{"a":1},{"a":1}]}`:   400,
		`{"user":"bob@example.org"}`:                                    404,
		`{"user":"ada@example.org","expiresAt":"tomorrow"}`:             400,
		`{"user":"ada@example.org","expiresAt":"2030-01-01T00:00:00Z"}`: 201,
	} {
		if w := b.asLocal("POST", "/v1/admin/keys", body); w.Code != status {
			t.Errorf("%s: %d %s", body, w.Code, w.Body)
		}
	}
	w = b.asLocal("POST", "/v1/admin/keys", `{"user":"`+user.ID+`"}`)
	var key NewKey
	if err := json.Unmarshal(w.Body.Bytes(), &key); err != nil || !strings.HasPrefix(key.Secret, desktop.KeyPrefix) || len(key.Capabilities) != 2 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	b.into(b.do("GET", "/v1/me", "", "Authorization: Bearer "+key.Secret), 200, nil)
	if w := b.asLocal("GET", "/v1/admin/keys?user="+user.ID, ""); strings.Contains(w.Body.String(), key.Secret) || !strings.Contains(w.Body.String(), key.ID) {
		t.Errorf("%s", w.Body)
	}
	if w := b.asLocal("DELETE", "/v1/admin/keys/"+key.ID, ""); w.Code != 200 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	b.problem(b.do("GET", "/v1/me", "", "Authorization: Bearer "+key.Secret), 401)
}

func TestOrphans(t *testing.T) {
	b := newBench(t, nil)
	if w := b.asLocal("GET", "/v1/admin/orphans", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != `{"machines":[],"volumes":[]}` {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	b.Left = desktop.Orphans{
		Machines: []desktop.Stranger{{DesktopID: "dt-stranger", Domain: "bureau-dt-stranger", Owner: "usr-1", Name: "left", State: desktop.MachineRunning}},
		Volumes:  []desktop.Volume{{Name: "desktop-dt-lost.qcow2", SizeBytes: 42, Why: "nobody has it", DesktopID: "dt-lost"}},
	}
	want := `{"machines":[{"desktopId":"dt-stranger","domain":"bureau-dt-stranger","owner":"usr-1","name":"left","state":"running"}],` +
		`"volumes":[{"name":"desktop-dt-lost.qcow2","sizeBytes":42,"why":"nobody has it"}]}`
	if w := b.asLocal("GET", "/v1/admin/orphans", ""); w.Code != 200 || strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	for _, status := range []int{204, 404} {
		if w := b.asLocal("DELETE", "/v1/admin/orphans/volumes/desktop-dt-lost.qcow2", ""); w.Code != status {
			t.Errorf("%d %s, want %d", w.Code, w.Body, status)
		}
	}
	w := b.asLocal("POST", "/v1/admin/orphans/adopt", `{"machine":"bureau-dt-stranger","owner":"usr-2"}`)
	var d desktop.Desktop
	if err := json.Unmarshal(w.Body.Bytes(), &d); err != nil || w.Code != 201 || d.ID != "dt-stranger" || d.Owner != "usr-2" ||
		w.Header().Get("Location") != "/v1/desktops/dt-stranger" {
		t.Errorf("%d %s %v", w.Code, w.Body, w.Header())
	}
	if w := b.asLocal("POST", "/v1/admin/orphans/adopt", `{"machine":"bureau-dt-stranger"}`); w.Code != 404 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestScreenshotDataIsBase64(t *testing.T) {
	b := newBench(t, nil)
	var acted struct{ Screenshot struct{ Data string } }
	b.into(b.do("POST", "/v1/desktops/dt-1/move", `{"x":1,"y":1,"screenshot":true}`), 200, &acted)
	if _, err := base64.StdEncoding.DecodeString(acted.Screenshot.Data); err != nil {
		t.Error(err)
	}
}
