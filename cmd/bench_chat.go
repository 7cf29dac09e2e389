package cmd

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"time"

	"bureau/assistant"
	"bureau/assistant/provider"
	"bureau/cmd/config"
	"bureau/desktop"
)

// The agent's loop is measured with a model of the bench's own, lent to the desktop for the time of it. It
// answers at once, and always with another click, so what lies between its answer and the next
// question is the loop's work and the desktop's; what the desktop took, the turn's steps tell.

const (
	benchModel    = "bureau-bench" // also how a former bench's provider is known
	benchQuestion = 64 << 20       // bytes of a question
)

// steps measures the loop's own part of a step. Where the desktop's agent is not bureau's loop with a model
// that can be replaced for a while, the report says so instead.
func (b *bench) steps(ctx context.Context, report *benchReport) error {
	why, err := b.stepsHindered(ctx)
	if err != nil {
		return err
	}
	if why == "" {
		why, err = b.measureSteps(ctx, report)
	}
	report.StepUnmeasured = why
	return err
}

// stepsHindered tells why the loop cannot be measured here, "" when it can.
func (b *bench) stepsHindered(ctx context.Context) (string, error) {
	if address, err := url.Parse(b.base); b.key != "" && (err != nil || !config.Loopback(address.Hostname())) {
		return "the appliance is on another host and could not reach the bench's model", nil
	}
	var d desktop.Desktop
	if err := b.call(ctx, request{method: http.MethodGet, path: b.path}, &d); err != nil {
		return "", err
	}
	switch {
	case d.Agent.Kind == desktop.AgentCommand:
		return "another program is the desktop's agent", nil
	case d.Approval.Shell || d.Approval.Passwords || len(d.Approval.Patterns) > 0:
		return "steps on this desktop may wait for a person's yes", nil
	}
	var own provider.Provider
	switch err := b.call(ctx, request{method: http.MethodGet, path: b.path + "/provider"}, &own); {
	case desktop.CodeOf(err) == desktop.Forbidden:
		return "this key may not lend the desktop a model: use the administration socket", nil
	case err != nil && desktop.CodeOf(err) != desktop.NotFound:
		return "", err
	case err == nil && own.Model != benchModel:
		return "the desktop has a model provider of its own, whose place the bench does not take", nil
	}
	return "", nil
}

func (b *bench) measureSteps(ctx context.Context, report *benchReport) (why string, err error) {
	model := &clickingModel{key: rand.Text(), clicks: min(b.rounds, assistant.MaxSteps-1)}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	server := &http.Server{Handler: model, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	defer func() {
		server.Close()
		if end := <-served; !errors.Is(end, http.ErrServerClosed) {
			err = errors.Join(err, end)
		}
	}()

	lend := map[string]string{"provider": string(provider.Anthropic), "baseUrl": "http://" + listener.Addr().String(), "model": benchModel, "apiKey": model.key}
	err = b.call(ctx, request{method: http.MethodPut, path: b.path + "/provider", body: lend}, nil)
	if code := desktop.CodeOf(err); code == desktop.Invalid || code == desktop.Forbidden {
		return "the desktop cannot be lent the bench's model: " + err.Error(), nil
	}
	if err != nil {
		return "", err
	}
	var turn assistant.Turn
	defer func() {
		ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		gone := b.call(ending, request{method: http.MethodDelete, path: b.path + "/provider"}, nil)
		if turn.SessionID != "" {
			gone = errors.Join(gone, b.call(ending, request{method: http.MethodDelete, path: b.path + "/chat/sessions/" + url.PathEscape(turn.SessionID)}, nil))
		}
		err = errors.Join(err, gone)
	}()
	body := chatBody{Message: "Measure how fast you are.", MaxSteps: model.clicks + 1, TimeoutMs: milliseconds(10 * time.Minute)}
	err = b.call(ctx, request{method: http.MethodPost, path: b.path + "/chat", body: body}, &turn)
	if ctx.Err() != nil {
		b.cancelTurn(b.path, "")
	}
	if err != nil {
		return "", err
	}
	if turn.StopReason != assistant.EndTurn {
		return fmt.Sprintf("the turn ended with %s: %s", turn.StopReason, turn.Error), nil
	}
	gaps := model.waits()
	if len(gaps) != len(turn.Steps) {
		return fmt.Sprintf("the agent did %d steps for %d answers", len(turn.Steps), len(gaps)), nil
	}
	m := measurement{Name: "an agent's step, beyond model and desktop"}
	var desktops []float64
	for i, step := range turn.Steps {
		if step.Failed {
			return "a step failed: " + step.Result, nil
		}
		m.API = append(m.API, float64(gaps[i].Microseconds())/1000-step.DesktopMs)
		desktops = append(desktops, step.DesktopMs)
	}
	report.StepDesktop = percentile(desktops, 50)
	report.Measurements = append(report.Measurements, m)
	return "", nil
}

// clickingModel speaks as much of Anthropic's Messages as bureau's agent needs: it clicks so many times,
// and then has done.
type clickingModel struct {
	key    string
	clicks int

	mu       sync.Mutex
	answers  int
	answered time.Time       // the last
	gaps     []time.Duration // between an answer and the next question, whole
}

// waits are the times between its answers and the questions that followed.
func (m *clickingModel) waits() []time.Duration {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gaps
}

func (m *clickingModel) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || r.URL.Path != "/v1/messages" || r.Header.Get("X-Api-Key") != m.key {
		http.NotFound(w, r)
		return
	}
	if _, err := io.Copy(io.Discard, http.MaxBytesReader(w, r.Body, benchQuestion)); err != nil {
		return
	}
	asked := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.answers > 0 {
		m.gaps = append(m.gaps, asked.Sub(m.answered))
	}
	m.answers++

	type dict = map[string]any
	block, delta, stop := dict{"type": "text", "text": ""}, dict{"type": "text_delta", "text": "Measured."}, "end_turn"
	if m.answers <= m.clicks {
		stop = "tool_use"
		block = dict{"type": "tool_use", "id": fmt.Sprintf("toolu_%d", m.answers), "name": "computer", "input": dict{}}
		delta = dict{"type": "input_json_delta", "partial_json": fmt.Sprintf(`{"action": "left_click", "coordinate": [%d, %d]}`, benchX, benchY)}
	}
	message := dict{"id": fmt.Sprintf("msg_%d", m.answers), "type": "message", "role": "assistant", "model": benchModel, "content": []any{},
		"stop_reason": nil, "stop_sequence": nil, "usage": dict{"input_tokens": 0, "output_tokens": 0}}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, event := range []dict{
		{"type": "message_start", "message": message},
		{"type": "content_block_start", "index": 0, "content_block": block},
		{"type": "content_block_delta", "index": 0, "delta": delta},
		{"type": "content_block_stop", "index": 0},
		{"type": "message_delta", "delta": dict{"stop_reason": stop, "stop_sequence": nil}, "usage": dict{"output_tokens": 0}},
		{"type": "message_stop"},
	} {
		text, err := json.Marshal(event)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event["type"], text)
	}
	m.answered = time.Now() // it leaves with the end of this
}
