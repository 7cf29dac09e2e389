package api

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"bureau/api/apitest"
	"bureau/desktop"
	"bureau/desktop/dialect"
)

const actionsPath = "/v1/desktops/dt-1/actions"

// done is an ActionsDone whose results are taken apart.
type done struct {
	ActionsDone
	Results []map[string]any `json:"results"`
}

func (b *bench) perform(body string) done {
	b.t.Helper()
	var d done
	b.into(b.do("POST", actionsPath, body), 200, &d)
	return d
}

func decoded(t *testing.T, data []byte) image.Image {
	t.Helper()
	m, _, err := image.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// find is the member of nested objects and arrays that keys and indexes lead to.
func find(value any, path ...any) any {
	for _, step := range path {
		switch step := step.(type) {
		case string:
			object, _ := value.(map[string]any)
			value = object[step]
		case int:
			array, _ := value.([]any)
			if step >= len(array) {
				return nil
			}
			value = array[step]
		}
	}
	return value
}

func TestActionsOfEachDialect(t *testing.T) {
	click := func(x, y int) desktop.Action {
		return desktop.Action{Click: &desktop.Click{X: &x, Y: &y, Button: "left"}}
	}
	typed := desktop.Action{Type: &desktop.Type{Text: "hi"}}
	for _, c := range []struct {
		name, body string
		acted      []desktop.Action
		settles    []time.Duration
		picture    []any // where the first result has its picture, nil for none
		says       map[string]any
	}{
		{"bureau, one object", `{"type":"click","x":1,"y":2,"button":"left"}`, []desktop.Action{click(1, 2)}, nil, nil, map[string]any{}},
		{"bureau, an array", `[{"type":"click","x":1,"y":2,"button":"left"},{"type":"type","text":"hi"}]`, []desktop.Action{click(1, 2), typed}, nil, nil, nil},
		{"bureau, looks", `[{"type":"screenshot","settleMs":40},{"type":"wait","ms":1},{"type":"cursor"}]`, nil, []time.Duration{40 * time.Millisecond},
			[]any{"picture", "data"}, nil},
		{"Anthropic", `{"type":"tool_use","id":"toolu_1","name":"computer","input":{"action":"left_click","coordinate":[1,2]}}`,
			[]desktop.Action{click(1, 2)}, []time.Duration{2 * time.Second}, []any{"content", 0, "source", "data"},
			map[string]any{"type": "tool_result", "tool_use_id": "toolu_1"}},
		{"Anthropic, told to be quick", `{"actions":[{"action":"left_click","coordinate":[1,2]}],"settleMs":0}`,
			[]desktop.Action{click(1, 2)}, []time.Duration{0}, []any{"content", 0, "source", "data"}, nil},
		{"OpenAI", `{"type":"computer_call","call_id":"call_1","actions":[{"type":"click","button":"left","x":1,"y":2},{"type":"type","text":"hi"}]}`,
			[]desktop.Action{click(1, 2), typed}, []time.Duration{2 * time.Second}, []any{"output", "image_url"},
			map[string]any{"type": "computer_call_output", "call_id": "call_1"}},
		{"Gemini", `{"functionCall":{"name":"click_at","args":{"x":500,"y":500}}}`,
			[]desktop.Action{click(160, 100)}, []time.Duration{2 * time.Second}, []any{"functionResponse", "parts", 0, "inlineData", "data"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			got := b.perform(c.body)
			if acted := b.Acted(); !reflect.DeepEqual(acted, c.acted) {
				have, _ := json.Marshal(acted)
				t.Errorf("did %s", have)
			}
			if settles := b.Settles(); !reflect.DeepEqual(settles, c.settles) {
				t.Errorf("waited for %v, want %v", settles, c.settles)
			}
			if len(got.Results) == 0 {
				t.Fatal("no results")
			}
			for name, want := range c.says {
				if got.Results[0][name] != want {
					t.Errorf("%s is %v, want %v", name, got.Results[0][name], want)
				}
			}
			data, _ := find(got.Results[0], c.picture...).(string)
			if c.picture == nil {
				data = ""
				if got.Results[0]["picture"] != nil {
					t.Error("there is a picture")
				}
			} else if data == "" {
				t.Errorf("there is no picture in %v", got.Results[0])
			} else {
				var raw []byte
				data = data[strings.IndexByte(data, ',')+1:]
				if err := json.Unmarshal([]byte(`"`+data+`"`), &raw); err != nil {
					t.Fatal(err)
				}
				if size := decoded(t, raw).Bounds().Size(); size != image.Pt(320, 200) {
					t.Errorf("the picture is %v", size)
				}
			}
			if got.Display != apitest.DisplaySize || got.TookMs < 0 || (got.Settled != nil) != (len(c.settles) > 0 && c.settles[0] > 0) {
				t.Errorf("got %+v", got.ActionsDone)
			}
		})
	}
}

// A display that was announced smaller is what the model sees and points at; a region is shown as
// it is.
func TestAnnouncedDisplay(t *testing.T) {
	b := newBench(t, nil)
	frame := apitest.Frame(1, color.RGBA{0, 0, 200, 255})
	draw.Draw(frame.Pixels, image.Rect(100, 50, 150, 90), image.NewUniform(color.RGBA{200, 0, 0, 255}), image.Point{}, draw.Src)
	b.Shown = frame
	got := b.perform(`{"display":{"width":160,"height":101},"actions":[
		{"action":"left_click","coordinate":[159,100]},{"action":"zoom","region":[50,25,75,45]},{"action":"cursor_position"}]}`)
	if c := b.Acted()[0].Click; *c.X != 319 || *c.Y != 199 {
		t.Errorf("clicked at %d,%d", *c.X, *c.Y)
	}
	var sizes []image.Point
	for _, result := range got.Results[:2] {
		var raw []byte
		data, _ := json.Marshal(find(result, "content", 0, "source", "data"))
		if err := json.Unmarshal(data, &raw); err != nil {
			t.Fatal(err)
		}
		sizes = append(sizes, decoded(t, raw).Bounds().Size())
	}
	if sizes[0] != image.Pt(160, 101) {
		t.Errorf("the picture is %v, the display was announced otherwise", sizes[0])
	}
	// 25 announced pixels are 50 real ones, 20 of 101 are 40 of 200 and a little.
	if sizes[1].X != 50 || sizes[1].Y < 39 || sizes[1].Y > 41 {
		t.Errorf("the region is shown as %v", sizes[1])
	}
	if text := find(got.Results[2], "content", 0, "text"); text != "X=5,Y=5" {
		t.Errorf("the cursor is told as %v", text)
	}
	if got.Display != apitest.DisplaySize || got.Cursor != (desktop.Point{X: 10, Y: 10}) {
		t.Errorf("got %+v", got.ActionsDone)
	}
}

func TestPictureAfterActions(t *testing.T) {
	b := newBench(t, nil)
	got := b.perform(`{"actions":{"type":"move","x":5,"y":6},"settleMs":300,"screenshot":{"format":"jpeg","region":"0,0,32,20"}}`)
	if got.Screenshot == nil || got.Screenshot.ContentType != "image/jpeg" || got.Screenshot.Width != 32 || got.Settled == nil || !*got.Settled {
		t.Errorf("got %+v", got.ActionsDone)
	}
	if got.Cursor != (desktop.Point{X: 5, Y: 6}) {
		t.Errorf("the cursor is at %v", got.Cursor)
	}
	// Waiting can be all that is wanted.
	if got = b.perform(`{"actions":{"type":"move","x":5,"y":6},"settleMs":300}`); got.Screenshot != nil || got.Settled == nil {
		t.Errorf("got %+v", got.ActionsDone)
	}
	// What has just been seen is not waited for a second time.
	before := len(b.Settles())
	got = b.perform(`{"actions":{"action":"left_click","coordinate":[1,1]},"screenshot":true,"format":"webp"}`)
	if media := find(got.Results[0], "content", 0, "source", "media_type"); media != "image/webp" || got.Screenshot.ContentType != "image/png" {
		t.Errorf("the formats are %v and %s", media, got.Screenshot.ContentType)
	}
	if n := len(b.Settles()) - before; n != 1 {
		t.Errorf("the display was looked at %d times", n)
	}
	b.Fail = func(method string) error {
		if method == "See" {
			return desktop.Errorf(desktop.Unavailable, "the display is away")
		}
		return nil
	}
	p := b.problem(b.do("POST", actionsPath, `{"actions":[{"type":"click"},{"type":"click"}],"screenshot":true}`), 503)
	if p["acted"] != true || p["completed"] != 2.0 || len(p["results"].([]any)) != 2 {
		t.Errorf("got %v", p)
	}
	p = b.problem(b.do("POST", actionsPath, `{"action":"left_click","coordinate":[1,1]}`), 503)
	if p["acted"] != true || p["completed"] != 1.0 || p["index"] != 0.0 {
		t.Errorf("got %v", p)
	}
}

// Where an action fails, what was done and what it came to is told, and what follows is not done.
func TestActionsStopAtTheFirstError(t *testing.T) {
	for _, c := range []struct {
		name, body       string
		index, completed float64
		action           string
		acted, results   int
		reason           []any
	}{
		{"bureau", `[{"type":"click"},{"type":"key","key":"nokey"},{"type":"click"}]`, 1, 1, "key", 1, 2, []any{"error"}},
		{"anthropic", `[{"action":"mouse_move","coordinate":[1,1]},{"action":"key","text":"nokey"},{"action":"mouse_move","coordinate":[2,2]}]`,
			1, 1, "key", 1, 2, []any{"content", 0, "text"}},
		// A call's input goes as a whole, and is checked as a whole.
		{"openai", `{"type":"computer_call","call_id":"c","actions":[{"type":"wait"},{"type":"move","x":1,"y":1},{"type":"keypress","keys":["nokey"]},{"type":"move","x":2,"y":2}]}`,
			2, 1, "keypress", 0, 2, nil},
		{"gemini", `[{"name":"hover_at","args":{"x":1,"y":1}},{"name":"press_key","args":{"key":"nokey"}}]`,
			1, 1, "press_key", 1, 2, []any{"functionResponse", "response", "error"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBench(t, nil)
			p := b.problem(b.do("POST", actionsPath, c.body), 400)
			if p["index"] != c.index || p["completed"] != c.completed || p["action"] != c.action || p["dialect"] != c.name || p["done"] != nil {
				t.Errorf("got %v", p)
			}
			sentence := p["error"].(string)
			if want := fmt.Sprintf("action %v (%s %s): there is no key nokey", c.index, c.name, c.action); sentence != want {
				t.Errorf("the error is %q, want %q", sentence, want)
			}
			if n := len(b.Acted()); n != c.acted {
				t.Errorf("%d actions were done: %+v", n, b.Acted())
			}
			results, _ := p["results"].([]any)
			if len(results) != c.results {
				t.Fatalf("there are %d results: %v", len(results), results)
			}
			if reason := find(results[len(results)-1], c.reason...); c.reason != nil && reason != sentence {
				t.Errorf("the model is told %v", reason)
			}
		})
	}
	t.Run("internal", func(t *testing.T) {
		b := newBench(t, nil)
		calls := 0
		b.Fail = func(method string) error {
			if method == "Act" {
				calls++
			}
			if calls == 3 {
				return fmt.Errorf("password in /secret/path")
			}
			return nil
		}
		got := b.do("POST", actionsPath, `[{"type":"click"},{"type":"click"},{"type":"click"}]`)
		p := b.problem(got, 500)
		if strings.Contains(string(got.body), "secret") || p["index"] != 1.0 || p["completed"] != 1.0 {
			t.Errorf("got %s", got.body)
		}
	})
	t.Run("cut short", func(t *testing.T) {
		b := newBench(t, nil)
		ctx, cancel := context.WithCancel(t.Context())
		b.Fail = func(method string) error {
			if method == "Act" {
				cancel()
			}
			return nil
		}
		request, _ := httpRequest(ctx, b.url+actionsPath, `[{"type":"wait","ms":300000},{"type":"click"}]`, b.key)
		if _, err := b.client.Do(request); err == nil {
			t.Error("there is an answer")
		}
		b.server.inFlight.Wait()
		if n := len(b.Acted()); n != 0 {
			t.Errorf("%d actions were done after the caller had gone", n)
		}
	})
}

func TestActionsThatRunCommands(t *testing.T) {
	b := newBench(t, nil)
	const navigate = `[{"name":"navigate","args":{"url":"https://example.org/"}},{"name":"wait_5_seconds","args":{}}]`
	b.OnExec = func(context.Context, desktop.Exec, func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		return desktop.ExecResult{ExitCode: 127, Stderr: "the desktop has no xdg-open\n"}, nil
	}
	p := b.problem(b.do("POST", actionsPath, navigate), 409)
	if p["index"] != 0.0 || p["action"] != "navigate" || !strings.Contains(p["error"].(string), "no xdg-open") {
		t.Errorf("got %v", p)
	}
	if reason, _ := find(p, "results", 0, "functionResponse", "response", "error").(string); !strings.Contains(reason, "no xdg-open") {
		t.Errorf("the model is told %v", p["results"])
	}
	b.OnExec = func(context.Context, desktop.Exec, func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
		return desktop.ExecResult{}, nil
	}
	got := b.perform(`{"name":"navigate","args":{"url":"https://example.org/"}}`)
	if ran := b.Ran(); len(ran) != 2 || !strings.Contains(ran[1].Script, "example.org") || got.Completed != 1 {
		t.Errorf("ran %+v", ran)
	}
}

func TestVendorsSafetyChecks(t *testing.T) {
	for _, body := range []string{
		`{"name":"click_at","args":{"x":1,"y":1,"safety_decision":{"decision":"require_confirmation","explanation":"it buys"}}}`,
		`{"type":"computer_call","call_id":"c","actions":[{"type":"click","button":"left","x":0,"y":0}],"pending_safety_checks":[{"id":"s1","code":"buy","message":"it buys"}]}`,
	} {
		b := newBench(t, nil)
		p := b.problem(b.do("POST", actionsPath, `[`+body+`]`), 409)
		if !strings.Contains(p["error"].(string), "it buys") || !strings.Contains(p["error"].(string), "safetyAcknowledged") || find(p, "safety", "decision") != "require_confirmation" {
			t.Errorf("got %v", p)
		}
		if len(b.Acted()) != 0 {
			t.Error("it was done without a person's consent")
		}
		got := b.perform(`{"actions":` + body + `,"safetyAcknowledged":true}`)
		text, _ := json.Marshal(got.Results)
		if len(b.Acted()) != 1 || !strings.Contains(string(text), "acknowledge") {
			t.Errorf("got %.300s", text)
		}
	}
	b := newBench(t, nil)
	blocked := `{"actions":{"name":"click_at","args":{"x":1,"y":1,"safety_decision":{"decision":"block"}}},"safetyAcknowledged":true}`
	if p := b.problem(b.do("POST", actionsPath, blocked), 409); !strings.Contains(p["error"].(string), "blocks") || len(b.Acted()) != 0 {
		t.Errorf("got %v", p)
	}
}

// Every vector of the vendors' vocabularies passes through the route and is answered as its vendor
// expects; what package dialect makes of it is tested there.
func TestVendorsVectorsPass(t *testing.T) {
	files, err := filepath.Glob("../desktop/dialect/testdata/*.json")
	if err != nil || len(files) < 5 {
		t.Fatalf("%v: %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var suite struct {
				Display desktop.Size
				Vectors []struct {
					Name      string
					Dialect   dialect.Name
					Input     json.RawMessage
					Announced *desktop.Size
				}
			}
			if err := json.Unmarshal(data, &suite); err != nil {
				t.Fatal(err)
			}
			b := newBench(t, nil)
			b.OnExec = func(context.Context, desktop.Exec, func(desktop.Stream, []byte)) (desktop.ExecResult, error) {
				return desktop.ExecResult{}, nil
			}
			for _, v := range suite.Vectors {
				if bytes.Contains(v.Input, []byte("wait")) || bytes.Contains(v.Input, []byte("safety")) {
					continue // longer than a test, or a person's to decide
				}
				announced := v.Announced
				if announced == nil {
					announced = &suite.Display
				}
				body, _ := json.Marshal(ActionsRequest{Actions: Actions(v.Input), Dialect: v.Dialect, Display: announced})
				if got := b.do("POST", actionsPath, string(body)); got.StatusCode != 200 {
					t.Errorf("%s: got %s: %.300s", v.Name, got.Status, got.body)
				}
			}
		})
	}
}
