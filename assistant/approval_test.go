package assistant_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bureau/assistant"
	"bureau/desktop"
)

// What waits for a yes, by policy, is not done before it.
func TestApproval(t *testing.T) {
	terminal := []desktop.Window{{Title: "agent@desktop", Class: "Xfce4-terminal", Focused: true}}
	login := []desktop.Window{{Title: "Sign in to continue", Class: "Firefox-esr", Focused: true}, {Title: "agent@desktop", Class: "Xfce4-terminal"}}
	for name, c := range map[string]struct {
		policy    desktop.ApprovalPolicy
		windows   []desktop.Window
		tool      string
		arguments string
		reason    string // "" when it does not wait
	}{
		"no policy":           {tool: "bash", arguments: `{"command":"touch done"}`},
		"shell":               {policy: desktop.ApprovalPolicy{Shell: true}, tool: "bash", arguments: `{"command":"touch done"}`, reason: "shell command"},
		"change of a file":    {policy: desktop.ApprovalPolicy{Shell: true}, tool: "edit_file", arguments: `{"command":"create","path":"done","text":""}`, reason: "changes a file"},
		"look at a file":      {policy: desktop.ApprovalPolicy{Shell: true}, tool: "edit_file", arguments: `{"command":"view","path":"done"}`},
		"typed into a shell":  {policy: desktop.ApprovalPolicy{Shell: true}, windows: terminal, tool: "computer", arguments: `{"action":"type","text":"ls\n"}`, reason: "terminal"},
		"typed elsewhere":     {policy: desktop.ApprovalPolicy{Shell: true}, windows: login, tool: "computer", arguments: `{"action":"type","text":"ls\n"}`},
		"password":            {policy: desktop.ApprovalPolicy{Passwords: true}, windows: login, tool: "computer", arguments: `{"action":"type","text":"x"}`, reason: "password"},
		"click in a login":    {policy: desktop.ApprovalPolicy{Passwords: true}, windows: login, tool: "computer", arguments: `{"action":"left_click","coordinate":[1,1]}`},
		"pattern of a script": {policy: desktop.ApprovalPolicy{Patterns: []string{`\bdone\b`}}, tool: "bash", arguments: `{"command":"touch done"}`, reason: "pattern"},
		"pattern of typing":   {policy: desktop.ApprovalPolicy{Patterns: []string{`^rm `}}, tool: "computer", arguments: `{"action":"type","text":"rm x"}`, reason: "pattern"},
		"pattern of a tool":   {policy: desktop.ApprovalPolicy{Patterns: []string{`^bash$`}}, tool: "bash", arguments: `{"command":"touch done"}`, reason: "pattern"},
		"no pattern's":        {policy: desktop.ApprovalPolicy{Patterns: []string{`^rm `}}, tool: "bash", arguments: `{"command":"touch done"}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(b *bench) { b.desk.desktop.Approval, b.desk.windows = c.policy, c.windows })
			done := func() bool {
				_, err := os.Stat(filepath.Join(b.desk.home, "done"))
				return err == nil || len(b.desk.inputs()) > 0
			}
			b.play(use(c.tool, c.arguments), say("so"))
			turn := b.begin(assistant.Prompt{Message: "go"})
			if c.reason == "" {
				b.wait(turn)
				if list, err := b.service.Approvals(t.Context(), caller, "dt-1"); err != nil || len(list) != 0 {
					t.Errorf("it waited: %+v, %v", list, err)
				}
				return
			}
			asked := b.await(turn, assistant.EventApproval)
			if done() {
				t.Error("it was done before the yes")
			}
			if reason, _ := asked["reason"].(string); !strings.Contains(reason, c.reason) {
				t.Errorf("asked because %s", reason)
			}
			list, err := b.service.Approvals(t.Context(), caller, "dt-1")
			if err != nil || len(list) != 1 || list[0].ID != asked["approvalId"] || list[0].Status != assistant.Pending || list[0].TurnID != turn.ID {
				t.Fatalf("approvals %+v, %v", list, err)
			}
			approved, err := b.service.Decide(t.Context(), caller, "dt-1", list[0].ID, true)
			if err != nil || approved.Status != assistant.Approved || approved.DecidedAt == nil {
				t.Errorf("got %+v, %v", approved, err)
			}
			ended := b.wait(turn)
			if !done() || ended.Steps[0].Failed {
				t.Errorf("not done after the yes: %+v", ended.Steps)
			}
			if _, err := b.service.Decide(t.Context(), caller, "dt-1", list[0].ID, false); desktop.CodeOf(err) != desktop.Conflict {
				t.Errorf("a yes was taken back: %v", err)
			}
			b.desk.set(func(d *desk) { d.desktop.Approval = desktop.ApprovalPolicy{} })
			b.wantEnd(ended, assistant.EndTurn, "")
		})
	}
}

// A no, and no answer, are told to the model, which goes on.
func TestNoApproval(t *testing.T) {
	for name, limit := range map[string]time.Duration{"said no": time.Hour, "did not answer in time": 20 * time.Millisecond} {
		b := newBench(t, func(b *bench) {
			b.desk.desktop.Approval = desktop.ApprovalPolicy{Shell: true}
			b.options.ApprovalTimeout = limit
		})
		b.play(bash("touch done"), say("then not"))
		turn := b.begin(assistant.Prompt{Message: "go"})
		id, _ := b.await(turn, assistant.EventApproval)["approvalId"].(string)
		if limit == time.Hour {
			if _, err := b.service.Decide(t.Context(), caller, "dt-1", id, false); err != nil {
				t.Fatal(err)
			}
		}
		ended := b.wait(turn)
		if len(b.desk.scripts()) != 0 {
			t.Error("it was run")
		}
		got := results(b.asked()[1])[0]
		if !got.Failed || !strings.Contains(got.Text, name) || ended.Message != "then not" {
			t.Errorf("the model is told %+v", got)
		}
		if _, err := b.service.Decide(t.Context(), caller, "dt-1", id, true); desktop.CodeOf(err) != desktop.Conflict {
			t.Errorf("%s: a yes came after the end: %v", name, err)
		}
		if _, err := b.service.Decide(t.Context(), caller, "dt-1", "apr-none", true); desktop.CodeOf(err) != desktop.NotFound {
			t.Errorf("got %v", err)
		}
	}
}

// The time in which a person is waited for is not the turn's.
func TestTimeStandsStillForAPerson(t *testing.T) {
	b := newBench(t, func(b *bench) {
		b.desk.desktop.Approval = desktop.ApprovalPolicy{Shell: true}
		b.options.ApprovalTimeout = 400 * time.Millisecond
	})
	ended := b.chat(assistant.Prompt{Message: "go", Timeout: 250 * time.Millisecond}, bash("true"), say("in time"))
	if ended.StopReason != assistant.EndTurn {
		t.Errorf("got %+v", ended)
	}
}

func TestPolicyIsChecked(t *testing.T) {
	for _, p := range []desktop.ApprovalPolicy{
		{Patterns: []string{"("}}, {Patterns: []string{""}}, {Patterns: []string{strings.Repeat("x", 501)}}, {Patterns: make([]string, 33)},
	} {
		if err := p.Check(); desktop.CodeOf(err) != desktop.Invalid {
			t.Errorf("%+v: %v", p, err)
		}
	}
	if err := (desktop.ApprovalPolicy{Shell: true, Patterns: []string{"^rm", "日本"}}).Check(); err != nil {
		t.Error(err)
	}
}
