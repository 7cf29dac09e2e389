package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/jsonschema-go/jsonschema"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api/client"
	"bureau/desktop"
)

// Options say how a server presents itself.
type Options struct {
	Version string       // of bureau
	Logger  *slog.Logger // none when nil
	// Chat is the AI agent of desktops; there is no tool for it when it is nil.
	Chat Chat
	// Hosts are the names under which clients reach the API, besides localhost; see Handler.
	Hosts []string
	// Origins are the web origins whose pages may use it; see Handler.
	Origins []string

	// extend adds to each server what a test needs; nil outside of them. It sees the server's options
	// before the server is made.
	extend func(*sdk.ServerOptions) func(*sdk.Server)
}

const instructions = `Bureau gives you Linux desktops: virtual machines with a screen, a mouse, a keyboard and a shell.

Find a desktop with list_desktops and name it in every call, by its id or its name. Start it with start_desktop when its status is not running.
See it with screenshot. Coordinates are pixels of the pictures you get; 0,0 is the top left one. Input tools answer with a picture that is taken when the display has come to rest, so there is no need to wait or to take another.
Do several things in one call with act when you know what comes next. Use bash for what a shell does better than a mouse; programs that are to stay on the screen are started in the background (firefox-esr &).
When a call fails because a person holds the desktop's input, wait until they have given it back, and look anew before you go on.`

// newServer makes a server of what a key with these capabilities may use. It serves any number of
// sessions: who is behind one is in its context (see withCaller).
func newServer(held []desktop.Capability, o Options) *sdk.Server {
	//lint:ignore SA1019 clients of the versions with sessions may set a level of the log, which says nothing
	logging := &sdk.LoggingCapabilities{}
	options := &sdk.ServerOptions{
		Instructions: instructions,
		Logger:       o.Logger,
		Capabilities: &sdk.ServerCapabilities{
			Tools: &sdk.ToolCapabilities{}, Resources: &sdk.ResourceCapabilities{}, // neither changes within a session
			//lint:ignore SA1019 as above
			Logging: logging,
		},
		CompletionHandler: complete,
	}
	extend := func(*sdk.Server) {}
	if o.extend != nil {
		extend = o.extend(options)
	}
	server := sdk.NewServer(&sdk.Implementation{Name: "bureau", Title: "Bureau: desktops for AI agents", Version: o.Version}, options)
	server.AddReceivingMiddleware(endWithSession)
	for _, t := range slices.Concat(desktopTools(), controlTools(), sessionTools(), commandTools(), chatTools(o.Chat)) {
		if slices.Contains(held, t.needs) {
			t.add(server)
		}
	}
	addResources(server, held, o.Chat)
	extend(server)
	return server
}

// caller is in whose name a session's calls are made.
type caller struct {
	client *client.Client
	life   context.Context // of the session
}

type callerKey struct{}

func withCaller(ctx context.Context, c caller) context.Context {
	return context.WithValue(ctx, callerKey{}, c)
}

func callerOf(ctx context.Context) caller {
	c, ok := ctx.Value(callerKey{}).(caller)
	if !ok {
		panic("an MCP request outside of a session") // every way in sets it
	}
	return c
}

// endWithSession ends a call with the session that it belongs to.
func endWithSession(next sdk.MethodHandler) sdk.MethodHandler {
	return func(ctx context.Context, method string, request sdk.Request) (sdk.Result, error) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(callerOf(ctx).life, cancel)()
		return next(ctx, method, request)
	}
}

// tool is one tool and the capability that it takes.
type tool struct {
	needs desktop.Capability
	add   func(*sdk.Server)
}

// define makes a tool. Its input's schema comes from the type In; edit says what the type cannot.
func define[In any](needs desktop.Capability, t sdk.Tool, edit func(properties), do func(context.Context, *call, In) (*sdk.CallToolResult, error)) tool {
	return tool{needs, func(server *sdk.Server) {
		schema, err := jsonschema.For[In](nil)
		if err != nil {
			panic(fmt.Errorf("the input of tool %s: %w", t.Name, err)) // of our own types: found by any test
		}
		if edit != nil {
			edit(schema.Properties)
		}
		t.InputSchema = schema
		sdk.AddTool(server, &t, func(ctx context.Context, request *sdk.CallToolRequest, in In) (*sdk.CallToolResult, any, error) {
			c := &call{client: callerOf(ctx).client, request: request}
			if request.Extra != nil {
				if token := request.Extra.Header.Get(leaseHeader); token != "" {
					c.client = c.client.WithLease(token)
				}
			}
			result, err := do(ctx, c, in)
			return result, nil, told(err)
		})
	}}
}

// leaseHeader is with requests of who holds a desktop's input lease.
const leaseHeader = "Bureau-Lease"

// properties are those of an input's schema.
type properties map[string]*jsonschema.Schema

// oneOf says which values a property may have.
func (p properties) oneOf(name string, values ...any) { p[name].Enum = values }

// between bounds a number, either of whose bounds may be the same as none.
func (p properties) between(name string, least, most float64) {
	p[name].Minimum, p[name].Maximum = &least, &most
}

// unless is the value that an absent property stands for.
func (p properties) unless(name string, value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // of our own
	}
	p[name].Default = text
}

// told is an error as a model reads it: one sentence, and what may help.
func told(err error) error {
	var known *desktop.Error
	if !errors.As(err, &known) {
		return err
	}
	text := known.Message
	if known.Details["acted"] == true {
		text += "; the input was done, do not do it again"
	}
	if completed, ok := known.Details["completed"].(float64); ok {
		text += fmt.Sprintf("; %.0f actions were done before", completed)
	}
	switch known.Code {
	case desktop.Unavailable, desktop.RateLimited:
		if known.RetryAfter > 0 {
			text += fmt.Sprintf("; try again in %s", known.RetryAfter.Round(time.Second))
		}
	case desktop.Locked:
		text += "; you may look, and act after that"
	case desktop.Internal:
		text = "the appliance has failed: " + text
	}
	return errors.New(text)
}

// call is one use of a tool.
type call struct {
	client  *client.Client
	request *sdk.CallToolRequest
}

// progress tells a client that asked for it how far a call has come, in seconds: the number grows
// each time, as it has to, and shows clients with a time limit of their own that the call is alive.
func (c *call) progress(ctx context.Context, began time.Time, limit time.Duration, message string) {
	token := c.request.Params.GetProgressToken()
	if token == nil {
		return
	}
	// Where it cannot be told, the call goes on.
	_ = c.request.Session.NotifyProgress(ctx, &sdk.ProgressNotificationParams{
		ProgressToken: token, Message: message, Progress: time.Since(began).Seconds(), Total: limit.Seconds(),
	})
}

// beat is how often progress is told of what says nothing by itself.
const beat = 5 * time.Second

// during does something that takes its time, and tells so.
func (c *call) during(ctx context.Context, limit time.Duration, message string, do func() error) error {
	if c.request.Params.GetProgressToken() == nil {
		return do()
	}
	began := time.Now()
	done, told := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(told)
		tick := time.NewTicker(beat)
		defer tick.Stop()
		c.progress(ctx, began, limit, message)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				c.progress(ctx, began, limit, message)
			}
		}
	}()
	err := do()
	close(done)
	<-told
	return err
}

// text is a result in words.
func text(format string, args ...any) *sdk.CallToolResult {
	return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: fmt.Sprintf(format, args...)}}}
}

// data is a result in JSON.
func data(value any) (*sdk.CallToolResult, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("write a tool's result: %w", err)
	}
	return text("%s", encoded), nil
}

// capabilitySet is the name of a set of capabilities.
func capabilitySet(held []desktop.Capability) string {
	set := map[string]bool{}
	for _, c := range held {
		set[string(c)] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), " ")
}

func ptr[T any](v T) *T { return &v }
