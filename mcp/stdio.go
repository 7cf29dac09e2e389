package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api/client"
)

// Run serves one session over a pair of streams until the peer closes its own or ctx ends, and ends
// with it what the session does. The appliance that c speaks to is asked once what its key allows.
func Run(ctx context.Context, c *client.Client, in io.ReadCloser, out io.WriteCloser, o Options) error {
	me, err := c.Me(ctx)
	if err != nil {
		return err
	}
	life, end := context.WithCancel(ctx)
	defer end()
	server := newServer(me.Capabilities, o)
	session, err := server.Connect(withCaller(ctx, caller{client: c, life: life}),
		&sdk.IOTransport{Reader: &endingReader{in, end}, Writer: out}, nil)
	if err != nil {
		return fmt.Errorf("begin the session: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- session.Wait() }()
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = session.Close()
		<-ended
	}
	if errors.Is(err, io.EOF) || ctx.Err() != nil {
		return nil
	}
	return err
}

// endingReader tells of the end of a stream. The session's own end waits for the calls that are
// being answered, and these for it.
type endingReader struct {
	io.ReadCloser
	end func()
}

func (r *endingReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil {
		r.end()
	}
	return n, err
}
