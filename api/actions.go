package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
	"bureau/desktop/dialect"
	"bureau/desktop/picture"
)

// ActionsRequest is the body of the route actions. A caller who has nothing to say but the actions
// sends these alone: one action object, or an array of them.
type ActionsRequest struct {
	Actions            Actions       `json:"actions"`
	Dialect            dialect.Name  `json:"dialect,omitempty" enum:"auto,bureau,anthropic,openai,gemini" default:"auto" doc:"Whose action objects they are"`
	Display            *desktop.Size `json:"display,omitempty" doc:"The display's size as it was announced to the model: coordinates are in its pixels, and pictures have it. The real size by default"`
	SettleMs           *int          `json:"settleMs,omitempty" minimum:"0" maximum:"60000" doc:"How long each picture waits at most for the display to come to rest: 2000 by default for a vendor's actions, 0 for bureau's own. When it is given the answer waits, too"`
	Format             string        `json:"format,omitempty" enum:"png,jpeg,webp" default:"png" doc:"Of the pictures in the results"`
	Quality            int           `json:"quality,omitempty" minimum:"1" maximum:"100" doc:"Of these as JPEGs"`
	Screenshot         *Wanted       `json:"screenshot,omitempty" doc:"true, or how it is wanted: answer with the picture after the last action, too"`
	SafetyAcknowledged bool          `json:"safetyAcknowledged,omitempty" doc:"A person has agreed to what the model's vendor asks confirmation for"`
}

// Actions are action objects: one, or an array of them, in JSON.
type Actions []byte

// MarshalJSON and UnmarshalJSON leave them as they are.
func (a Actions) MarshalJSON() ([]byte, error) { return json.RawMessage(a).MarshalJSON() }

// UnmarshalJSON keeps a copy.
func (a *Actions) UnmarshalJSON(data []byte) error {
	*a = bytes.Clone(data)
	return nil
}

// Schema documents both forms; package dialect, which knows the vocabularies, checks them.
func (*Actions) Schema(huma.Registry) *huma.Schema {
	action := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true,
		Description: "An action object of bureau's own, or as Anthropic's, OpenAI's or Gemini's models give it"}
	one, most := 1, dialect.MaxActions
	return &huma.Schema{
		Description: "One action object or several, which are done in this order",
		Examples:    []any{[]any{map[string]any{"type": "click", "x": 640, "y": 400}, map[string]any{"type": "type", "text": "hello"}}},
		Extensions: map[string]any{"anyOf": []*huma.Schema{
			action, {Type: huma.TypeArray, Items: action, MinItems: &one, MaxItems: &most},
		}},
	}
}

// actionsEnvelope has the fields of an ActionsRequest without its methods.
type actionsEnvelope ActionsRequest

// UnmarshalJSON takes the whole request or the actions alone. An object is the whole request when it
// has actions and nothing that an action object is known by.
func (q *ActionsRequest) UnmarshalJSON(data []byte) error {
	*q = ActionsRequest{}
	var members map[string]json.RawMessage
	if json.Unmarshal(data, &members) != nil || members["actions"] == nil || slices.ContainsFunc(
		[]string{"type", "action", "name", "functionCall", "function_call"}, func(name string) bool { return members[name] != nil }) {
		return q.Actions.UnmarshalJSON(data)
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode((*actionsEnvelope)(q)); err != nil {
		if text, unknown := strings.CutPrefix(err.Error(), "json: unknown field "); unknown {
			return fmt.Errorf("unknown field %s", text)
		}
		return err
	}
	return q.check()
}

// check is for what the schema, which says that any object may be an action, lets through.
func (q *ActionsRequest) check() error {
	how := Picture{Format: q.Format, Quality: q.Quality}
	if how.Format == "" {
		how.Format = "png"
	}
	if err := how.check(); err != nil {
		return err
	}
	if q.Dialect != "" && !slices.Contains(dialect.Names, q.Dialect) {
		return fmt.Errorf("dialect: expected one of %v", dialect.Names)
	}
	if q.SettleMs != nil && (*q.SettleMs < 0 || *q.SettleMs > maxSettleMs) {
		return fmt.Errorf("settleMs: expected a number from 0 to %d", maxSettleMs)
	}
	if d := q.Display; d != nil && (d.Width < 1 || d.Height < 1 || d.Width > desktop.MaxDisplaySide || d.Height > desktop.MaxDisplaySide || d.Width*d.Height > picture.MaxPixels) {
		return fmt.Errorf("display: expected a width and a height from 1 to %d, and at most %d pixels", desktop.MaxDisplaySide, picture.MaxPixels)
	}
	return nil
}

// Schema documents both forms.
func (*ActionsRequest) Schema(r huma.Registry) *huma.Schema {
	return &huma.Schema{Extensions: map[string]any{"anyOf": []*huma.Schema{
		r.Schema(reflect.TypeFor[actionsEnvelope](), true, ""), new(Actions).Schema(r),
	}}}
}

// Result is what came of an action in the form that its vendor expects, in JSON.
type Result []byte

// MarshalJSON leaves it as it is.
func (r Result) MarshalJSON() ([]byte, error) { return json.RawMessage(r).MarshalJSON() }

// UnmarshalJSON keeps a copy.
func (r *Result) UnmarshalJSON(data []byte) error {
	*r = bytes.Clone(data)
	return nil
}

// Schema says no more than that it is an object: the vendors define the rest.
func (*Result) Schema(huma.Registry) *huma.Schema {
	return &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}
}

// ActionsDone is the answer when all actions have been done.
type ActionsDone struct {
	Dialect   dialect.Name  `json:"dialect" enum:"bureau,anthropic,openai,gemini" doc:"Whose action objects they were"`
	Results   []Result      `json:"results" doc:"What came of each call, to be given to the model as it is: Anthropic's tool_result, OpenAI's computer_call_output, Gemini's functionResponse, or bureau's own object with text, cursor and picture where there are any"`
	Completed int           `json:"completed" doc:"How many actions were done"`
	Cursor    desktop.Point `json:"cursor" doc:"Where the pointer was after the last input, in real pixels"`
	Display   desktop.Size  `json:"display" doc:"The display's real size in pixels"`
	TookMs    float64       `json:"tookMs" doc:"How long all of it took, in milliseconds"`
	Rest
	Screenshot *Screenshot `json:"screenshot,omitempty" doc:"The display after the last action, when it was asked for"`
}

func (s *Server) actionsRoutes() {
	type answer struct {
		Body ActionsDone
	}
	register(s, needs(desktop.CanControl), huma.Operation{
		OperationID: "actions", Method: http.MethodPost, Path: desktopPath + "/actions", Tags: []string{tagControl},
		Summary:      "Do several actions, in any model's words",
		MaxBodyBytes: dialect.MaxBytes, Errors: []int{http.StatusConflict},
		Description: "Takes action objects in order and stops at the first error. They are bureau's own — the bodies of the other routes " +
			"with a `type` that is the route's name, and `wait` (`ms`), `screenshot` (`region`, `settleMs`) and `cursor` — or, " +
			"unchanged, those of Anthropic's computer tool, of OpenAI's `computer` tool (with or without the `computer_call` around " +
			"them) and of Gemini's computer use. The results are what each vendor expects to be given back, with pictures where it " +
			"expects those.\n\n" +
			"Everything but the names of keys is checked before the first action is done. The input of one call goes to the desktop as a " +
			"whole: no other request's comes between.\n\n" +
			"A failure is a problem document that tells the `index` of the action, its name as `action`, the `dialect`, how many actions " +
			"were `completed`, and the `results` so far; the last of them says in the vendor's form what went wrong, for the model to read. " +
			"A call which the vendor wants a person to confirm is a 409 with its `safety`, and nothing is done, until the request says " +
			"`safetyAcknowledged`; what the vendor blocks is not done at all.",
	}, func(ctx context.Context, in *bodyInput[ActionsRequest]) (*answer, error) {
		done, err := s.perform(ctx, in.ID, &in.Body)
		if err != nil {
			return nil, err
		}
		return &answer{*done}, nil
	})
}
