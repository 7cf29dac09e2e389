package modeltest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"text/template"
	"time"

	"bureau/assistant/model"
)

// Script is what a server answers. As JSON it has the same members with small first letters.
type Script struct {
	// Display is the size in whose pixels the actions on the computer are said; they are brought to the
	// size that a request announces. Empty, they are in the announced size, and Gemini, to which none is
	// announced, cannot be asked to point at anything.
	Display   *model.Display `json:"display,omitempty"`
	Stateless bool           `json:"stateless,omitempty"` // see the package's documentation
	// Repeat begins anew after the last step; otherwise a request too many is a problem.
	Repeat bool   `json:"repeat,omitempty"`
	Steps  []Step `json:"steps"`
}

// Step is one answer.
type Step struct {
	// Text is what the model says: a template over what was said last, with .Result (the text of the
	// last results) and .User (of the person), and the functions line (of a text, from 1) and find (the
	// first group that a regular expression matches).
	Text      string   `json:"text,omitempty"`
	Reasoning string   `json:"reasoning,omitempty"`
	Calls     []Call   `json:"calls,omitempty"`
	Fail      *Failure `json:"fail,omitempty"`
	// Cut ends the message as if it had become too long.
	Cut bool `json:"cut,omitempty"`
	// DelayMs passes before the first event, and PaceMs between events.
	DelayMs int `json:"delayMs,omitempty"`
	PaceMs  int `json:"paceMs,omitempty"`
	// Expect, when set, is a regular expression that the text of the last message must match.
	Expect string `json:"expect,omitempty"`
}

// Call is a tool that the model uses.
type Call struct {
	Tool string `json:"tool"` // in a namespace of OpenAI's: its name and the tool's, with a dot between
	// Arguments is an object; for the computer an action of bureau's dialect, or an array of them.
	// Anthropic's and Gemini's formats have one action in a call, so an array becomes several calls.
	Arguments json.RawMessage `json:"arguments"`
	// Safety is a doubt of the vendor's that comes with a call of the computer, where a format has
	// such: the result must then acknowledge it.
	Safety string `json:"safety,omitempty"`
}

// Use is a call of a function.
func Use(tool, arguments string) Call {
	return Call{Tool: tool, Arguments: json.RawMessage(arguments)}
}

// Computer is a call of the computer tool.
func Computer(actions string) Call { return Use(model.Computer, actions) }

// Failure is something that goes wrong.
type Failure struct {
	Kind       Kind   `json:"kind"`
	Status     int    `json:"status,omitempty"`     // of Status, and in place of the usual one
	RetryAfter string `json:"retryAfter,omitempty"` // the header, as it is
	Message    string `json:"message,omitempty"`    // in place of the usual one
	After      int    `json:"after,omitempty"`      // events, for what happens in the middle; 3 when 0
}

// Kind is what goes wrong.
type Kind string

// Instead of an answer:
const (
	Overloaded      Kind = "overloaded"
	RateLimited     Kind = "rate_limited"
	Unauthorized    Kind = "unauthorized"
	ContextOverflow Kind = "context_overflow"
	PictureTooLarge Kind = "picture_too_large"
	Status          Kind = "status"  // any
	Garbage         Kind = "garbage" // 200, and a page of HTML
)

// In the middle of the step's answer, after some events:
const (
	Broken    Kind = "broken"    // the connection breaks
	Ended     Kind = "ended"     // the answer ends in order, but the message does not
	Complaint Kind = "complaint" // an error event: overloaded
	Malformed Kind = "malformed" // an event that is not JSON
	Silent    Kind = "silent"    // nothing more comes, until the client leaves
	Endless   Kind = "endless"   // text without end, until the client leaves
)

// Of the message itself:
const (
	Refusal      Kind = "refusal"       // the model, or its provider, will not
	BadArguments Kind = "bad_arguments" // the arguments of the step's calls are not JSON
)

// ReadScript reads a script from JSON and checks it.
func ReadScript(data []byte) (Script, error) {
	var script Script
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&script); err != nil {
		return Script{}, fmt.Errorf("reading a script of a model: %w", err)
	}
	for i, step := range script.Steps {
		if _, err := parseTemplate(step.Text); err != nil {
			return Script{}, fmt.Errorf("step %d: %w", i, err)
		}
		if _, err := regexp.Compile(step.Expect); err != nil {
			return Script{}, fmt.Errorf("step %d: %w", i, err)
		}
	}
	return script, nil
}

func parseTemplate(text string) (*template.Template, error) {
	return template.New("text").Option("missingkey=error").Funcs(template.FuncMap{
		"line": func(n int, text string) string {
			lines := strings.Split(text, "\n")
			if n < 1 || n > len(lines) {
				return ""
			}
			return lines[n-1]
		},
		"find": func(expression, text string) (string, error) {
			re, err := regexp.Compile(expression)
			if err != nil {
				return "", err
			}
			found := re.FindStringSubmatch(text)
			if len(found) < 2 {
				return "", fmt.Errorf("nothing matches %s in %q", expression, text)
			}
			return found[1], nil
		},
	}).Parse(text)
}

// say fills in a step's text.
func (s Step) say(said words) (string, error) {
	if !strings.Contains(s.Text, "{{") {
		return s.Text, nil
	}
	t, err := parseTemplate(s.Text)
	if err != nil {
		return "", err
	}
	var out strings.Builder
	if err := t.Execute(&out, said); err != nil {
		return "", err
	}
	return out.String(), nil
}

// words are what was said last.
type words struct{ Result, User string }

func ms(n int) time.Duration { return time.Duration(n) * time.Millisecond }
