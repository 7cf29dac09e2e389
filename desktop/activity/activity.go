// Package activity is the record of who did what to which desktop: what an entry says, who may read
// it, and how it gets into the store without holding up what it tells of.
//
// The log is append-only. An entry names everything it is about by itself, so that it outlives the
// desktop, the user and the key. It never has what was typed, copied, said or run, only of which kind
// it was and how often: it must be safe to show to whoever may see that something happened at all.
//
// There are two ways in. Record returns when the entry is on the disk: for what changes what exists
// or who may do what, and it is called before the answer is sent. Note returns at once: for input and
// for refusals, which may come a thousand a second. What is noted is counted by the minute: the first
// of a kind is written within a second, the others of that minute as one entry.
//
// The package must not know HTTP or SQL.
package activity

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"bureau/desktop"
)

// Actor is the kind of who did something.
type Actor string

// The actors.
const (
	ByKey       Actor = "key"       // a caller with an API key
	ByOperator  Actor = "operator"  // whoever opened the administration socket, or runs the command line on the host
	ByAgent     Actor = "agent"     // a desktop's AI agent, for the user that the entry names
	ByGuest     Actor = "guest"     // a program in the desktop
	ByAppliance Actor = "appliance" // bureau of itself
	ByNobody    Actor = "nobody"    // somebody without a good key
)

// Outcome is what came of it.
type Outcome string

// The outcomes.
const (
	Done    Outcome = "done"
	Refused Outcome = "refused" // it was not allowed, not possible, or not well asked
	Failed  Outcome = "failed"  // it should have been done
)

// OutcomeOf is the outcome behind an HTTP status.
func OutcomeOf(status int) Outcome {
	switch {
	case status < 400:
		return Done
	case status < 500:
		return Refused
	}
	return Failed
}

// Entry is a line of the log.
type Entry struct {
	ID    int64     `json:"id" doc:"Larger than those of all earlier entries"`
	At    time.Time `json:"at" doc:"When it was done; of several the first"`
	Until time.Time `json:"until" doc:"Of several the last"`
	Count int64     `json:"count" doc:"How many requests the entry stands for" example:"1"`

	Actor     Actor  `json:"actor" enum:"key,operator,agent,guest,appliance,nobody" doc:"What kind of caller it was: one with a key, the operator on the host, a desktop's AI agent for its user, a program in the desktop, the appliance of itself, or nobody known"`
	UserID    string `json:"userId,omitempty" doc:"Whose key it was, or for whom the agent acted"`
	UserEmail string `json:"userEmail,omitempty"`
	KeyID     string `json:"keyId,omitempty"`
	KeyName   string `json:"keyName,omitempty"`
	Via       string `json:"via" doc:"How it came in: api, socket (of the administration), mcp, chat, gateway (of the models) or command (on the host)" example:"api"`
	Address   string `json:"address,omitempty" doc:"The network address that it came from; the proxy's where there is one"`

	Action      string           `json:"action" doc:"What was done" example:"desktop.stop"`
	DesktopID   string           `json:"desktopId,omitempty" doc:"To which desktop, which may be destroyed"`
	DesktopName string           `json:"desktopName,omitempty" doc:"Its name at that time"`
	Target      string           `json:"target,omitempty" doc:"To what else: the id of a key, a user, a provider, a turn"`
	TargetName  string           `json:"targetName,omitempty" doc:"What that is called"`
	Details     map[string]int64 `json:"details,omitempty" doc:"Of which kinds, and how many of each: of input, of programs that were run, of fields that were changed" example:"{\"click\":2,\"type\":1}"`

	Outcome   Outcome `json:"outcome" enum:"done,refused,failed"`
	Status    int     `json:"status,omitempty" doc:"The HTTP status of the answer" example:"202"`
	RequestID string  `json:"requestId,omitempty" doc:"Of the first request; the appliance's log has it, too"`

	// Owner is the id of the user whose log it belongs to, beside the administrators': the desktop's
	// owner, or else who did it. "" for nobody.
	Owner string `json:"-"`
}

// From fills in who did it.
func (e *Entry) From(caller desktop.Caller) {
	switch {
	case caller.Local:
		e.Actor = ByOperator
		return
	case caller.User.ID == "":
		e.Actor = ByNobody
		return
	}
	e.Actor = ByKey
	e.UserID, e.UserEmail = caller.User.ID, caller.User.Email
	e.KeyID, e.KeyName = caller.Key.ID, caller.Key.Name
	if e.Owner == "" {
		e.Owner = caller.User.ID
	}
}

// kindOf is what entries that are counted together have in common.
type kindOf struct {
	actor                   Actor
	user, key, via, address string
	action, desktop, target string
	owner                   string
	status                  int
}

func (e *Entry) kind() kindOf {
	return kindOf{e.Actor, e.UserID, e.KeyID, e.Via, e.Address, e.Action, e.DesktopID, e.Target, e.Owner, e.Status}
}

// maxDetails is how many kinds one entry tells apart.
const maxDetails = 32

// Others counts the kinds of details for which there was no room.
const Others = "other"

// add counts another entry of the kind into this one.
func (e *Entry) add(other Entry) {
	e.Count += other.Count
	if other.At.Before(e.At) {
		e.At = other.At
	}
	if other.Until.After(e.Until) {
		e.Until = other.Until
	}
	if len(other.Details) == 0 {
		return
	}
	details := maps.Clone(e.Details) // the first one's may be its caller's
	if details == nil {
		details = map[string]int64{}
	}
	for name, n := range other.Details {
		if _, known := details[name]; !known && len(details) >= maxDetails {
			name = Others
		}
		details[name] += n
	}
	e.Details = details
}

// MaxText is the most bytes of a text in an entry; longer ones are cut.
const MaxText = 256

// tidy bounds what an entry takes over from a request, and completes it.
func (e *Entry) tidy() {
	for _, text := range []*string{&e.UserEmail, &e.KeyName, &e.Address, &e.DesktopID, &e.DesktopName, &e.Target, &e.TargetName, &e.RequestID} {
		if len(*text) > MaxText {
			*text = (*text)[:MaxText]
		}
		*text = strings.ToValidUTF8(*text, "\uFFFD")
	}
	if e.Count == 0 {
		e.Count = 1
	}
	if e.At.IsZero() {
		e.At = time.Now()
	}
	if e.Until.Before(e.At) {
		e.Until = e.At
	}
	e.At, e.Until = e.At.UTC(), e.Until.UTC()
	if e.Outcome == "" {
		e.Outcome = OutcomeOf(e.Status)
	}
}

// Query selects entries. Zero members select all.
type Query struct {
	Owner   string // whose log: the user's with this id
	Desktop string // id
	// DesktopName is the name that the desktop had.
	DesktopName string
	User        string // id or e-mail address
	Key         string // id
	Action      string // "desktop.stop", or "desktop." for all that begin so
	Outcome     Outcome
	Since       time.Time
	Until       time.Time // which is not part of it
	// Cursor is the id of the last entry of the page before; 0 for the first page.
	Cursor int64
	Oldest bool // oldest first, and not newest
	Limit  int
}

// Store keeps the log.
type Store interface {
	// AppendActivity adds entries, all or none, durably.
	AppendActivity(ctx context.Context, entries []Entry) error
	Activity(ctx context.Context, query Query) ([]Entry, error)
	// PruneActivity forgets the entries from before then. It is the only way to delete any.
	PruneActivity(ctx context.Context, before time.Time) (int64, error)
}

func sortByTime(list []Entry) {
	slices.SortStableFunc(list, func(a, b Entry) int { return a.At.Compare(b.At) })
}
