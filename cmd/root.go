// Package cmd is the command line: one file for each command, which reads flags, makes one call and
// prints what came of it. serve, agent, image and doctor wire the other rooms together; all other
// commands speak to a running appliance over its HTTP API, like any other client.
package cmd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"bureau/cmd/config"
	"bureau/desktop"
)

// app is what the commands have in common.
type app struct {
	in       io.Reader
	out, err io.Writer
	parts    Parts

	json    bool
	url     string
	key     string
	ca      string
	socket  string
	config  string
	running bool // arguments and flags were good; what fails from here on is no usage error
	// wrapsExit is set by commands that hand another program's exit code on.
	wrapsExit bool
}

// Main runs one command line and returns the exit code.
func Main(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return run(ctx, args, os.Stdin, os.Stdout, os.Stderr, parts())
}

func run(ctx context.Context, args []string, in io.Reader, out, errOut io.Writer, parts Parts) int {
	a := &app{in: in, out: out, err: errOut, parts: parts}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errOut)
	called, err := root.ExecuteContextC(ctx)
	var exit exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit): // the command has said what there is to say
		return int(exit)
	}
	code := a.codeFor(err)
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		err, code = errors.New("interrupted"), exitInterrupted
	}
	fmt.Fprintf(errOut, "bureau: %s\n", oneLine(err))
	switch {
	case a.running:
	case called.Runnable() && !called.HasSubCommands():
		fmt.Fprintf(errOut, "Usage: %s\nAdd --help to see more.\n", called.UseLine())
	default:
		fmt.Fprintln(errOut, `Run "bureau help" to see what there is, or add --help to a command.`)
	}
	return code
}

// oneLine is an error as it is told: the first line as it is, further ones (a tool's own words)
// below it.
func oneLine(err error) string { return strings.TrimSpace(err.Error()) }

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "bureau",
		Short: "Desktops that programs can see and use",
		Long: `Bureau runs desktops in virtual machines and gives programs eyes and hands in them,
through an HTTP API and this command line.

On the appliance's own host the command line speaks to it over the administration
socket, as root. From elsewhere give it an address and an API key:

  export BUREAU_URL=http://127.0.0.1:7878 BUREAU_KEY=sk_live_…
  bureau desktop list`,
		SilenceUsage:  true,
		SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			a.running = true
			return nil
		},
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	flags := root.PersistentFlags()
	flags.BoolVar(&a.json, "json", false, "print JSON, exactly as the API gives it")
	flags.StringVar(&a.url, "url", os.Getenv("BUREAU_URL"), "address of the appliance (BUREAU_URL)")
	flags.StringVar(&a.key, "key", "", "API key (better: BUREAU_KEY, which other users of this host cannot see)")
	flags.StringVar(&a.ca, "ca", os.Getenv("BUREAU_CA"), "what to trust at an https address: a PEM file, or a certificate's fingerprint, sha256:… (BUREAU_CA)")
	flags.StringVar(&a.socket, "socket", "", "administration socket (default: the configuration's adminSocket)")
	flags.StringVar(&a.config, "config", "", "configuration file (default "+config.DefaultFile+", if it exists)")

	root.AddGroup(
		&cobra.Group{ID: "use", Title: "Use desktops:"},
		&cobra.Group{ID: "manage", Title: "Manage the appliance:"},
		&cobra.Group{ID: "run", Title: "Run it:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("use", a.desktopCommand(), a.chatCommand(), a.mcpCommand(), a.benchCommand(), a.meCommand())
	add("manage", a.userCommand(), a.keyCommand(), a.providerCommand(), a.usageCommand(), a.activityCommand(), a.backupCommand(), a.restoreCommand(), a.imageCommand(), a.hostCommand(), a.configCommand(), a.gcCommand(), a.doctorCommand())
	add("run", a.serveCommand(), a.agentCommand(), a.openapiCommand(), a.versionCommand())
	root.AddCommand(exitCodesTopic())
	return root
}

// group makes a command that only holds others.
func group(use, short, long string, commands ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use, Short: short, Long: long, Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() }}
	c.AddCommand(commands...)
	return c
}

// configuration loads the configuration; command is the one whose flags override it, or nil.
func (a *app) configuration(command *cobra.Command) (config.Config, error) {
	if command == nil {
		return config.Load(a.config, nil)
	}
	return config.Load(a.config, command.Flags())
}

// usage is a mistake in the command line that only the command itself can see.
func usage(format string, args ...any) error { return desktop.Errorf(desktop.Invalid, format, args...) }
