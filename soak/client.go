package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// client speaks to the API. It knows of it what its documentation says.
type client struct {
	base, key string
	http      *http.Client
	// idempotent tells whether a create may carry a key of its own, by which it is done once however
	// often it is asked for.
	idempotent bool
}

// answer is what came of a request.
type answer struct {
	outcome outcome
	status  int    // 0 when none came
	body    []byte // of an answer
	err     error  // of no answer
	away    bool   // nobody listened, so nothing was done
}

func (a answer) String() string {
	if a.err != nil {
		return fmt.Sprintf("%s: %v", a.outcome, a.err)
	}
	return fmt.Sprintf("%s: %d %s", a.outcome, a.status, bytes.TrimSpace(a.body))
}

// requestTime bounds a request; destroying waits for a minute at most.
const requestTime = 80 * time.Second

func (c *client) do(ctx context.Context, method, path string, body any, header ...string) answer {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	var reader io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			panic(err) // only our own types
		}
		reader = bytes.NewReader(text)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, reader)
	if err != nil {
		panic(err)
	}
	r.Header.Set("Authorization", "Bearer "+c.key)
	if body != nil {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := c.http.Do(r)
	if err != nil {
		var refusal *net.OpError
		away := errors.As(err, &refusal) && refusal.Op == "dial"
		return answer{outcome: unknown, err: err, away: away}
	}
	defer response.Body.Close()
	a := answer{status: response.StatusCode}
	if a.body, err = io.ReadAll(response.Body); err != nil {
		return answer{outcome: unknown, err: err}
	}
	switch {
	case a.status < 300:
		a.outcome = done
	case a.status < 500 || a.status == http.StatusInsufficientStorage:
		a.outcome = refused
	default: // it may have been done, or be done later
		a.outcome = unknown
	}
	return a
}

// fault tells of an answer that no fault of others excuses: all that may be the matter has an answer
// of its own.
func (a answer) fault() bool {
	return a.status >= 500 && a.status != http.StatusServiceUnavailable && a.status != http.StatusInsufficientStorage
}

// learn asks the API what it can do.
func (c *client) learn(ctx context.Context) error {
	a := c.do(ctx, http.MethodGet, "/openapi.json", nil)
	if a.outcome != done {
		return fmt.Errorf("GET /openapi.json: %s", a)
	}
	c.idempotent = strings.Contains(string(a.body), `"Idempotency-Key"`)
	return nil
}

func (c *client) ready(ctx context.Context) error {
	if a := c.do(ctx, http.MethodGet, "/readyz", nil); a.outcome != done {
		return fmt.Errorf("GET /readyz: %s", a)
	}
	return nil
}
