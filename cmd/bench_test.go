package cmd

import (
	"bytes"
	"image"
	"image/color"
	"image/png"
	"net/http"
	"testing"
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
