package model

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
)

// adapt makes a conversation, of which other formats may have written parts, one that this format
// can say: what is left holds only its own reasoning and computer calls.
//
//   - Reasoning of another format is dropped: only its vendor can read it.
//   - Calls of functions become this format's own calls.
//   - Calls of another format's computer tool are told as text, with the pictures that came of them,
//     by the user: told by the model, it would learn to talk of clicking instead of doing it.
//     So are OpenAI's own when their picture is no longer there, which its format demands.
//   - Messages with nothing in them are left out, and neighbours of one role joined.
func adapt(messages []Message, format Format) []Message {
	var adapted []Message
	add := func(role Role, parts []Part) {
		if len(parts) == 0 {
			return
		}
		if last := len(adapted) - 1; last >= 0 && adapted[last].Role == role {
			adapted[last].Parts = append(adapted[last].Parts, parts...)
			return
		}
		adapted = append(adapted, Message{role, parts})
	}
	told := map[string]*Call{} // computer calls that are told as text
	ids := map[string]string{} // of foreign calls, as this format takes them
	for i, message := range messages {
		var parts, after []Part
		if message.Role == Assistant {
			clear(told)
			clear(ids)
			pictures := picturesOf(messages, i+1)
			for _, part := range message.Parts {
				if call := part.Call; call != nil && call.Tool == Computer && (call.Format != format || format == OpenAI && !pictures[call.ID]) {
					told[call.ID] = call
				}
			}
		}
		for _, part := range message.Parts {
			switch {
			case part.Reasoning != nil:
				// OpenAI wants an item of reasoning followed by what it led to.
				if part.Reasoning.Format == format && len(told) == 0 {
					parts = append(parts, part)
				}
			case part.Call != nil:
				if told[part.Call.ID] != nil {
					continue
				}
				call := *part.Call
				if call.Format != format {
					call.ID, call.Opaque = plainID(call.ID), nil
					ids[part.Call.ID] = call.ID
				}
				parts = append(parts, Part{Call: &call})
			case part.Result != nil:
				result := *part.Result
				if call := told[result.ID]; call != nil {
					after = append(after, tell(call, &result)...)
					continue
				}
				if id, ok := ids[result.ID]; ok {
					result.ID = id
				}
				parts = append(parts, Part{Result: &result})
			case part.Text != "" || part.Picture != nil:
				if message.Role == User {
					after = append(after, part) // results come first
				} else {
					parts = append(parts, part)
				}
			}
		}
		add(message.Role, append(parts, after...))
	}
	return adapted
}

// picturesOf tells which calls have a picture among the results in a message.
func picturesOf(messages []Message, i int) map[string]bool {
	has := map[string]bool{}
	if i < len(messages) {
		for _, part := range messages[i].Parts {
			if part.Result != nil && part.Result.Picture != nil {
				has[part.Result.ID] = true
			}
		}
	}
	return has
}

// tell says in words what was done on the computer and what came of it.
func tell(call *Call, result *Result) []Part {
	text := fmt.Sprintf("(Done on the computer before: %s", shorten(string(call.Arguments), 2000))
	if result.Failed {
		text += "; it failed"
	}
	if result.Text != "" {
		text += ": " + result.Text
	}
	parts := []Part{{Text: text + ")"}}
	if result.Picture != nil {
		parts = append(parts, Part{Picture: result.Picture})
	}
	return parts
}

var plain = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,64}$`)

// plainID is an id that every format takes.
func plainID(id string) string {
	if plain.MatchString(id) {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	return "call_" + hex.EncodeToString(sum[:12])
}

// newID is for a call that came without.
func newID() string { return "call_" + rand.Text() }
