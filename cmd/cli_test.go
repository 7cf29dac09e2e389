package cmd

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"bureau/api/certificate"
	"bureau/cmd/config"
	"bureau/desktop"
	"bureau/packaging/image"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"bureau": func() { os.Exit(Main(os.Args[1:])) }})
}

// TestScripts runs the command line against an appliance that answers what the contract says, at
// the level of HTTP. What it was asked is in the file requests. (The end-to-end tests run the same
// commands against the real thing.)
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			fake := &fakeAppliance{log: filepath.Join(env.WorkDir, "requests")}
			server := httptest.NewServer(fake)
			env.Defer(server.Close)
			// A script's own folder is too deep for the path of a socket.
			dir, err := os.MkdirTemp("", "bureau")
			if err != nil {
				return err
			}
			env.Defer(func() { os.RemoveAll(dir) })
			socket := filepath.Join(dir, "admin.sock")
			listener, err := net.Listen("unix", socket)
			if err != nil {
				return err
			}
			local := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				fake.serve(w, r, true)
			}))
			local.Listener.Close()
			local.Listener = listener
			local.Start()
			env.Defer(local.Close)
			secure := httptest.NewTLSServer(fake)
			env.Defer(secure.Close)
			env.Setenv("TLSURL", secure.URL)
			env.Setenv("FINGERPRINT", certificate.Fingerprint(secure.Certificate()))
			env.Setenv("CAFILE", filepath.Join(dir, "ca.pem"))
			if err := os.WriteFile(filepath.Join(dir, "ca.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
				return err
			}
			env.Setenv("URL", server.URL)
			env.Setenv("SOCKET", socket)
			env.Setenv("NOSOCKET", filepath.Join(dir, "none.sock"))
			env.Setenv("BUREAU_CONFIG_NONE", filepath.Join(dir, "none"))
			// What a script's own files cannot hold.
			for name, content := range map[string]string{"bytes": "\xff\x00\n\xc3", "bytes-after-out": "out\n\xff\x00\n\xc3"} {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(content), 0o600); err != nil {
					return err
				}
			}
			return os.WriteFile(fake.log, nil, 0o600)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"exits": exits, "database": makeDatabase, "recorded": recorded, "held": held},
	})
}

// exits CODE COMMAND… checks an exit code exactly, which "! exec" does not.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND…")
	}
	err := ts.Exec(args[1], args[2:]...)
	code := "0"
	if err != nil {
		var exit interface{ ExitCode() int }
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = fmt.Sprint(exit.ExitCode())
	}
	if code != args[0] {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

const goodKey = "sk_live_good"

// fakeAppliance has the desktops demo, which runs, two called twin, and the states that creating
// and starting lead through.
type fakeAppliance struct {
	log string

	mu      sync.Mutex
	polls   map[string]int
	removed bool // the volume without an owner
}

func (f *fakeAppliance) ServeHTTP(w http.ResponseWriter, r *http.Request) { f.serve(w, r, false) }

func desktopJSON(id, name, status string, ready bool, more string) string {
	return fmt.Sprintf(`{"id":%q,"name":"%s","owner":"usr-1","status":%q,"tier":"free","image":"desktop","ipAddress":null,"agentReady":%v,"keepAlive":false,"network":"nat","vcpus":2,"memoryBytes":4294967296,"diskBytes":21474836480,"createdAt":"2026-01-02T03:04:05Z","updatedAt":"2026-01-02T03:04:05Z","future":"field"%s}`,
		id, name, status, ready, more)
}

const (
	demoID   = "dt-aaaaaaaaaaaaaaaa"
	twin1ID  = "dt-bbbbbbbbbbbbbbbb"
	twin2ID  = "dt-cccccccccccccccc"
	bootID   = "dt-dddddddddddddddd"
	brokenID = "dt-eeeeeeeeeeeeeeee"
	stuckID  = "dt-ffffffffffffffff"
)

func problemJSON(w http.ResponseWriter, status int, message, more string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"type":"about:blank","title":%q,"status":%d,"detail":"longer","error":%q%s}`, http.StatusText(status), status, message, more)
}

func (f *fakeAppliance) serve(w http.ResponseWriter, r *http.Request, local bool) {
	body, _ := io.ReadAll(r.Body)
	f.mu.Lock()
	defer f.mu.Unlock()
	file, err := os.OpenFile(f.log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(file, "%s %s %s", r.Method, r.URL.RequestURI(), body)
	if token := r.Header.Get("Bureau-Lease"); token != "" {
		fmt.Fprintf(file, " as holder of %s", token)
	}
	fmt.Fprintln(file)
	file.Close()

	if !local {
		switch r.Header.Get("Authorization") {
		case "Bearer " + goodKey:
		case "Bearer sk_live_poor":
			problemJSON(w, 403, "this key lacks desktop:read", `,"required":"desktop:read","held":[]`)
			return
		default:
			problemJSON(w, 401, "this key is not known", "")
			return
		}
	}
	answer := func(text string) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, text)
	}
	path := r.Method + " " + r.URL.Path
	switch path {
	case "GET /v1/desktops":
		if r.URL.Query().Get("after") == "" {
			// A next page on another host must not be given the key.
			w.Header().Set("Link", `<https://elsewhere.example/v1/desktops?after=x>; rel="next"`)
			answer("[" + desktopJSON(demoID, "demo", "running", true, "") + "," + desktopJSON(twin1ID, "twin", "stopped", false, "") + "]")
			return
		}
		answer("[" + desktopJSON(twin2ID, "twin", "stopped", false, "") + "," + desktopJSON(brokenID, "esc\\u001b[2J", "error", false, `,"reason":"out of luck"`) + "]")
	case "POST /v1/desktops":
		var draft desktop.Draft
		if err := json.Unmarshal(body, &draft); err != nil {
			problemJSON(w, 400, err.Error(), "")
			return
		}
		switch draft.Name {
		case "taken":
			problemJSON(w, 409, "you have a desktop of that name", "")
		case "broken":
			answer(desktopJSON(brokenID, "broken", "pending", false, ""))
		case "stuck":
			answer(desktopJSON(stuckID, "stuck", "pending", false, ""))
		case "full":
			problemJSON(w, 507, "the host has not enough memory", `,"resource":"memory","needed":4294967296,"free":1073741824`)
		default:
			answer(desktopJSON(bootID, draft.Name, "pending", false, ""))
		}
	case "GET /v1/desktops/" + bootID:
		steps := []string{
			desktopJSON(bootID, "new", "booting", false, `,"bootStage":"disk"`),
			desktopJSON(bootID, "new", "booting", false, `,"bootStage":"machine"`),
			desktopJSON(bootID, "new", "running", false, `,"bootStage":"agent"`),
			desktopJSON(bootID, "new", "running", true, `,"bootStage":"ready"`),
		}
		if f.polls == nil {
			f.polls = map[string]int{}
		}
		answer(steps[min(f.polls[path], len(steps)-1)])
		f.polls[path]++
	case "GET /v1/desktops/" + brokenID:
		answer(desktopJSON(brokenID, "broken", "error", false, `,"reason":"the image has no kernel"`))
	case "GET /v1/desktops/" + stuckID:
		answer(desktopJSON(stuckID, "stuck", "booting", false, `,"bootStage":"agent","reason":"the display does not answer"`))
	case "GET /v1/desktops/" + demoID, "POST /v1/desktops/" + demoID + "/start", "PATCH /v1/desktops/" + demoID:
		answer(desktopJSON(demoID, "demo", "running", true, `,"acceleration":"tcg"`))
	case "POST /v1/desktops/" + demoID + "/stop":
		answer(desktopJSON(demoID, "demo", "stopped", false, ""))
	case "POST /v1/desktops/" + brokenID + "/stop":
		answer(desktopJSON(brokenID, "broken", "stopped", false, ""))
	case "DELETE /v1/desktops/" + demoID:
		w.WriteHeader(204)
	case "POST /v1/desktops/" + demoID + "/click", "POST /v1/desktops/" + demoID + "/move", "POST /v1/desktops/" + demoID + "/drag",
		"POST /v1/desktops/" + demoID + "/scroll", "POST /v1/desktops/" + demoID + "/type", "POST /v1/desktops/" + demoID + "/key":
		if bytes.Contains(body, []byte("settleMs")) {
			answer(`{"cursor":{"x":10,"y":20},"display":{"width":1280,"height":800},"tookMs":1.5,"settled":true,"waitedMs":130.2}`)
			return
		}
		answer(`{"cursor":{"x":10,"y":20},"display":{"width":1280,"height":800},"tookMs":1.5}`)
	case "POST /v1/desktops/" + demoID + "/actions":
		answer(`{"dialect":"bureau","results":[{}],"completed":1,"cursor":{"x":10,"y":20},"display":{"width":1280,"height":800},"tookMs":1.5}`)
	case "POST /v1/desktops/" + demoID + "/lease":
		if r.Header.Get("Bureau-Lease") == "lease_old" {
			problemJSON(w, 423, "Ada holds the desktop's input until 2026-01-02T03:09:05Z", `,"holder":"Ada"`)
			return
		}
		answer(`{"holder":"Ada","userId":"usr-1","keyId":"key-1","takenAt":"2026-01-02T03:04:05Z","expiresAt":"2026-01-02T03:09:05Z","token":"lease_new"}`)
	case "GET /v1/desktops/" + demoID + "/lease":
		answer(`{"lease":{"holder":"Ada","userId":"usr-1","keyId":"key-1","takenAt":"2026-01-02T03:04:05Z","expiresAt":"2026-01-02T03:09:05Z"}}`)
	case "GET /v1/desktops/" + brokenID + "/lease":
		answer(`{}`)
	case "DELETE /v1/desktops/" + demoID + "/lease":
		w.WriteHeader(204)
	case "GET /v1/desktops/" + demoID + "/windows":
		answer(`[{"id":7,"title":"Töpfe","class":"Thunar","kind":"normal","x":10,"y":20,"width":100,"height":80,"focused":true,"minimized":false,"workspace":0}]`)
	case "POST /v1/desktops/" + demoID + "/windows/7/activate", "DELETE /v1/desktops/" + demoID + "/windows/7", "PUT /v1/desktops/" + demoID + "/clipboard":
		w.WriteHeader(204)
	case "GET /v1/desktops/" + demoID + "/clipboard":
		answer(`{"text":"Grüße\n"}`)
	case "PATCH /v1/desktops/" + demoID + "/display":
		answer(`{"width":1920,"height":1080}`)
	case "GET /v1/desktops/" + demoID + "/screenshot":
		w.Header().Set("Content-Type", "image/png")
		io.WriteString(w, "picture of "+r.URL.Query().Encode())
	case "POST /v1/desktops/" + demoID + "/exec", "POST /v1/desktops/" + demoID + "/bash":
		f.exec(w, r, body, answer)
	case "POST /v1/desktops/" + demoID + "/chat":
		f.chat(w, r, body, answer)
	case "GET /v1/desktops/" + demoID + "/chat/turns/turn-1/events":
		w.Header().Set("Content-Type", "text/event-stream")
		fmt.Fprintf(w, "id: 3\nevent: text\ndata: {\"text\":\"of it after %s\"}\n\nid: 4\nevent: done\ndata: %s\n\n", r.Header.Get("Last-Event-ID"), turnJSON("end_turn", ""))
	case "POST /v1/desktops/" + demoID + "/chat/cancel":
		answer(turnJSON("cancelled", "the turn was cancelled"))
	case "GET /v1/desktops/" + demoID + "/chat/sessions":
		answer(`[{"sessionId":"ses-1","desktopId":"x","title":"a\u001b[2Jpoem","turns":2,"createdAt":"2026-01-02T03:04:05Z","updatedAt":"2026-01-02T03:04:05Z"}]`)
	case "GET /v1/desktops/" + demoID + "/chat/sessions/ses-1":
		answer(`{"sessionId":"ses-1","history":[` + turnJSON("end_turn", "") + `,` + turnJSON("timeout", "its time was up") + `]}`)
	case "DELETE /v1/desktops/" + demoID + "/chat/sessions/ses-1":
		w.WriteHeader(204)
	case "GET /v1/desktops/" + demoID + "/approvals":
		answer(`[{"approvalId":"apr-1","tool":"bash","arguments":{"command":"rm x"},"reason":"it is a shell command","status":"pending","createdAt":"2026-01-02T03:04:05Z","expiresAt":"2026-01-02T03:14:05Z","decidedAt":null}]`)
	case "POST /v1/desktops/" + demoID + "/approvals/apr-1":
		answer(`{"approvalId":"apr-1","status":"approved"}`)
	case "POST /v1/desktops/" + demoID + "/approvals/apr-old":
		problemJSON(w, 409, "the approval is expired already", "")
	case "GET /v1/me":
		answer(`{"id":"usr-1","userId":"usr-1","email":"root@localhost","role":"admin","tier":"max","capabilities":["desktop:read","desktop:chat"]}`)
	case "GET /v1/admin/host":
		answer(`{"memory":{"total":17179869184,"available":9663676416,"limit":24696061952,"reserved":4294967296,"free":20401094656},` +
			`"vcpus":{"total":4,"limit":32,"reserved":32,"free":0},"disk":{"total":1099511627776,"available":549755813888,"limit":null,"reserved":21474836480,"free":null},"desktops":3,"running":1}`)
	case "GET /v1/admin/users":
		answer(`[{"id":"usr-0","email":"anna@example.org","role":"user","tier":"free","createdAt":"2026-01-02T03:04:05Z"},{"id":"usr-1","email":"root@localhost","role":"admin","tier":"max","createdAt":"2026-01-02T03:04:05Z"}]`)
	case "POST /v1/admin/users":
		answer(`{"id":"usr-2","email":"new@example.org","role":"user","tier":"pro","createdAt":"2026-01-02T03:04:05Z"}`)
	case "PATCH /v1/admin/users/anna@example.org":
		answer(`{"id":"usr-0","email":"anna@example.org","role":"user","tier":"max","createdAt":"2026-01-02T03:04:05Z"}`)
	case "DELETE /v1/admin/keys/key-2":
		answer(`{"id":"key-2","userId":"usr-1","name":"ci","prefix":"sk_live_cd","capabilities":[],"createdAt":"2026-01-02T03:04:05Z","expiresAt":null,"lastUsedAt":null,"revokedAt":"2026-01-03T00:00:00Z"}`)
	case "GET /v1/admin/keys":
		answer(`[{"id":"key-1","userId":"usr-1","name":"ci","prefix":"sk_live_ab","capabilities":["desktop:read"],"createdAt":"2026-01-02T03:04:05Z","expiresAt":null,"lastUsedAt":null,"revokedAt":null},
			{"id":"key-2","userId":"usr-1","name":"ci","prefix":"sk_live_cd","capabilities":["desktop:read"],"createdAt":"2026-01-02T03:04:05Z","expiresAt":"2026-01-03T00:00:00Z","lastUsedAt":null,"revokedAt":null},
			{"id":"key-3","userId":"usr-1","name":"other","prefix":"sk_live_ef","capabilities":[],"createdAt":"2026-01-02T03:04:05Z","expiresAt":null,"lastUsedAt":null,"revokedAt":"2026-01-03T00:00:00Z"}]`)
	case "POST /v1/admin/keys":
		answer(`{"id":"key-2","userId":"usr-1","name":"ci","prefix":"sk_live_cd","capabilities":["desktop:read"],"createdAt":"2026-01-02T03:04:05Z","expiresAt":null,"lastUsedAt":null,"revokedAt":null,"secret":"sk_live_secret"}`)
	case "DELETE /v1/admin/keys/key-1":
		answer(`{"id":"key-1","userId":"usr-1","name":"ci","prefix":"sk_live_ab","capabilities":[],"createdAt":"2026-01-02T03:04:05Z","expiresAt":null,"lastUsedAt":null,"revokedAt":"2026-01-03T00:00:00Z"}`)
	case "GET /v1/admin/orphans":
		if f.removed {
			answer(`{"machines":[],"volumes":[]}`)
			return
		}
		answer(`{"machines":[{"desktopId":"dt-stranger","domain":"bureau-dt-stranger","owner":"usr-9","name":"left","state":"running"}],"volumes":[{"name":"desktop-dt-lost.qcow2","sizeBytes":1048576,"why":"nobody has it"}]}`)
	case "DELETE /v1/admin/orphans/volumes/desktop-dt-lost.qcow2":
		f.removed = true
		w.WriteHeader(204)
	case "POST /v1/admin/orphans/adopt":
		answer(desktopJSON(demoID, "left", "running", true, ""))
	case "GET /v1/providers":
		answer(`[` + providerJSON("prv-1", "main", `,"fallbackProvider":"prv-2","fallbackModel":"small"`) + `,` + providerJSON("prv-2", "other", "") + `]`)
	case "POST /v1/providers", "PATCH /v1/providers/prv-1", "PUT /v1/desktops/" + demoID + "/provider", "GET /v1/desktops/" + demoID + "/provider":
		answer(providerJSON("prv-1", "main", ""))
	case "POST /v1/providers/prv-1/test", "POST /v1/desktops/" + demoID + "/provider/test":
		answer(`{"ok":true,"message":"The model m answers.","tookMs":1234}`)
	case "POST /v1/providers/prv-2/test":
		answer(`{"ok":false,"code":"unauthorized","message":"the model provider refuses the key","tookMs":12}`)
	case "DELETE /v1/providers/prv-1", "DELETE /v1/desktops/" + demoID + "/provider":
		w.WriteHeader(204)
	case "GET /v1/activity":
		f.activity(w, r, answer)
	case "GET /v1/usage":
		answer(`[{"owner":"usr-1","desktopId":"` + demoID + `","provider":"prv-1","format":"anthropic","model":"m","requests":3,"inputTokens":100,"cacheReadTokens":20,"cacheWriteTokens":5,"outputTokens":70}]`)
	default:
		if strings.HasPrefix(r.URL.Path, "/v1/desktops/"+bootID) || strings.HasPrefix(r.URL.Path, "/v1/desktops/"+twin1ID) {
			w.Header().Set("Retry-After", "3")
			problemJSON(w, 503, "the desktop is not running", "")
			return
		}
		problemJSON(w, 404, "there is no such thing", "")
	}
}

func providerJSON(id, name, more string) string {
	return fmt.Sprintf(`{"id":%q,"name":%q,"owner":"","provider":"anthropic","baseUrl":"https://api.anthropic.com","model":"m","keyEnd":"cdef","default":true,"createdAt":"2026-01-02T03:04:05Z","updatedAt":"2026-01-02T03:04:05Z"%s}`, id, name, more)
}

func turnJSON(reason, failure string) string {
	return fmt.Sprintf(`{"turnId":"turn-1","sessionId":"ses-1","desktopId":"x","prompt":"write","message":"It is done","stopReason":%q,"error":%q,`+
		`"steps":[{"number":1,"tool":"bash","arguments":{"command":"ls"},"result":"a","at":"2026-01-02T03:04:05Z","durationMs":1}],`+
		`"usage":{"inputTokens":1,"cacheReadTokens":0,"cacheWriteTokens":0,"outputTokens":1},"createdAt":"2026-01-02T03:04:05Z","endedAt":"2026-01-02T03:04:06Z"}`, reason, failure)
}

// chat answers as the message in the body asks for.
func (f *fakeAppliance) chat(w http.ResponseWriter, r *http.Request, body []byte, answer func(string)) {
	var in chatBody
	if err := json.Unmarshal(body, &in); err != nil {
		problemJSON(w, 400, err.Error(), "")
		return
	}
	reason, failure := "end_turn", ""
	switch in.Message {
	case "busy":
		problemJSON(w, 409, "the desktop's agent is busy with turn turn-0", `,"turnId":"turn-0"`)
		return
	case "too much":
		reason, failure = "max_steps", "the turn has done as many steps as it may"
	}
	if r.Header.Get("Accept") != "text/event-stream" {
		answer(turnJSON(reason, failure))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	io.WriteString(w, ": alive\n\nid: 1\nevent: turn\ndata: {\"turnId\":\"turn-1\"}\n\nid: 2\nevent: text\ndata: {\"text\":\"I \\u001b[2Jwrite \"}\n\n")
	approval := "apr-1"
	switch in.Message {
	case "cut":
		return
	case "late":
		approval = "apr-old"
		fallthrough
	case "danger":
		io.WriteString(w, "id: 3\nevent: approval\ndata: {\"approvalId\":\""+approval+"\",\"tool\":\"bash\",\"arguments\":{\"command\":\"rm x\"},\"reason\":\"it is a shell command\"}\n\n")
	}
	io.WriteString(w, "id: 5\nevent: message\ndata: {\"text\":\"I write\"}\n\nid: 6\nevent: tool.call\ndata: {\"number\":1,\"tool\":\"bash\",\"arguments\":{\"command\":\"ls\\nls\"}}\n\n"+
		"id: 7\nevent: tool.result\ndata: {\"number\":1,\"tool\":\"bash\",\"result\":\"no such\\nthing\",\"failed\":true}\n\n"+
		"id: 8\nevent: paused\ndata: {\"reason\":\"Ada holds the input\"}\n\nid: 9\nevent: resumed\ndata: {}\n\n"+
		"id: 10\nevent: text\ndata: {\"text\":\"It is done\"}\n\nid: 11\nevent: done\ndata: "+turnJSON(reason, failure)+"\n\n")
}

// exec answers as the command in the body asks for.
func (f *fakeAppliance) exec(w http.ResponseWriter, r *http.Request, body []byte, answer func(string)) {
	var in execBody
	if err := json.Unmarshal(body, &in); err != nil {
		problemJSON(w, 400, err.Error(), "")
		return
	}
	result := `{"stdout":%q,"stderr":%q,"exitCode":%d,"durationMs":1,"timedOut":%v,"truncated":` + fmt.Sprint(in.Command == "flood") + `}`
	code, timedOut := 0, false
	switch in.Command {
	case "fail":
		code = 7
	case "sleep":
		code, timedOut = 137, true
	}
	if r.Header.Get("Accept") != "text/event-stream" {
		answer(fmt.Sprintf(result, "out\n", "err\n", code, timedOut))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	if in.Encoding != "base64" {
		problemJSON(w, 400, "text that arrives in pieces is not what every byte needs", "")
		return
	}
	io.WriteString(w, ": alive\n\nevent: stdout\ndata: {\"data\":\"b3V0Cg==\"}\n\nevent: stderr\ndata: {\"data\":\"ZXJyCg==\"}\n\n")
	if in.Command == "cat" {
		fmt.Fprintf(w, "event: stdout\ndata: {\"data\":%q}\n\n", in.Stdin)
	}
	switch in.Command {
	case "cut":
	case "lost":
		io.WriteString(w, "event: error\ndata: {\"error\":\"the desktop went away\",\"status\":503}\n\n")
	default:
		io.WriteString(w, "event: result\ndata: "+fmt.Sprintf(result, "", "", code, timedOut)+"\n\n")
	}
}

// command runs one command line in this process.
func command(t *testing.T, parts Parts, args ...string) (code int, out, errOut string) {
	t.Helper()
	t.Setenv("BUREAU_URL", "")
	var stdout, stderr bytes.Buffer
	code = run(t.Context(), args, strings.NewReader(""), &stdout, &stderr, parts)
	return code, stdout.String(), stderr.String()
}

// emptyConfig keeps a configuration of this host's out of a test.
func emptyConfig(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDoctor(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	socket := filepath.Join(t.TempDir(), "s")
	file := emptyConfig(t, "adminSocket: "+socket+"\nlisten: "+listener.Addr().String()+"\n")
	checks := []Check{
		{Name: "KVM", Warning: true, Detail: "the processor shows none", Fix: "nothing"},
		{Name: "image", OK: true, Detail: "desktop is there", Fix: "not shown"},
	}
	parts := Parts{Checks: func(context.Context, config.Config) []Check { return checks }}
	code, out, _ := command(t, parts, "doctor", "--config", file)
	for _, want := range []string{"! KVM", "→ nothing", "✓ image", "✗ appliance", "another program listens on " + listener.Addr().String(), "One thing is wrong."} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	if strings.Contains(out, "not shown") || code != 1 {
		t.Errorf("exit code %d\n%s", code, out)
	}

	// A warning is not a failure, and --json has it all.
	listener.Close()
	code, out, _ = command(t, parts, "doctor", "--config", file, "--json")
	var got []Check
	if err := json.Unmarshal([]byte(out), &got); err != nil || code != 0 || got[0].Name != "configuration" || got[1] != checks[0] {
		t.Errorf("exit code %d, %v\n%s", code, err, out)
	}
	checks[1].OK = false
	if code, _, _ = command(t, parts, "doctor", "--config", file); code != 1 {
		t.Errorf("exit code %d for a missing image", code)
	}
	if code, out, _ = command(t, parts, "doctor", "--config", emptyConfig(t, "colour: red")); code != 1 || !strings.Contains(out, `no setting "colour"`) {
		t.Errorf("exit code %d for a bad configuration\n%s", code, out)
	}
}

// imageStore is a hypervisor's store in memory.
type imageStore struct {
	images map[string]desktop.Image
	closed int
}

func (s *imageStore) Import(_ context.Context, f image.Files, progress func(int64, int64)) (desktop.Image, error) {
	progress(f.SizeBytes, f.SizeBytes)
	i := desktop.Image{Name: f.Name, Digest: f.Digest, Boot: f.Boot, Description: f.Description, DiskBytes: f.DiskBytes, SizeBytes: f.SizeBytes}
	s.images[f.Name] = i
	return i, nil
}

func (s *imageStore) List(context.Context) ([]desktop.Image, error) {
	var list []desktop.Image
	for _, i := range s.images {
		list = append(list, i)
	}
	return list, nil
}

func (s *imageStore) Remove(_ context.Context, name string) error {
	if _, ok := s.images[name]; !ok {
		return desktop.Errorf(desktop.NotFound, "there is no image %q", name)
	}
	delete(s.images, name)
	return nil
}

func (s *imageStore) Purge(context.Context) error { clear(s.images); return nil }
func (s *imageStore) Close() error                { s.closed++; return nil }

func TestImages(t *testing.T) {
	store := &imageStore{images: map[string]desktop.Image{}}
	parts := Parts{Images: func(context.Context, config.Config, *slog.Logger) (Images, error) { return store, nil }}
	file := emptyConfig(t, "")

	// What was built before is found, and imported.
	cache := t.TempDir()
	recipe, err := image.Load("minimal")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, recipe.Digest())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "image.json"), []byte(`{"name":"minimal","digest":"0123456789abcdef","boot":"kernel","sizeBytes":1048576}`), 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, errOut := command(t, parts, "image", "build", "minimal", "--import", "--cache", cache, "--config", file)
	if code != 0 || !strings.Contains(out, "image minimal is unchanged: 0123456789ab, 1 MiB") || store.images["minimal"].Boot != "kernel" || store.closed != 1 {
		t.Errorf("exit code %d\n%s%s%+v", code, out, errOut, store)
	}
	code, out, _ = command(t, parts, "image", "build", "minimal", "--import", "--cache", cache, "--config", file, "--json")
	for line := range strings.Lines(out) {
		var event map[string]any
		if err := json.Unmarshal([]byte(line), &event); err != nil || event["event"] == nil {
			t.Errorf("%v in %q", err, line)
		}
	}
	if code != 0 || strings.Count(out, "\n") != 2 {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, out, _ = command(t, parts, "image", "list", "--config", file); code != 0 || !strings.Contains(out, "minimal  0123456789ab  1 MiB") {
		t.Errorf("exit code %d\n%s", code, out)
	}
	if code, _, errOut = command(t, parts, "image", "build", "nosuch", "--config", file); code != exitNotFound || !strings.Contains(errOut, "desktop and minimal") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	if code, _, _ = command(t, parts, "image", "remove", "minimal", "--config", file); code != 0 || len(store.images) != 0 {
		t.Errorf("exit code %d", code)
	}
	if code, _, errOut = command(t, parts, "image", "remove", "minimal", "--config", file); code != exitNotFound {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	if code, _, errOut = command(t, parts, "image", "purge", "--config", file); code != exitUsage || !strings.Contains(errOut, "--yes") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	if code, out, _ = command(t, parts, "image", "list", "--config", file, "--json"); code != 0 || strings.TrimSpace(out) != "[]" {
		t.Errorf("exit code %d\n%s", code, out)
	}
	// A build without libvirt says so, before it builds anything.
	if code, _, errOut = command(t, Parts{}, "image", "build", "minimal", "--import", "--cache", t.TempDir(), "--config", file); code != exitUnavailable || !strings.Contains(errOut, "without libvirt") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
}

func TestServeHandsItsSettingsOn(t *testing.T) {
	file := emptyConfig(t, "listen: 127.0.0.1:1\nlog: {format: json}\n")
	var got config.Config
	parts := Parts{Serve: func(_ context.Context, c config.Config, _ *slog.Logger, ready func(Served)) error {
		got = c
		ready(Served{URL: "http://127.0.0.1:1", Admin: desktop.User{Email: "root@localhost"}, FirstStart: true})
		return nil
	}}
	code, out, errOut := command(t, parts, "serve", "--config", file, "--rateLimit", "5")
	if code != 0 || got.Listen != "127.0.0.1:1" || got.RateLimit != 5 {
		t.Errorf("exit code %d %+v\n%s", code, got, errOut)
	}
	if !strings.Contains(out, "answers at http://127.0.0.1:1") || !strings.Contains(out, "root@localhost") || !strings.Contains(out, "key create") {
		t.Errorf("%s", out)
	}
	for line := range strings.Lines(errOut) {
		if !json.Valid([]byte(line)) {
			t.Errorf("not a JSON log line: %s", line)
		}
	}
	if code, _, errOut = command(t, Parts{}, "serve", "--config", file); code != exitUnavailable || !strings.Contains(errOut, "without libvirt") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
	if code, _, errOut = command(t, parts, "serve", "--config", file, "--acceleration", "hvf"); code != exitUsage || !strings.Contains(errOut, "acceleration") {
		t.Errorf("exit code %d\n%s", code, errOut)
	}
}

// One argument is a command line, several are words that a shell has to leave alone.
func TestShellWords(t *testing.T) {
	for _, test := range []struct {
		args []string
		want string
	}{
		{[]string{"ls | wc -l"}, "ls | wc -l"},
		{[]string{"ls", "-l", "/tmp"}, "ls -l /tmp"},
		{[]string{"echo", "a b", "", "it's", "$HOME"}, `echo 'a b' '' 'it'\''s' '$HOME'`},
	} {
		if got := shellWords(test.args); got != test.want {
			t.Errorf("%q is %s, want %s", test.args, got, test.want)
		}
	}
}

// Elsewhere than on a terminal, a report is one line for each stage, and one for its end.
func TestPlainStatus(t *testing.T) {
	var out bytes.Buffer
	s := newStatus(&out)
	for range 5 {
		s.show("one", "note", 0, 0)
	}
	s.show("two", "", 1, 2)
	s.end()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 4 || lines[0] != "one…  note" || !strings.HasPrefix(lines[1], "one: ") || lines[2] != "two…" || !strings.HasPrefix(lines[3], "two: ") {
		t.Errorf("%q", lines)
	}
	out.Reset()
	s = newStatus(&out)
	s.width = 40
	s.show("build", "", 50, 100)
	s.show("build", strings.Repeat("x", 100), 75, 100)
	for _, line := range strings.Split(out.String(), "\r\x1b[K") {
		if len([]rune(line)) >= 40 {
			t.Errorf("%q is too long for the terminal", line)
		}
	}
	if !strings.Contains(out.String(), "50%") || !strings.Contains(out.String(), "████") {
		t.Errorf("%q", out.String())
	}
}
