package assistant_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/store"
)

// crashEnv names the database for the child process of TestCrash.
const crashEnv = "BUREAU_ASSISTANT_CRASH_TEST"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		fmt.Fprintln(os.Stderr, turnForEver(path))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// idle is a desktop whose commands do not end.
type idle struct{ *desk }

func (d idle) Exec(ctx context.Context, c desktop.Caller, id string, command desktop.Exec, output func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
	if !command.Bash {
		return desktop.ExecResult{}, nil
	}
	output(desktop.Stdout, []byte("begun"))
	<-ctx.Done()
	return desktop.ExecResult{}, ctx.Err()
}

// turnForEver begins a turn and tells of its events.
func turnForEver(path string) error {
	ctx := context.Background()
	kept, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	size := frame(1, 640, 400)
	d := idle{&desk{frame: size, desktop: desktop.Desktop{ID: "dt-1", Owner: "usr-1", Status: desktop.Running, AgentReady: true}}}
	lone := &bench{script: []answer{
		use("computer", screenshot),
		func(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error) {
			tell(model.Delta{Text: "I run it"})
			return use("bash", `{"command":"for ever"}`, "bash", `{"command":"never"}`)(ctx, request, tell)
		},
	}, t: new(testing.T)}
	service, err := assistant.New(ctx, assistant.Options{Desktops: d, Store: kept, Providers: lone, Meter: lone,
		Log: slog.New(slog.DiscardHandler), Model: func(e model.Endpoint) (model.Model, error) { return played{lone, e}, nil }})
	if err != nil {
		return err
	}
	turn, err := service.Begin(ctx, caller, "dt-1", assistant.Prompt{Message: "go"})
	if err != nil {
		return err
	}
	fmt.Println(turn.ID, turn.SessionID)
	after := int64(0)
	for {
		events, err := service.Events(ctx, caller, "dt-1", turn.ID, after)
		if err != nil {
			return err
		}
		for _, event := range events {
			fmt.Println(event.Number, event.Kind)
			after = event.Number
		}
	}
}

// TestCrash kills the appliance in the middle of a command: the history is whole, says what happened,
// and the next message works.
func TestCrash(t *testing.T) {
	b := newBench(t, func(b *bench) { b.path = filepath.Join(t.TempDir(), "bureau.db") })
	b.stop()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashEnv+"="+b.path)
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(output)
	var turnID, sessionID string
	last := int64(0)
	for lines.Scan() {
		var kind string
		if turnID == "" {
			fmt.Sscan(lines.Text(), &turnID, &sessionID)
			continue
		}
		fmt.Sscan(lines.Text(), &last, &kind)
		if kind == string(assistant.EventToolOutput) {
			child.Process.Kill()
		}
	}
	child.Wait() // it was killed

	b.open()
	b.start()
	turn, err := b.service.Turn(t.Context(), caller, "dt-1", turnID)
	if err != nil || turn.StopReason != assistant.Interrupted || turn.EndedAt == nil || len(turn.Steps) != 1 {
		t.Fatalf("got %+v, %v", turn, err)
	}
	// A reader that had read all there was is told of the end, once.
	events := b.events(turn, last)
	if len(events) != 1 || events[0].Kind != assistant.EventDone || !strings.Contains(string(events[0].Data), `"stopReason":"interrupted"`) {
		t.Errorf("after %d come %s", last, kinds(events))
	}
	b.wantEnd(turn, assistant.Interrupted, "in the middle")
	conversation := b.asked()[0].Messages
	var told []string
	for _, part := range conversation[4].Parts {
		told = append(told, part.Result.Text)
	}
	if len(told) != 2 || !strings.Contains(told[0], "not known") {
		t.Errorf("of what was under way is said %q", told)
	}
	if picture := conversation[2].Parts[0].Result.Picture; picture == nil || len(picture.Data) == 0 {
		t.Error("the picture is lost")
	}
	if note := conversation[5].Parts[0].Text; !strings.Contains(note, "interrupted") {
		t.Errorf("the conversation says %q", note)
	}
	if _, history, err := b.service.History(t.Context(), caller, "dt-1", sessionID); err != nil || len(history) != 2 {
		t.Errorf("history %+v, %v", history, err)
	}
}

// An orderly end of the appliance interrupts the turns, too, and waits for them.
func TestClose(t *testing.T) {
	b := newBench(t, nil)
	b.play(bash("echo on; sleep 1000"))
	turn := b.begin(assistant.Prompt{Message: "go"})
	b.await(turn, assistant.EventToolOutput)
	b.service.Close()
	ended, err := b.store.Turn(t.Context(), turn.ID)
	if err != nil || ended.StopReason != assistant.Interrupted || len(ended.Steps) != 1 {
		t.Errorf("got %+v, %v", ended, err)
	}
	if _, err := b.service.Begin(t.Context(), caller, "dt-1", assistant.Prompt{Message: "go"}); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("a turn began after the end: %v", err)
	}
	b.start()
	b.wantEnd(ended, assistant.Interrupted, "in the middle")
}

// Every reader gets every event once, however slow it is, whenever it comes and wherever it goes on.
func TestEventsAreReadOnceEach(t *testing.T) {
	b := newBench(t, nil)
	const pieces = 5 * assistant.JournalTail
	half, go_on := make(chan struct{}), make(chan struct{})
	b.play(func(_ context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		for i := range pieces {
			if i == pieces/2 {
				close(half)
				<-go_on
			}
			tell(model.Delta{Text: fmt.Sprint(i, " ")})
		}
		return response(model.EndTurn, model.Part{Text: "all"}), nil
	})
	turn := b.begin(assistant.Prompt{Message: "count"})
	<-half
	read := func(after int64, most int) (numbers []int64, text string) {
		for len(numbers) < most {
			events, err := b.service.Events(t.Context(), caller, "dt-1", turn.ID, after)
			if err != nil || len(events) == 0 {
				break
			}
			for _, event := range events {
				after = event.Number
				numbers = append(numbers, event.Number)
				var data struct{ Text string }
				if json.Unmarshal(event.Data, &data); event.Kind == assistant.EventText {
					text += data.Text
				}
			}
		}
		return numbers, text
	}
	// One that reads a little and stops hinders nobody.
	slow, begun := read(0, 1)
	close(go_on)
	ended := b.wait(turn)
	rest, more := read(slow[len(slow)-1], 1<<30)
	all, text := read(0, 1<<30)
	if begun+more != text || len(slow)+len(rest) != len(all) {
		t.Errorf("%d and %d events of %d", len(slow), len(rest), len(all))
	}
	var want strings.Builder
	for i := range pieces {
		fmt.Fprint(&want, i, " ")
	}
	if text != want.String() {
		t.Errorf("the text is not what was told: %d bytes of %d", len(text), want.Len())
	}
	for i, number := range all {
		if number != int64(i+1) {
			t.Fatalf("event %d has the number %d", i, number)
		}
	}
	b.wantEnd(ended, assistant.EndTurn, "")
	if again, _ := read(all[len(all)-1], 1); len(again) != 0 {
		t.Errorf("after the end come %v", again)
	}
}
