package assistant

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"bureau/assistant/model"
	"bureau/desktop"
)

// The names of the tools beside the computer.
const (
	bashTool = "bash"
	editTool = "edit_file"
)

// Limits of what the tools take and give.
const (
	bashTimeout    = 2 * time.Minute
	maxBashTimeout = 30 * time.Minute
	maxOutput      = 30_000   // bytes of a command's output, or of a file, that a model is shown
	maxToldOutput  = 64 << 10 // bytes of a command's output that are told while it runs
	maxFile        = 1 << 20  // bytes of a file that can be edited
	maxListing     = 100_000  // bytes of the text that an edit puts in
	fileTimeout    = 30 * time.Second
)

// tools are what a model is offered beside the computer. They never change, so that providers cache
// them.
var tools = []model.Tool{
	{
		Name: bashTool,
		Description: "Run a bash script on the desktop, as its user, in the user's home, and get its output. Each call is a new shell. " +
			"Start programs that stay open, such as windows, in the background: firefox-esr >/dev/null 2>&1 &",
		Schema: json.RawMessage(`{"type":"object","properties":{` +
			`"command":{"type":"string","description":"The script"},` +
			`"timeoutSeconds":{"type":"integer","minimum":1,"maximum":1800,"description":"When to end it; 120 by default"}},` +
			`"required":["command"],"additionalProperties":false}`),
	},
	{
		Name: editTool,
		Description: "View or change a text file on the desktop. view shows it with line numbers; create writes text as the whole file; " +
			"str_replace replaces oldText, which must occur exactly once, with newText; insert puts newText after the line insertLine, 0 for the beginning.",
		Schema: json.RawMessage(`{"type":"object","properties":{` +
			`"command":{"type":"string","enum":["view","create","str_replace","insert"]},` +
			`"path":{"type":"string","description":"Absolute, or from the user's home"},` +
			`"text":{"type":"string","description":"Of create"},` +
			`"oldText":{"type":"string","description":"Of str_replace"},` +
			`"newText":{"type":"string","description":"Of str_replace and insert"},` +
			`"insertLine":{"type":"integer","minimum":0,"description":"Of insert"},` +
			`"viewFrom":{"type":"integer","minimum":1,"description":"Of view: the first line"},` +
			`"viewTo":{"type":"integer","minimum":1,"description":"Of view: the last line"}},` +
			`"required":["command","path"],"additionalProperties":false}`),
	},
}

// arguments reads a call's, strictly: what is not understood would do something else than was meant.
func arguments(raw json.RawMessage, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return desktop.Errorf(desktop.Invalid, "the arguments are not what the tool takes: %w", err)
	}
	return nil
}

// bash runs a script.
func (t *turn) bash(ctx context.Context, step Step, call model.Call) outcome {
	var in struct {
		Command        string `json:"command"`
		TimeoutSeconds *int   `json:"timeoutSeconds"`
	}
	if err := arguments(call.Arguments, &in); err != nil {
		return failure(err)
	}
	limit := bashTimeout
	if in.TimeoutSeconds != nil {
		limit = time.Duration(*in.TimeoutSeconds) * time.Second
	}
	switch {
	case strings.TrimSpace(in.Command) == "":
		return failure(desktop.Errorf(desktop.Invalid, "command is empty"))
	case limit < time.Second || limit > maxBashTimeout:
		return failure(desktop.Errorf(desktop.Invalid, "timeoutSeconds is not from 1 to %d", int(maxBashTimeout.Seconds())))
	}
	if reason := t.policy.shell(call.Tool, in.Command); reason != "" {
		if err := t.approve(ctx, step, reason); err != nil {
			return t.refused(ctx, call, err)
		}
	}
	told := 0
	tell := func(stream desktop.Stream, data []byte) {
		data = data[:min(len(data), maxToldOutput-told)]
		if told += len(data); len(data) > 0 {
			t.journal.add(EventToolOutput, map[string]any{"number": step.Number, "stream": stream, "data": strings.ToValidUTF8(string(data), "\uFFFD")})
		}
	}
	var stdout, stderr ends
	result, err := t.work.Exec(ctx, desktop.Exec{Script: in.Command, Bash: true, Timeout: limit}, func(stream desktop.Stream, data []byte) {
		tell(stream, data)
		if stream == desktop.Stderr {
			stderr.add(data)
		} else {
			stdout.add(data)
		}
	})
	if err != nil {
		return t.mishap(ctx, call, err)
	}
	var text strings.Builder
	text.WriteString(stdout.String())
	if said := stderr.String(); said != "" {
		fmt.Fprintf(&text, "\n[standard error]\n%s", said)
	}
	switch {
	case result.TimedOut:
		fmt.Fprintf(&text, "\n[ended: its %v were up]", limit)
	case result.ExitCode != 0:
		fmt.Fprintf(&text, "\n[exit code %d]", result.ExitCode)
	}
	if result.Truncated {
		text.WriteString("\n[there was more output than the desktop keeps]")
	}
	said := strings.TrimLeft(text.String(), "\n")
	if said == "" {
		said = "[no output]"
	}
	return outcome{text: said, failed: result.TimedOut}
}

// ends keeps the beginning and the end of an output.
type ends struct {
	head, tail []byte
	dropped    int
}

func (e *ends) add(data []byte) {
	if room := maxOutput/2 - len(e.head); room > 0 {
		n := min(room, len(data))
		e.head = append(e.head, data[:n]...)
		data = data[n:]
	}
	e.tail = append(e.tail, data...)
	if extra := len(e.tail) - maxOutput/2; extra > 0 {
		e.dropped += extra
		e.tail = append(e.tail[:0], e.tail[extra:]...)
	}
}

func (e *ends) String() string {
	middle := ""
	if e.dropped > 0 {
		middle = fmt.Sprintf("\n[%d bytes left out]\n", e.dropped)
	}
	return strings.ToValidUTF8(string(e.head)+middle+string(e.tail), "\uFFFD")
}

// edit shows or changes a file.
func (t *turn) edit(ctx context.Context, step Step, call model.Call) outcome {
	var in struct {
		Command    string  `json:"command"`
		Path       string  `json:"path"`
		Text       *string `json:"text"`
		OldText    string  `json:"oldText"`
		NewText    *string `json:"newText"`
		InsertLine *int    `json:"insertLine"`
		ViewFrom   int     `json:"viewFrom"`
		ViewTo     int     `json:"viewTo"`
	}
	if err := arguments(call.Arguments, &in); err != nil {
		return failure(err)
	}
	invalid := func(format string, args ...any) outcome {
		return failure(desktop.Errorf(desktop.Invalid, format, args...))
	}
	switch {
	case in.Path == "" || len(in.Path) > 4096 || strings.ContainsRune(in.Path, 0):
		return invalid("path is not the path of a file")
	case in.Text != nil && len(*in.Text) > maxFile || in.NewText != nil && len(*in.NewText) > maxListing:
		return invalid("the text is too long; write a part of it at once")
	case in.Command == "create" && in.Text == nil:
		return invalid("create needs text")
	case in.Command == "str_replace" && (in.OldText == "" || in.NewText == nil):
		return invalid("str_replace needs oldText and newText")
	case in.Command == "insert" && (in.InsertLine == nil || *in.InsertLine < 0 || in.NewText == nil):
		return invalid("insert needs insertLine, 0 or more, and newText")
	case in.Command != "view" && in.Command != "create" && in.Command != "str_replace" && in.Command != "insert":
		return invalid("command is %q; it must be view, create, str_replace or insert", shorten(in.Command, 60))
	}
	if reason := t.policy.edit(call, in.Command != "view"); reason != "" {
		if err := t.approve(ctx, step, reason); err != nil {
			return t.refused(ctx, call, err)
		}
	}
	switch in.Command {
	case "view":
		return t.view(ctx, call, in.Path, in.ViewFrom, in.ViewTo)
	case "create":
		return t.write(ctx, call, in.Path, *in.Text)
	}
	text, failed := t.read(ctx, call, in.Path)
	if failed != nil {
		return *failed
	}
	if in.Command == "str_replace" {
		switch n := strings.Count(text, in.OldText); n {
		case 1:
			return t.write(ctx, call, in.Path, strings.Replace(text, in.OldText, *in.NewText, 1))
		case 0:
			return invalid("oldText does not occur in %s", in.Path)
		default:
			return invalid("oldText occurs %d times in %s; give more of what is around it", n, in.Path)
		}
	}
	lines := strings.SplitAfter(text, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	if *in.InsertLine > len(lines) {
		return invalid("insertLine is %d, and %s has %d lines", *in.InsertLine, in.Path, len(lines))
	}
	before, after := strings.Join(lines[:*in.InsertLine], ""), strings.Join(lines[*in.InsertLine:], "")
	if before != "" && !strings.HasSuffix(before, "\n") {
		before += "\n"
	}
	inserted := *in.NewText
	if after != "" && !strings.HasSuffix(inserted, "\n") {
		inserted += "\n"
	}
	return t.write(ctx, call, in.Path, before+inserted+after)
}

// view shows a file, or some of its lines.
func (t *turn) view(ctx context.Context, call model.Call, path string, from, to int) outcome {
	text, failed := t.read(ctx, call, path)
	if failed != nil {
		return *failed
	}
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	from = max(1, from)
	if to == 0 || to > len(lines) {
		to = len(lines)
	}
	if from > to {
		return failure(desktop.Errorf(desktop.Invalid, "%s has %d lines", path, len(lines)))
	}
	var shown strings.Builder
	for i, line := range lines[from-1 : to] {
		if shown.Len()+len(line) > maxOutput {
			fmt.Fprintf(&shown, "[%d lines more: view a part with viewFrom and viewTo]\n", to-from+1-i)
			break
		}
		fmt.Fprintf(&shown, "%6d\t%s\n", from+i, line)
	}
	return outcome{text: shown.String()}
}

// The scripts get the path in PATH_OF_FILE; none of a model's words is ever a part of them.
const (
	readScript = `f=$PATH_OF_FILE; case $f in "~/"*) f=$HOME/${f#"~/"};; esac
[ -d "$f" ] && { echo "it is a folder" >&2; exit 1; }
[ -e "$f" ] || { echo "there is no such file" >&2; exit 1; }
[ -f "$f" ] || { echo "it is not a plain file" >&2; exit 1; }
head -c "$MOST_BYTES" -- "$f" | base64 -w 0`
	writeScript = `set -e; f=$PATH_OF_FILE; case $f in "~/"*) f=$HOME/${f#"~/"};; esac
if [ -d "$f" ]; then echo "it is a folder" >&2; exit 1; fi
if [ -e "$f" ]; then f=$(readlink -f -- "$f"); fi
d=$(dirname -- "$f"); mkdir -p -- "$d"; n=$(mktemp -- "$d/.edit.XXXXXXXX"); trap 'rm -f -- "$n"' EXIT
cat >"$n"
if [ -e "$f" ]; then chmod --reference="$f" -- "$n"; else chmod 644 -- "$n"; fi
mv -f -- "$n" "$f"`
)

// read is a file's text.
func (t *turn) read(ctx context.Context, call model.Call, path string) (string, *outcome) {
	result, err := t.work.Exec(ctx, desktop.Exec{Script: readScript, Timeout: fileTimeout,
		Env: map[string]string{"PATH_OF_FILE": path, "MOST_BYTES": fmt.Sprint(maxFile + 1)}}, nil)
	if err != nil {
		failed := t.mishap(ctx, call, err)
		return "", &failed
	}
	if failed := fileFailure(path, result); failed != nil {
		return "", failed
	}
	data, err := base64.StdEncoding.DecodeString(strings.TrimSpace(result.Stdout))
	var failed outcome
	switch {
	case err != nil:
		failed = failure(desktop.Errorf(desktop.Conflict, "%s cannot be read", path))
	case len(data) > maxFile:
		failed = failure(desktop.Errorf(desktop.TooLarge, "%s is larger than %d bytes; use bash on it", path, maxFile))
	case !utf8.Valid(data):
		failed = failure(desktop.Errorf(desktop.Invalid, "%s is not text in UTF-8; use bash on it", path))
	default:
		return string(data), nil
	}
	return "", &failed
}

// write makes a text a file's whole content, at once.
func (t *turn) write(ctx context.Context, call model.Call, path, text string) outcome {
	result, err := t.work.Exec(ctx, desktop.Exec{Script: writeScript, Stdin: []byte(text), Timeout: fileTimeout,
		Env: map[string]string{"PATH_OF_FILE": path}}, nil)
	if err != nil {
		return t.mishap(ctx, call, err)
	}
	if failed := fileFailure(path, result); failed != nil {
		return *failed
	}
	return outcome{text: fmt.Sprintf("%s is written, %d bytes.", path, len(text))}
}

func fileFailure(path string, result desktop.ExecResult) *outcome {
	if result.ExitCode == 0 && !result.TimedOut {
		return nil
	}
	why := shorten(strings.TrimSpace(result.Stderr), 500)
	if result.TimedOut {
		why = "it took too long"
	}
	failed := failure(desktop.Errorf(desktop.Conflict, "%s: %s", path, why))
	return &failed
}
