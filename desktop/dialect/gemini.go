package dialect

import (
	"encoding/json"
	"net/url"
	"strings"
	"time"

	"bureau/desktop"
)

// gemini translates a predefined function of Gemini's computer use: those of 2.5 (click_at and its
// kin), which are a browser's, and those of 3.5 (click, hotkey and so on) for a browser or a desktop.
// The functions of its mobile environment, which a desktop has no use for, are unknown.
func (o *object) gemini(action string) []Step {
	o.string("intent") // why the model does it
	o.geminiSafety()
	switch action {
	case "click", "click_at":
		return o.geminiClick("left", 1)
	case "double_click":
		return o.geminiClick("left", 2)
	case "triple_click":
		return o.geminiClick("left", 3)
	case "middle_click":
		return o.geminiClick("middle", 1)
	case "right_click":
		return o.geminiClick("right", 1)
	case "mouse_down", "mouse_up":
		c := click(o.gridPoint("x", "y"), "left", 1, nil)
		c.Action = strings.TrimPrefix(action, "mouse_")
		return one(desktop.Action{Click: c})
	case "move", "hover_at":
		o.need("x", "y")
		return o.move(o.gridPoint("x", "y"), nil)
	case "drag_and_drop":
		from, to := [2]string{"x", "y"}, [2]string{"destination_x", "destination_y"}
		if o.has("start_x") { // 3.5
			from, to = [2]string{"start_x", "start_y"}, [2]string{"end_x", "end_y"}
		}
		o.need(from[0], from[1], to[0], to[1])
		return one(desktop.Action{Drag: drag(nil, o.gridPoint(from[0], from[1]), o.gridPoint(to[0], to[1]))})
	case "type":
		steps := one(desktop.Action{Type: &desktop.Type{Text: o.text("text")}})
		return append(steps, o.enter()...)
	case "type_text_at":
		o.need("x", "y")
		steps := o.geminiClick("left", 1)
		if o.bool("clear_before_typing", true) {
			steps = append(steps, press("ctrl+a", "BackSpace"))
		}
		if text := o.text("text"); text != "" {
			steps = append(steps, Step{Act: &desktop.Action{Type: &desktop.Type{Text: text}}})
		}
		return append(steps, o.enter()...)
	case "scroll", "scroll_at":
		o.need("x", "y")
		return o.geminiScroll(action)
	case "scroll_document":
		o.need("direction")
		switch direction := o.oneOf("direction", "", "up", "down", "left", "right"); direction {
		case "up":
			return []Step{press("Page_Up")}
		case "down":
			return []Step{press("Page_Down")}
		default:
			amount := notches(o.mapping.Real.Width / 2)
			return one(desktop.Action{Scroll: &desktop.Scroll{Direction: direction, Amount: &amount}})
		}
	case "hotkey", "key_combination":
		o.need("keys")
		return []Step{press(o.together("keys", o.strings("keys", desktop.MaxKeys)))}
	case "press_key", "key_down", "key_up":
		o.need("key")
		step := press(o.chord("key", o.string("key")))
		if action != "press_key" {
			step.Act.Press.Action = strings.TrimPrefix(action, "key_")
		}
		return []Step{step}
	case "wait":
		return pause(o.seconds("seconds", time.Second, MaxPause))
	case "wait_5_seconds":
		return pause(5 * time.Second)
	case "take_screenshot":
		return []Step{{Look: &Look{}}}
	case "go_back":
		return []Step{press("alt+Left")}
	case "go_forward":
		return []Step{press("alt+Right")}
	case "navigate":
		o.need("url")
		return o.browse(o.string("url"))
	case "search":
		return o.browse("https://www.google.com/")
	case "open_web_browser":
		return []Step{{Exec: &desktop.Exec{Script: openBrowser}}}
	}
	return o.unknown()
}

// gridPoint is a place on Gemini's grid. Its last line is 999, but the models say 1000 too, as they do
// for the far edge of a box.
func (o *object) gridPoint(x, y string) *desktop.Point {
	for _, name := range []string{x, y} {
		if v, ok := whole(o.fields[name]); ok && v == geminiGrid.Width {
			o.fields[name] = json.RawMessage("999")
		}
	}
	return o.at(x, y)
}

func (o *object) geminiClick(button string, count int) []Step {
	o.need("x", "y")
	return one(desktop.Action{Click: click(o.gridPoint("x", "y"), button, count, nil)})
}

func (o *object) enter() []Step {
	if !o.bool("press_enter", false) {
		return nil
	}
	return []Step{press("Return")}
}

func (o *object) geminiScroll(action string) []Step {
	o.need("direction")
	var s desktop.Scroll
	s.X, s.Y = pair(o.gridPoint("x", "y"))
	s.Direction = o.oneOf("direction", "", "up", "down", "left", "right")
	extent := o.mapping.Real.Height
	if s.Direction == "left" || s.Direction == "right" {
		extent = o.mapping.Real.Width
	}
	if o.has("magnitude") && o.has("magnitude_in_pixels") {
		o.fail("magnitude and magnitude_in_pixels are two ways to say how far; give one")
	}
	magnitude := o.int("magnitude", 0, geminiGrid.Height)
	pixels := o.intOr("magnitude_in_pixels", 300, 0, desktop.MaxScrollAmount*notch)
	if magnitude == nil && action == "scroll_at" {
		usual := 800
		magnitude = &usual
	}
	if magnitude != nil {
		pixels = (*magnitude*extent + geminiGrid.Height - 1) / geminiGrid.Height
	}
	amount := notches(pixels)
	s.Amount = &amount
	return one(desktop.Action{Scroll: &s})
}

// geminiSafety notes what Gemini's safety service thinks of an action.
func (o *object) geminiSafety() {
	raw, ok := o.take("safety_decision")
	if !ok {
		return
	}
	var decision struct{ Decision, Explanation string }
	if json.Unmarshal(raw, &decision) != nil {
		o.fail("safety_decision must be an object with decision and explanation")
		return
	}
	switch strings.ToLower(decision.Decision) {
	case "", "regular", "allow", "allowed":
		return
	}
	o.safety = &Safety{Decision: strings.ToLower(decision.Decision)}
	if decision.Explanation != "" {
		o.safety.Reasons = []string{decision.Explanation}
	}
}

// The browser outlives the command that opens it, so it is taken out of the command's process group,
// with which it would end; that there is none is still found out.
const (
	openURL     = `command -v xdg-open >/dev/null || { echo 'the desktop has no xdg-open' >&2; exit 127; }; setsid -f xdg-open `
	silent      = ` >/dev/null 2>&1 </dev/null`
	openBrowser = `for browser in x-www-browser sensible-browser firefox chromium; do ` +
		`command -v "$browser" >/dev/null && exec setsid -f "$browser"` + silent + `; done; ` +
		`echo 'the desktop has no web browser' >&2; exit 127`
)

// browse opens an address in the user's browser.
func (o *object) browse(address string) []Step {
	lower := strings.ToLower(address)
	if !strings.Contains(address, "://") && !strings.HasPrefix(lower, "about:") {
		address = "https://" + strings.TrimSpace(address)
	}
	parsed, err := url.Parse(address)
	switch {
	case len(address) > MaxURL:
		o.failWith(desktop.TooLarge, "url is longer than %d bytes", MaxURL)
		return nil
	case err != nil || parsed.Host == "" && parsed.Scheme != "about" && parsed.Scheme != "file":
		o.fail("url %s is not an address", quote(address))
		return nil
	}
	switch parsed.Scheme {
	case "http", "https", "about", "file":
	default:
		o.fail("url has the scheme %s; it must be http, https, file or about", quote(parsed.Scheme))
		return nil
	}
	return []Step{{Exec: &desktop.Exec{Script: openURL + shellQuote(parsed.String()) + silent}}}
}

// shellQuote makes one word of anything, for a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
