package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"bureau/desktop"
	"bureau/desktop/activity"
)

// Routes that change nothing which has to be told, and may stay out of the log.
var unrecorded = []string{"getHealth", "getReadiness", "getOpenAPI", "getProblem"}

// Every route that changes something is in the log, and the log names no route that there is not.
func TestEveryChangeIsRecorded(t *testing.T) {
	s := newBench(t, nil).server
	known := map[string]bool{}
	for path := range s.api.OpenAPI().Paths {
		for method := range map[string]bool{http.MethodGet: true, http.MethodPost: true, http.MethodPut: true, http.MethodPatch: true, http.MethodDelete: true} {
			rule, there := s.rules[method+" "+path]
			if !there {
				continue
			}
			id := s.operation(method, path).OperationID
			known[id] = true
			how, is := recorded[id]
			if method != http.MethodGet && !is && !slices.Contains(unrecorded, id) {
				t.Errorf("%s %s (%s) is not in the log", method, path, id)
			}
			if rule == operator && method != http.MethodGet && !how.durable {
				t.Errorf("%s %s (%s) is the operator's and not durable", method, path, id)
			}
		}
	}
	for id := range recorded {
		if !known[id] {
			t.Errorf("%s is no route", id)
		}
	}
}

// entries are what is in the log, oldest first, as the operator finds it.
func (b *bench) entries() []activity.Entry {
	b.t.Helper()
	w := b.asLocal("GET", "/v1/activity?order=oldest&limit=1000", "")
	var list []activity.Entry
	if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || w.Code != 200 {
		b.t.Fatalf("%d %s: %v", w.Code, w.Body, err)
	}
	kept := b.ledger.Entries()
	if len(kept) != len(list) {
		b.t.Fatalf("%d entries are found of %d", len(list), len(kept))
	}
	return kept
}

// What is done is told with who did it, to what, from where and with what outcome; a change of what
// there is before its answer comes.
func TestRecordedBeforeTheAnswer(t *testing.T) {
	b := newBench(t, nil)
	for _, test := range []struct {
		method, path, body string
		status             int
		action, details    string
	}{
		{"POST", "/v1/desktops", `{"name":"new"}`, 201, "desktop.create", "map[]"},
		{"PATCH", "/v1/desktops/dt-1", `{"name":"other","keepAlive":true}`, 200, "desktop.update", "map[keepAlive:1 name:1]"},
		{"POST", "/v1/desktops/dt-1/restart", "", 202, "desktop.restart", "map[]"},
		{"POST", "/v1/desktops/dt-1/lease", `{}`, 200, "lease.take", "map[]"},
		{"DELETE", "/v1/desktops/dt-1/lease", "", 204, "lease.end", "map[]"},
		{"POST", "/v1/providers", `{"provider":"anthropic","apiKey":"sk-ant-0123456789abcdef","name":"new"}`, 201, "provider.create", "map[]"},
		{"PUT", "/v1/desktops/dt-1/provider", `{"provider":"anthropic","apiKey":"sk-ant-0123456789abcdef"}`, 200, "provider.set", "map[]"},
		{"DELETE", "/v1/providers/prv-1", "", 204, "provider.delete", "map[]"},
		{"DELETE", "/v1/desktops/dt-1", "", 204, "desktop.destroy", "map[]"},
	} {
		r := b.do(test.method, test.path, test.body, "X-Request-Id: r-"+test.action)
		if r.StatusCode != test.status {
			t.Fatalf("%s %s: %s: %s", test.method, test.path, r.Status, r.body)
		}
		list := b.ledger.Entries()
		if test.action == "desktop.restart" { // the world does not say that anything changed
			list = b.entries()
		}
		if len(list) == 0 {
			t.Fatalf("%s is not in the log when it is answered", test.action)
		}
		e := list[len(list)-1]
		if e.Action != test.action || e.Status != test.status || e.Outcome != activity.Done || fmt.Sprint(e.Details) != test.details ||
			e.Actor != activity.ByKey || e.UserID != "usr-1" || e.UserEmail == "" || e.KeyID == "" || e.Via != "api" || e.Address != "127.0.0.1" ||
			e.RequestID != "r-"+test.action || e.Owner != "usr-1" || e.At.IsZero() {
			t.Errorf("%s: got %+v", test.action, e)
		}
		if strings.Contains(test.path, "dt-1") && (e.DesktopID != "dt-1" || e.DesktopName == "") || test.action == "desktop.create" && e.DesktopID == "" {
			t.Errorf("%s: of which desktop? %+v", test.action, e)
		}
		if strings.HasPrefix(test.action, "provider.") && e.Target == "" {
			t.Errorf("%s: which one? %+v", test.action, e)
		}
	}
	w := b.asLocal("POST", "/v1/admin/keys", `{"user":"usr-2","name":"ci"}`)
	var key NewKey
	if err := json.Unmarshal(w.Body.Bytes(), &key); err != nil || w.Code != 201 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	list := b.ledger.Entries()
	if e := list[len(list)-1]; e.Action != "key.create" || e.Actor != activity.ByOperator || e.Via != "socket" || e.Target != key.ID || e.TargetName != "ci" || e.Owner != "usr-2" || e.UserID != "" {
		t.Errorf("got %+v", e)
	}
}

// Input and commands are counted; nothing of what was typed or run is told.
func TestInputIsCounted(t *testing.T) {
	b := newBench(t, nil)
	secret := "hunter2"
	for _, call := range [][2]string{
		{"click", `{"x":1,"y":2}`}, {"click", `{"x":1,"y":2}`}, {"type", `{"text":"` + secret + `","sensitive":true}`}, {"type", `{"text":"` + secret + `"}`},
		{"key", `{"key":"Return"}`}, {"actions", `[{"type":"click","x":1,"y":2},{"type":"type","text":"` + secret + `"}]`},
		{"exec", `{"command":"PASSWORD=` + secret + ` curl -u ` + secret + ` x","stdin":"` + secret + `"}`}, {"exec", `{"command":"ls"}`},
		{"bash", `{"script":"echo ` + secret + `"}`},
	} {
		if r := b.do("POST", "/v1/desktops/dt-1/"+call[0], call[1]); r.StatusCode != 200 {
			t.Fatalf("%s: %s", call[0], r.body)
		}
	}
	b.do("PUT", "/v1/desktops/dt-1/clipboard", `{"text":"`+secret+`"}`)
	b.do("GET", "/v1/desktops/dt-1/clipboard", "")
	b.do("GET", "/v1/desktops/dt-1/screenshot", "")
	b.server.activity.(*activity.Log).Close() // what is counted is written
	counted := map[string]map[string]int64{}
	times := map[string]int64{}
	for _, e := range b.ledger.Entries() {
		if counted[e.Action] == nil {
			counted[e.Action] = map[string]int64{}
		}
		for name, n := range e.Details {
			counted[e.Action][name] += n
		}
		times[e.Action] += e.Count
		if text := fmt.Sprintf("%+v", e); strings.Contains(text, secret) {
			t.Errorf("the log has a secret: %s", text)
		}
		if e.DesktopID != "dt-1" || e.Owner != "usr-1" {
			t.Errorf("got %+v", e)
		}
	}
	want := map[string]map[string]int64{
		"input": {"click": 3, "type": 3, "key": 1}, "exec": {"curl": 1, "ls": 1, "bash": 1},
		"clipboard.write": {}, "clipboard.read": {}, "screenshot": {},
	}
	if fmt.Sprint(counted) != fmt.Sprint(want) || times["input"] != 6 || times["exec"] != 3 {
		t.Errorf("got %v %v\nwant %v", counted, times, want)
	}
}

// What is refused is told: bad keys with their address, missing capabilities, others' desktops, too
// many requests. The owner of a desktop that somebody else asks for does not learn of it.
func TestRefusalsAreRecorded(t *testing.T) {
	b := newBench(t, func(o *Options) { o.RatePerMinute, o.Burst = 60, 4 })
	limited := b.AddKey("usr-1", nil, desktop.CanRead)
	b.do("GET", "/v1/desktops", "", "Authorization: Bearer sk_live_wrong")
	b.do("GET", "/v1/desktops", "", "Authorization: ")
	b.do("POST", "/v1/desktops/dt-1/stop", "", "Authorization: Bearer "+limited)
	b.do("GET", "/v1/desktops/dt-1/windows", "", "Authorization: Bearer "+limited)
	b.do("POST", "/v1/desktops/dt-2/stop", "")
	b.do("POST", "/v1/desktops/dt-1/click", `{"x":1}`)
	for range 5 {
		b.do("GET", "/v1/me", "")
	}
	var told []string
	for _, e := range b.entries() {
		told = append(told, fmt.Sprintf("%s %d %s %s %s", e.Action, e.Status, e.Actor, e.Outcome, fmt.Sprint(e.Details)))
		if e.Address != "127.0.0.1" {
			t.Errorf("from where? %+v", e)
		}
		if e.DesktopID == "dt-2" && e.Owner != "usr-1" {
			t.Errorf("usr-2 learns who looked for its desktop: %+v", e)
		}
	}
	slices.Sort(told)
	want := []string{
		"authenticate 401 nobody refused map[listDesktops:1]",
		"desktop.stop 403 key refused map[]",
		"desktop.stop 404 key refused map[]",
		"input 400 key refused map[]",
		"rate-limited 429 key refused map[getMe:1]",
		"refused 403 key refused map[listWindows:1]",
	}
	if !slices.Equal(told, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(want, "\n"))
	}
}

// Each user finds the own log and that of the own desktops, whoever acted; an administrator everything.
func TestWhoReadsTheLog(t *testing.T) {
	b := newBench(t, nil)
	b.do("POST", "/v1/desktops/dt-1/click", `{}`)
	b.do("POST", "/v1/desktops/dt-2/click", `{}`, "Authorization: Bearer "+b.other)
	b.asLocal("POST", "/v1/desktops/dt-2/restart", "")
	read := func(path, key string) string {
		t.Helper()
		var list []activity.Entry
		b.into(b.do("GET", path, "", "Authorization: Bearer "+key), 200, &list)
		var told []string
		for _, e := range list {
			told = append(told, e.DesktopID+" "+e.Action+" "+string(e.Actor))
		}
		slices.Sort(told)
		return strings.Join(told, ", ")
	}
	for _, test := range []struct{ path, key, want string }{
		{"/v1/activity", b.key, "dt-1 input key"},
		{"/v1/activity", b.other, "dt-2 desktop.restart operator, dt-2 input key"},
		{"/v1/activity?desktop=dt-2", b.key, ""},
		{"/v1/activity?user=usr-2", b.key, ""},
		{"/v1/desktops/dt-1/activity", b.key, "dt-1 input key"},
		{"/v1/desktops/dt-2/activity", b.other, "dt-2 desktop.restart operator, dt-2 input key"},
	} {
		if got := read(test.path, test.key); got != test.want {
			t.Errorf("%s: got %q, want %q", test.path, got, test.want)
		}
	}
	b.problem(b.do("GET", "/v1/desktops/dt-2/activity", ""), 404)
	if got := b.entries(); len(got) != 3 {
		t.Errorf("the operator finds %+v", got)
	}
	// Page by page it is the same.
	for _, order := range []string{"newest", "oldest"} {
		var ids []int64
		path := "/v1/activity?limit=1&order=" + order
		for path != "" {
			w := b.asLocal("GET", path, "")
			var page []activity.Entry
			if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || len(page) != 1 {
				t.Fatalf("%s: %s", path, w.Body)
			}
			ids = append(ids, page[0].ID)
			path, _, _ = strings.Cut(strings.TrimPrefix(w.Header().Get("Link"), "<"), ">")
		}
		if len(ids) != 3 || slices.IsSorted(ids) != (order == "oldest") {
			t.Errorf("%s: got %v", order, ids)
		}
	}
}

// What is done for MCP says so, and from where the one who asked for it comes.
func TestWithinIsRecorded(t *testing.T) {
	b := newBench(t, nil)
	b.server.Mount("/probe", "probe", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mounted, _ := ContextMounted(r.Context())
		request, _ := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://bureau/v1/desktops/dt-1/click", nil)
		answer, err := mounted.Transport.RoundTrip(request)
		if err != nil {
			t.Error(err)
			return
		}
		answer.Body.Close()
	}))
	request, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, b.url+"/probe", nil)
	request.Header.Set("Authorization", "Bearer "+b.key)
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	list := b.entries()
	if len(list) != 1 || list[0].Via != "mcp" || list[0].Address != "127.0.0.1" || list[0].KeyID == "" || list[0].Action != "input" {
		t.Errorf("got %+v", list)
	}
}

// A log that cannot be written does not undo what was done; the operator's log has it instead.
func TestLogThatFails(t *testing.T) {
	b := newBench(t, nil)
	b.ledger.Fail = errors.New("disk full")
	if r := b.do("DELETE", "/v1/desktops/dt-1", ""); r.StatusCode != 204 {
		t.Errorf("%s: %s", r.Status, r.body)
	}
	if text := b.log.String(); !strings.Contains(text, "an entry is missing from the activity log") || !strings.Contains(text, "action=desktop.destroy") || !strings.Contains(text, "desktop=dt-1") {
		t.Errorf("nothing of it in\n%s", text)
	}
}
