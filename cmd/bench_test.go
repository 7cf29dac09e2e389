package cmd

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"bureau/assistant/model"
)

func TestPercentile(t *testing.T) {
	values := []float64{9, 1, 8, 2, 7, 3, 6, 4, 5, 10}
	for _, c := range []struct{ p, want float64 }{{50, 5}, {95, 10}, {90, 9}, {0, 1}, {100, 10}} {
		if got := percentile(values, c.p); got != c.want {
			t.Errorf("percentile %v is %v, want %v", c.p, got, c.want)
		}
	}
	if percentile(nil, 50) != 0 {
		t.Error("nothing was measured, and yet there is a percentile")
	}
}

func TestServerTiming(t *testing.T) {
	header := http.Header{"Server-Timing": {"see;dur=1.25, encode;dur=9.5"}}
	for name, want := range map[string]float64{"see": 1.25, "encode": 9.5, "other": 0} {
		if got := serverTiming(header, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}

func TestSamePixels(t *testing.T) {
	encode := func(m image.Image) []byte {
		var b bytes.Buffer
		if err := png.Encode(&b, m); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	opaque := image.NewRGBA(image.Rect(0, 0, 4, 3))
	for i := range opaque.Pix {
		opaque.Pix[i] = 0xff
	}
	other := image.NewNRGBA(opaque.Bounds())
	copy(other.Pix, opaque.Pix)
	if same, err := samePixels(encode(opaque), encode(other)); !same || err != nil {
		t.Errorf("two forms of one picture: %v, %v", same, err)
	}
	other.Set(3, 2, color.NRGBA{1, 2, 3, 255})
	if same, _ := samePixels(encode(opaque), encode(other)); same {
		t.Error("a different pixel was not seen")
	}
	if _, err := samePixels(encode(opaque), []byte("x")); err == nil {
		t.Error("what is no picture was compared")
	}
}

// The bench's model is understood by the client of the agent's loop.
func TestClickingModel(t *testing.T) {
	server := &clickingModel{key: "secret", clicks: 2}
	host := httptest.NewServer(server)
	defer host.Close()
	endpoint := model.Endpoint{Format: model.Anthropic, BaseURL: host.URL, Key: "secret", Model: benchModel}
	m, err := model.New(endpoint, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	request := model.Request{System: "You are a test.", Computer: &model.Display{Width: 1280, Height: 800}, MaxTokens: 100,
		Messages: []model.Message{{Role: model.User, Parts: []model.Part{{Text: "Click."}}}}}
	for i := range 3 {
		response, err := m.Next(t.Context(), request, func(model.Delta) {})
		if err != nil {
			t.Fatal(err)
		}
		last := response.Message.Parts[0]
		if i == 2 {
			if response.Stop != model.EndTurn || last.Text == "" {
				t.Errorf("the last answer is %+v", response)
			}
			break
		}
		if response.Stop != model.ToolUse || last.Call == nil || last.Call.Tool != model.Computer || !strings.Contains(string(last.Call.Arguments), "left_click") {
			t.Fatalf("answer %d is %+v", i+1, response)
		}
		request.Messages = append(request.Messages, response.Message,
			model.Message{Role: model.User, Parts: []model.Part{{Result: &model.Result{ID: last.Call.ID, Tool: model.Computer, Text: "done"}}}})
	}
	if waits := server.waits(); len(waits) != 2 || waits[0] <= 0 {
		t.Errorf("between its answers were %v", waits)
	}
	endpoint.Key = "another"
	if m, err = model.New(endpoint, nil, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Next(t.Context(), request, func(model.Delta) {}); err == nil {
		t.Error("it answers whoever asks")
	}
}
