package dialect

import (
	"strings"
	"time"

	"bureau/desktop"
)

// openaiWait is how long OpenAI's wait takes, which has no duration.
const openaiWait = time.Second

// openai translates an action of OpenAI's computer tool, which came in an item's action or actions.
func (o *object) openai(action string) []Step {
	switch action {
	case "click":
		o.need("x", "y")
		button := o.button("left", "right", "wheel", "back", "forward", "middle")
		return one(desktop.Action{Click: click(o.at("x", "y"), button, 1, o.openaiHeld())})
	case "double_click":
		o.need("x", "y")
		return one(desktop.Action{Click: click(o.at("x", "y"), "left", 2, o.openaiHeld())})
	case "move":
		o.need("x", "y")
		at := o.at("x", "y")
		return o.move(at, o.openaiHeld())
	case "drag":
		o.need("path")
		d := drag(o.path("path"), nil, nil)
		d.Modifiers = o.openaiHeld()
		return one(desktop.Action{Drag: d})
	case "scroll":
		o.need("x", "y")
		at := o.at("x", "y")
		const most = desktop.MaxScrollAmount * notch
		dx, dy := notches(o.intOr("scroll_x", 0, -most, most)), notches(o.intOr("scroll_y", 0, -most, most))
		held := o.openaiHeld()
		if dx == 0 && dy == 0 {
			return o.move(at, held) // there is nothing to turn
		}
		s := &desktop.Scroll{DeltaX: dx, DeltaY: dy, Modifiers: held}
		s.X, s.Y = pair(at)
		return one(desktop.Action{Scroll: s})
	case "keypress":
		o.need("keys")
		return []Step{press(o.together("keys", o.strings("keys", desktop.MaxKeys)))}
	case "type":
		return one(desktop.Action{Type: &desktop.Type{Text: o.text("text")}})
	case "wait":
		return pause(openaiWait)
	case "screenshot":
		return []Step{{Look: &Look{}}}
	}
	return o.unknown()
}

// openaiHeld is the keys to hold during an action.
func (o *object) openaiHeld() []string {
	keys := o.strings("keys", desktop.MaxModifiers)
	if len(keys) == 0 {
		return nil
	}
	return o.modifiers("keys", strings.Split(o.together("keys", keys), "+"))
}
