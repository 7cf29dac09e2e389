//go:build cgo && libvirt_dlopen

package cmd

import (
	"context"
	"log/slog"

	"bureau/assistant/gateway"
	"bureau/assistant/model"
	"bureau/assistant/provider"
	meter "bureau/assistant/usage"
	"bureau/cmd/config"
	"bureau/desktop/activity"
	"bureau/store"
)

// lender is what lends models: to the agent of a desktop, and to the programs in it.
type lender struct {
	clients   *provider.Clients
	providers *provider.Registry
	meter     *meter.Meter
	gateway   *gateway.Gateway
}

func lendModels(ctx context.Context, c config.Config, kept *store.Store, done *activity.Log, log *slog.Logger) (*lender, error) {
	vault, err := provider.OpenVault(c.MasterKeys())
	if err != nil {
		return nil, err
	}
	clients, err := provider.NewClients(provider.ClientOptions{
		Proxy: c.Models.Proxy, NoProxy: c.Models.NoProxy, PrivateAddresses: c.Models.PrivateAddresses,
	})
	if err != nil {
		return nil, err
	}
	check := func(ctx context.Context, endpoint model.Endpoint) (string, error) {
		return model.Check(ctx, endpoint, clients.For(endpoint), log)
	}
	l := &lender{
		clients:   clients,
		providers: provider.NewRegistry(kept, vault, check, c.Models.PrivateAddresses, log),
		meter:     meter.NewMeter(kept, limitsOf(c.Models.Desktop), limitsOf(c.Models.Owner), log),
	}
	l.gateway = gateway.New(gateway.Options{
		Providers: l.providers,
		Meter:     l.meter,
		Client:    clients.For,
		Owner: func(ctx context.Context, desktopID string) (string, error) {
			d, err := kept.Desktop(ctx, desktopID)
			return d.Owner, err
		},
		OnlyConfigured: c.Models.OnlyConfigured,
		Note: func(entry activity.Entry) {
			if d, err := kept.Desktop(ctx, entry.DesktopID); err == nil {
				entry.Owner, entry.DesktopName = d.Owner, d.Name
			}
			done.Note(entry)
		},
		Log: log,
	})
	return l, l.providers.Reseal(ctx)
}

func limitsOf(l config.ModelLimits) meter.Limits {
	return meter.Limits{
		RequestsPerMinute: int64(l.RequestsPerMinute), TokensPerMinute: int64(l.TokensPerMinute),
		RequestsPerDay: int64(l.RequestsPerDay), TokensPerDay: int64(l.TokensPerDay),
	}
}
