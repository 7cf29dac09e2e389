package mcp

import (
	"context"
	"regexp"
	"strings"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api/client"
	"bureau/desktop"
)

// target names a desktop.
type target struct {
	Desktop string `json:"desktop" jsonschema:"The desktop's id, such as dt-7k3m9q2w5x8r4t6y, or its name"`
}

// waiting is a part of what boots a desktop.
type waiting struct {
	WaitSeconds *int `json:"waitSeconds,omitempty" jsonschema:"How long to wait until the desktop can be used; 0 returns at once"`
}

// Bounds of a wait. Some clients give a tool one minute.
const (
	defaultWait = 50
	maxWait     = 600
	pollPause   = time.Second
)

func desktopTools() []tool {
	waits := func(p properties) {
		p.between("waitSeconds", 0, maxWait)
		p.unless("waitSeconds", defaultWait)
	}
	local := ptr(false) // the hint that a tool reaches nothing outside
	lifecycle := func(name, title, description string, do func(*client.Client, context.Context, string) (desktop.Desktop, error)) tool {
		type input struct {
			target
			waiting
		}
		return define(desktop.CanLifecycle, sdk.Tool{Name: name, Title: title, Description: description,
			Annotations: &sdk.ToolAnnotations{DestructiveHint: ptr(name == "restart_desktop"), IdempotentHint: name == "start_desktop", OpenWorldHint: local}},
			waits, func(ctx context.Context, c *call, in input) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				d, err := do(c.client, ctx, id)
				if err != nil {
					return nil, err
				}
				return c.booted(ctx, d, in.waiting)
			})
	}
	return []tool{
		define(desktop.CanRead, sdk.Tool{Name: "list_desktops", Title: "List desktops",
			Description: "Lists your desktops with id, name and status. One can be used when its status is running and agentReady is true.",
			Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: local}},
			nil, func(ctx context.Context, c *call, _ struct{}) (*sdk.CallToolResult, error) {
				list, err := c.client.List(ctx)
				if err != nil {
					return nil, err
				}
				return data(map[string]any{"desktops": list})
			}),
		define(desktop.CanRead, sdk.Tool{Name: "get_desktop", Title: "Get a desktop",
			Description: "Tells of one desktop: status (and its reason), whether it can be used (agentReady), size, address, and who holds its input (lease).",
			Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: local}},
			nil, func(ctx context.Context, c *call, in target) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				d, err := c.client.Get(ctx, id)
				if err != nil {
					return nil, err
				}
				return data(d)
			}),
		lifecycle("start_desktop", "Start a desktop",
			"Turns a desktop on and waits until it can be used. One that runs stays as it is, so call it again when the time was not enough.", (*client.Client).Start),
		lifecycle("restart_desktop", "Restart a desktop",
			"Shuts a desktop down, turns it on again and waits until it can be used. What is open and not saved is lost.", (*client.Client).Restart),
		define(desktop.CanLifecycle, sdk.Tool{Name: "stop_desktop", Title: "Stop a desktop",
			Description: "Shuts a desktop down in an orderly way; its disk is kept. Returns at once. What is open and not saved is lost.",
			Annotations: &sdk.ToolAnnotations{IdempotentHint: true, OpenWorldHint: local}},
			nil, func(ctx context.Context, c *call, in target) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				d, err := c.client.Stop(ctx, id)
				if err != nil {
					return nil, err
				}
				return data(d)
			}),
		createTool(waits),
		updateTool(),
		define(desktop.CanManage, sdk.Tool{Name: "destroy_desktop", Title: "Destroy a desktop",
			Description: "Removes a desktop and everything on its disk, for good.",
			Annotations: &sdk.ToolAnnotations{DestructiveHint: ptr(true), IdempotentHint: true, OpenWorldHint: local}},
			nil, func(ctx context.Context, c *call, in target) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				if err := c.client.Destroy(ctx, id); err != nil {
					return nil, err
				}
				return text("desktop %s is gone", id), nil
			}),
	}
}

func createTool(waits func(properties)) tool {
	type input struct {
		Name    string `json:"name,omitempty" jsonschema:"Its name; made up when absent"`
		Tier    string `json:"tier,omitempty" jsonschema:"Its size, one of the appliance's tiers; your own when absent"`
		Image   string `json:"image,omitempty" jsonschema:"What its disk is based on; the appliance's default when absent"`
		Network string `json:"network,omitempty" jsonschema:"nat reaches the outside, isolated reaches nothing"`
		waiting
	}
	return define(desktop.CanManage, sdk.Tool{Name: "create_desktop", Title: "Create a desktop",
		Description: "Makes a new desktop, turns it on and waits until it can be used. When the time was not enough, call get_desktop or start_desktop.",
		Annotations: &sdk.ToolAnnotations{DestructiveHint: ptr(false), OpenWorldHint: ptr(false)}},
		func(p properties) {
			waits(p)
			p.oneOf("network", desktop.NetworkNAT, desktop.NetworkIsolated)
		}, func(ctx context.Context, c *call, in input) (*sdk.CallToolResult, error) {
			d, err := c.client.Create(ctx, desktop.Draft{Name: in.Name, Tier: in.Tier, Image: in.Image, Network: in.Network})
			if err != nil {
				return nil, err
			}
			return c.booted(ctx, d, in.waiting)
		})
}

func updateTool() tool {
	type input struct {
		target
		Name      *string `json:"name,omitempty" jsonschema:"Its new name"`
		KeepAlive *bool   `json:"keepAlive,omitempty" jsonschema:"Never stop it for inactivity"`
	}
	return define(desktop.CanManage, sdk.Tool{Name: "update_desktop", Title: "Change a desktop",
		Description: "Renames a desktop, or keeps it from being stopped for inactivity. What is absent stays as it is.",
		Annotations: &sdk.ToolAnnotations{DestructiveHint: ptr(false), IdempotentHint: true, OpenWorldHint: ptr(false)}},
		nil, func(ctx context.Context, c *call, in input) (*sdk.CallToolResult, error) {
			id, err := c.find(ctx, in.Desktop)
			if err != nil {
				return nil, err
			}
			d, err := c.client.Update(ctx, id, desktop.Change{Name: in.Name, KeepAlive: in.KeepAlive})
			if err != nil {
				return nil, err
			}
			return data(d)
		})
}

var idRule = regexp.MustCompile(`^dt-[a-z2-7]{16}$`)

// find is the id of the desktop that a caller names. A key that may not list desktops names them by
// their ids.
func (c *call) find(ctx context.Context, name string) (string, error) {
	if idRule.MatchString(name) {
		return name, nil
	}
	list, err := c.client.List(ctx)
	switch {
	case desktop.CodeOf(err) == desktop.Forbidden:
		return name, nil
	case err != nil:
		return "", err
	}
	var ids []string
	for _, d := range list {
		if d.ID == name {
			return name, nil
		}
		if d.Name == name {
			ids = append(ids, d.ID)
		}
	}
	switch len(ids) {
	case 0:
		return "", desktop.Errorf(desktop.NotFound, "you have no desktop %q", name)
	case 1:
		return ids[0], nil
	}
	return "", desktop.Errorf(desktop.Conflict, "%d of your desktops are called %q; give one's id: %s", len(ids), name, strings.Join(ids, ", "))
}

// booted waits for a desktop that was asked to start, and tells of it. A key that may not look up
// desktops cannot wait.
func (c *call) booted(ctx context.Context, d desktop.Desktop, w waiting) (*sdk.CallToolResult, error) {
	seconds := defaultWait
	if w.WaitSeconds != nil {
		seconds = *w.WaitSeconds
	}
	limit := time.Duration(seconds) * time.Second
	began := time.Now()
	for {
		switch {
		case d.Status == desktop.Running && d.AgentReady:
			return data(d)
		case d.Status == desktop.Failed:
			return nil, desktop.Errorf(desktop.Conflict, "the desktop has failed: %s", d.Reason)
		case time.Since(began) >= limit:
			return data(d)
		}
		stage := string(d.Status)
		if d.BootStage != "" {
			stage += ", " + string(d.BootStage)
		}
		c.progress(ctx, began, limit, stage)
		timer := time.NewTimer(min(pollPause, limit))
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil, ctx.Err()
		case <-timer.C:
		}
		now, err := c.client.Get(ctx, d.ID)
		switch {
		case desktop.CodeOf(err) == desktop.Forbidden:
			return data(d)
		case err != nil:
			return nil, err
		}
		d = now
	}
}
