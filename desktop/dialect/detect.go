package dialect

import (
	"encoding/json"
	"fmt"
	"slices"

	"bureau/desktop"
)

// form is how an action was wrapped, and so how its result is.
type form int

const (
	bare          form = iota // the action alone
	toolUse                   // Anthropic's tool_use block
	computerCall              // OpenAI's computer_call item
	functionCall              // Gemini's function call
	functionStep              // the function_call step of Gemini's Interactions API
	functionInput             // a name and an input
)

// item is a call as it came, taken out of what surrounds it.
type item struct {
	index   int
	dialect Name // Auto when bureau and OpenAI would both say it so
	form    form
	name    string
	id      string
	toolset string
	safety  *Safety
	actions []action
}

// action is the name of one and its arguments.
type action struct {
	name   string
	fields map[string]json.RawMessage
}

// unwrap takes the actions out of what surrounds them.
func unwrap(list []map[string]json.RawMessage, dialect Name) ([]item, error) {
	if !slices.Contains(Names, dialect) && dialect != "" {
		return nil, desktop.Errorf(desktop.Invalid, "the dialect is %q; it must be one of %v", dialect, Names)
	}
	items := make([]item, 0, len(list))
	index := 0
	for _, fields := range list {
		it, complaint := unwrapOne(fields)
		it.index = index
		if complaint == "" && len(it.actions) == 0 {
			complaint = "has no actions"
		}
		if complaint != "" {
			return nil, invalid(index, complaint)
		}
		if index += len(it.actions); index > MaxActions {
			return nil, desktop.Errorf(desktop.TooLarge, "there are more than %d actions", MaxActions)
		}
		items = append(items, it)
	}
	return items, nil
}

// unwrapOne says what is wrong, or nothing.
func unwrapOne(fields map[string]json.RawMessage) (it item, complaint string) {
	kind, name := word(fields["type"]), word(fields["name"])
	for _, part := range []string{"functionCall", "function_call"} {
		if call := members(fields[part]); call != nil {
			return geminiCall(call, functionCall)
		}
	}
	switch {
	case kind == "tool_use", kind == "" && name != "" && given(fields["input"]):
		return anthropicCall(fields, kind == "tool_use")
	case kind == "computer_call":
		return openaiCall(fields)
	case kind == "function_call":
		return geminiCall(fields, functionStep)
	case kind != "":
		it = item{dialect: whose(kind, fields), name: kind}
		delete(fields, "type")
	case name != "":
		return geminiCall(fields, functionCall)
	case word(fields["action"]) != "":
		it = item{dialect: Anthropic, name: word(fields["action"])}
		delete(fields, "action")
	default:
		return item{}, "has none of type, action and name, which would say what to do"
	}
	it.actions = []action{{it.name, fields}}
	return it, ""
}

func anthropicCall(fields map[string]json.RawMessage, block bool) (it item, complaint string) {
	it = item{
		dialect: Anthropic, form: functionInput, name: word(fields["name"]), id: word(fields["id"]),
		toolset: word(fields["toolset_name"]),
	}
	if block {
		it.form = toolUse
	}
	input := members(fields["input"])
	switch {
	case it.name == "":
		return it, "is a tool_use without a name"
	case input == nil:
		return it, "has an input that is not an object"
	case it.toolset != "":
		if it.toolset != "computer" {
			return it, "is of the toolset " + quote(it.toolset) + ", which is not the computer's"
		}
		it.actions = []action{{it.name, input}}
	case given(input["actions"]):
		var list []map[string]json.RawMessage
		if json.Unmarshal(input["actions"], &list) != nil {
			return it, "has actions that are not an array of objects"
		}
		for _, fields := range list {
			it.actions = append(it.actions, action{word(fields["action"]), fields})
			delete(fields, "action")
		}
	default:
		it.name = word(input["action"])
		delete(input, "action")
		it.actions = []action{{it.name, input}}
	}
	return it, ""
}

func openaiCall(fields map[string]json.RawMessage) (it item, complaint string) {
	it = item{dialect: OpenAI, form: computerCall, name: "computer_call", id: word(fields["call_id"])}
	var list []map[string]json.RawMessage
	switch {
	case given(fields["actions"]):
		if json.Unmarshal(fields["actions"], &list) != nil {
			return it, "has actions that are not an array of objects"
		}
	case given(fields["action"]):
		one := members(fields["action"])
		if one == nil {
			return it, "has an action that is not an object"
		}
		list = append(list, one)
	}
	for _, fields := range list {
		it.actions = append(it.actions, action{word(fields["type"]), fields})
		delete(fields, "type")
	}
	if raw := fields["pending_safety_checks"]; given(raw) {
		var checks []struct{ ID, Code, Message string }
		if json.Unmarshal(raw, &checks) != nil {
			return it, "has pending_safety_checks that are not an array of checks"
		}
		if len(checks) > 0 {
			it.safety = &Safety{Decision: "require_confirmation", checks: raw}
			for _, check := range checks {
				reason := check.Message
				if reason == "" {
					reason = check.Code
				}
				it.safety.Reasons = append(it.safety.Reasons, reason)
			}
		}
	}
	return it, ""
}

func geminiCall(fields map[string]json.RawMessage, form form) (it item, complaint string) {
	it = item{dialect: Gemini, form: form, name: word(fields["name"]), id: word(fields["id"])}
	if it.name == "" {
		return it, "is a function call without a name"
	}
	var args map[string]json.RawMessage
	wrapped := false
	for _, member := range []string{"args", "arguments"} {
		if raw := fields[member]; given(raw) {
			wrapped = true
			if args = members(raw); args == nil {
				return it, "has " + member + " that are not an object"
			}
		}
	}
	if !wrapped {
		args = fields
		delete(args, "name")
		delete(args, "id")
		delete(args, "args")
		delete(args, "arguments")
		if form == functionStep {
			delete(args, "type")
		}
	}
	it.actions = []action{{it.name, args}}
	return it, ""
}

// whose is the dialect of an action that has a type: Auto when bureau and OpenAI would say it so.
func whose(kind string, fields map[string]json.RawMessage) Name {
	switch kind {
	case "double_click", "keypress":
		return OpenAI
	case "click", "move", "drag", "scroll", "type", "screenshot":
	case "wait":
		if !given(fields["ms"]) {
			return OpenAI
		}
		return Bureau
	default:
		return Bureau
	}
	if given(fields["keys"]) || given(fields["scroll_x"]) || given(fields["scroll_y"]) || word(fields["button"]) == "wheel" {
		return OpenAI
	}
	for field := range fields {
		switch field {
		case "type", "x", "y", "text", "path", "keys", "scroll_x", "scroll_y":
		case "button":
			if word(fields["button"]) == "middle" {
				return Bureau
			}
		default:
			return Bureau
		}
	}
	if kind == "click" && !given(fields["x"]) {
		return Bureau // where the pointer is: OpenAI always says where
	}
	return Auto
}

// agree finds the one dialect of a request. asked is what the client said.
func agree(items []item, asked Name) (Name, error) {
	found, first := asked, 0
	if asked == Auto || asked == "" {
		found = Auto
	}
	for _, it := range items {
		switch {
		case it.dialect == Auto || it.dialect == found:
		case found == Auto:
			found, first = it.dialect, it.index
		case asked == found && (found == Bureau || found == OpenAI) && (it.dialect == Bureau || it.dialect == OpenAI) && it.form == bare:
			// Both have a type; reading it as what was asked for says better what is wrong.
		case asked == found:
			return "", invalid(it.index, fmt.Sprintf("(%s) is in the form of %s, and the request says that it is %s", shorten(it.name), it.dialect, asked))
		default:
			return "", invalid(it.index, fmt.Sprintf("(%s) is in the form of %s, and action %d in that of %s; a request has one dialect", shorten(it.name), it.dialect, first, found))
		}
	}
	if found == Auto {
		return Bureau, nil
	}
	if found == Anthropic || found == Gemini {
		for _, it := range items {
			if it.dialect == Auto {
				return "", invalid(it.index, fmt.Sprintf("(%s) has a type, which the actions of %s do not have", shorten(it.name), found))
			}
		}
	}
	return found, nil
}

// given tells whether a member is there and not null.
func given(raw json.RawMessage) bool { return len(raw) > 0 && string(raw) != "null" }

// word is a member's string, empty when it is none.
func word(raw json.RawMessage) string {
	var s string
	if !given(raw) || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}
