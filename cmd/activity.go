package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/desktop/activity"
	"bureau/store"
)

// followEvery is how often a log that is followed is asked for news.
const followEvery = time.Second

func (a *app) activityCommand() *cobra.Command {
	var since, until, named, user, key, action, outcome string
	var limit int
	var follow bool
	c := &cobra.Command{
		Use: "activity", Aliases: []string{"log"}, Short: "Show who did what to which desktop",
		Long: `Show the activity log: who did what to which desktop, from where, with which key, and what came
of it. On the administration socket it is everybody's, with a key its user's own and whatever
others did to that user's desktops. Input, pictures and commands are counted by the minute.

Times are a duration before now, such as 24h, or a moment such as 2026-03-01T00:00:00Z.`,
		Example: `  sudo bureau activity --since 1h
  sudo bureau activity --action authenticate --follow
  bureau activity --desktop demo --json`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 1 {
				return usage("--limit is a number of entries, 1 or more")
			}
			query := url.Values{}
			if err := setPeriod(query, since, until, time.RFC3339Nano); err != nil {
				return err
			}
			for name, value := range map[string]string{"user": user, "key": key, "action": action, "outcome": outcome} {
				if value != "" {
					query.Set(name, value)
				}
			}
			switch { // also one that is destroyed, which has no page of its own
			case idRule.MatchString(named):
				query.Set("desktop", named)
			case named != "":
				query.Set("desktopName", named)
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			list, err := r.activity(c.Context(), query, limit)
			if err != nil {
				return err
			}
			slices.Reverse(list) // as it happened
			if !follow && a.json {
				return a.printJSON(list)
			}
			entries, err := decodeList[activity.Entry](list)
			if err != nil {
				return err
			}
			if !follow {
				return a.activityTable(entries)
			}
			return a.followActivity(c.Context(), r, query, list, entries)
		},
	}
	f := c.Flags()
	f.StringVar(&named, "desktop", "", "only of this desktop (id or the name that it had)")
	f.StringVar(&user, "user", "", "only by this user (id or e-mail address)")
	f.StringVar(&key, "with-key", "", "only with the key of this id")
	f.StringVar(&action, "action", "", "only this action, such as desktop.stop, or all that begin so: desktop.")
	f.StringVar(&outcome, "outcome", "", "only what ended so: done, refused or failed")
	f.StringVar(&since, "since", "", "from then on")
	f.StringVar(&until, "until", "", "up to then")
	f.IntVar(&limit, "limit", 100, "the most entries to show, the newest ones")
	f.BoolVarP(&follow, "follow", "f", false, "go on with what happens, until interrupted; with --json a line for each entry")
	return c
}

// activity is the newest entries, newest first, up to limit.
func (r *remote) activity(ctx context.Context, query url.Values, limit int) ([]json.RawMessage, error) {
	const page = 1000 // the most that the API gives at once
	all := []json.RawMessage{}
	for query := maps.Clone(query); len(all) < limit; {
		query.Set("limit", strconv.Itoa(min(page, limit-len(all))))
		var list []json.RawMessage
		if err := r.call(ctx, request{method: http.MethodGet, path: "/v1/activity", query: query}, &list); err != nil {
			return nil, err
		}
		if all = append(all, list...); len(list) == 0 || len(list) < min(page, limit) {
			break
		}
		last, err := decodeList[activity.Entry](list[len(list)-1:])
		if err != nil {
			return nil, err
		}
		query.Set("cursor", strconv.FormatInt(last[0].ID, 10))
	}
	return all, nil
}

// followActivity prints what there is and then what comes.
func (a *app) followActivity(ctx context.Context, r *remote, query url.Values, raw []json.RawMessage, entries []activity.Entry) error {
	query = maps.Clone(query)
	query.Set("order", "oldest")
	query.Set("limit", "1000")
	last := int64(0)
	for {
		for i, entry := range entries {
			last = entry.ID
			if a.json {
				a.jsonLine(raw[i])
				continue
			}
			fmt.Fprintln(a.out, printable(strings.Join(activityRow(entry), "  ")))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(followEvery):
		}
		query.Set("cursor", strconv.FormatInt(last, 10))
		if last == 0 {
			query.Del("cursor")
		}
		raw = nil
		if err := r.call(ctx, request{method: http.MethodGet, path: "/v1/activity", query: query}, &raw); err != nil {
			return err
		}
		var err error
		if entries, err = decodeList[activity.Entry](raw); err != nil {
			return err
		}
	}
}

func (a *app) activityTable(entries []activity.Entry) error {
	var rows [][]string
	for _, entry := range entries {
		rows = append(rows, activityRow(entry))
	}
	return a.table([]string{"AT", "WHO", "DID", "TO", "OUTCOME", "FROM"}, rows)
}

// activityRow is an entry in words.
func activityRow(e activity.Entry) []string {
	who := string(e.Actor)
	switch {
	case e.Actor == activity.ByAgent && e.UserEmail != "":
		who = "agent of " + e.UserEmail
	case e.UserEmail != "":
		who = e.UserEmail
		if e.KeyName != "" {
			who += " (" + e.KeyName + ")"
		}
	}
	what := e.Action
	if e.Count > 1 {
		what += fmt.Sprintf(" ×%d", e.Count)
	}
	if len(e.Details) > 0 {
		var kinds []string
		for _, name := range slices.Sorted(maps.Keys(e.Details)) {
			if n := e.Details[name]; n > 1 {
				name += fmt.Sprintf(" ×%d", n)
			}
			kinds = append(kinds, name)
		}
		what += ": " + strings.Join(kinds, ", ")
	}
	var to []string
	for _, names := range [][2]string{{e.DesktopName, e.DesktopID}, {e.TargetName, e.Target}} {
		if name := names[0]; name != "" {
			to = append(to, name)
		} else if names[1] != "" {
			to = append(to, names[1])
		}
	}
	came := string(e.Outcome)
	if e.Status != 0 && e.Outcome != activity.Done {
		came += fmt.Sprintf(" (%d)", e.Status)
	}
	from := e.Via
	if e.Address != "" {
		from += " " + e.Address
	}
	return []string{exactTime(e.At), who, what, strings.Join(to, ", "), came, from}
}

// recordCommand has what a command on this host did in the activity log, when there is one: also
// while no appliance runs. What was done stays done when that fails, so the operator is told.
func (a *app) recordCommand(ctx context.Context, action, target string) {
	settings, err := a.configuration(nil)
	if err == nil {
		err = a.appendActivity(ctx, settings.Database(), activity.Entry{
			Actor: activity.ByOperator, Via: "command", Action: action, TargetName: target})
	}
	if err != nil {
		fmt.Fprintf(a.err, "bureau: this is not in the activity log: %s\n", printable(err.Error()))
	}
}

func (a *app) appendActivity(ctx context.Context, database string, entry activity.Entry) error {
	kept, err := store.Attach(ctx, database)
	if err != nil || kept == nil {
		return err
	}
	log := activity.NewLog(kept, 0, slog.New(slog.DiscardHandler))
	err = log.Record(ctx, entry)
	log.Close()
	if closed := kept.Close(); err == nil {
		err = closed
	}
	return err
}
