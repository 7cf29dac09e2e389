package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"image"
	_ "image/png" // what the scripts save
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The command line against the running appliance, as told in testdata/script. Scripts reach it as
// a user does, by address and key; "admin" before a command makes it the operator's, on the
// administration socket.
func TestCommandLine(t *testing.T) {
	own(t)
	needMinimal(t)
	bin := filepath.Join(t.TempDir(), "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, environment := range map[string]string{
		"bureau": fmt.Sprintf("BUREAU_URL=%s BUREAU_KEY=%s", lab.url, lab.key),
		"admin":  "-u BUREAU_URL -u BUREAU_KEY",
	} {
		script := fmt.Sprintf("#!/bin/sh\nexec env %s %s --config %s \"$@\"\n", environment, lab.binary, lab.config)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		t.Logf("the end of serve's log:\n%s", lab.logTail(40))
		for _, name := range []string{"cli", "other"} { // what the script has called its desktop
			if out, err := lab.output(context.Background(), "desktop", "destroy", name, "--yes"); err != nil {
				t.Logf("%v %s", err, out)
			}
		}
	})
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			e.Setenv("PATH", bin+string(os.PathListSeparator)+e.Getenv("PATH"))
			e.Setenv("URL", lab.url)
			e.Setenv("KEY", lab.key)
			e.Setenv("OWNER", owner)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"json":    scriptJSON,
			"picture": scriptPicture,
		},
	})
}

// scriptJSON is "json FILE [PATH VALUE | PATH > VARIABLE]…": the file is one JSON value, and has the
// value at the path, whose steps are joined by dots.
func scriptJSON(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: json FILE [PATH VALUE | PATH > VARIABLE]…")
	}
	var value any
	if err := json.Unmarshal([]byte(ts.ReadFile(args[0])), &value); err != nil {
		ts.Fatalf("%s: %v", args[0], err)
	}
	for args = args[1:]; len(args) >= 2; {
		at := value
		for step := range strings.SplitSeq(args[0], ".") {
			switch v := at.(type) {
			case map[string]any:
				at = v[step]
			case []any:
				var i int
				if _, err := fmt.Sscan(step, &i); err != nil || i >= len(v) {
					ts.Fatalf("%s: there is no %s", args[0], step)
				}
				at = v[i]
			default:
				ts.Fatalf("%s: there is no %s", args[0], step)
			}
		}
		got := fmt.Sprint(at)
		if args[1] == ">" {
			ts.Setenv(args[2], got)
			args = args[3:]
			continue
		}
		if got != args[1] {
			ts.Fatalf("%s is %s, not %s", args[0], got, args[1])
		}
		args = args[2:]
	}
}

// scriptPicture is "picture FILE WIDTHxHEIGHT": the file is a picture of that size.
func scriptPicture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: picture FILE WIDTHxHEIGHT")
	}
	f, err := os.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer f.Close()
	c, _, err := image.DecodeConfig(f)
	ts.Check(err)
	if got := fmt.Sprintf("%dx%d", c.Width, c.Height); got != args[1] {
		ts.Fatalf("%s is %s, not %s", args[0], got, args[1])
	}
}
