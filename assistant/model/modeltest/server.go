package modeltest

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"bureau/assistant/model"
)

// maxBody is more than any vendor takes.
const maxBody = 64 << 20

// Server is an [http.Handler]. Its exported members are set before it serves.
type Server struct {
	// Lax leaves out what only this project's own requests are held to: that nothing is in them that
	// the SDKs do not know, and what is cached, stored and how large. It is for other programs.
	Lax bool
	// Failf, when set, hears of problems at once; a test's Errorf is one.
	Failf func(format string, args ...any)

	key    string
	script Script

	mu       sync.Mutex
	taken    int // steps
	requests []*Request
	problems []string
}

// New is a server that wants this key and answers from a script.
func New(key string, script Script) *Server { return &Server{key: key, script: script} }

// Endpoint is where a server speaks a format: base is its URL, without a path.
func Endpoint(format model.Format, base, key string) model.Endpoint {
	name := map[model.Format]string{
		model.Anthropic: "claude-opus-5", model.OpenAI: "gpt-6", model.OpenAIChat: "local-model", model.Gemini: "gemini-3.5-flash",
	}[format]
	return model.Endpoint{Format: format, BaseURL: base, Key: key, Model: name}
}

// Requests are those that came, the refused ones too, in their order.
func (s *Server) Requests() []*Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]*Request(nil), s.requests...)
}

// Problems are what was wrong with requests, or with the script for them.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.problems...)
}

// Left is how many steps of the script nobody has taken.
func (s *Server) Left() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return max(0, len(s.script.Steps)-s.taken)
}

// wire is a format: how it is read, and how an answer is said in it.
type wire interface {
	// read reads a request, into seen as far as it gets.
	read(r *http.Request, body []byte, lax bool, seen *Request) error
	events(request *Request, answer *answer) []event
	whole(request *Request, answer *answer) any
	// complaint is an error's body; kind is one of Failure's or "invalid".
	complaint(status int, kind Kind, message string) any
	key(header http.Header) string
}

// answer is a step as it is said to a request.
type answer struct {
	id        string
	reasoning string
	text      string
	calls     []rendered
	stop      model.Stop
	usage     model.Usage
}

// event is one of a stream.
type event struct {
	name string // empty in formats that name none
	data any
}

func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path := "/" + strings.Trim(r.URL.Path, "/")
	var wire wire
	format := model.Format("")
	gemini, stream := geminiPath(path)
	switch {
	case r.Method == http.MethodGet:
		s.models(w, r, path)
		return
	case path == "/v1/messages":
		wire, format = anthropicWire{}, model.Anthropic
	case path == "/v1/messages/count_tokens":
		writeJSON(w, http.StatusOK, dict{"input_tokens": max(1, r.ContentLength/4)})
		return
	case path == "/v1/responses":
		wire, format = openaiWire{}, model.OpenAI
	case path == "/v1/chat/completions":
		wire, format = chatWire{}, model.OpenAIChat
	case gemini != "":
		wire, format = geminiWire{}, model.Gemini
	default:
		s.problem(nil, fmt.Sprintf("%s %s is no path of a model provider", r.Method, r.URL.Path))
		writeJSON(w, http.StatusNotFound, dict{"error": dict{"message": "not found", "type": "not_found_error"}})
		return
	}
	seen := &Request{Format: format, Header: r.Header.Clone(), Model: gemini, Stream: stream}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	seen.Body = body
	if err == nil {
		if wire.key(r.Header) != s.key {
			s.remember(seen)
			s.problem(seen, "the key is missing or another")
			writeJSON(w, http.StatusUnauthorized, wire.complaint(http.StatusUnauthorized, Unauthorized, "invalid x-api-key"))
			return
		}
		err = wire.read(r, body, s.Lax, seen)
	}
	if err == nil {
		err = seen.check(!s.Lax)
	}
	s.remember(seen)
	if err != nil {
		s.refuse(w, wire, seen, err.Error())
		return
	}
	step, err := s.next(seen)
	if err != nil {
		s.refuse(w, wire, seen, err.Error())
		return
	}
	s.answer(w, r, wire, seen, step)
}

func (s *Server) refuse(w http.ResponseWriter, wire wire, seen *Request, problem string) {
	s.problem(seen, problem)
	writeJSON(w, http.StatusBadRequest, wire.complaint(http.StatusBadRequest, "invalid", problem))
}

func (s *Server) remember(seen *Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, seen)
}

func (s *Server) problem(seen *Request, problem string) {
	s.mu.Lock()
	if seen != nil {
		seen.Problem = problem
		problem = fmt.Sprintf("%s: %s", seen.Format, problem)
	}
	s.problems = append(s.problems, problem)
	s.mu.Unlock()
	if s.Failf != nil {
		s.Failf("the scripted model was asked wrongly: %s", problem)
	}
}

// next takes a step of the script.
func (s *Server) next(seen *Request) (Step, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.taken
	if s.script.Stateless {
		n = seen.answers()
	}
	if s.script.Repeat && len(s.script.Steps) > 0 {
		n %= len(s.script.Steps)
	}
	if n >= len(s.script.Steps) {
		return Step{}, fmt.Errorf("the script has %d steps, and this request would take one more", len(s.script.Steps))
	}
	step := s.script.Steps[n]
	seen.Step, seen.Usage = n, seen.measure()
	if len(seen.Tools) == 0 && len(step.Calls) > 0 && step.Fail == nil {
		seen.Step = -1
		return Step{Text: "OK."}, nil
	}
	s.taken++
	if step.Expect != "" {
		matched, err := regexp.MatchString(step.Expect, seen.Text())
		if err != nil {
			return Step{}, fmt.Errorf("the script's step %d: %w", n, err)
		}
		if !matched {
			return Step{}, fmt.Errorf("the script's step %d expects %q in the last message, which says %q", n, step.Expect, seen.Text())
		}
	}
	return step, nil
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, wire wire, seen *Request, step Step) {
	select {
	case <-time.After(ms(step.DelayMs)):
	case <-r.Context().Done():
		return
	}
	fail := step.Fail
	if fail == nil {
		fail = &Failure{}
	}
	if status, usual := fail.status(seen.Format); status != 0 {
		if fail.Message != "" {
			usual = fail.Message
		}
		if fail.RetryAfter != "" {
			w.Header().Set("Retry-After", fail.RetryAfter)
		}
		writeJSON(w, status, wire.complaint(status, fail.Kind, usual))
		return
	}
	if fail.Kind == Garbage {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, "<html><body>Please log in to the network.</body></html>")
		return
	}

	answer := &answer{id: rand.Text(), reasoning: step.Reasoning, stop: model.EndTurn}
	var err error
	if answer.text, err = step.say(seen.last()); err == nil {
		answer.calls, err = render(seen, s.script, step.Calls)
	}
	if err != nil {
		s.refuse(w, wire, seen, err.Error())
		return
	}
	switch {
	case fail.Kind == Refusal:
		answer.stop = model.Refusal
		if answer.text == "" {
			answer.text = "I will not do that."
		}
	case step.Cut:
		answer.stop = model.MaxTokens
	case len(answer.calls) > 0:
		answer.stop = model.ToolUse
	}
	if fail.Kind == BadArguments {
		for i := range answer.calls {
			answer.calls[i].arguments = json.RawMessage(`{"command": "unfinished`)
		}
	}
	seen.Usage.Output = int64(len(answer.text)+len(answer.reasoning))/4 + int64(20*len(answer.calls)) + 1
	answer.usage = seen.Usage
	if !seen.Stream {
		writeJSON(w, http.StatusOK, wire.whole(seen, answer))
		return
	}
	s.stream(w, r, wire, wire.events(seen, answer), step, fail)
}

func (s *Server) stream(w http.ResponseWriter, r *http.Request, wire wire, events []event, step Step, fail *Failure) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-cache")
	flush := http.NewResponseController(w)
	send := func(e event) {
		data, ok := e.data.(string) // as it is
		if !ok {
			raw, err := json.Marshal(e.data)
			if err != nil {
				panic(fmt.Sprintf("an event cannot be written: %v", err)) // ours
			}
			data = string(raw)
		}
		if e.name != "" {
			fmt.Fprintf(w, "event: %s\n", e.name)
		}
		fmt.Fprintf(w, "data: %s\n\n", data)
		_ = flush.Flush() // the client may have left, which the context tells
	}
	after := fail.After
	if after == 0 {
		after = 3
	}
	for i, e := range events {
		if i == after {
			switch fail.Kind {
			case Broken:
				panic(http.ErrAbortHandler)
			case Ended:
				return
			case Malformed:
				send(event{e.name, `{"type": "content_block_delta", "index": `})
				return
			case Complaint:
				name := ""
				if e.name != "" {
					name = "error"
				}
				status, message := (&Failure{Kind: Overloaded}).status(formatOf(wire))
				send(event{name, wire.complaint(status, Overloaded, message)})
				return
			case Silent:
				<-r.Context().Done()
				return
			case Endless:
				for r.Context().Err() == nil {
					send(e)
					pause(r, ms(max(1, step.PaceMs)))
				}
				return
			}
		}
		send(e)
		if step.PaceMs > 0 {
			pause(r, ms(step.PaceMs))
		}
		if r.Context().Err() != nil {
			return
		}
	}
}

func pause(r *http.Request, d time.Duration) {
	select {
	case <-time.After(d):
	case <-r.Context().Done():
	}
}

func formatOf(w wire) model.Format {
	switch w.(type) {
	case anthropicWire:
		return model.Anthropic
	case openaiWire:
		return model.OpenAI
	case chatWire:
		return model.OpenAIChat
	}
	return model.Gemini
}

// status is HTTP's, with the vendor's usual words, or 0 when a failure is none of an answer's head.
func (f *Failure) status(format model.Format) (status int, message string) {
	defer func() {
		if status != 0 && f.Status != 0 {
			status = f.Status
		}
	}()
	anthropic, gemini := format == model.Anthropic, format == model.Gemini
	switch f.Kind {
	case Overloaded:
		if anthropic {
			return 529, "Overloaded"
		}
		return 503, "The model is overloaded. Please try again later."
	case RateLimited:
		return 429, "Rate limit reached."
	case Unauthorized:
		return 401, "invalid x-api-key"
	case ContextOverflow:
		switch {
		case anthropic:
			return 400, "prompt is too long: 212345 tokens > 200000 maximum"
		case gemini:
			return 400, "The input token count (1234567) exceeds the maximum number of tokens allowed (1048576)."
		}
		return 400, "Your input exceeds the context window of this model. Please adjust your input and try again."
	case PictureTooLarge:
		switch {
		case anthropic:
			return 400, "messages.0.content.1.image.source.base64: image exceeds 5 MB maximum: 6291456 bytes > 5242880 bytes"
		case gemini:
			return 400, "Unable to process input image: the image exceeds the maximum size."
		}
		return 400, "The image is too large."
	case Status:
		return http.StatusInternalServerError, "Something went wrong."
	}
	return 0, ""
}

// models lists models, in the form of whose headers came.
func (s *Server) models(w http.ResponseWriter, r *http.Request, path string) {
	names := []string{}
	for _, format := range model.Formats() {
		names = append(names, Endpoint(format, "", "").Model)
	}
	rest, ours := strings.CutPrefix(path, "/v1/models")
	google, theirs := strings.CutPrefix(path, "/v1beta/models")
	var wire wire
	switch {
	case theirs:
		wire, rest = geminiWire{}, google
	case ours && (r.Header.Get("X-Api-Key") != "" || r.Header.Get("Anthropic-Version") != ""):
		wire = anthropicWire{}
	case ours:
		wire = openaiWire{}
	default:
		http.NotFound(w, r)
		return
	}
	if wire.key(r.Header) != s.key {
		s.problem(nil, "models: the key is missing or another")
		writeJSON(w, http.StatusUnauthorized, wire.complaint(http.StatusUnauthorized, Unauthorized, "invalid x-api-key"))
		return
	}
	list := []dict{}
	for _, name := range names {
		one := dict{"id": name, "object": "model", "created": 1750000000, "owned_by": "modeltest"}
		switch wire.(type) {
		case anthropicWire:
			one = dict{"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}
		case geminiWire:
			one = dict{"name": "models/" + name, "displayName": name, "supportedGenerationMethods": []string{"generateContent"}}
		}
		if rest == "/"+name {
			writeJSON(w, http.StatusOK, one)
			return
		}
		list = append(list, one)
	}
	switch {
	case rest != "":
		writeJSON(w, http.StatusNotFound, wire.complaint(http.StatusNotFound, Status, "there is no such model"))
	case theirs:
		writeJSON(w, http.StatusOK, dict{"models": list})
	default:
		writeJSON(w, http.StatusOK, dict{"object": "list", "data": list, "has_more": false, "first_id": names[0], "last_id": names[len(names)-1]})
	}
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	data, err := json.Marshal(value)
	if err != nil {
		panic(fmt.Sprintf("an answer cannot be written: %v", err)) // ours
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	w.Write(data)
}

// pieces cuts a text as a model's tokens would.
func pieces(s string, size int) []string {
	var list []string
	for runes := []rune(s); len(runes) > 0; {
		n := min(size, len(runes))
		list = append(list, string(runes[:n]))
		runes = runes[n:]
	}
	return list
}

func newID(format model.Format) string {
	prefix := "call_"
	if format == model.Anthropic {
		prefix = "toolu_"
	}
	return prefix + rand.Text()[:20]
}

func bearer(header http.Header) string {
	key, _ := strings.CutPrefix(header.Get("Authorization"), "Bearer ")
	return key
}

// decode reads a request's body into a type of an SDK.
func decode(body []byte, into any, lax bool) error {
	if err := json.Unmarshal(body, into); err != nil {
		return fmt.Errorf("the request is not of the format: %w", err)
	}
	if lax {
		return nil
	}
	return unknown(body, into)
}

// streamed takes the member that the SDKs' types leave out.
func streamed(body []byte) (rest []byte, stream bool, err error) {
	var m map[string]json.RawMessage
	if err := json.Unmarshal(body, &m); err != nil || m == nil {
		return nil, false, errors.New("the request is not a JSON object")
	}
	if raw, ok := m["stream"]; ok {
		if err := json.Unmarshal(raw, &stream); err != nil {
			return nil, false, errors.New("stream is not true or false")
		}
		delete(m, "stream")
	}
	rest, err = json.Marshal(m)
	return rest, stream, err
}
