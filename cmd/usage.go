package cmd

import (
	"net/url"
	"path"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	models "bureau/assistant/usage"
)

func (a *app) usageCommand() *cobra.Command {
	var since, until, owner string
	c := &cobra.Command{
		Use: "usage [DESKTOP]", Short: "Show what models took",
		Long: `Show the answers and tokens that models took for desktops, the largest consumers first. It is
kept by the hour. CACHED tokens were read from the provider's cache and are not part of INPUT.

Times are a duration before now, such as 24h, or a moment such as 2026-03-01T00:00:00Z.`,
		Example: "  bureau usage --since 24h\n  bureau usage demo",
		Args:    cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			query := url.Values{}
			if err := setPeriod(query, since, until, time.RFC3339); err != nil {
				return err
			}
			if owner != "" {
				query.Set("owner", owner)
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				found, err := r.find(c.Context(), args[0])
				if err != nil {
					return err
				}
				query.Set("desktop", path.Base(found))
			}
			raw, err := r.list(c.Context(), "/v1/usage", query)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			list, err := decodeList[models.Row](raw)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, u := range list {
				row := []string{u.DesktopID, u.Model, u.Provider}
				for _, n := range []int64{u.Requests, u.Input, u.CacheRead, u.CacheWrite, u.Output} {
					row = append(row, strconv.FormatInt(n, 10))
				}
				rows = append(rows, row)
			}
			return a.table([]string{"DESKTOP", "MODEL", "PROVIDER", "ANSWERS", "INPUT", "CACHED", "CACHE WRITES", "OUTPUT"}, rows)
		},
	}
	c.Flags().StringVar(&since, "since", "", "from this hour on (default: from the beginning)")
	c.Flags().StringVar(&until, "until", "", "up to this hour (default: up to now)")
	c.Flags().StringVar(&owner, "owner", "", "id of the user whose desktops to tell of (administration only)")
	c.ValidArgsFunction = a.completeDesktop
	return c
}

// moment is a time that is given as such, or as how long ago it was.
func moment(text string, now time.Time) (time.Time, error) {
	if ago, err := time.ParseDuration(text); err == nil {
		return now.Add(-ago), nil
	}
	return time.Parse(time.RFC3339, text)
}

// setPeriod asks for what lies between two times of the command line, those of them that are given.
func setPeriod(query url.Values, since, until, layout string) error {
	for name, text := range map[string]string{"since": since, "until": until} {
		if text == "" {
			continue
		}
		at, err := moment(text, time.Now())
		if err != nil {
			return usage("--%s: %q is neither a time before now, such as 24h, nor one such as 2026-03-01T00:00:00Z", name, text)
		}
		query.Set(name, at.UTC().Format(layout))
	}
	return nil
}
