package mcp

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	_ "image/png" // the pictures' size is read from them
	"math"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api"
	"bureau/desktop"
	"bureau/desktop/dialect"
)

// largestSide is the longest side of a picture, in pixels. Models' vendors shrink larger ones by
// themselves, and the coordinates that the model then gives are off. So a larger display is shown
// smaller here, and coordinates are those of the picture.
const largestSide = 1568

// defaultSettleMs is how long a picture waits at most for the display to come to rest.
const defaultSettleMs = 2000

// action is one of the API's own action objects.
type action struct {
	Type       string   `json:"type" jsonschema:"What to do"`
	X          *int     `json:"x,omitempty" jsonschema:"click, move, scroll: pixels from the left. Without x and y it is done where the pointer is"`
	Y          *int     `json:"y,omitempty" jsonschema:"click, move, scroll: pixels from the top"`
	Button     string   `json:"button,omitempty" jsonschema:"click, drag: the mouse button"`
	Count      int      `json:"count,omitempty" jsonschema:"click: 2 is a double click, 3 a triple click"`
	Modifiers  []string `json:"modifiers,omitempty" jsonschema:"click, move, drag, scroll: keys held meanwhile, such as ctrl or shift"`
	StartX     *int     `json:"startX,omitempty" jsonschema:"drag: where it begins"`
	StartY     *int     `json:"startY,omitempty" jsonschema:"drag: where it begins"`
	EndX       *int     `json:"endX,omitempty" jsonschema:"drag: where it ends"`
	EndY       *int     `json:"endY,omitempty" jsonschema:"drag: where it ends"`
	DurationMs int      `json:"durationMs,omitempty" jsonschema:"drag: how long the movement takes; 0 is as fast as applications can follow"`
	Direction  string   `json:"direction,omitempty" jsonschema:"scroll: which way"`
	Amount     *int     `json:"amount,omitempty" jsonschema:"scroll: wheel notches, 3 when absent"`
	Text       string   `json:"text,omitempty" jsonschema:"type: the text, any Unicode with newline and tab"`
	Key        string   `json:"key,omitempty" jsonschema:"key: a key or a combination, such as Return, ctrl+s or alt+F4"`
	Repeat     int      `json:"repeat,omitempty" jsonschema:"key: how often"`
	HoldMs     int      `json:"holdMs,omitempty" jsonschema:"key: how long it is held"`
	Ms         *int     `json:"ms,omitempty" jsonschema:"wait: how long"`
	Region     *region  `json:"region,omitempty" jsonschema:"screenshot: only this part of the display, in its full resolution"`
	SettleMs   *int     `json:"settleMs,omitempty" jsonschema:"screenshot: how long to wait at most for the display to come to rest"`
}

type region struct {
	X      int `json:"x"`
	Y      int `json:"y"`
	Width  int `json:"width"`
	Height int `json:"height"`
}

// after is what input tools do when the input is done.
type after struct {
	Screenshot *bool `json:"screenshot,omitempty" jsonschema:"Whether to answer with a picture of the display"`
	SettleMs   *int  `json:"settleMs,omitempty" jsonschema:"How long to wait at most for the display to come to rest, in milliseconds"`
}

func (a after) settle() int {
	if a.SettleMs != nil {
		return *a.SettleMs
	}
	return defaultSettleMs
}

func (p properties) after() {
	p.unless("screenshot", true)
	p.settles()
}

func (p properties) settles() {
	p.between("settleMs", 0, float64(desktop.MaxSettle.Milliseconds()))
	p.unless("settleMs", defaultSettleMs)
}

func controlTools() []tool {
	type screenshotInput struct {
		target
		Region   *region `json:"region,omitempty" jsonschema:"Only this part of the display, in its full resolution, to read what is small"`
		SettleMs *int    `json:"settleMs,omitempty" jsonschema:"How long to wait at most for the display to come to rest, in milliseconds"`
	}
	screenshot := define(desktop.CanControl, sdk.Tool{Name: "screenshot", Title: "Take a screenshot",
		Description: "Shows a desktop's display with its mouse pointer. Coordinates of all tools are pixels of this picture. It also shows a desktop that is still booting.",
		Annotations: &sdk.ToolAnnotations{ReadOnlyHint: true, OpenWorldHint: ptr(false)}},
		func(p properties) {
			p.between("settleMs", 0, float64(desktop.MaxSettle.Milliseconds()))
			p.unless("settleMs", 0)
		}, func(ctx context.Context, c *call, in screenshotInput) (*sdk.CallToolResult, error) {
			id, err := c.find(ctx, in.Desktop)
			if err != nil {
				return nil, err
			}
			settle := 0
			if in.SettleMs != nil {
				settle = *in.SettleMs
			}
			if in.Region != nil {
				return c.act(ctx, id, []action{{Type: "screenshot", Region: in.Region, SettleMs: &settle}}, after{Screenshot: ptr(false), SettleMs: ptr(0)})
			}
			shot, err := c.client.Screenshot(ctx, id, picture(settle))
			if err != nil {
				return nil, err
			}
			result := text("%s", sizeOf(shot.Bytes))
			result.Content = append(result.Content, &sdk.ImageContent{Data: shot.Bytes, MIMEType: shot.ContentType})
			return result, nil
		})

	type actInput struct {
		target
		Actions []action `json:"actions" jsonschema:"What to do, in this order"`
		after
	}
	act := define(desktop.CanControl, sdk.Tool{Name: "act", Title: "Do several actions and see",
		Description: "Does several input actions in order, as one, and shows the display when it has come to rest after them. Stops at the first that fails and says which. Prefer it to single calls when the steps are clear, such as click, type, press Return.",
		Annotations: inputHints()},
		func(p properties) {
			p.after()
			one := properties(p["actions"].Items.Properties)
			one.oneOf("type", "click", "move", "drag", "scroll", "type", "key", "wait", "screenshot")
			one.input()
			one.between("repeat", 0, desktop.MaxRepeat)
			one.between("holdMs", 0, desktop.MaxHoldMs)
			one.between("ms", 0, float64(dialect.MaxPause.Milliseconds()))
			one.between("settleMs", 0, float64(desktop.MaxSettle.Milliseconds()))
			p["actions"].MinItems, p["actions"].MaxItems = ptr(1), ptr(dialect.MaxActions)
		}, func(ctx context.Context, c *call, in actInput) (*sdk.CallToolResult, error) {
			return c.input(ctx, in.Desktop, in.after, in.Actions...)
		})
	return append([]tool{screenshot, act}, inputTools()...)
}

// input bounds what several inputs have in common.
func (p properties) input() {
	for name, edit := range map[string]func(){
		"button":     func() { p.oneOf("button", "left", "middle", "right", "back", "forward") },
		"count":      func() { p.between("count", 0, 3) },
		"direction":  func() { p.oneOf("direction", "up", "down", "left", "right") },
		"amount":     func() { p.between("amount", 0, desktop.MaxScrollAmount) },
		"durationMs": func() { p.between("durationMs", 0, desktop.MaxDurationMs) },
		"modifiers":  func() { p["modifiers"].MaxItems = ptr(desktop.MaxModifiers) },
	} {
		if p[name] != nil {
			edit()
		}
	}
}

// inputHints: what input does depends on what it hits.
func inputHints() *sdk.ToolAnnotations {
	return &sdk.ToolAnnotations{DestructiveHint: ptr(true), OpenWorldHint: ptr(true)}
}

func inputTools() []tool {
	bounds := func(p properties) {
		p.after()
		p.input()
	}
	type clickInput struct {
		target
		X         *int     `json:"x,omitempty" jsonschema:"Pixels from the left; without x and y it clicks where the pointer is"`
		Y         *int     `json:"y,omitempty" jsonschema:"Pixels from the top"`
		Button    string   `json:"button,omitempty" jsonschema:"The mouse button, left when absent"`
		Count     int      `json:"count,omitempty" jsonschema:"2 is a double click, 3 a triple click"`
		Modifiers []string `json:"modifiers,omitempty" jsonschema:"Keys held during the click, such as ctrl or shift"`
		after
	}
	type moveInput struct {
		target
		X int `json:"x" jsonschema:"Pixels from the left"`
		Y int `json:"y" jsonschema:"Pixels from the top"`
		after
	}
	type dragInput struct {
		target
		StartX     int      `json:"startX" jsonschema:"Where it begins"`
		StartY     int      `json:"startY"`
		EndX       int      `json:"endX" jsonschema:"Where it ends"`
		EndY       int      `json:"endY"`
		Button     string   `json:"button,omitempty" jsonschema:"The mouse button, left when absent"`
		Modifiers  []string `json:"modifiers,omitempty" jsonschema:"Keys held during the drag"`
		DurationMs int      `json:"durationMs,omitempty" jsonschema:"How long the movement takes; 0 is as fast as applications can follow"`
		after
	}
	type scrollInput struct {
		target
		Direction string   `json:"direction" jsonschema:"Which way"`
		Amount    *int     `json:"amount,omitempty" jsonschema:"Wheel notches, 3 when absent"`
		X         *int     `json:"x,omitempty" jsonschema:"Where; without x and y, where the pointer is"`
		Y         *int     `json:"y,omitempty"`
		Modifiers []string `json:"modifiers,omitempty" jsonschema:"Keys held meanwhile"`
		after
	}
	type typeInput struct {
		target
		Text string `json:"text" jsonschema:"Any Unicode, newline (presses Return) and tab included"`
		after
	}
	type keyInput struct {
		target
		Key    string `json:"key" jsonschema:"A key or a combination, such as Return, ctrl+s, alt+F4 or shift+Tab"`
		Repeat int    `json:"repeat,omitempty" jsonschema:"How often"`
		HoldMs int    `json:"holdMs,omitempty" jsonschema:"How long it is held, in milliseconds"`
		after
	}
	return []tool{
		define(desktop.CanControl, sdk.Tool{Name: "click", Title: "Click", Description: "Clicks, and shows the display when it has come to rest.", Annotations: inputHints()},
			bounds, func(ctx context.Context, c *call, in clickInput) (*sdk.CallToolResult, error) {
				return c.input(ctx, in.Desktop, in.after, action{Type: "click", X: in.X, Y: in.Y, Button: in.Button, Count: in.Count, Modifiers: in.Modifiers})
			}),
		define(desktop.CanControl, sdk.Tool{Name: "move_pointer", Title: "Move the pointer", Description: "Moves the mouse pointer, such as to see what appears under it, and shows the display when it has come to rest.", Annotations: inputHints()},
			bounds, func(ctx context.Context, c *call, in moveInput) (*sdk.CallToolResult, error) {
				return c.input(ctx, in.Desktop, in.after, action{Type: "move", X: &in.X, Y: &in.Y})
			}),
		define(desktop.CanControl, sdk.Tool{Name: "drag", Title: "Drag", Description: "Drags with a mouse button held, and shows the display when it has come to rest.", Annotations: inputHints()},
			bounds, func(ctx context.Context, c *call, in dragInput) (*sdk.CallToolResult, error) {
				return c.input(ctx, in.Desktop, in.after, action{Type: "drag", StartX: &in.StartX, StartY: &in.StartY, EndX: &in.EndX, EndY: &in.EndY,
					Button: in.Button, Modifiers: in.Modifiers, DurationMs: in.DurationMs})
			}),
		define(desktop.CanControl, sdk.Tool{Name: "scroll", Title: "Scroll", Description: "Turns the mouse wheel, and shows the display when it has come to rest.", Annotations: inputHints()},
			bounds, func(ctx context.Context, c *call, in scrollInput) (*sdk.CallToolResult, error) {
				return c.input(ctx, in.Desktop, in.after, action{Type: "scroll", X: in.X, Y: in.Y, Direction: in.Direction, Amount: in.Amount, Modifiers: in.Modifiers})
			}),
		define(desktop.CanControl, sdk.Tool{Name: "type_text", Title: "Type text", Description: "Types a text into what has the focus, whatever the keyboard layout, and shows the display when it has come to rest.", Annotations: inputHints()},
			bounds, func(ctx context.Context, c *call, in typeInput) (*sdk.CallToolResult, error) {
				return c.input(ctx, in.Desktop, in.after, action{Type: "type", Text: in.Text})
			}),
		define(desktop.CanControl, sdk.Tool{Name: "press_key", Title: "Press a key", Description: "Presses a key or a combination, and shows the display when it has come to rest.", Annotations: inputHints()},
			func(p properties) {
				bounds(p)
				p.between("repeat", 0, desktop.MaxRepeat)
				p.between("holdMs", 0, desktop.MaxHoldMs)
			}, func(ctx context.Context, c *call, in keyInput) (*sdk.CallToolResult, error) {
				return c.input(ctx, in.Desktop, in.after, action{Type: "key", Key: in.Key, Repeat: in.Repeat, HoldMs: in.HoldMs})
			}),
	}
}

// input finds the desktop and does actions there.
func (c *call) input(ctx context.Context, name string, a after, actions ...action) (*sdk.CallToolResult, error) {
	id, err := c.find(ctx, name)
	if err != nil {
		return nil, err
	}
	return c.act(ctx, id, actions, a)
}

// act does actions, and shows what they leave behind. Pictures that were asked for among them come
// in their order.
func (c *call) act(ctx context.Context, id string, actions []action, a after) (*sdk.CallToolResult, error) {
	shown, err := c.shown(ctx, id)
	if err != nil {
		return nil, err
	}
	if a.Screenshot == nil || *a.Screenshot {
		actions = append(actions[:len(actions):len(actions)], action{Type: "screenshot", SettleMs: ptr(a.settle())})
	}
	encoded, err := json.Marshal(actions)
	if err != nil {
		return nil, fmt.Errorf("write the actions: %w", err)
	}
	done, err := c.client.Actions(ctx, id, api.ActionsRequest{Actions: encoded, Dialect: dialect.Bureau, Display: &shown, SettleMs: ptr(a.settle())})
	if err != nil {
		return nil, err
	}
	x, y := done.Cursor.X*shown.Width/done.Display.Width, done.Cursor.Y*shown.Height/done.Display.Height
	words := fmt.Sprintf("done; the pointer is at %d,%d of %dx%d", x, y, shown.Width, shown.Height)
	if done.Settled != nil && !*done.Settled {
		words += "; the display is still changing"
	}
	result := text("%s", words)
	for _, one := range done.Results {
		var seen struct {
			Picture *struct {
				MediaType string `json:"mediaType"`
				Data      []byte `json:"data"`
			} `json:"picture"`
		}
		if err := json.Unmarshal(one, &seen); err != nil {
			return nil, fmt.Errorf("read the result of an action: %w", err)
		}
		if seen.Picture != nil {
			result.Content = append(result.Content, &sdk.ImageContent{Data: seen.Picture.Data, MIMEType: seen.Picture.MediaType})
		}
	}
	return result, nil
}

// shown is the size in which a desktop's display is shown now.
func (c *call) shown(ctx context.Context, id string) (desktop.Size, error) {
	done, err := c.client.Actions(ctx, id, api.ActionsRequest{Actions: api.Actions(`[{"type":"cursor"}]`), Dialect: dialect.Bureau})
	if err != nil {
		return desktop.Size{}, err
	}
	return fit(done.Display), nil
}

// fit is the size in which a display is shown, its proportions kept, as the API's maxWidth and
// maxHeight make it.
func fit(size desktop.Size) desktop.Size {
	scale := min(1, largestSide/float64(size.Width), largestSide/float64(size.Height))
	return desktop.Size{
		Width:  max(1, int(math.Round(float64(size.Width)*scale))),
		Height: max(1, int(math.Round(float64(size.Height)*scale))),
	}
}

// picture is how a whole display is shown.
func picture(settleMs int) api.Picture {
	return api.Picture{Format: "png", Cursor: true, SettleMs: settleMs, MaxWidth: largestSide, MaxHeight: largestSide}
}

// sizeOf tells the size of a picture.
func sizeOf(file []byte) string {
	config, _, err := image.DecodeConfig(bytes.NewReader(file))
	if err != nil {
		return "the display"
	}
	return fmt.Sprintf("the display, %dx%d", config.Width, config.Height)
}
