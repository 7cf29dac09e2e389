package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"bureau/soak/check"
)

// soaker soaks one appliance.
type soaker struct {
	options
	as      *syscall.Credential
	serve   *daemon
	libvirt *daemon
	client  *client
	host    check.Host
	judge   check.Judge
	ledger  *ledger
	figures *figures
	began   time.Time

	mu     sync.Mutex
	faults []string // answers that no kill excuses
	diary  []string // of the round
}

// soak is the whole run, within the world. It returns the exit code.
func soak(ctx context.Context, o options) int {
	living, end := context.WithCancel(ctx) // the daemons outlast the time for all of it
	defer end()
	ctx, cancel := context.WithTimeout(ctx, o.Limit)
	defer cancel()
	s := &soaker{
		options: o,
		client:  &client{base: "http://" + address, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}}},
		judge:   check.Judge{Prefix: prefix},
		ledger:  newLedger(o.Slots),
		figures: newFigures(),
		began:   time.Now(),
	}
	fmt.Printf("soak: seed %d, %d kills, %d desktops, %d clients\n", o.Seed, o.Kills, o.Slots, o.Clients)
	defer func() {
		end()
		s.serve.wait()
		s.libvirt.wait()
	}()
	if err := s.setUp(ctx, living); err != nil {
		s.keep()
		return fail(fmt.Errorf("set up: %w", err))
	}
	if !s.client.idempotent {
		fmt.Println("soak: this API has no Idempotency-Key; creates that were not answered are not repeated")
	}
	err := s.rounds(ctx)
	if err == nil {
		err = s.finish(ctx)
	}
	s.figures.print(os.Stdout, time.Since(s.began))
	for _, crash := range s.libvirt.trouble() { // which is not the appliance's fault, and which it has to survive
		fmt.Println("soak:", crash)
	}
	if err != nil {
		s.explain(err)
		return 1
	}
	fmt.Printf("soak: sound after %d kills (seed %d)\n", s.figures.killed(), o.Seed)
	return 0
}

// setUp makes the appliance run, with images, a user and a key. The daemons live as long as living.
func (s *soaker) setUp(ctx, living context.Context) (err error) {
	if s.as, err = unprivileged(); err != nil {
		return err
	}
	libvirtd, err := exec.LookPath("libvirtd")
	if err != nil {
		return err
	}
	s.libvirt = &daemon{name: "libvirtd", log: libvirtLog, command: func() *exec.Cmd {
		c := exec.Command(libvirtd)
		c.Dir, c.Env = worldDir, os.Environ()
		return c
	}}
	// 6 is the exit code of what cannot be had now, such as libvirt.
	s.serve = &daemon{name: "serve", log: serveLog, calm: func(p *os.ProcessState) bool { return p.ExitCode() == 6 },
		command: func() *exec.Cmd { return s.bureau("serve") }}
	if err := s.libvirt.run(living); err != nil {
		return err
	}
	if err := until(ctx, recovery, func() error { return exec.Command("virsh", "-q", "-c", libvirtURI, "version").Run() }); err != nil {
		return fmt.Errorf("libvirtd does not answer: %w", err)
	}
	if err := s.defineForeign(ctx); err != nil {
		return err
	}
	for name, code := range map[string][]byte{imageObedient: obedient, imageDeaf: deaf} {
		path, err := makeImage(ctx, worldDir, name, code)
		if err != nil {
			return err
		}
		if _, err := s.output(ctx, "image", "import", path, "--name", name); err != nil {
			return err
		}
	}
	if err := s.serve.run(living); err != nil {
		return err
	}
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	if _, err := s.output(ctx, "user", "create", "soak@bureau.test", "--tier", "soak"); err != nil {
		return err
	}
	key, err := s.output(ctx, "key", "create", "soak", "--user", "soak@bureau.test", "--all")
	if err != nil {
		return err
	}
	s.client.key = strings.TrimSpace(string(key))
	s.host = check.Host{URI: libvirtURI, Prefix: prefix, Pool: poolDir, Database: filepath.Join(dataDir, "bureau.db"),
		API: "http://" + address, Key: s.client.key}
	return s.client.learn(ctx)
}

// bureau is a command of the appliance's program, as its user.
func (s *soaker) bureau(args ...string) *exec.Cmd {
	c := exec.Command(bureauPath, append([]string{"--config", configPath}, args...)...)
	c.Dir = homeDir
	c.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + homeDir, "GOTRACEBACK=crash"}, s.Env...)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return c
}

func (s *soaker) output(ctx context.Context, args ...string) ([]byte, error) {
	c := s.bureau(args...)
	var out, stderr bytes.Buffer
	c.Stdout, c.Stderr = &out, &stderr
	if err := c.Start(); err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { c.Process.Kill() })()
	if err := c.Wait(); err != nil {
		return nil, fmt.Errorf("bureau %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(stderr.Bytes()))
	}
	return out.Bytes(), nil
}

func (s *soaker) virsh(ctx context.Context, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "virsh", append([]string{"-q", "-c", libvirtURI}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("virsh %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return strings.TrimSpace(string(out)), nil
}

// defineForeign makes a guest of the operator's own, which has to be there in the end.
func (s *soaker) defineForeign(ctx context.Context) error {
	path := filepath.Join(worldDir, "foreign.xml")
	definition := "<domain type='qemu'><name>" + foreignName + "</name><memory unit='MiB'>32</memory>" +
		"<os><type arch='x86_64' machine='q35'>hvm</type></os><features><acpi/></features></domain>"
	if err := os.WriteFile(path, []byte(definition), 0o644); err != nil {
		return err
	}
	_, err := s.virsh(ctx, "define", path)
	return err
}

// awaitReady returns when serve and libvirtd answer.
func (s *soaker) awaitReady(ctx context.Context) error {
	err := until(ctx, recovery, func() error {
		if crashes := s.serve.trouble(); len(crashes) > 0 {
			return permanent{errors.New(strings.Join(crashes, "; "))}
		}
		return s.client.ready(ctx)
	})
	if err != nil {
		return fmt.Errorf("the appliance does not become ready: %w", err)
	}
	return nil
}

const (
	// recovery is how long serve and libvirtd may take until they answer again.
	recovery = 3 * time.Minute
	// settling is how long things may take until nothing contradicts anything, on a machine on which
	// the checker can look often meanwhile; on a slower one it is more.
	settling = time.Minute
	looks    = 100
)

// permanent ends an until at once.
type permanent struct{ error }

// until tries again and again, until it succeeds or the time is over.
func until(ctx context.Context, limit time.Duration, try func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		err := try()
		if err == nil {
			return nil
		}
		var p permanent
		if errors.As(err, &p) {
			return p.error
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", limit, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// rounds goes on until there were enough kills.
func (s *soaker) rounds(ctx context.Context) error {
	planner := newPlanner(s.Seed, s.Slots, s.Clients)
	for s.figures.killed() < s.Kills {
		r := planner.next()
		s.mu.Lock()
		s.diary = nil
		s.mu.Unlock()
		before := s.figures.killed()
		if err := s.round(ctx, r); err != nil && ctx.Err() != nil {
			return fmt.Errorf("the time was over after %d of %d kills, in which nothing was found", s.figures.killed(), s.Kills)
		} else if err != nil {
			return fmt.Errorf("%w\n\nThe plan was %s", err, r)
		}
		if s.Verbose {
			fmt.Printf("soak: %s\n", s.told())
		}
		fmt.Printf("soak: round %d: %d kills, sound after %s (%d of %d kills, %s)\n", r.Number, s.figures.killed()-before,
			s.figures.lastSettling().Round(10*time.Millisecond), s.figures.killed(), s.Kills, time.Since(s.began).Round(time.Second))
	}
	return nil
}

func (s *soaker) round(ctx context.Context, r round) error {
	began := time.Now()
	var wg sync.WaitGroup
	for _, e := range s.ledger.surplus() {
		wg.Go(func() { s.change(ctx, e, opDestroy, "", began) })
	}
	for client, ops := range r.Clients {
		wg.Go(func() {
			for i, o := range ops {
				time.Sleep(o.Wait)
				s.operate(ctx, o, fmt.Sprintf("soak-%d-%d-%d", r.Number, client, i), began)
			}
		})
	}
	kills := slices.SortedFunc(slices.Values(r.Kills), func(a, b kill) int { return int(a.At - b.At) })
	for _, k := range kills {
		time.Sleep(time.Until(began.Add(k.At)))
		s.strike(k, began)
	}
	wg.Wait()
	if err := s.awaitReady(ctx); err != nil {
		return err
	}
	return s.settle(ctx)
}

// note keeps what happened for whoever has to understand it.
func (s *soaker) note(began time.Time, format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.diary = append(s.diary, fmt.Sprintf("%6dms ", time.Since(began).Milliseconds())+fmt.Sprintf(format, args...))
}

func (s *soaker) told() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return "what happened:\n  " + strings.Join(s.diary, "\n  ")
}

// strike carries out a kill, if there is something to kill.
func (s *soaker) strike(k kill, began time.Time) {
	what, struck := string(k.Kind), false
	switch k.Kind {
	case killServe:
		struck = s.serve.kill(k.Down, nil)
	case killLibvirt:
		struck = s.libvirt.kill(k.Down, nil)
	case killHost:
		struck = s.libvirt.kill(k.Down, loseHost)
		s.serve.kill(k.Down, nil)
	case killQEMU:
		machines, err := check.Machines(prefix + "-")
		if err == nil && len(machines) > 0 {
			m := machines[k.Pick%len(machines)]
			what += " of " + m.Domain
			struck = syscall.Kill(m.PID, syscall.SIGKILL) == nil
		}
	}
	s.note(began, "kill %s: %t", what, struck)
	if struck {
		s.figures.kill(k.Kind)
	}
}

// operate does one operation and takes note of what came of it.
func (s *soaker) operate(ctx context.Context, o op, name string, began time.Time) {
	e := s.ledger.at(o.Slot)
	if (e == nil) != (o.Kind == opCreate) {
		s.figures.operation(o.Kind, skipped)
		return
	}
	if o.Kind == opCreate {
		s.create(ctx, o, name, began)
		return
	}
	s.change(ctx, e, o.Kind, name, began)
}

// change does an operation to a desktop, and asks again a few times when it is not known what came
// of it, as clients do.
func (s *soaker) change(ctx context.Context, e *entry, kind opKind, name string, began time.Time) {
	path := "/v1/desktops/" + e.id
	for try := range 3 {
		begin := time.Now()
		var a answer
		switch kind {
		case opStart, opStop, opRestart:
			a = s.call(ctx, http.MethodPost, path+"/"+string(kind), nil)
		case opPatch:
			a = s.call(ctx, http.MethodPatch, path, map[string]any{"name": name})
		case opDestroy:
			a = s.call(ctx, http.MethodDelete, path, nil)
		case opGet:
			a = s.call(ctx, http.MethodGet, path, nil)
		case opPowerOff:
			a.outcome = done
			if _, a.err = s.virsh(ctx, "shutdown", "--mode", "acpi", prefix+"-"+e.id); a.err != nil {
				a.outcome = unknown
			}
		}
		s.ledger.change(e, kind, name, begin, time.Now(), a.outcome)
		s.figures.operation(kind, a.outcome)
		s.note(began, "%s %s, asked at %dms: %s", kind, e.id, begin.Sub(began).Milliseconds(), a.short())
		if a.outcome != unknown || kind == opPowerOff || try == 2 {
			return
		}
		time.Sleep(retry)
	}
}

// retry is how long a client waits before it asks again.
const retry = 200 * time.Millisecond

// call makes a request, again for as long as nobody listens.
func (s *soaker) call(ctx context.Context, method, path string, body any, header ...string) answer {
	for {
		a := s.client.do(ctx, method, path, body, header...)
		if a.fault() {
			s.mu.Lock()
			s.faults = append(s.faults, fmt.Sprintf("%s %s: %s", method, path, a))
			s.mu.Unlock()
		}
		if !a.away || ctx.Err() != nil {
			return a
		}
		time.Sleep(retry / 4)
	}
}

// short is the answer as far as a diary needs it.
func (a answer) short() string {
	text := a.String()
	if a.outcome == done && a.err == nil {
		var d check.Desktop
		if json.Unmarshal(a.body, &d) == nil && d.ID != "" {
			return fmt.Sprintf("done: %d, %s is %s", a.status, d.ID, d.Status)
		}
	}
	if len(text) > 300 {
		text = text[:300] + "…"
	}
	return text
}

// create makes a desktop. Where the API knows a key by which a create is done once, the same is asked
// for again until there is an answer; elsewhere it is asked for under another name.
func (s *soaker) create(ctx context.Context, o op, name string, began time.Time) {
	wish := "halt"
	if o.Start {
		wish = "run"
	}
	var header []string
	if s.client.idempotent {
		header = []string{"Idempotency-Key", name}
	}
	made := attempt{name: name, slot: o.Slot, wish: wish, begin: time.Now()}
	for try := range 4 {
		if try > 0 {
			time.Sleep(retry)
			if !s.client.idempotent {
				made.name, made.begin = fmt.Sprintf("%s-%d", name, try), time.Now()
			}
		}
		body := map[string]any{"name": made.name, "image": o.Image, "start": o.Start, "keepAlive": true,
			"size": map[string]any{"memoryBytes": 256 << 20}}
		asked := time.Now()
		a := s.ask(ctx, o.Lost && try == 0, body, header)
		made.end = time.Now()
		s.figures.operation(opCreate, a.outcome)
		s.note(began, "create %s in slot %d, asked at %dms: %s", made.name, o.Slot, asked.Sub(began).Milliseconds(), a.short())
		var d check.Desktop
		if a.outcome == done {
			if err := json.Unmarshal(a.body, &d); err != nil || d.ID == "" {
				a.outcome = unknown
			}
		}
		last := a.outcome != unknown || try == 3
		if last || !s.client.idempotent {
			s.ledger.create(made, a.outcome, d.ID)
		}
		if last {
			return // what those made that were not answered is found later
		}
	}
}

// ask asks for a desktop; the answer to a lost one is not waited for.
func (s *soaker) ask(ctx context.Context, lost bool, body map[string]any, header []string) answer {
	if lost {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Millisecond)
		defer cancel()
		return s.client.do(ctx, http.MethodPost, "/v1/desktops", body, header...)
	}
	return s.call(ctx, http.MethodPost, "/v1/desktops", body, header...)
}

// slow is from when on a settling is told of.
const slow = 5 * time.Second

// settle waits until nothing contradicts anything, and fails when that does not come about.
func (s *soaker) settle(ctx context.Context) error {
	began := time.Now()
	var last check.World
	var findings []check.Finding
	var reading error
	former := "nothing"
	again := map[string]int{} // how often in a row each finding was found
	for sound, readings := 0, 0; ; readings++ {
		if crashes := s.serve.trouble(); len(crashes) > 0 {
			return errors.New(strings.Join(crashes, "; "))
		}
		if fault := s.fault(); fault != "" {
			return fmt.Errorf("an answer that no kill excuses: %s", fault)
		}
		w, err := s.host.Read(ctx)
		if reading = err; err == nil {
			last = w
			s.figures.look()
			s.ledger.adopt(w.Records)
			findings = s.judge.Judge(w, s.ledger.expected())
			if len(findings) == 0 {
				if sound++; sound == 2 {
					s.judge.Remember(w)
					s.ledger.settled(w)
					s.figures.settle(time.Since(began))
					if took := time.Since(began); took > slow {
						fmt.Printf("soak: %d readings in %s; before the last two:\n  %s\n", readings, took.Round(time.Second/10), former)
					}
					return nil
				}
			} else {
				sound, former = 0, findings[0].String()
			}
			seen := map[string]int{}
			for _, f := range findings {
				seen[f.String()] = again[f.String()] + 1
				if f.Final && seen[f.String()] == 3 { // not only between two readings
					return untrue(findings, last, began)
				}
			}
			again = seen
		}
		if time.Since(began) > settling && readings > looks || ctx.Err() != nil {
			if reading != nil {
				return fmt.Errorf("what there is cannot be read: %w", reading)
			}
			return untrue(findings, last, began)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func (s *soaker) fault() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.faults) == 0 {
		return ""
	}
	return s.faults[0]
}

// untrue is the error of what cannot be true.
func untrue(findings []check.Finding, w check.World, since time.Time) error {
	var b strings.Builder
	fmt.Fprintf(&b, "after %s of settling:\n", time.Since(since).Round(time.Second/10))
	if len(findings) == 0 {
		fmt.Fprintln(&b, "  the time for all of it was over before it was sound twice in a row")
	}
	for _, f := range findings {
		fmt.Fprintf(&b, "  BROKEN %s\n", f)
	}
	fmt.Fprintf(&b, "\nWhat there is:\n%s", w.Describe())
	return errors.New(b.String())
}

// finish destroys every desktop and looks whether anything is left.
func (s *soaker) finish(ctx context.Context) error {
	for _, e := range s.ledger.all() {
		s.change(ctx, e, opDestroy, "", time.Now())
	}
	if err := s.settle(ctx); err != nil {
		return fmt.Errorf("after the end of all desktops: %w", err)
	}
	w, err := s.host.Read(ctx)
	if err != nil {
		return err
	}
	if len(w.Domains)+len(w.Disks)+len(w.Processes)+len(w.Desktops) > 0 {
		return fmt.Errorf("all desktops were destroyed and there is:\n%s", w.Describe())
	}
	if _, err := s.virsh(ctx, "domstate", foreignName); err != nil {
		return fmt.Errorf("the operator's own guest is gone: %w", err)
	}
	log, err := os.ReadFile(serveLog)
	if err != nil {
		return err
	}
	for _, sign := range []string{"WARNING: DATA RACE", "\npanic: ", "\nfatal error: ", "level=ERROR msg=\"internal fault", "level=ERROR msg=panic"} {
		if i := bytes.Index(log, []byte(sign)); i >= 0 {
			return fmt.Errorf("serve's log has %q:\n%s", strings.TrimSpace(sign), log[i:min(len(log), i+4000)])
		}
	}
	return nil
}

// explain prints what a person needs who has to find out what went wrong.
func (s *soaker) explain(err error) {
	fmt.Printf("\nsoak: FAILED with seed %d\n%s\n%s\n\n", s.Seed, err, s.told())
	fmt.Printf("The end of serve's log, without what the soak itself asked:\n%s\n",
		tail(serveLog, 100, "route=getReadiness", "route=listDesktops", `msg="request refused"`, "no session with the agent"))
	s.backtrace()
	s.keep()
	fmt.Printf("Again: make soak SEED=%d ARGS=\"--desktops %d --clients %d\"\n", s.Seed, s.Slots, s.Clients)
}

// backtrace prints where a core came from.
func (s *soaker) backtrace() {
	cores, _ := filepath.Glob(filepath.Join(homeDir, "core*"))
	for _, core := range cores {
		out, err := exec.Command("gdb", "-batch", "-ex", "info threads", "-ex", "thread apply all bt 30", bureauPath, core).CombinedOutput()
		if err != nil {
			fmt.Printf("%s cannot be read: %v\n", core, err)
			continue
		}
		path := core + ".txt"
		if err := os.WriteFile(path, out, 0o644); err == nil {
			fmt.Printf("The threads of %s:\n%s\n", core, tail(path, 200))
		}
	}
}

// keep copies what is only in the world to the host.
func (s *soaker) keep() {
	if s.Keep == "" {
		return
	}
	if err := os.MkdirAll(s.Keep, 0o755); err != nil {
		fmt.Println("soak:", err)
		return
	}
	for _, path := range []string{serveLog, libvirtLog, "/var/log/libvirt", homeDir, "/etc/libvirt/qemu", "/run/libvirt/qemu"} {
		if out, err := exec.Command("cp", "-a", "--sparse=always", path, s.Keep).CombinedOutput(); err != nil {
			fmt.Printf("soak: keeping %s: %v: %s\n", path, err, out)
		}
	}
	fmt.Printf("soak: logs, database and cores are in %s\n", s.Keep)
}

// tail is the last lines of a file, those that have a word in without not counted.
func tail(path string, lines int, without ...string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	all := slices.DeleteFunc(strings.SplitAfter(string(data), "\n"), func(line string) bool {
		return slices.ContainsFunc(without, func(word string) bool { return strings.Contains(line, word) })
	})
	return strings.Join(all[max(0, len(all)-lines):], "")
}
