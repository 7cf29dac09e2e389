package x11

import (
	"testing"
)

func TestPlan(t *testing.T) {
	has := func(r rune) (stroke, bool) { return stroke{code: byte(r)}, r < 0x80 }
	for _, test := range []struct {
		text     string
		codes    int
		chunks   int
		bindings int // in all chunks
	}{
		{"plain", 1, 1, 0},
		{"é", 1, 1, 1},
		{"aébécéd", 1, 1, 1},
		{"éà", 1, 1, 2},
		{"éàü", 1, 2, 3},
		{"éàéàéàüé", 1, 2, 3}, // é keeps its place
		{"éàüéàü", 1, 3, 4},   // and so does whatever is needed next
		{"字字字", 2, 1, 1},
		{"一二三四五六七八", 2, 2, 8},
	} {
		free := places([]byte{200, 201, 202}[:test.codes], true)
		chunks := plan([]rune(test.text), has, free)
		bound := make(map[stroke]rune)
		var got []rune
		bindings := 0
		for _, c := range chunks {
			for p, r := range c.bind {
				bound[p.stroke()] = r
				bindings++
			}
			for _, s := range c.strokes {
				if r, ok := bound[s]; ok {
					got = append(got, r)
				} else {
					got = append(got, rune(s.code))
				}
			}
		}
		if string(got) != test.text {
			t.Errorf("%q would be typed %q", test.text, string(got))
		}
		if len(chunks) != test.chunks || bindings != test.bindings {
			t.Errorf("%q: %d chunks with %d bindings, want %d with %d", test.text, len(chunks), bindings, test.chunks, test.bindings)
		}
	}
}
