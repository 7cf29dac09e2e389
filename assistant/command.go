package assistant

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
)

// A desktop's chat may be answered by a program in it instead, such as Claude Code or Codex. It runs as
// a command does, gets its models through the gateway, and has its own tools: what it says of them
// is shown and decides nothing. Its limits are the turn's time and what its output may be.

const (
	commandStep = "command"
	maxLine     = 1 << 20 // bytes of a line of a program's output
	maxAnswer   = 1 << 20 // bytes of what a program says
	maxStderr   = 2_000
)

// presets are the command lines of programs whose output is understood. SESSION is the program's own
// session, to go on with when RESUME is set; MODEL is what to ask for, if it is known. The desktop is the
// sandbox that they work in. Codex finds no address in its environment, so it is given the gateway's,
// unless its user has a key of their own.
var presets = map[string]string{
	desktop.PresetClaudeCode: `export CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_AUTOUPDATER=1
if [ -n "$MODEL" ]; then set -- --model "$MODEL"; fi
if [ -n "$RESUME" ]; then set -- "$@" --resume "$SESSION"; else set -- "$@" --session-id "$SESSION"; fi
exec claude -p --output-format stream-json --verbose --include-partial-messages --dangerously-skip-permissions "$@"`,
	desktop.PresetCodex: `set -- -c check_for_update_on_startup=false -c analytics.enabled=false -c features.plugins=false
if [ "$OPENAI_API_KEY" = lent-by-bureau ]; then
	set -- "$@" -c 'model_provider="bureau"' -c 'model_providers.bureau.name="bureau"' -c 'model_providers.bureau.wire_api="responses"' \
		-c "model_providers.bureau.base_url=\"$OPENAI_BASE_URL\"" -c 'model_providers.bureau.env_key="OPENAI_API_KEY"'
fi
if [ -n "$MODEL" ]; then set -- "$@" --model "$MODEL"; fi
set -- "$@" --json --skip-git-repo-check --dangerously-bypass-approvals-and-sandbox
if [ -n "$RESUME" ]; then exec codex exec "$@" resume "$SESSION" -; else exec codex exec "$@" -; fi`,
}

// presetFormats are what the presets' programs speak.
var presetFormats = map[string]model.Format{desktop.PresetClaudeCode: model.Anthropic, desktop.PresetCodex: model.OpenAI}

// presetModel is the model that a preset's program is to ask for: the one that was wanted, else the
// first that is configured and speaks its format.
func (t *turn) presetModel(ctx context.Context) string {
	if t.prompt.Model != "" {
		return t.prompt.Model
	}
	// Without any the program has its own, and its own way to them.
	endpoints, _ := t.s.Providers.Endpoints(ctx, t.desktop.Owner, t.desktop.ID)
	for _, endpoint := range endpoints {
		if endpoint.Format == presetFormats[t.desktop.Agent.Preset] {
			return endpoint.Model
		}
	}
	return ""
}

// threadFile is where the id of a program's session is kept that it chose itself: in the desktop, whose
// own business it is.
const (
	readThread  = `cat -- "$HOME/.local/state/bureau/$NAME" 2>/dev/null || true`
	writeThread = `mkdir -p -- "$HOME/.local/state/bureau" && printf %s "$THREAD" >"$HOME/.local/state/bureau/$NAME"`
)

var threadRule = regexp.MustCompile(`^[A-Za-z0-9-]{8,64}$`)

// runCommand answers the turn's message with the desktop's program.
func (t *turn) runCommand(ctx context.Context) error {
	agent := t.desktop.Agent
	history, err := t.s.Store.Messages(ctx, t.sessionID)
	if err != nil {
		return err
	}
	message, err := t.open(ctx, history, "")
	if err != nil {
		return err
	}
	script := agent.Command
	if agent.Preset != "" {
		script = presets[agent.Preset]
	}
	shown := map[string]any{"command": script}
	reason := t.policy.shell(commandStep, script)
	if reason == "" {
		reason = t.policy.matches(t.prompt.Message)
	}
	if reason != "" {
		if err := t.approve(ctx, Step{Number: 1, Tool: commandStep, Arguments: shown}, reason); err != nil {
			return &ending{Failed, "the desktop's agent was not started: " + err.Error()}
		}
	}

	env := map[string]string{"BUREAU_PROMPT": textOf(message)}
	if len(env["BUREAU_PROMPT"]) > 100_000 { // the kernel takes no longer ones
		delete(env, "BUREAU_PROMPT")
	}
	if agent.Preset != "" {
		env["MODEL"] = t.presetModel(ctx)
	}
	follow := &follower{t: t, preset: agent.Preset, open: map[string]Step{}}
	switch agent.Preset {
	case desktop.PresetClaudeCode:
		env["SESSION"] = uuidOf(t.sessionID)
		if len(history) > 0 {
			env["RESUME"] = "1"
		}
	case desktop.PresetCodex:
		result, err := t.work.Exec(ctx, desktop.Exec{Script: readThread, Timeout: fileTimeout, Env: map[string]string{"NAME": t.sessionID}}, nil)
		if err != nil {
			return err
		}
		if threadRule.MatchString(result.Stdout) {
			env["SESSION"], env["RESUME"] = result.Stdout, "1"
			before, err := t.s.Store.Turns(ctx, t.sessionID)
			if err != nil {
				return err
			}
			for _, turn := range before {
				follow.before = follow.before.Add(turn.Usage)
			}
		}
	}
	result, err := t.work.Exec(ctx, desktop.Exec{Script: script, Bash: true, Stdin: []byte(textOf(message)), Env: env, Timeout: t.prompt.Timeout}, follow.output)
	if ctx.Err() != nil {
		follow.end()
		return context.Cause(ctx)
	}
	if err != nil {
		return err
	}
	answer := follow.end()
	if follow.thread != "" && agent.Preset == desktop.PresetCodex && env["RESUME"] == "" {
		if _, err := t.work.Exec(ctx, desktop.Exec{Script: writeThread, Timeout: fileTimeout,
			Env: map[string]string{"NAME": t.sessionID, "THREAD": follow.thread}}, nil); err != nil {
			t.log.Warn("the program's session cannot be gone on with", "error", err)
		}
	}
	if answer != "" {
		if err := t.keep(ctx, model.Message{Role: model.Assistant, Parts: []model.Part{{Text: answer}}}, nil); err != nil {
			return err
		}
	}
	why := ""
	switch {
	case result.TimedOut:
		return &ending{TimedOut, "the turn's time was up after " + t.prompt.Timeout.String()}
	case follow.failure != "":
		why = "the desktop's agent failed: " + follow.failure
	case result.ExitCode == 127:
		why = "the desktop's agent is not installed in it: " + lastWords(follow.stderr.String())
	case result.ExitCode != 0:
		why = fmt.Sprintf("the desktop's agent ended with exit code %d: %s", result.ExitCode, lastWords(follow.stderr.String()))
	default:
		return nil
	}
	if warning := t.desktop.Warning; warning != "" { // which may be the cause
		why = strings.TrimSpace(why) + " (" + warning + ")"
	}
	return &ending{Failed, why}
}

func lastWords(text string) string {
	text = strings.TrimSpace(text)
	return shorten(text[max(0, len(text)-maxStderr):], maxStderr)
}

// uuidOf makes a UUID of an id, always the same.
func uuidOf(id string) string {
	sum := sha256.Sum256([]byte(id))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// follower makes a turn's news of a program's output.
type follower struct {
	t      *turn
	preset string

	mu      sync.Mutex
	line    []byte // that has not ended
	skip    bool   // the rest of a line that is too long
	answer  strings.Builder
	message strings.Builder // what has been told of the message that is arriving
	stderr  ends
	thread  string
	failure string
	open    map[string]Step // steps that have not ended, by the program's id
	before  model.Usage     // of earlier turns, where the program counts through
}

func (f *follower) output(stream desktop.Stream, data []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if stream == desktop.Stderr {
		f.stderr.add(data)
		return
	}
	if f.preset == "" {
		f.say(strings.ToValidUTF8(string(data), "\uFFFD"))
		return
	}
	for len(data) > 0 {
		piece, rest, whole := bytes.Cut(data, []byte{'\n'})
		data = rest
		if f.skip = f.skip || len(f.line)+len(piece) > maxLine; !f.skip {
			f.line = append(f.line, piece...)
		}
		if whole {
			f.event(f.line)
			f.line, f.skip = f.line[:0], false
		}
	}
}

// say tells of a piece of the answer.
func (f *follower) say(text string) {
	text = text[:min(len(text), maxAnswer-f.answer.Len()-f.message.Len())]
	if text == "" {
		return
	}
	f.message.WriteString(text)
	f.t.journal.add(EventText, map[string]string{"text": text})
}

// said ends a message; whole is its text, where the program gives it.
func (f *follower) said(whole string) {
	text := f.message.String()
	f.message.Reset()
	if whole != "" {
		if text == "" {
			f.t.journal.add(EventText, map[string]string{"text": shorten(whole, maxAnswer)})
		}
		text = shorten(whole, maxAnswer)
	}
	if text == "" {
		return
	}
	f.answer.Reset() // the answer is the last message
	f.answer.WriteString(text)
	f.t.change(func(r *Turn) { r.Message = text })
	f.t.journal.add(EventMessage, map[string]string{"text": text})
}

// end is the answer, and closes what is still open.
func (f *follower) end() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.line) > 0 && !f.skip {
		f.event(f.line)
	}
	f.said("")
	for id := range f.open {
		f.done(id, "The program ended before it said what came of this.", true)
	}
	return strings.TrimSpace(f.answer.String())
}

// begin and done are a step of the program's.
func (f *follower) begin(id, tool string, arguments json.RawMessage) {
	if _, known := f.open[id]; known || len(f.open) > 100 || f.stepCount() >= MaxSteps {
		return
	}
	step := Step{Number: f.stepCount() + 1 + len(f.open), Tool: shorten(tool, 100), Arguments: shownArguments(arguments), At: now()}
	f.open[id] = step
	f.t.journal.add(EventToolCall, map[string]any{"number": step.Number, "tool": step.Tool, "arguments": step.Arguments})
}

func (f *follower) stepCount() int { return len(f.t.snapshot().Steps) }

func (f *follower) done(id, text string, failed bool) {
	step, known := f.open[id]
	if !known {
		return
	}
	delete(f.open, id)
	step.Result, step.Failed = shorten(text, maxStepResult), failed
	step.DurationMs = float64(time.Since(step.At).Microseconds()) / 1000
	f.t.change(func(r *Turn) { r.Steps = append(r.Steps, step) })
	f.t.journal.add(EventToolResult, step)
	if err := f.t.s.Store.AppendStep(context.WithoutCancel(f.t.ctx), f.t.id, step); err != nil {
		f.t.log.Warn("a step was not kept", "error", err)
	}
}

func (f *follower) spent(usage model.Usage) {
	usage.Input = max(0, usage.Input-f.before.Input)
	usage.CacheRead = max(0, usage.CacheRead-f.before.CacheRead)
	usage.Output = max(0, usage.Output-f.before.Output)
	f.t.change(func(r *Turn) { r.Usage = usage })
	f.t.journal.add(EventUsage, map[string]any{"usage": usage, "model": f.t.snapshot().Model})
}

func (f *follower) event(line []byte) {
	if len(bytes.TrimSpace(line)) == 0 {
		return
	}
	if f.preset == desktop.PresetCodex {
		f.codex(line)
	} else {
		f.claude(line)
	}
}

// claude reads a line of Claude Code's --output-format stream-json.
func (f *follower) claude(line []byte) {
	var e struct {
		Type  string `json:"type"`
		Event struct {
			Delta struct {
				Type string `json:"type"`
				Text string `json:"text"`
			} `json:"delta"`
		} `json:"event"`
		Message struct {
			Model   string          `json:"model"`
			Content json.RawMessage `json:"content"`
		} `json:"message"`
		IsError bool   `json:"is_error"`
		Result  string `json:"result"`
		Subtype string `json:"subtype"`
		Usage   struct {
			Input      int64 `json:"input_tokens"`
			CacheRead  int64 `json:"cache_read_input_tokens"`
			CacheWrite int64 `json:"cache_creation_input_tokens"`
			Output     int64 `json:"output_tokens"`
		} `json:"usage"`
		Parent *string `json:"parent_tool_use_id"`
	}
	if json.Unmarshal(line, &e) != nil {
		return
	}
	var content []struct {
		Type    string          `json:"type"`
		Text    string          `json:"text"`
		ID      string          `json:"id"`
		Name    string          `json:"name"`
		Input   json.RawMessage `json:"input"`
		CallID  string          `json:"tool_use_id"`
		Content json.RawMessage `json:"content"`
		IsError bool            `json:"is_error"`
	}
	_ = json.Unmarshal(e.Message.Content, &content) // a string in messages of other kinds
	own := e.Parent == nil                          // not of an agent that it has started
	switch e.Type {
	case "stream_event":
		if own && e.Event.Delta.Type == "text_delta" {
			f.say(e.Event.Delta.Text)
		}
	case "assistant":
		if e.Message.Model != "" {
			f.t.change(func(r *Turn) { r.Model = shorten(e.Message.Model, 100) })
		}
		var text []string
		for _, part := range content {
			if part.Type == "text" && own {
				text = append(text, part.Text)
			}
		}
		if len(text) > 0 {
			f.said(strings.Join(text, "\n"))
		}
		for _, part := range content {
			if part.Type == "tool_use" {
				f.begin(part.ID, part.Name, part.Input)
			}
		}
	case "user":
		for _, part := range content {
			if part.Type == "tool_result" {
				f.done(part.CallID, resultText(part.Content), part.IsError)
			}
		}
	case "result":
		f.spent(model.Usage{Input: e.Usage.Input, CacheRead: e.Usage.CacheRead, CacheWrite: e.Usage.CacheWrite, Output: e.Usage.Output})
		switch {
		case e.IsError:
			if f.failure = shorten(e.Result, 500); f.failure == "" {
				f.failure = shorten(e.Subtype, 100)
			}
		case e.Result != "" && strings.TrimSpace(e.Result) != strings.TrimSpace(f.answer.String()):
			f.said(e.Result)
		}
	}
}

// resultText is the text of a tool's result, which is a string or a list of blocks.
func resultText(raw json.RawMessage) string {
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return text
	}
	var blocks []struct {
		Text string `json:"text"`
	}
	_ = json.Unmarshal(raw, &blocks)
	var all []string
	for _, block := range blocks {
		if block.Text != "" {
			all = append(all, block.Text)
		}
	}
	return strings.Join(all, "\n")
}

// codex reads a line of codex exec --json.
func (f *follower) codex(line []byte) {
	var e struct {
		Type     string `json:"type"`
		ThreadID string `json:"thread_id"`
		Message  string `json:"message"`
		Item     struct {
			ID       string   `json:"id"`
			Type     string   `json:"type"`
			Text     string   `json:"text"`
			Output   string   `json:"aggregated_output"`
			ExitCode *int     `json:"exit_code"`
			Status   string   `json:"status"`
			Message  string   `json:"message"`
			Result   struct { // of an MCP server's tool
				Content json.RawMessage `json:"content"`
			} `json:"result"`
			Error struct {
				Message string `json:"message"`
			} `json:"error"`
		} `json:"item"`
		Usage struct {
			Input  int64 `json:"input_tokens"`
			Cached int64 `json:"cached_input_tokens"`
			Output int64 `json:"output_tokens"`
		} `json:"usage"`
		Error struct {
			Message string `json:"message"`
		} `json:"error"`
	}
	if json.Unmarshal(line, &e) != nil {
		return
	}
	switch e.Type {
	case "thread.started":
		if threadRule.MatchString(e.ThreadID) {
			f.thread = e.ThreadID
		}
	case "item.started", "item.updated", "item.completed":
		switch e.Item.Type {
		case "agent_message":
			if e.Type == "item.completed" {
				f.said(e.Item.Text)
			}
		case "reasoning":
			if e.Type == "item.completed" {
				f.t.journal.add(EventReasoning, map[string]string{"text": shorten(e.Item.Text, maxStepResult)})
			}
		case "error", "todo_list":
		default:
			var whole struct {
				Item map[string]any `json:"item"`
			}
			_ = json.Unmarshal(line, &whole)
			for _, name := range []string{"id", "type", "status", "aggregated_output", "exit_code", "result", "error"} {
				delete(whole.Item, name) // which are not what it was asked to do
			}
			f.begin(e.Item.ID, e.Item.Type, asJSON(whole.Item))
			if e.Type == "item.completed" {
				text := e.Item.Output
				for _, other := range []string{resultText(e.Item.Result.Content), e.Item.Error.Message} {
					if text == "" {
						text = other
					}
				}
				f.done(e.Item.ID, text, e.Item.Status == "failed" || e.Item.ExitCode != nil && *e.Item.ExitCode != 0)
			}
		}
	case "turn.completed":
		f.spent(model.Usage{Input: e.Usage.Input - e.Usage.Cached, CacheRead: e.Usage.Cached, Output: e.Usage.Output})
	case "turn.failed":
		f.failure = shorten(e.Error.Message, 500)
	case "error":
		f.t.log.Debug("the desktop's agent has a fault", "message", shorten(e.Message, 500))
	}
}
