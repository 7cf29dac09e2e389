package api

import (
	"bytes"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"

	"bureau/desktop"
)

// A result is written piece by piece as encoding/json would write it as a whole.
func TestWriteResult(t *testing.T) {
	long := strings.Repeat("é漢\x01\"\\\n😀<&>\u2028", 20_000)
	for _, want := range []desktop.ExecResult{
		{},
		{Stdout: "out\n", Stderr: "err", ExitCode: 3, Signal: "KILL", DurationMs: 1.5, TimedOut: true, Truncated: true},
		{Stdout: `","stderr":""`, Stderr: long[:1]},
		{Stdout: long[rand.IntN(4)*2:], Stderr: "x" + long},
		{Stdout: "\xffbroken\xe2\x82", Stderr: strings.Repeat("\x80", 100_000)},
	} {
		var out bytes.Buffer
		if err := writeResult(&out, want, false); err != nil {
			t.Fatal(err)
		}
		whole, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got, expected desktop.ExecResult
		if err := json.Unmarshal(whole, &expected); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(out.Bytes(), &got); err != nil || got != expected {
			t.Errorf("%.100q: %v", out.Bytes(), err)
		}
		if strings.Count(out.String(), `"exitCode"`) != 1 || out.Bytes()[out.Len()-1] != '\n' {
			t.Errorf("it ends with %q", out.Bytes()[max(0, out.Len()-100):])
		}
		// In base64, as encoding/json has it of bytes.
		out.Reset()
		if err := writeResult(&out, want, true); err != nil {
			t.Fatal(err)
		}
		var raw struct{ Stdout, Stderr []byte }
		if err := json.Unmarshal(out.Bytes(), &raw); err != nil || string(raw.Stdout) != want.Stdout || string(raw.Stderr) != want.Stderr {
			t.Errorf("%.100q: %v", out.Bytes(), err)
		}
	}
}
