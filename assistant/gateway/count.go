package gateway

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"slices"
	"strings"
	"unicode/utf8"

	"bureau/assistant/model"
)

// counter reads along in an answer and finds what it took, and which model gave it. It keeps nothing
// of the answer but that: an event, or a whole answer, may be of any size.
type counter struct {
	vendor vendor
	events bool // server-sent events, rather than JSON
	json   finder
	model  string
	tokens tokens

	prefix []byte // of the line, until it is known whether it is data
	data   bool   // the line is
}

// tokens are all the ways in which the vendors count; those that were told last hold.
type tokens struct {
	Input      *int64 `json:"input_tokens"`
	Output     *int64 `json:"output_tokens"`
	CacheRead  *int64 `json:"cache_read_input_tokens"`
	CacheWrite *int64 `json:"cache_creation_input_tokens"`
	Details    struct {
		Cached *int64 `json:"cached_tokens"`
	} `json:"input_tokens_details"`

	Prompt        *int64 `json:"prompt_tokens"`
	Completion    *int64 `json:"completion_tokens"`
	PromptDetails struct {
		Cached *int64 `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`

	GeminiPrompt     *int64 `json:"promptTokenCount"`
	GeminiCached     *int64 `json:"cachedContentTokenCount"`
	GeminiTools      *int64 `json:"toolUsePromptTokenCount"`
	GeminiCandidates *int64 `json:"candidatesTokenCount"`
	GeminiThoughts   *int64 `json:"thoughtsTokenCount"`
}

// places are where answers have their usage and their model. Members of the elements of an array have
// "[]" before them.
var places = map[vendor]struct{ usage, model []string }{
	anthropic: {[]string{"usage", "message/usage"}, []string{"model", "message/model"}},
	openai:    {[]string{"usage", "response/usage"}, []string{"model", "response/model"}},
	gemini:    {[]string{"usageMetadata", "[]/usageMetadata"}, []string{"modelVersion", "[]/modelVersion"}},
}

func newCounter(v vendor, contentType string) *counter {
	kind, _, _ := mime.ParseMediaType(contentType)
	c := &counter{vendor: v, events: kind == "text/event-stream"}
	c.json.found = c.found
	c.json.wanted = append(append([]string{}, places[v].usage...), places[v].model...)
	return c
}

// Write reads along.
func (c *counter) Write(p []byte) (int, error) {
	if !c.events {
		c.json.write(p)
		return len(p), nil
	}
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		c.line(line)
		if ended {
			c.endLine()
		}
		p = rest
	}
	return n, nil
}

const dataField = "data:"

// line takes a piece of a line.
func (c *counter) line(piece []byte) {
	if room := len(dataField) - len(c.prefix); room > 0 {
		take := min(room, len(piece))
		c.prefix = append(c.prefix, piece[:take]...)
		piece = piece[take:]
		c.data = string(c.prefix) == dataField
	}
	if c.data {
		c.json.write(piece)
	}
}

func (c *counter) endLine() {
	if len(bytes.TrimRight(c.prefix, "\r")) == 0 { // an empty line ends an event
		c.json.reset()
	}
	c.prefix, c.data = c.prefix[:0], false
}

func (c *counter) found(place string, value []byte) {
	if strings.HasSuffix(place, "odel") || strings.HasSuffix(place, "odelVersion") {
		var name string
		if json.Unmarshal(value, &name) == nil && len(name) <= 200 && utf8.ValidString(name) {
			c.model = name
		}
		return
	}
	var told tokens
	if json.Unmarshal(value, &told) != nil {
		return // what cannot be read was not told
	}
	for _, t := range []struct{ to, from **int64 }{
		{&c.tokens.Input, &told.Input}, {&c.tokens.Output, &told.Output},
		{&c.tokens.CacheRead, &told.CacheRead}, {&c.tokens.CacheWrite, &told.CacheWrite}, {&c.tokens.Details.Cached, &told.Details.Cached},
		{&c.tokens.Prompt, &told.Prompt}, {&c.tokens.Completion, &told.Completion}, {&c.tokens.PromptDetails.Cached, &told.PromptDetails.Cached},
		{&c.tokens.GeminiPrompt, &told.GeminiPrompt}, {&c.tokens.GeminiCached, &told.GeminiCached}, {&c.tokens.GeminiTools, &told.GeminiTools},
		{&c.tokens.GeminiCandidates, &told.GeminiCandidates}, {&c.tokens.GeminiThoughts, &told.GeminiThoughts},
	} {
		if *t.from != nil {
			*t.to = *t.from
		}
	}
}

// usage is what the answer took, as far as it has told.
func (c *counter) usage() model.Usage {
	t := &c.tokens
	var u model.Usage
	switch {
	case c.vendor == anthropic:
		u = model.Usage{Input: number(t.Input), CacheRead: number(t.CacheRead), CacheWrite: number(t.CacheWrite), Output: number(t.Output)}
	case c.vendor == gemini:
		u = model.Usage{CacheRead: number(t.GeminiCached), Output: number(t.GeminiCandidates) + number(t.GeminiThoughts)}
		u.Input = max(number(t.GeminiPrompt)-u.CacheRead, 0) + number(t.GeminiTools)
	case t.Prompt != nil || t.Completion != nil:
		u = model.Usage{CacheRead: number(t.PromptDetails.Cached), Output: number(t.Completion)}
		u.Input = max(number(t.Prompt)-u.CacheRead, 0)
	default:
		u = model.Usage{CacheRead: number(t.Details.Cached), Output: number(t.Output)}
		u.Input = max(number(t.Input)-u.CacheRead, 0)
	}
	return u
}

// number is a count that a provider may have told; nonsense is none.
func number(n *int64) int64 {
	const most = 1 << 40
	if n == nil || *n < 0 || *n > most {
		return 0
	}
	return *n
}

// finder finds the values at wanted places, which are members of the outermost two levels, of JSON
// that passes by in pieces.
type finder struct {
	wanted []string
	found  func(place string, value []byte)

	levels  [wantedDepth]level // the outermost ones
	depth   int                // of the objects and arrays that are open
	quoted  bool
	escaped bool
	isKey   bool   // the string is a member's name
	text    []byte // the name, or the value that is wanted
	capture bool   // a wanted value is read; it ends where the depth is that of its beginning
	begun   int    // that depth
}

type level struct {
	array bool
	key   string
	value bool // the colon has passed
}

const (
	wantedDepth = 2
	maxName     = 64       // of a member that is wanted
	maxValue    = 16 << 10 // of any usage
)

func (f *finder) reset() {
	*f = finder{wanted: f.wanted, found: f.found, text: f.text[:0]}
}

func (f *finder) write(p []byte) {
	for _, b := range p {
		if f.quoted {
			f.inString(b)
		} else {
			f.outside(b)
		}
	}
}

// top is the innermost object or array, nil when it is deeper than anything wanted.
func (f *finder) top() *level {
	if f.depth == 0 || f.depth > wantedDepth {
		return nil
	}
	return &f.levels[f.depth-1]
}

func (f *finder) inString(b byte) {
	f.keep(b)
	switch {
	case f.escaped:
		f.escaped = false
	case b == '\\':
		f.escaped = true
	case b == '"':
		f.quoted = false
		if !f.isKey {
			f.endValue()
			return
		}
		f.isKey = false
		top := f.top()
		if json.Unmarshal(f.text, &top.key) != nil {
			top.key = "" // longer than any that is wanted
		}
	}
}

func (f *finder) outside(b byte) {
	top := f.top()
	switch b {
	case '"':
		f.quoted = true
		if !f.capture && top != nil && !top.array && !top.value {
			f.isKey, f.text = true, f.text[:0]
		} else {
			f.beginValue()
		}
		f.keep(b)
	case '{', '[':
		f.beginValue()
		f.keep(b)
		if f.depth++; f.depth <= wantedDepth {
			f.levels[f.depth-1] = level{array: b == '['}
		}
	case '}', ']':
		f.endScalar()
		f.keep(b)
		f.depth = max(f.depth-1, 0)
		f.endValue()
	case ':':
		f.keep(b)
		if top != nil {
			top.value = true
		}
	case ',':
		f.endScalar()
		f.keep(b)
		if top != nil {
			top.value = false
		}
	case ' ', '\t', '\r', '\n':
		f.endScalar()
	default:
		f.beginValue()
		f.keep(b)
	}
}

// keep adds to what is read.
func (f *finder) keep(b byte) {
	switch {
	case f.capture && len(f.text) == maxValue:
		f.capture = false // no usage is that large
	case f.capture, f.isKey && len(f.text) <= maxName:
		f.text = append(f.text, b)
	}
}

// beginValue starts to keep a value, when it is a wanted one.
func (f *finder) beginValue() {
	top := f.top()
	if f.capture || top == nil || top.array || !top.value {
		return
	}
	if place := f.place(); slices.Contains(f.wanted, place) {
		f.capture, f.begun, f.text = true, f.depth, f.text[:0]
	}
}

// place is that of the value that is read, or was.
func (f *finder) place() string {
	place := ""
	for i, l := range f.levels[:f.depth] {
		if i > 0 {
			place += "/"
		}
		if l.array {
			place += "[]"
		} else {
			place += l.key
		}
	}
	return place
}

// endScalar ends a number or a word, which nothing but what follows it does.
func (f *finder) endScalar() {
	if f.capture && f.depth == f.begun && len(f.text) > 0 {
		f.endValue()
	}
}

// endValue tells of a wanted value that has come to its end.
func (f *finder) endValue() {
	if f.capture && f.depth == f.begun {
		f.capture = false
		f.found(f.place(), f.text)
	}
}

// usageFilter takes the event out of a stream of Chat Completions that tells nothing but the usage,
// which the guest has not asked for. Other events go on as soon as they are complete.
type usageFilter struct {
	to   io.Writer
	held []byte
}

// maxEvent is the most that is held of an event; what is longer is no usage.
const maxEvent = 64 << 10

func (f *usageFilter) Write(p []byte) (int, error) {
	f.held = append(f.held, p...)
	var out []byte
	for {
		end := eventEnd(f.held)
		if end == 0 {
			break
		}
		if event := f.held[:end]; !onlyUsage(event) {
			out = append(out, event...)
		}
		f.held = f.held[end:]
	}
	if len(f.held) > maxEvent {
		out = append(out, f.held...)
		f.held = nil
	}
	if len(out) > 0 {
		if _, err := f.to.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

func (f *usageFilter) close() error {
	if len(f.held) == 0 || onlyUsage(f.held) {
		return nil
	}
	_, err := f.to.Write(f.held)
	return err
}

// eventEnd is where the first event ends, 0 when it has not.
func eventEnd(text []byte) int {
	best := 0
	for _, gap := range []string{"\n\n", "\r\n\r\n"} {
		if at := bytes.Index(text, []byte(gap)); at >= 0 && (best == 0 || at+len(gap) < best) {
			best = at + len(gap)
		}
	}
	return best
}

func onlyUsage(event []byte) bool {
	data, found := bytes.CutPrefix(bytes.TrimSpace(event), []byte(dataField))
	var chunk struct {
		Choices []json.RawMessage `json:"choices"`
		Usage   *json.RawMessage  `json:"usage"`
	}
	return found && json.Unmarshal(data, &chunk) == nil && len(chunk.Choices) == 0 && chunk.Usage != nil
}
