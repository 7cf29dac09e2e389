package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bureau/desktop"
)

// The API is fuzzed by schemathesis, which makes requests of the OpenAPI document, good and bad ones,
// and holds the answers against it. Every exchange is with the real appliance and a real desktop.

// fuzzVariable is set for the whole of it, which takes many minutes.
const fuzzVariable = "BUREAU_TEST_SCHEMATHESIS"

// fuzzer is the program, installed into a virtual environment in the user's cache at its first use.
var fuzzer = sync.OnceValues(func() (string, error) {
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", err
	}
	folder := filepath.Join(cache, "bureau", "schemathesis")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(folder, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return "", fmt.Errorf("wait for another test that installs it: %w", err)
	}
	requirements := filepath.Join("testdata", "schemathesis", "requirements.txt")
	wanted, err := os.ReadFile(requirements)
	if err != nil {
		return "", err
	}
	program, done := filepath.Join(folder, "venv", "bin", "st"), filepath.Join(folder, "installed.txt")
	if have, err := os.ReadFile(done); err == nil && bytes.Equal(have, wanted) {
		return program, nil
	}
	for _, command := range [][]string{
		{"python3", "-m", "venv", "--clear", filepath.Join(folder, "venv")},
		{filepath.Join(folder, "venv", "bin", "pip"), "install", "--quiet", "--disable-pip-version-check", "-r", requirements},
	} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			return "", fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, out)
		}
	}
	return program, os.WriteFile(done, wanted, 0o644)
})

// asOperator is a client of the administration socket.
func (a *appliance) asOperator() *http.Client {
	return &http.Client{Transport: &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", a.socket)
		}}}
}

func (a *appliance) operatorSays(ctx context.Context, method, path string, body, into any) error {
	var reader io.Reader
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			return err
		}
		reader = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://bureau"+path, reader)
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := a.asOperator().Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= 300 {
		err = fmt.Errorf("%s %s: %s: %s", method, path, response.Status, data)
	}
	switch into := into.(type) {
	case nil:
	case *string:
		*into = string(data)
	default:
		if err == nil {
			err = json.Unmarshal(data, into)
		}
	}
	return err
}

// holds is what serve has of what runs out.
type holds struct {
	goroutines, files int
	stacks            string
}

func (a *appliance) holding(ctx context.Context) (holds, error) {
	var h holds
	if err := a.operatorSays(ctx, http.MethodGet, "/debug/pprof/goroutine?debug=1", nil, &h.stacks); err != nil {
		return h, err
	}
	if _, err := fmt.Sscanf(h.stacks, "goroutine profile: total %d", &h.goroutines); err != nil {
		return h, fmt.Errorf("goroutines are %.100q", h.stacks)
	}
	a.mu.Lock()
	pid := a.process.Process.Pid
	a.mu.Unlock()
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	open, err := os.ReadDir(folder)
	for _, f := range open {
		// As many connections to the database stay open as its pool allows.
		if path, err := os.Readlink(filepath.Join(folder, f.Name())); err == nil && !strings.HasPrefix(path, filepath.Join(a.dir, "data")) {
			h.files++
		}
	}
	return h, err
}

// proxied leads a TCP port of this machine to the administration socket, for a client that knows no
// other way, until the test ends.
func (a *appliance) proxied(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("unix", a.socket)
			if err != nil {
				from.Close()
				continue
			}
			for _, pair := range [][2]net.Conn{{from, to}, {to, from}} {
				wg.Go(func() {
					io.Copy(pair[0], pair[1])
					pair[0].Close()
					pair[1].Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return "http://" + l.Addr().String()
}

func TestSchemathesis(t *testing.T) {
	program, err := fuzzer()
	if err != nil && os.Getenv(offlineVariable) != "" {
		t.Skipf("NOT TESTED, as %s allows: %v", offlineVariable, err)
	}
	if err != nil {
		t.Fatalf("schemathesis cannot be had, and nothing of this was tested (%s=1 allows that): %v", offlineVariable, err)
	}
	own(t)
	// An appliance of its own, whose goroutines and files nobody else uses.
	a := lab.sister(t, prefix+"-api", "tiers: {shared: {vcpus: 1, memory: 1GiB, disk: 6GiB}, fuzz: {vcpus: 1, memory: 1GiB, disk: 6GiB, desktops: 3}}\nfailureLimit: 0\nscreenIdle: 30s\n")
	a.live(t)
	ctx := t.Context()
	const who = "fuzz@bureau.test"
	if _, err := a.output(ctx, "user", "create", who, "--tier", "fuzz"); err != nil {
		t.Fatal(err)
	}
	makeKey := func(t *testing.T, name string, capabilities []desktop.Capability) string {
		args := []string{"key", "create", name, "--user", who}
		for _, c := range capabilities {
			args = append(args, "--can", string(c))
		}
		out, err := a.output(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	create := func(t *testing.T, name string, start bool) string {
		var made state
		err := a.operatorSays(ctx, http.MethodPost, "/v1/desktops", map[string]any{
			"name": name, "image": "minimal", "tier": "fuzz", "owner": who, "start": start}, &made)
		if err != nil {
			t.Fatal(err)
		}
		return made.ID
	}
	g := &guest{a, create(t, "fuzzed", true)}
	t.Cleanup(func() {
		if err := a.removeDesktops(context.Background(), ""); err != nil {
			t.Error(err)
		}
	})
	ready := func() error { // it is another user's than the tests' own key is
		return until(ctx, bootPatience, func(ctx context.Context) error {
			var s state
			err := a.operatorSays(ctx, http.MethodGet, "/v1/desktops/"+g.id, nil, &s)
			if err == nil && !s.AgentReady {
				err = fmt.Errorf("the desktop is %s, and its agent is not ready: %s", s.Status, s.Reason)
			}
			return err
		})
	}
	if err := ready(); err != nil {
		t.Fatal(err)
	}

	sets := []struct {
		name         string
		capabilities []desktop.Capability
		operator     bool
	}{{name: "all", capabilities: desktop.Capabilities()}}
	phases, examples := "examples,fuzzing,stateful", "1"
	if os.Getenv(fuzzVariable) != "" {
		phases, examples = "examples,coverage,fuzzing,stateful", "10"
		for _, c := range desktop.Capabilities() {
			sets = append(sets, struct {
				name         string
				capabilities []desktop.Capability
				operator     bool
			}{name: string(c), capabilities: []desktop.Capability{c}})
		}
		sets = append(sets, struct {
			name         string
			capabilities []desktop.Capability
			operator     bool
		}{name: "operator", operator: true})
	}
	total := 0
	for _, set := range sets {
		t.Run(set.name, func(t *testing.T) {
			key := ""
			if !set.operator {
				key = makeKey(t, set.name, set.capabilities)
			}
			victim := create(t, "victim", false)
			url := a.url
			if set.operator {
				url = a.proxied(t)
			}
			protected, err := a.keyIDs(ctx)
			if err != nil {
				t.Fatal(err)
			}
			a.http.CloseIdleConnections()
			before, err := a.holding(ctx)
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			args := []string{"--phases", phases, "-n", examples}
			if set.operator {
				// The socket asks for no key, unlike what the document says of everywhere else.
				args = append(args, "--exclude-checks", "ignored_auth,missing_required_header", "--generation-with-security-parameters", "false")
			}
			out, err := fuzz(t, program, args, map[string]string{
				"BUREAU_URL": url, "BUREAU_FUZZ_KEY": key, "BUREAU_FUZZ_DESKTOP": g.id, "BUREAU_FUZZ_VICTIM": victim,
				"BUREAU_FUZZ_PROTECTED": strings.Join(protected, ",")})
			if err != nil {
				t.Errorf("%v\n%s", err, out)
			}
			n, _ := strconv.Atoi(string(regexpFind(out, `(\d+) generated`)))
			total += n
			if n < 100 {
				t.Errorf("only %d requests were made:\n%s", n, out)
			}
			if err := a.removeDesktops(ctx, g.id); err != nil {
				t.Error(err)
			}
			var after holds
			err = until(ctx, 2*time.Minute, func(ctx context.Context) (err error) {
				a.http.CloseIdleConnections()
				if after, err = a.holding(ctx); err != nil {
					return err
				}
				if after.goroutines > before.goroutines || after.files > before.files {
					return fmt.Errorf("before there were %d goroutines and %d files, after it are %d and %d", before.goroutines, before.files, after.goroutines, after.files)
				}
				return nil
			})
			if err != nil {
				t.Errorf("%v\n%s", err, after.stacks)
			}
			t.Logf("%d requests in %s; goroutines %d, then %d; files %d, then %d", n, time.Since(began).Round(time.Second),
				before.goroutines, after.goroutines, before.files, after.files)
		})
	}
	t.Logf("%d requests in all", total)
	// The desktop is none the worse for it.
	if err := ready(); err != nil {
		t.Error(err)
	}
	if log := a.logTail(1 << 30); strings.Contains(log, "msg=panic") {
		t.Error("serve's log tells of a panic")
	}
}

// fuzz runs schemathesis on a copy of its configuration, which is where its program looks for hooks.
func fuzz(t *testing.T, program string, args []string, environment map[string]string) ([]byte, error) {
	t.Helper()
	folder := t.TempDir()
	if err := os.CopyFS(folder, os.DirFS(filepath.Join("testdata", "schemathesis"))); err != nil {
		t.Fatal(err)
	}
	if environment["BUREAU_FUZZ_KEY"] == "" {
		path := filepath.Join(folder, "schemathesis.toml")
		config, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		before, after, found := strings.Cut(string(config), "[auth.openapi]\n")
		_, after, more := strings.Cut(after, "\n")
		if !found || !more {
			t.Fatal("the configuration has no section for the key")
		}
		if err := os.WriteFile(path, []byte(before+after), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.CommandContext(t.Context(), program, append([]string{"run", environment["BUREAU_URL"] + "/openapi.json", "--no-color", "--seed", "1",
		"--warnings", "off"}, args...)...)
	c.Dir = folder
	c.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH="+folder, "SCHEMATHESIS_HOOKS=hooks")
	for name, value := range environment {
		c.Env = append(c.Env, name+"="+value)
	}
	out, err := c.CombinedOutput()
	if err := os.MkdirAll(lab.keep, 0o755); err != nil {
		t.Fatal(err)
	}
	report := filepath.Join(lab.keep, strings.ReplaceAll(t.Name(), "/", "_")+".txt")
	if err := os.WriteFile(report, out, 0o644); err != nil {
		t.Fatal(err)
	}
	return out, err
}

func regexpFind(text []byte, pattern string) []byte {
	found := regexp.MustCompile(pattern).FindSubmatch(text)
	if found == nil {
		return nil
	}
	return found[1]
}

func (a *appliance) keyIDs(ctx context.Context) ([]string, error) {
	var keys []struct{ ID string }
	err := a.operatorSays(ctx, http.MethodGet, "/v1/admin/keys", nil, &keys)
	var ids []string
	for _, k := range keys {
		ids = append(ids, k.ID)
	}
	return ids, err
}

// removeDesktops destroys all desktops but one, whoever the fuzzer has made them for.
func (a *appliance) removeDesktops(ctx context.Context, but string) error {
	var all []struct{ ID string }
	if err := a.operatorSays(ctx, http.MethodGet, "/v1/desktops?limit=100", nil, &all); err != nil {
		return err
	}
	var failures []error
	for _, d := range all {
		if d.ID != but {
			failures = append(failures, a.operatorSays(ctx, http.MethodDelete, "/v1/desktops/"+d.ID, nil, nil))
		}
	}
	return errors.Join(failures...)
}
