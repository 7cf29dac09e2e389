package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"bureau/desktop"
	"bureau/desktop/activity"
)

// Setting is what a command and a script have in common.
type Setting struct {
	Cwd       string            `json:"cwd,omitempty" maxLength:"4096" doc:"Where to run; the user's home by default"`
	Env       map[string]string `json:"env,omitempty" maxProperties:"1000" doc:"Environment variables on top of the desktop session's"`
	Stdin     string            `json:"stdin,omitempty" doc:"What is there to read on standard input"`
	Encoding  string            `json:"encoding,omitempty" enum:"utf-8,base64" default:"utf-8" doc:"How stdin, stdout and stderr are written: as text, in which bytes that are not UTF-8 are replaced, or in base64, which keeps every byte"`
	TimeoutMs int64             `json:"timeoutMs,omitempty" minimum:"1" maximum:"86400000" default:"60000" doc:"When to end it with all that it has started"`
	User      string            `json:"user,omitempty" maxLength:"64" doc:"The desktop's user by default"`
}

// The bodies of exec and bash.
type (
	ExecRequest struct {
		Command string `json:"command" minLength:"1" maxLength:"1048576" doc:"Run by the shell" example:"ls -l"`
		Setting
	}
	BashRequest struct {
		Script string `json:"script" minLength:"1" maxLength:"1048576" doc:"Run by bash; as many lines as wanted"`
		Setting
	}
)

// encodingBase64 is the encoding that keeps every byte.
const encodingBase64 = "base64"

// command makes the domain's of it.
func (g Setting) command(name, script string, bash bool) (desktop.Exec, error) {
	fault := func(field, format string, args ...any) (desktop.Exec, error) {
		return desktop.Exec{}, desktop.Errorf(desktop.Invalid, field+": "+format, args...)
	}
	if len(script) > desktop.MaxScriptLength {
		return desktop.Exec{}, desktop.Errorf(desktop.TooLarge, "%s: longer than %d bytes", name, desktop.MaxScriptLength)
	}
	for field, text := range map[string]string{name: script, "cwd": g.Cwd, "user": g.User} {
		if strings.ContainsRune(text, 0) {
			return fault(field, "has a NUL character")
		}
	}
	for variable, value := range g.Env {
		if variable == "" || strings.ContainsAny(variable, "=\x00") || strings.ContainsRune(value, 0) {
			return fault("env", "%q cannot be a variable", shorten(variable))
		}
	}
	var stdin []byte
	raw := g.Encoding == encodingBase64
	switch {
	case g.Stdin == "":
	case !raw:
		stdin = []byte(g.Stdin)
	default:
		var err error
		if stdin, err = base64.StdEncoding.DecodeString(g.Stdin); err != nil {
			return fault("stdin", "is not the base64 that encoding says: %v", err)
		}
	}
	return desktop.Exec{Script: script, Bash: bash, Cwd: g.Cwd, Env: g.Env, Stdin: stdin, Raw: raw,
		Timeout: time.Duration(g.TimeoutMs) * time.Millisecond, User: g.User}, nil
}

// bodyAnswer is an answer that its handler writes by itself.
type bodyAnswer struct {
	Body func(huma.Context)
}

func (s *Server) execRoutes() {
	operation := func(name, summary, description string) huma.Operation {
		return huma.Operation{
			OperationID: name, Method: http.MethodPost, Path: desktopPath + "/" + name, Tags: []string{tagControl},
			Summary: summary,
			Description: description + "\n\nA non-zero exit code is a 200. Output beyond 8 MiB of each stream is dropped, and `truncated` says so. " +
				"With `Accept: text/event-stream` the output arrives as it is produced: events `stdout` and `stderr`, each with " +
				"`{\"data\": \"…\"}` (with `encoding` `base64` each in base64 by itself), and at the end `result`, which is the answer without the output, or `error`, which is a problem document.",
			MaxBodyBytes: largeBodyLimit,
			Errors:       []int{http.StatusConflict},
			Responses: map[string]*huma.Response{"200": {
				Description: "How the command ended",
				Content: map[string]*huma.MediaType{
					"application/json": {Schema: s.schema(reflect.TypeFor[desktop.ExecResult]())},
					eventStream:        streamOf("event: stdout\ndata: {\"data\":\"hello\\n\"}\n\nevent: result\ndata: {\"stdout\":\"\",\"stderr\":\"\",\"exitCode\":0,\"durationMs\":4.2,\"timedOut\":false,\"truncated\":false}\n\n"),
				},
			}},
		}
	}
	register(s, needs(desktop.CanControl), operation("exec", "Run a command", "Runs one shell command and waits for its end."),
		func(ctx context.Context, in *bodyInput[ExecRequest]) (*bodyAnswer, error) {
			command, err := in.Body.command("command", in.Body.Command, false)
			return s.run(in.ID, command), err
		})
	register(s, needs(desktop.CanControl), operation("bash", "Run a script", "Runs a bash script of any number of lines and waits for its end."),
		func(ctx context.Context, in *bodyInput[BashRequest]) (*bodyAnswer, error) {
			command, err := in.Body.command("script", in.Body.Script, true)
			return s.run(in.ID, command), err
		})
}

const eventStream = "text/event-stream"

// streamOf documents a stream of events. It has no schema: before OpenAPI 3.2 a schema is taken for the
// whole text's by some and for each event's by others.
func streamOf(example string) *huma.MediaType { return &huma.MediaType{Example: example} }

// run answers with a command's result, or with the stream that leads to it.
func (s *Server) run(id string, command desktop.Exec) *bodyAnswer {
	return &bodyAnswer{func(ctx huma.Context) {
		counts(ctx.Context(), activity.CommandOf(command), 1)
		if accepts(ctx.Header("Accept"), eventStream) {
			s.stream(ctx, id, command)
			return
		}
		result, err := s.desktops.Exec(ctx.Context(), callerOf(ctx.Context()), id, command, nil)
		if err != nil {
			s.fail(ctx, err)
			return
		}
		w := humagin.Unwrap(ctx).Writer
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusOK)
		if err := writeResult(w, result, command.Raw); err != nil {
			exchangeOf(ctx.Context()).log.DebugContext(ctx.Context(), "the answer was not sent", "error", err)
		}
	}}
}

// writeResult writes a result in JSON, its output as text or in base64, a piece at a time: in JSON it may
// be six times as long, and what there is of it is the guest's to say.
func writeResult(w io.Writer, result desktop.ExecResult, raw bool) error {
	outputs := []struct{ name, text string }{{"stdout", result.Stdout}, {"stderr", result.Stderr}}
	result.Stdout, result.Stderr = "", ""
	rest, err := json.Marshal(result)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, 64<<10)
	out.WriteByte('{')
	for _, o := range outputs {
		empty := fmt.Sprintf("%q:%q", o.name, "")
		rest = bytes.Replace(rest, []byte(empty+","), nil, 1)
		out.WriteString(strings.TrimSuffix(empty, `"`))
		if raw {
			writeBase64(out, o.text)
		} else if err := writeText(out, o.text); err != nil {
			return err
		}
		out.WriteString(`",`)
	}
	out.Write(rest[1:])
	out.WriteByte('\n')
	return out.Flush()
}

// writeBase64 writes bytes as the inside of a JSON string. The writer keeps its error for Flush.
func writeBase64(out *bufio.Writer, content string) {
	encoder := base64.NewEncoder(base64.StdEncoding, out)
	io.WriteString(encoder, content)
	encoder.Close()
}

// writeText writes text as the inside of a JSON string. The writer keeps its error for Flush.
func writeText(out *bufio.Writer, text string) error {
	for text != "" {
		n := min(len(text), 32<<10)
		for n < len(text) && !utf8.RuneStart(text[n]) {
			n++
		}
		piece, err := json.Marshal(text[:n])
		if err != nil {
			return err
		}
		out.Write(piece[1 : len(piece)-1])
		text = text[n:]
	}
	return nil
}

// accepts tells whether an Accept header asks for a media type by name.
func accepts(header, media string) bool {
	for one := range strings.SplitSeq(header, ",") {
		name, _, _ := strings.Cut(one, ";")
		if strings.EqualFold(strings.TrimSpace(name), media) {
			return true
		}
	}
	return false
}

// heartbeat is how often a stream with nothing to say shows that it lives, to proxies and to the
// caller; it is also when a caller that has gone is found out.
const heartbeat = 10 * time.Second

// stream runs a command and sends its output as it comes. The stream begins with the first output
// or heartbeat: a failure before that is an ordinary problem with its status, one after it an event.
func (s *Server) stream(ctx huma.Context, id string, command desktop.Exec) {
	within, cancel := context.WithCancel(ctx.Context())
	defer cancel()
	events := &eventWriter{w: humagin.Unwrap(ctx).Writer, gone: cancel}

	var beat sync.WaitGroup
	ended := make(chan struct{})
	beat.Go(func() {
		tick := time.NewTicker(heartbeat)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				events.comment("alive")
			case <-ended:
				return
			}
		}
	})
	pieces := map[desktop.Stream]*runes{desktop.Stdout: {}, desktop.Stderr: {}}
	result, err := s.desktops.Exec(within, callerOf(ctx.Context()), id, command, func(stream desktop.Stream, data []byte) {
		if command.Raw {
			events.send(string(stream), map[string][]byte{"data": data}) // in JSON, base64
		} else if rest := pieces[stream]; rest != nil {
			if text := rest.add(data); text != "" {
				events.send(string(stream), map[string]string{"data": text})
			}
		}
	})
	close(ended)
	beat.Wait()

	switch {
	case err == nil:
		for _, stream := range []desktop.Stream{desktop.Stdout, desktop.Stderr} {
			if text := pieces[stream].rest(); text != "" {
				events.send(string(stream), map[string]string{"data": text})
			}
		}
		events.send("result", result)
	case events.begun:
		events.send("error", s.problem(ctx.Context(), err))
	default:
		s.fail(ctx, err)
	}
}

// eventWriter writes server-sent events, each at once.
type eventWriter struct {
	mu    sync.Mutex
	w     http.ResponseWriter
	begun bool
	gone  func() // called when the caller has gone
}

func (e *eventWriter) send(event string, value any) {
	data, err := json.Marshal(value)
	if err != nil { // of our own types: cannot be
		panic(err)
	}
	e.write(fmt.Sprintf("event: %s\ndata: %s\n\n", event, data))
}

func (e *eventWriter) comment(text string) { e.write(": " + text + "\n\n") }

func (e *eventWriter) write(text string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.begun {
		e.begun = true
		header := e.w.Header()
		header.Set("Content-Type", eventStream)
		header.Set("X-Accel-Buffering", "no") // nginx would hold it back
		e.w.WriteHeader(http.StatusOK)
	}
	if _, err := e.w.Write([]byte(text)); err != nil {
		e.gone()
		return
	}
	if flusher, ok := e.w.(http.Flusher); ok {
		flusher.Flush()
	}
}

// runes joins characters that were cut in two between pieces of output.
type runes struct {
	held []byte
}

// add is the text up to the last whole character.
func (r *runes) add(data []byte) string {
	data = append(r.held, data...)
	whole := len(data)
	for back := 1; back <= min(utf8.UTFMax-1, len(data)); back++ {
		if b := data[len(data)-back]; utf8.RuneStart(b) {
			if b >= utf8.RuneSelf && !utf8.FullRune(data[len(data)-back:]) {
				whole = len(data) - back
			}
			break
		}
	}
	r.held = bytes.Clone(data[whole:])
	return strings.ToValidUTF8(string(data[:whole]), "\uFFFD")
}

// rest is what was the beginning of a character and never became one.
func (r *runes) rest() string { return strings.ToValidUTF8(string(r.held), "\uFFFD") }
