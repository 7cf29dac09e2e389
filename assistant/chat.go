package assistant

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/json"
	"strings"
	"time"

	"bureau/assistant/model"
)

// Limits of what a caller may ask for.
const (
	MaxMessageLength = 200_000 // bytes of one message
	MaxSteps         = 1_000
	MaxTimeout       = 24 * time.Hour
)

// Prompt is a message to a desktop's agent, and within which limits it is to be answered.
type Prompt struct {
	Message   string
	SessionID string        // the session to go on with; a new one when empty
	Model     string        // in place of the provider's usual one
	MaxSteps  int           // the service's default when 0
	Timeout   time.Duration // the service's default when 0
	// Earlier is what was said before, as the caller knows it, in a session that begins with this
	// message.
	Earlier string
	// Fingerprint, when not empty, names the state that the caller thinks its conversation is in: the
	// session that was left in it is gone on with, or a new one begun.
	Fingerprint string
	// Leave is the fingerprint of the session's state after the answer.
	Leave func(answer string) string
}

// Session is a conversation with a desktop's agent.
type Session struct {
	ID        string    `json:"sessionId" example:"ses-7k3m9q2w5x8r4t6y"`
	DesktopID string    `json:"desktopId"`
	Title     string    `json:"title" doc:"The beginning of its first message"`
	Turns     int       `json:"turns" doc:"How many messages it has had"`
	CreatedAt time.Time `json:"createdAt"`
	UpdatedAt time.Time `json:"updatedAt"`
}

// StopReason says why a turn ended.
type StopReason string

// The reasons for a turn's end.
const (
	EndTurn         StopReason = "end_turn"         // the agent has said what it had to say
	MaxStepsReached StopReason = "max_steps"        // it had done as many steps as it may
	MaxTokens       StopReason = "max_tokens"       // the model's answer was cut off
	TimedOut        StopReason = "timeout"          // its time was up
	BudgetExhausted StopReason = "budget_exhausted" // it, its desktop or its owner had used up the tokens they may
	Cancelled       StopReason = "cancelled"        // somebody ended it
	Refusal         StopReason = "refusal"          // the model, or its provider, would not
	Interrupted     StopReason = "interrupted"      // the appliance ended in its middle
	Failed          StopReason = "error"            // the sentence beside it says why
)

// Turn is a message to a desktop's agent and all that came of it.
type Turn struct {
	ID         string      `json:"turnId" example:"turn-7k3m9q2w5x8r4t6y"`
	SessionID  string      `json:"sessionId"`
	DesktopID  string      `json:"desktopId"`
	Prompt     string      `json:"prompt" doc:"What the agent was told"`
	Message    string      `json:"message" doc:"What it answered"`
	StopReason StopReason  `json:"stopReason,omitempty" enum:"end_turn,max_steps,max_tokens,timeout,budget_exhausted,cancelled,refusal,interrupted,error" doc:"Why it ended; absent while it runs"`
	Error      string      `json:"error,omitempty" doc:"More about a stopReason that is not end_turn, in a sentence"`
	Model      string      `json:"model,omitempty" doc:"The model that answered last"`
	Steps      []Step      `json:"steps" doc:"What it did"`
	Usage      model.Usage `json:"usage" doc:"Tokens, of all its requests together"`
	CreatedAt  time.Time   `json:"createdAt"`
	EndedAt    *time.Time  `json:"endedAt" doc:"null while it runs"`
}

// Running tells whether the turn has not ended.
func (t Turn) Running() bool { return t.EndedAt == nil }

// Step is one use of a tool.
type Step struct {
	Number     int            `json:"number" doc:"From 1 within its turn"`
	Tool       string         `json:"tool" example:"bash"`
	Arguments  map[string]any `json:"arguments" doc:"As the model gave them"`
	Result     string         `json:"result" doc:"What the model was told of it; a long one is shortened"`
	Failed     bool           `json:"failed,omitempty"`
	At         time.Time      `json:"at"`
	DurationMs float64        `json:"durationMs"`
	DesktopMs  float64        `json:"desktopMs,omitempty" doc:"Of that, what the desktop took to do it and to come to rest; a step of an agent in the desktop does not tell"`
}

// Approval is a step that waits, or waited, for a person's yes.
type Approval struct {
	ID        string         `json:"approvalId" example:"apr-7k3m9q2w5x8r4t6y"`
	DesktopID string         `json:"desktopId"`
	SessionID string         `json:"sessionId"`
	TurnID    string         `json:"turnId"`
	Step      int            `json:"step" doc:"Number of the step within its turn"`
	Tool      string         `json:"tool"`
	Arguments map[string]any `json:"arguments" doc:"Exactly what will be done"`
	Reason    string         `json:"reason" doc:"Why it needs a yes"`
	Status    ApprovalStatus `json:"status" enum:"pending,approved,denied,expired"`
	CreatedAt time.Time      `json:"createdAt"`
	ExpiresAt time.Time      `json:"expiresAt" doc:"When no answer becomes a no"`
	DecidedAt *time.Time     `json:"decidedAt"`
}

// ApprovalStatus is where an Approval stands.
type ApprovalStatus string

// The statuses of an Approval.
const (
	Pending  ApprovalStatus = "pending"
	Approved ApprovalStatus = "approved"
	Denied   ApprovalStatus = "denied"
	Expired  ApprovalStatus = "expired" // nobody answered in time, or the turn ended first
)

// Event is news of a turn. Its numbers grow within the turn, not necessarily by one.
type Event struct {
	Number int64
	Kind   EventKind
	Data   json.RawMessage // an object; which, is said at the kind
}

// EventKind says what an Event tells.
type EventKind string

// The kinds of events, and the members of their data.
const (
	EventTurn       EventKind = "turn"             // the Turn has begun
	EventText       EventKind = "text"             // text: the next piece of what the model says
	EventReasoning  EventKind = "reasoning"        // text: the next piece of what it thinks
	EventDiscarded  EventKind = "discarded"        // reason: text and reasoning since the last message are void, for the answer broke off and is asked for anew
	EventMessage    EventKind = "message"          // text: a message of the model is complete, and this is its text
	EventToolCall   EventKind = "tool.call"        // number, tool, arguments: a step begins
	EventToolOutput EventKind = "tool.output"      // number, stream, data: what a command prints meanwhile
	EventToolResult EventKind = "tool.result"      // a Step, which has ended, and its thumbnail
	EventApproval   EventKind = "approval"         // an Approval is waited for
	EventDecided    EventKind = "approval.decided" // an Approval has been answered, or has expired
	EventPaused     EventKind = "paused"           // reason, and what the desktop says of it: the turn waits
	EventResumed    EventKind = "resumed"          // it goes on
	EventRetry      EventKind = "retry"            // reason, waitMs, model: the model is asked again, or another one
	EventUsage      EventKind = "usage"            // the Turn's usage so far, and model
	EventDone       EventKind = "done"             // the Turn, ended; there are no more
)

// Thumbnail is a small picture of the display, for a person to follow by.
type Thumbnail struct {
	MediaType string `json:"mediaType"`
	Data      []byte `json:"data"`
	Width     int    `json:"width"`
	Height    int    `json:"height"`
}

// newID makes an id: a prefix and 80 random bits in lower-case base 32.
func newID(prefix string) string {
	b := make([]byte, 10)
	rand.Read(b) // never fails: crypto/rand
	return prefix + strings.ToLower(base32.StdEncoding.EncodeToString(b))
}

// shorten keeps the first bytes of a text, whole characters of them.
func shorten(text string, most int) string {
	if len(text) <= most {
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	return strings.ToValidUTF8(text[:most], "") + "…"
}
