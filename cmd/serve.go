package cmd

import (
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"bureau/cmd/config"
	"bureau/desktop"
)

func (a *app) serveCommand() *cobra.Command {
	c := &cobra.Command{
		Use: "serve", Short: "Run the appliance",
		Long: `Run the appliance: the API and everything behind it. It starts from nothing and makes its
database, its networks and its first user. Settings come from flags, BUREAU_… variables and
the configuration file; config.example.yaml explains each.

It needs no root: a user in the group libvirt is enough. SIGTERM ends it and leaves the
desktops running; the next start takes them over. SIGHUP reads the certificate anew.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			settings, err := a.configuration(c)
			if err != nil {
				return err
			}
			if a.parts.Serve == nil {
				return without("libvirt")
			}
			log := a.logger(settings.Log)
			if os.Geteuid() == 0 {
				log.Warn("serve runs as root and needs not: use the service, or a user in the group libvirt")
			}
			if !settings.Local() && settings.TLS.Cert == "" {
				log.Warn("the API is open to other hosts and speaks plain HTTP (tls.plain)", "listen", settings.Listen)
			}
			log.Info("starting", "version", Version(), "listen", settings.Listen, "dataDir", settings.DataDir,
				"libvirt", settings.Libvirt.URI, "prefix", settings.Libvirt.Prefix)
			if os.Getenv("GOGC") == "" {
				// Most of the heap is pictures, which are large and soon done with, and cost a collection nothing.
				debug.SetGCPercent(50)
			}
			return a.parts.Serve(c.Context(), settings, log, a.announce)
		},
	}
	config.AddFlags(c.Flags())
	c.Flags().SortFlags = false
	return c
}

func (a *app) logger(settings config.Log) *slog.Logger {
	options := &slog.HandlerOptions{Level: settings.Level, ReplaceAttr: withoutKeys}
	if settings.Format == "json" {
		return slog.New(slog.NewJSONHandler(a.err, options))
	}
	return slog.New(slog.NewTextHandler(a.err, options))
}

var keyRule = regexp.MustCompile(regexp.QuoteMeta(desktop.KeyPrefix) + `[0-9A-Za-z_-]+`)

// withoutKeys keeps API keys out of the log where no part of bureau puts them, but a caller may: in a
// path, or in a name that an error quotes.
func withoutKeys(_ []string, a slog.Attr) slog.Attr {
	text := ""
	switch v := a.Value.Any().(type) {
	case string:
		text = v
	case error:
		text = v.Error()
	}
	if strings.Contains(text, desktop.KeyPrefix) {
		a.Value = slog.StringValue(keyRule.ReplaceAllLiteralString(text, desktop.KeyPrefix+"…"))
	}
	return a
}

// announce tells the operator how to go on from here.
func (a *app) announce(s Served) {
	fmt.Fprintf(a.out, "bureau %s answers at %s\n", Version(), s.URL)
	if s.Fingerprint != "" {
		fmt.Fprintf(a.out, "its certificate vouches only for itself; clients trust it with BUREAU_CA=%s\n", s.Fingerprint)
	}
	if !s.FirstStart {
		return
	}
	fmt.Fprintf(a.out, `
This is its first start. The administrator is %s. From here:

  sudo bureau key create first --all              an API key, shown this once
  sudo bureau image build desktop --import        the image that desktops are made of
  sudo bureau desktop create demo --wait          a desktop
  sudo bureau desktop screenshot demo -o demo.png

`, s.Admin.Email)
}

func (a *app) agentCommand() *cobra.Command {
	var options AgentOptions
	var level slog.Level
	c := &cobra.Command{
		Use: "agent", Short: "Serve the host from within a desktop",
		Long: `Serve the host from within a desktop: input, commands and pictures, over the virtio-serial
port. The desktop's systemd runs it; there is no reason to run it by hand.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if a.parts.Agent == nil {
				return desktop.Errorf(desktop.Unavailable, "this build of bureau is without the agent")
			}
			options.Version = Version()
			log := a.logger(config.Log{Level: level, Format: "text"})
			return a.parts.Agent(c.Context(), options, log)
		},
	}
	c.Flags().StringVar(&options.Port, "port", "/dev/virtio-ports/org.bureau.agent.0", "the virtio-serial port")
	c.Flags().TextVar(&level, "log.level", slog.LevelInfo, "what is logged: debug, info, warn or error")
	return c
}
