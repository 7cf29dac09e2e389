package dialect

import (
	"bytes"
	"encoding/json"
	"image"
	"time"

	"bureau/desktop"
)

// Name is the name of a vocabulary.
type Name string

// The dialects.
const (
	Auto      Name = "auto" // found out; see the package's documentation
	Bureau    Name = "bureau"
	Anthropic Name = "anthropic"
	OpenAI    Name = "openai"
	Gemini    Name = "gemini"
)

// Names are the dialects that Decode takes.
var Names = []Name{Auto, Bureau, Anthropic, OpenAI, Gemini}

// Limits of one request.
const (
	MaxActions = 100
	MaxBytes   = 8 << 20
	MaxPause   = 5 * time.Minute  // of one wait
	MaxPauses  = 10 * time.Minute // of all waits, held keys and slow drags together
	MaxURL     = 8192             // bytes
)

// Batch is a request in bureau's words.
type Batch struct {
	Dialect Name
	Calls   []Call

	names []string // of the actions
}

// ActionName is what the model called an action, by its index over the whole request.
func (b *Batch) ActionName(index int) string {
	if index < 0 || index >= len(b.names) {
		return ""
	}
	return shorten(b.names[index])
}

// Call is what the vendor expects one result for: an action, or several that came as one.
type Call struct {
	// Action is the index of its first action, counted over the whole request.
	Action int
	// Name is the action as the model called it, or the tool when it holds several.
	Name string
	// ID is the vendor's id of the call; empty when the action came without its surroundings.
	ID    string
	Steps []Step
	// NeedsPicture says that the result must show the display as it is after the last step, which
	// is none that looks.
	NeedsPicture bool
	// Safety is set when the vendor wants a person to agree before the steps are done.
	Safety *Safety

	dialect Name
	form    form
	toolset string
	mapping Mapping
}

// Inputs are the actions that steps begin with, up to the first step that is something else: what can
// be done at once.
func Inputs(steps []Step) []desktop.Action {
	var inputs []desktop.Action
	for _, step := range steps {
		if step.Act == nil {
			break
		}
		inputs = append(inputs, *step.Act)
	}
	return inputs
}

// Safety is a vendor's doubt about a call.
type Safety struct {
	Decision string   `json:"decision"` // such as "require_confirmation" or "block"
	Reasons  []string `json:"reasons,omitempty"`

	checks json.RawMessage // what an acknowledgement repeats
}

// Step is one thing to do: exactly one of its fields besides Action is set.
type Step struct {
	// Action is the index of the action that it came from, counted over the whole request.
	Action int

	Act    *desktop.Action
	Pause  time.Duration
	Look   *Look
	Cursor bool          // ask where the pointer is
	Exec   *desktop.Exec // a command, which has failed when its exit code is not zero
}

// Look is a picture to take.
type Look struct {
	// Region is a part of the display, in real pixels; nil is all of it. Whoever zooms in wants to see
	// every pixel of it: it is scaled down only where it exceeds the model's budget itself.
	Region *image.Rectangle
	// SettleMs is how long to wait for the display to come to rest, at most; nil leaves it to the
	// request.
	SettleMs *int
}

// Decode translates a request. Its errors are desktop.Invalid or desktop.TooLarge, and name the
// action, the dialect and the index, which are in Details too.
func Decode(data []byte, dialect Name, mapping Mapping) (*Batch, error) {
	if len(data) > MaxBytes {
		return nil, desktop.Errorf(desktop.TooLarge, "the actions are larger than %d bytes", MaxBytes)
	}
	mapping, err := mapping.check()
	if err != nil {
		return nil, err
	}
	list, err := objects(data)
	if err != nil {
		return nil, err
	}
	items, err := unwrap(list, dialect)
	if err != nil {
		return nil, err
	}
	dialect, err = agree(items, dialect)
	if err != nil {
		return nil, err
	}
	if dialect == Gemini {
		mapping.Announced = geminiGrid
	}
	batch := &Batch{Dialect: dialect, Calls: make([]Call, 0, len(items))}
	var pauses time.Duration
	for _, item := range items {
		call := Call{
			Action: item.index, Name: item.name, ID: item.id, Safety: item.safety,
			dialect: dialect, form: item.form, toolset: item.toolset, mapping: mapping,
		}
		for i, action := range item.actions {
			reader := &object{fields: action.fields, mapping: mapping}
			steps := translate(reader, dialect, action.name)
			if reader.problem == nil {
				reader.finish()
			}
			for j := range steps {
				steps[j].Action = item.index + i
				if pauses += steps[j].time(); pauses > MaxPauses {
					reader.fail("the waits of the request add up to more than %v", MaxPauses)
				}
			}
			if reader.problem != nil {
				return nil, reader.problem.located(item.index+i, dialect, action.name)
			}
			if reader.safety != nil {
				call.Safety = reader.safety
			}
			call.Steps = append(call.Steps, steps...)
			batch.names = append(batch.names, action.name)
		}
		call.NeedsPicture = needsPicture(dialect, call.Steps)
		batch.Calls = append(batch.Calls, call)
	}
	return batch, nil
}

// translate makes steps of one action; what is wrong with it is the reader's problem.
func translate(o *object, dialect Name, action string) []Step {
	switch dialect {
	case Anthropic:
		return o.anthropic(action)
	case OpenAI:
		return o.openai(action)
	case Gemini:
		return o.gemini(action)
	default:
		return o.bureau(action)
	}
}

// objects takes a request apart: an array of objects, or one.
func objects(data []byte) ([]map[string]json.RawMessage, error) {
	data = bytes.TrimSpace(data)
	if len(data) > 0 && data[0] == '{' {
		data = append(append([]byte{'['}, data...), ']')
	}
	var raw []json.RawMessage
	if err := json.Unmarshal(data, &raw); err != nil {
		return nil, desktop.Errorf(desktop.Invalid, "the actions are not a JSON array of objects, or one object: %w", err)
	}
	switch {
	case len(raw) == 0:
		return nil, desktop.Errorf(desktop.Invalid, "there is no action")
	case len(raw) > MaxActions:
		return nil, desktop.Errorf(desktop.TooLarge, "there are more than %d actions", MaxActions)
	}
	list := make([]map[string]json.RawMessage, len(raw))
	for i := range raw {
		if list[i] = members(raw[i]); list[i] == nil {
			return nil, invalid(i, "is not a JSON object")
		}
	}
	return list, nil
}

// members takes a JSON object apart, nil when it is none.
func members(raw json.RawMessage) map[string]json.RawMessage {
	var m map[string]json.RawMessage
	if json.Unmarshal(raw, &m) != nil {
		return nil
	}
	return m
}

// time is how long a step takes by its own wish.
func (s *Step) time() time.Duration {
	switch {
	case s.Pause > 0:
		return s.Pause
	case s.Act != nil && s.Act.Press != nil:
		p := s.Act.Press
		return time.Duration(max(1, p.Repeat)*len(p.Keys)*p.HoldMs) * time.Millisecond
	case s.Act != nil && s.Act.Drag != nil:
		return time.Duration(s.Act.Drag.DurationMs) * time.Millisecond
	}
	return 0
}

// needsPicture tells whether a vendor wants to see the display after these steps, and does not
// already.
func needsPicture(dialect Name, steps []Step) bool {
	last := steps[len(steps)-1]
	switch dialect {
	case Bureau:
		return false // the request asks for it where it wants one
	case Anthropic:
		return last.Look == nil && !(last.Cursor && len(steps) == 1)
	}
	return last.Look == nil
}
