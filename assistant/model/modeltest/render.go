package modeltest

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"bureau/assistant/model"
)

// action is one of bureau's dialect, as a script has it.
type action struct {
	Type      string     `json:"type"`
	X         *int       `json:"x"`
	Y         *int       `json:"y"`
	Button    string     `json:"button"`
	Count     int        `json:"count"`
	Modifiers []string   `json:"modifiers"`
	StartX    *int       `json:"startX"`
	StartY    *int       `json:"startY"`
	EndX      *int       `json:"endX"`
	EndY      *int       `json:"endY"`
	Direction string     `json:"direction"`
	Amount    int        `json:"amount"`
	Text      string     `json:"text"`
	Key       string     `json:"key"`
	Ms        int        `json:"ms"`
	Region    *rectangle `json:"region"`
}

type rectangle struct{ X, Y, Width, Height int }

type dict = map[string]any

// readActions reads one or several.
func readActions(raw json.RawMessage) ([]action, error) {
	if trimmed := strings.TrimSpace(string(raw)); !strings.HasPrefix(trimmed, "[") {
		raw = json.RawMessage("[" + trimmed + "]")
	}
	var actions []action
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.DisallowUnknownFields()
	if err := d.Decode(&actions); err != nil {
		return nil, fmt.Errorf("the script's action is not one of bureau's: %w", err)
	}
	return actions, nil
}

// scale brings a script's pixels to others.
type scale struct{ from, to model.Display }

func (s scale) x(v *int) int { return s.one(v, s.from.Width, s.to.Width) }
func (s scale) y(v *int) int { return s.one(v, s.from.Height, s.to.Height) }

func (s scale) one(v *int, from, to int) int {
	if from == 0 || to == 0 {
		return *v
	}
	return *v * to / from
}

// check tells whether what an action needs is there.
func (a *action) check() error {
	for _, pair := range [][2]*int{{a.X, a.Y}, {a.StartX, a.StartY}, {a.EndX, a.EndY}} {
		if (pair[0] == nil) != (pair[1] == nil) {
			return fmt.Errorf("the script's %s has half a place", a.Type)
		}
	}
	switch {
	case (a.Type == "click" || a.Type == "move" || a.Type == "scroll") && a.X == nil,
		a.Type == "drag" && (a.StartX == nil || a.EndX == nil):
		return fmt.Errorf("the script's %s has no place", a.Type)
	}
	return nil
}

var errCannotSay = errors.New("the format has no words for it")

// anthropicAction is one for Anthropic's computer tool.
func anthropicAction(a action, s scale) (dict, error) {
	at := func(x, y *int) []int { return []int{s.x(x), s.y(y)} }
	held := func(d dict) dict {
		if len(a.Modifiers) > 0 {
			d["text"] = strings.Join(a.Modifiers, "+")
		}
		return d
	}
	switch a.Type {
	case "screenshot":
		if r := a.Region; r != nil {
			right, lower := r.X+r.Width, r.Y+r.Height
			return dict{"action": "zoom", "region": []int{s.x(&r.X), s.y(&r.Y), s.x(&right), s.y(&lower)}}, nil
		}
		return dict{"action": "screenshot"}, nil
	case "click":
		name := map[string]string{"": "left_click", "left": "left_click", "right": "right_click", "middle": "middle_click"}[a.Button]
		if a.Count > 1 && name == "left_click" {
			name = map[int]string{2: "double_click", 3: "triple_click"}[a.Count]
		}
		if name == "" {
			return nil, errCannotSay
		}
		return held(dict{"action": name, "coordinate": at(a.X, a.Y)}), nil
	case "move":
		return dict{"action": "mouse_move", "coordinate": at(a.X, a.Y)}, nil
	case "drag":
		return held(dict{"action": "left_click_drag", "start_coordinate": at(a.StartX, a.StartY), "coordinate": at(a.EndX, a.EndY)}), nil
	case "scroll":
		return held(dict{"action": "scroll", "coordinate": at(a.X, a.Y), "scroll_direction": a.Direction, "scroll_amount": a.Amount}), nil
	case "type":
		return dict{"action": "type", "text": a.Text}, nil
	case "key":
		return dict{"action": "key", "text": a.Key}, nil
	case "wait":
		return dict{"action": "wait", "duration": float64(a.Ms) / 1000}, nil
	case "cursor":
		return dict{"action": "cursor_position"}, nil
	}
	return nil, errCannotSay
}

// openaiAction is one for OpenAI's computer tool.
func openaiAction(a action, s scale) (dict, error) {
	held := func(d dict) dict {
		if len(a.Modifiers) > 0 {
			keys := []string{}
			for _, key := range a.Modifiers {
				keys = append(keys, strings.ToUpper(key))
			}
			d["keys"] = keys
		}
		return d
	}
	switch a.Type {
	case "screenshot":
		if a.Region == nil {
			return dict{"type": "screenshot"}, nil
		}
	case "click":
		switch a.Count {
		case 0, 1:
			button := map[string]string{"": "left", "middle": "wheel"}[a.Button]
			if button == "" {
				button = a.Button
			}
			return held(dict{"type": "click", "button": button, "x": s.x(a.X), "y": s.y(a.Y)}), nil
		case 2:
			return held(dict{"type": "double_click", "x": s.x(a.X), "y": s.y(a.Y)}), nil
		}
	case "move":
		return held(dict{"type": "move", "x": s.x(a.X), "y": s.y(a.Y)}), nil
	case "drag":
		return held(dict{"type": "drag", "path": []dict{{"x": s.x(a.StartX), "y": s.y(a.StartY)}, {"x": s.x(a.EndX), "y": s.y(a.EndY)}}}), nil
	case "scroll":
		dx, dy := 0, 0
		switch a.Direction {
		case "up":
			dy = -100 * a.Amount
		case "down":
			dy = 100 * a.Amount
		case "left":
			dx = -100 * a.Amount
		case "right":
			dx = 100 * a.Amount
		}
		return held(dict{"type": "scroll", "x": s.x(a.X), "y": s.y(a.Y), "scroll_x": dx, "scroll_y": dy}), nil
	case "type":
		return dict{"type": "type", "text": a.Text}, nil
	case "key":
		return dict{"type": "keypress", "keys": strings.Split(strings.ToUpper(a.Key), "+")}, nil
	case "wait":
		return dict{"type": "wait"}, nil
	}
	return nil, errCannotSay
}

// geminiFunction is a predefined function of Gemini's computer use on a desktop.
func geminiFunction(a action, s scale) (name string, args dict, err error) {
	if s.from.Width == 0 && (a.X != nil || a.StartX != nil) {
		return "", nil, errors.New("a place on a grid of its own is wanted; the script needs a display")
	}
	s.to = model.Display{Width: 1000, Height: 1000}
	at := func(d dict) dict { d["x"], d["y"] = s.x(a.X), s.y(a.Y); return d }
	switch a.Type {
	case "screenshot":
		if a.Region == nil {
			return "take_screenshot", dict{}, nil
		}
	case "click":
		name := map[string]string{"": "click", "left": "click", "right": "right_click", "middle": "middle_click"}[a.Button]
		if a.Count > 1 && name == "click" {
			name = map[int]string{2: "double_click", 3: "triple_click"}[a.Count]
		}
		if name != "" && len(a.Modifiers) == 0 {
			return name, at(dict{}), nil
		}
	case "move":
		return "move", at(dict{}), nil
	case "drag":
		return "drag_and_drop", dict{"x": s.x(a.StartX), "y": s.y(a.StartY), "destination_x": s.x(a.EndX), "destination_y": s.y(a.EndY)}, nil
	case "scroll":
		return "scroll", at(dict{"direction": a.Direction, "magnitude_in_pixels": 100 * a.Amount}), nil
	case "type":
		return "type", dict{"text": a.Text}, nil
	case "key":
		if keys := strings.Split(a.Key, "+"); len(keys) > 1 {
			return "hotkey", dict{"keys": keys}, nil
		}
		return "press_key", dict{"key": a.Key}, nil
	case "wait":
		return "wait", dict{"seconds": float64(a.Ms) / 1000}, nil
	}
	return "", nil, errCannotSay
}

// bureauAction is one as package model offers it to formats without a computer tool.
func bureauAction(raw json.RawMessage, s scale) (dict, error) {
	var d dict
	if err := json.Unmarshal(raw, &d); err != nil {
		return nil, err
	}
	for key, to := range map[string]func(*int) int{
		"x": s.x, "startX": s.x, "endX": s.x, "y": s.y, "startY": s.y, "endY": s.y,
	} {
		if v, ok := d[key].(float64); ok {
			n := int(v)
			d[key] = to(&n)
		}
	}
	return d, nil
}

// rendered is a call in a format's words.
type rendered struct {
	id        string
	name      string          // of the function, or Gemini's
	computer  bool            // it is of the computer tool
	arguments json.RawMessage // of the function; Anthropic's input; Gemini's args
	actions   []dict          // OpenAI's
	safety    string
}

// render says a script's calls in a format's words.
func render(request *Request, script Script, calls []Call) ([]rendered, error) {
	var list []rendered
	s := scale{}
	if script.Display != nil {
		s.from = *script.Display
	}
	if request.Computer != nil {
		s.to = *request.Computer
	}
	for _, call := range calls {
		if !contains(request.Tools, call.Tool) {
			return nil, fmt.Errorf("the script calls %s, which is not offered", call.Tool)
		}
		if call.Tool != model.Computer {
			list = append(list, rendered{id: newID(request.Format), name: call.Tool, arguments: call.Arguments})
			continue
		}
		actions, err := readActions(call.Arguments)
		if err != nil {
			return nil, err
		}
		add := func(name string, arguments any, group []dict) error {
			raw, err := json.Marshal(arguments)
			list = append(list, rendered{
				id: newID(request.Format), name: name, computer: true, arguments: raw, actions: group, safety: call.Safety,
			})
			return err
		}
		var group []dict
		for i := range actions {
			a := actions[i]
			if err := a.check(); err != nil {
				return nil, err
			}
			switch request.Format {
			case model.Anthropic:
				var input dict
				if input, err = anthropicAction(a, s); err == nil {
					err = add(model.Computer, input, nil)
				}
			case model.OpenAI:
				var one dict
				one, err = openaiAction(a, s)
				group = append(group, one)
			case model.Gemini:
				var name string
				var args dict
				if name, args, err = geminiFunction(a, s); err == nil {
					if call.Safety != "" {
						args["safety_decision"] = dict{"decision": "require_confirmation", "explanation": call.Safety}
					}
					err = add(name, args, nil)
				}
			default:
				var raw json.RawMessage
				var one dict
				if raw, err = element(call.Arguments, i); err == nil {
					one, err = bureauAction(raw, s)
				}
				group = append(group, one)
			}
			if err != nil {
				return nil, fmt.Errorf("saying the script's %s to %s: %w", a.Type, request.Format, err)
			}
		}
		if len(group) > 0 {
			if err := add(model.Computer, dict{"actions": group}, group); err != nil {
				return nil, err
			}
		}
	}
	return list, nil
}

func element(raw json.RawMessage, i int) (json.RawMessage, error) {
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return raw, nil
	}
	if i >= len(list) {
		return nil, errors.New("there is no such action")
	}
	return list[i], nil
}

func contains(list []string, s string) bool {
	for _, one := range list {
		if one == s {
			return true
		}
	}
	return false
}
