package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
)

// What is wrong with a request is said to its sender in a problem document that names the fault;
// nothing of it reaches the desktop, which answers afterwards.
func TestMalformedRequests(t *testing.T) {
	g := shared(t)
	width, height := g.display(t)
	screen := g.events(t, "")
	size := []string{fmt.Sprint(width), fmt.Sprint(height)}
	huge := bytes.Repeat([]byte(" "), 10<<20)
	copy(huge, `{"text":"x"`)
	huge[len(huge)-1] = '}'

	for _, c := range []struct {
		name, method, route string
		body                any
		status              int
		names               []string
	}{
		{"not JSON", "POST", "click", []byte(`{"x": 1,`), 400, nil},
		{"not an object", "POST", "click", []byte(`[1, 2]`), 400, nil},
		{"no body", "POST", "type", nil, 400, nil},
		{"unknown field", "POST", "click", []byte(`{"x": 1, "y": 2, "colour": "red"}`), 400, []string{"colour"}},
		{"field in other letters", "POST", "click", []byte(`{"X": 1, "y": 2}`), 400, []string{"X"}},
		{"wrong type", "POST", "click", []byte(`{"x": "1", "y": 2}`), 400, []string{"x"}},
		{"half a pixel", "POST", "move", []byte(`{"x": 1.5, "y": 2}`), 400, []string{"x"}},
		{"one coordinate", "POST", "click", []byte(`{"x": 1}`), 400, []string{"y"}},
		{"missing field", "POST", "move", []byte(`{"x": 1}`), 400, []string{"y"}},
		{"right of the display", "POST", "click", map[string]any{"x": width, "y": 0}, 400, size},
		{"below the display", "POST", "move", map[string]any{"x": 0, "y": height}, 400, size},
		{"left of the display", "POST", "move", map[string]any{"x": -1, "y": 0}, 400, size},
		{"a drag that leaves the display", "POST", "drag", map[string]any{"startX": 1, "startY": 1, "endX": width, "endY": 1}, 400, size},
		{"a path that leaves the display", "POST", "drag", map[string]any{"path": []map[string]int{{"x": 1, "y": 1}, {"x": 2, "y": 99999}, {"x": 3, "y": 3}}}, 400, size},
		{"a drag without an end", "POST", "drag", map[string]any{"startX": 1, "startY": 1}, 400, nil},
		{"unknown button", "POST", "click", map[string]any{"button": "fourth"}, 400, []string{"button"}},
		{"four clicks", "POST", "click", map[string]any{"count": 4}, 400, []string{"count"}},
		{"unknown modifier", "POST", "click", map[string]any{"modifiers": []string{"hyperspace"}}, 400, []string{"hyperspace"}},
		{"unknown key", "POST", "key", map[string]any{"key": "ctrl+NoSuchKey"}, 400, []string{"NoSuchKey"}},
		{"unknown key in a list", "POST", "key", map[string]any{"key": []string{"a", "NoSuchKey", "b"}}, 400, []string{"NoSuchKey"}},
		{"no key", "POST", "key", map[string]any{"key": []string{}}, 400, []string{"key"}},
		{"a key that is a number", "POST", "key", map[string]any{"key": 5}, 400, []string{"key"}},
		{"unknown direction", "POST", "scroll", map[string]any{"direction": "sideways"}, 400, []string{"direction"}},
		{"negative amount", "POST", "scroll", map[string]any{"direction": "up", "amount": -3}, 400, []string{"amount"}},
		{"too long a text", "POST", "type", map[string]any{"text": strings.Repeat("x", 100_001)}, 400, []string{"text"}},
		{"10 MB of body", "POST", "type", huge, 413, nil},
		{"no command", "POST", "exec", map[string]any{"command": ""}, 400, []string{"command"}},
		{"unknown user", "POST", "exec", map[string]any{"command": "true", "user": "nobody-here"}, 400, []string{"nobody-here"}},
		{"no such folder", "POST", "exec", map[string]any{"command": "true", "cwd": "/no/such/folder"}, 400, []string{"/no/such/folder"}},
		{"negative time", "POST", "exec", map[string]any{"command": "true", "timeoutMs": -5}, 400, []string{"timeoutMs"}},
		{"impossible variable", "POST", "exec", map[string]any{"command": "true", "env": map[string]string{"a=b": "c"}}, 400, []string{"env"}},
		{"unknown format", "GET", "screenshot?format=bmp", nil, 400, []string{"format"}},
		{"region off the display", "GET", fmt.Sprintf("screenshot?region=%d,0,10,10", width), nil, 400, append([]string{"region"}, size...)},
		{"region that is none", "GET", "screenshot?region=1,2,3", nil, 400, []string{"region"}},
		{"scale of nothing", "GET", "screenshot?scale=0.0001", nil, 400, []string{"scale"}},
		{"no such route", "POST", "levitate", map[string]any{}, 404, nil},
		{"wrong method", "GET", "click", nil, 405, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, err := g.send(t.Context(), c.method, g.path(c.route), c.body)
			if err != nil {
				t.Fatal(err)
			}
			wantProblem(t, r, c.status, c.names...)
		})
	}
	t.Run("no such desktop", func(t *testing.T) {
		r, err := g.send(t.Context(), http.MethodGet, "/v1/desktops/dt-aaaaaaaaaaaaaaaa", nil)
		if err != nil {
			t.Fatal(err)
		}
		wantProblem(t, r, 404)
	})
	if got := screen.collect(t); len(got) != 0 {
		t.Errorf("something of it has reached the desktop: %+v", got)
	}
	g.act(t, "click", map[string]any{"x": 5, "y": 6})
	wantClicks(t, screen.collect(t), 1, 1, 5, 6, 0)
}
