package assistant_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

// installs puts a program into a bench's desktop.
func (b *bench) install(name, script string) {
	b.t.Helper()
	dir := filepath.Join(b.desk.home, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/bash\n"+script), 0o755); err != nil {
		b.t.Fatal(err)
	}
}

func withAgent(agent desktop.ChatAgent) func(*bench) {
	return func(b *bench) { b.desk.desktop.Agent = agent }
}

func TestCommand(t *testing.T) {
	b := newBench(t, withAgent(desktop.ChatAgent{Kind: desktop.AgentCommand, Command: `read -r line; printf 'You said: %s, %s' "$line" "$BUREAU_PROMPT"; echo oh >&2`}))
	b.endpoint = []string{"none"} // it gets its models elsewhere
	turn := b.wait(b.begin(assistant.Prompt{Message: "Grüße"}))
	if turn.StopReason != assistant.EndTurn || turn.Message != "You said: Grüße, Grüße" {
		t.Errorf("got %+v", turn)
	}
	if got := kinds(b.events(turn, 0)); !strings.HasPrefix(got, "turn text ") || !strings.HasSuffix(got, "text message done") && got != "turn text message done" {
		t.Errorf("events %s", got)
	}
	again := b.wait(b.begin(assistant.Prompt{Message: "again", SessionID: turn.SessionID}))
	if again.SessionID != turn.SessionID || again.Message != "You said: again, again" {
		t.Errorf("got %+v", again)
	}
	for name, c := range map[string]struct {
		command  string
		timeout  time.Duration
		reason   assistant.StopReason
		sentence string
	}{
		"fails":   {"echo 'no license' >&2; exit 4", 0, assistant.Failed, "exit code 4: no license"},
		"missing": {"no-such-agent", 0, assistant.Failed, "not installed"},
		"long":    {"echo half; sleep 1000", 100 * time.Millisecond, assistant.TimedOut, "time was up"},
	} {
		b.desk.set(func(d *desk) { d.desktop.Agent.Command = c.command })
		turn := b.wait(b.begin(assistant.Prompt{Message: "go", Timeout: c.timeout}))
		if turn.StopReason != c.reason || !strings.Contains(turn.Error, c.sentence) {
			t.Errorf("%s: %s: %s", name, turn.StopReason, turn.Error)
		}
	}

	// What is known to be amiss in the desktop is told beside its agent's own words.
	b.desk.set(func(d *desk) { d.desktop.Agent.Command, d.desktop.Warning = "exit 4", "The port is taken." })
	if turn := b.wait(b.begin(assistant.Prompt{Message: "go"})); !strings.HasSuffix(turn.Error, " (The port is taken.)") {
		t.Errorf("it fails with %q", turn.Error)
	}

	b.desk.set(func(d *desk) { d.desktop.Agent.Command = "echo on; sleep 1000" })
	turn = b.begin(assistant.Prompt{Message: "go"})
	b.await(turn, assistant.EventText)
	if ended, err := b.service.Cancel(t.Context(), caller, "dt-1", ""); err != nil || ended.StopReason != assistant.Cancelled || ended.Message != "on\n" {
		t.Errorf("got %+v, %v", ended, err)
	}
	// What a command may print is bounded.
	b.desk.set(func(d *desk) { d.desktop.Agent.Command = "head -c 3000000 /dev/zero | tr '\\0' x" })
	if turn := b.wait(b.begin(assistant.Prompt{Message: "go"})); len(turn.Message) != 1<<20 {
		t.Errorf("%d bytes", len(turn.Message))
	}
	// The builtin agent goes on in the same session.
	b.desk.set(func(d *desk) { d.desktop.Agent = desktop.ChatAgent{} })
	b.endpoint = nil
	if turn := b.chat(assistant.Prompt{Message: "and you?", SessionID: again.SessionID}, say("I know")); turn.Message != "I know" {
		t.Errorf("got %+v", turn)
	}
}

func TestCommandWaitsForItsYes(t *testing.T) {
	b := newBench(t, withAgent(desktop.ChatAgent{Kind: desktop.AgentCommand, Command: "touch ran; echo hello"}))
	b.desk.set(func(d *desk) { d.desktop.Approval = desktop.ApprovalPolicy{Shell: true} })
	for _, yes := range []bool{false, true} {
		turn := b.begin(assistant.Prompt{Message: "go"})
		id, _ := b.await(turn, assistant.EventApproval)["approvalId"].(string)
		if _, err := b.service.Decide(t.Context(), caller, "dt-1", id, yes); err != nil {
			t.Fatal(err)
		}
		ended := b.wait(turn)
		if _, err := os.Stat(filepath.Join(b.desk.home, "ran")); (err == nil) != yes || (ended.StopReason == assistant.EndTurn) != yes {
			t.Errorf("%v: got %+v", yes, ended)
		}
	}
}

func TestClaudeCode(t *testing.T) {
	b := newBench(t, withAgent(desktop.ChatAgent{Kind: desktop.AgentCommand, Preset: desktop.PresetClaudeCode}))
	b.install("claude", `echo "$@" >>"$HOME/arguments"; cat >"$HOME/prompt"
cat <<'END'
{"type":"system","subtype":"init","session_id":"x"}
not JSON
{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"I "}},"parent_tool_use_id":null}
{"type":"stream_event","event":{"type":"content_block_delta","delta":{"type":"text_delta","text":"look."}},"parent_tool_use_id":null}
{"type":"assistant","message":{"model":"claude-x","content":[{"type":"text","text":"I look."},{"type":"tool_use","id":"t1","name":"Bash","input":{"command":"ls"}},{"type":"tool_use","id":"t2","name":"Read","input":{}}]},"parent_tool_use_id":null}
{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"a b"}]},{"type":"tool_result","tool_use_id":"t2","content":"no such file","is_error":true}]}}
{"type":"stream_event","event":{"delta":{"type":"text_delta","text":"of a helper"}},"parent_tool_use_id":"t1"}
{"type":"assistant","message":{"model":"claude-x","content":[{"type":"text","text":"There are two."}]},"parent_tool_use_id":null}
{"type":"result","subtype":"success","is_error":false,"result":"There are two.","usage":{"input_tokens":5,"cache_creation_input_tokens":7,"cache_read_input_tokens":11,"output_tokens":13}}
END`)
	turn := b.wait(b.begin(assistant.Prompt{Message: "What is there?"}))
	if turn.StopReason != assistant.EndTurn || turn.Message != "There are two." || turn.Model != "claude-x" ||
		turn.Usage != (model.Usage{Input: 5, CacheWrite: 7, CacheRead: 11, Output: 13}) {
		t.Errorf("got %+v", turn)
	}
	if len(turn.Steps) != 2 || turn.Steps[0].Tool != "Bash" || turn.Steps[0].Arguments["command"] != "ls" || turn.Steps[0].Result != "a b" ||
		!turn.Steps[1].Failed || turn.Steps[1].Result != "no such file" || turn.Steps[1].Number != 2 {
		t.Errorf("steps %+v", turn.Steps)
	}
	if got := kinds(b.events(turn, 0)); got != "turn text text message tool.call tool.call tool.result tool.result text message usage done" {
		t.Errorf("events %s", got)
	}
	if _, history, err := b.service.History(t.Context(), caller, "dt-1", turn.SessionID); err != nil || len(history[0].Steps) != 2 {
		t.Errorf("history %+v, %v", history, err)
	}
	b.wait(b.begin(assistant.Prompt{Message: "And now?", SessionID: turn.SessionID}))
	arguments, _ := os.ReadFile(filepath.Join(b.desk.home, "arguments"))
	lines := strings.Split(strings.TrimSpace(string(arguments)), "\n")
	if !strings.Contains(lines[0], "--model first ") { // the bench's provider speaks Anthropic's format
		t.Errorf("called with %q", lines)
	}
	_, begun, _ := strings.Cut(lines[0], "--session-id ")
	_, resumed, _ := strings.Cut(lines[1], "--resume ")
	if len(lines) != 2 || begun == "" || begun != resumed || len(begun) != 36 {
		t.Errorf("called with %q", lines)
	}
	if prompt, _ := os.ReadFile(filepath.Join(b.desk.home, "prompt")); string(prompt) != "And now?" {
		t.Errorf("told %q", prompt)
	}

	b.install("claude", `echo '{"type":"assistant","message":{"content":[{"type":"tool_use","id":"t1","name":"Bash","input":{}}]}}'
echo '{"type":"result","subtype":"error_during_execution","is_error":true,"result":"Credit balance is too low"}'; exit 1`)
	turn = b.wait(b.begin(assistant.Prompt{Message: "go"}))
	if turn.StopReason != assistant.Failed || !strings.Contains(turn.Error, "Credit balance is too low") || len(turn.Steps) != 1 || !turn.Steps[0].Failed {
		t.Errorf("got %+v", turn)
	}
}

func TestCodex(t *testing.T) {
	b := newBench(t, withAgent(desktop.ChatAgent{Kind: desktop.AgentCommand, Preset: desktop.PresetCodex}))
	b.install("codex", `echo "$@" >>"$HOME/arguments"; cat >/dev/null
cat <<'END'
{"type":"thread.started","thread_id":"0199a213-81c0-7800-8aa1-bbab2a035a53"}
{"type":"turn.started"}
{"type":"item.completed","item":{"id":"item_0","type":"reasoning","text":"Hm"}}
{"type":"item.started","item":{"id":"item_1","type":"command_execution","command":"ls","aggregated_output":"","exit_code":null,"status":"in_progress"}}
{"type":"item.completed","item":{"id":"item_1","type":"command_execution","command":"ls","aggregated_output":"a b\n","exit_code":0,"status":"completed"}}
{"type":"item.completed","item":{"id":"item_3","type":"mcp_tool_call","server":"bureau","tool":"move_pointer","arguments":{"x":3},"result":{"content":[{"type":"text","text":"moved"}],"structured_content":null},"error":null,"status":"completed"}}
{"type":"item.completed","item":{"id":"item_2","type":"agent_message","text":"There are two."}}
{"type":"turn.completed","usage":{"input_tokens":100,"cached_input_tokens":40,"output_tokens":9}}
END`)
	turn := b.wait(b.begin(assistant.Prompt{Message: "What is there?"}))
	if turn.StopReason != assistant.EndTurn || turn.Message != "There are two." || turn.Usage != (model.Usage{Input: 60, CacheRead: 40, Output: 9}) ||
		len(turn.Steps) != 2 || turn.Steps[0].Result != "a b\n" || turn.Steps[0].Arguments["command"] != "ls" ||
		turn.Steps[1].Result != "moved" || turn.Steps[1].Arguments["tool"] != "move_pointer" {
		t.Errorf("got %+v", turn)
	}
	if got := kinds(b.events(turn, 0)); got != "turn reasoning tool.call tool.result tool.call tool.result text message usage done" {
		t.Errorf("events %s", got)
	}
	next := b.wait(b.begin(assistant.Prompt{Message: "And now?", SessionID: turn.SessionID}))
	if next.Usage != (model.Usage{}) { // it tells all of its session's, which has not grown here
		t.Errorf("used %+v", next.Usage)
	}
	arguments, _ := os.ReadFile(filepath.Join(b.desk.home, "arguments"))
	lines := strings.Split(strings.TrimSpace(string(arguments)), "\n")
	if !strings.HasSuffix(lines[0], "-sandbox -") || !strings.HasSuffix(lines[1], "-sandbox resume 0199a213-81c0-7800-8aa1-bbab2a035a53 -") {
		t.Errorf("called with %q", lines)
	}
	b.install("codex", `echo '{"type":"turn.failed","error":{"message":"stream disconnected"}}'; exit 1`)
	if turn := b.wait(b.begin(assistant.Prompt{Message: "go"})); turn.StopReason != assistant.Failed || !strings.Contains(turn.Error, "stream disconnected") {
		t.Errorf("got %+v", turn)
	}
}

func TestAgentIsChecked(t *testing.T) {
	for _, agent := range []desktop.ChatAgent{
		{Kind: "other"}, {Kind: desktop.AgentCommand}, {Kind: desktop.AgentCommand, Preset: "gpt"}, {Command: "x"},
		{Kind: desktop.AgentBuiltin, Preset: desktop.PresetCodex}, {Kind: desktop.AgentCommand, Command: "x", Preset: desktop.PresetCodex},
		{Kind: desktop.AgentCommand, Command: "a\x00b"}, {Kind: desktop.AgentCommand, Command: strings.Repeat("x", 4097)},
	} {
		if err := agent.Check(); desktop.CodeOf(err) != desktop.Invalid {
			t.Errorf("%+v: %v", agent, err)
		}
	}
	for _, agent := range []desktop.ChatAgent{{}, {Kind: desktop.AgentBuiltin}, {Kind: desktop.AgentCommand, Command: "x"}, {Kind: desktop.AgentCommand, Preset: desktop.PresetClaudeCode}} {
		if err := agent.Check(); err != nil {
			t.Errorf("%+v: %v", agent, err)
		}
	}
}
