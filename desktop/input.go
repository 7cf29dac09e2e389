package desktop

// Point is a pixel of the display; 0,0 is the top left one.
type Point struct {
	X int `json:"x"`
	Y int `json:"y"`
}

// Size is a display's, in pixels.
type Size struct {
	Width  int `json:"width"`
	Height int `json:"height"`
}

// Limits of one input request, so that none holds a desktop's input for long.
const (
	MaxTextLength   = 100_000 // characters of one Type
	MaxPathLength   = 10_000  // points of one Drag
	MaxModifiers    = 8
	MaxKeys         = 1_000 // combinations of one Press
	MaxRepeat       = 100
	MaxHoldMs       = 60_000
	MaxDelayMs      = 1_000
	MaxDurationMs   = 60_000
	MaxScrollAmount = 1_000 // notches
	MaxSyncMs       = 10_000
	DefaultSyncMs   = 1_000
)

// Click presses and releases a mouse button. Without X and Y (both or neither) it acts where the
// pointer is.
type Click struct {
	X         *int     `json:"x,omitempty" doc:"Pixels from the left; with y, or neither"`
	Y         *int     `json:"y,omitempty" doc:"Pixels from the top"`
	Button    string   `json:"button,omitempty" enum:"left,middle,right,back,forward" default:"left"`
	Count     int      `json:"count,omitempty" minimum:"1" maximum:"3" default:"1" doc:"2 is a double click, 3 a triple click"`
	Double    bool     `json:"double,omitempty" doc:"The same as count 2"`
	Modifiers []string `json:"modifiers,omitempty" maxItems:"8" doc:"Keys held during the click, such as ctrl or shift"`
	Action    string   `json:"action,omitempty" enum:"click,down,up" default:"click" doc:"down and up press and release the button alone"`
}

// Move puts the pointer on a pixel.
type Move struct {
	X         int      `json:"x" doc:"Pixels from the left"`
	Y         int      `json:"y" doc:"Pixels from the top"`
	Modifiers []string `json:"modifiers,omitempty" maxItems:"8" doc:"Keys held during the movement"`
}

// Drag moves the pointer with a button held, from a start to an end or along a path. Without StartX
// and StartY (both or neither) it begins where the pointer is.
type Drag struct {
	StartX     *int     `json:"startX,omitempty" doc:"Where it begins; with startY, or neither: where the pointer is"`
	StartY     *int     `json:"startY,omitempty"`
	EndX       *int     `json:"endX,omitempty"`
	EndY       *int     `json:"endY,omitempty"`
	Path       []Point  `json:"path,omitempty" maxItems:"10000" doc:"Two points or more, instead of start and end"`
	Button     string   `json:"button,omitempty" enum:"left,middle,right,back,forward" default:"left"`
	Modifiers  []string `json:"modifiers,omitempty" maxItems:"8" doc:"Keys held during the drag"`
	DurationMs int      `json:"durationMs,omitempty" minimum:"0" maximum:"60000" doc:"How long the movement takes; 0 is as fast as the applications can follow"`
}

// Scroll turns the mouse wheel: a direction and an amount, or signed deltas, in notches.
type Scroll struct {
	X         *int     `json:"x,omitempty" doc:"Where to scroll; with y, or neither: where the pointer is"`
	Y         *int     `json:"y,omitempty"`
	Direction string   `json:"direction,omitempty" enum:"up,down,left,right"`
	Amount    *int     `json:"amount,omitempty" minimum:"0" maximum:"1000" doc:"Wheel notches, 3 by default"`
	DeltaX    int      `json:"deltaX,omitempty" minimum:"-1000" maximum:"1000" doc:"Notches to the right, negative to the left"`
	DeltaY    int      `json:"deltaY,omitempty" minimum:"-1000" maximum:"1000" doc:"Notches down, negative up"`
	Modifiers []string `json:"modifiers,omitempty" maxItems:"8" doc:"Keys held while scrolling"`
}

// Type enters text as a person would, whatever the keyboard layout.
type Type struct {
	Text      string `json:"text" maxLength:"100000" doc:"Any Unicode text; newline is Return, tab is Tab"`
	DelayMs   int    `json:"delayMs,omitempty" minimum:"0" maximum:"1000" doc:"Pause after each character"`
	Sensitive bool   `json:"sensitive,omitempty" doc:"Keep the text out of every log"`
}

// Press presses key combinations one after another, such as "ctrl+shift+t" or "Return". Names are
// X11's, the DOM's or upper-case ones, in any case.
type Press struct {
	Keys   []string `json:"keys"`
	Repeat int      `json:"repeat,omitempty"` // times the whole list is pressed; 0 is 1
	HoldMs int      `json:"holdMs,omitempty"` // how long each combination is held
	// Action is "press", the default, or "down" or "up", which press and release the keys alone, as a
	// Click's does with the button: the keys of a "down" stay pressed until an "up" names them.
	// Repeat and HoldMs are for "press".
	Action string `json:"action,omitempty"`
}

// Sync waits until the application that has the focus, and the one under the pointer, have taken in
// all input sent before. It is for the host's own use, to know when a picture is worth taking: an
// application that does not answer within the time is no failure, Acted.Synced tells.
type Sync struct {
	MaxMs int `json:"maxMs,omitempty"` // 0 is DefaultSyncMs
}

// Action is one thing done to a desktop's input: exactly one field is set.
type Action struct {
	Click  *Click  `json:"click,omitempty"`
	Move   *Move   `json:"move,omitempty"`
	Drag   *Drag   `json:"drag,omitempty"`
	Scroll *Scroll `json:"scroll,omitempty"`
	Type   *Type   `json:"type,omitempty"`
	Press  *Press  `json:"press,omitempty"`
	Sync   *Sync   `json:"sync,omitempty"`
}

// Acted is what an action left behind, as the X server tells it.
type Acted struct {
	// Synced says that there was a Sync among the actions and that each was answered in time.
	Synced bool `json:"-"`

	Cursor  Point   `json:"cursor" doc:"Where the pointer is now"`
	Display Size    `json:"display" doc:"The display's size in pixels"`
	TookMs  float64 `json:"tookMs" doc:"Time in the guest, in milliseconds"`
}
