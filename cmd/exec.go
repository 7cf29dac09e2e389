package cmd

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"bureau/desktop"
)

// execBody is the body of exec (command) and bash (script).
type execBody struct {
	Command   string            `json:"command,omitempty"`
	Script    string            `json:"script,omitempty"`
	Cwd       string            `json:"cwd,omitempty"`
	Env       map[string]string `json:"env,omitempty"`
	Stdin     string            `json:"stdin,omitempty"`
	Encoding  string            `json:"encoding,omitempty"`
	TimeoutMs int               `json:"timeoutMs,omitempty"`
	User      string            `json:"user,omitempty"`
}

// maxStdin is how much standard input, in base64, has room in a request beside its command.
const maxStdin = 1400 << 10

// execFlags are what exec and bash have in common.
type execFlags struct {
	execBody
	env     []string
	input   bool
	timeout time.Duration
}

func (e *execFlags) add(c *cobra.Command) {
	f := c.Flags()
	f.SortFlags = false
	f.StringVar(&e.Cwd, "cwd", "", "folder to run it in (default: the user's home)")
	f.StringArrayVarP(&e.env, "env", "e", nil, "NAME=VALUE for its environment; may be given again")
	f.StringVarP(&e.User, "user", "u", "", "user to run it as (default: the desktop's user)")
	f.DurationVar(&e.timeout, "timeout", desktop.DefaultExecTimeout, "end it, with all it has started, after this time")
}

func (e *execFlags) body() (execBody, error) {
	for _, pair := range e.env {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return execBody{}, usage("--env %q is not NAME=VALUE", pair)
		}
		if e.Env == nil {
			e.Env = map[string]string{}
		}
		e.Env[name] = value
	}
	if e.timeout < time.Millisecond {
		return execBody{}, usage("--timeout has to be positive")
	}
	e.TimeoutMs = milliseconds(e.timeout)
	return e.execBody, nil
}

func (a *app) desktopExec() *cobra.Command {
	var flags execFlags
	c := &cobra.Command{
		Use: "exec DESKTOP [flags] -- COMMAND [ARGUMENT…]", Short: "Run a command",
		Long: `Run a command in the desktop, as its user, with its display. What it writes to standard
output and standard error comes out here as it is written, and its exit code is this
command's (see "bureau help exit-codes"). One argument is a line for the shell; several
are a program and its arguments, which the shell leaves as they are. Every byte of the
output, and with -i of the input, passes as it is, so that files pass too, of up to 8 MiB
out of the desktop and 1.4 MiB into it.`,
		Example: `  bureau desktop exec demo -- uname -a
  bureau desktop exec demo -- 'ps aux | wc -l'
  bureau desktop exec demo --user root --timeout 10m -- apt-get install -y gimp
  bureau desktop exec demo -i -- wc -c <file
  bureau desktop exec demo -- tar cz Documents >documents.tar.gz`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			a.wrapsExit = true
			body, err := flags.body()
			if err != nil {
				return err
			}
			body.Command = shellWords(args[1:])
			if flags.input {
				if body.Stdin, err = a.readInput(maxStdin); err != nil {
					return err
				}
			}
			return a.execute(c.Context(), args[0], "exec", body)
		},
	}
	flags.add(c)
	c.Flags().BoolVarP(&flags.input, "stdin", "i", false, "hand standard input on to it")
	return c
}

func (a *app) desktopBash() *cobra.Command {
	var flags execFlags
	c := &cobra.Command{
		Use: "bash DESKTOP [FILE]", Short: "Run a bash script",
		Long:    "Run a bash script in the desktop: a file of this host's, or standard input. Otherwise as exec.",
		Example: "  bureau desktop bash demo setup.sh\n  echo 'firefox-esr &' | bureau desktop bash demo",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			a.wrapsExit = true
			body, err := flags.body()
			if err != nil {
				return err
			}
			if len(args) == 2 && args[1] != "-" {
				text, err := os.ReadFile(args[1])
				if err != nil {
					return usage("%w", err)
				}
				body.Script = string(text)
			} else if body.Script, err = a.readInput(desktop.MaxScriptLength); err != nil {
				return err
			}
			if strings.TrimSpace(body.Script) == "" {
				return usage("the script is empty")
			}
			return a.execute(c.Context(), args[0], "bash", body)
		},
	}
	flags.add(c)
	return c
}

// execute runs a command: as a stream of bytes for people, as one answer, in text, with --json.
func (a *app) execute(ctx context.Context, argument, route string, body execBody) error {
	switch {
	case !utf8.ValidString(body.Script):
		return usage("the script is not UTF-8")
	case a.json && !utf8.ValidString(body.Stdin):
		return usage("standard input is not UTF-8, which JSON has no room for: leave --json out, or hand it on in base64")
	case !a.json:
		body.Encoding, body.Stdin = "base64", base64.StdEncoding.EncodeToString([]byte(body.Stdin))
	}
	r, path, err := a.onDesktop(ctx, argument)
	if err != nil {
		return err
	}
	req := request{method: http.MethodPost, path: path + "/" + route, body: body}
	var result desktop.ExecResult
	if a.json {
		var raw json.RawMessage
		if err := r.call(ctx, req, &raw); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, &result); err != nil {
			return fmt.Errorf("the appliance's answer is not what the API promises: %w", err)
		}
		if err := a.printJSON(raw); err != nil {
			return err
		}
		return a.ended(result)
	}
	req.accept = "text/event-stream"
	answer, err := r.send(ctx, req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if result, err = a.relay(answer.Body); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return err
	}
	return a.ended(result)
}

// ended turns the result into this program's own end.
func (a *app) ended(result desktop.ExecResult) error {
	if result.Truncated {
		fmt.Fprintf(a.err, "bureau: output beyond %s was dropped\n", humanBytes(desktop.MaxExecOutput))
	}
	switch {
	case result.TimedOut:
		fmt.Fprintln(a.err, "bureau: the command's time was up; it was ended")
		return exitCode(exitTimedOut)
	case result.ExitCode != 0:
		return exitCode(result.ExitCode)
	case result.Truncated && !a.json: // a script must not take what came out for all that the command wrote
		return exitCode(exitWrapper)
	}
	return nil
}

// relay writes a command's output where it belongs, as its events come, until the one that tells
// how it ended.
func (a *app) relay(stream io.Reader) (desktop.ExecResult, error) {
	events := newEventReader(stream)
	for {
		event, err := events.next()
		if err != nil {
			return desktop.ExecResult{}, desktop.Errorf(desktop.Unavailable, "the connection ended before the command did: %w", err)
		}
		switch event.name {
		case "stdout", "stderr":
			var chunk struct {
				Data []byte `json:"data"` // in JSON, base64
			}
			if err := json.Unmarshal(event.data, &chunk); err != nil {
				return desktop.ExecResult{}, fmt.Errorf("event %s: %w", event.name, err)
			}
			to := a.out
			if event.name == "stderr" {
				to = a.err
			}
			if _, err := to.Write(chunk.Data); err != nil {
				return desktop.ExecResult{}, err
			}
		case "result":
			var result desktop.ExecResult
			if err := json.Unmarshal(event.data, &result); err != nil {
				return desktop.ExecResult{}, fmt.Errorf("event %s: %w", event.name, err)
			}
			return result, nil
		case "error":
			var document struct {
				Error  string `json:"error"`
				Status int    `json:"status"`
			}
			if err := json.Unmarshal(event.data, &document); err != nil {
				return desktop.ExecResult{}, fmt.Errorf("event %s: %w", event.name, err)
			}
			return desktop.ExecResult{}, desktop.Errorf(statusCode(document.Status), "%s", document.Error)
		}
	}
}

// eventReader reads server-sent events.
type eventReader struct{ lines *bufio.Reader }

type event struct {
	id   string // "" when it has none
	name string
	data []byte
}

func newEventReader(r io.Reader) *eventReader { return &eventReader{bufio.NewReaderSize(r, 64<<10)} }

// next returns the next event that has data; io.ErrUnexpectedEOF at the end of the stream.
func (e *eventReader) next() (event, error) {
	current := event{name: "message"}
	for {
		line, err := e.lines.ReadString('\n')
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return event{}, err
		}
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			if current.data != nil {
				return current, nil
			}
			current = event{name: "message"}
			continue
		}
		field, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			current.id = value
		case "event":
			current.name = value
		case "data":
			if current.data != nil {
				current.data = append(current.data, '\n')
			}
			current.data = append(current.data, value...)
		}
		if len(current.data) > maxAnswer {
			return event{}, fmt.Errorf("an event is larger than %d bytes", maxAnswer)
		}
	}
}
