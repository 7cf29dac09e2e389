package cmd

import (
	"context"
	"log/slog"

	"bureau/agent"
	"bureau/agent/x11"
	"bureau/api"
)

// parts assembles what this build has. The rooms that need libvirt come from the files beside this
// one, by build tag: without cgo there is no libvirt, and the rest works.
func parts() Parts {
	p := Parts{Agent: runAgent, OpenAPI: openAPI}
	addLibvirt(&p)
	return p
}

func openAPI() ([]byte, error) { return api.New(api.Options{Version: Version()}).OpenAPI(), nil }

func runAgent(ctx context.Context, options AgentOptions, log *slog.Logger) error {
	return agent.Run(ctx, agent.Options{
		Version: options.Version,
		Port:    options.Port,
		Models:  agent.DefaultModels,
		OpenDisplay: func(ctx context.Context) (agent.Display, error) {
			display, authority, err := x11.Find(ctx)
			if err != nil {
				return nil, err
			}
			d, err := x11.Open(ctx, display, authority, log)
			if err != nil {
				return nil, err
			}
			return d, nil
		},
		Log: log,
	})
}
