package e2e

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// The models of these tests are scripted: what is tested is all that is between a model and a desktop,
// and no model's judgment. The server of the script is strict about what it is asked.

// turn is what the tests read of a chat's answer.
type turn struct {
	TurnID     string     `json:"turnId"`
	SessionID  string     `json:"sessionId"`
	Prompt     string     `json:"prompt"`
	Message    string     `json:"message"`
	StopReason string     `json:"stopReason"`
	Error      string     `json:"error"`
	Steps      []turnStep `json:"steps"`
	Usage      struct {
		Input  int64 `json:"inputTokens"`
		Output int64 `json:"outputTokens"`
	} `json:"usage"`
	EndedAt *time.Time `json:"endedAt"`
}

type turnStep struct {
	Number    int            `json:"number"`
	Tool      string         `json:"tool"`
	Arguments map[string]any `json:"arguments"`
	Result    string         `json:"result"`
	Failed    bool           `json:"failed"`
}

// tools are a turn's steps by their tools' names.
func (r turn) tools() string {
	var names []string
	for _, step := range r.Steps {
		names = append(names, step.Tool)
	}
	return strings.Join(names, " ")
}

// wantAnswer checks that a turn ended by itself, and how.
func (r turn) wantAnswer(t testing.TB, message string) {
	t.Helper()
	if r.StopReason != "end_turn" || r.EndedAt == nil || !strings.Contains(r.Message, message) {
		t.Errorf("the turn ended with %q (%s) and the answer %q, which does not say %q", r.StopReason, r.Error, r.Message, message)
	}
}

// provide gives the appliance a model provider, as its operator does; with "--desktop" and an id among
// args it is one desktop's. The kinds of providers have the names of their formats.
func (a *appliance) provide(t testing.TB, format model.Format, url, key string, args ...string) {
	t.Helper()
	add := append([]string{"provider", "add", string(format), "--base-url", url,
		"--model", modeltest.Endpoint(format, "", "").Model}, args...)
	a.secret(key)
	c := a.command(t.Context(), add...)
	c.Stdin = strings.NewReader(key)
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("bureau %s: %v\n%s", strings.Join(add, " "), err, out)
	}
	remove := []string{"provider", "remove"}
	if len(args) == 0 {
		remove = append(remove, string(format))
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if _, err := a.output(ctx, append(remove, args...)...); err != nil {
			t.Error(err)
		}
	})
}

// newKey is a provider's key that is like nothing else on a machine.
func newKey() string { return rand.Text() + rand.Text() }

// scripted makes a desktop's model, of a format, take these steps.
func (g *guest) scripted(t testing.TB, format model.Format, steps ...modeltest.Step) *modeltest.Server {
	t.Helper()
	width, height := g.display(t)
	return g.lend(t, format, modeltest.Script{Display: &model.Display{Width: width, Height: height}, Steps: steps})
}

// lend makes a desktop's model answer from a script. A turn that still runs is ended with the test.
func (g *guest) lend(t testing.TB, format model.Format, script modeltest.Script) *modeltest.Server {
	t.Helper()
	key := newKey()
	server := modeltest.New(key, script)
	server.Failf = t.Errorf
	host := httptest.NewServer(server)
	t.Cleanup(host.Close)
	g.provide(t, format, host.URL, key, "--desktop", g.id)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if r, err := g.send(ctx, http.MethodPost, g.path("chat/cancel"), nil); err != nil || r.status != http.StatusOK && r.status != http.StatusConflict {
			t.Errorf("ending a turn: %v %s", err, r)
		}
	})
	return server
}

// bash is a step in which the model runs a command.
func bash(command string) modeltest.Step {
	arguments, err := json.Marshal(map[string]string{"command": command})
	if err != nil {
		panic(err) // a string always can be written
	}
	return modeltest.Step{Calls: []modeltest.Call{modeltest.Use("bash", string(arguments))}}
}

// actions is a step in which the model uses the computer.
func actions(list string) modeltest.Step {
	return modeltest.Step{Calls: []modeltest.Call{modeltest.Computer(list)}}
}

// expecting is a step that is taken only when the model was told something that matches.
func expecting(told string, step modeltest.Step) modeltest.Step {
	step.Expect = told
	return step
}

func saying(text string) modeltest.Step { return modeltest.Step{Text: text} }

// chat gives the desktop's agent a message and waits for the turn's end.
func (g *guest) chat(t testing.TB, message, session string) turn {
	t.Helper()
	body := map[string]any{"message": message, "timeoutMs": (5 * time.Minute).Milliseconds()}
	if session != "" {
		body["sessionId"] = session
	}
	return decode[turn](t, g.call(t, http.MethodPost, g.path("chat"), body).body)
}

// conversation is a turn that is followed.
type conversation struct {
	turn
	events <-chan sse
}

// begin gives the desktop's agent a message and returns when the turn has begun.
func (g *guest) begin(t testing.TB, message string) *conversation {
	t.Helper()
	c := &conversation{events: g.stream(t, "chat", map[string]any{"message": message})}
	c.turn = decode[turn](t, []byte(c.await(t, "turn").data))
	return c
}

// await is the next event of a kind; what comes before it is passed over.
func (c *conversation) await(t testing.TB, kind string) sse {
	t.Helper()
	limit := time.After(2 * time.Minute)
	var passed []string
	for {
		select {
		case e, open := <-c.events:
			if !open {
				t.Fatalf("the stream ends after %q without an event %s", passed, kind)
			}
			if e.event == kind {
				return e
			}
			passed = append(passed, e.event)
			if e.event == "done" {
				t.Fatalf("the turn ends without an event %s: %s", kind, e.data)
			}
		case <-limit:
			t.Fatalf("no event %s comes after %q", kind, passed)
		}
	}
}

// end is the turn when it has ended.
func (c *conversation) end(t testing.TB) turn {
	t.Helper()
	return decode[turn](t, []byte(c.await(t, "done").data))
}

// cleanUp runs a command as root when a test has ended.
func (g *guest) cleanUp(t testing.TB, command string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := g.trySh(ctx, "root", command); err != nil {
		t.Error(err)
	}
}

// exists waits until there is a file.
func (g *guest) exists(t testing.TB, path string) {
	t.Helper()
	eventually(t, patience, func() error {
		_, err := g.trySh(t.Context(), "", "test -e "+path)
		return err
	})
}

// waiting is a command that says that it has begun and waits to be let go on, by files of a name.
func waiting(name string) string {
	return "touch " + name + ".begun; while ! [ -e " + name + ".go-on ]; do sleep 0.1; done"
}

// A task as a person would give it, through each of the formats: the editor is opened, a poem typed
// and saved under a name, the file read back, the answer its first line.
func TestChatInEveryFormat(t *testing.T) {
	g := shared(t)
	for _, format := range model.Formats() {
		t.Run(string(format), func(t *testing.T) {
			began := time.Now()
			file := "/home/agent/poem-" + string(format) + ".txt"
			g.sh(t, "rm -f "+file)
			t.Cleanup(func() { g.cleanUp(t, "pkill -x mousepad; rm -f "+file) })
			// Settings in memory alone: an editor that was killed would ask the next one about its session.
			const first, rest = "A pointer crosses the night,", "und Grüße wandern mit: 世界"
			server := g.scripted(t, format,
				modeltest.Step{Text: "I open the editor.", Reasoning: "A poem is wanted.", Calls: bash(
					"GSETTINGS_BACKEND=memory setsid -f mousepad --disable-server >/dev/null 2>&1 </dev/null\n" + untilActive("mousepad", "")).Calls},
				expecting("active", actions(`[{"type":"move","x":345,"y":234},{"type":"type","text":"`+first+`\n`+rest+`\n"},{"type":"key","key":"ctrl+s"}]`)),
				bash(untilActive("mousepad", "Save As")),
				// The dialog looks for what the name begins, and takes Return for that while it does.
				expecting("active", actions(`[{"type":"type","text":"`+file+`"},{"type":"wait","ms":3000},{"type":"key","key":"Return"}]`)),
				modeltest.Step{Text: "I read it back.", Calls: bash("for i in $(seq 300); do [ -s " + file + " ] && break; [ $((i % 100)) != 0 ] || xdotool key Return; sleep 0.1; done; cat " + file).Calls},
				saying("The first line is: {{line 1 .Result}}"),
			)
			got := g.chat(t, "Write a poem and save it as "+file, "")
			got.wantAnswer(t, "The first line is: "+first)
			if text := g.sh(t, "cat "+file); text != first+"\n"+rest+"\n" {
				t.Errorf("the file has %q", text)
			}
			if at := decode[struct{ X, Y int }](t, g.probe(t, "pointer")); abs(at.X-345) > 2 || abs(at.Y-234) > 2 { // on a grid of 1000, in one format
				t.Errorf("the pointer is at %d,%d", at.X, at.Y)
			}

			// The steps say what happened. Two formats have an action in a call, the others several.
			for i, step := range got.Steps {
				if step.Number != i+1 || step.Failed || len(step.Arguments) == 0 {
					t.Errorf("step %d: %+v", i+1, step)
				}
			}
			want := "bash computer bash computer bash"
			if format == model.Anthropic || format == model.Gemini {
				want = "bash computer computer computer bash computer computer computer bash"
			}
			if got.tools() != want {
				t.Errorf("the steps are %q, not %q", got.tools(), want)
			} else if last := got.Steps[len(got.Steps)-1]; !strings.Contains(fmt.Sprint(last.Arguments["command"]), "cat "+file) || last.Result != first+"\n"+rest+"\n" {
				t.Errorf("the last step is %+v", last)
			}
			if got.Usage.Output == 0 || got.Usage.Input == 0 {
				t.Errorf("it took %+v", got.Usage)
			}
			if requests := server.Requests(); server.Left() != 0 || len(requests[len(requests)-1].Pictures()) == 0 {
				t.Errorf("%d steps of the script are left; the model has seen %d pictures", server.Left(), len(requests[len(requests)-1].Pictures()))
			}
			// What was said and done is in the session.
			type history struct {
				History []turn `json:"history"`
			}
			session := decode[history](t, g.call(t, http.MethodGet, g.path("chat/sessions/"+got.SessionID), nil).body)
			if len(session.History) != 1 || session.History[0].Message != got.Message || session.History[0].tools() != want {
				t.Errorf("the session has %+v", session)
			}
			t.Logf("%s took %s", format, time.Since(began).Round(time.Second/10))
		})
	}
}

func abs(n int) int { return max(n, -n) }

// untilActive is a command that waits until a window of a class, with a title when that is not empty, has
// the keyboard, and says so.
func untilActive(class, title string) string {
	return `for i in $(seq 300); do
w=$(xprop -root _NET_ACTIVE_WINDOW | sed 's/.*# //')
xprop -id "$w" WM_CLASS 2>/dev/null | grep -qi '` + class + `' && xprop -id "$w" WM_NAME _NET_WM_NAME | grep -q '` + title + `' && echo active && exit
sleep 0.1
done
wmctrl -lx; exit 1`
}

// What make demo-chat shows a person works, from the command line.
func TestChatDemo(t *testing.T) {
	g := shared(t)
	script, err := modeltest.Demo()
	if err != nil {
		t.Fatal(err)
	}
	for i := range script.Steps {
		script.Steps[i].PaceMs = 0
	}
	g.lend(t, model.Anthropic, script)
	t.Cleanup(func() { g.cleanUp(t, "pkill -x mousepad") })
	out, err := lab.output(t.Context(), "chat", g.id, "--json", "Write a poem")
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	got := decode[turn](t, out)
	poem := g.sh(t, "cat ~/poem.txt")
	first, _, _ := strings.Cut(poem, "\n")
	if strings.Count(poem, "\n") < 4 || first == "" {
		t.Errorf("the poem is %q", poem)
	}
	got.wantAnswer(t, first)
}

// serve is killed in the middle of a turn: the turn says so, what it has done is known, and the session
// goes on.
func TestChatSurvivesServe(t *testing.T) {
	g := alone(t)
	const name = "/tmp/chat-serve"
	g.sh(t, "rm -f "+name+".*")
	server := g.scripted(t, model.Anthropic,
		modeltest.Step{Text: "I begin.", Calls: bash("echo first").Calls},
		bash(waiting(name)),
		expecting("Go on", saying("It goes on.")),
	)
	c := g.begin(t, "Do it")
	g.exists(t, name+".begun")
	if err := lab.end(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	if err := lab.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	g.again(t, began)
	g.sh(t, "touch "+name+".go-on") // nobody waits for that command any more
	got := decode[turn](t, g.call(t, http.MethodGet, g.path("chat/turns/"+c.TurnID), nil).body)
	if got.StopReason != "interrupted" || got.Error == "" || got.EndedAt == nil || got.Prompt != "Do it" || got.Message != "I begin." {
		t.Errorf("the turn is %+v", got)
	}
	if got.tools() != "bash" || got.Steps[0].Result != "first\n" {
		t.Errorf("the steps that were done are %+v", got.Steps)
	}
	next := g.chat(t, "Go on", c.SessionID)
	next.wantAnswer(t, "It goes on.")
	if next.SessionID != c.SessionID || server.Left() != 0 {
		t.Errorf("the next turn is %+v; %d steps of the script are left", next, server.Left())
	}
	// The model has been given all of it again.
	requests := server.Requests()
	said := fmt.Sprintf("%+v", requests[len(requests)-1].Messages)
	for _, text := range []string{"Do it", "I begin.", "interrupted", "Go on"} {
		if !strings.Contains(said, text) {
			t.Errorf("the model does not know of %q", text)
		}
	}
}

// The guest's agent is killed in the middle of a turn, which waits for it and goes on.
func TestChatSurvivesAgent(t *testing.T) {
	g := shared(t)
	const name = "/tmp/chat-agent"
	g.sh(t, "rm -f "+name+".*")
	server := g.scripted(t, model.OpenAI,
		bash(waiting(name)),
		expecting("was away", actions(`{"type":"move","x":432,"y":321}`)),
		bash("echo still there"),
		saying("It is {{line 1 .Result}}"),
	)
	boot := g.bootID(t)
	c := g.begin(t, "Do it")
	g.exists(t, name+".begun")
	g.root(t, fmt.Sprintf("systemd-run --quiet --no-block kill -9 %d", g.agentPID(t)))
	c.await(t, "paused")
	c.await(t, "resumed")
	got := c.end(t)
	got.wantAnswer(t, "It is still there")
	if got.tools() != "bash computer bash" || !got.Steps[0].Failed || got.Steps[1].Failed || server.Left() != 0 {
		t.Errorf("%d steps of the script are left; the steps are %+v", server.Left(), got.Steps)
	}
	if at := decode[struct{ X, Y int }](t, g.probe(t, "pointer")); at.X != 432 || at.Y != 321 {
		t.Errorf("the pointer is at %d,%d", at.X, at.Y)
	}
	if g.bootID(t) != boot {
		t.Error("the desktop has booted again")
	}
}

// The guest is booted anew in the middle of a turn, which waits for it and goes on.
func TestChatSurvivesReboot(t *testing.T) {
	own(t)
	g := minimal(t, "chatty")
	const name = "/tmp/chat-reboot"
	server := g.scripted(t, model.Gemini,
		bash("echo kept >~/kept; sync; "+waiting(name)),
		expecting("was away", bash("cat ~/kept; cat /proc/sys/kernel/random/boot_id")),
		saying("It is {{line 1 .Result}}"),
		saying("Next"),
	)
	boot := g.bootID(t)
	c := g.begin(t, "Do it")
	g.exists(t, name+".begun")
	g.root(t, "systemd-run --quiet --no-block systemctl reboot --force --force")
	c.await(t, "paused")
	limit, cancel := context.WithTimeout(t.Context(), bootPatience)
	defer cancel()
	var got turn
	for got.EndedAt == nil { // an event of the stream comes when it comes
		select {
		case e, open := <-c.events:
			if !open {
				t.Fatal("the stream ends before the turn does")
			}
			if e.event == "done" {
				got = decode[turn](t, []byte(e.data))
			}
		case <-limit.Done():
			t.Fatal("the turn does not end")
		}
	}
	got.wantAnswer(t, "It is kept")
	if len(got.Steps) != 2 || !strings.HasPrefix(got.Steps[1].Result, "kept\n") || strings.Contains(got.Steps[1].Result, boot) {
		t.Errorf("the steps are %+v", got.Steps)
	}
	next := g.chat(t, "And now?", c.SessionID)
	next.wantAnswer(t, "Next")
	if server.Left() != 0 {
		t.Errorf("%d steps of the script are left", server.Left())
	}
}

// lease is what taking the input answers.
type lease struct {
	Holder string `json:"holder"`
	Token  string `json:"token"`
}

// While a person holds the input nobody else moves anything, neither clients nor the desktop's agent,
// whose turn waits; when the lease expires, or is given back, it goes on.
func TestTakeover(t *testing.T) {
	g := shared(t)
	const name = "/tmp/takeover"
	g.sh(t, "rm -f "+name+"-?.*")
	told := "a person had taken over"
	server := g.scripted(t, model.OpenAIChat,
		bash(waiting(name+"-1")),
		actions(`[{"type":"move","x":900,"y":700},{"type":"click","x":900,"y":700}]`),
		expecting(told, actions(`{"type":"move","x":640,"y":400}`)),
		bash(waiting(name+"-2")),
		actions(`[{"type":"click","x":901,"y":701},{"type":"type","text":"no"}]`),
		expecting(told, actions(`{"type":"move","x":300,"y":300}`)),
		saying("Done"),
	)
	g.act(t, "move", map[string]any{"x": 200, "y": 200})
	screen := g.events(t, "")
	c := g.begin(t, "Move it")

	take := func(ctx context.Context, body map[string]any) (lease, context.Context) {
		t.Helper()
		r, err := g.send(ctx, http.MethodPost, g.path("lease"), body)
		if err != nil || r.status != http.StatusOK {
			t.Fatalf("taking the lease: %v %s", err, r)
		}
		l := decode[lease](t, r.body)
		return l, context.WithValue(t.Context(), leaseToken{}, l.Token)
	}
	goOn := func(held context.Context, number string) {
		t.Helper()
		if _, err := g.trySh(held, "", "touch "+name+number+".go-on"); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if r, err := g.send(context.Background(), http.MethodDelete, g.path("lease"), nil); err != nil || r.status != http.StatusNoContent {
			t.Errorf("ending the lease: %v %s", err, r)
		}
	})
	pausedBy := func(holder string) {
		t.Helper()
		if paused := decode[struct{ Holder string }](t, []byte(c.await(t, "paused").data)); paused.Holder != holder {
			t.Errorf("it is paused by %q, not %q", paused.Holder, holder)
		}
	}
	pointerAt := func(ctx context.Context, x, y int) {
		t.Helper()
		out, err := g.trySh(ctx, "", probePath+" pointer")
		if err != nil {
			t.Fatal(err)
		}
		if at := decode[struct{ X, Y int }](t, []byte(out)); at.X != x || at.Y != y {
			t.Errorf("the pointer is at %d,%d, not %d,%d", at.X, at.Y, x, y)
		}
	}

	g.exists(t, name+"-1.begun")
	_, held := take(t.Context(), map[string]any{"holder": "Ada", "durationMs": time.Minute.Milliseconds()})
	goOn(held, "-1")
	pausedBy("Ada")
	pointerAt(held, 200, 200)
	attempts := []struct {
		method, route string
		body          any
	}{
		{http.MethodPost, "move", map[string]any{"x": 800, "y": 600}},
		{http.MethodPost, "click", map[string]any{"x": 801, "y": 601}},
		{http.MethodPost, "drag", map[string]any{"startX": 1, "startY": 2, "endX": 300, "endY": 400}},
		{http.MethodPost, "scroll", map[string]any{"x": 50, "y": 60, "direction": "down"}},
		{http.MethodPost, "key", map[string]any{"key": "a"}},
		{http.MethodPost, "type", map[string]any{"text": "no"}},
		{http.MethodPost, "actions", []map[string]any{{"type": "move", "x": 5, "y": 6}}},
		{http.MethodPost, "exec", map[string]any{"command": "xdotool mousemove 7 8"}},
		{http.MethodPost, "lease", nil},
	}
	var clients sync.WaitGroup
	for range 10 {
		clients.Go(func() {
			for range 3 {
				for _, a := range attempts {
					r, err := g.send(t.Context(), a.method, g.path(a.route), a.body)
					if err != nil {
						t.Error(err)
						return
					}
					wantProblem(t, r, http.StatusLocked, "Ada")
				}
			}
		})
	}
	clients.Wait()
	g.call(t, http.MethodGet, g.path("screenshot"), nil) // pictures stay allowed
	pointerAt(held, 200, 200)
	if r, err := g.send(held, http.MethodPost, g.path("move"), map[string]any{"x": 222, "y": 111}); err != nil || r.status != http.StatusOK {
		t.Errorf("the holder's own move: %v %s", err, r)
	}
	pointerAt(held, 222, 111)
	take(held, map[string]any{"durationMs": 1000}) // and it is left to expire
	c.await(t, "resumed")
	g.exists(t, name+"-2.begun")
	pointerAt(t.Context(), 640, 400)

	_, held = take(t.Context(), map[string]any{"holder": "Bo"})
	goOn(held, "-2")
	pausedBy("Bo")
	pointerAt(held, 640, 400)
	g.call(t, http.MethodDelete, g.path("lease"), nil)
	c.await(t, "resumed")
	got := c.end(t)
	got.wantAnswer(t, "Done")
	if server.Left() != 0 {
		t.Errorf("%d steps of the script are left; the steps are %+v", server.Left(), got.Steps)
	}
	pointerAt(t.Context(), 300, 300)
	// All that the display had of input.
	var moves [][2]int
	for _, e := range screen.collect(t) {
		if e.Type != "motion" {
			t.Errorf("somebody's input got through: %+v", e)
		}
		moves = append(moves, [2]int{e.X, e.Y})
	}
	if want := [][2]int{{222, 111}, {640, 400}, {300, 300}}; !slices.Equal(slices.Compact(moves), want) {
		t.Errorf("the pointer was at %v, not %v", moves, want)
	}
}

// approval is a step that waits for a yes.
type approval struct {
	ApprovalID string         `json:"approvalId"`
	TurnID     string         `json:"turnId"`
	Tool       string         `json:"tool"`
	Arguments  map[string]any `json:"arguments"`
	Status     string         `json:"status"`
}

// No command of the model's runs before a person's yes, and none after a no, of which the model is
// told; typing a command into a terminal is one, too.
func TestApproval(t *testing.T) {
	g := shared(t)
	const name = "/tmp/approval"
	g.sh(t, "rm -f "+name+"-*")
	g.background(t, "xfce4-terminal --disable-server --working-directory=/tmp")
	g.await(t, "xfce4-terminal")
	policy := func(ctx context.Context, shell bool) error {
		r, err := g.send(ctx, http.MethodPatch, "/v1/desktops/"+g.id, map[string]any{"approval": map[string]any{"shell": shell}})
		if err == nil && r.status != http.StatusOK {
			err = errors.New(r.String())
		}
		return err
	}
	if err := policy(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := policy(context.Background(), false); err != nil {
			t.Error(err)
		}
	})
	no := "a person was asked and said no"
	server := g.scripted(t, model.Anthropic,
		bash("touch "+name+"-denied"),
		expecting(no, actions(`{"type":"type","text":"touch `+name+`-typed\n"}`)),
		expecting(no, bash("echo allowed | tee "+name+"-allowed")),
		saying("It was {{line 1 .Result}}"),
	)
	c := g.begin(t, "Touch them")
	absent := func() {
		t.Helper()
		if files := g.sh(t, "ls "+name+"-* 2>/dev/null || true"); files != "" {
			t.Errorf("before a yes there are %s", files)
		}
	}
	decide := func(tool, about string, yes bool) {
		t.Helper()
		asked := decode[approval](t, []byte(c.await(t, "approval").data))
		absent()
		if asked.Tool != tool || asked.Status != "pending" || asked.TurnID != c.TurnID || !strings.Contains(fmt.Sprint(asked.Arguments), about) {
			t.Errorf("it is asked for %+v", asked)
		}
		list := decode[[]approval](t, g.call(t, http.MethodGet, g.path("approvals"), nil).body)
		if len(list) == 0 || list[0].ApprovalID != asked.ApprovalID || list[0].Status != "pending" {
			t.Errorf("the list is %+v", list)
		}
		g.call(t, http.MethodPost, g.path("approvals/"+asked.ApprovalID), map[string]any{"approve": yes})
		again, err := g.send(t.Context(), http.MethodPost, g.path("approvals/"+asked.ApprovalID), map[string]any{"approve": !yes})
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, again, http.StatusConflict)
	}
	decide("bash", "touch "+name+"-denied", false)
	decide("computer", "touch "+name+"-typed", false)
	decide("bash", "tee "+name+"-allowed", true)
	got := c.end(t)
	got.wantAnswer(t, "It was allowed")
	if got.tools() != "bash computer bash" || !got.Steps[0].Failed || !got.Steps[1].Failed || got.Steps[2].Failed || server.Left() != 0 {
		t.Errorf("%d steps of the script are left; the steps are %+v", server.Left(), got.Steps)
	}
	if files := strings.TrimSpace(g.sh(t, "ls "+name+"-*")); files != name+"-allowed" {
		t.Errorf("at the end there are %s", files)
	}
}
