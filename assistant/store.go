package assistant

import (
	"context"
	"time"

	"bureau/assistant/model"
)

// Store keeps conversations. Every method is one transaction, as those of a desktop.Store are.
// What is unknown is desktop.NotFound.
type Store interface {
	// BeginTurn keeps a new turn with its first message, and its session when that is new. The session
	// must be the desktop's. It is Conflict, with the member "turnId", while another turn of the
	// desktop has not ended.
	BeginTurn(ctx context.Context, turn Turn, session *Session) error
	// AppendMessage adds a message to a turn's session, and the steps that it tells of to the turn.
	AppendMessage(ctx context.Context, turn Turn, message model.Message, steps []Step) error
	// AppendStep adds a step alone to a turn.
	AppendStep(ctx context.Context, turnID string, step Step) error
	// DropPictures forgets the oldest pictures of a session's messages, so many of them, those that
	// have been forgotten before included. The messages keep their places.
	DropPictures(ctx context.Context, sessionID string, oldest int) error
	// EndTurn keeps how a turn ended and the fingerprint that its session has now, and makes what was
	// still waiting of its approvals Expired.
	EndTurn(ctx context.Context, turn Turn, fingerprint string) error

	// OpenTurns are those that have not ended.
	OpenTurns(ctx context.Context) ([]Turn, error)
	// Turn is one, with its steps.
	Turn(ctx context.Context, id string) (Turn, error)
	// Messages are those of a session in their order. A picture that has been forgotten has no Data.
	Messages(ctx context.Context, sessionID string) ([]model.Message, error)

	// Sessions are a desktop's, the most recently used first, at most limit.
	Sessions(ctx context.Context, desktopID string, limit int) ([]Session, error)
	Session(ctx context.Context, id string) (Session, error)
	// SessionByFingerprint is the desktop's session that was left so.
	SessionByFingerprint(ctx context.Context, desktopID, fingerprint string) (Session, error)
	// Turns are a session's in their order, with their steps.
	Turns(ctx context.Context, sessionID string) ([]Turn, error)
	// DeleteSession forgets a session and all its turns.
	DeleteSession(ctx context.Context, id string) error

	// AppendEvents keeps news of a turn.
	AppendEvents(ctx context.Context, turnID string, events []Event) error
	// Events are those of a turn after a number, in their order, at most limit.
	Events(ctx context.Context, turnID string, after int64, limit int) ([]Event, error)
	// LastEvent is the number of a turn's newest event, 0 when there is none.
	LastEvent(ctx context.Context, turnID string) (int64, error)
	// PruneEvents forgets the events, but the last one, of a desktop's turns that ended before then.
	PruneEvents(ctx context.Context, desktopID string, before time.Time) error

	InsertApproval(ctx context.Context, approval Approval) error
	// Approvals are a desktop's, the newest first, at most limit.
	Approvals(ctx context.Context, desktopID string, limit int) ([]Approval, error)
	// DecideApproval is Conflict when it has been decided.
	DecideApproval(ctx context.Context, desktopID, id string, status ApprovalStatus, at time.Time) (Approval, error)
}
