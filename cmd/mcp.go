package cmd

import (
	"io"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"bureau/api/client"
	"bureau/mcp"
)

func (a *app) mcpCommand() *cobra.Command {
	return &cobra.Command{
		Use: "mcp", Short: "Offer desktops to an AI agent over MCP",
		Long: `Offer desktops to an AI agent: a server of the Model Context Protocol on standard input
and output, for agents that start their servers themselves. Its tools are those that the key
allows. A running appliance offers the same at its address, under /mcp.

  claude mcp add bureau --env BUREAU_URL=http://127.0.0.1:7878 --env BUREAU_KEY=sk_live_… -- bureau mcp

A person who has taken over a desktop (bureau desktop lease) keeps the agent from acting on
it; with the lease's token in BUREAU_LEASE the agent acts for its holder.`,
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			r, err := a.remote()
			if err != nil {
				return err
			}
			server := r.base
			if r.key == "" {
				server = "unix://" + r.name // the administration socket
			}
			appliance, err := client.New(server, r.key, client.WithTLS(r.tls))
			if err != nil {
				return err
			}
			if token := os.Getenv(leaseVariable); token != "" {
				appliance = appliance.WithLease(token)
			}
			log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
			return mcp.Run(c.Context(), appliance, readCloser(a.in), nopWriteCloser{a.out}, mcp.Options{Chat: mcp.Agents{}, Version: Version(), Logger: log})
		},
	}
}

// readCloser is a reader that can be closed, if it can: a session that ends stops reading.
func readCloser(r io.Reader) io.ReadCloser {
	if closer, ok := r.(io.ReadCloser); ok {
		return closer
	}
	return io.NopCloser(r)
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }
