package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/cmd/config"
	"bureau/desktop"
)

func (a *app) desktopCommand() *cobra.Command {
	c := group("desktop", "Make, see and use desktops",
		`Make, see and use desktops. DESKTOP is a desktop's id, or its name where only one has it.`,
		a.desktopCreate(), a.desktopList(), a.desktopShow(),
		a.desktopChange("start", "Turn on", "Turn a stopped desktop on. One that runs stays as it is.", desktop.Running),
		a.desktopChange("stop", "Shut down", "Shut a desktop down in an orderly way, and turn it off if it takes too long. Its disk is kept.", desktop.Stopped),
		a.desktopChange("restart", "Shut down and turn on again", "Shut a desktop down and turn it on again.", desktop.Running),
		a.desktopDestroy(), a.desktopRename(), a.desktopSet(), a.desktopAdopt(),
		a.desktopScreenshot(), a.desktopClick(), a.desktopMove(), a.desktopDrag(), a.desktopScroll(),
		a.desktopType(), a.desktopKey(), a.desktopActions(), a.desktopWindows(), a.desktopClipboard(), a.desktopResize(),
		a.desktopExec(), a.desktopBash(), a.desktopLease())
	for _, sub := range c.Commands() {
		if strings.Contains(sub.Use, " DESKTOP") {
			sub.ValidArgsFunction = a.completeDesktop
		}
	}
	return c
}

// completeDesktop offers the names of desktops to a shell.
func (a *app) completeDesktop(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	ctx, cancel := context.WithTimeout(c.Context(), 2*time.Second)
	defer cancel()
	r, err := a.remote()
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	list, err := r.desktops(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	var names []cobra.Completion
	for _, d := range list {
		names = append(names, cobra.CompletionWithDesc(d.Name, describe(d)))
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

var idRule = regexp.MustCompile(`^dt-[a-z2-7]{16}$`)

// find makes the API's path of the desktop that an argument names.
func (r *remote) find(ctx context.Context, argument string) (path string, err error) {
	if idRule.MatchString(argument) {
		return "/v1/desktops/" + argument, nil
	}
	found, err := r.desktops(ctx)
	if err != nil {
		return "", err
	}
	var ids []string
	for _, d := range found {
		if d.ID == argument {
			return "/v1/desktops/" + url.PathEscape(d.ID), nil
		}
		if d.Name == argument {
			ids = append(ids, d.ID)
		}
	}
	switch len(ids) {
	case 0:
		return "", desktop.Errorf(desktop.NotFound, "no desktop is called %q", argument)
	case 1:
		return "/v1/desktops/" + url.PathEscape(ids[0]), nil
	}
	return "", desktop.Errorf(desktop.Conflict, "%d desktops are called %q; give one's id: %s", len(ids), argument, strings.Join(ids, ", "))
}

func (r *remote) desktops(ctx context.Context) ([]desktop.Desktop, error) {
	raw, err := r.list(ctx, "/v1/desktops", nil)
	if err != nil {
		return nil, err
	}
	return decodeList[desktop.Desktop](raw)
}

func decodeList[T any](raw []json.RawMessage) ([]T, error) {
	list := make([]T, len(raw))
	for i, r := range raw {
		if err := json.Unmarshal(r, &list[i]); err != nil {
			return nil, fmt.Errorf("the appliance's list is not what the API promises: %w", err)
		}
	}
	return list, nil
}

// ask makes a request that is answered with one thing. With --json it is shown as it came.
func ask[T any](ctx context.Context, a *app, r *remote, req request) (answer T, shown bool, err error) {
	var raw json.RawMessage
	if err := r.call(ctx, req, &raw); err != nil {
		return answer, false, err
	}
	if a.json {
		return answer, true, a.printJSON(raw)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		return answer, false, fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
	}
	return answer, false, nil
}

// onDesktop is what most commands begin with: the appliance and the desktop's path.
func (a *app) onDesktop(ctx context.Context, argument string) (*remote, string, error) {
	r, err := a.remote()
	if err != nil {
		return nil, "", err
	}
	path, err := r.find(ctx, argument)
	return r, path, err
}

func (a *app) desktopCreate() *cobra.Command {
	var draft desktop.Draft
	var vcpus int
	var memory, disk string
	var noStart bool
	var who string
	var asked approvalFlags
	var wait waiting
	c := &cobra.Command{
		Use:   "create [NAME]",
		Short: "Make a desktop and turn it on",
		Example: `  bureau desktop create demo --wait
  bureau desktop create build --tier pro --memory 6GiB --network isolated
  sudo bureau desktop create anna --owner anna@example.org`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				draft.Name = args[0]
			}
			if noStart && wait.wait {
				return usage("--wait needs a start: leave --no-start out")
			}
			if noStart {
				start := false
				draft.Start = &start
			}
			var err error
			if draft.Approval, err = asked.policy(); err != nil {
				return err
			}
			draft.Agent = chatAgent(who)
			size := desktop.Sizes{VCPUs: vcpus}
			for _, s := range []struct {
				flag, text string
				into       *int64
			}{{"memory", memory, &size.MemoryBytes}, {"disk", disk, &size.DiskBytes}} {
				if s.text == "" {
					continue
				}
				n, err := config.ParseBytes(s.text)
				if err != nil {
					return usage("--%s: %w", s.flag, err)
				}
				*s.into = int64(n)
			}
			if size != (desktop.Sizes{}) {
				draft.Size = &size
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			var made json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodPost, path: "/v1/desktops", body: draft}, &made); err != nil {
				return err
			}
			return a.waitAndShow(c.Context(), r, made, wait, desktop.Running)
		},
	}
	f := c.Flags()
	f.StringVar(&draft.Tier, "tier", "", "size of it, one of the configured tiers (default: the owner's)")
	f.StringVar(&draft.Image, "image", "", "image that its disk is based on (default: the configured one)")
	f.StringVar(&draft.Network, "network", "", "nat reaches the outside, isolated reaches nothing (default: the configured one)")
	f.StringVar(&draft.Owner, "owner", "", "id or e-mail address of the user it is for (administration only)")
	f.BoolVar(&draft.KeepAlive, "keep-alive", false, "never stop it for inactivity")
	f.IntVar(&vcpus, "vcpus", 0, "virtual processors, within the tier's")
	f.StringVar(&memory, "memory", "", "memory, such as 2GiB, within the tier's")
	f.StringVar(&disk, "disk", "", "disk, such as 10GiB, within the tier's")
	f.BoolVar(&noStart, "no-start", false, "leave it off")
	asked.flags(c)
	f.StringVar(&who, "agent", "", agentUsage)
	wait.flags(c, "is ready")
	return c
}

func (a *app) desktopList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List desktops",
		Long: "List your desktops; over the administration socket, everybody's.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			raw, err := r.list(c.Context(), "/v1/desktops", nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			list, err := decodeList[desktop.Desktop](raw)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, d := range list {
				rows = append(rows, []string{d.ID, d.Name, describe(d), d.Tier, d.Image, orDash(d.IPAddress), humanTime(d.CreatedAt)})
			}
			return a.table([]string{"ID", "NAME", "STATUS", "TIER", "IMAGE", "ADDRESS", "CREATED"}, rows)
		},
	}
}

// describe is a desktop's status in a word or two.
func describe(d desktop.Desktop) string {
	switch {
	case d.Status == desktop.Running && d.AgentReady:
		return "running, ready"
	case d.Status == desktop.Booting && d.BootStage != "":
		return "booting, " + string(d.BootStage)
	}
	return string(d.Status)
}

func orDash(s *string) string {
	if s == nil || *s == "" {
		return "-"
	}
	return *s
}

func (a *app) desktopShow() *cobra.Command {
	return &cobra.Command{
		Use: "show DESKTOP", Short: "Show one desktop", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodGet, path: path}, &raw); err != nil {
				return err
			}
			return a.showDesktop(raw)
		},
	}
}

func (a *app) showDesktop(raw json.RawMessage) error {
	if a.json {
		return a.printJSON(raw)
	}
	var d desktop.Desktop
	if err := json.Unmarshal(raw, &d); err != nil {
		return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
	}
	how := d.Acceleration
	if how == desktop.TCG {
		how = "tcg (emulated: slow)"
	}
	keep := ""
	if d.KeepAlive {
		keep = "yes"
	}
	holder := ""
	if d.Lease != nil {
		holder = fmt.Sprintf("%s, until %s", d.Lease.Holder, exactTime(d.Lease.ExpiresAt))
	}
	return a.facts("id", d.ID, "name", d.Name, "status", describe(d), "reason", d.Reason, "warning", d.Warning, "input held by", holder,
		"owner", d.Owner, "image", d.Image, "network", d.Network, "address", orDash(d.IPAddress),
		"tier", d.Tier, "size", fmt.Sprintf("%d vCPU, %s memory, %s disk", d.VCPUs, humanBytes(d.MemoryBytes), humanBytes(d.DiskBytes)),
		"accelerated", how, "keep alive", keep, "agent", agentInWords(d.Agent), "approval", approvalInWords(d.Approval), "created", humanTime(d.CreatedAt))
}

// desktopChange makes start, stop and restart, which differ in little but their names.
func (a *app) desktopChange(verb, short, long string, until desktop.Status) *cobra.Command {
	var wait waiting
	var all bool
	c := &cobra.Command{
		Use: verb + " DESKTOP", Short: short, Long: long,
		Args: func(c *cobra.Command, args []string) error {
			if all {
				return cobra.NoArgs(c, args)
			}
			return cobra.ExactArgs(1)(c, args)
		},
		RunE: func(c *cobra.Command, args []string) error {
			if all {
				return a.stopAll(c.Context(), wait)
			}
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodPost, path: path + "/" + verb}, &raw); err != nil {
				return err
			}
			return a.waitAndShow(c.Context(), r, raw, wait, until)
		},
	}
	what := "is ready"
	if until == desktop.Stopped {
		what = "is off"
		c.Flags().BoolVar(&all, "all", false, "all desktops that are not off")
	}
	wait.flags(c, what)
	return c
}

// stopAll asks every desktop first, so that they shut down side by side, and then waits for each.
func (a *app) stopAll(ctx context.Context, wait waiting) error {
	r, err := a.remote()
	if err != nil {
		return err
	}
	list, err := r.desktops(ctx)
	if err != nil {
		return err
	}
	stopping := []json.RawMessage{}
	for _, d := range list {
		if d.Status == desktop.Stopped || d.Status == desktop.Destroying {
			continue
		}
		var raw json.RawMessage
		if err := r.call(ctx, request{method: http.MethodPost, path: "/v1/desktops/" + url.PathEscape(d.ID) + "/stop"}, &raw); err != nil {
			return fmt.Errorf("%s: %w", printable(d.Name), err)
		}
		stopping = append(stopping, raw)
	}
	if wait.wait {
		for i, raw := range stopping {
			if stopping[i], err = a.waitFor(ctx, r, raw, wait.timeout, desktop.Stopped); err != nil {
				return err
			}
		}
	}
	if a.json {
		return a.printJSON(stopping)
	}
	_, err = fmt.Fprintf(a.out, "%d stopped\n", len(stopping))
	return err
}

func (a *app) desktopDestroy() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "destroy DESKTOP", Aliases: []string{"rm"}, Short: "Remove a desktop and its disk for good", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			if _, tty := terminal(a.in); tty && !yes {
				fmt.Fprintf(a.err, "Destroy %s and everything on its disk? [y/N] ", printable(args[0]))
				var answer string
				fmt.Fscanln(a.in, &answer)
				if !strings.EqualFold(answer, "y") && !strings.EqualFold(answer, "yes") {
					return usage("%s is left as it is", args[0])
				}
			}
			return r.call(c.Context(), request{method: http.MethodDelete, path: path}, nil)
		},
	}
	c.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask, even on a terminal")
	return c
}

func (a *app) desktopRename() *cobra.Command {
	return &cobra.Command{
		Use: "rename DESKTOP NAME", Short: "Give a desktop another name", Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return a.change(c.Context(), args[0], desktop.Change{Name: &args[1]})
		},
	}
}

func (a *app) desktopSet() *cobra.Command {
	var keep bool
	var name, who string
	var asked approvalFlags
	c := &cobra.Command{
		Use: "set DESKTOP", Short: "Change a desktop's settings", Args: cobra.ExactArgs(1),
		Example: "  bureau desktop set demo --keep-alive\n  bureau desktop set demo --keep-alive=false\n" +
			"  bureau desktop set demo --approve shell,passwords --approve-pattern '^sudo '\n  bureau desktop set demo --agent claude-code",
		RunE: func(c *cobra.Command, args []string) error {
			var change desktop.Change
			if c.Flags().Changed("keep-alive") {
				change.KeepAlive = &keep
			}
			if c.Flags().Changed("name") {
				change.Name = &name
			}
			if c.Flags().Changed("approve") || c.Flags().Changed("approve-pattern") {
				approval, err := asked.policy()
				if err != nil {
					return err
				}
				change.Approval = &approval
			}
			if c.Flags().Changed("agent") {
				agent := chatAgent(who)
				change.Agent = &agent
			}
			if change == (desktop.Change{}) {
				return usage("say what to change: --keep-alive, --name, --approve or --agent")
			}
			return a.change(c.Context(), args[0], change)
		},
	}
	c.Flags().BoolVar(&keep, "keep-alive", false, "never stop it for inactivity")
	c.Flags().StringVar(&name, "name", "", "its name")
	asked.flags(c)
	c.Flags().StringVar(&who, "agent", "", agentUsage)
	return c
}

func (a *app) change(ctx context.Context, argument string, change desktop.Change) error {
	r, path, err := a.onDesktop(ctx, argument)
	if err != nil {
		return err
	}
	var raw json.RawMessage
	if err := r.call(ctx, request{method: http.MethodPatch, path: path, body: change}, &raw); err != nil {
		return err
	}
	return a.showDesktop(raw)
}

// waiting is --wait and --timeout.
type waiting struct {
	wait    bool
	timeout time.Duration
}

func (w *waiting) flags(c *cobra.Command, what string) {
	c.Flags().BoolVarP(&w.wait, "wait", "w", false, "return when the desktop "+what+", showing how far it has come")
	c.Flags().DurationVar(&w.timeout, "timeout", 10*time.Minute, "how long to wait")
}

// stageNotes are a boot's stages for people.
var stageNotes = map[desktop.Stage]string{
	"":                   "waiting its turn",
	desktop.StageDisk:    "making the disk and the machine",
	desktop.StageMachine: "kernel, services and X are starting",
	desktop.StageAgent:   "the agent is up, the display not yet",
	desktop.StageReady:   "ready",
}

const pollInterval = 300 * time.Millisecond

// waitAndShow prints a desktop, after waiting for it if that was asked for.
func (a *app) waitAndShow(ctx context.Context, r *remote, raw json.RawMessage, w waiting, until desktop.Status) error {
	if !w.wait {
		return a.showDesktop(raw)
	}
	raw, err := a.waitFor(ctx, r, raw, w.timeout, until)
	if err != nil {
		return err
	}
	return a.showDesktop(raw)
}

// waitFor polls a desktop until it is ready, or off, and reports on standard error. A restart
// passes through other statuses first, and what was asked for is "updatedAt": nothing that was
// true before the request counts.
func (a *app) waitFor(ctx context.Context, r *remote, raw json.RawMessage, limit time.Duration, until desktop.Status) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	var progress *status
	if !a.json {
		progress = newStatus(a.err)
		defer progress.abandon()
	}
	for last := (desktop.Desktop{}); ; {
		var d desktop.Desktop
		if err := json.Unmarshal(raw, &d); err != nil {
			return nil, fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
		}
		last = d
		switch {
		case d.Status == desktop.Failed:
			return nil, desktop.Errorf(desktop.Unavailable, "desktop %s has failed: %s", printable(d.Name), printable(d.Reason))
		case d.Status == desktop.Destroying || d.Status == desktop.Destroyed:
			return nil, desktop.Errorf(desktop.Conflict, "desktop %s is being destroyed", printable(d.Name))
		case d.Status == until && (until != desktop.Running || d.AgentReady):
			if progress != nil {
				progress.end()
			}
			return raw, nil
		}
		if progress != nil {
			stage, note := string(d.Status), ""
			if d.Status == desktop.Booting || d.Status == desktop.Running {
				if stage = string(d.BootStage); stage == "" {
					stage = string(d.Status)
				}
				note = stageNotes[d.BootStage]
			}
			progress.show(stage, note, 0, 0)
		}
		select {
		case <-ctx.Done():
			if ctx.Err() == context.DeadlineExceeded {
				return nil, desktop.Errorf(desktop.Unavailable, "desktop %s is still %s after %s%s",
					printable(last.Name), describe(last), limit, because(last.Reason))
			}
			return nil, ctx.Err()
		case <-time.After(pollInterval):
		}
		err := r.call(ctx, request{method: http.MethodGet, path: "/v1/desktops/" + url.PathEscape(d.ID)}, &raw)
		if err != nil && ctx.Err() == nil {
			return nil, err
		}
	}
}

func because(reason string) string {
	if reason == "" {
		return ""
	}
	return ": " + printable(reason)
}
