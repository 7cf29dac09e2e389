package desktoptest_test

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"bureau/api"
	"bureau/assistant/provider"
	"bureau/desktop"
	"bureau/desktop/desktoptest"
	"bureau/store"
)

// The appliance dies at every moment of every operation: before and after each call of its store and
// its hypervisor, and around each step within the hypervisor's calls. Then another process takes the
// same database and the same host over, the client sends its request again with the same
// Idempotency-Key, and everything is as if it had been done once.

const (
	patience = 20 * time.Second
	secret   = "sk_live_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

// process is one life of the appliance.
type process struct {
	mortal  *desktoptest.Mortal
	store   *store.Store
	manager *desktop.Manager
	handler http.Handler
}

// begin starts the appliance on a folder and a host. It may die while it starts.
func begin(ctx context.Context, folder string, host *desktoptest.Host, mortal *desktoptest.Mortal) (*process, error) {
	log := slog.New(slog.DiscardHandler)
	kept, err := store.Open(ctx, filepath.Join(folder, "bureau.db"))
	if err != nil {
		return nil, err
	}
	p := &process{mortal: mortal, store: kept}
	watched := desktoptest.Store{Store: kept, M: mortal}
	tiers := []desktop.Tier{{Name: "free", VCPUs: 2, MemoryBytes: 4 << 30, DiskBytes: 20 << 30, Desktops: 2}}
	manager, err := desktop.NewManager(ctx, desktoptest.Machines{Machines: host, M: mortal}, watched, desktoptest.Agents{},
		desktop.Config{Tiers: tiers, DefaultTier: "free", DefaultImage: desktoptest.Image.Name, Network: desktop.NetworkNAT, StopGrace: time.Minute}, log)
	if err != nil {
		kept.Close()
		return nil, err
	}
	p.manager = manager
	vault, err := provider.OpenVault(filepath.Join(folder, "master.keys"))
	if err != nil {
		return nil, err
	}
	p.handler = api.New(api.Options{
		Desktops: manager, Accounts: desktop.NewAccounts(watched, tiers, "free"), Claims: watched, Logger: log,
		Providers: provider.NewRegistry(watched, vault, nil, true, log),
	}).Handler()
	return p, nil
}

func (p *process) end() {
	p.manager.Close()
	p.store.Close()
}

// send makes a request as the one user.
func (p *process) send(ctx context.Context, method, path, body, key string) *httptest.ResponseRecorder {
	ctx, cancel := context.WithCancel(ctx) // who asks a process that dies does not wait for it
	defer cancel()
	go func() {
		select {
		case <-p.mortal.Died():
			cancel()
		case <-ctx.Done():
		}
	}()
	r := httptest.NewRequestWithContext(ctx, method, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Bearer "+secret)
	r.Header.Set("Content-Type", "application/json")
	if key != "" {
		r.Header.Set("Idempotency-Key", key)
	}
	w := httptest.NewRecorder()
	p.handler.ServeHTTP(w, r)
	return w
}

func (p *process) list(ctx context.Context) ([]desktop.Desktop, error) {
	list, _, err := p.manager.List(ctx, desktop.Caller{Local: true}, desktop.Page{})
	return list, err
}

// prepare makes a folder with a database that has a user and a key.
func prepare(ctx context.Context, folder string) error {
	kept, err := store.Open(ctx, filepath.Join(folder, "bureau.db"))
	if err != nil {
		return err
	}
	defer kept.Close()
	now := time.Now().UTC()
	if err := kept.InsertUser(ctx, desktop.User{ID: "usr-1", Email: "a@b", Role: desktop.RoleUser, Tier: "free", CreatedAt: now}); err != nil {
		return err
	}
	return kept.InsertKey(ctx, desktop.Key{ID: "key-1", UserID: "usr-1", Capabilities: desktop.Capabilities(), CreatedAt: now}, desktop.HashKey(secret))
}

// operation is what a client asks for, and what must have come of it.
type operation struct {
	name         string
	from         desktop.Status // of the desktop that there is before; "" for none
	method, path string         // {id} is the desktop's
	body         string
	good         []int // statuses of the repetition
	to           desktop.Status
	starts       int // how often the machine was turned on in all
	provider     bool
}

var operations = []operation{
	{"create", "", http.MethodPost, "/v1/desktops", `{"name": "made"}`, []int{201}, desktop.Running, 1, false},
	{"create with a provider", "", http.MethodPost, "/v1/desktops",
		`{"name": "made", "providerConfig": {"provider": "openai-chat", "baseUrl": "http://127.0.0.1:9/v1", "model": "m", "apiKey": "sk-1"}}`,
		[]int{201}, desktop.Running, 1, true},
	{"create without a start", "", http.MethodPost, "/v1/desktops", `{"name": "made", "start": false}`, []int{201}, desktop.Stopped, 0, false},
	{"start", desktop.Stopped, http.MethodPost, "/v1/desktops/{id}/start", "", []int{202}, desktop.Running, 2, false},
	{"stop", desktop.Running, http.MethodPost, "/v1/desktops/{id}/stop", "", []int{202}, desktop.Stopped, 1, false},
	{"restart", desktop.Running, http.MethodPost, "/v1/desktops/{id}/restart", "", []int{202}, desktop.Running, 2, false},
	{"restart of a stopped one", desktop.Stopped, http.MethodPost, "/v1/desktops/{id}/restart", "", []int{202}, desktop.Running, 2, false},
	{"destroy", desktop.Running, http.MethodDelete, "/v1/desktops/{id}", "", []int{204, 404}, "", 1, false},
}

// settled tells whether the operation has come to its end.
func (o operation) settled(ctx context.Context, p *process) error {
	list, err := p.list(ctx)
	if err != nil {
		return err
	}
	if o.to == "" {
		if len(list) != 0 {
			return fmt.Errorf("there is still %+v", list)
		}
		return nil
	}
	if len(list) != 1 || list[0].Status != o.to || o.to == desktop.Running && !list[0].AgentReady {
		return fmt.Errorf("the desktops are %+v", list)
	}
	return nil
}

// await polls until do succeeds.
func await(ctx context.Context, do func() error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	for {
		err := do()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("still not so after %s: %w", patience, err)
		case <-time.After(time.Millisecond):
		}
	}
}

// arrange brings a new folder and host to where an operation begins.
func (o operation) arrange(ctx context.Context, folder string, host *desktoptest.Host) (id string, err error) {
	if err := prepare(ctx, folder); err != nil || o.from == "" {
		return "", err
	}
	p, err := begin(ctx, folder, host, desktoptest.NewMortal("", 0))
	if err != nil {
		return "", err
	}
	defer p.end()
	made := p.send(ctx, http.MethodPost, "/v1/desktops", `{"name": "made"}`, "")
	var d desktop.Desktop
	if err := json.Unmarshal(made.Body.Bytes(), &d); err != nil || made.Code != 201 {
		return "", fmt.Errorf("create: %d %s", made.Code, made.Body)
	}
	if err := await(ctx, func() error { return operation{to: desktop.Running}.settled(ctx, p) }); err != nil || o.from == desktop.Running {
		return d.ID, err
	}
	p.send(ctx, http.MethodPost, "/v1/desktops/"+d.ID+"/stop", "", "")
	return d.ID, await(ctx, func() error { return operation{to: desktop.Stopped}.settled(ctx, p) })
}

// run does the operation in a process, and returns when it is done or the process dead.
func (o operation) run(ctx context.Context, p *process, id string) error {
	p.send(ctx, o.method, strings.ReplaceAll(o.path, "{id}", id), o.body, "once-1")
	return await(ctx, func() error {
		if p.mortal.Dead() {
			return nil
		}
		return o.settled(ctx, p)
	})
}

// recover starts another process, repeats the request and says what is wrong then.
func (o operation) recover(ctx context.Context, folder string, host *desktoptest.Host, id string) error {
	p, err := begin(ctx, folder, host, desktoptest.NewMortal("", 0))
	if err != nil {
		return err
	}
	defer p.end()
	path := strings.ReplaceAll(o.path, "{id}", id)
	again := p.send(ctx, o.method, path, o.body, "once-1")
	if !slices.Contains(o.good, again.Code) {
		return fmt.Errorf("the repetition is answered %d %s", again.Code, again.Body)
	}
	if err := await(ctx, func() error { return o.settled(ctx, p) }); err != nil {
		return err
	}
	if third := p.send(ctx, o.method, path, o.body, "once-1"); again.Code < 204 &&
		(third.Code != again.Code || !bytes.Equal(third.Body.Bytes(), again.Body.Bytes()) || third.Header().Get("Idempotency-Replayed") != "true") {
		return fmt.Errorf("a further repetition is answered %d %s %v, after %d %s", third.Code, third.Body, third.Header(), again.Code, again.Body)
	}
	if err := await(ctx, func() error { return o.settled(ctx, p) }); err != nil {
		return fmt.Errorf("after a further repetition: %w", err)
	}
	if o.provider {
		list, _ := p.list(ctx)
		if r := p.send(ctx, http.MethodGet, "/v1/desktops/"+list[0].ID+"/provider", "", ""); r.Code != 200 {
			return fmt.Errorf("the desktop has no provider: %d %s", r.Code, r.Body)
		}
	}
	return o.check(folder, host)
}

// check compares the database with the host, by itself.
func (o operation) check(folder string, host *desktoptest.Host) error {
	db, err := sql.Open("sqlite", filepath.Join(folder, "bureau.db"))
	if err != nil {
		return err
	}
	defer db.Close()
	rows, err := db.Query(`SELECT id, wish, boot, failure, has_disk FROM desktops WHERE destroyed_at IS NULL`)
	if err != nil {
		return err
	}
	defer rows.Close()
	now := host.Now()
	alive := 0
	for ; rows.Next(); alive++ {
		var id, wish, boot, failure string
		var hasDisk bool
		if err := rows.Scan(&id, &wish, &boot, &failure, &hasDisk); err != nil {
			return err
		}
		m, machine := now.Machines[id]
		_, disk := now.Disks[id]
		state := fmt.Sprintf("record %s: wish %s, boot %q, failure %q, hasDisk %t; machine %+v, disk %t", id, wish, boot, failure, hasDisk, m, disk)
		if failure != "" || boot != "" || hasDisk != disk || machine != disk || (wish == "run") != (m.State == desktop.MachineRunning) {
			return fmt.Errorf("record and host do not agree: %s", state)
		}
		delete(now.Machines, id)
		delete(now.Disks, id)
		if got := now.Starts[id]; got != o.starts {
			return fmt.Errorf("the machine was turned on %d times, want %d: %s", got, o.starts, state)
		}
	}
	if want := map[bool]int{true: 0, false: 1}[o.to == ""]; alive != want {
		return fmt.Errorf("%d desktops are alive, want %d", alive, want)
	}
	if len(now.Machines) != 0 || len(now.Disks) != 0 {
		return fmt.Errorf("without an owner: machines %v, disks %v", now.Machines, now.Disks)
	}
	var stray int
	if err := db.QueryRow(`SELECT count(*) FROM providers JOIN desktops ON desktops.id = providers.desktop WHERE destroyed_at IS NOT NULL`).Scan(&stray); err != nil || stray != 0 {
		return fmt.Errorf("%d providers belong to destroyed desktops: %v", stray, err)
	}
	return rows.Err()
}

// folder is where fsync costs little: what is proved here is the order of writes.
func tempFolder(t *testing.T) string {
	t.Helper()
	base := "/dev/shm"
	if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = ""
	}
	folder, err := os.MkdirTemp(base, "bureau-crash-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(folder) })
	return folder
}

// template is a folder and a host's file where an operation begins, made once and copied.
func (o operation) template(t *testing.T) (folder, id string) {
	t.Helper()
	folder = tempFolder(t)
	host, err := desktoptest.NewHost(filepath.Join(folder, "host.json"))
	if err != nil {
		t.Fatal(err)
	}
	if id, err = o.arrange(t.Context(), folder, host); err != nil {
		t.Fatal("arrange:", err)
	}
	return folder, id
}

func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(to, "master.keys"), 0o600); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
}

// moment is a moment of a process's life: the nth of its name.
type moment struct {
	name string
	nth  int
}

// moments are those of the operation when nothing dies. Of the calls that only look, each name is
// there once: how often they come follows from when events come in, and they change nothing.
func (o operation) moments(t *testing.T, template, id string) []moment {
	t.Helper()
	folder := filepath.Join(tempFolder(t), "life")
	copyFolder(t, template, folder)
	host := openHost(t, folder)
	p, err := begin(t.Context(), folder, host, desktoptest.NewMortal("", 0))
	if err != nil {
		t.Fatal(err)
	}
	if err := o.run(t.Context(), p, id); err != nil {
		t.Fatalf("without a crash: %v", err)
	}
	p.end()
	var list []moment
	seen := map[string]int{}
	for _, name := range p.mortal.Passed() {
		seen[name]++
		if m := (moment{name, seen[name]}); m.nth == 1 || !m.isLook() {
			list = append(list, m)
		}
	}
	return list
}

// looks are the calls that change nothing.
var looks = []string{"Inspect", "List", "Desktop", "Desktops", "Image"}

func (m moment) isLook() bool {
	_, call, _ := strings.Cut(m.name, " ")
	return slices.Contains(looks, call)
}

func openHost(t *testing.T, folder string) *desktoptest.Host {
	t.Helper()
	host, err := desktoptest.NewHost(filepath.Join(folder, "host.json"))
	if err != nil {
		t.Fatal(err)
	}
	host.Problem = func(problem string) { t.Error(problem) }
	return host
}

func TestCrashAtEveryMoment(t *testing.T) {
	points, names := 0, map[string]int{}
	for _, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			template, id := o.template(t)
			folder := filepath.Join(tempFolder(t), "life")
			died := 0
			for _, m := range o.moments(t, template, id) {
				copyFolder(t, template, folder)
				host := openHost(t, folder)
				mortal := desktoptest.NewMortal(m.name, m.nth)
				p, err := begin(t.Context(), folder, host, mortal)
				if err == nil {
					if err := o.run(t.Context(), p, id); err != nil {
						t.Fatalf("to die at %v: %v", m, err)
					}
					p.end()
				} else if !mortal.Dead() {
					t.Fatal(err)
				}
				switch {
				case mortal.Dead():
					died++
					names[m.name]++
				case !m.isLook():
					t.Errorf("it did not come to %v: %v", m, mortal.Passed())
				}
				if err := o.recover(t.Context(), folder, host, id); err != nil {
					t.Fatalf("died at %v: %v\nmoments: %v", m, err, mortal.Passed())
				}
			}
			t.Logf("%d crash points", died)
			points += died
		})
	}
	t.Logf("%d crash points: %v", points, names)
	if t.Failed() || testing.Short() {
		return
	}
	for _, name := range []string{"InsertDesktop", "UpdateDesktop", "Take", "Finish", "InsertProvider", "Inspect", "Start", "disk", "definition",
		"turning on", "Stop", "request to shut down", "shutdown", "Remove", "forgetting", "deleting the disk"} {
		if names["before "+name] == 0 || names["after "+name] == 0 {
			t.Errorf("it never died around %s", name)
		}
	}
}

// lifeVariable tells a child process of TestKilledAtEveryMoment what to do.
const lifeVariable = "BUREAU_CRASH_TEST_LIFE"

func TestMain(m *testing.M) {
	if life := os.Getenv(lifeVariable); life != "" {
		if err := live(context.Background(), life); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// live does one operation in this process, which kills itself at its moment: folder, operation,
// name and number of the moment, desktop, one a line.
func live(ctx context.Context, life string) error {
	parts := strings.Split(life, "\n")
	folder, name, id := parts[0], parts[2], parts[4]
	number, err := strconv.Atoi(parts[1])
	if err != nil {
		return err
	}
	nth, err := strconv.Atoi(parts[3])
	if err != nil {
		return err
	}
	host, err := desktoptest.NewHost(filepath.Join(folder, "host.json"))
	if err != nil {
		return err
	}
	mortal := desktoptest.NewMortal(name, nth)
	mortal.Die = func() {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
	p, err := begin(ctx, folder, host, mortal)
	if err != nil {
		return err
	}
	defer p.end()
	return operations[number].run(ctx, p, id)
}

// The same with a real process that is really killed, at every fifth moment, a different one of them
// for each operation: what SQLite and the files of a killed process are like is the kernel's word.
func TestKilledAtMoments(t *testing.T) {
	const stride = 5
	kills := 0
	for number, o := range operations {
		t.Run(o.name, func(t *testing.T) {
			template, id := o.template(t)
			folder := filepath.Join(tempFolder(t), "life")
			moments := o.moments(t, template, id)
			for i := number % stride; i < len(moments); i += stride {
				m := moments[i]
				copyFolder(t, template, folder)
				child := exec.CommandContext(t.Context(), os.Args[0])
				child.Env = append(os.Environ(), lifeVariable+"="+strings.Join([]string{folder, strconv.Itoa(number), m.name, strconv.Itoa(m.nth), id}, "\n"))
				var said bytes.Buffer
				child.Stderr, child.Stdout = &said, io.Discard
				if err := child.Run(); err == nil && m.isLook() {
					continue // it was done before that moment
				}
				status, ok := child.ProcessState.Sys().(syscall.WaitStatus)
				if !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
					t.Fatalf("to be killed at %v, the child ended with %v: %s", m, child.ProcessState, said.String())
				}
				kills++
				if err := o.recover(t.Context(), folder, openHost(t, folder), id); err != nil {
					t.Fatalf("killed at %v: %v", m, err)
				}
			}
		})
	}
	t.Logf("%d processes killed", kills)
	if kills < len(operations) {
		t.Errorf("only %d processes were killed", kills)
	}
}
