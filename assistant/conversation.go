package assistant

import (
	"fmt"

	"bureau/assistant/model"
)

// What of a conversation a model is given. All of it, but for its pictures: a picture costs as much as
// pages of text and is soon out of date. At least the newest keptPictures are shown; older ones go
// in chunks of dropChunk, so that the beginning of the conversation is the same from one request to
// the next, which is what providers cache by.
const (
	keptPictures = 8
	dropChunk    = 8
)

// When the conversation has been too long for the model, earlier turns shrink to what was said in
// them, the results of this turn but the newest to their beginnings, and one picture is shown.
const (
	compactSaid    = 2_000 // bytes
	compactResult  = 500
	compactSpared  = 4 // messages at the end that stay as they are, but for their pictures
	compactTurns   = 20
	droppedPicture = "(An older picture was here.)"
)

// pictures counts those of a conversation, those that have been forgotten included.
func pictures(messages []model.Message) int {
	count := 0
	for _, message := range messages {
		for _, part := range message.Parts {
			if part.Picture != nil || part.Result != nil && part.Result.Picture != nil {
				count++
			}
		}
	}
	return count
}

// droppedPictures is how many pictures, the oldest, are not shown any more.
func droppedPictures(messages []model.Message) int {
	return max(0, pictures(messages)-keptPictures) / dropChunk * dropChunk
}

// conversation is what a model is given of all messages. blind is how many of the pictures, the oldest,
// cannot be shown.
func conversation(messages []model.Message, compact bool, blind int) []model.Message {
	dropped := max(blind, droppedPictures(messages))
	if compact {
		dropped = max(blind, pictures(messages)-1)
	}
	shown := make([]model.Message, len(messages))
	seen := 0
	for i, message := range messages {
		shown[i] = model.Message{Role: message.Role, Parts: make([]model.Part, len(message.Parts))}
		for j, part := range message.Parts {
			switch {
			case part.Picture != nil:
				if seen++; seen <= dropped || part.Picture.Data == nil {
					part = model.Part{Text: droppedPicture}
				}
			case part.Result != nil && part.Result.Picture != nil:
				if seen++; seen <= dropped || part.Result.Picture.Data == nil {
					result := *part.Result
					result.Picture = nil
					result.Text = joined(result.Text, droppedPicture)
					part.Result = &result
				}
			}
			shown[i].Parts[j] = part
		}
	}
	if compact {
		shown = compacted(shown)
	}
	return shown
}

func joined(a, b string) string {
	if a == "" {
		return b
	}
	return a + "\n" + b
}

// compacted is the short form of a conversation.
func compacted(messages []model.Message) []model.Message {
	begin := 0 // of the last turn
	for i, message := range messages {
		if prompts(message) {
			begin = i
		}
	}
	var short []model.Message
	for _, message := range messages[:begin] {
		text := textOf(message)
		if text == "" {
			continue
		}
		said := model.Message{Role: message.Role, Parts: []model.Part{{Text: shorten(text, compactSaid)}}}
		if n := len(short); n > 0 && short[n-1].Role == said.Role {
			short[n-1] = said // of several in a row the last: a turn's prompt, and its answer
		} else {
			short = append(short, said)
		}
	}
	if len(short) > 2*compactTurns {
		short = short[len(short)-2*compactTurns:]
	}
	if len(short) > 0 && short[0].Role == model.Assistant {
		short = short[1:]
	}
	for i, message := range messages[begin:] {
		if i < len(messages)-begin-compactSpared {
			parts := make([]model.Part, len(message.Parts))
			for j, part := range message.Parts {
				if part.Result != nil && len(part.Result.Text) > compactResult {
					result := *part.Result
					result.Text = shorten(result.Text, compactResult) + fmt.Sprintf(" (shortened from %d bytes)", len(part.Result.Text))
					part.Result = &result
				}
				parts[j] = part
			}
			message.Parts = parts
		}
		short = append(short, message)
	}
	return short
}

// prompts tells whether a message is a person's: it holds no results.
func prompts(message model.Message) bool {
	if message.Role != model.User {
		return false
	}
	for _, part := range message.Parts {
		if part.Result != nil {
			return false
		}
	}
	return true
}
