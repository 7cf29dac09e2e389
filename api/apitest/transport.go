// Package apitest is for tests of the API and of what stands on it: a transport that holds every
// exchange against the OpenAPI document, and a domain in memory.
package apitest

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"sync"

	"github.com/pb33f/libopenapi"
	validator "github.com/pb33f/libopenapi-validator"
	"github.com/pb33f/libopenapi-validator/config"
	"github.com/pb33f/libopenapi-validator/errors"
)

// Transport is an http.RoundTripper that checks each exchange against an OpenAPI document: that
// every answer is one that the document tells of, and that a request which was accepted is one that
// the document allows. It hands on what it has checked unchanged; streams are checked by their
// status and type alone.
type Transport struct {
	next   http.RoundTripper
	report func(error)
	check  validator.Validator

	mu    *sync.Mutex // of check, which several transports may share
	count int
}

// NewTransport reads the document; report is told of each deviation from it.
func NewTransport(document []byte, next http.RoundTripper, report func(error)) (*Transport, error) {
	parsed, err := libopenapi.NewDocument(document)
	if err != nil {
		return nil, fmt.Errorf("read the OpenAPI document: %w", err)
	}
	// Keys are what the tests are about: the document does not decide on them.
	check, errs := validator.NewValidator(parsed, config.WithoutSecurityValidation(), config.WithFormatAssertions())
	if len(errs) > 0 {
		return nil, fmt.Errorf("read the OpenAPI document: %v", errs)
	}
	if ok, faults := check.ValidateDocument(); !ok {
		return nil, fmt.Errorf("the OpenAPI document is not one: %s", list(faults))
	}
	return &Transport{next: next, report: report, check: check, mu: new(sync.Mutex)}, nil
}

// With is a transport for another server of the same document, which need not be read again.
func (t *Transport) With(next http.RoundTripper, report func(error)) *Transport {
	return &Transport{next: next, report: report, check: t.check, mu: t.mu}
}

// RoundTrip makes the exchange and checks it.
func (t *Transport) RoundTrip(request *http.Request) (*http.Response, error) {
	var sent []byte
	if request.Body != nil && request.Body != http.NoBody {
		var err error
		if sent, err = io.ReadAll(request.Body); err != nil {
			return nil, err
		}
		request.Body.Close()
		request = request.Clone(request.Context())
		request.Body = io.NopCloser(bytes.NewReader(sent))
	}
	response, err := t.next.RoundTrip(request)
	if err != nil {
		return nil, err
	}
	kind, _, _ := mime.ParseMediaType(response.Header.Get("Content-Type"))
	stream := kind == "text/event-stream"
	var received []byte
	if !stream {
		if received, err = io.ReadAll(response.Body); err != nil {
			response.Body.Close()
			return nil, err
		}
		response.Body.Close()
		response.Body = io.NopCloser(bytes.NewReader(received))
	}
	t.mu.Lock()
	defer t.mu.Unlock() // the validator is not ours to trust with goroutines
	t.count++

	// What the router itself refuses is on no path of the document.
	if known := t.known(request); !known {
		if response.StatusCode != http.StatusNotFound && response.StatusCode != http.StatusMethodNotAllowed {
			t.fault(request, response, "no operation of the document")
		}
		return response, nil
	}
	if !stream && kind != "image/png" && kind != "image/jpeg" && kind != "image/webp" {
		copied := *response
		copied.Body = io.NopCloser(bytes.NewReader(received))
		if ok, faults := t.check.ValidateHttpResponse(copyOf(request, sent), &copied); !ok {
			t.fault(request, response, list(faults)+"\n"+string(received))
		}
	} else if response.StatusCode != http.StatusOK {
		t.fault(request, response, "a stream or a picture with another status than 200")
	}
	if response.StatusCode < 400 {
		if ok, faults := t.check.ValidateHttpRequest(copyOf(request, sent)); !ok {
			t.fault(request, response, "accepted, against the document: "+list(faults)+"\n"+string(sent))
		}
	}
	return response, nil
}

// Checked is how many exchanges have been checked.
func (t *Transport) Checked() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.count
}

// known tells whether the document has an operation for the request.
func (t *Transport) known(request *http.Request) bool {
	if path := request.URL.Path; strings.Contains(path, "//") || len(path) > 1 && strings.HasSuffix(path, "/") {
		return false // the validator is looser about slashes than the router
	}
	_, faults := t.check.ValidateHttpRequest(copyOf(request, nil))
	for _, fault := range faults {
		if fault.IsPathMissingError() || fault.IsOperationMissingError() {
			return false
		}
	}
	return true
}

func (t *Transport) fault(request *http.Request, response *http.Response, what string) {
	t.report(fmt.Errorf("%s %s answered %s: %s", request.Method, request.URL.Path, response.Status, what))
}

func copyOf(request *http.Request, body []byte) *http.Request {
	c := request.Clone(request.Context())
	c.Body = io.NopCloser(bytes.NewReader(body))
	c.ContentLength = int64(len(body))
	if len(body) > 0 && c.Header.Get("Content-Type") == "" {
		c.Header.Set("Content-Type", "application/json") // as the server takes it
	}
	return c
}

func list(faults []*errors.ValidationError) string {
	var all []string
	for _, fault := range faults {
		text := fault.Message + ": " + fault.Reason
		for _, deep := range fault.SchemaValidationErrors {
			text += "; " + deep.FieldPath + " " + deep.Reason
		}
		all = append(all, text)
	}
	return strings.Join(all, "\n")
}
