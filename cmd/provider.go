package cmd

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"bureau/assistant/provider"
	"bureau/desktop"
)

const (
	providersPath = "/v1/providers"
	// providerKey is the variable that has a provider's key. There is no flag for it: other users of
	// a host see what is on its command lines.
	providerKey = "BUREAU_PROVIDER_KEY"
)

func (a *app) providerCommand() *cobra.Command {
	return group("provider", "Manage the providers of models", `Manage the providers of the models that desktops use: vendors, brokers and servers of your own.
A desktop uses its own provider, or else its owner's, or else the appliance's. Over the
administration socket these are the appliance's, unless --owner names a user.

Keys are kept sealed on the host. They are never shown again and never get into a desktop.`,
		a.providerAdd(), a.providerList(), a.providerSet(), a.providerTest(), a.providerRemove())
}

// providerKinds lists them for people.
func providerKinds() string {
	var names []string
	for _, k := range provider.Kinds() {
		names = append(names, string(k))
	}
	return strings.Join(names, ", ")
}

// providerOf is whose provider a command is about.
type providerOf struct{ owner, desktop string }

func (o *providerOf) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.owner, "owner", "", "id or e-mail address of the user whose it is (administration only)")
	c.Flags().StringVar(&o.desktop, "desktop", "", "the one desktop that it is for")
}

func (o *providerOf) check() error {
	if o.owner != "" && o.desktop != "" {
		return usage("--owner and --desktop exclude each other: a desktop's provider is its owner's")
	}
	return nil
}

// path is the API's path of the provider that an argument names; with --desktop there is none to name.
func (o *providerOf) path(ctx context.Context, r *remote, args []string) (string, error) {
	if err := o.check(); err != nil {
		return "", err
	}
	if o.desktop != "" {
		if len(args) > 0 {
			return "", usage("a desktop has one provider of its own: name either that, or --desktop")
		}
		path, err := r.find(ctx, o.desktop)
		return path + "/provider", err
	}
	if len(args) == 0 {
		return "", usage("say which provider, or give --desktop")
	}
	raw, err := r.list(ctx, providersPath, o.query())
	if err != nil {
		return "", err
	}
	list, err := decodeList[provider.Provider](raw)
	if err != nil {
		return "", err
	}
	for _, p := range list {
		if p.ID == args[0] || strings.EqualFold(p.Name, args[0]) {
			return providersPath + "/" + url.PathEscape(p.ID), nil
		}
	}
	return "", desktop.Errorf(desktop.NotFound, "no provider is called %q", args[0])
}

func (o *providerOf) query() url.Values {
	query := url.Values{}
	if o.owner != "" {
		query.Set("owner", o.owner)
	}
	return query
}

// readKey takes a provider's key from the environment, from a person who types it unseen, or from
// standard input.
func (a *app) readKey() (string, error) {
	if key := os.Getenv(providerKey); key != "" {
		return key, nil
	}
	if _, tty := terminal(a.in); tty {
		fmt.Fprint(a.err, "The provider's key, which is not shown: ")
		shown, err := a.hideTyping()
		if err != nil {
			return "", err
		}
		defer func() {
			shown()
			fmt.Fprintln(a.err)
		}()
		var key string
		if _, err := fmt.Fscanln(a.in, &key); err != nil {
			return "", usage("there is no key: type it, set %s, or give --no-key", providerKey)
		}
		return key, nil
	}
	key, err := a.readInput(8 << 10)
	if err != nil {
		return "", err
	}
	if key = strings.TrimSpace(key); key == "" {
		return "", usage("there is no key: set %s, give it on standard input, or give --no-key", providerKey)
	}
	return key, nil
}

// hideTyping keeps the terminal from showing what is typed, until the function it returns is called.
func (a *app) hideTyping() (shown func(), err error) {
	fd := int(a.in.(*os.File).Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	hidden := *before
	hidden.Lflag &^= unix.ECHO
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return nil, fmt.Errorf("the terminal: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }, nil
}

func (a *app) providerAdd() *cobra.Command {
	var name, model, baseURL, fallbackModel, fallback string
	var of providerOf
	var noKey, preferred bool
	c := &cobra.Command{
		Use: "add KIND", Short: "Add a provider, with its key",
		Long: "Add a provider. KIND is " + providerKinds() + `;
openai-chat is any server that speaks OpenAI's Chat Completions, given with --base-url.

The key is read from ` + providerKey + `, or else from standard input; at a terminal it is asked
for and not shown. With --desktop the provider takes the place of the one that the desktop had.`,
		Example: `  sudo bureau provider add anthropic <key.txt
  bureau provider add openai --model gpt-5.5 --default
  sudo bureau provider add openai-chat --name local --base-url http://127.0.0.1:8080/v1 --model qwen3 --no-key
  bureau provider add openrouter --model some/model --desktop demo`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if err := of.check(); err != nil {
				return err
			}
			body := map[string]any{"provider": args[0]}
			for field, value := range map[string]string{"name": name, "model": model, "baseUrl": baseURL,
				"fallbackModel": fallbackModel, "fallbackProvider": fallback, "owner": of.owner} {
				if value != "" {
					body[field] = value
				}
			}
			if preferred {
				body["default"] = true
			}
			if of.desktop != "" && (name != "" || fallback != "" || preferred) {
				return usage("a desktop has one provider of its own: it takes no --name, --fallback-provider or --default")
			}
			if !noKey {
				key, err := a.readKey()
				if err != nil {
					return err
				}
				body["apiKey"] = key
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			req := request{method: http.MethodPost, path: providersPath, body: body}
			if of.desktop != "" {
				path, err := r.find(c.Context(), of.desktop)
				if err != nil {
					return err
				}
				req = request{method: http.MethodPut, path: path + "/provider", body: body}
			}
			return a.showProvider(c.Context(), r, req)
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "a name for it (default: its kind)")
	f.StringVar(&model, "model", "", "the model, as the provider names it (default: a recent one of the vendor's)")
	f.StringVar(&baseURL, "base-url", "", "where it is (default: the vendor's own)")
	f.StringVar(&fallbackModel, "fallback-model", "", "its model to ask when the first is overloaded or failing")
	f.StringVar(&fallback, "fallback-provider", "", "another provider to ask when this one is overloaded or failing")
	f.BoolVar(&preferred, "default", false, "ask this one first from now on")
	f.BoolVar(&noKey, "no-key", false, "it needs no key")
	of.flags(c)
	return c
}

// showProvider makes a request and prints the provider that it answers with.
func (a *app) showProvider(ctx context.Context, r *remote, req request) error {
	p, shown, err := ask[provider.Provider](ctx, a, r, req)
	if err != nil || shown {
		return err
	}
	return a.facts("id", p.ID, "name", p.Name, "provider", string(p.Kind), "address", p.BaseURL, "model", p.Model,
		"fallback model", p.FallbackModel, "fallback provider", p.FallbackProvider, "owner", p.Owner, "desktop", p.DesktopID, "key", shownKey(p))
}

func shownKey(p provider.Provider) string {
	if p.KeyEnd == "" {
		return "-"
	}
	return "…" + p.KeyEnd
}

func (a *app) providerList() *cobra.Command {
	var of providerOf
	c := &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List providers; the first is asked first", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := of.check(); err != nil {
				return err
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			if of.desktop != "" {
				path, err := of.path(c.Context(), r, nil)
				if err != nil {
					return err
				}
				return a.showProvider(c.Context(), r, request{method: http.MethodGet, path: path})
			}
			raw, err := r.list(c.Context(), providersPath, of.query())
			if err != nil {
				return err
			}
			if a.json {
				return a.printJSON(raw)
			}
			list, err := decodeList[provider.Provider](raw)
			if err != nil {
				return err
			}
			names := map[string]string{}
			for _, p := range list {
				names[p.ID] = p.Name
			}
			var rows [][]string
			for _, p := range list {
				var next []string
				for _, name := range []string{p.FallbackModel, names[p.FallbackProvider]} {
					if name != "" {
						next = append(next, name)
					}
				}
				rows = append(rows, []string{p.ID, p.Name, string(p.Kind), p.Model, strings.Join(next, ", "), shownKey(p), p.BaseURL})
			}
			return a.table([]string{"ID", "NAME", "PROVIDER", "MODEL", "FALLBACK", "KEY", "ADDRESS"}, rows)
		},
	}
	of.flags(c)
	return c
}

func (a *app) providerSet() *cobra.Command {
	var of providerOf
	var newKey, preferred bool
	fields := map[string]string{"name": "name", "model": "model", "base-url": "baseUrl", "fallback-model": "fallbackModel", "fallback-provider": "fallbackProvider"}
	c := &cobra.Command{
		Use: "set PROVIDER", Short: "Change a provider, or give it a new key",
		Long: `Change a provider. --new-key reads a key as add does; a new address needs one, since a key is
sent nowhere but where it was given for.`,
		Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{}
			for flag, field := range fields {
				if c.Flags().Changed(flag) {
					body[field], _ = c.Flags().GetString(flag)
				}
			}
			if preferred {
				body["default"] = true
			}
			if newKey {
				key, err := a.readKey()
				if err != nil {
					return err
				}
				body["apiKey"] = key
			}
			if len(body) == 0 {
				return usage("say what to change")
			}
			r, err := a.remote()
			if err != nil {
				return err
			}
			path, err := of.path(c.Context(), r, args)
			if err != nil {
				return err
			}
			return a.showProvider(c.Context(), r, request{method: http.MethodPatch, path: path, body: body})
		},
	}
	f := c.Flags()
	f.String("name", "", "its new name")
	f.String("model", "", "the model, as the provider names it")
	f.String("base-url", "", "where it is")
	f.String("fallback-model", "", "its model to ask when the first is overloaded or failing; empty for none")
	f.String("fallback-provider", "", "another provider to ask when this one is overloaded or failing; empty for none")
	f.BoolVar(&preferred, "default", false, "ask this one first from now on")
	f.BoolVar(&newKey, "new-key", false, "read a new key")
	f.StringVar(&of.owner, "owner", "", "id or e-mail address of the user whose it is (administration only)")
	return c
}

func (a *app) providerTest() *cobra.Command {
	var of providerOf
	c := &cobra.Command{
		Use: "test [PROVIDER]", Short: "Ask a provider's model for a word", Args: cobra.MaximumNArgs(1),
		Long: `Ask a provider's model for a word, which proves its address, its key and the model's name. The
exit code is 6 when it does not answer.`,
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			path, err := of.path(c.Context(), r, args)
			if err != nil {
				return err
			}
			var raw json.RawMessage
			if err := r.call(c.Context(), request{method: http.MethodPost, path: path + "/test"}, &raw); err != nil {
				return err
			}
			var v provider.Verdict
			if err := json.Unmarshal(raw, &v); err != nil {
				return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
			}
			switch {
			case a.json:
				if err := a.printJSON(raw); err != nil || v.OK {
					return err
				}
				return exitCode(exitUnavailable)
			case !v.OK:
				return desktop.Errorf(desktop.Unavailable, "%s", printable(v.Message))
			}
			_, err = fmt.Fprintf(a.out, "%s (%.1f s)\n", printable(v.Message), v.TookMs/1000)
			return err
		},
	}
	of.flags(c)
	return c
}

func (a *app) providerRemove() *cobra.Command {
	var of providerOf
	c := &cobra.Command{
		Use: "remove [PROVIDER]", Aliases: []string{"rm"}, Short: "Forget a provider and its key", Args: cobra.MaximumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			path, err := of.path(c.Context(), r, args)
			if err != nil {
				return err
			}
			return r.call(c.Context(), request{method: http.MethodDelete, path: path}, nil)
		},
	}
	of.flags(c)
	return c
}
