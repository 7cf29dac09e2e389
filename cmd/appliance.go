//go:build cgo && libvirt_dlopen

package cmd

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"

	"bureau/agent"
	"bureau/api"
	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/cmd/config"
	"bureau/desktop"
	"bureau/desktop/activity"
	"bureau/hypervisor"
	"bureau/mcp"
	"bureau/store"
)

// firstAdmin is the e-mail address of the user that the first start makes.
const firstAdmin = "admin@localhost"

// serve assembles the appliance and runs it until ctx ends. What it leaves behind is whole: the
// desktops run on, and the next start takes them over.
func serve(ctx context.Context, c config.Config, log *slog.Logger, ready func(Served)) (err error) {
	database := c.Database()
	_, statErr := os.Stat(database)
	release, err := store.Lock(database)
	if err != nil {
		return err
	}
	defer closing(&err, release)
	kept, err := store.Open(ctx, database)
	if err != nil {
		return err
	}
	defer closing(&err, kept.Close)

	done := activity.NewLog(kept, c.Activity.Keep, log)
	defer closing(&err, done.Close)

	host, err := hypervisor.Open(ctx, hypervisorOptions(c, log))
	if err != nil {
		return err
	}
	defer closing(&err, host.Close)

	tiers := tiersOf(c)
	accounts := desktop.NewAccounts(kept, tiers, c.DefaultTier)
	admin, _, err := accounts.FirstAdmin(ctx, firstAdmin, largest(tiers))
	if err != nil {
		return err
	}
	lender, err := lendModels(ctx, c, kept, done, log)
	if err != nil {
		return err
	}
	defer lender.clients.Close()
	var used uses
	manager, err := desktop.NewManager(ctx, host, kept, &agent.Connector{Binary: "/proc/self/exe", Handler: used.of(lender.gateway.For), Log: log},
		desktop.Config{
			Tiers:        tiers,
			DefaultTier:  c.DefaultTier,
			DefaultImage: c.Image,
			Network:      c.Network,
			StopGrace:    c.StopGrace,
			BootTimeout:  c.BootTimeout,
			ScreenIdle:   c.ScreenIdle,
			IdleStop:     c.IdleStop,
			Capacity: desktop.Capacity{
				Memory:        c.Capacity.Memory,
				MemoryReserve: int64(c.Capacity.MemoryReserve),
				VCPUsPerCPU:   c.Capacity.VCPUsPerCPU,
				Disk:          c.Capacity.Disk,
				DiskReserve:   int64(c.Capacity.DiskReserve),
			},
		}, log)
	if err != nil {
		return err
	}
	defer closing(&err, manager.Close)
	used.manager.Store(manager)

	agents, err := assistant.New(ctx, assistant.Options{
		Desktops:        manager,
		Store:           kept,
		Providers:       lender.providers,
		Meter:           lender.meter,
		Model:           func(e model.Endpoint) (model.Model, error) { return model.New(e, lender.clients.For(e), log) },
		Note:            done.Note,
		Log:             log,
		MaxSteps:        c.Chat.MaxSteps,
		Timeout:         c.Chat.Timeout,
		MaxTokens:       int64(c.Chat.MaxTokens),
		ApprovalTimeout: c.Chat.ApprovalTimeout,
		DesktopWait:     c.Chat.DesktopWait,
		Use:             manager.Use,
	})
	if err != nil {
		return err
	}
	defer closing(&err, agents.Close)

	shown, err := certificateOf(c, log)
	if err != nil {
		return err
	}
	defer reloading(ctx, shown, log)()
	options := api.Options{
		Desktops:              manager,
		Accounts:              accounts,
		Providers:             lender.providers,
		Usage:                 lender.meter,
		Claims:                kept,
		Activity:              done,
		Assistant:             agents,
		Logger:                log,
		RatePerMinute:         float64(c.RateLimit),
		FailuresPerMinute:     float64(c.FailureLimit),
		Connections:           connectionsOf(c, log),
		ConnectionsPerAddress: c.Connections.PerAddress,
		Version:               Version(),
	}
	if options.Proxies, err = c.ProxyNetworks(); err != nil {
		return err
	}
	if options.Origins, err = c.Origins(); err != nil {
		return err
	}
	served := Served{AdminSocket: c.AdminSocket, Admin: admin, FirstStart: errors.Is(statErr, fs.ErrNotExist)}
	scheme := "http://"
	if shown != nil {
		scheme = "https://"
		options.TLS, options.StrictTransport = shown.TLS(), func() bool { return !shown.SelfSigned() }
		if shown.SelfSigned() {
			served.Fingerprint = shown.Fingerprint()
		}
	}

	tcp, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listening for the API (listen: %s): %w", c.Listen, err)
	}
	socket, err := listenAdmin(ctx, c.AdminSocket)
	if err != nil {
		_ = tcp.Close()
		return err
	}
	if err := done.Record(ctx, activity.Entry{Actor: activity.ByAppliance, Via: "appliance", Action: "appliance.start", TargetName: Version()}); err != nil {
		return errors.Join(err, tcp.Close(), socket.Close())
	}
	served.URL = scheme + tcp.Addr().String()
	ready(served)
	server := api.New(options)
	server.MountProfiles()
	server.Mount("/mcp", "mcp", mcp.NewHandler(mcp.Options{Chat: mcp.Agents{}, Version: Version(), Logger: log, Hosts: c.HostNames(), Origins: options.Origins}))
	return server.Serve(ctx, tcp, socket)
}

// uses notes that desktops are used whose programs use models. The agents are connected to while the
// Manager is being made: until that is there it notes nothing.
type uses struct {
	manager atomic.Pointer[desktop.Manager]
}

// of makes what notes the uses of what lends makes.
func (u *uses) of(lends func(desktopID string) http.Handler) func(desktopID string) http.Handler {
	return func(desktopID string) http.Handler {
		lend := lends(desktopID)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if manager := u.manager.Load(); manager != nil {
				defer manager.Use(desktopID)()
			}
			lend.ServeHTTP(w, r)
		})
	}
}

// closing adds the error of a part's end to that of the appliance.
func closing(err *error, end func() error) { *err = errors.Join(*err, end()) }

// listenAdmin listens on the administration socket, which only this user and root may open. A
// socket that a dead process left is replaced; one that answers is not.
func listenAdmin(ctx context.Context, path string) (net.Listener, error) {
	if conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("another bureau serve answers at %s: end it first, or set another adminSocket", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing the socket of an earlier run: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("making the folder of the administration socket: %w", err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listening on the administration socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		_ = listener.Close()
		return nil, fmt.Errorf("closing the administration socket to others: %w", err)
	}
	return listener, nil
}

// tiersOf lists the configured tiers, smallest first.
func tiersOf(c config.Config) []desktop.Tier {
	tiers := make([]desktop.Tier, 0, len(c.Tiers))
	for _, name := range slices.Sorted(maps.Keys(c.Tiers)) {
		t := c.Tiers[name]
		tiers = append(tiers, desktop.Tier{
			Name:        name,
			VCPUs:       t.VCPUs,
			MemoryBytes: int64(t.Memory),
			DiskBytes:   int64(t.Disk),
			Desktops:    t.Desktops,
			Running:     t.Running,
		})
	}
	slices.SortStableFunc(tiers, func(a, b desktop.Tier) int { return cmp.Compare(a.MemoryBytes, b.MemoryBytes) })
	return tiers
}

// largest is the tier of the first administrator.
func largest(tiers []desktop.Tier) string {
	return tiers[len(tiers)-1].Name
}
