package e2e

import (
	"encoding/json"
	"fmt"
	"image"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The measures of probe counter's window.
const (
	counterX, counterY = 64, 64
	counterBits        = 12
	counterBlock       = 48
)

// counted reads the number in a picture of counter's window.
func counted(m image.Image) (int, error) {
	origin, n := m.Bounds().Min, 0
	for bit := range counterBits {
		for row := range 2 {
			first := true
			block := image.Rect(0, 0, counterBlock, counterBlock).Add(image.Pt(bit*counterBlock, row*counterBlock)).Add(origin)
			var white bool
			for y := block.Min.Y; y < block.Max.Y; y++ {
				for x := block.Min.X; x < block.Max.X; x++ {
					r, g, b, _ := m.At(x, y).RGBA()
					is := r+g+b == 3*0xffff
					if !is && r+g+b != 0 || !first && is != white {
						return 0, fmt.Errorf("bit %d of row %d is in the middle of being painted", bit, row)
					}
					first, white = false, is
				}
			}
			switch {
			case row == 0 && white:
				n |= 1 << bit
			case row == 1 && white == (n>>bit&1 == 1):
				return 0, fmt.Errorf("bit %d is of two numbers", bit)
			}
		}
	}
	return n, nil
}

// A picture that is asked for once something is known to have been drawn shows it. The client paints
// when it is clicked at and says so as soon as its X server has drawn; what it says takes the way of
// a command's output, which is faster than the picture's.
func TestPicturesAreFresh(t *testing.T) {
	const rounds = 1000
	g := shared(t)
	output := g.stream(t, "exec", map[string]any{"command": "exec " + probePath + " counter", "timeoutMs": time.Hour.Milliseconds()})
	var text string
	said := func() int { // the next number that the client says
		t.Helper()
		for {
			if line, rest, whole := strings.Cut(text, "\n"); whole {
				text = rest
				n, err := strconv.Atoi(line)
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
			select {
			case e, open := <-output:
				var data struct{ Data string }
				if err := json.Unmarshal([]byte(e.data), &data); !open || e.event != "stdout" || err != nil {
					t.Fatalf("the client's output has ended: %+v", e)
				}
				text += data.Data
			case <-time.After(patience):
				t.Fatal("the client does not answer")
			}
		}
	}
	if n := said(); n != 0 {
		t.Fatalf("it begins with %d", n)
	}
	query := fmt.Sprintf("?cursor=false&region=%d,%d,%d,%d", counterX, counterY, counterBits*counterBlock, 2*counterBlock)
	stale, took := 0, make([]time.Duration, 0, rounds)
	for n := 1; n <= rounds; n++ {
		g.act(t, "click", map[string]any{"x": counterX + 10, "y": counterY + 2*counterBlock + 10})
		if got := said(); got != n {
			t.Fatalf("the client says %d after %d clicks", got, n)
		}
		began := time.Now()
		picture := g.screenshot(t, query)
		took = append(took, time.Since(began))
		if got, err := counted(picture); err != nil || got != n {
			if stale++; stale <= 5 {
				t.Errorf("the picture after %d was painted shows %d (%v)", n, got, err)
			}
		}
	}
	slices.Sort(took)
	t.Logf("%d of %d pictures were stale; a picture took %v, of a hundred the slowest %v", stale, rounds, took[rounds/2], took[rounds*99/100])
	if stale > 0 {
		t.Errorf("%d of %d pictures were stale; the agent says:\n%s", stale, rounds,
			g.root(t, "journalctl -b -u bureau-agent --no-pager | grep 'does not say' | tail -n 20"))
	}
}
