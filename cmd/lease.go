package cmd

import (
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

// leaseVariable is where the holder keeps the token of a lease.
const leaseVariable = "BUREAU_LEASE"

func (a *app) desktopLease() *cobra.Command {
	c := group("lease", "Take over a desktop's input",
		`Take over a desktop's input. While a lease is held, only its holder acts on the desktop:
input and commands of all others, programs and AI agents, are refused. They still see it.

The holder is whoever has the token that take prints. In BUREAU_LEASE it goes with every
command:

  export BUREAU_LEASE=$(bureau desktop lease take demo --for 10m)
  bureau desktop click demo 640 400
  bureau desktop lease release demo`,
		a.leaseTake(), a.leaseRelease(), a.leaseShow())
	for _, sub := range c.Commands() {
		sub.ValidArgsFunction = a.completeDesktop
	}
	return c
}

func (a *app) leaseTake() *cobra.Command {
	var duration time.Duration
	var holder string
	c := &cobra.Command{
		Use: "take DESKTOP", Short: "Take the lease, and print its token",
		Long: "Take the lease, and print its token. With BUREAU_LEASE set to the token of the present one this\nrenews it, from now on.",
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			body := map[string]any{"durationMs": milliseconds(duration)}
			if holder != "" {
				body["holder"] = holder
			}
			if err := r.call(c.Context(), request{method: http.MethodPost, path: path + "/lease", body: body}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			var taken struct {
				desktop.Lease
				Token string `json:"token"`
			}
			if err := json.Unmarshal(raw, &taken); err != nil {
				return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
			}
			fmt.Fprintf(a.err, "%s holds the input of %s until %s\n", printable(taken.Holder), printable(args[0]), exactTime(taken.ExpiresAt))
			_, err = fmt.Fprintln(a.out, printable(taken.Token))
			return err
		},
	}
	c.Flags().DurationVar(&duration, "for", desktop.DefaultLease, "how long, from 1s to 1h")
	c.Flags().StringVar(&holder, "holder", "", "who holds it, in words (default: the key's user)")
	return c
}

func (a *app) leaseRelease() *cobra.Command {
	return &cobra.Command{
		Use: "release DESKTOP", Short: "End the lease, whoever holds it", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			return r.call(c.Context(), request{method: http.MethodDelete, path: path + "/lease"}, nil)
		},
	}
}

func (a *app) leaseShow() *cobra.Command {
	return &cobra.Command{
		Use: "show DESKTOP", Short: "Show who holds the lease", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, path, err := a.onDesktop(c.Context(), args[0])
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodGet, path: path + "/lease"}, &raw); err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			var shown struct {
				Lease *desktop.Lease `json:"lease"`
			}
			if err := json.Unmarshal(raw, &shown); err != nil {
				return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
			}
			if shown.Lease == nil {
				_, err := fmt.Fprintln(a.out, "nobody holds it")
				return err
			}
			return a.facts("holder", shown.Lease.Holder, "user", shown.Lease.UserID, "key", shown.Lease.KeyID,
				"taken", exactTime(shown.Lease.TakenAt), "expires", exactTime(shown.Lease.ExpiresAt))
		},
	}
}
