package dialect

import (
	"encoding/json"
	"image"
	"time"

	"bureau/desktop"
)

// bureau translates our own words: the bodies of the routes with a "type" that is the route's name,
// and wait, screenshot and cursor.
func (o *object) bureau(action string) []Step {
	switch action {
	case "click":
		at := o.at("x", "y")
		c := click(at, o.button("left", "middle", "right", "back", "forward"), o.intOr("count", 1, 1, 3), nil)
		if o.bool("double", false) {
			if c.Count == 3 {
				o.fail("double is two clicks and count is three")
			}
			c.Count = 2
		}
		c.Modifiers = o.modifiers("modifiers", o.strings("modifiers", desktop.MaxModifiers))
		if c.Action = o.oneOf("action", "", "click", "down", "up"); c.Action == "click" {
			c.Action = ""
		}
		if c.Action != "" && c.Count > 1 {
			o.fail("count is for a click; %s acts once", c.Action)
		}
		return one(desktop.Action{Click: c})
	case "move":
		o.need("x", "y")
		at := o.at("x", "y")
		modifiers := o.modifiers("modifiers", o.strings("modifiers", desktop.MaxModifiers))
		return o.move(at, modifiers)
	case "drag":
		start, end, path := o.at("startX", "startY"), o.at("endX", "endY"), o.path("path")
		switch {
		case path != nil && (start != nil || end != nil):
			o.fail("it has both a path and a start or end; give one of the two")
		case path == nil && end == nil:
			o.fail("it needs endX and endY, or a path")
		}
		d := drag(path, start, end)
		d.Button = o.button("left", "middle", "right", "back", "forward")
		d.Modifiers = o.modifiers("modifiers", o.strings("modifiers", desktop.MaxModifiers))
		d.DurationMs = o.intOr("durationMs", 0, 0, desktop.MaxDurationMs)
		return one(desktop.Action{Drag: d})
	case "scroll":
		var s desktop.Scroll
		s.X, s.Y = pair(o.at("x", "y"))
		directed := o.has("direction") || o.has("amount")
		s.Direction = o.oneOf("direction", "", "up", "down", "left", "right")
		s.Amount = o.int("amount", 0, desktop.MaxScrollAmount)
		s.DeltaX = o.intOr("deltaX", 0, -desktop.MaxScrollAmount, desktop.MaxScrollAmount)
		s.DeltaY = o.intOr("deltaY", 0, -desktop.MaxScrollAmount, desktop.MaxScrollAmount)
		s.Modifiers = o.modifiers("modifiers", o.strings("modifiers", desktop.MaxModifiers))
		signed := s.DeltaX != 0 || s.DeltaY != 0
		switch {
		case directed && signed:
			o.fail("it has both deltas and a direction or amount; give one of the two")
		case s.Direction == "" && !signed:
			o.fail("it needs a direction, or deltaX or deltaY")
		}
		return one(desktop.Action{Scroll: &s})
	case "type":
		return one(desktop.Action{Type: &desktop.Type{
			Text:      o.text("text"),
			DelayMs:   o.intOr("delayMs", 0, 0, desktop.MaxDelayMs),
			Sensitive: o.bool("sensitive", false),
		}})
	case "key":
		o.need("key")
		p := desktop.Press{
			Keys:   o.strings("key", desktop.MaxKeys),
			Repeat: o.intOr("repeat", 0, 1, desktop.MaxRepeat),
			HoldMs: o.intOr("holdMs", 0, 0, desktop.MaxHoldMs),
		}
		if len(p.Keys) == 0 {
			o.fail("key names no key")
		}
		for i := range p.Keys {
			p.Keys[i] = o.chord("key", p.Keys[i])
		}
		if p.Action = o.oneOf("action", "", "press", "down", "up"); p.Action == "press" {
			p.Action = ""
		}
		if p.Action != "" && (p.Repeat > 1 || p.HoldMs > 0) {
			o.fail("repeat and holdMs are for a press; %s acts once", p.Action)
		}
		return one(desktop.Action{Press: &p})
	case "wait":
		o.need("ms")
		return pause(time.Duration(o.intOr("ms", 0, 0, int(MaxPause.Milliseconds()))) * time.Millisecond)
	case "screenshot":
		look := &Look{Region: o.region("region"), SettleMs: o.int("settleMs", 0, int(desktop.MaxSettle.Milliseconds()))}
		return []Step{{Look: look}}
	case "cursor":
		return []Step{{Cursor: true}}
	}
	return o.unknown()
}

// move is nothing without a place, which has been complained about.
func (o *object) move(at *desktop.Point, modifiers []string) []Step {
	if at == nil {
		return nil
	}
	return one(desktop.Action{Move: &desktop.Move{X: at.X, Y: at.Y, Modifiers: modifiers}})
}

func pause(d time.Duration) []Step { return []Step{{Pause: max(d, 1)}} } // a Step without any is none

// region is a part of the display: x, y, width and height.
func (o *object) region(name string) *image.Rectangle {
	raw, ok := o.take(name)
	if !ok {
		return nil
	}
	m := members(raw)
	var v [4]int
	for i, part := range [...]string{"x", "y", "width", "height"} {
		if v[i], ok = whole(m[part]); !ok {
			o.fail("%s must be an object with x, y, width and height", name)
			return nil
		}
		delete(m, part)
	}
	if len(m) > 0 {
		o.fail("%s must have x, y, width and height and nothing else", name)
	}
	return o.rectangle(name, image.Rectangle{Min: image.Pt(v[0], v[1]), Max: image.Pt(v[0]+v[2], v[1]+v[3])})
}

// corners is a part of the display: the left, upper, right and lower edge, of which the latter two
// are the first that is outside.
func (o *object) corners(name string) *image.Rectangle {
	raw, ok := o.take(name)
	var list []json.RawMessage
	if !ok {
		o.missing(name)
		return nil
	}
	if json.Unmarshal(raw, &list) != nil || len(list) != 4 {
		o.fail("%s must be four whole numbers", name)
		return nil
	}
	var v [4]int
	for i := range v {
		if v[i], ok = whole(list[i]); !ok {
			o.fail("%s must be four whole numbers", name)
			return nil
		}
	}
	return o.rectangle(name, image.Rectangle{Min: image.Pt(v[0], v[1]), Max: image.Pt(v[2], v[3])})
}

func (o *object) rectangle(name string, r image.Rectangle) *image.Rectangle {
	size := o.mapping.Announced
	switch {
	case r.Empty():
		o.fail("%s is empty", name)
		return nil
	case !r.In(image.Rect(0, 0, size.Width, size.Height)):
		o.outside(name)
		return nil
	}
	r = o.mapping.RegionToReal(r)
	return &r
}
