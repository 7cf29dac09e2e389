package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"image"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// performed is the answer to a batch of actions.
type performed struct {
	Dialect   string
	Results   []json.RawMessage
	Completed int
	Cursor    struct{ X, Y int }
	Display   size
}

type size struct {
	Width  int `json:"width"`
	Height int `json:"height"`
}

// vectors is a file of the vendors' vocabularies: what a model says, and what it means.
type vectors struct {
	Display size
	Vectors []struct {
		Name      string
		Dialect   string
		Display   size
		Announced size
		Input     json.RawMessage
		Want      struct {
			Dialect string
			Calls   []struct {
				Name   string
				Steps  []meant
				Safety *struct{ Decision string }
			}
		}
	}
}

// meant is a step of what is meant.
type meant struct {
	Act struct {
		Click *struct {
			X, Y      *int
			Button    string
			Count     int
			Modifiers []string
			Action    string
		}
		Move *struct{ X, Y int }
		Drag *struct {
			StartX, StartY, EndX, EndY *int
			Path                       []struct{ X, Y int }
			Button                     string
		}
		Scroll *struct {
			X, Y           *int
			Direction      string
			Amount         *int
			DeltaX, DeltaY int
		}
		Type  *struct{ Text string }
		Press *struct {
			Keys           []string
			Repeat, HoldMs int
			Action         string
		}
	}
	Pause string
	Exec  string
}

// effect is what a window has to be told of: the presses and releases of buttons, and how many keys
// were pressed that are no modifiers. A place that is not known beforehand is -1.
type effect struct {
	buttons []event
	keys    int
	// more says that there can be more keys: a key that is held repeats. Fewer says that there can be
	// fewer: the window manager keeps some combinations for itself.
	more, fewer bool
	held        bool         // something stays pressed
	down        map[int]bool // buttons that do
}

func (e *effect) button(kind string, button int, x, y *int) {
	one := event{Type: kind, Button: button, X: -1, Y: -1}
	if x != nil {
		one.X, one.Y = *x, *y
	}
	e.buttons = append(e.buttons, one)
}

// windowManagers are combinations that never reach an application under XFCE.
var windowManagers = map[string]bool{"alt+tab": true, "ctrl+escape": true}

var modifierNames = map[string]bool{"shift": true, "ctrl": true, "control": true, "alt": true, "super": true, "meta": true}

func (e *effect) add(s meant) {
	a := s.Act
	switch {
	case a.Click != nil:
		c := a.Click
		e.held = e.held || c.Action == "down"
		number := buttonNumber[c.Button]
		for range max(1, c.Count) {
			if c.Action != "up" {
				e.button("press", number, c.X, c.Y)
			}
			// The X server tells nobody of the release of a button that is not pressed.
			if c.Action != "down" && (c.Action != "up" || e.down[number]) {
				e.button("release", number, c.X, c.Y)
			}
		}
		if e.down == nil {
			e.down = make(map[int]bool)
		}
		e.down[number] = c.Action == "down"
	case a.Drag != nil:
		d := a.Drag
		if n := len(d.Path); n > 0 {
			d.StartX, d.StartY, d.EndX, d.EndY = &d.Path[0].X, &d.Path[0].Y, &d.Path[n-1].X, &d.Path[n-1].Y
		}
		e.button("press", buttonNumber[d.Button], d.StartX, d.StartY)
		e.button("release", buttonNumber[d.Button], d.EndX, d.EndY)
	case a.Scroll != nil:
		c := a.Scroll
		amount := 3
		if c.Amount != nil {
			amount = *c.Amount
		}
		notches := map[int]int{}
		switch c.Direction {
		case "up":
			notches[4] = amount
		case "down":
			notches[5] = amount
		case "left":
			notches[6] = amount
		case "right":
			notches[7] = amount
		}
		for button, n := range map[int]int{4: -c.DeltaY, 5: c.DeltaY, 6: -c.DeltaX, 7: c.DeltaX} {
			if c.Direction == "" && n > 0 {
				notches[button] = n
			}
		}
		for button := 4; button <= 7; button++ {
			for range notches[button] {
				e.button("press", button, c.X, c.Y)
				e.button("release", button, c.X, c.Y)
			}
		}
	case a.Type != nil:
		e.keys += utf8.RuneCountInString(a.Type.Text)
	case a.Press != nil:
		e.held = e.held || a.Press.Action == "down"
		if a.Press.Action == "up" {
			return
		}
		for _, combination := range a.Press.Keys {
			name := strings.ToLower(combination)
			if windowManagers[name] {
				e.fewer = true
			}
			if !modifierNames[name] {
				e.keys += max(1, a.Press.Repeat)
			}
			e.more = e.more || a.Press.HoldMs > 0 || a.Press.Action == "down"
		}
	}
}

// check compares with what the window was told. placed says whether places are those of the display.
func (e *effect) check(t *testing.T, all []event, placed bool) {
	t.Helper()
	// Scrolling in two directions has no order.
	count := func(list []event) map[string]int {
		m := map[string]int{}
		for _, b := range list {
			m[fmt.Sprint(b.Type, b.Button)]++
		}
		return m
	}
	got := buttonEvents(all)
	if fmt.Sprint(count(got)) != fmt.Sprint(count(e.buttons)) {
		t.Errorf("buttons: %v, not %v", count(got), count(e.buttons))
	} else if placed {
		for i, want := range e.buttons {
			if want.Button < 4 || want.Button > 7 {
				if got[i].Type != want.Type || got[i].Button != want.Button {
					t.Errorf("event %d is a %s of button %d, not a %s of %d", i, got[i].Type, got[i].Button, want.Type, want.Button)
				}
			}
			if want.X >= 0 && (got[i].X != want.X || got[i].Y != want.Y) {
				t.Errorf("event %d (button %d) is at %d,%d, not at %d,%d", i, want.Button, got[i].X, got[i].Y, want.X, want.Y)
			}
		}
	}
	keys := 0
	for _, event := range all {
		if event.Type == "keypress" && (event.Keysym < 0xffe1 || event.Keysym > 0xffee) && event.Keysym != 0xfe03 {
			keys++
		}
	}
	if keys < e.keys && !e.fewer || keys > e.keys && !e.more {
		t.Errorf("%d keys were pressed, not %d", keys, e.keys)
	}
}

// pictureOf is the picture in a result, in whichever form; nil when there is none.
func pictureOf(t *testing.T, raw json.RawMessage) image.Image {
	t.Helper()
	var found string
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			for _, member := range v {
				walk(member)
			}
		case []any:
			for _, member := range v {
				walk(member)
			}
		case string:
			text := v[strings.IndexByte(v, ',')+1:]
			if strings.HasPrefix(text, "iVBORw0KGgo") {
				found = text
			}
		}
	}
	walk(decode[any](t, raw))
	if found == "" {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(found)
	if err != nil {
		t.Fatal(err)
	}
	return decodePicture(t, "image/png", data)
}

// What a part of the display looks like is shown pixel by pixel, whatever size was announced.
func TestActionsZoom(t *testing.T) {
	g := shared(t)
	width, height := g.display(t)
	want := g.paint(t, 6)
	eventually(t, patience, func() error { return differs(want, g.screenshot(t, "?cursor=false"), 0) })
	g.act(t, "move", map[string]any{"x": width - 1, "y": height - 1}) // out of the way
	r := g.call(t, http.MethodPost, g.path("actions"), map[string]any{
		"display": size{width / 2, height / 2},
		"actions": json.RawMessage(`[{"action":"zoom","region":[100,50,300,150]},{"action":"screenshot"}]`),
	})
	got := decode[performed](t, r.body)
	if err := differs(want.SubImage(image.Rect(200, 100, 600, 300)), pictureOf(t, got.Results[0]), 0); err != nil {
		t.Error(err)
	}
	if b := pictureOf(t, got.Results[1]).Bounds(); b.Dx() != width/2 || b.Dy() != height/2 {
		t.Errorf("the display is shown as %v", b.Size())
	}
}

// What cannot be done is refused by name, or ends the batch where it stands.
func TestActionsThatFail(t *testing.T) {
	g := shared(t)
	screen := g.events(t, "")
	for name, body := range map[string]string{
		"bureau":    `[{"type":"click","x":5,"y":5},{"type":"fly"}]`,
		"anthropic": `[{"action":"left_click","coordinate":[5,5]},{"action":"fly"}]`,
		"openai":    `{"type":"computer_call","call_id":"c","actions":[{"type":"click","button":"left","x":5,"y":5},{"type":"fly"}]}`,
		"gemini":    `[{"name":"click_at","args":{"x":5,"y":5}},{"name":"fly","args":{}}]`,
	} {
		r, err := g.send(t.Context(), http.MethodPost, g.path("actions"), []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, r, http.StatusBadRequest, "action 1", "fly", name)
	}
	if all := screen.collect(t); len(buttonEvents(all)) != 0 {
		t.Errorf("something was done all the same: %+v", all)
	}
	r, err := g.send(t.Context(), http.MethodPost, g.path("actions"),
		[]byte(`[{"action":"left_click","coordinate":[5,5]},{"action":"key","text":"NoSuchKey"},{"action":"left_click","coordinate":[9,9]}]`))
	if err != nil {
		t.Fatal(err)
	}
	wantProblem(t, r, http.StatusBadRequest, "action 1", "anthropic", "NoSuchKey")
	wantClicks(t, screen.collect(t), 1, 1, 5, 5, 0)
	p := decode[struct {
		Index, Completed int
		Results          []json.RawMessage
	}](t, r.body)
	if p.Index != 1 || p.Completed != 1 || len(p.Results) != 2 || !bytes.Contains(p.Results[1], []byte(`"is_error":true`)) {
		t.Errorf("got %.500s", r.body)
	}
}

// The clipboard, the windows and the size of the display are those of the session.
func TestSession(t *testing.T) {
	g := shared(t)
	t.Run("clipboard", func(t *testing.T) {
		for _, text := range []string{"Grüße, 世界 👋\n\ttab", ""} {
			g.call(t, http.MethodPut, g.path("clipboard"), map[string]string{"text": text})
			if got := decode[struct{ Text string }](t, g.call(t, http.MethodGet, g.path("clipboard"), nil).body); got.Text != text {
				t.Errorf("got %q, not %q", got.Text, text)
			}
		}
	})
	t.Run("windows", func(t *testing.T) {
		// What the test before has closed may take its time to go.
		eventually(t, time.Minute, func() error {
			list := decode[[]window](t, g.call(t, http.MethodGet, g.path("windows"), nil).body)
			if own := g.windows(t); len(list) != len(own) {
				return fmt.Errorf("%d windows are listed, and there are %d", len(list), len(own))
			}
			return nil
		})
		r, err := g.send(t.Context(), http.MethodDelete, g.path("windows/1"), nil)
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, r, http.StatusNotFound)
	})
	t.Run("display", func(t *testing.T) {
		width, height := g.display(t)
		back := size{width, height}
		defer func() { g.call(t, http.MethodPatch, g.path("display"), back) }()
		smaller := size{1024, 768}
		if got := decode[size](t, g.call(t, http.MethodPatch, g.path("display"), smaller).body); got != smaller {
			t.Errorf("the answer says %v", got)
		}
		if width, height := g.display(t); width != smaller.Width || height != smaller.Height {
			t.Errorf("the X server says %dx%d", width, height)
		}
		eventually(t, patience, func() error {
			if b := g.screenshot(t, "").Bounds(); b.Dx() != smaller.Width || b.Dy() != smaller.Height {
				return fmt.Errorf("the picture is %v", b.Size())
			}
			return nil
		})
	})
}

// Every action that the vendors' models can ask for, with every optional member and both spellings
// of keys, does on a real desktop what it means, and is answered in the vendor's form.
func TestActionsInEveryVendorsWords(t *testing.T) {
	g := shared(t)
	files, err := filepath.Glob("../desktop/dialect/testdata/*.json")
	if err != nil || len(files) < 8 {
		t.Fatalf("the vectors: %v, %v", files, err)
	}
	width, height := g.display(t)
	screen := g.events(t, "")
	var last []func() // what may take the keyboard away from the window
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		suite := decode[vectors](t, data)
		for _, v := range suite.Vectors {
			if v.Display == (size{}) {
				v.Display = suite.Display
			}
			var want effect
			runs := false
			var pauses time.Duration
			for _, call := range v.Want.Calls {
				for _, step := range call.Steps {
					want.add(step)
					runs = runs || step.Exec != ""
					if step.Pause != "" {
						pause, err := time.ParseDuration(step.Pause)
						if err != nil {
							t.Fatal(err)
						}
						pauses += pause
					}
				}
			}
			if runs || pauses > 10*time.Second {
				continue // programs are the next test's
			}
			one := func(t *testing.T) {
				// Settling has tests of its own.
				request := map[string]any{"actions": v.Input, "safetyAcknowledged": true, "settleMs": 1}
				if v.Dialect != "" {
					request["dialect"] = v.Dialect
				}
				placed := v.Display == (size{width, height})
				shown := size{width, height}
				if v.Announced != (size{}) {
					request["display"], shown = v.Announced, v.Announced
				} else if !placed {
					request["display"], shown = v.Display, v.Display
				}
				got := decode[performed](t, g.call(t, http.MethodPost, g.path("actions"), request).body)
				all, pointer := screen.collectAll(t)
				want.check(t, all, placed)
				if got.Dialect != v.Want.Dialect || len(got.Results) < len(v.Want.Calls) || got.Display != (size{width, height}) {
					t.Errorf("answered as %s with %d results for %d calls, of a display of %v", got.Dialect, len(got.Results), len(v.Want.Calls), got.Display)
				}
				if got.Dialect == "openai" || got.Dialect == "gemini" {
					m := pictureOf(t, got.Results[0])
					if m == nil {
						t.Fatalf("the model is shown nothing: %.300s", got.Results[0])
					}
					if b := m.Bounds(); b.Dx() != shown.Width || b.Dy() != shown.Height {
						t.Errorf("the model is shown %v of a display of %v", b.Size(), shown)
					}
				}
				if pointer.X != got.Cursor.X || pointer.Y != got.Cursor.Y {
					t.Errorf("the answer says %v, the pointer is at %d,%d", got.Cursor, pointer.X, pointer.Y)
				}
				if want.held { // as was asked
					release := []map[string]string{{"type": "key", "key": "shift", "action": "up"}}
					for button := range buttonNumber {
						release = append(release, map[string]string{"type": "click", "button": button, "action": "up"})
					}
					g.call(t, http.MethodPost, g.path("actions"), release)
					screen.collect(t)
				}
			}
			name := strings.TrimSuffix(filepath.Base(file), ".json") + " " + v.Name
			if want.fewer {
				last = append(last, func() { t.Run(name, one) })
				continue
			}
			t.Run(name, one)
		}
	}
	for _, run := range last {
		run()
	}
	g.wantReleased(t)
}
