package mcp

import (
	"context"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/desktop"
)

// maxOutput is how many bytes a model is shown of each stream of a command: what is longer is cut
// in its middle.
const maxOutput = 30_000

// longestCommand is the most seconds that a model may wait for a command; what takes longer is
// started in the background and looked after.
const longestCommand = 3600

func commandTools() []tool {
	type input struct {
		target
		Script         string `json:"script" jsonschema:"Run by bash: one command, or as many lines as wanted"`
		Cwd            string `json:"cwd,omitempty" jsonschema:"Where to run; the desktop user's home when absent"`
		Stdin          string `json:"stdin,omitempty" jsonschema:"What is there to read on standard input"`
		User           string `json:"user,omitempty" jsonschema:"As whom; the desktop's user when absent"`
		TimeoutSeconds int    `json:"timeoutSeconds,omitempty" jsonschema:"When to end it with all that it has started"`
	}
	return []tool{
		define(desktop.CanControl, sdk.Tool{Name: "bash", Title: "Run a script",
			Description: "Runs a bash script on a desktop and waits for its end. It has the desktop's display, so it can start programs there; start those that are to stay in the background, such as firefox-esr >/dev/null 2>&1 &. Long output is cut in its middle.",
			Annotations: inputHints()},
			func(p properties) {
				p.between("timeoutSeconds", 0, longestCommand)
				p.unless("timeoutSeconds", int(desktop.DefaultExecTimeout.Seconds()))
				p["script"].MinLength = ptr(1)
			}, func(ctx context.Context, c *call, in input) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				limit := time.Duration(in.TimeoutSeconds) * time.Second
				if limit == 0 {
					limit = desktop.DefaultExecTimeout
				}
				var result desktop.ExecResult
				err = c.during(ctx, limit, "the script runs", func() (err error) {
					result, err = c.client.Exec(ctx, id, desktop.Exec{Bash: true, Script: in.Script, Cwd: in.Cwd, Stdin: []byte(in.Stdin), User: in.User, Timeout: limit}, nil)
					return err
				})
				if err != nil {
					return nil, err
				}
				return ended(result, limit), nil
			}),
	}
}

// ended is how a command ended, as a model reads it. A command that failed is a result: the tool did
// what it is for.
func ended(result desktop.ExecResult, limit time.Duration) *sdk.CallToolResult {
	var words strings.Builder
	switch {
	case result.TimedOut:
		fmt.Fprintf(&words, "ended after its time limit of %s", limit)
	case result.Signal != "":
		fmt.Fprintf(&words, "ended by signal %s", result.Signal)
	default:
		fmt.Fprintf(&words, "exit code %d", result.ExitCode)
	}
	for _, stream := range []struct{ name, text string }{{"stdout", result.Stdout}, {"stderr", result.Stderr}} {
		if stream.text != "" {
			fmt.Fprintf(&words, "\n<%s>\n%s</%s>", stream.name, lines(shorten(stream.text)), stream.name)
		}
	}
	return text("%s", words.String())
}

func lines(s string) string {
	if strings.HasSuffix(s, "\n") {
		return s
	}
	return s + "\n"
}

// shorten cuts a long text in its middle, between characters.
func shorten(s string) string {
	if len(s) <= maxOutput {
		return s
	}
	head, tail := maxOutput/2, len(s)-maxOutput/2
	for head > 0 && !utf8.RuneStart(s[head]) {
		head--
	}
	for tail < len(s) && !utf8.RuneStart(s[tail]) {
		tail++
	}
	return fmt.Sprintf("%s\n[… %d bytes are left out …]\n%s", s[:head], tail-head, s[tail:])
}
