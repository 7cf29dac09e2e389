package cmd

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/assistant"
	"bureau/desktop"
)

// chatBody is the body of a message to a desktop's agent.
type chatBody struct {
	Message   string `json:"message"`
	SessionID string `json:"sessionId,omitempty"`
	Model     string `json:"model,omitempty"`
	MaxSteps  int    `json:"maxSteps,omitempty"`
	TimeoutMs int    `json:"timeoutMs,omitempty"`
}

func (a *app) chatCommand() *cobra.Command {
	var body chatBody
	var timeout time.Duration
	c := &cobra.Command{
		Use: "chat DESKTOP [MESSAGE|-]", Short: "Talk to a desktop's agent",
		Long: `Give a desktop's agent a message and see what it says and does, as it does so; without one,
talk to it line by line. What it says goes to standard output, what it does to standard error.
Where a step waits for a yes, you are asked. Ctrl-C ends what it is doing.

With --json the answer is the whole turn, when it has ended.`,
		Example: `  bureau chat demo
  bureau chat demo "Open the editor and write a poem"
  bureau chat demo --session ses-7k3m9q2w5x8r4t6y "Now save it"
  bureau chat demo --json - <task.txt`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			if c.Flags().Changed("timeout") {
				if timeout < time.Millisecond {
					return usage("--timeout has to be positive")
				}
				body.TimeoutMs = milliseconds(timeout)
			}
			if len(args) == 1 {
				if a.json {
					return usage("--json needs a message")
				}
				r, path, err := a.onDesktop(c.Context(), args[0])
				if err != nil {
					return err
				}
				return a.converse(c.Context(), &conversation{a: a, r: r, path: path, in: bufio.NewReader(a.in), asks: true}, body)
			}
			body.Message = args[1]
			piped := body.Message == "-"
			if piped {
				var err error
				if body.Message, err = a.readInput(assistant.MaxMessageLength); err != nil {
					return err
				}
			}
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			if a.json {
				return a.chatJSON(c.Context(), r, path, body)
			}
			_, tty := terminal(a.in)
			turn, err := (&conversation{a: a, r: r, path: path, in: bufio.NewReader(a.in), asks: tty && !piped}).turn(c.Context(), body)
			if err != nil {
				return err
			}
			fmt.Fprintf(a.err, "session %s\n", turn.SessionID)
			return ended(turn)
		},
	}
	f := c.Flags()
	f.SortFlags = false
	f.StringVarP(&body.SessionID, "session", "s", "", "session to go on with (default: a new one)")
	f.StringVarP(&body.Model, "model", "m", "", "model to ask in place of the provider's usual one")
	f.IntVar(&body.MaxSteps, "max-steps", 0, "how many steps it may do (default: the appliance's)")
	f.DurationVar(&timeout, "timeout", 0, "how long it may take (default: the appliance's)")
	c.AddCommand(a.chatSessions(), a.chatShow(), a.chatDelete(), a.chatCancel(), a.chatApprovals(), a.chatApprove())
	return c
}

// chatJSON waits for a turn and prints it.
func (a *app) chatJSON(ctx context.Context, r *remote, path string, body chatBody) error {
	var raw json.RawMessage
	err := r.call(ctx, request{method: http.MethodPost, path: path + "/chat", body: body}, &raw)
	if ctx.Err() != nil {
		r.cancelTurn(path, "")
	}
	if err != nil {
		return err
	}
	if err := a.printJSON(raw); err != nil {
		return err
	}
	var turn assistant.Turn
	if err := json.Unmarshal(raw, &turn); err != nil {
		return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
	}
	if turn.StopReason != assistant.EndTurn {
		return exitCode(exitGeneral)
	}
	return nil
}

// ended is the error of a turn that did not end by itself.
func ended(turn assistant.Turn) error {
	if turn.StopReason == assistant.EndTurn {
		return nil
	}
	return fmt.Errorf("the turn ended before its answer (%s): %s", turn.StopReason, printable(turn.Error))
}

// cancelTurn ends a turn whose command was interrupted.
func (r *remote) cancelTurn(path, turnID string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	body := map[string]string{}
	if turnID != "" {
		body["turnId"] = turnID
	}
	_ = r.call(ctx, request{method: http.MethodPost, path: path + "/chat/cancel", body: body}, nil) // it may have ended
}

// conversation shows turns to a person.
type conversation struct {
	a    *app
	r    *remote
	path string // of the desktop
	in   *bufio.Reader
	asks bool // a person is there to be asked

	fresh bool // standard output is at the beginning of a line
}

// converse gives the agent line after line.
func (a *app) converse(ctx context.Context, c *conversation, body chatBody) error {
	for {
		if _, tty := terminal(a.in); tty {
			fmt.Fprint(a.err, "> ")
		}
		line, err := c.line(ctx)
		if errors.Is(err, io.EOF) && strings.TrimSpace(line) == "" {
			return nil
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if body.Message = strings.TrimSpace(line); body.Message == "" {
			continue
		}
		turn, err := c.turn(ctx, body)
		if err != nil {
			return err
		}
		if err := ended(turn); err != nil {
			fmt.Fprintf(a.err, "bureau: %s\n", oneLine(err))
		}
		body.SessionID = turn.SessionID
	}
}

// line reads one, until ctx ends.
func (c *conversation) line(ctx context.Context) (string, error) {
	type read struct {
		line string
		err  error
	}
	got := make(chan read, 1)
	go func() { // a terminal cannot be read with a limit: this ends with the program
		line, err := c.in.ReadString('\n')
		got <- read{line, err}
	}()
	select {
	case r := <-got:
		return r.line, r.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// reconnects is how often a stream that broke is gone on with before it is given up.
const reconnects = 5

// turn gives the agent a message and shows what comes of it.
func (c *conversation) turn(ctx context.Context, body chatBody) (assistant.Turn, error) {
	c.fresh = true
	req := request{method: http.MethodPost, path: c.path + "/chat", body: body, accept: "text/event-stream"}
	turnID, last := "", ""
	for broken := 0; ; broken++ {
		answer, err := c.r.send(ctx, req)
		var turn *assistant.Turn
		if err == nil {
			turn, err = c.follow(ctx, answer.Body, &turnID, &last)
			answer.Body.Close()
		}
		switch {
		case ctx.Err() != nil:
			if turnID != "" {
				c.r.cancelTurn(c.path, turnID)
			}
			return assistant.Turn{}, ctx.Err()
		case err == nil:
			return *turn, nil
		case turnID == "" || broken == reconnects || desktop.CodeOf(err) != desktop.Unavailable:
			return assistant.Turn{}, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Duration(broken) * time.Second):
		}
		req = request{method: http.MethodGet, path: c.path + "/chat/turns/" + url.PathEscape(turnID) + "/events", accept: "text/event-stream", lastEventID: last}
	}
}

// follow shows a turn's events until the one that ends it.
func (c *conversation) follow(ctx context.Context, stream io.Reader, turnID, last *string) (*assistant.Turn, error) {
	events := newEventReader(stream)
	for {
		event, err := events.next()
		if err != nil {
			return nil, desktop.Errorf(desktop.Unavailable, "the connection ended before the turn did: %w", err)
		}
		if event.id != "" {
			*last = event.id
		}
		var data struct {
			TurnID    string         `json:"turnId"`
			Text      string         `json:"text"`
			Reason    string         `json:"reason"`
			WaitMs    int64          `json:"waitMs"`
			Tool      string         `json:"tool"`
			Arguments map[string]any `json:"arguments"`
			Result    string         `json:"result"`
			Failed    bool           `json:"failed"`
			ID        string         `json:"approvalId"`
			Status    string         `json:"status"`
			Error     string         `json:"error"`
		}
		if event.name != string(assistant.EventDone) {
			if err := json.Unmarshal(event.data, &data); err != nil && event.name != "error" {
				return nil, fmt.Errorf("event %s: %w", event.name, err)
			}
		}
		switch assistant.EventKind(event.name) {
		case assistant.EventTurn:
			*turnID = data.TurnID
		case assistant.EventText:
			c.say(data.Text)
		case assistant.EventMessage:
			c.apart()
		case assistant.EventDiscarded:
			c.note("↺ that answer broke off: %s", data.Reason)
		case assistant.EventToolCall:
			c.note("● %s %s", data.Tool, inWords(data.Arguments))
		case assistant.EventToolResult:
			mark := "└"
			if data.Failed {
				mark = "✗"
			}
			if line := firstLine(data.Result); line != "" {
				c.note("  %s %s", mark, line)
			}
		case assistant.EventRetry:
			c.note("… %s; asking again in %s", data.Reason, humanDuration(time.Duration(data.WaitMs)*time.Millisecond))
		case assistant.EventPaused:
			c.note("‖ waiting: %s", data.Reason)
		case assistant.EventResumed:
			c.note("▸ going on")
		case assistant.EventApproval:
			if err := c.ask(ctx, data.ID, data.Tool, data.Arguments, data.Reason); err != nil {
				return nil, err
			}
		case assistant.EventDecided:
			c.note("  %s", data.Status)
		case assistant.EventDone:
			c.apart()
			var turn assistant.Turn
			if err := json.Unmarshal(event.data, &turn); err != nil {
				return nil, fmt.Errorf("event done: %w", err)
			}
			return &turn, nil
		case "error":
			return nil, desktop.Errorf(desktop.Unavailable, "%s", printable(data.Error))
		}
	}
}

// say writes what the agent says.
func (c *conversation) say(text string) {
	if text == "" {
		return
	}
	io.WriteString(c.a.out, printableText(text))
	c.fresh = strings.HasSuffix(text, "\n")
}

// apart ends a line that has been begun.
func (c *conversation) apart() {
	if !c.fresh {
		io.WriteString(c.a.out, "\n")
		c.fresh = true
	}
}

// note tells of what the agent does.
func (c *conversation) note(format string, args ...any) {
	c.apart()
	fmt.Fprintln(c.a.err, printable(fmt.Sprintf(format, args...)))
}

// inWords is a call's arguments in a line.
func inWords(arguments map[string]any) string {
	var words []string
	for _, name := range slices.Sorted(maps.Keys(arguments)) {
		value, ok := arguments[name].(string)
		if !ok {
			text, _ := json.Marshal(arguments[name])
			value = string(text)
		}
		words = append(words, name+"="+value)
	}
	return firstLine(strings.ReplaceAll(strings.Join(words, " "), "\n", "⏎"))
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if runes := []rune(line); len(runes) > 160 {
		line = string(runes[:160]) + "…"
	}
	return line
}

// ask asks the person whether a step may be done.
func (c *conversation) ask(ctx context.Context, id, tool string, arguments map[string]any, reason string) error {
	c.apart()
	text, _ := json.MarshalIndent(arguments, "  ", "  ") // it came as JSON
	fmt.Fprintf(c.a.err, "? %s waits for your yes: %s\n  %s\n", printable(tool), printable(reason), printableText(string(text)))
	if !c.asks {
		fmt.Fprintf(c.a.err, "  Say so with: bureau chat approve %s %s\n", c.path[strings.LastIndexByte(c.path, '/')+1:], printable(id))
		return nil
	}
	fmt.Fprint(c.a.err, "  May it be done? [y/N] ")
	line, err := c.line(ctx)
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	answer := strings.TrimSpace(line)
	yes := strings.EqualFold(answer, "y") || strings.EqualFold(answer, "yes")
	err = c.r.call(ctx, request{method: http.MethodPost, path: c.path + "/approvals/" + url.PathEscape(id), body: map[string]bool{"approve": yes}}, nil)
	if desktop.CodeOf(err) == desktop.Conflict { // somebody else was faster, or it took too long
		c.note("  %s", err)
		return nil
	}
	return err
}

// listed prints a list of a desktop's: as the API gives it, or in a table.
func listed[T any](ctx context.Context, a *app, argument, route string, headings []string, row func(T) []string) error {
	r, path, err := a.onDesktop(ctx, argument)
	if err != nil {
		return err
	}
	raw, err := r.list(ctx, path+route, nil)
	if err != nil {
		return err
	}
	if a.json {
		return a.printJSON(raw)
	}
	list, err := decodeList[T](raw)
	if err != nil {
		return err
	}
	var rows [][]string
	for _, one := range list {
		rows = append(rows, row(one))
	}
	return a.table(headings, rows)
}

func (a *app) chatSessions() *cobra.Command {
	return &cobra.Command{
		Use: "sessions DESKTOP", Short: "List the sessions with a desktop's agent", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			return listed(c.Context(), a, args[0], "/chat/sessions", []string{"ID", "USED", "MESSAGES", "BEGINS"}, func(s assistant.Session) []string {
				return []string{s.ID, humanTime(s.UpdatedAt), fmt.Sprint(s.Turns), s.Title}
			})
		},
	}
}

func (a *app) chatShow() *cobra.Command {
	return &cobra.Command{
		Use: "show DESKTOP SESSION", Short: "Show what was said and done in a session", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodGet, path: path + "/chat/sessions/" + url.PathEscape(args[1])}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			var session struct {
				History []assistant.Turn `json:"history"`
			}
			if err := json.Unmarshal(raw, &session); err != nil {
				return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
			}
			for _, turn := range session.History {
				fmt.Fprintf(a.out, "> %s\n", strings.ReplaceAll(printableText(turn.Prompt), "\n", "\n> "))
				for _, step := range turn.Steps {
					fmt.Fprintf(a.out, "● %s %s\n", printable(step.Tool), printable(inWords(step.Arguments)))
				}
				if turn.Message != "" {
					fmt.Fprintln(a.out, printableText(turn.Message))
				}
				switch {
				case turn.Running():
					fmt.Fprintln(a.out, "(it runs)")
				case turn.StopReason != assistant.EndTurn:
					fmt.Fprintf(a.out, "(%s: %s)\n", turn.StopReason, printable(turn.Error))
				}
				fmt.Fprintln(a.out)
			}
			return nil
		},
	}
}

func (a *app) chatDelete() *cobra.Command {
	return &cobra.Command{
		Use: "delete DESKTOP SESSION", Short: "Forget a session for good", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			return r.call(c.Context(), request{method: http.MethodDelete, path: path + "/chat/sessions/" + url.PathEscape(args[1])}, nil)
		},
	}
}

func (a *app) chatCancel() *cobra.Command {
	return &cobra.Command{
		Use: "cancel DESKTOP", Short: "End what a desktop's agent is doing", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodPost, path: path + "/chat/cancel"}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			return nil
		},
	}
}

func (a *app) chatApprovals() *cobra.Command {
	return &cobra.Command{
		Use: "approvals DESKTOP", Short: "List the steps that wait, or waited, for a yes", Args: cobra.ExactArgs(1), ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			return listed(c.Context(), a, args[0], "/approvals", []string{"ID", "ASKED", "STATUS", "TOOL", "WHAT", "WHY"}, func(p assistant.Approval) []string {
				return []string{p.ID, humanTime(p.CreatedAt), string(p.Status), p.Tool, inWords(p.Arguments), p.Reason}
			})
		},
	}
}

func (a *app) chatApprove() *cobra.Command {
	var deny bool
	c := &cobra.Command{
		Use: "approve DESKTOP APPROVAL", Short: "Say yes to a step that waits, or no", Args: cobra.ExactArgs(2), ValidArgsFunction: a.completeDesktop,
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodPost, path: path + "/approvals/" + url.PathEscape(args[1]), body: map[string]bool{"approve": !deny}}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			return nil
		},
	}
	c.Flags().BoolVar(&deny, "deny", false, "say no")
	return c
}

// approvalFlags are --approve and --approve-pattern.
type approvalFlags struct {
	what     []string
	patterns []string
}

func (f *approvalFlags) flags(c *cobra.Command) {
	c.Flags().StringSliceVar(&f.what, "approve", nil, "which steps of its agent wait for a person's yes: shell, passwords, none")
	c.Flags().StringArrayVar(&f.patterns, "approve-pattern", nil, "steps that this regular expression matches wait, too; may be given again")
}

func (f *approvalFlags) policy() (desktop.ApprovalPolicy, error) {
	policy := desktop.ApprovalPolicy{Patterns: f.patterns}
	for _, what := range f.what {
		switch what {
		case "shell":
			policy.Shell = true
		case "passwords":
			policy.Passwords = true
		case "none":
			if len(f.what)+len(f.patterns) > 1 {
				return policy, usage("--approve none goes with nothing else")
			}
		default:
			return policy, usage("--approve %q is not shell, passwords or none", what)
		}
	}
	return policy, nil
}

func approvalInWords(p desktop.ApprovalPolicy) string {
	var words []string
	if p.Shell {
		words = append(words, "shell")
	}
	if p.Passwords {
		words = append(words, "passwords")
	}
	return strings.Join(append(words, p.Patterns...), ", ")
}

const agentUsage = "who answers its chat: builtin, claude-code, codex, or a command line in the desktop"

// chatAgent is the agent that --agent names.
func chatAgent(who string) desktop.ChatAgent {
	switch who {
	case "":
		return desktop.ChatAgent{}
	case desktop.AgentBuiltin:
		return desktop.ChatAgent{Kind: desktop.AgentBuiltin}
	case desktop.PresetClaudeCode, desktop.PresetCodex:
		return desktop.ChatAgent{Kind: desktop.AgentCommand, Preset: who}
	}
	return desktop.ChatAgent{Kind: desktop.AgentCommand, Command: who}
}

func agentInWords(a desktop.ChatAgent) string {
	switch {
	case a.Preset != "":
		return a.Preset
	case a.Command != "":
		return a.Command
	}
	return ""
}
