package assistant_test

import (
	"context"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// lender lends the models of a scripted server.
type lender []model.Endpoint

func (l lender) Endpoints(context.Context, string, string) ([]model.Endpoint, error) { return l, nil }

// speaking makes a bench whose models are real ones, over HTTP, that a script answers for. The formats
// are asked in their order: those after the first are fallbacks.
func speaking(t *testing.T, script modeltest.Script, change func(*bench), formats ...model.Format) (*bench, *modeltest.Server) {
	t.Helper()
	server := modeltest.New("secret", script)
	server.Failf = t.Errorf
	host := httptest.NewServer(server)
	t.Cleanup(host.Close)
	var endpoints lender
	for _, format := range formats {
		endpoints = append(endpoints, modeltest.Endpoint(format, host.URL, "secret"))
	}
	b := newBench(t, func(b *bench) {
		log := slog.New(slog.DiscardHandler)
		b.options.Providers = endpoints
		b.options.Model = func(e model.Endpoint) (model.Model, error) { return model.New(e, host.Client(), log) }
		if change != nil {
			change(b)
		}
	})
	return b, server
}

var display = &model.Display{Width: 640, Height: 400}

// A task, whole, over each of the formats as they are on the wire; then another message, and one after
// each of the ways in which a provider fails.
func TestFormats(t *testing.T) {
	for _, format := range model.Formats() {
		t.Run(string(format), func(t *testing.T) {
			looks := []modeltest.Step{}
			for range assistant.KeptPictures + assistant.DropChunk + 2 { // so that pictures are dropped, too
				looks = append(looks, modeltest.Step{Calls: []modeltest.Call{modeltest.Computer(`{"type":"screenshot"}`)}})
			}
			steps := append([]modeltest.Step{
				{Text: "I look.", Reasoning: "What is there?", Calls: []modeltest.Call{modeltest.Computer(`{"type":"screenshot"}`)}},
				{Fail: &modeltest.Failure{Kind: modeltest.RateLimited, RetryAfter: "1"}},
				{Fail: &modeltest.Failure{Kind: modeltest.Overloaded}},
				{Text: strings.Repeat("I write half of it ", 20), Fail: &modeltest.Failure{Kind: modeltest.Broken, After: 5}},
				{Text: "I write.", Calls: []modeltest.Call{
					modeltest.Computer(`[{"type":"click","x":10,"y":20},{"type":"type","text":"Roses"}]`),
					modeltest.Use("bash", `{"command":"printf 'Roses are red\\nviolets\\n' >poem.txt"}`)}},
				{Text: "A mistake.", Calls: []modeltest.Call{modeltest.Use("bash", `{"command":7}`)}},
				{Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"x"}`)}, Fail: &modeltest.Failure{Kind: modeltest.BadArguments}},
				{Text: "I read it.", Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"cat poem.txt"}`)}},
				{Text: "The first line is {{line 1 .Result}}"},
			}, looks...)
			b, server := speaking(t, modeltest.Script{Display: display, Steps: append(steps,
				modeltest.Step{Text: "You are welcome"},
				modeltest.Step{Fail: &modeltest.Failure{Kind: modeltest.ContextOverflow}},
				modeltest.Step{Text: "Short"},
				modeltest.Step{Fail: &modeltest.Failure{Kind: modeltest.PictureTooLarge}},
				modeltest.Step{Text: "Small"},
				modeltest.Step{Text: "No", Fail: &modeltest.Failure{Kind: modeltest.Refusal}},
				modeltest.Step{Text: "The end"},
			)}, nil, format)
			turn := b.wait(b.begin(assistant.Prompt{Message: "Write a poem"}))
			if turn.StopReason != assistant.EndTurn || turn.Message != "The first line is Roses are red" || turn.Usage.Output == 0 || turn.Usage.Input == 0 {
				t.Fatalf("got %+v", turn)
			}
			text, _ := os.ReadFile(filepath.Join(b.desk.home, "poem.txt"))
			if string(text) != "Roses are red\nviolets\n" {
				t.Errorf("the file is %q", text)
			}
			inputs := b.desk.inputs()
			if len(inputs) != 2 || inputs[0].Click == nil || inputs[1].Type == nil || inputs[1].Type.Text != "Roses" {
				t.Fatalf("done %+v", inputs)
			}
			if x, y := *inputs[0].Click.X, *inputs[0].Click.Y; x < 9 || x > 11 || y < 19 || y > 21 {
				t.Errorf("clicked at %d,%d", x, y)
			}
			var failed []string
			for _, step := range turn.Steps {
				if step.Tool == model.Computer && (len(step.Arguments) == 0 || step.Arguments["shortened"] != nil) {
					t.Errorf("step %d shows its actions as %v", step.Number, step.Arguments)
				}
				if step.Failed {
					failed = append(failed, step.Result)
				}
			}
			if len(failed) != 1 || !strings.Contains(failed[0], "arguments") {
				t.Errorf("failed %q", failed)
			}
			if got := kinds(b.events(turn, 0)); strings.Count(got, "discarded") != 1 || strings.Count(got, "retry") < 3 {
				t.Errorf("events %s", got)
			}

			prompt := assistant.Prompt{Message: "Look around", SessionID: turn.SessionID}
			for _, want := range []struct {
				reason  assistant.StopReason
				message string
			}{{assistant.EndTurn, "You are welcome"}, {assistant.EndTurn, "Short"}, {assistant.EndTurn, "Small"}, {assistant.Refusal, ""}, {assistant.EndTurn, "The end"}} {
				next := b.wait(b.begin(prompt))
				if next.StopReason != want.reason || want.message != "" && next.Message != want.message {
					t.Errorf("got %q (%s: %s), want %+v", next.Message, next.StopReason, next.Error, want)
				}
				prompt.Message = "And then?"
			}
			if server.Left() != 0 {
				t.Errorf("%d steps of the script are left", server.Left())
			}
		})
	}
}

// The conversation goes on with another vendor's model where the first one fails.
func TestFallbackAcrossFormats(t *testing.T) {
	formats := model.Formats()
	for i, first := range formats {
		second := formats[(i+1)%len(formats)]
		t.Run(string(first)+" to "+string(second), func(t *testing.T) {
			b, server := speaking(t, modeltest.Script{Display: display, Steps: []modeltest.Step{
				{Text: "I look.", Reasoning: "Hm.", Calls: []modeltest.Call{modeltest.Computer(`{"type":"screenshot"}`), modeltest.Use("bash", `{"command":"echo one"}`)}},
				{Fail: &modeltest.Failure{Kind: modeltest.Unauthorized}},
				{Text: "I look, too.", Calls: []modeltest.Call{modeltest.Computer(`{"type":"click","x":5,"y":5}`)}},
				{Text: "Seen"},
			}}, nil, first, second)
			turn := b.wait(b.begin(assistant.Prompt{Message: "Look"}))
			if turn.StopReason != assistant.EndTurn || turn.Message != "Seen" || len(turn.Steps) != 3 || server.Left() != 0 {
				t.Errorf("got %+v", turn)
			}
			if want := modeltest.Endpoint(second, "", "").Model; turn.Model != want {
				t.Errorf("answered by %s, want %s", turn.Model, want)
			}
		})
	}
}

// What the vendor has doubts about waits for a person, whatever the desktop's policy.
func TestSafety(t *testing.T) {
	for _, format := range []model.Format{model.OpenAI, model.Gemini} {
		t.Run(string(format), func(t *testing.T) {
			doubtful := modeltest.Computer(`{"type":"click","x":5,"y":5}`)
			doubtful.Safety = "it pays"
			b, server := speaking(t, modeltest.Script{Display: display, Steps: []modeltest.Step{{Calls: []modeltest.Call{doubtful}}, {Text: "Paid"}}}, nil, format)
			turn := b.begin(assistant.Prompt{Message: "Pay"})
			asked := b.await(turn, assistant.EventApproval)
			if reason, _ := asked["reason"].(string); !strings.Contains(reason, "it pays") || len(b.desk.inputs()) != 0 {
				t.Errorf("asked because %v", asked["reason"])
			}
			id, _ := asked["approvalId"].(string)
			if _, err := b.service.Decide(t.Context(), caller, "dt-1", id, true); err != nil {
				t.Fatal(err)
			}
			if ended := b.wait(turn); ended.Message != "Paid" || len(b.desk.inputs()) != 1 || server.Left() != 0 {
				t.Errorf("got %+v", ended)
			}
		})
	}
}

// No part of the key is in what a desktop, a client or the log gets to see.
func TestKeyStaysHere(t *testing.T) {
	var log strings.Builder
	b, _ := speaking(t, modeltest.Script{Display: display, Steps: []modeltest.Step{
		{Fail: &modeltest.Failure{Kind: modeltest.Unauthorized, Message: "the key secret is not liked"}},
	}}, func(b *bench) {
		b.options.Log = slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}, model.Anthropic)
	turn := b.wait(b.begin(assistant.Prompt{Message: "go"}))
	b.stop()
	if turn.StopReason != assistant.Failed || strings.Contains(turn.Error, "secret") || strings.Contains(log.String(), "secret") {
		t.Errorf("%s\n%s", turn.Error, log.String())
	}
}

// BenchmarkStep is what a step takes beyond the model and the desktop: an answer that clicks, its
// message and its result kept, the picture made, the events told.
func BenchmarkStep(b *testing.B) {
	bench := newBench(b, nil)
	bench.desk.set(func(d *desk) { d.frame = frame(1, 1280, 800) })
	bench.options.MaxSteps = assistant.MaxSteps
	click := use("computer", `{"action":"left_click","coordinate":[3,4]}`)
	const steps = 50
	for b.Loop() {
		var script []answer
		for range steps {
			script = append(script, click)
		}
		turn := bench.chat(assistant.Prompt{Message: "go", MaxSteps: steps}, append(script, say("done"))...)
		if turn.StopReason != assistant.EndTurn {
			b.Fatalf("%+v", turn)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*steps)/1000, "ms/step")
}

// BenchmarkToken is how long a token takes from the provider to a reader of the turn's events.
func BenchmarkToken(b *testing.B) {
	bench := newBench(b, nil)
	var told time.Time
	next := make(chan struct{})
	bench.play(func(ctx context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		for range next {
			told = time.Now()
			tell(model.Delta{Text: "token "})
		}
		return response(model.EndTurn, model.Part{Text: "all"}), nil
	})
	turn := bench.begin(assistant.Prompt{Message: "go"})
	after, total, count := int64(0), time.Duration(0), 0
	for b.Loop() {
		next <- struct{}{}
		for read := false; !read; {
			events, err := bench.service.Events(context.Background(), caller, "dt-1", turn.ID, after)
			if err != nil {
				b.Fatal(err)
			}
			for _, event := range events {
				after, read = event.Number, read || event.Kind == assistant.EventText
			}
		}
		total += time.Since(told)
		count++
	}
	close(next)
	bench.wait(turn)
	b.ReportMetric(float64(total.Microseconds())/float64(count), "µs/token")
}
