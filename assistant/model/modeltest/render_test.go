package modeltest_test

import (
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
	"bureau/desktop"
	"bureau/desktop/dialect"
)

// TestActionsMeanTheSame says each action to each format and reads it back as the desktop would.
func TestActionsMeanTheSame(t *testing.T) {
	actions := []struct {
		action string
		// cannot are the formats that have no words for it.
		cannot []model.Format
	}{
		{`{"type":"screenshot"}`, nil},
		{`{"type":"screenshot","region":{"x":60,"y":80,"width":120,"height":200}}`, []model.Format{model.OpenAI, model.Gemini}},
		{`{"type":"click","x":600,"y":400}`, nil},
		{`{"type":"click","x":600,"y":400,"button":"right"}`, nil},
		{`{"type":"click","x":600,"y":400,"button":"middle"}`, nil},
		{`{"type":"click","x":600,"y":400,"button":"back"}`, []model.Format{model.Anthropic, model.Gemini}},
		{`{"type":"click","x":600,"y":400,"count":2}`, nil},
		{`{"type":"click","x":600,"y":400,"count":3}`, []model.Format{model.OpenAI}},
		{`{"type":"click","x":600,"y":400,"modifiers":["shift"]}`, []model.Format{model.Gemini}},
		{`{"type":"move","x":300,"y":200}`, nil},
		{`{"type":"drag","startX":300,"startY":200,"endX":600,"endY":400}`, nil},
		{`{"type":"scroll","x":600,"y":400,"direction":"up","amount":3}`, nil},
		{`{"type":"scroll","x":600,"y":400,"direction":"down","amount":3}`, nil},
		{`{"type":"scroll","x":600,"y":400,"direction":"left","amount":2}`, nil},
		{`{"type":"scroll","x":600,"y":400,"direction":"right","amount":2}`, nil},
		{`{"type":"type","text":"Grüße <&> 'quoted'\n"}`, nil},
		{`{"type":"key","key":"Return"}`, nil},
		{`{"type":"key","key":"ctrl+shift+s"}`, nil},
		{`{"type":"wait","ms":1000}`, nil},
		{`{"type":"cursor"}`, []model.Format{model.OpenAI, model.Gemini}},
	}
	names := map[model.Format]dialect.Name{
		model.Anthropic: dialect.Anthropic, model.OpenAI: dialect.OpenAI, model.OpenAIChat: dialect.Bureau, model.Gemini: dialect.Gemini,
	}
	mapping := dialect.Mapping{Real: desktop.Size{Width: 2000, Height: 1000}, Announced: desktop.Size{Width: 1200, Height: 800}}
	for _, format := range model.Formats() {
		for _, a := range actions {
			server := modeltest.New(key, modeltest.Script{Display: &display, Steps: []modeltest.Step{{Calls: []modeltest.Call{modeltest.Computer(a.action)}}}})
			host := httptest.NewServer(server)
			m, err := model.New(modeltest.Endpoint(format, host.URL, key), nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			response, err := m.Next(t.Context(), model.Request{
				Computer: &display, Messages: []model.Message{{Role: model.User, Parts: []model.Part{{Text: "Act."}}}},
			}, nil)
			host.Close()
			cannot := false
			for _, f := range a.cannot {
				cannot = cannot || f == format
			}
			if cannot {
				if err == nil || len(server.Problems()) != 1 {
					t.Errorf("%s to %s: %v, %v", a.action, format, err, server.Problems())
				}
				continue
			}
			if err != nil || len(response.Message.Parts) != 1 || response.Message.Parts[0].Call == nil {
				t.Errorf("%s to %s: %+v, %v", a.action, format, response, err)
				continue
			}
			got, err := dialect.Decode(response.Message.Parts[0].Call.Arguments, names[format], mapping)
			if err != nil {
				t.Errorf("%s to %s: %v", a.action, format, err)
				continue
			}
			want, err := dialect.Decode([]byte(a.action), dialect.Bureau, mapping)
			if err != nil {
				t.Fatal(err)
			}
			if g, w := steps(t, got), steps(t, want); !reflect.DeepEqual(g, w) {
				t.Errorf("%s to %s is %v, not %v: %s", a.action, format, g, w, response.Message.Parts[0].Call.Arguments)
			}
		}
	}
}

// steps are what a batch does, with what the dialects only write in different ways made one.
func steps(t *testing.T, batch *dialect.Batch) (list []map[string]any) {
	t.Helper()
	for _, call := range batch.Calls {
		for _, step := range call.Steps {
			if step.Act != nil && step.Act.Scroll != nil {
				s := step.Act.Scroll
				if n := s.Amount; n != nil {
					switch s.Direction {
					case "up":
						s.DeltaY = -*n
					case "down":
						s.DeltaY = *n
					case "left":
						s.DeltaX = -*n
					case "right":
						s.DeltaX = *n
					}
				}
				s.Direction, s.Amount = "", nil
			}
			if step.Act != nil && step.Act.Drag != nil && len(step.Act.Drag.Path) == 2 {
				d := step.Act.Drag
				d.StartX, d.StartY = &d.Path[0].X, &d.Path[0].Y
				d.EndX, d.EndY = &d.Path[1].X, &d.Path[1].Y
				d.Path = nil
			}
			raw, err := json.Marshal(step)
			if err != nil {
				t.Fatal(err)
			}
			var m map[string]any
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			round(m)
			list = append(list, m)
		}
	}
	return list
}

// round takes the grain of Gemini's grid out of places, the case out of OpenAI's keys, and the button
// that is meant when none is named.
func round(m map[string]any) {
	for key, value := range m {
		switch v := value.(type) {
		case map[string]any:
			round(v)
		case float64:
			if v > 20 && v < 1e6 {
				m[key] = float64(int(v+5) / 10 * 10)
			}
		case []any:
			for i := range v {
				if s, ok := v[i].(string); ok {
					v[i] = strings.ToLower(s)
				}
			}
		case string:
			if key == "button" && v == "left" {
				delete(m, key)
			}
		}
	}
}
