package cmd

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"bureau/cmd/config"
	"bureau/desktop"
)

func (a *app) doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Examine this host, and say what is wrong and what mends it",
		Long: `Examine this host: whether its processor can run guests, libvirt and QEMU, permissions,
networks, disk space, the default image, whether the appliance runs, and how many more desktops it has
room for. It changes nothing.

  ✓ good    ! works, but could be better    ✗ wrong: the exit code is 1`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			checks := a.examine(c.Context())
			bad := 0
			for _, check := range checks {
				if !check.OK && !check.Warning {
					bad++
				}
			}
			if a.json {
				if err := a.printJSON(checks); err != nil {
					return err
				}
			} else {
				a.report(checks, bad)
			}
			if bad > 0 {
				return exitCode(exitGeneral)
			}
			return nil
		},
	}
}

func (a *app) report(checks []Check, bad int) {
	width := 0
	for _, check := range checks {
		width = max(width, len(check.Name))
	}
	for _, check := range checks {
		mark := "✗"
		switch {
		case check.OK:
			mark = "✓"
		case check.Warning:
			mark = "!"
		}
		fmt.Fprintf(a.out, "%s %-*s  %s\n", mark, width, check.Name, check.Detail)
		if !check.OK && check.Fix != "" {
			for line := range strings.Lines(check.Fix) {
				fmt.Fprintf(a.out, "  %*s  → %s\n", width, "", strings.TrimRight(line, "\n"))
			}
		}
	}
	switch bad {
	case 0:
		fmt.Fprintln(a.out, "\nThis host can run desktops.")
	case 1:
		fmt.Fprintln(a.out, "\nOne thing is wrong.")
	default:
		fmt.Fprintf(a.out, "\n%d things are wrong.\n", bad)
	}
}

func (a *app) examine(ctx context.Context) []Check {
	settings, err := a.configuration(nil)
	if err != nil {
		return []Check{{Name: "configuration", Detail: err.Error(), Fix: "compare it with config.example.yaml"}}
	}
	checks := []Check{{Name: "configuration", OK: true, Detail: "can be read and is valid"}}
	if a.parts.Checks == nil {
		checks = append(checks, Check{Name: "libvirt", Detail: without("libvirt").Error(), Fix: "make build"})
	} else {
		checks = append(checks, a.parts.Checks(ctx, settings)...)
	}
	appliance := a.checkAppliance(ctx, settings)
	checks = append(checks, checkBuilder(), appliance)
	if appliance.OK {
		checks = append(checks, a.checkOrphans(ctx)...)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if check, ok := a.checkCapacity(ctx); ok {
		checks = append(checks, check)
	}
	return checks
}

// checkOrphans asks the appliance for what no desktop owns. One that is asked with a key does not say.
func (a *app) checkOrphans(ctx context.Context) []Check {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	found, err := a.orphans(ctx)
	if desktop.CodeOf(err) == desktop.Forbidden {
		return nil
	}
	machines := Check{Name: "machines", OK: true, Detail: "each belongs to a desktop"}
	volumes := Check{Name: "volumes", OK: true, Detail: "each is needed"}
	if err != nil {
		return []Check{{Name: "machines", Warning: true, Detail: "what no desktop owns is not known: " + err.Error()}}
	}
	if n := len(found.Machines); n > 0 {
		machines = Check{Name: "machines", Warning: true, Detail: fmt.Sprintf("%d without a record, left alone", n), Fix: "bureau gc, and bureau desktop adopt"}
	}
	if n := len(found.Volumes); n > 0 {
		volumes = Check{Name: "volumes", Warning: true, Detail: fmt.Sprintf("%d that nothing needs, %s", n, humanBytes(sizeOf(found.Volumes))), Fix: "bureau gc --remove"}
	}
	return []Check{machines, volumes}
}

// checkAppliance asks the appliance whether it is ready, and if there is none, whether another
// program holds its address.
func (a *app) checkAppliance(ctx context.Context, settings config.Config) Check {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	check := Check{Name: "appliance"}
	r, err := a.remote()
	if err == nil {
		err = r.call(ctx, request{method: "GET", path: "/readyz"}, nil)
	}
	if err == nil {
		check.OK, check.Detail = true, "answers and is ready"
		return check
	}
	check.Detail, check.Warning = err.Error(), true
	if errors.Is(err, context.DeadlineExceeded) {
		check.Detail = "does not answer in time"
	}
	if a.url == "" {
		listener, listenErr := net.Listen("tcp", settings.Listen)
		if listenErr == nil {
			listener.Close()
			check.Fix = "make up, or systemctl start bureau"
		} else if strings.Contains(listenErr.Error(), "in use") {
			check.Warning, check.Detail = false, check.Detail+"; another program listens on "+settings.Listen
			check.Fix = "ss -ltnp, and stop that program or change the setting listen"
		}
	}
	return check
}
