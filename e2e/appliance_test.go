package e2e

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bureau/api/apitest"
)

// prefix begins the names of everything that the tests make in libvirt.
const prefix = "bureau-test"

// owner is the user that the tests' desktops belong to.
const owner = "e2e@bureau.test"

// appliance is a bureau of the tests' own: a built binary, a configuration, a process.
type appliance struct {
	prefix string // begins the names of what it makes in libvirt
	dir    string // belongs to the user that serve runs as
	binary string // what serve runs; the tests replace it
	config string
	socket string
	log    string
	url    string
	key    string // of owner, with every capability
	as     *syscall.Credential
	http   *http.Client
	keep   string // folder for what failures leave behind

	checked *apitest.Transport

	mu         sync.Mutex
	gone       bool // of a sister: it has ended with its test
	process    *process
	starts     int
	deviations []error
	secrets    []string // that are to be in no log; see secret
	sisters    []*appliance
}

// process is one run of serve.
type process struct {
	*exec.Cmd
	ended chan struct{}
	err   error // once ended is closed
}

func newAppliance(ctx context.Context) (*appliance, error) {
	dir, err := os.MkdirTemp("", prefix+"-")
	if err != nil {
		return nil, err
	}
	a := &appliance{
		prefix: prefix,
		dir:    dir,
		binary: filepath.Join(dir, "bureau"),
		config: filepath.Join(dir, "config.yaml"),
		socket: filepath.Join(dir, "admin.sock"),
		log:    filepath.Join(dir, "serve.log"),
		keep:   cmp.Or(os.Getenv("BUREAU_E2E_ARTIFACTS"), filepath.Join(os.TempDir(), prefix+"-failures")),
	}
	if err := os.RemoveAll(a.keep); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if os.Getuid() == 0 {
		if a.as, err = unprivileged(); err != nil {
			return nil, err
		}
		if err := os.Chown(dir, int(a.as.Uid), int(a.as.Gid)); err != nil {
			return nil, err
		}
	}
	if err := build(ctx, a.binary, "e2e-1", true); err != nil {
		return nil, err
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	a.url = "http://" + port
	return a, os.WriteFile(a.config, []byte(a.configuration(port)), 0o644)
}

// sister is another appliance of the same binary, which live brings to life, for a test whose host is
// a special one or that measures serve. Its images are the small one; config is what its configuration
// has besides.
func (a *appliance) sister(t *testing.T, prefix, config string) *appliance {
	t.Helper()
	dir := filepath.Join(a.dir, prefix)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if a.as != nil {
		if err := os.Chown(dir, int(a.as.Uid), int(a.as.Gid)); err != nil {
			t.Fatal(err)
		}
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	s := &appliance{prefix: prefix, dir: dir, binary: a.binary, config: filepath.Join(dir, "config.yaml"), socket: filepath.Join(dir, "s"),
		log: filepath.Join(dir, "serve.log"), url: "http://" + port, as: a.as, keep: a.keep}
	config = fmt.Sprintf(`listen: %s
adminSocket: %s
dataDir: %s
libvirt: {prefix: %s, pool: {name: %[4]s, path: /var/lib/libvirt/%[4]s}}
image: minimal
network: isolated
defaultTier: shared
rateLimit: 0
bootTimeout: 5m
log: {level: debug}
%s`, port, s.socket, filepath.Join(dir, "data"), prefix, config)
	if err := os.WriteFile(s.config, []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sisters = append(a.sisters, s)
	return s
}

// live runs a sister until the test ends.
func (a *appliance) live(t *testing.T) {
	t.Helper()
	if err := a.purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
		defer cancel()
		if err := errors.Join(errors.Join(a.deviations...), a.end(syscall.SIGTERM), a.discreet(), a.purge(ctx)); err != nil {
			t.Error(err)
		}
		a.gone = true
		if t.Failed() {
			t.Log(a.logTail(60))
		}
	})
	if err := a.importImage(t.Context(), "minimal"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(a.start(t.Context()), a.validate(t.Context()), a.makeKey(t.Context())); err != nil {
		t.Fatal(err)
	}
}

// configuration is everything that keeps this appliance apart from any other on the machine.
func (a *appliance) configuration(listen string) string {
	return fmt.Sprintf(`listen: %s
adminSocket: %s
dataDir: %s
libvirt:
  prefix: %s
  pool:
    name: %s
    path: /var/lib/libvirt/%s
image: desktop
network: isolated
tiers:
  shared: {vcpus: 2, memory: 3GiB, disk: 12GiB, desktops: 0}
  small: {vcpus: 2, memory: 1GiB, disk: 6GiB, desktops: 0}
defaultTier: shared
rateLimit: 0
failureLimit: 0
stopGrace: 60s
bootTimeout: 5m
screenIdle: 30s
log:
  level: debug
  format: text
`, listen, a.socket, filepath.Join(a.dir, "data"), prefix, prefix, prefix)
}

// unprivileged is who serve runs as when the tests run as root: nobody in particular, in the group
// libvirt. An appliance has a user of its own, which make test does not make.
func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	g, err := user.LookupGroup("libvirt")
	if err != nil {
		return nil, fmt.Errorf("%w; packaging/host/prepare --tests makes this machine ready, and make test runs that", err)
	}
	var ids [3]uint32
	for i, text := range []string{u.Uid, u.Gid, g.Gid} {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		ids[i] = uint32(n)
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}

// build makes the binary as the Makefile does, under a version of the tests' choice.
func build(ctx context.Context, path, version string, cgo bool) error {
	began := time.Now()
	c := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", "libvirt_dlopen",
		"-ldflags", "-s -w -X bureau/cmd.version="+version, "-o", path, "bureau")
	c.Env = append(os.Environ(), "CGO_ENABLED="+map[bool]string{true: "1", false: "0"}[cgo])
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", path, err, out)
	}
	progress("built bureau %s (cgo %t) in %s", version, cgo, time.Since(began).Round(time.Second/10))
	return nil
}

func freePort() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// progress tells the person who waits where the set-up is.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "e2e: "+format+"\n", args...)
}

// setUp makes the appliance run, with an image, a user and a key.
func (a *appliance) setUp(ctx context.Context) error {
	if err := a.purge(ctx); err != nil {
		return fmt.Errorf("removing an earlier run's remains: %w", err)
	}
	began := time.Now()
	if err := a.importImage(ctx, "desktop"); err != nil {
		return err
	}
	if err := defineForeign(ctx); err != nil {
		return err
	}
	progress("the image is in place after %s", time.Since(began).Round(time.Second/10))
	if err := a.start(ctx); err != nil {
		return err
	}
	if err := a.validate(ctx); err != nil {
		return err
	}
	return a.makeKey(ctx)
}

// importImage puts an image into the appliance's pool. It is built if it has not been, which needs
// root and takes minutes; make test has seen to it before.
func (a *appliance) importImage(ctx context.Context, name string) error {
	args := []string{a.binary, "--config", a.config, "--json", "image", "build", name, "--import"}
	if cache := os.Getenv("BUREAU_E2E_IMAGES"); cache != "" {
		args = append(args, "--cache", cache)
	}
	c := asRoot(ctx, args...)
	var out bytes.Buffer
	c.Stdout, c.Stderr = &out, os.Stderr
	if err := c.Run(); err != nil {
		return fmt.Errorf("building and importing the image %s: %w\n%s", name, err, out.Bytes())
	}
	return nil
}

// purge removes all that an appliance with the tests' prefix has made in libvirt.
func (a *appliance) purge(ctx context.Context) error {
	_, err := a.output(ctx, "image", "purge", "--yes")
	return err
}

// makeKey makes the tests' user and a key for everything, as an operator does.
func (a *appliance) makeKey(ctx context.Context) error {
	if _, err := a.output(ctx, "user", "create", owner, "--tier", "shared"); err != nil {
		return err
	}
	out, err := a.output(ctx, "key", "create", "tests", "--user", owner, "--all")
	a.key = strings.TrimSpace(string(out))
	a.secret(a.key)
	return err
}

// validate makes every exchange from here on be held against the appliance's own OpenAPI document.
func (a *appliance) validate(ctx context.Context) error {
	a.http = &http.Client{}
	r, err := a.send(ctx, http.MethodGet, "/openapi.json", nil)
	if err != nil {
		return err
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	a.checked, err = apitest.NewTransport(r.body, transport, a.deviates)
	if err != nil {
		return err
	}
	a.http.Transport = a.checked
	return nil
}

// deviates is told of each exchange that is not as the document says.
func (a *appliance) deviates(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.deviations = append(a.deviations, err)
}

// command is one that acts for the appliance's operator on its configuration.
func (a *appliance) command(ctx context.Context, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, a.binary, append([]string{"--config", a.config}, args...)...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: a.as}
	c.Dir = a.dir
	c.Env = a.environment()
	return c
}

// environment is the surrounding one, without anything that would lead to another appliance.
func (a *appliance) environment() []string {
	var env []string
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "BUREAU_") && !strings.HasPrefix(v, "HOME=") {
			env = append(env, v)
		}
	}
	return append(env, "HOME="+a.dir)
}

func (a *appliance) output(ctx context.Context, args ...string) ([]byte, error) {
	c := a.command(ctx, args...)
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		return out, fmt.Errorf("bureau %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out, nil
}

// start runs serve, with further flags, and returns when it answers.
func (a *appliance) start(ctx context.Context, flags ...string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	log, err := os.OpenFile(a.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	// Every other life of it logs as JSON, so that a run's log is looked through in both formats.
	format := []string{"text", "json"}[a.starts%2]
	a.starts++
	p := &process{Cmd: a.command(context.Background(), append([]string{"serve", "--log.format", format}, flags...)...), ended: make(chan struct{})}
	p.Stdout, p.Stderr = log, log
	p.SysProcAttr.Pdeathsig = syscall.SIGKILL
	p.SysProcAttr.Setpgid = true // an interrupt at the terminal is for the tests, which then tidy up
	if err := p.Start(); err != nil {
		return err
	}
	go func() {
		p.err = p.Wait()
		close(p.ended)
	}()
	a.process = p
	err = until(ctx, 60*time.Second, func(ctx context.Context) error {
		select {
		case <-p.ended:
			return permanent(fmt.Errorf("serve ended: %v", p.err))
		default:
		}
		return a.ping(ctx)
	})
	if err != nil {
		return fmt.Errorf("serve does not become ready: %w", err)
	}
	return nil
}

func (a *appliance) ping(ctx context.Context) error {
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, a.url+"/readyz", nil)
	if err != nil {
		return err
	}
	// Whose certificate it is does not matter here.
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	response, err := client.Do(r)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10))
		return fmt.Errorf("/readyz: %s: %s", response.Status, body)
	}
	return nil
}

// end sends serve a signal and waits for its end.
func (a *appliance) end(signal syscall.Signal) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.process == nil {
		return nil
	}
	p := a.process
	a.process = nil
	if err := p.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-p.ended:
		return nil
	case <-time.After(30 * time.Second):
		p.Process.Kill()
		<-p.ended
		return fmt.Errorf("serve did not end within 30 s of %s", signal)
	}
}

// remove ends the appliance and takes away all that it made.
func (a *appliance) remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	err := errors.Join(a.deviations...)
	if a.checked != nil {
		progress("%d exchanges held against the OpenAPI document", a.checked.Checked())
	}
	err = errors.Join(err, a.end(syscall.SIGTERM), a.discreet())
	if faults := a.faults(); len(faults) > 0 {
		err = errors.Join(err, fmt.Errorf("serve has logged faults of its own:\n%s", strings.Join(faults, "")))
	}
	for _, s := range a.sisters { // a run that was interrupted has left them
		if !s.gone {
			err = errors.Join(err, s.end(syscall.SIGTERM), s.purge(ctx))
		}
	}
	if _, statErr := os.Stat(a.binary); statErr == nil {
		err = errors.Join(err, a.purge(ctx), nothingLeft(ctx), removeForeign(ctx))
	}
	return errors.Join(err, os.RemoveAll(a.dir))
}

// secret notes a text that must not be in the log at the end of the run.
func (a *appliance) secret(text string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.secrets = append(a.secrets, text)
}

// wholeKey is any API key.
var wholeKey = regexp.MustCompile(`sk_live_[a-z2-7]{20,}`)

// discreet checks that of the secrets of the run so far none has been logged. A log that is not there is
// none of a serve that has run.
func (a *appliance) discreet() error {
	log, err := os.ReadFile(a.log)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	lines := 0
	for line := range bytes.Lines(log) {
		lines++
		if wholeKey.Match(line) {
			return fmt.Errorf("an API key has been logged: %s", line)
		}
		for _, secret := range a.secrets {
			if bytes.Contains(line, []byte(secret)) {
				return fmt.Errorf("the secret %q has been logged: %s", secret, line)
			}
		}
	}
	progress("none of %d secrets is in the %d lines that %d lives of serve have logged", len(a.secrets), lines, a.starts)
	return nil
}

// faults are the lines of the log in which serve tells of a fault of its own.
func (a *appliance) faults() (lines []string) {
	for line := range strings.Lines(a.logTail(1_000_000)) {
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, `"level":"ERROR"`) {
			lines = append(lines, line)
		}
	}
	return lines
}

// logTail is the last lines of serve's log.
func (a *appliance) logTail(lines int) string {
	data, err := os.ReadFile(a.log)
	if err != nil {
		return err.Error()
	}
	all := strings.SplitAfter(string(data), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "")
}

func (a *appliance) showLog(w io.Writer) {
	fmt.Fprintf(w, "--- the end of serve's log ---\n%s---\n", a.logTail(60))
}

// patience is how long a test waits for what ought to take a moment, on a slow and busy machine.
const patience = 60 * time.Second

type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

// permanent ends an until at once.
func permanent(err error) error { return permanentError{err} }

// until tries again and again, until it succeeds or the time is over. It is how the tests wait.
func until(ctx context.Context, limit time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	began := time.Now()
	for pause := 20 * time.Millisecond; ; pause = min(2*pause, 500*time.Millisecond) {
		err := try(ctx)
		if err == nil {
			return nil
		}
		var p permanentError
		if errors.As(err, &p) {
			return p.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("after %s: %w", time.Since(began).Round(time.Second/10), err)
		case <-time.After(pause):
		}
	}
}

// eventually is until, in a test that fails otherwise.
func eventually(t testing.TB, limit time.Duration, try func() error) {
	t.Helper()
	if err := until(t.Context(), limit, func(context.Context) error { return try() }); err != nil {
		t.Fatal(err)
	}
}

func decode[T any](t testing.TB, data []byte) T {
	t.Helper()
	var v T
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatalf("%v in %.500q", err, data)
	}
	return v
}
