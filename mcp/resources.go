package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/desktop"
)

// The resources. {id} is a desktop's id or name.
const (
	desktopsURI = "bureau://desktops"
	desktopURI  = "bureau://desktops/{id}"
	screenURI   = "bureau://desktops/{id}/screen"
	chatURI     = "bureau://desktops/{id}/chat"
)

// addResources adds what a key with these capabilities may read.
func addResources(server *sdk.Server, held []desktop.Capability, chat Chat) {
	if slices.Contains(held, desktop.CanRead) {
		server.AddResource(&sdk.Resource{URI: desktopsURI, Name: "desktops", Title: "Your desktops", MIMEType: "application/json",
			Description: "All your desktops with their status"},
			func(ctx context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
				list, err := callerOf(ctx).client.List(ctx)
				if err != nil {
					return nil, told(err)
				}
				return inJSON(r.Params.URI, list)
			})
		addTemplate(server, sdk.ResourceTemplate{URITemplate: desktopURI, Name: "desktop", Title: "A desktop", MIMEType: "application/json",
			Description: "One desktop: status, size, address, who holds its input"},
			func(ctx context.Context, c *call, uri, id string) (*sdk.ReadResourceResult, error) {
				d, err := c.client.Get(ctx, id)
				if err != nil {
					return nil, err
				}
				return inJSON(uri, d)
			})
	}
	if slices.Contains(held, desktop.CanControl) {
		addTemplate(server, sdk.ResourceTemplate{URITemplate: screenURI, Name: "screen", Title: "A desktop's screen", MIMEType: "image/png",
			Description: "What a desktop's display shows now"},
			func(ctx context.Context, c *call, uri, id string) (*sdk.ReadResourceResult, error) {
				shot, err := c.client.Screenshot(ctx, id, picture(0))
				if err != nil {
					return nil, err
				}
				return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: uri, MIMEType: shot.ContentType, Blob: shot.Bytes}}}, nil
			})
	}
	if chat != nil && slices.Contains(held, desktop.CanChat) {
		addTemplate(server, sdk.ResourceTemplate{URITemplate: chatURI, Name: "chat", Title: "A desktop's conversations", MIMEType: "application/json",
			Description: "What has been said with a desktop's AI agent"},
			func(ctx context.Context, c *call, uri, id string) (*sdk.ReadResourceResult, error) {
				history, err := chat.History(ctx, c.client, id)
				if err != nil {
					return nil, err
				}
				return inJSON(uri, history)
			})
	}
}

// addTemplate adds the resource of one desktop.
func addTemplate(server *sdk.Server, t sdk.ResourceTemplate, read func(ctx context.Context, c *call, uri, id string) (*sdk.ReadResourceResult, error)) {
	before, after, _ := strings.Cut(t.URITemplate, "{id}")
	server.AddResourceTemplate(&t, func(ctx context.Context, r *sdk.ReadResourceRequest) (*sdk.ReadResourceResult, error) {
		uri := r.Params.URI
		name, err := url.PathUnescape(strings.TrimSuffix(strings.TrimPrefix(uri, before), after))
		if err != nil {
			return nil, sdk.ResourceNotFoundError(uri)
		}
		c := &call{client: callerOf(ctx).client}
		id, err := c.find(ctx, name)
		var result *sdk.ReadResourceResult
		if err == nil {
			result, err = read(ctx, c, uri, id)
		}
		if desktop.CodeOf(err) == desktop.NotFound {
			return nil, sdk.ResourceNotFoundError(uri)
		}
		return result, told(err)
	})
}

func inJSON(uri string, value any) (*sdk.ReadResourceResult, error) {
	encoded, err := json.Marshal(value)
	if err != nil {
		return nil, fmt.Errorf("write a resource: %w", err)
	}
	return &sdk.ReadResourceResult{Contents: []*sdk.ResourceContents{{URI: uri, MIMEType: "application/json", Text: string(encoded)}}}, nil
}

// mostCompletions is how many values one completion has at most, by the protocol.
const mostCompletions = 100

// complete offers the caller's desktops for the id in a resource's address.
func complete(ctx context.Context, r *sdk.CompleteRequest) (*sdk.CompleteResult, error) {
	result := &sdk.CompleteResult{Completion: sdk.CompletionResultDetails{Values: []string{}}}
	if r.Params.Ref == nil || r.Params.Ref.Type != "ref/resource" || r.Params.Argument.Name != "id" {
		return result, nil
	}
	list, err := callerOf(ctx).client.List(ctx)
	if err != nil {
		if desktop.CodeOf(err) == desktop.Forbidden {
			return result, nil
		}
		return nil, told(err)
	}
	for _, d := range list {
		if !strings.HasPrefix(d.ID, r.Params.Argument.Value) && !strings.HasPrefix(d.Name, r.Params.Argument.Value) {
			continue
		}
		result.Completion.Total++
		if len(result.Completion.Values) < mostCompletions {
			result.Completion.Values = append(result.Completion.Values, d.ID)
		}
	}
	result.Completion.HasMore = result.Completion.Total > len(result.Completion.Values)
	return result, nil
}
