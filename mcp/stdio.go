package mcp

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
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
		lingering{&sdk.IOTransport{Reader: in, Writer: out}, end}, nil)
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

// lastCalls is how long calls that are being answered have to end when the peer has closed its
// stream: it may have gone, or be a pipe that has said all it has to say.
const lastCalls = 2 * time.Second

// lingering is a transport whose end is told to the session when its calls have been answered, or
// have had their time; then end is called, which ends them. By itself the session would answer no
// call any more, and still wait for each to end.
type lingering struct {
	sdk.Transport
	end func()
}

func (l lingering) Connect(ctx context.Context) (sdk.Connection, error) {
	connection, err := l.Transport.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return &lingeringConnection{Connection: connection, end: l.end, idle: make(chan struct{}, 1)}, nil
}

type lingeringConnection struct {
	sdk.Connection
	end  func()
	idle chan struct{} // receives when no call is left to be answered

	mu      sync.Mutex
	waiting int // calls that are being answered
}

func (c *lingeringConnection) count(change int) (left int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = max(0, c.waiting+change) // what was no message is answered, too
	return c.waiting
}

func (c *lingeringConnection) Read(ctx context.Context) (jsonrpc.Message, error) {
	message, err := c.Connection.Read(ctx)
	if request, ok := message.(*jsonrpc.Request); ok && request.IsCall() {
		c.count(1)
	}
	if !errors.Is(err, io.EOF) {
		return message, err
	}
	grace := time.NewTimer(lastCalls)
	defer grace.Stop()
	for c.count(0) > 0 && ctx.Err() == nil {
		select {
		case <-c.idle:
			continue
		case <-grace.C:
		case <-ctx.Done():
		}
		break
	}
	c.end()
	return message, err
}

func (c *lingeringConnection) Write(ctx context.Context, message jsonrpc.Message) error {
	err := c.Connection.Write(ctx, message)
	if _, ok := message.(*jsonrpc.Response); ok && c.count(-1) == 0 {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
	return err
}
