package dialect

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bureau/desktop"
)

var update = flag.Bool("update", false, "write what is decoded into the vectors")

// vectors is a file of testdata: a vendor's version, the actions of its schema with their members,
// and what they mean.
type vectors struct {
	About   string              `json:"about"`
	Display desktop.Size        `json:"display"`
	Schema  map[string][]string `json:"schema"`
	Vectors []vector            `json:"vectors"`
}

type vector struct {
	Name      string          `json:"name"`
	Dialect   Name            `json:"dialect"`
	Display   desktop.Size    `json:"display"`
	Announced desktop.Size    `json:"announced"`
	Input     json.RawMessage `json:"input"`
	Want      json.RawMessage `json:"want"`
}

func (v vector) mapping() Mapping { return Mapping{Announced: v.Announced, Real: v.Display} }

func readVectors(t testing.TB) map[string]vectors {
	t.Helper()
	paths, err := filepath.Glob("testdata/*.json")
	if err != nil || len(paths) < 8 {
		t.Fatalf("found %d files of vectors, %v", len(paths), err)
	}
	all := make(map[string]vectors)
	for _, path := range paths {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var file vectors
		if err := json.Unmarshal(data, &file); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for i := range file.Vectors {
			if v := &file.Vectors[i]; v.Display == (desktop.Size{}) {
				v.Display = file.Display
			}
		}
		all[path] = file
	}
	return all
}

// shown is a batch as the vectors have it.
func shown(b *Batch) json.RawMessage {
	type step struct {
		Action int             `json:"action,omitempty"`
		Act    *desktop.Action `json:"act,omitempty"`
		Pause  string          `json:"pause,omitempty"`
		Look   string          `json:"look,omitempty"`
		Cursor bool            `json:"cursor,omitempty"`
		Exec   string          `json:"exec,omitempty"`
	}
	type call struct {
		Name         string  `json:"name"`
		ID           string  `json:"id,omitempty"`
		Steps        []step  `json:"steps"`
		NeedsPicture bool    `json:"needsPicture,omitempty"`
		Safety       *Safety `json:"safety,omitempty"`
	}
	var view struct {
		Dialect Name   `json:"dialect"`
		Calls   []call `json:"calls"`
	}
	view.Dialect = b.Dialect
	for _, c := range b.Calls {
		shown := call{Name: c.Name, ID: c.ID, NeedsPicture: c.NeedsPicture, Safety: c.Safety}
		for _, s := range c.Steps {
			v := step{Action: s.Action, Act: s.Act, Cursor: s.Cursor}
			if s.Pause != 0 {
				v.Pause = s.Pause.String()
			}
			if s.Look != nil {
				v.Look = "display"
				if s.Look.Region != nil {
					v.Look = s.Look.Region.String()
				}
				if s.Look.SettleMs != nil {
					v.Look += fmt.Sprintf(" settled in %d ms", *s.Look.SettleMs)
				}
			}
			if s.Exec != nil {
				v.Exec = s.Exec.Script
			}
			shown.Steps = append(shown.Steps, v)
		}
		view.Calls = append(view.Calls, shown)
	}
	var buf bytes.Buffer
	encoder := json.NewEncoder(&buf)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(view); err != nil {
		panic(err)
	}
	return bytes.TrimSpace(buf.Bytes())
}

func TestVectors(t *testing.T) {
	for path, file := range readVectors(t) {
		for i, v := range file.Vectors {
			batch, err := Decode(v.Input, v.Dialect, v.mapping())
			if err != nil {
				t.Errorf("%s: %s: %v", path, v.Name, err)
				continue
			}
			if file.Vectors[i].Want = shown(batch); *update {
				continue
			}
			var want bytes.Buffer
			if err := json.Compact(&want, v.Want); err != nil {
				t.Fatal(err)
			}
			if want.String() != string(file.Vectors[i].Want) {
				t.Errorf("%s: %s:\n got %s\nwant %s", path, v.Name, file.Vectors[i].Want, want.Bytes())
			}
		}
		if *update && !t.Failed() {
			writeWants(t, path, file)
		}
	}
}

// writeWants replaces the lines of a file that say what is wanted, and nothing else.
func writeWants(t *testing.T, path string, file vectors) {
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	next := 0
	for i, line := range lines {
		if rest, ok := strings.CutPrefix(line, ` "want": `); ok {
			end := "}"
			if strings.HasSuffix(rest, ",") {
				end = "},"
			}
			lines[i] = fmt.Sprintf(` "want": %s%s`, file.Vectors[next].Want, end)
			next++
		}
	}
	if next != len(file.Vectors) {
		t.Fatalf("%s has %d vectors and %d lines of what is wanted", path, len(file.Vectors), next)
	}
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestVectorsCoverTheirSchema holds the vectors to what the vendors publish: every action, and every
// member of every action.
func TestVectorsCoverTheirSchema(t *testing.T) {
	for path, file := range readVectors(t) {
		seen := make(map[string]bool)
		for _, v := range file.Vectors {
			list, err := objects(v.Input)
			if err != nil {
				t.Fatal(err)
			}
			items, err := unwrap(list, v.Dialect)
			if err != nil {
				t.Fatal(err)
			}
			for _, it := range items {
				for _, a := range it.actions {
					seen[a.name] = true
					for member, raw := range a.fields {
						if given(raw) {
							seen[a.name+" "+member] = true
						}
					}
				}
			}
		}
		if len(file.Schema) == 0 {
			t.Errorf("%s has no schema", path)
		}
		for name, members := range file.Schema {
			if !seen[name] {
				t.Errorf("%s: no vector for %s", path, name)
			}
			for _, member := range members {
				if !seen[name+" "+member] {
					t.Errorf("%s: no vector for %s with %s", path, name, member)
				}
			}
		}
	}
}

// TestUnknownMembersAreRefused adds a member to every action of every vector.
func TestUnknownMembersAreRefused(t *testing.T) {
	for path, file := range readVectors(t) {
		for _, v := range file.Vectors {
			list, err := objects(v.Input)
			if err != nil {
				t.Fatal(err)
			}
			items, err := unwrap(list, v.Dialect)
			if err != nil {
				t.Fatal(err)
			}
			dialect, err := agree(items, v.Dialect)
			if err != nil {
				t.Fatal(err)
			}
			mapping, err := v.mapping().check()
			if err != nil {
				t.Fatal(err)
			}
			if dialect == Gemini {
				mapping.Announced = geminiGrid
			}
			for _, it := range items {
				for _, a := range it.actions {
					a.fields["colour"] = json.RawMessage(`"red"`)
					o := &object{fields: a.fields, mapping: mapping}
					translate(o, dialect, a.name)
					if o.finish(); o.problem == nil || !strings.Contains(o.problem.text, `"colour"`) {
						t.Errorf("%s: %s: %s takes an unknown member: %+v", path, v.Name, a.name, o.problem)
					}
				}
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	manyActions := "[" + strings.TrimSuffix(strings.Repeat(`{"action":"screenshot"},`, MaxActions+1), ",") + "]"
	nested := `[{"action":"screenshot"},{"type":"tool_use","name":"computer_batch","input":{"actions":` +
		"[" + strings.TrimSuffix(strings.Repeat(`{"action":"screenshot"},`, MaxActions), ",") + "]" + `}}]`
	for _, test := range []struct {
		dialect Name
		input   string
		want    string
		code    desktop.Code
	}{
		// What is no request.
		{Auto, ``, "not a JSON array of objects", desktop.Invalid},
		{Auto, `"click"`, "not a JSON array of objects", desktop.Invalid},
		{Auto, `{"action":"screenshot"} {}`, "not a JSON array of objects", desktop.Invalid},
		{Auto, `[]`, "there is no action", desktop.Invalid},
		{Auto, `[{"action":"screenshot"},5]`, "action 1 is not a JSON object", desktop.Invalid},
		{Auto, `{"x":1,"y":2}`, "action 0 has none of type, action and name", desktop.Invalid},
		{Auto, manyActions, "more than 100 actions", desktop.TooLarge},
		{Auto, nested, "more than 100 actions", desktop.TooLarge},
		{Auto, strings.Repeat(" ", MaxBytes+1), "larger than", desktop.TooLarge},
		{"klingon", `{"type":"click"}`, `the dialect is "klingon"; it must be one of`, desktop.Invalid},

		// Two dialects.
		{Auto, `[{"action":"screenshot"},{"name":"go_back"}]`, "action 1 (go_back) is in the form of gemini, and action 0 in that of anthropic", desktop.Invalid},
		{Auto, `[{"type":"key","key":"a"},{"type":"keypress","keys":["A"]}]`, "action 1 (keypress) is in the form of openai, and action 0 in that of bureau", desktop.Invalid},
		{Auto, `[{"type":"screenshot"},{"action":"screenshot"}]`, "action 0 (screenshot) has a type, which the actions of anthropic do not have", desktop.Invalid},
		{Gemini, `{"type":"click","x":1,"y":2}`, "has a type, which the actions of gemini do not have", desktop.Invalid},
		{Gemini, `{"action":"left_click"}`, "is in the form of anthropic, and the request says that it is gemini", desktop.Invalid},
		{Bureau, `{"type":"computer_call","action":{"type":"wait"}}`, "is in the form of openai, and the request says that it is bureau", desktop.Invalid},

		// Unknown actions name themselves and the dialect.
		{Auto, `{"action":"fly"}`, `action 0: "fly" is not an action of the dialect anthropic`, desktop.Invalid},
		{Auto, `{"type":"tool_use","name":"computer","input":{}}`, `action 0: "" is not an action of the dialect anthropic`, desktop.Invalid},
		{Auto, `{"type":"fly"}`, `action 0: "fly" is not an action of the dialect bureau`, desktop.Invalid},
		{OpenAI, `[{"type":"wait"},{"type":"fly"}]`, `action 1: "fly" is not an action of the dialect openai`, desktop.Invalid},
		{Auto, `{"type":"computer_call","actions":[{"type":"wait"},{"type":"triple_click","x":1,"y":1}]}`, `action 1: "triple_click" is not an action of the dialect openai`, desktop.Invalid},
		{Auto, `{"name":"open_app","args":{"app_name":"x"}}`, `action 0: "open_app" is not an action of the dialect gemini`, desktop.Invalid},
		{Auto, `{"action":"` + strings.Repeat("x", 1000) + `"}`, "…", desktop.Invalid},

		// What surrounds actions.
		{Auto, `{"type":"tool_use","input":{}}`, "is a tool_use without a name", desktop.Invalid},
		{Auto, `{"type":"tool_use","name":"computer","input":5}`, "has an input that is not an object", desktop.Invalid},
		{Auto, `{"type":"tool_use","name":"navigate","toolset_name":"browser","input":{}}`, `is of the toolset "browser"`, desktop.Invalid},
		{Auto, `{"type":"tool_use","name":"b","input":{"actions":[]}}`, "has no actions", desktop.Invalid},
		{Auto, `{"type":"tool_use","name":"b","input":{"actions":[1]}}`, "has actions that are not an array of objects", desktop.Invalid},
		{Auto, `{"type":"tool_use","name":"b","input":{"actions":[null]}}`, `"" is not an action`, desktop.Invalid},
		{Auto, `{"type":"computer_call"}`, "has no actions", desktop.Invalid},
		{Auto, `{"type":"computer_call","action":1}`, "has an action that is not an object", desktop.Invalid},
		{Auto, `{"type":"computer_call","actions":1}`, "has actions that are not an array of objects", desktop.Invalid},
		{Auto, `{"type":"computer_call","action":{"type":"wait"},"pending_safety_checks":1}`, "has pending_safety_checks that are not", desktop.Invalid},
		{Auto, `{"type":"function_call","arguments":{}}`, "is a function call without a name", desktop.Invalid},
		{Auto, `{"type":"function_call","name":"click","arguments":"{}"}`, "has arguments that are not an object", desktop.Invalid},

		// Members.
		{Auto, `{"action":"mouse_move"}`, "action 0 (anthropic mouse_move): coordinate is missing", desktop.Invalid},
		{Auto, `{"action":"left_click","coordinate":"1,2"}`, "coordinate must be a pair of whole numbers", desktop.Invalid},
		{Auto, `{"action":"left_click","coordinate":[1,2,3]}`, "coordinate must be a pair of whole numbers", desktop.Invalid},
		{Auto, `{"action":"left_click","coordinate":[1.5,2]}`, "coordinate must be whole numbers", desktop.Invalid},
		{Auto, `{"action":"left_click","coordinate":[null,2]}`, "coordinate must be whole numbers", desktop.Invalid},
		{Auto, `{"action":"left_click","coordinate":[1e300,2]}`, "coordinate must be whole numbers", desktop.Invalid},
		{Auto, `{"action":"left_click","coordinate":[-1,2]}`, "coordinate -1,2 is outside the display, which is 1280x800", desktop.Invalid},
		{Auto, `{"action":"left_click","coordinate":[1280,2]}`, "coordinate 1280,2 is outside the display, which is 1280x800", desktop.Invalid},
		{Auto, `{"action":"left_click","text":"ctrl","key":"shift"}`, "two ways to say which keys to hold", desktop.Invalid},
		{Auto, `{"action":"left_click","text":"a+b+c+d+e+f+g+h+i"}`, "text has more than 8 keys to hold", desktop.Invalid},
		{Auto, `{"action":"key","text":5}`, "text must be a string", desktop.Invalid},
		{Auto, `{"action":"key","text":""}`, "text names no key", desktop.Invalid},
		{Auto, `{"action":"key","text":"ctrl+"}`, `text has "ctrl+", in which a key is missing`, desktop.Invalid},
		{Auto, `{"action":"key","text":"a","repeat":101}`, "repeat is 101; it must be from 1 to 100", desktop.Invalid},
		{Auto, `{"action":"key","text":"a","repeat":"2"}`, "repeat must be a whole number", desktop.Invalid},
		{Auto, `{"action":"key","text":"` + strings.Repeat("a ", desktop.MaxKeys+1) + `"}`, "text has more than 1000 combinations", desktop.TooLarge},
		{Auto, `{"action":"type","text":"` + strings.Repeat("é", desktop.MaxTextLength+1) + `"}`, "text is longer than 100000 characters", desktop.TooLarge},
		{Auto, `{"action":"hold_key","text":"a","duration":61}`, "duration is 61 seconds; it must be from 0 to 60", desktop.Invalid},
		{Auto, `{"action":"hold_key","text":"a"}`, "duration is missing", desktop.Invalid},
		{Auto, `{"action":"wait","duration":-1}`, "duration is -1 seconds; it must be from 0 to 300", desktop.Invalid},
		{Auto, `{"action":"wait","duration":true}`, "duration must be a number", desktop.Invalid},
		{Auto, `[{"action":"wait","duration":300},{"action":"wait","duration":299},{"action":"wait","duration":2}]`, "action 2 (anthropic wait): the waits of the request add up to more than 10m0s", desktop.Invalid},
		{Auto, `{"action":"scroll","scroll_direction":"sideways"}`, `scroll_direction is "sideways"; it must be one of up, down, left, right`, desktop.Invalid},
		{Auto, `{"action":"scroll","scroll_direction":"up","scroll_amount":-1}`, "scroll_amount is -1; it must be from 0 to 1000", desktop.Invalid},
		{Auto, `{"action":"zoom","region":[0,0,0,10]}`, "region is empty", desktop.Invalid},
		{Auto, `{"action":"zoom","region":[0,0,1281,10]}`, "region is outside the display, which is 1280x800", desktop.Invalid},
		{Auto, `{"action":"zoom","region":[0,0,10]}`, "region must be four whole numbers", desktop.Invalid},
		{Auto, `{"action":"zoom"}`, "region is missing", desktop.Invalid},
		{Auto, `{"action":"screenshot","coordinate":[1,2]}`, `"coordinate" is not one of its members`, desktop.Invalid},

		{OpenAI, `{"type":"click","button":"left"}`, "action 0 (openai click): x is missing", desktop.Invalid},
		{OpenAI, `{"type":"click","button":"side","x":1,"y":2}`, `button is "side"; it must be one of left, right, wheel`, desktop.Invalid},
		{OpenAI, `{"type":"click","button":"left","x":1,"y":2,"modifiers":["ctrl"]}`, `"modifiers" is not one of its members`, desktop.Invalid},
		{OpenAI, `{"type":"drag","path":[{"x":1,"y":2}]}`, "path needs two points or more", desktop.Invalid},
		{OpenAI, `{"type":"drag","path":[{"x":1,"y":2},{"x":1,"z":2}]}`, "path[1] must have x and y and nothing else", desktop.Invalid},
		{OpenAI, `{"type":"drag","path":[{"x":1,"y":2},7]}`, "path[1] must be an object with x and y, or a pair", desktop.Invalid},
		{OpenAI, `{"type":"drag","path":[[1,2],[1,800]]}`, "path[1] 1,800 is outside the display", desktop.Invalid},
		{OpenAI, `{"type":"drag","path":[` + strings.Repeat("[1,2],", desktop.MaxPathLength) + `[1,2]]}`, "path has more than 10000 points", desktop.TooLarge},
		{OpenAI, `{"type":"keypress","keys":[]}`, "keys is missing", desktop.Invalid},
		{OpenAI, `{"type":"keypress","keys":["A",""]}`, "in which a key is missing", desktop.Invalid},
		{OpenAI, `{"type":"keypress","keys":[1]}`, "keys must be a string or an array of strings", desktop.Invalid},
		{OpenAI, `{"type":"scroll","x":1,"y":2,"scroll_y":1e9}`, "scroll_y is 1000000000; it must be from", desktop.Invalid},

		{Auto, `{"name":"click_at","args":{"x":1001,"y":0}}`, "x,y 1001,0 is outside the display, which is 1000x1000", desktop.Invalid},
		{Auto, `{"name":"click_at","args":{"x":1}}`, "y is missing", desktop.Invalid},
		{Auto, `{"name":"mouse_up","args":{"x":1}}`, "x and y belong together", desktop.Invalid},
		{Auto, `{"name":"type","args":{"text":"a","press_enter":"yes"}}`, "press_enter must be true or false", desktop.Invalid},
		{Auto, `{"name":"scroll","args":{"x":1,"y":1,"direction":"up","magnitude":1,"magnitude_in_pixels":1}}`, "two ways to say how far", desktop.Invalid},
		{Auto, `{"name":"scroll_at","args":{"x":1,"y":1}}`, "direction is missing", desktop.Invalid},
		{Auto, `{"name":"navigate","args":{"url":"javascript://x/%0aalert(1)"}}`, `url has the scheme "javascript"`, desktop.Invalid},
		{Auto, `{"name":"navigate","args":{"url":""}}`, "is not an address", desktop.Invalid},
		{Auto, `{"name":"navigate","args":{"url":"https://a\nb"}}`, "is not an address", desktop.Invalid},
		{Auto, `{"name":"navigate","args":{"url":"` + strings.Repeat("a", MaxURL) + `"}}`, "url is longer than", desktop.TooLarge},
		{Auto, `{"name":"click","args":{"x":1,"y":2,"safety_decision":"no"}}`, "safety_decision must be an object", desktop.Invalid},

		{Auto, `{"type":"move","x":1}`, "action 0 (bureau move): y is missing", desktop.Invalid},
		{Auto, `{"type":"click","x":1,"count":2}`, "x and y belong together", desktop.Invalid},
		{Auto, `{"type":"click","count":4}`, "count is 4; it must be from 1 to 3", desktop.Invalid},
		{Auto, `{"type":"click","count":3,"double":true}`, "double is two clicks and count is three", desktop.Invalid},
		{Auto, `{"type":"click","count":2,"action":"down"}`, "count is for a click; down acts once", desktop.Invalid},
		{Auto, `{"type":"drag","startX":1,"startY":2}`, "it needs endX and endY, or a path", desktop.Invalid},
		{Auto, `{"type":"drag","endX":1,"endY":2,"path":[[1,2],[3,4]]}`, "it has both a path and a start or end", desktop.Invalid},
		{Auto, `{"type":"scroll","x":1,"y":2,"amount":2}`, "it needs a direction", desktop.Invalid},
		{Auto, `{"type":"scroll","direction":"up","deltaY":2}`, "it has both deltas and a direction", desktop.Invalid},
		{Auto, `{"type":"key"}`, "key is missing", desktop.Invalid},
		{Auto, `{"type":"key","key":[]}`, "key names no key", desktop.Invalid},
		{Auto, `{"type":"key","key":"a","action":"down","holdMs":5}`, "repeat and holdMs are for a press", desktop.Invalid},
		{Auto, `{"type":"screenshot","region":{"x":0,"y":0,"width":1}}`, "region must be an object with x, y, width and height", desktop.Invalid},
		{Auto, `{"type":"screenshot","region":{"x":0,"y":0,"width":1,"height":1,"z":1}}`, "and nothing else", desktop.Invalid},
		{Bureau, `{"type":"wait"}`, "ms is missing", desktop.Invalid},
	} {
		_, err := Decode([]byte(test.input), test.dialect, Mapping{Real: desktop.Size{Width: 1280, Height: 800}})
		if err == nil || !strings.Contains(err.Error(), test.want) || desktop.CodeOf(err) != test.code {
			t.Errorf("%s %.200s:\n got %v (%v)\nwant …%s… (%v)", test.dialect, test.input, err, desktop.CodeOf(err), test.want, test.code)
		}
		if err != nil && len(err.Error()) > 500 {
			t.Errorf("%.100s: the error is %d bytes", test.input, len(err.Error()))
		}
	}
}

func TestRefusalDetails(t *testing.T) {
	_, err := Decode([]byte(`[{"action":"screenshot"},{"action":"mouse_move","coordinate":[0,400]}]`), Auto,
		Mapping{Announced: desktop.Size{Width: 640, Height: 400}, Real: desktop.Size{Width: 1280, Height: 800}})
	var e *desktop.Error
	if !errors.As(err, &e) {
		t.Fatalf("got %v", err)
	}
	want := map[string]any{"index": 1, "dialect": Anthropic, "action": "mouse_move", "display": desktop.Size{Width: 640, Height: 400}}
	if fmt.Sprint(e.Details) != fmt.Sprint(want) {
		t.Errorf("details are %v, want %v", e.Details, want)
	}
}

func TestActionNames(t *testing.T) {
	batch, err := Decode([]byte(`[{"type":"computer_call","call_id":"c","actions":[{"type":"wait"},{"type":"screenshot"}]},{"type":"keypress","keys":["a"]}]`),
		Auto, Mapping{Real: desktop.Size{Width: 10, Height: 10}})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := -1; i < 4; i++ {
		names = append(names, batch.ActionName(i))
	}
	if got := fmt.Sprintf("%q", names); got != `["" "wait" "screenshot" "keypress" ""]` {
		t.Errorf("got %s", got)
	}
}

func TestMappingsAreChecked(t *testing.T) {
	for _, m := range []Mapping{
		{},
		{Real: desktop.Size{Width: 10}},
		{Real: desktop.Size{Width: 10, Height: 10}, Announced: desktop.Size{Width: -1, Height: 10}},
		{Real: desktop.Size{Width: maxEdge + 1, Height: 10}},
	} {
		if _, err := Decode([]byte(`{"action":"screenshot"}`), Auto, m); desktop.CodeOf(err) != desktop.Invalid || err == nil {
			t.Errorf("%+v: got %v", m, err)
		}
	}
}

// TestShellQuoting asks a shell what it makes of a quoted word.
func TestShellQuoting(t *testing.T) {
	for _, word := range []string{"", "a b", "'", "''\\''", "'; exit 3; '", "$(exit 3)`exit 3`\"\\", "é\n*?~#"} {
		out, err := exec.Command("sh", "-c", "printf %s "+shellQuote(word)).Output()
		if err != nil || string(out) != word {
			t.Errorf("%q became %q, %v", word, out, err)
		}
	}
}
