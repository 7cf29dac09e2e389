package dialect

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"bureau/desktop"
)

// TestResults compares what is built with what the vendors' documentation shows; PNG stands for the
// picture's base64 in it.
func TestResults(t *testing.T) {
	picture := []byte("\x89PNG\r\n\x1a\n picture")
	encoded := base64.StdEncoding.EncodeToString(picture)
	away := errors.New("the desktop is gone")
	cursor := &desktop.Point{X: 1919, Y: 1079}
	for name, test := range map[string]struct {
		input   string
		outcome Outcome
		want    string
	}{
		"anthropic picture": {
			`{"type":"tool_use","id":"toolu_1","name":"computer","input":{"action":"left_click","coordinate":[1,2]}}`,
			Outcome{Picture: picture},
			`{"type":"tool_result","tool_use_id":"toolu_1","content":[{"type":"image","source":{"type":"base64","media_type":"image/png","data":"PNG"}}]}`,
		},
		"anthropic toolset": {
			`{"type":"tool_use","id":"toolu_1","name":"screenshot","toolset_name":"computer","input":{}}`,
			Outcome{Picture: picture, MediaType: "image/jpeg", Text: "seen"},
			`{"type":"tool_result","tool_use_id":"toolu_1","toolset_name":"computer","content":[{"type":"text","text":"seen"},{"type":"image","source":{"type":"base64","media_type":"image/jpeg","data":"PNG"}}]}`,
		},
		"anthropic cursor": {
			`{"action":"cursor_position"}`, Outcome{Cursor: cursor},
			`{"type":"tool_result","content":[{"type":"text","text":"X=1455,Y=818"}]}`,
		},
		"anthropic error": {
			`{"type":"tool_use","id":"toolu_1","name":"computer","input":{"action":"screenshot"}}`,
			Outcome{Picture: picture, Err: away},
			`{"type":"tool_result","tool_use_id":"toolu_1","is_error":true,"content":[{"type":"text","text":"the desktop is gone"}]}`,
		},
		"anthropic nothing": {
			`{"action":"wait","duration":1}`, Outcome{}, `{"type":"tool_result","content":[]}`,
		},
		"openai picture": {
			`{"type":"computer_call","call_id":"call_1","action":{"type":"screenshot"}}`, Outcome{Picture: picture},
			`{"type":"computer_call_output","call_id":"call_1","output":{"type":"computer_screenshot","image_url":"data:image/png;base64,PNG"}}`,
		},
		"openai acknowledged": {
			`{"type":"computer_call","call_id":"call_1","actions":[{"type":"screenshot"}],"pending_safety_checks":[{"id":"sc_1","code":"c","message":"m"}]}`,
			Outcome{Picture: picture, Acknowledged: true},
			`{"type":"computer_call_output","call_id":"call_1","acknowledged_safety_checks":[{"id":"sc_1","code":"c","message":"m"}],"output":{"type":"computer_screenshot","image_url":"data:image/png;base64,PNG"}}`,
		},
		"openai not acknowledged": {
			`{"type":"computer_call","call_id":"call_1","actions":[{"type":"screenshot"}],"pending_safety_checks":[{"id":"sc_1","code":"c","message":"m"}]}`,
			Outcome{Picture: picture},
			`{"type":"computer_call_output","call_id":"call_1","output":{"type":"computer_screenshot","image_url":"data:image/png;base64,PNG"}}`,
		},
		"openai error": {
			`{"type":"computer_call","call_id":"call_1","actions":[{"type":"keypress","keys":["NOKEY"]}]}`, Outcome{Picture: picture, Err: away},
			`{"type":"computer_call_output","call_id":"call_1","status":"incomplete","output":{"type":"computer_screenshot","image_url":"data:image/png;base64,PNG"}}` +
				`{"type":"message","role":"user","content":[{"type":"input_text","text":"the desktop is gone"}]}`,
		},
		"gemini picture": {
			`{"functionCall":{"id":"f","name":"click_at","args":{"x":1,"y":2}}}`, Outcome{Picture: picture, URL: "https://example.org/"},
			`{"functionResponse":{"id":"f","name":"click_at","response":{"url":"https://example.org/"},"parts":[{"inlineData":{"mimeType":"image/png","data":"PNG"}}]}}`,
		},
		"gemini acknowledged": {
			`{"name":"click_at","args":{"x":1,"y":2,"safety_decision":{"decision":"require_confirmation","explanation":"?"}}}`, Outcome{Picture: picture, Acknowledged: true},
			`{"functionResponse":{"name":"click_at","response":{"url":"about:blank","safety_acknowledgement":true},"parts":[{"inlineData":{"mimeType":"image/png","data":"PNG"}}]}}`,
		},
		"gemini error": {
			`{"name":"navigate","args":{"url":"example.org"}}`, Outcome{Err: away, Text: "tried"},
			`{"functionResponse":{"name":"navigate","response":{"url":"about:blank","error":"the desktop is gone","output":"tried"}}}`,
		},
		"gemini step": {
			`{"type":"function_call","id":"f3","name":"click","arguments":{"x":1,"y":2}}`, Outcome{Picture: picture, Err: away},
			`{"type":"function_result","name":"click","call_id":"f3","is_error":true,"result":[{"type":"text","text":"{\"error\":\"the desktop is gone\",\"url\":\"about:blank\"}"},{"type":"image","mime_type":"image/png","data":"PNG"}]}`,
		},
		"bureau": {
			`{"type":"cursor"}`, Outcome{Picture: picture, Cursor: cursor, Text: "t", Err: away},
			`{"text":"t","error":"the desktop is gone","cursor":{"x":1455,"y":818},"picture":{"mediaType":"image/png","data":"PNG"}}`,
		},
	} {
		batch, err := Decode([]byte(test.input), Auto, Mapping{Announced: desktop.Size{Width: 1456, Height: 819}, Real: desktop.Size{Width: 1920, Height: 1080}})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		results, err := batch.Calls[0].Result(test.outcome)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var got []string
		for _, raw := range results {
			got = append(got, canonical(t, raw))
		}
		var want []string
		decoder := json.NewDecoder(strings.NewReader(strings.ReplaceAll(test.want, "PNG", encoded)))
		for decoder.More() {
			var raw json.RawMessage
			if err := decoder.Decode(&raw); err != nil {
				t.Fatal(err)
			}
			want = append(want, canonical(t, raw))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n got %s\nwant %s", name, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func canonical(t *testing.T, raw []byte) string {
	t.Helper()
	var v any
	if err := json.NewDecoder(bytes.NewReader(raw)).Decode(&v); err != nil {
		t.Fatal(err)
	}
	sorted, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(sorted)
}

func TestOpenAINeedsAPicture(t *testing.T) {
	batch, err := Decode([]byte(`{"type":"keypress","keys":["A"]}`), Auto, Mapping{Real: desktop.Size{Width: 10, Height: 10}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := batch.Calls[0].Result(Outcome{}); desktop.CodeOf(err) != desktop.Internal || err == nil {
		t.Errorf("got %v", err)
	}
}
