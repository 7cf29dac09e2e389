package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

// Routes of the administration socket.
const (
	adminUsers = "/v1/admin/users"
	adminKeys  = "/v1/admin/keys"
)

func (a *app) meCommand() *cobra.Command {
	return &cobra.Command{
		Use: "me", Short: "Show whose key this is and what it allows", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			type caller struct {
				ID           string   `json:"id"`
				Email        string   `json:"email"`
				Role         string   `json:"role"`
				Tier         string   `json:"tier"`
				Capabilities []string `json:"capabilities"`
			}
			me, shown, err := ask[caller](c.Context(), a, r, request{method: http.MethodGet, path: "/v1/me"})
			if err != nil || shown {
				return err
			}
			return a.facts("user", me.ID, "e-mail", me.Email, "role", me.Role, "tier", me.Tier,
				"allowed", strings.Join(me.Capabilities, ", "))
		},
	}
}

func (a *app) userCommand() *cobra.Command {
	var role, tier string
	save := func(c *cobra.Command, method, path string, body map[string]string) error {
		if role != "" {
			body["role"] = role
		}
		if tier != "" {
			body["tier"] = tier
		}
		r, err := a.remote()
		if err != nil {
			return err
		}
		user, shown, err := ask[desktop.User](c.Context(), a, r, request{method: method, path: path, body: body})
		if err != nil || shown {
			return err
		}
		return a.facts("id", user.ID, "e-mail", user.Email, "role", string(user.Role), "tier", user.Tier)
	}
	create := &cobra.Command{
		Use: "create E-MAIL", Short: "Add a user", Args: cobra.ExactArgs(1),
		Example: "  sudo bureau user create anna@example.org --tier pro",
		RunE: func(c *cobra.Command, args []string) error {
			return save(c, http.MethodPost, adminUsers, map[string]string{"email": args[0]})
		},
	}
	create.Flags().StringVar(&role, "role", "", "user or admin (default user)")
	create.Flags().StringVar(&tier, "tier", "", "how many and how large desktops they may have (default: the configured one)")
	set := &cobra.Command{
		Use: "set USER", Short: "Change a user's role or tier", Args: cobra.ExactArgs(1),
		Long: `Change a user, named by id or e-mail address, from the next request on. Desktops that there
are stay as large as they were made. To lock somebody out, revoke their keys.`,
		Example: "  sudo bureau user set anna@example.org --tier max",
		RunE: func(c *cobra.Command, args []string) error {
			if role == "" && tier == "" {
				return usage("there is nothing to change: say --role or --tier")
			}
			return save(c, http.MethodPatch, adminUsers+"/"+url.PathEscape(args[0]), map[string]string{})
		},
	}
	set.Flags().StringVar(&role, "role", "", "user or admin")
	set.Flags().StringVar(&tier, "tier", "", "how many and how large desktops they may have")
	list := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List users", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			raw, err := r.list(c.Context(), adminUsers, nil)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			users, err := decodeList[desktop.User](raw)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, u := range users {
				rows = append(rows, []string{u.ID, u.Email, string(u.Role), u.Tier, humanTime(u.CreatedAt)})
			}
			return a.table([]string{"ID", "E-MAIL", "ROLE", "TIER", "CREATED"}, rows)
		},
	}
	return group("user", "Manage users", "Manage users. This needs the administration socket.", create, list, set)
}

func (a *app) keyCommand() *cobra.Command {
	return group("key", "Manage API keys", `Manage API keys. A key belongs to a user and allows what it was made for, which never
changes: to change it, make another one and revoke the first.`,
		a.keyCreate(), a.keyList(), a.keyRevoke())
}

func (a *app) keyCreate() *cobra.Command {
	var user string
	var capabilities []string
	var expires time.Duration
	var all, replace bool
	c := &cobra.Command{
		Use: "create NAME", Short: "Make a key and show it, this once", Args: cobra.ExactArgs(1),
		Long: "Make a key. It is shown once and cannot be shown again: only its hash is kept.\n\nCapabilities: " +
			strings.Join(capabilityNames(desktop.Capabilities()), ", ") + ".",
		Example: `  sudo bureau key create laptop --all
  sudo bureau key create monitoring --user anna@example.org --can desktop:read --expires 720h`,
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{"name": args[0]}
			switch {
			case all && len(capabilities) > 0:
				return usage("--all and --can are two ways of saying the same")
			case all:
				body["capabilities"] = desktop.Capabilities()
			case len(capabilities) > 0:
				body["capabilities"] = capabilities
			}
			if expires < 0 {
				return usage("--expires is a time from now, such as 720h")
			}
			if expires > 0 {
				body["expiresAt"] = time.Now().Add(expires).UTC().Truncate(time.Second)
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			if user == "" {
				if user, err = r.administrator(c.Context()); err != nil {
					return err
				}
			}
			body["user"] = user
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodPost, path: adminKeys, body: body}, &raw); err != nil {
				return err
			}
			var made struct {
				desktop.Key
				Secret string `json:"secret"`
			}
			if err := json.Unmarshal(raw, &made); err != nil || made.Secret == "" {
				return fmt.Errorf("the appliance's answer has no key")
			}
			if a.json {
				err = a.printJSON(raw)
			} else {
				_, err = fmt.Fprintln(a.out, made.Secret)
			}
			if err == nil && replace {
				err = r.revokeOthers(c.Context(), made.Key)
			}
			return err
		},
	}
	f := c.Flags()
	f.StringVar(&user, "user", "", "id or e-mail address of the user it is for (default: the administrator)")
	f.StringSliceVar(&capabilities, "can", nil, "what it allows (default "+strings.Join(capabilityNames(desktop.DefaultCapabilities()), ",")+")")
	f.BoolVar(&all, "all", false, "it allows everything")
	f.BoolVar(&replace, "replace", false, "revoke the user's other keys of this name then")
	f.DurationVar(&expires, "expires", 0, "how long it is good for, such as 720h (default: for good)")
	return c
}

// administrator is the first user with that role.
func (r *remote) administrator(ctx context.Context) (string, error) {
	raw, err := r.list(ctx, adminUsers, nil)
	if err != nil {
		return "", err
	}
	users, err := decodeList[desktop.User](raw)
	if err != nil {
		return "", err
	}
	for _, u := range users {
		if u.Role == desktop.RoleAdmin {
			return u.ID, nil
		}
	}
	return "", desktop.Errorf(desktop.NotFound, "there is no administrator; say whose key it is with --user")
}

// revokeOthers revokes the keys that a new one takes the place of.
func (r *remote) revokeOthers(ctx context.Context, made desktop.Key) error {
	keys, err := r.unrevokedKeys(ctx, made.UserID)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if k.Name == made.Name && k.ID != made.ID {
			if err := r.revoke(ctx, k.ID); err != nil {
				return err
			}
		}
	}
	return nil
}

// unrevokedKeys are those of a user that are not revoked.
func (r *remote) unrevokedKeys(ctx context.Context, user string) ([]desktop.Key, error) {
	raw, err := r.list(ctx, adminKeys, url.Values{"user": {user}})
	if err != nil {
		return nil, err
	}
	keys, err := decodeList[desktop.Key](raw)
	return slices.DeleteFunc(keys, func(k desktop.Key) bool { return k.RevokedAt != nil }), err
}

func (r *remote) revoke(ctx context.Context, id string) error {
	return r.call(ctx, request{method: http.MethodDelete, path: adminKeys + "/" + url.PathEscape(id)}, nil)
}

func capabilityNames(list []desktop.Capability) []string {
	names := make([]string, len(list))
	for i, c := range list {
		names[i] = string(c)
	}
	return names
}

func (a *app) keyList() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List keys", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			query := url.Values{}
			if user != "" {
				query.Set("user", user)
			}
			raw, err := r.list(c.Context(), adminKeys, query)
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			keys, err := decodeList[desktop.Key](raw)
			if err != nil {
				return err
			}
			var rows [][]string
			for _, k := range keys {
				rows = append(rows, []string{k.ID, k.Name, k.Prefix + "…", k.UserID, keyState(k, time.Now()),
					lastUse(k), strings.Join(capabilityNames(k.Capabilities), ",")})
			}
			return a.table([]string{"ID", "NAME", "KEY", "USER", "STATE", "LAST USED", "ALLOWS"}, rows)
		},
	}
	c.Flags().StringVar(&user, "user", "", "only those of this user (id or e-mail address)")
	return c
}

func keyState(k desktop.Key, now time.Time) string {
	switch {
	case k.RevokedAt != nil:
		return "revoked"
	case k.ExpiresAt != nil && !k.ExpiresAt.After(now):
		return "expired"
	case k.ExpiresAt != nil:
		return "until " + humanTime(*k.ExpiresAt)
	}
	return "good"
}

func lastUse(k desktop.Key) string {
	if k.LastUsedAt == nil {
		return "never"
	}
	return humanTime(*k.LastUsedAt)
}

func (a *app) keyRevoke() *cobra.Command {
	var user string
	c := &cobra.Command{
		Use: "revoke KEY-ID…", Short: "Make keys useless, at once and for good",
		Example: `  sudo bureau key revoke key-9t3w5z7b
  sudo bureau key revoke --user anna@example.org`,
		RunE: func(c *cobra.Command, args []string) error {
			if (len(args) == 0) == (user == "") {
				return usage("say which keys: their ids, or --user for all of a user's")
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			if user != "" {
				keys, err := r.unrevokedKeys(c.Context(), user)
				if err != nil {
					return err
				}
				for _, key := range keys {
					args = append(args, key.ID)
				}
			}
			for _, id := range args {
				if err := r.revoke(c.Context(), id); err != nil {
					return fmt.Errorf("%s: %w", id, err)
				}
			}
			return nil
		},
	}
	c.Flags().StringVar(&user, "user", "", "all keys of this user, by id or e-mail address")
	return c
}
