package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestExec(t *testing.T) {
	g := shared(t)
	for _, c := range []struct {
		name, route    string
		body           map[string]any
		stdout, stderr string
		code           int
		signal         string
	}{
		{"true", "exec", map[string]any{"command": "true"}, "", "", 0, ""},
		{"both outputs and a code", "exec", map[string]any{"command": "echo out; echo err >&2; exit 7"}, "out\n", "err\n", 7, ""},
		{"no such command", "exec", map[string]any{"command": "no-such-command 2>/dev/null"}, "", "", 127, ""},
		{"a pipe", "exec", map[string]any{"command": "printf 'b\\na\\n' | sort | tr -d '\\n'"}, "ab", "", 0, ""},
		{"ended by a signal", "exec", map[string]any{"command": "kill -TERM $$"}, "", "", 143, "TERM"},
		{"cwd", "exec", map[string]any{"command": "pwd", "cwd": "/usr/share"}, "/usr/share\n", "", 0, ""},
		{"home", "exec", map[string]any{"command": "pwd; echo $HOME"}, "/home/agent\n/home/agent\n", "", 0, ""},
		{"env", "exec", map[string]any{"command": `printf %s "$GREETING"`, "env": map[string]string{"GREETING": "héllo \"wörld\"\n$x"}}, "héllo \"wörld\"\n$x", "", 0, ""},
		{"stdin", "exec", map[string]any{"command": "cat; wc -c", "stdin": "first\nsecond é"}, "first\nsecond é0\n", "", 0, ""},
		{"no stdin", "exec", map[string]any{"command": "cat"}, "", "", 0, ""},
		{"the desktop's user", "exec", map[string]any{"command": "id -un"}, "agent\n", "", 0, ""},
		{"another user", "exec", map[string]any{"command": "id -un; pwd", "user": "root"}, "root\n/root\n", "", 0, ""},
		{"sudo", "exec", map[string]any{"command": "sudo -n id -u"}, "0\n", "", 0, ""},
		{"the display", "exec", map[string]any{"command": "xdpyinfo >/dev/null && echo $DISPLAY"}, ":0\n", "", 0, ""},
		{"not UTF-8", "exec", map[string]any{"command": `printf 'a\377b'`}, "a\ufffdb", "", 0, ""},
		{"every byte", "exec", map[string]any{"command": "cat; printf '\\200' >&2", "stdin": "/wAKww==", "encoding": "base64"}, "/wAKww==", "gA==", 0, ""},
		{"a script", "bash", map[string]any{"script": "set -euo pipefail\nfor i in {1..3}; do\n  echo \"line $i\"\ndone\n[[ abc == a* ]] && exit 3\n"},
			"line 1\nline 2\nline 3\n", "", 3, ""},
		{"a script with a here document", "bash", map[string]any{"script": "cat <<'END'\n$HOME `x` 'quoted' \"twice\"\nEND\n"}, "$HOME `x` 'quoted' \"twice\"\n", "", 0, ""},
		{"a script with stdin", "bash", map[string]any{"script": "read -r a\necho \"got $a\" >&2", "stdin": "this\n"}, "", "got this\n", 0, ""},
		{"a long script", "bash", map[string]any{"script": "echo begin\n" + strings.Repeat("# a comment that fills the script\n", 20_000) + "echo end\n"}, "begin\nend\n", "", 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := decode[execResult](t, g.call(t, http.MethodPost, g.path(c.route), c.body).body)
			if r.Stdout != c.stdout || r.Stderr != c.stderr {
				t.Errorf("stdout %q, not %q; stderr %q, not %q", r.Stdout, c.stdout, r.Stderr, c.stderr)
			}
			if r.ExitCode != c.code || r.Signal != c.signal {
				t.Errorf("exit code %d, not %d; signal %q, not %q", r.ExitCode, c.code, r.Signal, c.signal)
			}
			if r.TimedOut || r.Truncated {
				t.Errorf("timedOut %t, truncated %t", r.TimedOut, r.Truncated)
			}
		})
	}
}

func TestExecOutputIsBounded(t *testing.T) {
	g := shared(t)
	r := g.exec(t, map[string]any{"command": "head -c 9000000 /dev/zero | tr '\\0' x; echo done >&2"})
	if len(r.Stdout) != 8<<20 || !r.Truncated || r.ExitCode != 0 || r.Stderr != "done\n" {
		t.Errorf("%d bytes of stdout, truncated %t, exit code %d, stderr %q", len(r.Stdout), r.Truncated, r.ExitCode, r.Stderr)
	}
}

// sleepers counts the processes in the guest that sleep for a time that only one test uses.
func (g *guest) sleepers(t testing.TB, seconds int) string {
	return g.root(t, fmt.Sprintf("pgrep -fx 'sleep %d' | wc -l", seconds))
}

// A timeout ends all that the command has started, also what has hidden in a session of its own.
func TestExecTimeoutLeavesNoProcess(t *testing.T) {
	g := shared(t)
	began := time.Now()
	r := g.exec(t, map[string]any{"timeoutMs": 1500, "command": "echo before; trap '' TERM INT HUP; sleep 7101 & " +
		"setsid sleep 7101 & (setsid sh -c 'trap \"\" TERM; sleep 7101; true' &) ; nohup sleep 7101 >/dev/null 2>&1 & sleep 7101"})
	if !r.TimedOut || r.Stdout != "before\n" || r.ExitCode == 0 {
		t.Errorf("%+v", r)
	}
	if took := time.Since(began); took > patience {
		t.Errorf("it took %s", took)
	}
	if left := strings.TrimSpace(g.sleepers(t, 7101)); left != "0" {
		t.Errorf("%s processes are left", left)
	}
}

// A caller that goes away ends its command.
func TestExecEndsWithItsCaller(t *testing.T) {
	g := shared(t)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := g.tryExec(ctx, map[string]any{"command": "setsid sleep 7102 & sleep 7102"})
		ended <- err
	}()
	eventually(t, patience, func() error {
		if n := strings.TrimSpace(g.sleepers(t, 7102)); n != "2" {
			return fmt.Errorf("%s of 2 processes have begun", n)
		}
		return nil
	})
	cancel()
	<-ended
	eventually(t, patience, func() error {
		if n := strings.TrimSpace(g.sleepers(t, 7102)); n != "0" {
			return fmt.Errorf("%s processes are left", n)
		}
		return nil
	})
}

// A program left in the background keeps the pipes open; the call returns all the same and the
// program goes on.
func TestExecDoesNotWaitForTheBackground(t *testing.T) {
	g := shared(t)
	began := time.Now()
	r := g.exec(t, map[string]any{"command": "sleep 7103 & echo started"})
	if r.Stdout != "started\n" || r.ExitCode != 0 || r.TimedOut {
		t.Errorf("%+v", r)
	}
	if took := time.Since(began); took > 30*time.Second { // the command's own limit is a minute
		t.Errorf("it took %s", took)
	}
	if n := strings.TrimSpace(g.sleepers(t, 7103)); n != "1" {
		t.Errorf("%s of the program are left, not 1", n)
	}
	g.root(t, "pkill -fx 'sleep 7103'")
}

func TestExecStartsAProgramOnTheScreen(t *testing.T) {
	g := shared(t)
	r := g.exec(t, map[string]any{"command": "xfce4-terminal --disable-server -x sleep 7104 & true"})
	if r.ExitCode != 0 {
		t.Fatalf("%+v", r)
	}
	g.await(t, "xfce4-terminal")
	g.root(t, "pkill -fx 'sleep 7104'")
	g.gone(t, "xfce4-terminal")
}

// sse is one event of a stream.
type sse struct {
	event string
	data  string
}

// stream asks a route of the desktop's for events, and hands on each as it comes.
func (g *guest) stream(t testing.TB, route string, body map[string]any) <-chan sse {
	t.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url+g.path(route), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+g.key)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("Accept", "text/event-stream")
	// Not through the validator, which reads an answer to its end before it hands it on.
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	if got := response.Header.Get("Content-Type"); response.StatusCode != http.StatusOK || got != "text/event-stream" {
		t.Fatalf("%s, %s", response.Status, got)
	}
	events := make(chan sse)
	go func() {
		defer close(events)
		defer response.Body.Close()
		var e sse
		lines := bufio.NewScanner(response.Body)
		for lines.Buffer(nil, 4<<20); lines.Scan(); {
			switch name, value, _ := strings.Cut(lines.Text(), ": "); name {
			case "event":
				e.event = value
			case "data":
				e.data += value
			case "":
				if e.event != "" {
					select {
					case events <- e:
					case <-t.Context().Done():
						return
					}
				}
				e = sse{}
			}
		}
	}()
	return events
}

// Streamed output arrives while the command still runs: it waits for the test to have seen it.
func TestExecStreams(t *testing.T) {
	g := shared(t)
	g.sh(t, "rm -f /tmp/go-on")
	events := g.stream(t, "exec", map[string]any{"command": "echo one; echo two >&2; while ! [ -e /tmp/go-on ]; do sleep 0.1; done; printf 'thr\\303'; sleep 0.2; printf '\\251e'; exit 4"})
	text := map[string]string{}
	next := func() sse {
		select {
		case e := <-events:
			var piece struct{ Data string }
			if e.event == "stdout" || e.event == "stderr" {
				piece = decode[struct{ Data string }](t, []byte(e.data))
				text[e.event] += piece.Data
			}
			return e
		case <-time.After(patience):
			t.Fatal("no event comes")
			return sse{}
		}
	}
	for text["stdout"] != "one\n" || text["stderr"] != "two\n" {
		if e := next(); e.event != "stdout" && e.event != "stderr" {
			t.Fatalf("%+v", e)
		}
	}
	g.sh(t, "touch /tmp/go-on")
	e := next()
	for e.event == "stdout" {
		e = next()
	}
	if text["stdout"] != "one\nthrée" {
		t.Errorf("stdout is %q", text["stdout"])
	}
	if e.event != "result" {
		t.Fatalf("%+v", e)
	}
	if r := decode[execResult](t, []byte(e.data)); r.ExitCode != 4 || r.Stdout != "" {
		t.Errorf("%+v", r)
	}
	if more, open := <-events; open {
		t.Errorf("more comes after the result: %+v", more)
	}
}
