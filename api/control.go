package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"bureau/desktop"
)

// After is a part of every input action: what to wait for after it, and what to show.
type After struct {
	SettleMs   int     `json:"settleMs,omitempty" minimum:"0" maximum:"60000" doc:"Answer when the display has come to rest, at most so many milliseconds later; settleMs of the screenshot goes before it"`
	Screenshot *Wanted `json:"screenshot,omitempty" doc:"true, or how it is wanted: answer with the picture after the action, too"`
}

func (a After) wanted() *Picture {
	if a.Screenshot == nil {
		return nil
	}
	return a.Screenshot.how
}

func (a After) settle() time.Duration {
	if wanted := a.wanted(); wanted != nil && wanted.SettleMs > 0 {
		return milliseconds(wanted.SettleMs)
	}
	return milliseconds(a.SettleMs)
}

// The bodies of the input actions: the domain's actions, and the picture.
type (
	ClickRequest struct {
		desktop.Click
		After
	}
	MoveRequest struct {
		desktop.Move
		After
	}
	DragRequest struct {
		desktop.Drag
		After
	}
	ScrollRequest struct {
		desktop.Scroll
		After
	}
	TypeRequest struct {
		desktop.Type
		After
	}
	KeyRequest struct {
		Key    Keys `json:"key" doc:"A key or a combination such as ctrl+shift+t, or a list of them pressed in order; names are X11's (Return), the DOM's (ArrowUp) or upper-case ones (ENTER), in any case"`
		Repeat int  `json:"repeat,omitempty" minimum:"1" maximum:"100" default:"1" doc:"How often the whole list is pressed"`
		HoldMs int  `json:"holdMs,omitempty" minimum:"0" maximum:"60000" doc:"How long each combination is held"`
		After
	}
)

// Keys are key combinations: one string, or a list of them.
type Keys []string

// UnmarshalJSON takes both forms.
func (k *Keys) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil && !bytes.Equal(data, []byte("null")) {
		*k = Keys{one}
	} else if json.Unmarshal(data, (*[]string)(k)) != nil {
		return fmt.Errorf("key: expected a string or a list of strings")
	}
	if len(*k) == 0 || len(*k) > desktop.MaxKeys {
		return fmt.Errorf("key: expected 1 to %d combinations", desktop.MaxKeys)
	}
	for _, combination := range *k {
		if combination == "" || len(combination) > 256 {
			return fmt.Errorf("key: a combination has 1 to 256 characters")
		}
	}
	return nil
}

// MarshalJSON writes the short form where there is one.
func (k Keys) MarshalJSON() ([]byte, error) {
	if len(k) == 1 {
		return json.Marshal(k[0])
	}
	return json.Marshal([]string(k))
}

// Schema documents both forms; see Wanted.Schema.
func (*Keys) Schema(huma.Registry) *huma.Schema {
	one, most, long := 1, desktop.MaxKeys, 256
	combination := &huma.Schema{Type: huma.TypeString, MinLength: &one, MaxLength: &long}
	return &huma.Schema{
		Examples: []any{"ctrl+a"},
		Extensions: map[string]any{"oneOf": []*huma.Schema{
			combination, {Type: huma.TypeArray, Items: combination, MinItems: &one, MaxItems: &most},
		}},
	}
}

// Acted is the answer to an input action.
type Acted struct {
	desktop.Acted
	Rest
	Screenshot *Screenshot `json:"screenshot,omitempty" doc:"The display after the action, when it was asked for"`
}

// Rest is how the waiting for the display to come to rest ended, when that was asked for.
type Rest struct {
	Settled  *bool    `json:"settled,omitempty" doc:"Whether the display had come to rest in time"`
	WaitedMs *float64 `json:"waitedMs,omitempty" doc:"How long that was waited for, in milliseconds"`
	StillMs  *float64 `json:"stillMs,omitempty" doc:"How long the display had been still when the answer was ready, in milliseconds; absent where that is not known"`
}

// restOf is taken when all else of the answer is there.
func restOf(sight desktop.Sight) Rest {
	waited := inMs(sight.Waited)
	rest := Rest{Settled: &sight.Settled, WaitedMs: &waited}
	if !sight.Changed.IsZero() {
		still := inMs(time.Since(sight.Changed))
		rest.StillMs = &still
	}
	return rest
}

type actedAnswer struct {
	Body Acted
}

// bodyInput is the input of an input action whose body is required.
type bodyInput[B any] struct {
	DesktopPath
	Body B
}

// optionalInput is that of one which may have none.
type optionalInput[B any] struct {
	DesktopPath
	Body *B
}

func (s *Server) controlRoutes() {
	operation := func(name, summary, description string) huma.Operation {
		return huma.Operation{
			OperationID: name, Method: http.MethodPost, Path: desktopPath + "/" + name, Tags: []string{tagControl},
			Summary: summary, Description: description, Errors: []int{http.StatusConflict},
		}
	}

	register(s, needs(desktop.CanControl), operation("click", "Click",
		"At x, y, or where the pointer is. Outside the display is 400 with its size."),
		func(ctx context.Context, in *optionalInput[ClickRequest]) (*actedAnswer, error) {
			body := valueOf(in.Body)
			if err := pair("x", "y", body.X, body.Y); err != nil {
				return nil, err
			}
			if body.Double {
				if body.Count > 2 {
					return nil, desktop.Errorf(desktop.Invalid, "double: contradicts count %d", body.Count)
				}
				body.Count = 2
			}
			return s.act(ctx, in.ID, desktop.Action{Click: &body.Click}, body.After)
		})

	register(s, needs(desktop.CanControl), operation("move", "Move the pointer", ""),
		func(ctx context.Context, in *bodyInput[MoveRequest]) (*actedAnswer, error) {
			return s.act(ctx, in.ID, desktop.Action{Move: &in.Body.Move}, in.Body.After)
		})

	register(s, needs(desktop.CanControl), operation("drag", "Drag",
		"From a start to an end (startX, startY, endX, endY), or along a path."),
		func(ctx context.Context, in *bodyInput[DragRequest]) (*actedAnswer, error) {
			if err := checkDrag(in.Body.Drag); err != nil {
				return nil, err
			}
			return s.act(ctx, in.ID, desktop.Action{Drag: &in.Body.Drag}, in.Body.After)
		})

	register(s, needs(desktop.CanControl), operation("scroll", "Scroll",
		"A direction and an amount of wheel notches, or signed deltas."),
		func(ctx context.Context, in *bodyInput[ScrollRequest]) (*actedAnswer, error) {
			if err := checkScroll(in.Body.Scroll); err != nil {
				return nil, err
			}
			return s.act(ctx, in.ID, desktop.Action{Scroll: &in.Body.Scroll}, in.Body.After)
		})

	typing := operation("type", "Type text", "As a person would, whatever the keyboard layout.")
	typing.MaxBodyBytes = largeBodyLimit
	register(s, needs(desktop.CanControl), typing,
		func(ctx context.Context, in *bodyInput[TypeRequest]) (*actedAnswer, error) {
			return s.act(ctx, in.ID, desktop.Action{Type: &in.Body.Type}, in.Body.After)
		})

	register(s, needs(desktop.CanControl), operation("key", "Press keys", "One key or combination, or several in order."),
		func(ctx context.Context, in *bodyInput[KeyRequest]) (*actedAnswer, error) {
			press := &desktop.Press{Keys: in.Body.Key, Repeat: in.Body.Repeat, HoldMs: in.Body.HoldMs}
			return s.act(ctx, in.ID, desktop.Action{Press: press}, in.Body.After)
		})
}

// act does one action, waits for the display to come to rest and takes the picture, as is wanted.
func (s *Server) act(ctx context.Context, id string, action desktop.Action, after After) (*actedAnswer, error) {
	caller, wanted, settle := callerOf(ctx), after.wanted(), after.settle()
	countInput(ctx, action)
	if wanted == nil && settle == 0 {
		acted, err := s.desktops.Act(ctx, caller, id, action)
		return &actedAnswer{Acted{Acted: acted}}, err
	}
	if wanted != nil && wanted.Region != (Region{}) {
		// A region outside the display is the caller's fault, to be found before anything is done.
		sight, err := s.desktops.See(ctx, caller, id, 0)
		if err != nil {
			return nil, err
		}
		if _, err := wanted.options(sight.Frame.Pixels.Bounds()); err != nil {
			return nil, err
		}
	}
	acted, sight, err := s.desktops.ActAndSee(ctx, caller, id, settle, action)
	if acted == nil {
		return nil, err
	}
	if err != nil {
		return nil, afterwards(err)
	}
	answer := &actedAnswer{Acted{Acted: *acted}}
	if wanted != nil {
		if answer.Body.Screenshot, err = s.screenshot(id, sight.Frame, *wanted); err != nil {
			return nil, afterwards(err)
		}
	}
	if settle > 0 {
		answer.Body.Rest = restOf(sight)
	}
	return answer, nil
}

// screenshot is a picture for an answer.
func (s *Server) screenshot(id string, frame *desktop.Frame, how Picture) (*Screenshot, error) {
	options, err := how.options(frame.Pixels.Bounds())
	if err != nil {
		return nil, err
	}
	image, err := s.album.picture(id, frame, how, options)
	if err != nil {
		return nil, err
	}
	return &Screenshot{ContentType: image.ContentType, Width: image.Width, Height: image.Height, Data: image.Bytes}, nil
}

// afterwards tells that the action was done all the same, so that nobody does it twice.
func afterwards(err error) error {
	code := desktop.CodeOf(err)
	if code == desktop.Internal {
		return fmt.Errorf("take the picture after an action: %w", err)
	}
	failure := desktop.Errorf(code, "the action was done, but there is no picture: %w", err)
	failure.Details = map[string]any{"acted": true}
	return failure
}

// pair checks that two coordinates are both there or both absent.
func pair(nameX, nameY string, x, y *int) error {
	if (x == nil) != (y == nil) {
		return desktop.Errorf(desktop.Invalid, "%s and %s go together: give both or neither", nameX, nameY)
	}
	return nil
}

func checkDrag(d desktop.Drag) error {
	ends := 0
	for _, coordinate := range []*int{d.StartX, d.StartY, d.EndX, d.EndY} {
		if coordinate != nil {
			ends++
		}
	}
	switch {
	case len(d.Path) > 0 && ends > 0:
		return desktop.Errorf(desktop.Invalid, "path: give either a path or startX, startY, endX and endY")
	case len(d.Path) == 1:
		return desktop.Errorf(desktop.Invalid, "path: expected two points or more")
	case len(d.Path) == 0 && ends < 4:
		return desktop.Errorf(desktop.Invalid, "expected startX, startY, endX and endY, or a path")
	}
	return nil
}

func checkScroll(c desktop.Scroll) error {
	if err := pair("x", "y", c.X, c.Y); err != nil {
		return err
	}
	deltas := c.DeltaX != 0 || c.DeltaY != 0
	switch {
	case deltas && (c.Direction != "" || c.Amount != nil):
		return desktop.Errorf(desktop.Invalid, "direction: give either a direction with an amount, or deltaX and deltaY")
	case !deltas && c.Direction == "":
		return desktop.Errorf(desktop.Invalid, "direction: expected a direction, or deltaX or deltaY other than 0")
	}
	return nil
}
