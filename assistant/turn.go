package assistant

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/desktop/dialect"
)

// turn is one that runs. Its goroutine alone works on it; the others look at it under mu, stop it, and
// answer its approvals.
type turn struct {
	s         *Service
	id        string
	sessionID string
	desktop   desktop.Desktop // as it was at the beginning
	work      Desktop
	prompt    Prompt
	journal   *journal
	log       *slog.Logger
	clock     clock
	policy    policy

	stop  context.CancelCauseFunc
	ctx   context.Context
	ended chan struct{} // closed when all is done

	mu        sync.Mutex
	record    Turn
	finished  bool // its end is in the store
	approvals map[string]chan Approval

	// Of the turn's goroutine alone.
	messages  []model.Message
	endpoints []model.Endpoint
	current   int // of endpoints: the one that is asked
	models    map[int]model.Model
	budget    dialect.Budget
	mapping   dialect.Mapping // of the display as the model knows it
	compact   bool            // the conversation has been too long once
	blind     int             // pictures that are not shown, for they are too large for the model
	took      time.Duration   // by the desktop, in all
}

// ending is an end of a turn that is not the model's own.
type ending struct {
	reason   StopReason
	sentence string
}

func (e *ending) Error() string { return e.sentence }

func newTurn(s *Service, caller desktop.Caller, d desktop.Desktop, record Turn, prompt Prompt, endpoints []model.Endpoint) *turn {
	// The agent is not the person who may hold the desktop's input, also when that one sends it.
	caller = desktop.Caller{User: caller.User, Key: caller.Key, Local: caller.Local}
	t := &turn{
		s: s, id: record.ID, sessionID: record.SessionID, desktop: d,
		prompt: prompt, log: s.Log.With("desktop", d.ID, "turn", record.ID),
		ended: make(chan struct{}), record: record, approvals: map[string]chan Approval{},
		endpoints: endpoints, models: map[int]model.Model{}, budget: dialect.AnthropicStandard,
	}
	t.work = s.watch(one{s.Desktops, caller, d.ID, &t.took}, caller, d, record.ID)
	t.policy = newPolicy(d.Approval)
	t.journal = newJournal(record.ID, s.Store, t.log)
	t.ctx, t.stop = context.WithCancelCause(s.ctx)
	return t
}

// snapshot is the turn as it is now.
func (t *turn) snapshot() Turn {
	t.mu.Lock()
	defer t.mu.Unlock()
	record := t.record
	record.Steps = slices.Clone(record.Steps)
	return record
}

// over tells whether the turn's end is kept, and only its news are still on their way.
func (t *turn) over() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.finished
}

func (t *turn) change(do func(*Turn)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	do(&t.record)
}

// run is the whole turn.
func (t *turn) run() {
	defer t.stop(nil)
	t.clock.start(t.prompt.Timeout, func() { t.stop(errTimeout) })
	defer t.clock.stop()
	t.log.Info("turn begins", "session", t.sessionID)
	t.journal.add(EventTurn, t.snapshot())

	var err error
	if t.desktop.Agent.Kind == desktop.AgentCommand {
		err = t.runCommand(t.ctx)
	} else {
		err = t.runLoop(t.ctx)
	}
	reason, sentence := t.reasonOf(err)
	if reason == Failed {
		t.log.Warn("turn failed", "error", err)
	}
	t.finish(reason, sentence)
}

// reasonOf is what an end means to the one who asked.
func (t *turn) reasonOf(err error) (StopReason, string) {
	var (
		end     *ending
		refused *model.Error
		known   *desktop.Error
	)
	switch cause := context.Cause(t.ctx); {
	case err == nil:
		return EndTurn, ""
	case errors.Is(cause, errCancelled):
		return Cancelled, errCancelled.Error()
	case errors.Is(cause, errTimeout):
		return TimedOut, "the turn's time was up after " + t.prompt.Timeout.String()
	case cause != nil:
		return Interrupted, errInterrupted.Error()
	case errors.As(err, &end):
		return end.reason, end.sentence
	case errors.As(err, &refused):
		return Failed, refused.Error()
	case errors.As(err, &known) && known.Code != desktop.Internal:
		return Failed, known.Message
	}
	return Failed, "an internal fault; the operator finds it in the log under turn " + t.id
}

// finish keeps the turn's end and tells of it.
func (t *turn) finish(reason StopReason, sentence string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), storeTimeout)
	defer cancel()
	if t.messages != nil {
		for _, message := range closingMessages(t.messages, reason, sentence) {
			if err := t.keep(ctx, message, nil); err != nil {
				t.log.Warn("the session does not know how its turn ended", "error", err)
			}
		}
		if dropped := droppedPictures(t.messages); dropped > 0 {
			if err := t.s.Store.DropPictures(ctx, t.sessionID, dropped); err != nil {
				t.log.Warn("old pictures stay in the store", "error", err)
			}
		}
	}
	ended := now()
	t.change(func(r *Turn) { r.StopReason, r.Error, r.EndedAt = reason, sentence, &ended })
	record := t.snapshot()
	fingerprint := ""
	if t.prompt.Leave != nil {
		fingerprint = t.prompt.Leave(record.Message)
	}
	if err := t.s.Store.EndTurn(ctx, record, fingerprint); err != nil && desktop.CodeOf(err) != desktop.NotFound {
		t.log.Error("the end of a turn was not kept", "error", err)
	}
	if err := t.s.Store.PruneEvents(ctx, t.desktop.ID, ended.Add(-eventsKept)); err != nil {
		t.log.Warn("old events stay in the store", "error", err)
	}
	t.mu.Lock()
	t.finished = true
	t.mu.Unlock()
	t.journal.add(EventDone, record)
	t.journal.close()
	t.log.Info("turn ended", "reason", reason, "steps", len(record.Steps), "inputTokens", record.Usage.Input, "outputTokens", record.Usage.Output,
		"took", ended.Sub(record.CreatedAt))
}

// keep adds a message to the conversation, in the store first.
func (t *turn) keep(ctx context.Context, message model.Message, steps []Step) error {
	// What has happened has to be known later, also when the turn is being stopped.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	if err := t.s.Store.AppendMessage(ctx, Turn{ID: t.id, SessionID: t.sessionID}, message, steps); err != nil {
		return err
	}
	t.messages = append(t.messages, message)
	return nil
}

// runLoop lets the model act and see until it has nothing more to do.
func (t *turn) runLoop(ctx context.Context) error {
	if err := t.prepare(ctx); err != nil {
		return err
	}
	for {
		response, err := t.ask(ctx)
		if err != nil {
			return err
		}
		message := response.Message
		text := textOf(message)
		if len(message.Parts) == 0 {
			message.Parts = []model.Part{{Text: "(no answer)"}}
		}
		if err := t.keep(ctx, message, nil); err != nil {
			return err
		}
		t.change(func(r *Turn) {
			if text != "" {
				r.Message = text
			}
		})
		t.journal.add(EventMessage, map[string]string{"text": text})
		calls := callsOf(message)
		switch {
		case response.Stop == model.Refusal:
			return &ending{Refusal, "the model, or its provider, refuses to go on"}
		case response.Stop == model.MaxTokens:
			return &ending{MaxTokens, "the model's answer was longer than it may be and was cut off"}
		case len(calls) == 0:
			return nil
		}
		if err := t.perform(ctx, calls); err != nil {
			return err
		}
	}
}

// allowed is nil while the turn may ask a model; the meter counts each request.
func (t *turn) allowed(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	usage := t.snapshot().Usage
	if spent := usage.Input + usage.CacheRead + usage.CacheWrite + usage.Output; t.s.MaxTokens > 0 && spent >= t.s.MaxTokens {
		return &ending{BudgetExhausted, "the turn has used up the tokens that one turn may"}
	}
	err := t.s.Meter.Allow(ctx, t.desktop.Owner, t.desktop.ID)
	if desktop.CodeOf(err) == desktop.RateLimited {
		return &ending{BudgetExhausted, err.Error()}
	}
	return err
}

// perform does the calls of a message in their order and keeps their results, of which each call has
// one whatever happens.
func (t *turn) perform(ctx context.Context, calls []model.Call) error {
	results := model.Message{Role: model.User}
	var steps []Step
	var failed error
	for _, call := range calls {
		if failed == nil {
			failed = t.mayStep(ctx)
		}
		if failed != nil {
			results.Parts = append(results.Parts, model.Part{Result: notDone(call, failed)})
			continue
		}
		step, result, err := t.step(ctx, call)
		failed = err
		steps = append(steps, step)
		results.Parts = append(results.Parts, model.Part{Result: &result})
	}
	if err := t.keep(ctx, results, steps); err != nil {
		return err
	}
	return failed
}

func (t *turn) mayStep(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(t.snapshot().Steps) >= t.prompt.MaxSteps {
		return &ending{MaxStepsReached, "the turn has done as many steps as it may"}
	}
	return nil
}

// notDone is the result of a call that was not begun.
func notDone(call model.Call, why error) *model.Result {
	return &model.Result{ID: call.ID, Tool: call.Tool, Failed: true, Text: "This was not done: " + why.Error() + "."}
}

const (
	maxStepResult   = 4_000  // bytes of a result that a step shows
	maxStepArgument = 20_000 // bytes of the arguments that a step shows
)

// step does one call.
func (t *turn) step(ctx context.Context, call model.Call) (Step, model.Result, error) {
	step := Step{Number: len(t.snapshot().Steps) + 1, Tool: shorten(call.Tool, 100), Arguments: shownArguments(call.Arguments), At: now()}
	t.journal.add(EventToolCall, map[string]any{"number": step.Number, "tool": step.Tool, "arguments": step.Arguments})
	began, before := time.Now(), t.took
	done := t.do(ctx, step, call)
	step.DurationMs = float64(time.Since(began).Microseconds()) / 1000
	step.DesktopMs = float64((t.took - before).Microseconds()) / 1000
	result := model.Result{ID: call.ID, Tool: call.Tool, Text: done.text, Picture: done.picture, Failed: done.failed, Acknowledged: done.acknowledged}
	if done.err != nil {
		result.Failed = true
		_, why := t.reasonOf(done.err)
		result.Text = joined(result.Text, "This did not come to its end: "+why+".")
	}
	step.Result, step.Failed = shorten(result.Text, maxStepResult), result.Failed
	t.change(func(r *Turn) { r.Steps = append(r.Steps, step) })
	t.journal.add(EventToolResult, struct {
		Step
		Thumbnail *Thumbnail `json:"thumbnail,omitempty"`
	}{step, done.thumbnail})
	return step, result, done.err
}

// shownArguments are a call's as people see them. A list is one of actions.
func shownArguments(raw json.RawMessage) map[string]any {
	var list []any
	if len(raw) <= maxStepArgument && json.Unmarshal(raw, &list) == nil && list != nil {
		return map[string]any{"actions": list}
	}
	arguments := map[string]any{}
	if len(raw) > maxStepArgument || json.Unmarshal(raw, &arguments) != nil || arguments == nil {
		return map[string]any{"shortened": shorten(string(raw), maxStepArgument)}
	}
	return arguments
}

// outcome is what came of a call. With err, the turn cannot go on.
type outcome struct {
	text         string
	failed       bool
	picture      *model.Picture
	thumbnail    *Thumbnail
	acknowledged json.RawMessage
	err          error
}

// failure is an outcome that the model can mend.
func failure(err error) outcome { return outcome{text: err.Error(), failed: true} }

// do does a call with the tool that it names.
func (t *turn) do(ctx context.Context, step Step, call model.Call) outcome {
	switch call.Tool {
	case model.Computer:
		return t.computer(ctx, step, call)
	case bashTool:
		return t.bash(ctx, step, call)
	case editTool:
		return t.edit(ctx, step, call)
	}
	return failure(desktop.Errorf(desktop.Invalid, "there is no tool %q; the tools are %s, %s and %s", shorten(call.Tool, 100), model.Computer, bashTool, editTool))
}

// textOf is what a message says.
func textOf(message model.Message) string {
	var texts []string
	for _, part := range message.Parts {
		if part.Text != "" {
			texts = append(texts, part.Text)
		}
	}
	return strings.Join(texts, "\n")
}

// lastSaid is what the model said last in a conversation's last turn.
func lastSaid(messages []model.Message) string {
	for _, message := range slices.Backward(messages) {
		text := textOf(message)
		if message.Role == model.Assistant && text != "" {
			return text
		}
		results := slices.ContainsFunc(message.Parts, func(p model.Part) bool { return p.Result != nil })
		if message.Role == model.User && !results {
			break // the person's words, with which the turn began
		}
	}
	return ""
}

// callsOf are a message's calls.
func callsOf(message model.Message) []model.Call {
	var calls []model.Call
	for _, part := range message.Parts {
		if part.Call != nil {
			calls = append(calls, *part.Call)
		}
	}
	return calls
}

// closingMessages are what a conversation lacks when its turn has ended: the results of calls that
// have none, and a word of how the turn ended, unless the model had the last one.
func closingMessages(messages []model.Message, reason StopReason, sentence string) []model.Message {
	if len(messages) == 0 {
		return nil
	}
	var closing []model.Message
	last := messages[len(messages)-1]
	if calls := callsOf(last); last.Role == model.Assistant && len(calls) > 0 {
		results := model.Message{Role: model.User}
		for _, call := range calls {
			results.Parts = append(results.Parts, model.Part{Result: &model.Result{ID: call.ID, Tool: call.Tool, Failed: true,
				Text: "Whether this was done is not known: " + sentence + "."}})
		}
		closing = append(closing, results)
	} else if last.Role == model.Assistant {
		return nil
	}
	return append(closing, model.Message{Role: model.Assistant, Parts: []model.Part{{
		Text: "(This turn ended before its answer: " + string(reason) + ". " + sentence + ".)"}}})
}

// clock ends a turn when its time is up. It stands still while a person is waited for.
type clock struct {
	mu      sync.Mutex
	timer   *time.Timer
	ring    func()
	left    time.Duration
	since   time.Time
	holders int
}

func (c *clock) start(limit time.Duration, ring func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.left, c.ring, c.since = limit, ring, time.Now()
	c.timer = time.AfterFunc(limit, ring)
}

// hold stops the clock until release is called.
func (c *clock) hold() (release func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.holders++; c.holders == 1 && c.timer.Stop() {
		c.left -= time.Since(c.since)
	}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.holders--; c.holders == 0 {
			c.since = time.Now()
			c.timer = time.AfterFunc(max(0, c.left), c.ring)
		}
	}
}

func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.holders++ // nothing starts it again
	c.timer.Stop()
}
