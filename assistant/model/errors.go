package model

import (
	"bytes"
	"encoding/json"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// complaint is an error as the vendors and those who speak like them write it.
type complaint struct {
	kind    string // Anthropic's and OpenAI's type, Google's status
	code    string
	message string
	delay   time.Duration // Google's RetryInfo
	reasons []string      // Google's ErrorInfo
}

func readComplaint(body []byte) complaint {
	body = bytes.TrimSpace(body)
	if list := []json.RawMessage{}; json.Unmarshal(body, &list) == nil && len(list) > 0 {
		body = list[0] // Google's, of a request that asked for no events
	}
	var outer struct {
		Error   json.RawMessage `json:"error"`
		Type    string          `json:"type"`
		Code    any             `json:"code"`
		Message any             `json:"message"`
		Detail  any             `json:"detail"`
	}
	if json.Unmarshal(body, &outer) != nil {
		return complaint{message: string(body)}
	}
	var inner struct {
		Type    string `json:"type"`
		Status  any    `json:"status"`
		Code    any    `json:"code"`
		Message string `json:"message"`
		Details []struct {
			Type       string `json:"@type"`
			Reason     string `json:"reason"`
			RetryDelay string `json:"retryDelay"`
		} `json:"details"`
	}
	if json.Unmarshal(outer.Error, &inner) != nil {
		c := complaint{kind: outer.Type, code: word(outer.Code)}
		_ = json.Unmarshal(outer.Error, &c.message)
		for _, text := range []any{outer.Message, outer.Detail} {
			if c.message == "" {
				c.message = word(text)
			}
		}
		return c
	}
	c := complaint{kind: inner.Type, code: word(inner.Code), message: inner.Message}
	if status := word(inner.Status); c.kind == "" {
		c.kind = status
	}
	for _, detail := range inner.Details {
		if detail.Reason != "" {
			c.reasons = append(c.reasons, detail.Reason)
		}
		if delay, err := time.ParseDuration(detail.RetryDelay); err == nil {
			c.delay = delay
		}
	}
	return c
}

// word is a string or a number as a string.
func word(v any) string {
	switch v := v.(type) {
	case string:
		return v
	case float64:
		return strconv.FormatFloat(v, 'f', -1, 64)
	}
	return ""
}

// What vendors say has no common code where it matters most, so their sentences are read too.
var (
	tooLong = regexp.MustCompile(`(?i)context[ _]?(length|window|size|limit)|prompt is too long|prompt too long|maximum context|` +
		`(input|prompt) tokens? (count )?.{0,40}exceed|exceeds the maximum number of tokens|payload size exceeds|request_too_large|too many tokens in`)
	tooLarge = regexp.MustCompile(`(?i)(image|picture).{0,120}(exceed|too (large|big)|larger than|max allowed|maximum (size|allowed))|` +
		`(exceed|too (large|big)|maximum).{0,80}\bimage`)
)

// classify makes an Error of a provider's refusal. status is HTTP's, and 0 when the refusal came in
// the middle of an answer.
func classify(status int, header http.Header, body []byte) *Error {
	c := readComplaint(body)
	err := &Error{Status: status, Message: shorten(strings.Join(strings.Fields(c.message), " "), 500)}
	if err.Message == "" {
		if err.Message = c.kind; err.Message == "" {
			err.Message = http.StatusText(status)
		}
	}
	if n, _ := strconv.Atoi(c.code); status == 0 && n >= 400 && n < 600 {
		status = n // Google, OpenRouter and others give HTTP's in the body
	}
	is := func(words ...string) bool {
		for _, w := range words {
			if strings.EqualFold(c.kind, w) || strings.EqualFold(c.code, w) {
				return true
			}
			for _, reason := range c.reasons {
				if strings.EqualFold(reason, w) {
					return true
				}
			}
		}
		return false
	}
	// Where HTTP's status says no more than that something is wrong, the words in the body do.
	request := status == 0 || status == 400 || status == 413 || status == 422
	switch {
	case is("image_too_large", "image_file_too_large") || request && tooLarge.MatchString(c.message):
		err.Code = PictureTooLarge
	case is("context_length_exceeded", "exceed_context_size_error", "request_too_large") || status == 413 || request && tooLong.MatchString(c.message):
		err.Code = ContextOverflow
	case status == 401 || status == 403 || request && is("authentication_error", "permission_error", "invalid_api_key", "API_KEY_INVALID", "UNAUTHENTICATED", "PERMISSION_DENIED"):
		err.Code = Unauthorized
	case status == 429 || status == 402 || request && is("rate_limit_error", "rate_limit_exceeded", "insufficient_quota", "billing_error", "RESOURCE_EXHAUSTED"):
		err.Code = RateLimited
		err.RetryAfter = retryAfter(header, c.delay)
	case status >= 500 || status == 408 || request && is("overloaded_error", "api_error", "timeout_error", "server_error", "server_is_overloaded", "UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED"):
		err.Code = Overloaded
		err.RetryAfter = retryAfter(header, c.delay)
	default:
		err.Code = Invalid
	}
	return err
}

// retryAfter is how long a provider asks to be left alone.
func retryAfter(header http.Header, said time.Duration) time.Duration {
	if ms, err := strconv.ParseFloat(header.Get("Retry-After-Ms"), 64); err == nil && ms > 0 {
		return bound(time.Duration(ms * float64(time.Millisecond)))
	}
	after := header.Get("Retry-After")
	if seconds, err := strconv.ParseFloat(after, 64); err == nil && seconds > 0 {
		return bound(time.Duration(seconds * float64(time.Second)))
	}
	if at, err := http.ParseTime(after); err == nil {
		return bound(time.Until(at))
	}
	return bound(said)
}

func bound(d time.Duration) time.Duration { return min(max(d, 0), time.Hour) }

// secrets looks like a key, also one that a vendor has made half unreadable.
var secrets = regexp.MustCompile(`\b(sk-|AIza)[^\s"',;]{4,}`)

// redact takes the key out of what is said to people.
func redact(s, key string) string {
	if len(key) >= 4 {
		s = strings.ReplaceAll(s, key, "[key]")
	}
	return secrets.ReplaceAllString(s, "[key]")
}

func shorten(s string, most int) string {
	runes := []rune(s)
	if len(runes) <= most {
		return s
	}
	return string(runes[:most]) + "…"
}
