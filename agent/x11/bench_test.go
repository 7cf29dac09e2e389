package x11

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"bureau/desktop"
)

func BenchmarkClick(b *testing.B) {
	display := startServer(b)
	d, _ := openDisplay(b, display), newClient(b, display)
	x, y := at2(100, 100)
	for b.Loop() {
		act(b, d, desktop.Action{Click: &desktop.Click{X: x, Y: y}})
	}
}

func benchmarkType(b *testing.B, text string) {
	display := startServer(b)
	startWindowManager(b, display)
	d := openDisplay(b, display)
	newTerminal(b, display)
	for b.Loop() {
		act(b, d, typed(text))
	}
}

func BenchmarkType1000(b *testing.B) { benchmarkType(b, strings.Repeat("The quick brown fox ", 50)) }

func BenchmarkType1000Accents(b *testing.B) {
	benchmarkType(b, strings.Repeat("Thé quick brown fox ", 50))
}

// The measure is xdotool, a process for each action.
func benchmarkTool(b *testing.B, args ...string) {
	display := startServer(b)
	newClient(b, display)
	path := program(b, "xdotool")
	for b.Loop() {
		cmd := exec.Command(path, args...)
		cmd.Env = append(os.Environ(), "DISPLAY="+display)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatal(err, string(out))
		}
	}
}

func BenchmarkXdotoolClick(b *testing.B) {
	benchmarkTool(b, "mousemove", "100", "100", "click", "1")
}

func BenchmarkXdotoolType1000(b *testing.B) {
	benchmarkTool(b, "type", "--delay", "0", strings.Repeat("The quick brown fox ", 50))
}

func BenchmarkCapture(b *testing.B) {
	display := startServer(b)
	d := openDisplay(b, display)
	for b.Loop() {
		if _, err := d.Capture(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
