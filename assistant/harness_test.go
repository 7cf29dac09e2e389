package assistant_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"image"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/store"
)

// bench is a service over the real store, a model that is played and a desktop that is this host's
// shell and a display in memory.
type bench struct {
	t        testing.TB
	path     string // of the database
	store    *store.Store
	service  *assistant.Service
	desk     *desk
	options  assistant.Options
	requests []model.Request
	mu       sync.Mutex
	script   []answer
	endpoint []string // the models that were asked
	budget   error    // of Allow
	allowed  int      // calls of it
	recorded model.Usage
	slept    []time.Duration
}

// answer is one of the model's.
type answer func(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error)

// caller is the desktop's owner.
var caller = desktop.Caller{User: desktop.User{ID: "usr-1"}}

func newBench(t testing.TB, change func(*bench)) *bench {
	t.Helper()
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "bureau.db"), desk: newDesk(t)}
	b.options = assistant.Options{Desktops: b.desk, Providers: b, Meter: b, Log: slog.New(slog.DiscardHandler),
		Model: func(e model.Endpoint) (model.Model, error) { return played{b, e}, nil }}
	if change != nil {
		change(b)
	}
	b.open()
	ctx := context.Background()
	if err := b.store.InsertUser(ctx, desktop.User{ID: "usr-1", Email: "a@b", Role: desktop.RoleUser}); err != nil {
		t.Fatal(err)
	}
	if err := b.store.InsertDesktop(ctx, desktop.Record{ID: "dt-1", Owner: "usr-1", Name: "demo", Wish: desktop.WishRun}, 0); err != nil {
		t.Fatal(err)
	}
	b.start()
	t.Cleanup(b.stop)
	return b
}

func (b *bench) open() {
	b.t.Helper()
	var err error
	if b.store, err = store.Open(context.Background(), b.path); err != nil {
		b.t.Fatal(err)
	}
	b.options.Store = b.store
}

func (b *bench) start() {
	b.t.Helper()
	var err error
	if b.service, err = assistant.New(context.Background(), b.options); err != nil {
		b.t.Fatal(err)
	}
	b.service.SetSleep(func(ctx context.Context, d time.Duration) error {
		b.mu.Lock()
		b.slept = append(b.slept, d)
		b.mu.Unlock()
		return ctx.Err()
	})
}

func (b *bench) stop() {
	if b.service != nil {
		b.service.Close()
		b.store.Close()
		b.service = nil
	}
}

func (b *bench) Endpoints(context.Context, string, string) ([]model.Endpoint, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.endpoint) == 0 {
		return []model.Endpoint{{Format: model.Anthropic, Model: "first"}}, nil
	}
	var list []model.Endpoint
	for _, name := range b.endpoint {
		if name == "none" {
			return nil, desktop.Errorf(desktop.NotFound, "there is none")
		}
		list = append(list, model.Endpoint{Format: model.Anthropic, Model: name})
	}
	return list, nil
}

func (b *bench) Allow(context.Context, string, string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.allowed++
	return b.budget
}

func (b *bench) Record(_ context.Context, _, _ string, _ model.Endpoint, usage model.Usage) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.recorded = b.recorded.Add(usage)
	return nil
}

// played is a model that answers by the bench's script.
type played struct {
	b        *bench
	endpoint model.Endpoint
}

func (p played) Next(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error) {
	b := p.b
	b.mu.Lock()
	b.requests = append(b.requests, request)
	if len(b.script) == 0 {
		b.mu.Unlock()
		return model.Response{}, errors.New("the script is over")
	}
	next := b.script[0]
	b.script = b.script[1:]
	b.mu.Unlock()
	checkRequest(b.t, request)
	response, err := next(ctx, request, tell)
	if response.Model == "" {
		response.Model = p.endpoint.Model
	}
	return response, err
}

// checkRequest sees to it that a conversation is one that a provider takes.
func checkRequest(t testing.TB, request model.Request) {
	t.Helper()
	var open map[string]bool
	for i, message := range request.Messages {
		if want := []model.Role{model.User, model.Assistant}[i%2]; message.Role != want {
			t.Errorf("message %d is the %s's", i, message.Role)
		}
		results := map[string]bool{}
		for _, part := range message.Parts {
			if part.Result != nil {
				results[part.Result.ID] = true
				if !open[part.Result.ID] {
					t.Errorf("message %d has a result of no call: %+v", i, part.Result)
				}
				if p := part.Result.Picture; p != nil {
					if m, kind, err := image.DecodeConfig(bytes.NewReader(p.Data)); err != nil || kind != "jpeg" || m.Width != p.Width || m.Height != p.Height {
						t.Errorf("message %d has a picture that is none: %v", i, err)
					}
				}
			}
		}
		if len(results) != len(open) {
			t.Errorf("message %d has %d results for %d calls", i, len(results), len(open))
		}
		open = map[string]bool{}
		for _, part := range message.Parts {
			if part.Call != nil {
				open[part.Call.ID] = true
			}
		}
	}
	if len(open) != 0 {
		t.Errorf("%d calls have no result", len(open))
	}
}

func (b *bench) play(answers ...answer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.script = append(b.script, answers...)
}

func (b *bench) asked() []model.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.requests)
}

// say is an answer in words, told in two pieces.
func say(text string) answer {
	return func(_ context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		tell(model.Delta{Text: text[:len(text)/2]})
		tell(model.Delta{Text: text[len(text)/2:]})
		return response(model.EndTurn, model.Part{Text: text}), nil
	}
}

func response(stop model.Stop, parts ...model.Part) model.Response {
	return model.Response{Message: model.Message{Role: model.Assistant, Parts: parts}, Stop: stop, Usage: model.Usage{Input: 100, Output: 10}}
}

// use is an answer that calls tools: name and arguments in turn.
func use(calls ...string) answer {
	return func(_ context.Context, request model.Request, _ func(model.Delta)) (model.Response, error) {
		var parts []model.Part
		for i := 0; i < len(calls); i += 2 {
			parts = append(parts, model.Part{Call: &model.Call{ID: "call-" + string(rune('a'+len(request.Messages))) + string(rune('0'+i)),
				Tool: calls[i], Arguments: json.RawMessage(calls[i+1]), Format: model.Anthropic}})
		}
		return response(model.ToolUse, parts...), nil
	}
}

// bash is an answer that runs a command.
func bash(command string) answer {
	arguments, _ := json.Marshal(map[string]string{"command": command})
	return use("bash", string(arguments))
}

const screenshot = `{"action":"screenshot"}`

// fail is an answer that does not come, after some of it has.
func fail(e model.Error, told string) answer {
	return func(_ context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		if told != "" {
			tell(model.Delta{Text: told})
		}
		return model.Response{}, &e
	}
}

// begin begins a turn.
func (b *bench) begin(prompt assistant.Prompt) assistant.Turn {
	b.t.Helper()
	turn, err := b.service.Begin(b.t.Context(), caller, "dt-1", prompt)
	if err != nil {
		b.t.Fatal(err)
	}
	return turn
}

// wait is a turn, ended.
func (b *bench) wait(turn assistant.Turn) assistant.Turn {
	b.t.Helper()
	ended, err := b.service.Wait(b.t.Context(), caller, "dt-1", turn.ID)
	if err != nil {
		b.t.Fatal(err)
	}
	return ended
}

// chat is a whole turn.
func (b *bench) chat(prompt assistant.Prompt, answers ...answer) assistant.Turn {
	b.t.Helper()
	b.play(answers...)
	return b.wait(b.begin(prompt))
}

// events are a turn's after a number, to its end.
func (b *bench) events(turn assistant.Turn, after int64) []assistant.Event {
	b.t.Helper()
	var all []assistant.Event
	for {
		events, err := b.service.Events(b.t.Context(), caller, "dt-1", turn.ID, after)
		if err != nil {
			b.t.Fatal(err)
		}
		if len(events) == 0 {
			return all
		}
		all = append(all, events...)
		after = events[len(events)-1].Number
	}
}

// await is the first event of a kind of a turn that runs.
func (b *bench) await(turn assistant.Turn, kind assistant.EventKind) map[string]any {
	b.t.Helper()
	after := int64(0)
	for {
		events, err := b.service.Events(b.t.Context(), caller, "dt-1", turn.ID, after)
		if err != nil || len(events) == 0 {
			b.t.Fatalf("no event %s: %v", kind, err)
		}
		for _, event := range events {
			if after = event.Number; event.Kind == kind {
				var data map[string]any
				if err := json.Unmarshal(event.Data, &data); err != nil {
					b.t.Fatal(err)
				}
				return data
			}
		}
	}
}

func kinds(events []assistant.Event) string {
	var list []string
	for _, event := range events {
		list = append(list, string(event.Kind))
	}
	return strings.Join(list, " ")
}

// results are what a model was told of its calls in the last message of a request.
func results(request model.Request) []model.Result {
	var list []model.Result
	for _, part := range request.Messages[len(request.Messages)-1].Parts {
		if part.Result != nil {
			list = append(list, *part.Result)
		}
	}
	return list
}

// wantEnd checks how a turn ended, and that its session goes on.
func (b *bench) wantEnd(turn assistant.Turn, reason assistant.StopReason, sentence string) {
	b.t.Helper()
	if turn.StopReason != reason || !strings.Contains(turn.Error, sentence) || turn.EndedAt == nil {
		b.t.Errorf("the turn ended with %q: %q, want %q: %q", turn.StopReason, turn.Error, reason, sentence)
	}
	b.mu.Lock()
	b.script, b.budget = nil, nil
	b.mu.Unlock()
	b.desk.set(func(d *desk) { d.fail = nil })
	next := b.chat(assistant.Prompt{Message: "and now?", SessionID: turn.SessionID}, say("It goes on."))
	if next.StopReason != assistant.EndTurn || next.Message != "It goes on." || next.SessionID != turn.SessionID {
		b.t.Errorf("the session does not go on: %+v", next)
	}
}

// desk is a desktop: a shell of this host's in a folder, and a display.
type desk struct {
	home string

	mu      sync.Mutex
	desktop desktop.Desktop
	frame   *desktop.Frame
	acted   []desktop.Action
	ran     []desktop.Exec
	windows []desktop.Window
	// fail, when not nil, is asked before each call, by its name.
	fail func(call string) error
}

func newDesk(t testing.TB) *desk {
	size := image.Rect(0, 0, 640, 400)
	return &desk{home: t.TempDir(), frame: &desktop.Frame{Serial: 1, Pixels: image.NewRGBA(size)},
		desktop: desktop.Desktop{ID: "dt-1", Owner: "usr-1", Name: "demo", Status: desktop.Running, AgentReady: true}}
}

func (d *desk) set(change func(*desk)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	change(d)
}

func (d *desk) enter(call string) error {
	d.mu.Lock()
	fail := d.fail
	d.mu.Unlock()
	if fail != nil {
		return fail(call)
	}
	return nil
}

func (d *desk) inputs() []desktop.Action {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.acted)
}

// scripts are the commands that a model has had run.
func (d *desk) scripts() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for _, command := range d.ran {
		if command.Bash {
			list = append(list, command.Script)
		}
	}
	return list
}

func (d *desk) Get(_ context.Context, c desktop.Caller, id string) (desktop.Desktop, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if id != d.desktop.ID || !c.Owns(d.desktop.Owner) {
		return desktop.Desktop{}, desktop.Errorf(desktop.NotFound, "there is no desktop %s", id)
	}
	return d.desktop, nil
}

func (d *desk) See(context.Context, desktop.Caller, string, time.Duration) (desktop.Sight, error) {
	if err := d.enter("See"); err != nil {
		return desktop.Sight{}, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return desktop.Sight{Frame: d.frame, Settled: true}, nil
}

func (d *desk) ActAndSee(ctx context.Context, c desktop.Caller, id string, settle time.Duration, actions ...desktop.Action) (*desktop.Acted, desktop.Sight, error) {
	call := "Act"
	if len(actions) == 0 {
		call = "Probe"
	}
	if err := d.enter(call); err != nil {
		return nil, desktop.Sight{}, err
	}
	d.set(func(d *desk) { d.acted = append(d.acted, actions...) })
	sight, err := d.See(ctx, c, id, settle)
	return &desktop.Acted{Cursor: desktop.Point{X: 10, Y: 20}, Display: desktop.Size{Width: 640, Height: 400}}, sight, err
}

func (d *desk) Exec(ctx context.Context, _ desktop.Caller, _ string, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
	if err := d.enter("Exec"); err != nil {
		return desktop.ExecResult{}, err
	}
	d.set(func(d *desk) { d.ran = append(d.ran, command) })
	shell := "sh"
	if command.Bash {
		shell = "bash"
	}
	within, cancel := context.WithTimeout(ctx, command.Timeout)
	defer cancel()
	run := exec.CommandContext(within, shell, "-c", command.Script)
	run.Dir, run.Stdin = d.home, bytes.NewReader(command.Stdin)
	run.Env = []string{"HOME=" + d.home, "PATH=" + d.home + "/bin:" + os.Getenv("PATH")}
	for name, value := range command.Env {
		run.Env = append(run.Env, name+"="+value)
	}
	run.WaitDelay = time.Second
	var stdout, stderr bytes.Buffer
	run.Stdout, run.Stderr = &stdout, &stderr
	if output != nil {
		var one sync.Mutex
		run.Stdout, run.Stderr = teller{desktop.Stdout, output, &one}, teller{desktop.Stderr, output, &one}
	}
	err := run.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return desktop.ExecResult{}, ctx.Err()
	case err != nil && !errors.As(err, &exit):
		return desktop.ExecResult{}, err
	}
	return desktop.ExecResult{Stdout: stdout.String(), Stderr: stderr.String(), ExitCode: run.ProcessState.ExitCode(), TimedOut: within.Err() != nil}, nil
}

type teller struct {
	stream desktop.Stream
	tell   func(desktop.Stream, []byte)
	one    *sync.Mutex
}

func (w teller) Write(p []byte) (int, error) {
	w.one.Lock()
	defer w.one.Unlock()
	w.tell(w.stream, p)
	return len(p), nil
}

func (d *desk) Windows(context.Context, desktop.Caller, string) ([]desktop.Window, error) {
	if err := d.enter("Windows"); err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.windows, nil
}

// frame is a black display.
func frame(serial uint64, width, height int) *desktop.Frame {
	return &desktop.Frame{Serial: serial, Pixels: image.NewRGBA(image.Rect(0, 0, width, height))}
}
