package e2e

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// invert is a secret as the probe's search takes it, so that the search does not bring it along.
func invert(secret string) string {
	inverted := []byte(secret)
	for i := range inverted {
		inverted[i] = ^inverted[i]
	}
	return hex.EncodeToString(inverted)
}

// searched is what a search has found.
type searched struct {
	Found map[string][]string // by the inverted secret
	Bytes int64
}

// places are where a secret was found.
func (s searched) places(secret string) []string { return s.Found[invert(secret)] }

// want checks that a search found something that lies in a place, and not the key.
func (s searched) want(t testing.TB, key, canary string, places ...string) {
	t.Helper()
	if found := s.places(key); len(found) > 0 {
		t.Errorf("the provider's key lies in %q", found)
	}
	for _, place := range places {
		if found := s.places(canary); !slices.ContainsFunc(found, func(f string) bool { return strings.Contains(f, place) }) {
			t.Errorf("the search does not see what lies in a %s: it has found it in %q", place, found)
		}
	}
}

// curl makes a request in the guest, as its user, and returns the status and what came. Addresses and
// placeholder keys are in the variables that every program there has.
func (g *guest) curl(t testing.TB, args string) (status int, body string) {
	t.Helper()
	r := g.exec(t, map[string]any{"command": "curl -sS -m 60 -w '\\n%{http_code}' -H 'Content-Type: application/json' " + args, "timeoutMs": 90_000})
	body, code, _ := cutLast(r.Stdout, "\n")
	status, err := strconv.Atoi(code)
	if err != nil {
		t.Fatalf("curl %s: %+v", args, r)
	}
	return status, body
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, false
	}
	return s[:i], s[i+len(sep):], true
}

// asks are proper requests of each format, as off-the-shelf programs make them, and a text that a
// proper answer has.
var asks = []struct {
	format      model.Format
	args, shape string
}{
	{model.Anthropic, `"$ANTHROPIC_BASE_URL/v1/messages" -H "x-api-key: $ANTHROPIC_API_KEY" -H 'anthropic-version: 2023-06-01' -d '{"model":"claude-opus-5","max_tokens":100,"messages":[{"role":"user","content":[{"type":"text","text":"Hello"}]}]}'`, `"type":"message"`},
	{model.OpenAI, `"$OPENAI_BASE_URL/responses" -H "Authorization: Bearer $OPENAI_API_KEY" -d '{"model":"gpt-6","input":"Hello"}'`, `"object":"response"`},
	{model.OpenAIChat, `"$OPENAI_BASE_URL/chat/completions" -H "Authorization: Bearer $OPENAI_API_KEY" -d '{"model":"gpt-6","messages":[{"role":"user","content":"Hello"}]}'`, `"object":"chat.completion"`},
	{model.Gemini, `"$GOOGLE_GEMINI_BASE_URL/v1beta/models/gemini-3.5-flash:generateContent" -H "x-goog-api-key: $GEMINI_API_KEY" -d '{"contents":[{"role":"user","parts":[{"text":"Hello"}]}]}'`, `"candidates":`},
}

// cableOut takes the guest's network away until the test ends: its cable is out.
func (g *guest) cableOut(t testing.TB) {
	t.Helper()
	var device string
	for line := range strings.Lines(virsh(t, "domiflist", g.domain())) {
		if fields := strings.Fields(line); len(fields) == 5 && strings.Contains(fields[4], ":") {
			device = fields[4]
		}
	}
	virsh(t, "domif-setlink", g.domain(), device, "down")
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := runVirsh(ctx, "domif-setlink", g.domain(), device, "up"); err != nil {
			t.Error(err)
		}
		// Until the guest has its address again, which later tests look at.
		if err := until(ctx, patience, func(ctx context.Context) error {
			_, err := g.trySh(ctx, "", "ip -4 -o addr show scope global | grep -q .")
			return err
		}); err != nil {
			t.Errorf("the guest's network does not come back: %v", err)
		}
	})
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "! cat /sys/class/net/e*/carrier | grep -q 1")
		return err
	})
}

// The guest has no network at all, and yet its agent answers and its programs have models, through the
// gateway; both without the provider's key, which is searched for while they work: in the guest, as
// root, and from outside in all that its machine has in memory and on its disk.
func TestProviderKeyIsNotInTheGuest(t *testing.T) {
	g := shared(t)
	g.cableOut(t)
	const name = "/tmp/gateway"
	g.sh(t, "rm -f "+name+".*")
	key := newKey()
	long := strings.Repeat("a long answer in many pieces ", 40)
	server := modeltest.New(key, modeltest.Script{Steps: []modeltest.Step{
		{Text: "I wait.", Calls: bash(waiting(name)).Calls},
		{Text: long, PaceMs: 200}, // of a stream that is under way while the key is searched for
		{Text: "The chat's answer"},
		{Text: "The gateway's answer"}, {Text: "The gateway's answer"}, {Text: "The gateway's answer"}, {Text: "The gateway's answer"},
	}})
	server.Lax = true // what programs in guests ask for is not bureau's
	server.Failf = t.Errorf
	host := httptest.NewServer(server)
	t.Cleanup(host.Close)
	g.provide(t, model.Anthropic, host.URL, key, "--desktop", g.id)

	c := g.begin(t, "Wait")
	g.exists(t, name+".begun")
	stream := strings.Replace(asks[0].args, `"max_tokens"`, `"stream":true,"max_tokens"`, 1)
	g.background(t, "bash -lc 'curl -sSN -o "+name+".stream "+strings.ReplaceAll(stream, "'", `'\''`)+"; touch "+name+".streamed'")
	// Pieces of the stream arrive as they are told, long before its end.
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "grep -q content_block_delta "+name+".stream && ! [ -e "+name+".streamed ]")
		return err
	})

	// Another secret shows that the search sees what there is to see.
	canary := newKey()
	g.sh(t, "echo "+canary+" >~/canary; sync")
	g.background(t, "env CANARY="+canary+" sleep 7301")
	secrets := " -inverted " + invert(key) + "," + invert(canary)
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "pgrep -fx 'sleep 7301'")
		return err
	})
	began := time.Now()
	within := decode[searched](t, []byte(g.exec(t, map[string]any{"user": "root", "timeoutMs": (5 * time.Minute).Milliseconds(),
		"command": probePath + " search" + secrets + " -processes all -files /etc,/run,/home,/root,/var,/tmp,/dev/shm,/opt"}).Stdout))
	t.Logf("searched %d MB in the guest in %s", within.Bytes>>20, time.Since(began).Round(time.Second/10))
	within.want(t, key, canary, "file /home/agent/canary", "environ of sleep", "memory of sleep")

	began = time.Now()
	outside := g.searchMachine(t, secrets)
	t.Logf("searched %d MB of its machine in %s", outside.Bytes>>20, time.Since(began).Round(time.Second/10))
	outside.want(t, key, canary, "file /var/lib/libvirt", "memory of qemu")
	if len(server.Requests()) != 2 { // both are still under way
		t.Errorf("the model was asked %d times, not twice", len(server.Requests()))
	}
	g.sh(t, "touch "+name+".go-on")
	c.end(t).wantAnswer(t, "The chat's answer")
	g.exists(t, name+".streamed")
	if text := g.sh(t, "cat "+name+".stream"); !strings.HasPrefix(text, "event: message_start") || !strings.Contains(text, "message_stop") {
		t.Errorf("the stream is %.500s", text)
	}

	// A format that nobody is configured for.
	asked := len(server.Requests())
	for _, ask := range asks[1:] {
		if status, body := g.curl(t, ask.args); status != http.StatusForbidden {
			t.Errorf("%s, for which there is no provider: %d %s", ask.format, status, body)
		}
	}
	for _, c := range []struct {
		name, args string
		status     int
	}{
		{"nothing", `http://127.0.0.1:7879/`, 404},
		{"the appliance's API", `http://127.0.0.1:7879/v1/desktops`, 404},
		{"a file", `$ANTHROPIC_BASE_URL/v1/files`, 404},
		{"embeddings", `$OPENAI_BASE_URL/embeddings -d '{"model":"m","input":"x"}'`, 404},
		{"keys", `$ANTHROPIC_BASE_URL/v1/organizations/api_keys`, 404},
		{"another version", `$ANTHROPIC_BASE_URL/v2/messages -d '{}'`, 404},
		{"a provider that is none", `http://127.0.0.1:7879/mistral/v1/chat/completions -d '{}'`, 404},
		{"out of a folder", `--path-as-is $ANTHROPIC_BASE_URL/../v1/messages -d '{}'`, 404},
		{"out of a folder, encoded", `--path-as-is $ANTHROPIC_BASE_URL/v1/%2e%2e/v1/messages -d '{}'`, 404},
		{"a whole address as the path", `--path-as-is $ANTHROPIC_BASE_URL/http://169.254.169.254/ -d '{}'`, 404},
		{"another host", `-H 'Host: api.anthropic.com' $ANTHROPIC_BASE_URL/v1/models`, 421},
		{"a web page", `-H 'Origin: http://example.org' $ANTHROPIC_BASE_URL/v1/models`, 403},
		{"another method", `-X DELETE $ANTHROPIC_BASE_URL/v1/messages`, 405},
		{"not JSON", `$ANTHROPIC_BASE_URL/v1/messages -d 'model=m'`, 400},
	} {
		if status, body := g.curl(t, c.args); status != c.status {
			t.Errorf("%s: %d, not %d: %s", c.name, status, c.status, body)
		}
	}
	// It is no proxy.
	if status, body := g.curl(t, "-x http://127.0.0.1:7879 "+host.URL+"/v1/models"); status/100 != 4 {
		t.Errorf("as a proxy: %d %s", status, body)
	}
	if r := g.exec(t, map[string]any{"command": "curl -sS -m 20 -p -x http://127.0.0.1:7879 " + host.URL + "/v1/models"}); r.ExitCode == 0 {
		t.Errorf("through a tunnel: %+v", r)
	}
	if now := len(server.Requests()); now != asked {
		t.Errorf("of what is refused the provider was asked %d times", now-asked)
	}

	// With a provider for each of the formats all are answered. One that names a key of its own gets no
	// further by it: the provider accepts but the one.
	for _, format := range model.Formats()[1:] {
		g.provide(t, format, host.URL, key)
	}
	for _, ask := range asks {
		status, body := g.curl(t, ask.args)
		if status != http.StatusOK || !strings.Contains(strings.ReplaceAll(body, " ", ""), ask.shape) || !strings.Contains(body, "The gateway's answer") {
			t.Errorf("%s: %d %s", ask.format, status, body)
		}
	}
	if server.Left() != 0 {
		t.Errorf("%d steps of the script are left", server.Left())
	}
	if text := lab.logTail(1 << 20); strings.Contains(text, key) || !strings.Contains(text, "a guest's request to a model") {
		t.Error("the key is in serve's log, or nothing is")
	}
}

// searchMachine looks through the memory of the guest's machine, which is all of the guest's own and
// what lies in its devices, and through what its disk has beyond the image.
func (g *guest) searchMachine(t testing.TB, secrets string) searched {
	t.Helper()
	var disk string
	for line := range strings.Lines(virsh(t, "domblklist", g.domain())) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "vda" {
			disk = strings.TrimSpace(virsh(t, "vol-path", "--pool", prefix, fields[1]))
		}
	}
	pid, err := asRoot(t.Context(), "pgrep", "-f", "^[^ ]*qemu.*guest="+g.domain()+",").Output()
	if err != nil || disk == "" {
		t.Fatalf("the guest's machine or its disk %q is not found: %v", disk, err)
	}
	args := append([]string{filepath.Join(lab.dir, "probe"), "search", "-files", disk, "-processes", strings.TrimSpace(string(pid))}, strings.Fields(secrets)...)
	out, err := asRoot(t.Context(), args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", fmt.Sprint(args[:2]), err)
	}
	return decode[searched](t, out)
}

// A session finds the models in its environment from a desktop's first boot on, before which the agent has
// never run there.
func TestSessionKnowsTheModels(t *testing.T) {
	g := shared(t)
	environ := g.root(t, "pid=$(pgrep -o -x xfce4-session) && tr '\\0' '\\n' </proc/$pid/environ")
	for _, want := range []string{
		"ANTHROPIC_BASE_URL=http://127.0.0.1:7879/anthropic", "OPENAI_BASE_URL=http://127.0.0.1:7879/openai/v1",
		"GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:7879/gemini", "ANTHROPIC_AUTH_TOKEN=lent-by-bureau",
	} {
		if !slices.Contains(strings.Split(environ, "\n"), want) {
			t.Errorf("the session lacks %s; it has\n%s", want, environ)
		}
	}
	t.Logf("the agent's memory: %s", g.root(t, fmt.Sprintf("grep -E 'VmRSS|RssAnon|RssFile' /proc/%d/status; readlink /proc/%[1]d/exe", g.agentPID(t))))
	t.Logf("the agent began, its files were written, the session began:\n%s", g.root(t,
		"systemctl show -p ExecMainStartTimestampMonotonic bureau-agent.service; stat -c '%n %y' /etc/profile.d/bureau-models.sh; "+
			"ps -o lstart= -p $(pgrep -o -x xfce4-session); ls -la --time-style=full-iso /etc/X11/Xsession.d/61bureau-models; journalctl -b -o short-precise | grep -E 'Bureau agent|Light Display|session opened for user agent' | head"))
}

// When another program has taken the gateway's port a desktop says so, and what helps, until it is free.
func TestGatewayPortIsTaken(t *testing.T) {
	g := shared(t)
	warning := func(want string) {
		t.Helper()
		eventually(t, patience, func() error {
			r, err := g.send(t.Context(), http.MethodGet, "/v1/desktops/"+g.id, nil)
			if err != nil {
				return err
			}
			var s struct {
				AgentReady bool   `json:"agentReady"`
				Warning    string `json:"warning"`
			}
			if err := json.Unmarshal(r.body, &s); err != nil {
				return err
			}
			if !s.AgentReady || want == "" && s.Warning != "" || !strings.Contains(s.Warning, want) {
				return fmt.Errorf("the desktop is ready %t and warns %q", s.AgentReady, s.Warning)
			}
			return nil
		})
	}
	warning("")
	t.Cleanup(func() { g.cleanUp(t, "systemctl stop bureau-test-squatter.service; true") })
	g.root(t, "systemd-run --quiet --no-block sh -c 'systemctl stop bureau-agent.service; "+
		"systemd-run --quiet --unit bureau-test-squatter "+probePath+" web -addr 127.0.0.1:7879 -dir /tmp/squatter; "+
		"until ss -ltn | grep -q 127.0.0.1:7879; do sleep 0.1; done; systemctl start bureau-agent.service'")
	warning("another program listens at 127.0.0.1:7879")
	if out, err := lab.output(t.Context(), "desktop", "show", g.id); err != nil || !strings.Contains(string(out), "another program listens") {
		t.Errorf("bureau desktop show says %s, %v", out, err)
	}
	g.root(t, "systemctl stop bureau-test-squatter.service")
	warning("")
	if status, body := g.curl(t, "$ANTHROPIC_BASE_URL/v1/files"); status != http.StatusNotFound {
		t.Errorf("the gateway is not back: %d %s", status, body)
	}
}
