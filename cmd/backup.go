package cmd

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"bureau/assistant/provider"
	"bureau/cmd/config"
	"bureau/desktop"
	"bureau/desktop/activity"
	"bureau/store"
)

func (a *app) backupCommand() *cobra.Command {
	var keys string
	c := &cobra.Command{
		Use: "backup FILE", Short: "Copy the database, also while the appliance runs",
		Long: `Copy the database to a new file: users, hashed keys, which desktops there should be,
conversations, and the activity log. It can be done while the appliance runs, which goes on
undisturbed: in the copy is all that it had acknowledged when the backup began, and nothing by
half. The copy is proved, and on the disk, before this says so. Only its owner may read it.

The model providers' keys in it are sealed. The master keys that open them are not in it, so
that whoever gets hold of a backup has no account to spend money from. --keys writes them to a
second file: keep that one elsewhere. Without it a restored appliance on another host needs the
providers' keys anew.

The desktops' disks and the images are libvirt's, and not in it: see docs/operations.md.`,
		Example: `  sudo bureau backup /backup/bureau-$(date +%F).db --keys /elsewhere/master.keys`,
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := a.configuration(nil)
			if err != nil {
				return err
			}
			if _, err := os.Stat(settings.Database()); err != nil {
				return noDatabase(settings, err)
			}
			if keys != "" {
				if _, err := os.Lstat(keys); err == nil {
					return desktop.Errorf(desktop.Conflict, "%s is there already", keys)
				}
			}
			to, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			made, err := store.Backup(c.Context(), settings.Database(), to)
			if err != nil {
				return err
			}
			// After the database: what is sealed in the copy was sealed with a key that is there by now.
			if keys != "" {
				if _, err := provider.MergeMasters(keys, settings.MasterKeys(), nil); err != nil {
					return err
				}
			}
			a.recordCommand(c.Context(), "backup", to)
			if a.json {
				return a.printJSON(struct {
					store.Copy
					Keys string `json:"keys"`
				}{made, keys})
			}
			fmt.Fprintf(a.out, "%s: %s, schema %d, %s and %s, sha256 %s\n", made.Path, humanBytes(made.Bytes), made.SchemaVersion,
				plural(made.Users, "user"), plural(made.Desktops, "desktop"), made.SHA256)
			switch {
			case keys != "":
				fmt.Fprintf(a.out, "%s: the master keys; keep them in another place\n", keys)
			case made.Providers > 0:
				fmt.Fprintf(a.out, "the keys of %s are sealed in it, and the master keys that open them are not: keep %s in another place (--keys)\n",
					plural(made.Providers, "model provider"), settings.MasterKeys())
			}
			return nil
		},
	}
	c.Flags().StringVar(&keys, "keys", "", "write the master keys to this new file, too")
	return c
}

func (a *app) restoreCommand() *cobra.Command {
	var keys string
	c := &cobra.Command{
		Use: "restore FILE", Short: "Put a backup in the place of the database",
		Long: `Put a backup in the place of the database. The appliance must not run. The backup is examined,
and migrated to the present schema, before anything is done; one that is damaged or of a newer
bureau is refused. The former database is kept beside the new one. Should the power fail
meanwhile, the database is afterwards the one or the other, whole.

--keys adds the master keys of a file to those that are there, so that the model providers' keys
in the backup can be opened.

The desktops are libvirt's, and are not taken back in time. When the appliance starts it compares
what it finds with the restored database: see docs/operations.md.`,
		Example: "  sudo systemctl stop bureau\n  sudo bureau restore /backup/bureau-2026-03-01.db\n  sudo systemctl start bureau",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			settings, err := a.configuration(nil)
			if err != nil {
				return err
			}
			if err := notServing(c.Context(), settings); err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Dir(settings.Database())); err != nil {
				return desktop.Errorf(desktop.NotFound, "there is no folder %s for the database (dataDir): make it, for the user that the appliance runs as", settings.DataDir)
			}
			from, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			if _, err := os.Stat(from); err != nil {
				return usage("%w", err)
			}
			release, err := store.LockAlone(settings.Database())
			if err != nil {
				return err
			}
			defer release()
			// The keys first: the database that is there opens with what is added, too.
			added := 0
			if keys != "" {
				if added, err = provider.MergeMasters(settings.MasterKeys(), keys, store.OwnAsFolder); err != nil {
					return err
				}
			}
			closed := 0 // providers whose keys cannot be opened
			done, err := store.Restore(c.Context(), from, settings.Database(), func(s *store.Store) error {
				if closed, err = unopenable(c.Context(), s, settings); err != nil {
					return err
				}
				now := time.Now().UTC()
				return s.AppendActivity(c.Context(), []activity.Entry{{At: now, Until: now, Count: 1, Actor: activity.ByOperator,
					Via: "command", Action: "restore", TargetName: from, Outcome: activity.Done}})
			})
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(struct {
					store.Restored
					KeysAdded       int `json:"keysAdded"`
					ProvidersClosed int `json:"providersClosed"`
				}{done, added, closed})
			}
			fmt.Fprintf(a.out, "%s is what %s has: %s and %s\n", settings.Database(), from, plural(done.Users, "user"), plural(done.Desktops, "desktop"))
			if done.Former != "" {
				what := "the former database"
				if done.Damaged {
					what += ", which is damaged,"
				}
				fmt.Fprintf(a.out, "%s is %s\n", what, done.Former)
			}
			if closed > 0 {
				fmt.Fprintf(a.out, "the keys of %s cannot be opened with the master keys here: add theirs with --keys, or give them anew\n",
					plural(int64(closed), "model provider"))
			}
			return nil
		},
	}
	c.Flags().StringVar(&keys, "keys", "", "file of master keys to add to those that are there")
	return c
}

// notServing is Conflict while an appliance answers, also one that takes no lock.
func notServing(ctx context.Context, settings config.Config) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", settings.AdminSocket)
	if err != nil {
		return nil
	}
	_ = conn.Close()
	return desktop.Errorf(desktop.Conflict, "the appliance runs, and answers at %s: stop it first", settings.AdminSocket)
}

// noDatabase is for a host without one.
func noDatabase(settings config.Config, err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return desktop.Errorf(desktop.NotFound, "there is no database %s", settings.Database())
	}
	if errors.Is(err, fs.ErrPermission) {
		return desktop.Errorf(desktop.Forbidden, "the database %s is only for root and the appliance: use sudo", settings.Database())
	}
	return err
}

// unopenable counts the providers whose keys the master keys here do not open.
func unopenable(ctx context.Context, s *store.Store, settings config.Config) (int, error) {
	all, err := s.AllProviders(ctx)
	if err != nil {
		return 0, err
	}
	var vault *provider.Vault
	if _, err := os.Stat(settings.MasterKeys()); err == nil {
		if vault, err = provider.OpenVault(settings.MasterKeys()); err != nil {
			return 0, err
		}
	}
	closed := 0
	for _, record := range all {
		if len(record.Sealed) > 0 && (vault == nil || !vault.Opens(record.ID, record.Sealed)) {
			closed++
		}
	}
	return closed, nil
}

func plural(n int64, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
