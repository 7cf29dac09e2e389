// Package model is language models: a conversation in no vendor's words, and the vendors' wire
// formats, spoken through their own SDKs, behind the interface [Model].
//
// It knows no desktop, no session and no store. What a model wants done on a display stays in that
// vendor's own action objects, which package desktop/dialect translates; here they are only carried.
package model

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"time"
)

// Format is a wire format that a provider speaks.
type Format string

const (
	Anthropic  Format = "anthropic"   // Messages
	OpenAI     Format = "openai"      // Responses
	OpenAIChat Format = "openai-chat" // Chat Completions, as local servers and brokers speak it
	Gemini     Format = "gemini"      // generateContent
)

// Formats are all there are.
func Formats() []Format { return []Format{Anthropic, OpenAI, OpenAIChat, Gemini} }

// Endpoint is where a model is asked.
type Endpoint struct {
	Format  Format
	BaseURL string // the vendor's own when empty
	Key     string // the credential; it never leaves the host and is never logged
	Model   string // as the provider names it

	Provider string // the id of who lends it
	// Private tells that the operator has named the address: it may be the host itself, or on its
	// networks. Any other is reached only where it is public.
	Private bool
}

// String is an endpoint without its key, also for logs.
func (e Endpoint) String() string {
	return fmt.Sprintf("%s model %s of %s", e.Format, e.Model, e.Provider)
}

// LogValue is the same.
func (e Endpoint) LogValue() slog.Value { return slog.StringValue(e.String()) }

// Model answers conversations. Implementations are safe for concurrent use and keep no state of a
// conversation.
type Model interface {
	// Next asks for the next message of a conversation and tells of it while it arrives. Its errors
	// are *Error, but for that of an ended ctx. Nothing is tried again here: that is the caller's, who
	// knows what has been told already.
	Next(ctx context.Context, request Request, tell func(Delta)) (Response, error)
}

// Request is a conversation that the model is to go on with.
type Request struct {
	System   string // stable over a session's turns, so that providers cache it
	Messages []Message
	Tools    []Tool
	// Computer, when set, offers the vendor's own computer tool for a display of this size (a function
	// tool of the same name where a format has none).
	Computer  *Display
	MaxTokens int // of the answer; 0 is DefaultMaxTokens
}

// DefaultMaxTokens is how long an answer may get when a request does not say.
const DefaultMaxTokens = 8192

// Display is the size that is announced to a model, in pixels. What it then names are these pixels.
type Display struct{ Width, Height int }

// Computer is the name of the tool with which a model sees the screen and acts on it.
const Computer = "computer"

// Tool is a function that a model may call.
type Tool struct {
	Name        string
	Description string
	Schema      json.RawMessage // of its arguments, a JSON schema of type object
}

// Role says whose message it is.
type Role string

const (
	User      Role = "user" // what a person said, and the results of calls
	Assistant Role = "assistant"
)

// Message is one of a conversation. It is kept as JSON.
type Message struct {
	Role  Role   `json:"role"`
	Parts []Part `json:"parts"`
}

// Part is a piece of a message; exactly one of its members is set.
type Part struct {
	Text      string     `json:"text,omitempty"`
	Reasoning *Reasoning `json:"reasoning,omitempty"`
	Picture   *Picture   `json:"picture,omitempty"`
	Call      *Call      `json:"call,omitempty"`
	Result    *Result    `json:"result,omitempty"`
}

// Reasoning is what a model thought. Opaque is what its vendor wants back with the next request
// (a signature, an encrypted item); another format drops it.
type Reasoning struct {
	Text   string          `json:"text,omitempty"`
	Format Format          `json:"format"`
	Opaque json.RawMessage `json:"opaque,omitempty"`
}

// Picture is an image, encoded.
type Picture struct {
	MediaType string `json:"mediaType"` // image/png, image/jpeg or image/webp
	Data      []byte `json:"data"`
	// Width and Height are in pixels.
	Width  int `json:"width"`
	Height int `json:"height"`
}

// Call is a tool that the model wants used.
type Call struct {
	ID   string `json:"id"`   // the provider's, or made up where a format has none
	Tool string `json:"tool"` // a Tool's name, or Computer
	// Arguments is a JSON object. For Computer it is in the vendor's own words, complete, as
	// desktop/dialect decodes it: Anthropic's input, OpenAI's computer_call with its
	// pending_safety_checks, Gemini's {name, args} with its safety_decision among the args, and for
	// OpenAIChat, which has no such tool, an action of bureau's dialect or an array of them.
	Arguments json.RawMessage `json:"arguments"`
	// Format is whose call it is, and Opaque what that vendor wants back with it (Gemini's thought
	// signature, OpenAI's item id).
	Format Format          `json:"format"`
	Opaque json.RawMessage `json:"opaque,omitempty"`
}

// Result is what came of a call. Each call of a message has one in the next message.
type Result struct {
	ID      string   `json:"id"` // the call's
	Tool    string   `json:"tool"`
	Text    string   `json:"text,omitempty"`
	Picture *Picture `json:"picture,omitempty"`
	Failed  bool     `json:"failed,omitempty"`
	// Acknowledged are safety checks that the call came with and that somebody has agreed to: OpenAI's
	// pending_safety_checks as they stand in the call's Arguments, or true for a safety_decision of
	// Gemini's.
	Acknowledged json.RawMessage `json:"acknowledged,omitempty"`
}

// Delta is news of a message that is arriving; exactly one member is set, but for Call, which comes
// with Arguments as they grow.
type Delta struct {
	Text      string
	Reasoning string
	Call      *CallDelta
}

// CallDelta is news of a call: its beginning (Arguments empty), then pieces of its arguments.
type CallDelta struct {
	ID, Tool  string
	Arguments string // the next piece of the JSON
}

// Response is a complete message of a model.
type Response struct {
	Message Message // of the role Assistant
	Stop    Stop
	Usage   Usage
	Model   string // which one answered, as the provider says
}

// Stop says why a message ended.
type Stop string

const (
	EndTurn   Stop = "end_turn"   // the model has said what it had to say
	ToolUse   Stop = "tool_use"   // it waits for the results of its calls
	MaxTokens Stop = "max_tokens" // cut off
	Refusal   Stop = "refusal"    // it, or its provider's filter, will not
)

// Usage is tokens.
type Usage struct {
	Input      int64 `json:"inputTokens"`      // read anew, those of the two below not counted
	CacheRead  int64 `json:"cacheReadTokens"`  // read from the provider's cache
	CacheWrite int64 `json:"cacheWriteTokens"` // read and written to it
	Output     int64 `json:"outputTokens"`     // reasoning included
}

// Add is the sum.
func (u Usage) Add(v Usage) Usage {
	return Usage{u.Input + v.Input, u.CacheRead + v.CacheRead, u.CacheWrite + v.CacheWrite, u.Output + v.Output}
}

// Code is the kind of an Error.
type Code string

const (
	Overloaded      Code = "overloaded"       // 529, 503 and their like: again later, or another model
	RateLimited     Code = "rate_limited"     // 429: again after RetryAfter
	Unreachable     Code = "unreachable"      // no connection, or it broke before the message was complete
	Unauthorized    Code = "unauthorized"     // the provider refuses the key
	ContextOverflow Code = "context_overflow" // the conversation is too long for the model
	PictureTooLarge Code = "picture_too_large"
	Invalid         Code = "invalid"   // the provider refuses the request for another reason
	Malformed       Code = "malformed" // the answer is not what the format says
)

// Error is why a model did not answer.
type Error struct {
	Code       Code
	Status     int           // HTTP's, 0 when there was none
	RetryAfter time.Duration // as the provider asks, 0 when it does not
	Message    string        // for a person; without credentials
	Cause      error
}

func (e *Error) Error() string {
	if e.Status != 0 {
		return fmt.Sprintf("the model provider answered %d (%s): %s", e.Status, e.Code, e.Message)
	}
	return fmt.Sprintf("the model provider (%s): %s", e.Code, e.Message)
}

func (e *Error) Unwrap() error { return e.Cause }

// Passing tells whether the same request may succeed later or elsewhere.
func (e *Error) Passing() bool {
	return e.Code == Overloaded || e.Code == RateLimited || e.Code == Unreachable || e.Code == Malformed
}
