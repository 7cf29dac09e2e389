package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// object is a JSON object with the places of its members in it.
type object struct {
	text    []byte
	members []member
}

type member struct {
	name       string
	start, end int // of the value
}

// body reads what a guest sends along, and finds in it what the gateway has to know. release gives
// back what it holds of the desktop's share of memory; it may be called again.
func (x *exchange) body(ctx context.Context) (*object, func(), error) {
	limits, r := x.gateway.limits, x.r
	if !x.call.generates && !x.call.counts {
		if r.ContentLength != 0 {
			return nil, nil, deny(http.StatusBadRequest, "this path takes no body")
		}
		http.NewResponseController(x.w).SetReadDeadline(time.Time{})
		return nil, func() {}, nil
	}
	tooLarge := deny(http.StatusRequestEntityTooLarge, "the request is larger than %d bytes", limits.body)
	if r.ContentLength > limits.body {
		return nil, nil, tooLarge
	}
	share := r.ContentLength
	if share < 0 {
		share = limits.body
	}
	waiting, cancel := context.WithTimeout(ctx, limits.upload)
	defer cancel()
	if err := x.tenant.bodies.Acquire(waiting, share); err != nil {
		return nil, nil, busy("this desktop has too much under way already")
	}
	release := sync.OnceFunc(func() { x.tenant.bodies.Release(share) })
	text, err := readBody(r, limits.body)
	var o *object
	if err == nil {
		http.NewResponseController(x.w).SetReadDeadline(time.Time{})
		o, err = x.examine(text)
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return o, release, nil
}

func readBody(r *http.Request, limit int64) ([]byte, error) {
	text, err := readAll(io.LimitReader(r.Body, limit+1), r.ContentLength)
	var network net.Error
	switch {
	case err != nil && errors.As(err, &network) && network.Timeout():
		return nil, deny(http.StatusRequestTimeout, "the request did not arrive in time")
	case err != nil:
		return nil, deny(http.StatusBadRequest, "the request did not arrive whole")
	case int64(len(text)) > limit:
		return nil, deny(http.StatusRequestEntityTooLarge, "the request is larger than %d bytes", limit)
	}
	return text, nil
}

// readAll is io.ReadAll that takes memory as bytes arrive, not as they are announced, and little more
// than was announced.
func readAll(r io.Reader, announced int64) ([]byte, error) {
	const first, spare = 64 << 10, bytes.MinRead
	text := make([]byte, 0, min(max(announced, 0), first)+spare)
	for {
		if cap(text)-len(text) < spare {
			size := 2 * cap(text)
			if most := int(announced) + spare; most > cap(text) {
				size = min(size, most)
			}
			text = append(make([]byte, 0, size), text...)
		}
		n, err := r.Read(text[len(text):cap(text)])
		text = text[:len(text)+n]
		switch {
		case err == io.EOF:
			return text, nil
		case err != nil:
			return nil, err
		}
	}
}

// examine reads the few members that the gateway has to know.
func (x *exchange) examine(text []byte) (*object, error) {
	o, err := parseObject(text)
	if err != nil {
		return nil, err
	}
	c := &x.call
	if c.action != "" { // Gemini's: the model is in the path
		return o, nil
	}
	if json.Unmarshal(o.value("model"), &c.model) != nil || c.model == "" || len(c.model) > 200 {
		return nil, deny(http.StatusBadRequest, "model: expected the name of a model")
	}
	switch {
	case c.path == "responses" && bytes.Equal(o.value("background"), []byte("true")):
		return nil, deny(http.StatusBadRequest, "background: an answer that nobody waits for cannot be fetched here")
	case c.path == "chat/completions" && bytes.Equal(o.value("stream"), []byte("true")):
		// Without being asked a stream does not tell what it took.
		var wanted struct {
			IncludeUsage bool `json:"include_usage"`
		}
		given := o.value("stream_options")
		if given == nil || json.Unmarshal(given, &wanted) == nil && !wanted.IncludeUsage {
			c.hideUsage = true
			o = o.with("stream_options", []byte(`{"include_usage":true}`))
		}
	}
	return o, nil
}

// parseObject finds the members of a JSON object. One that has a member twice means different things
// to different readers, and is refused.
func parseObject(text []byte) (*object, error) {
	text = bytes.TrimSpace(text)
	if !json.Valid(text) {
		return nil, deny(http.StatusBadRequest, "the request is not valid JSON")
	}
	if text[0] != '{' {
		return nil, deny(http.StatusBadRequest, "the request is not a JSON object")
	}
	o := &object{text: text}
	for at := skipSpace(text, 1); text[at] != '}'; {
		end := skipValue(text, at)
		var name string
		if err := json.Unmarshal(text[at:end], &name); err != nil {
			return nil, deny(http.StatusBadRequest, "the request is not valid JSON")
		}
		if o.value(name) != nil {
			return nil, deny(http.StatusBadRequest, "the request has a member twice")
		}
		if len(o.members) == maxMembers {
			return nil, deny(http.StatusBadRequest, "the request has more than %d members", maxMembers)
		}
		start := skipSpace(text, skipSpace(text, end)+1) // beyond the colon
		end = skipValue(text, start)
		o.members = append(o.members, member{name, start, end})
		if at = skipSpace(text, end); text[at] == ',' {
			at = skipSpace(text, at+1)
		}
	}
	return o, nil
}

// maxMembers is far above what any of the formats has.
const maxMembers = 200

func skipSpace(text []byte, at int) int {
	for bytes.IndexByte([]byte(" \t\r\n"), text[at]) >= 0 {
		at++
	}
	return at
}

// skipValue is the end of the value that begins at a place of valid JSON.
func skipValue(text []byte, at int) int {
	depth, quoted := 0, false
	for ; at < len(text); at++ {
		switch c := text[at]; {
		case quoted && c == '\\':
			at++
		case c == '"':
			quoted = !quoted
			if !quoted && depth == 0 {
				return at + 1
			}
		case quoted:
		case c == '{' || c == '[':
			depth++
		case (c == '}' || c == ']') && depth > 0:
			if depth--; depth == 0 {
				return at + 1
			}
		case depth == 0 && bytes.IndexByte([]byte(",:}] \t\r\n"), c) >= 0:
			return at
		}
	}
	return at
}

// value is a member's, nil when there is none.
func (o *object) value(name string) []byte {
	for _, m := range o.members {
		if m.name == name {
			return o.text[m.start:m.end]
		}
	}
	return nil
}

// with is the object with another value of a member, which it need not have had.
func (o *object) with(name string, value []byte) *object {
	var text bytes.Buffer
	text.Grow(len(o.text) + len(name) + len(value) + 4)
	from := 1
	text.WriteByte('{')
	found := false
	for _, m := range o.members {
		if m.name == name {
			text.Write(o.text[from:m.start])
			text.Write(value)
			from, found = m.end, true
		}
	}
	if !found {
		text.Write(quote(name))
		text.WriteByte(':')
		text.Write(value)
		if len(o.members) > 0 {
			text.WriteByte(',')
		}
	}
	text.Write(o.text[from:])
	changed, err := parseObject(text.Bytes())
	if err != nil {
		return o // it cannot be: all pieces are valid
	}
	return changed
}

func quote(s string) []byte {
	text, _ := json.Marshal(s) // a string has no error
	return text
}
