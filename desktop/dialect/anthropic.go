package dialect

import (
	"encoding/json"
	"time"

	"bureau/desktop"
)

// anthropic translates an action of Anthropic's computer tool: computer_20241022, computer_20250124,
// computer_20251124, and the members of computer_toolset_20260801, which are the same actions under
// the same names. In the first, clicks have no coordinate and a drag has only its end; both then
// begin where the pointer is.
func (o *object) anthropic(action string) []Step {
	switch action {
	case "left_click", "right_click", "middle_click", "double_click", "triple_click":
		button, count := "left", 1
		switch action {
		case "right_click":
			button = "right"
		case "middle_click":
			button = "middle"
		case "double_click":
			count = 2
		case "triple_click":
			count = 3
		}
		return one(desktop.Action{Click: click(o.coordinate("coordinate"), button, count, o.anthropicHeld())})
	case "left_mouse_down", "left_mouse_up":
		c := click(o.coordinate("coordinate"), "left", 1, nil)
		if c.Action = "down"; action == "left_mouse_up" {
			c.Action = "up"
		}
		return one(desktop.Action{Click: c})
	case "mouse_move":
		o.need("coordinate")
		return o.move(o.coordinate("coordinate"), nil)
	case "left_click_drag":
		o.need("coordinate")
		d := drag(nil, o.coordinate("start_coordinate"), o.coordinate("coordinate"))
		d.Modifiers = o.anthropicHeld()
		return one(desktop.Action{Drag: d})
	case "scroll":
		o.need("scroll_direction")
		var s desktop.Scroll
		s.X, s.Y = pair(o.coordinate("coordinate"))
		s.Direction = o.oneOf("scroll_direction", "", "up", "down", "left", "right")
		s.Amount = o.int("scroll_amount", 0, desktop.MaxScrollAmount)
		s.Modifiers = o.anthropicHeld()
		return one(desktop.Action{Scroll: &s})
	case "type":
		return one(desktop.Action{Type: &desktop.Type{Text: o.text("text")}})
	case "key":
		o.need("text")
		return one(desktop.Action{Press: &desktop.Press{
			Keys:   o.sequence("text", o.string("text")),
			Repeat: o.intOr("repeat", 0, 1, desktop.MaxRepeat),
		}})
	case "hold_key":
		o.need("text", "duration")
		return one(desktop.Action{Press: &desktop.Press{
			Keys:   o.sequence("text", o.string("text")),
			HoldMs: int(o.seconds("duration", 0, desktop.MaxHoldMs*time.Millisecond).Milliseconds()),
		}})
	case "wait":
		o.need("duration")
		return pause(o.seconds("duration", 0, MaxPause))
	case "screenshot":
		return []Step{{Look: &Look{}}}
	case "zoom":
		return []Step{{Look: &Look{Region: o.corners("region")}}}
	case "cursor_position":
		return []Step{{Cursor: true}}
	}
	return o.unknown()
}

// coordinate is a place as a pair; nil when it is absent.
func (o *object) coordinate(name string) *desktop.Point {
	raw, ok := o.take(name)
	if !ok {
		return nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil || len(list) != 2 {
		o.fail("%s must be a pair of whole numbers", name)
		return nil
	}
	return o.point(name, list[0], list[1])
}

// anthropicHeld is the keys to hold, which come as text, or as key in Anthropic's own demonstration.
func (o *object) anthropicHeld() []string {
	if o.has("text") && o.has("key") {
		o.fail("text and key are two ways to say which keys to hold; give one")
	}
	if o.has("key") {
		return o.held("key", o.string("key"))
	}
	return o.held("text", o.string("text"))
}
