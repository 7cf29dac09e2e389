package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"bureau/api"
	"bureau/desktop"
)

func (a *app) gcCommand() *cobra.Command {
	var remove bool
	c := &cobra.Command{
		Use: "gc", Short: "List what no desktop owns, and delete volumes that nothing needs",
		Long: `List what is on the host and no desktop owns: machines that carry a desktop's id and have no
record, and volumes that nothing needs, such as disks whose desktop is gone, what is left of imports
that were cut off, and agents of former versions. Bureau touches none of it by itself.

--remove deletes the volumes for good. Machines are left alone: ` + "`bureau desktop adopt`" + ` makes a
desktop of one, which can be destroyed then.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if remove {
				return a.collect(c.Context())
			}
			found, err := a.orphans(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(found)
			}
			return a.showOrphans(found)
		},
	}
	c.Flags().BoolVar(&remove, "remove", false, "delete the volumes")
	return c
}

func (a *app) orphans(ctx context.Context) (desktop.Orphans, error) {
	var found desktop.Orphans
	r, err := a.remote()
	if err == nil {
		err = r.call(ctx, request{method: http.MethodGet, path: "/v1/admin/orphans"}, &found)
	}
	return found, err
}

func (a *app) showOrphans(found desktop.Orphans) error {
	var rows [][]string
	for _, m := range found.Machines {
		rows = append(rows, []string{"machine", m.Domain, "-", fmt.Sprintf("%s, without a record; owner %s, name %s", m.State, m.Owner, m.Name)})
	}
	for _, v := range found.Volumes {
		rows = append(rows, []string{"volume", v.Name, humanBytes(v.SizeBytes), v.Why})
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(a.out, "nothing")
		return err
	}
	return a.table([]string{"KIND", "NAME", "SIZE", "WHY"}, rows)
}

func sizeOf(volumes []desktop.Volume) (total int64) {
	for _, v := range volumes {
		total += v.SizeBytes
	}
	return total
}

// collect deletes volumes until there are none: an image's are without an owner when the last disk
// that was based on it is gone.
func (a *app) collect(ctx context.Context) error {
	r, err := a.remote()
	if err != nil {
		return err
	}
	removed := []desktop.Volume{}
	for range 10 {
		found, err := a.orphans(ctx)
		if err != nil {
			return err
		}
		if len(found.Volumes) == 0 {
			break
		}
		for _, v := range found.Volumes {
			err := r.call(ctx, request{method: http.MethodDelete, path: "/v1/admin/orphans/volumes/" + url.PathEscape(v.Name)}, nil)
			if err != nil && desktop.CodeOf(err) != desktop.NotFound {
				return fmt.Errorf("%s: %w", v.Name, err)
			}
			removed = append(removed, v)
		}
	}
	if a.json {
		return a.printJSON(removed)
	}
	for _, v := range removed {
		fmt.Fprintf(a.out, "%s  %s\n", v.Name, v.Why)
	}
	_, err = fmt.Fprintf(a.out, "%d removed, %s\n", len(removed), humanBytes(sizeOf(removed)))
	return err
}

func (a *app) desktopAdopt() *cobra.Command {
	var owner string
	c := &cobra.Command{
		Use: "adopt MACHINE", Short: "Make a desktop of a machine that has no record",
		Long: `Make a desktop of a machine that has no record here, such as after a database was lost or restored
from a backup. MACHINE is what ` + "`bureau gc`" + ` calls it, or its desktop's id. It stays as it is: one that
runs goes on running. Only on the administration socket.`,
		Example: "  sudo bureau desktop adopt bureau-dt-7k3m9q2w5x8r4t6y --owner anna@example.org",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			var raw json.RawMessage
			adoption := api.Adoption{Machine: args[0], Owner: owner}
			if err := r.call(c.Context(), request{method: http.MethodPost, path: "/v1/admin/orphans/adopt", body: adoption}, &raw); err != nil {
				return err
			}
			return a.showDesktop(raw)
		},
	}
	c.Flags().StringVar(&owner, "owner", "", "id or e-mail address of the user it is for (default: the one who owned it)")
	return c
}
