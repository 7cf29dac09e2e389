package assistant

import (
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/desktop/dialect"
)

// policy tells which steps need a person's yes, and why.
type policy struct {
	desktop.ApprovalPolicy
	patterns []*regexp.Regexp
}

func newPolicy(p desktop.ApprovalPolicy) policy {
	made := policy{ApprovalPolicy: p}
	for _, pattern := range p.Patterns {
		if r, err := regexp.Compile(pattern); err == nil { // it was checked when it was set
			made.patterns = append(made.patterns, r)
		}
	}
	return made
}

// matches is why a pattern wants a yes to some texts; "" when none does.
func (p policy) matches(texts ...string) string {
	for _, pattern := range p.patterns {
		if slices.ContainsFunc(texts, pattern.MatchString) {
			return "it matches the pattern " + pattern.String()
		}
	}
	return ""
}

func (p policy) shell(tool, command string) string {
	if p.Shell {
		return "it is a shell command"
	}
	return p.matches(tool, command)
}

// edit is about a file, with a change of which one can have whatever is liked run later.
func (p policy) edit(call model.Call, changes bool) string {
	if p.Shell && changes {
		return "it changes a file"
	}
	return p.matches(append(texts(call.Arguments), call.Tool)...)
}

// texts are all strings in a JSON value.
func texts(raw json.RawMessage) []string {
	var value any
	_ = json.Unmarshal(raw, &value)
	var list []string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case string:
			list = append(list, v)
		case []any:
			for _, one := range v {
				walk(one)
			}
		case map[string]any:
			for _, one := range v {
				walk(one)
			}
		}
	}
	walk(value)
	return list
}

var (
	asksPassword = regexp.MustCompile(`(?i)passwor[dt]|passphrase|kennwort|mot de passe|contraseña|\bpin\b|keyring|authenticat|log ?in|sign ?in|anmeld|unlock|polkit|sudo`)
	isTerminal   = regexp.MustCompile(`(?i)term|console|konsole|kitty|tilix|guake|yakuake`)
)

// computer is why input needs a yes. What has the focus is for the guest to say, so that this is as good
// as the guest is honest; no shell command of the model's own hangs on it.
func (p policy) computer(ctx context.Context, work Desktop, call model.Call, batch *dialect.Batch) []string {
	var reasons []string
	if reason := p.matches(append(texts(call.Arguments), call.Tool)...); reason != "" {
		reasons = append(reasons, reason)
	}
	types, runs := false, false
	for _, one := range batch.Calls {
		for _, step := range one.Steps {
			types = types || step.Act != nil && (step.Act.Type != nil || step.Act.Press != nil)
			runs = runs || step.Exec != nil
		}
	}
	if p.Shell && runs {
		reasons = append(reasons, "it runs a command")
	}
	if !types || !p.Shell && !p.Passwords {
		return reasons
	}
	windows, err := work.Windows(ctx)
	if err != nil {
		return append(reasons, "it types, and what it types into cannot be told")
	}
	for _, w := range windows {
		if !w.Focused {
			continue
		}
		if p.Shell && isTerminal.MatchString(w.Class) {
			reasons = append(reasons, "it types into a terminal")
		}
		if p.Passwords && (asksPassword.MatchString(w.Title) || asksPassword.MatchString(w.Class)) {
			reasons = append(reasons, "it types where a password may be asked for")
		}
	}
	return reasons
}

// errDenied and errExpired are how a person's no reads to the model.
var (
	errDenied  = errors.New("a person was asked and said no")
	errExpired = errors.New("a person was asked and did not answer in time, which is a no")
)

// approve waits for a person's yes to a step. The turn's time stands still meanwhile.
func (t *turn) approve(ctx context.Context, step Step, reason string) error {
	created := now()
	approval := Approval{
		ID: newID("apr-"), DesktopID: t.desktop.ID, SessionID: t.sessionID, TurnID: t.id,
		Step: step.Number, Tool: step.Tool, Arguments: step.Arguments, Reason: reason, Status: Pending,
		CreatedAt: created, ExpiresAt: created.Add(t.s.ApprovalTimeout),
	}
	answer := make(chan Approval, 1)
	t.mu.Lock()
	t.approvals[approval.ID] = answer
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.approvals, approval.ID)
		t.mu.Unlock()
	}()
	if err := t.s.Store.InsertApproval(ctx, approval); err != nil {
		return err
	}
	t.journal.add(EventApproval, approval)
	defer t.clock.hold()()
	timer := time.NewTimer(time.Until(approval.ExpiresAt))
	defer timer.Stop()
	select {
	case approval = <-answer:
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		expired, err := t.s.Store.DecideApproval(ctx, t.desktop.ID, approval.ID, Expired, now())
		switch {
		case err == nil:
			approval = expired
		case desktop.CodeOf(err) == desktop.Conflict: // it was answered in the last moment
			select {
			case approval = <-answer:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		default:
			return err
		}
	}
	t.journal.add(EventDecided, approval)
	switch approval.Status {
	case Approved:
		return nil
	case Expired:
		return errExpired
	}
	return errDenied
}

// decided hands an answer to the step that waits for it.
func (t *turn) decided(approval Approval) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if answer := t.approvals[approval.ID]; answer != nil {
		answer <- approval // there is room for the one answer that is kept
	}
}

// refused is the outcome of a step that got no yes.
func (t *turn) refused(ctx context.Context, call model.Call, err error) outcome {
	if !errors.Is(err, errDenied) && !errors.Is(err, errExpired) {
		return outcome{err: err}
	}
	no := outcome{text: strings.TrimSpace("This was not done: " + err.Error() + ". Do not try to do the same in another way."), failed: true}
	if call.Tool == model.Computer {
		return t.afterFailure(ctx, no)
	}
	return no
}
