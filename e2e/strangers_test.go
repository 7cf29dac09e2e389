package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bureau/api/apitest"
	"bureau/api/certificate"
	"bureau/assistant/model"
)

// fresh is a text that is like nothing else on a machine, and must not be logged.
func (a *appliance) fresh() string {
	text := rand.Text()
	a.secret(text)
	return text
}

// TestSecretsAreNotLogged does all that carries secrets, rightly and wrongly, in two lives of serve, of
// which one logs as text and the other as JSON. What the whole run has logged is looked through at its
// end, too: see discreet.
func TestSecretsAreNotLogged(t *testing.T) {
	g := alone(t)
	for life := range 2 {
		steps := []any{
			map[string]any{"type": "type", "text": g.fresh(), "sensitive": true},
			map[string]any{"type": "key", "key": "ctrl+a"},
		}
		for _, c := range []struct {
			method, route string
			body          any
			status        int
		}{
			{"POST", "type", map[string]any{"text": g.fresh(), "sensitive": true}, 200},
			{"POST", "type", map[string]any{"text": g.fresh(), "sensitive": true, "screenshot": map[string]any{"format": "none"}}, 400},
			{"POST", "type", map[string]any{"text": []string{g.fresh()}, "sensitive": true}, 400},
			{"POST", "type", []byte(`{"sensitive":true,"text":"` + g.fresh()), 400},
			{"POST", "actions", steps, 200},
			{"POST", "actions", append(steps, map[string]any{"type": "key", "key": "NoSuchKey"}), 400},
			{"POST", "exec", map[string]any{"command": "test -n \"$SECRET\" && cat", "env": map[string]string{"SECRET": g.fresh()}, "stdin": g.fresh()}, 200},
			{"POST", "exec", map[string]any{"command": "echo " + g.fresh() + " >&2; exit 3"}, 200},
			{"POST", "exec", map[string]any{"command": "true", "cwd": "/no/such/folder", "env": map[string]string{"SECRET": g.fresh()}}, 400},
			{"POST", "bash", map[string]any{"script": "# " + g.fresh() + "\nsleep 60", "timeoutMs": 50}, 200},
			{"PUT", "clipboard", map[string]any{"text": g.fresh()}, 204},
			{"GET", "clipboard", nil, 200},
			{"PUT", "provider", map[string]any{"provider": "anthropic", "apiKey": 7, "baseURL": g.fresh()}, 400},
			{"GET", "screenshot?ticket=" + g.fresh(), nil, 200},
			{"GET", "sk_live_" + strings.ToLower(rand.Text()+rand.Text()), nil, 404}, // a path is logged, but for a key in it
		} {
			r, err := g.send(t.Context(), c.method, g.path(c.route), c.body)
			if err != nil {
				t.Fatal(err)
			}
			if r.status != c.status {
				t.Errorf("%s %s %v: %s, not %d", c.method, c.route, c.body, r, c.status)
			}
		}
		// What the model does, and what it is told, is not for the log either.
		answer := g.fresh()
		typed, err := json.Marshal([]map[string]any{{"type": "type", "text": g.fresh()}})
		if err != nil {
			t.Fatal(err)
		}
		g.scripted(t, model.Formats()[0], actions(string(typed)), bash("echo "+g.fresh()), saying(answer))
		g.chat(t, g.fresh(), "").wantAnswer(t, answer)
		// A key that is made, used, revoked and used again, and one that is none.
		made := decode[struct{ ID, Secret string }](t, output(t, "--json", "key", "create", fmt.Sprint("life ", life), "--user", owner))
		lab.secret(made.Secret)
		for _, key := range []string{made.Secret, "sk_live_" + strings.ToLower(rand.Text()+rand.Text())} {
			request(t, key)
		}
		output(t, "key", "revoke", made.ID)
		request(t, made.Secret)

		if err := lab.discreet(); err != nil {
			t.Error(err)
		}
		if err := lab.end(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := lab.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		g.again(t, began)
	}
}

func output(t testing.TB, args ...string) []byte {
	t.Helper()
	out, err := lab.output(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// request asks who somebody is.
func request(t testing.TB, key string) int {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, lab.url+"/v1/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+key)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		t.Fatal(err)
	}
	return response.StatusCode
}

// serving is what serve takes of the host: memory in use and open files.
func (a *appliance) serving() (memory int64, files int, err error) {
	a.mu.Lock()
	pid := a.process.Process.Pid
	a.mu.Unlock()
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	open, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return 0, 0, err
	}
	statm, err := os.ReadFile(filepath.Join(proc, "statm"))
	if err != nil {
		return 0, 0, err
	}
	pages, err := strconv.ParseInt(strings.Fields(string(statm))[1], 10, 64)
	return pages * int64(os.Getpagesize()), len(open), err
}

// TestSlowClients has 200 clients send headers a byte at a time, bodies that never end, and read no
// answers, while a normal one works. BUREAU_E2E_SLOW=1m is the long version.
func TestSlowClients(t *testing.T) {
	g := alone(t)
	long := 5 * time.Second
	if text := os.Getenv("BUREAU_E2E_SLOW"); text != "" {
		var err error
		if long, err = time.ParseDuration(text); err != nil {
			t.Fatal(err)
		}
	}
	memory := func() (int64, int) {
		t.Helper()
		bytes, files, err := lab.serving()
		if err != nil {
			t.Fatal(err)
		}
		return bytes, files
	}
	client := &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()}
	defer client.CloseIdleConnections()
	// works does what a client does, for a while, and tells how long each kind of request took.
	works := func() (took map[string]apitest.Latency, most int64, files int) {
		t.Helper()
		took = map[string]apitest.Latency{}
		for end := time.Now().Add(long); time.Now().Before(end); {
			for _, c := range []struct{ name, method, path, body string }{
				{"get", "GET", "/v1/desktops/" + g.id, ""},
				{"move", "POST", g.path("move"), `{"x":100,"y":100}`},
				{"screenshot", "GET", g.path("screenshot?format=jpeg"), ""},
				{"exec", "POST", g.path("exec"), `{"command":"true"}`},
			} {
				r, err := http.NewRequestWithContext(t.Context(), c.method, lab.url+c.path, strings.NewReader(c.body))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Authorization", "Bearer "+lab.key)
				r.Header.Set("Content-Type", "application/json")
				began := time.Now()
				response, err := client.Do(r)
				if err != nil {
					t.Fatalf("a normal client: %s: %v", c.name, err)
				}
				body, err := io.ReadAll(response.Body)
				response.Body.Close()
				took[c.name] = append(took[c.name], time.Since(began))
				if err != nil || response.StatusCode != http.StatusOK {
					t.Fatalf("a normal client: %s: %s, %v: %.300s", c.name, response.Status, err, body)
				}
			}
			bytes, open := memory()
			most, files = max(most, bytes), max(files, open)
		}
		return took, most, files
	}

	before, memoryBefore, filesBefore := works()
	slow := &apitest.Slow{Address: strings.TrimPrefix(lab.url, "http://"), Key: lab.key, Body: g.path("type"), Answer: g.path("screenshot"), Pace: time.Second}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { slow.Run(ctx, 200); close(ended) }()
	eventually(t, patience, func() error {
		if slow.Open() < 200 {
			return fmt.Errorf("%d slow clients are connected", slow.Open())
		}
		return nil
	})
	beside, memoryBeside, filesBeside := works()
	cancel()
	<-ended

	for _, name := range []string{"get", "move", "screenshot", "exec"} {
		t.Logf("%-10s alone:  %s", name, before[name])
		t.Logf("%-10s beside: %s", name, beside[name])
	}
	t.Logf("serve's memory %d MiB alone, at most %d MiB beside; its files %d and %d; %d slow connections were made, of which it ended %+v",
		memoryBefore>>20, memoryBeside>>20, filesBefore, filesBeside, slow.Connected(), slow.CutOff())
	if grown := memoryBeside - memoryBefore; grown > 64<<20 {
		t.Errorf("serve has taken %d MiB for 200 slow clients", grown>>20)
	}
	eventually(t, patience, func() error {
		if _, files := memory(); files > filesBefore+5 {
			return fmt.Errorf("serve has %d files open, and had %d", files, filesBefore)
		}
		return nil
	})
}

var fingerprintRule = regexp.MustCompile(`BUREAU_CA=(sha256:[0-9a-f]{64})`)

// TestTLS: serve makes a certificate, says its fingerprint, and is reached by who trusts that; SIGHUP
// reads another without losing a connection.
func TestTLS(t *testing.T) {
	if err := lab.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	plain := lab.url
	t.Cleanup(func() {
		lab.url = plain
		if err := lab.end(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := lab.start(ctx); err != nil {
			t.Fatal(err)
		}
	})
	lab.url = strings.Replace(plain, "http:", "https:", 1)
	if err := lab.start(t.Context(), "--tls.cert", "auto"); err != nil {
		t.Fatal(err)
	}
	m := fingerprintRule.FindStringSubmatch(lab.logTail(200))
	if m == nil {
		t.Fatalf("serve does not say its fingerprint:\n%s", lab.logTail(20))
	}
	list := func(ca string) error {
		_, err := lab.output(t.Context(), "--url", lab.url, "--key", lab.key, "--ca", ca, "desktop", "list")
		return err
	}
	file := filepath.Join(lab.dir, "data", certificate.CertFile)
	for _, ca := range []string{m[1], file} {
		if err := list(ca); err != nil {
			t.Error(err)
		}
	}
	if err := list(""); err == nil || !strings.Contains(err.Error(), "not trusted here") {
		t.Errorf("who trusts nothing: %v", err)
	}

	trusted, err := certificate.Trust(m[1])
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: trusted}}
	defer client.CloseIdleConnections()
	alive := func() error {
		r, err := client.Get(lab.url + "/healthz")
		if err == nil {
			_, err = io.Copy(io.Discard, r.Body)
			r.Body.Close()
		}
		return err
	}
	if err := alive(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{certificate.CertFile, certificate.KeyFile} {
		if err := asRoot(t.Context(), "rm", filepath.Join(lab.dir, "data", name)).Run(); err != nil {
			t.Fatal(err)
		}
	}
	// The operator's own comes in its place: here one that a sister of the appliance has made.
	sister := t.TempDir()
	other, err := certificate.Generated(sister, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{certificate.KeyFile, certificate.CertFile} {
		if err := asRoot(t.Context(), "install", "-m", "644", filepath.Join(sister, name), filepath.Join(lab.dir, "data", name)).Run(); err != nil {
			t.Fatal(err)
		}
	}
	lab.mu.Lock()
	err = lab.process.Process.Signal(syscall.SIGHUP)
	lab.mu.Unlock()
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, patience, func() error { return list(other.Fingerprint()) })
	if err := alive(); err != nil {
		t.Errorf("the connection did not outlive its certificate: %v", err)
	}
	if err := list(m[1]); err == nil {
		t.Error("the former certificate is still shown")
	}
}
