package mcp

import (
	"context"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/desktop"
)

// sessionTools are those of what a desktop's session has: windows, the clipboard, the display.
func sessionTools() []tool {
	type windowInput struct {
		target
		Window uint32 `json:"window" jsonschema:"The window's id, from list_windows"`
	}
	type clipboardInput struct {
		target
		Text string `json:"text" jsonschema:"Up to 1 MiB"`
	}
	type sizeInput struct {
		target
		Width  int `json:"width" jsonschema:"In pixels"`
		Height int `json:"height" jsonschema:"In pixels"`
	}
	reads := &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: ptr(false)}
	changes := &sdk.ToolAnnotations{DestructiveHint: ptr(false), IdempotentHint: true, OpenWorldHint: ptr(false)}
	return []tool{
		define(desktop.CanControl, sdk.Tool{Name: "list_windows", Title: "List windows",
			Description: "Lists the windows on a desktop, the topmost first, with id, title, application, place and focus.", Annotations: reads},
			nil, func(ctx context.Context, c *call, in target) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				list, err := c.client.Windows(ctx, id)
				if err != nil {
					return nil, err
				}
				return data(map[string]any{"windows": list})
			}),
		define(desktop.CanControl, sdk.Tool{Name: "activate_window", Title: "Activate a window",
			Description: "Brings a window to the front and gives it the focus.", Annotations: changes},
			nil, func(ctx context.Context, c *call, in windowInput) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err == nil {
					err = c.client.ActivateWindow(ctx, id, in.Window)
				}
				if err != nil {
					return nil, err
				}
				return text("window %d has the focus", in.Window), nil
			}),
		define(desktop.CanControl, sdk.Tool{Name: "close_window", Title: "Close a window",
			Description: "Asks a window's application to close it; it may ask about unsaved work first.", Annotations: inputHints()},
			nil, func(ctx context.Context, c *call, in windowInput) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err == nil {
					err = c.client.CloseWindow(ctx, id, in.Window)
				}
				if err != nil {
					return nil, err
				}
				return text("window %d was asked to close", in.Window), nil
			}),
		define(desktop.CanControl, sdk.Tool{Name: "read_clipboard", Title: "Read the clipboard",
			Description: "Gives the text on a desktop's clipboard.", Annotations: reads},
			nil, func(ctx context.Context, c *call, in target) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				copied, err := c.client.Clipboard(ctx, id)
				if err != nil {
					return nil, err
				}
				return text("%s", copied), nil
			}),
		define(desktop.CanControl, sdk.Tool{Name: "write_clipboard", Title: "Write the clipboard",
			Description: "Puts a text on a desktop's clipboard, to be pasted with press_key ctrl+v.", Annotations: changes},
			nil, func(ctx context.Context, c *call, in clipboardInput) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err == nil {
					err = c.client.SetClipboard(ctx, id, in.Text)
				}
				if err != nil {
					return nil, err
				}
				return text("%d bytes are on the clipboard", len(in.Text)), nil
			}),
		define(desktop.CanControl, sdk.Tool{Name: "resize_display", Title: "Change the display's size",
			Description: "Gives a desktop's display another size, at once.", Annotations: changes},
			func(p properties) {
				p.between("width", desktop.MinDisplaySide, desktop.MaxDisplaySide)
				p.between("height", desktop.MinDisplaySide, desktop.MaxDisplaySide)
			}, func(ctx context.Context, c *call, in sizeInput) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err == nil {
					err = c.client.Resize(ctx, id, desktop.Size{Width: in.Width, Height: in.Height})
				}
				if err != nil {
					return nil, err
				}
				return text("the display is %dx%d", in.Width, in.Height), nil
			}),
	}
}
