package api

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humagin"

	"bureau/assistant"
	"bureau/desktop"
)

// Assistant is what the API asks of the desktops' agents. What belongs to a desktop that the caller
// may not know of is NotFound.
type Assistant interface {
	// Begin begins a turn and returns at once; the turn goes on whatever becomes of ctx. It is
	// Unavailable when the desktop cannot be used, and Conflict while another turn runs.
	Begin(ctx context.Context, caller desktop.Caller, desktopID string, prompt assistant.Prompt) (assistant.Turn, error)
	// Turn is one as it is now, Wait one that has ended.
	Turn(ctx context.Context, caller desktop.Caller, desktopID, turnID string) (assistant.Turn, error)
	Wait(ctx context.Context, caller desktop.Caller, desktopID, turnID string) (assistant.Turn, error)
	// Events waits for events after a number and returns some; none when there are no more to come.
	Events(ctx context.Context, caller desktop.Caller, desktopID, turnID string, after int64) ([]assistant.Event, error)
	// Cancel ends the turn that runs, or that turn or none, and returns it.
	Cancel(ctx context.Context, caller desktop.Caller, desktopID, turnID string) (assistant.Turn, error)

	Sessions(ctx context.Context, caller desktop.Caller, desktopID string) ([]assistant.Session, error)
	History(ctx context.Context, caller desktop.Caller, desktopID, sessionID string) (assistant.Session, []assistant.Turn, error)
	DeleteSession(ctx context.Context, caller desktop.Caller, desktopID, sessionID string) error

	Approvals(ctx context.Context, caller desktop.Caller, desktopID string) ([]assistant.Approval, error)
	Decide(ctx context.Context, caller desktop.Caller, desktopID, approvalID string, approve bool) (assistant.Approval, error)
}

// ChatRequest is a message to a desktop's agent.
type ChatRequest struct {
	Message            string `json:"message" minLength:"1" maxLength:"200000" doc:"What the agent is to do or to answer" example:"Open the editor and write a poem"`
	SessionID          string `json:"sessionId,omitempty" maxLength:"64" doc:"The session to go on with; a new one by default"`
	Model              string `json:"model,omitempty" maxLength:"200" doc:"In place of the provider's usual model"`
	MaxSteps           int    `json:"maxSteps,omitempty" minimum:"1" maximum:"1000" doc:"How many steps it may do; the appliance's default when absent"`
	TimeoutMs          int64  `json:"timeoutMs,omitempty" minimum:"1" maximum:"86400000" doc:"How long it may take, without the time in which a person is waited for; the appliance's default when absent"`
	CancelOnDisconnect bool   `json:"cancelOnDisconnect,omitempty" doc:"End the turn when this request's connection is lost. By default it goes on, and its result stays readable"`
}

// ChatSession is a session and its turns.
type ChatSession struct {
	assistant.Session
	History []assistant.Turn `json:"history" doc:"Its turns, oldest first"`
}

// Decision is the answer to an approval.
type Decision struct {
	Approve bool `json:"approve" doc:"Whether the step may be done"`
}

// CancelRequest names the turn to end.
type CancelRequest struct {
	TurnID string `json:"turnId,omitempty" maxLength:"64" doc:"Only this one; by default whichever runs"`
}

type turnAnswer struct {
	Body assistant.Turn
}

// TurnPath is the input of a route of one turn.
type TurnPath struct {
	DesktopPath
	TurnID string `path:"turnId" maxLength:"64"`
}

// SessionPath is the input of a route of one session.
type SessionPath struct {
	DesktopPath
	SessionID string `path:"sessionId" maxLength:"64"`
}

const chatEvents = "Events, each with a number as its `id`: `turn` (it has begun), `text` and `reasoning` (`{text}`, the next piece), " +
	"`discarded` (`{reason}`: the pieces since the last `message` are void, the answer broke off), `message` (`{text}`, one is complete), " +
	"`tool.call` (`{number, tool, arguments}`), `tool.output` (`{number, stream, data}`), `tool.result` (the step, and a `thumbnail`), " +
	"`approval` and `approval.decided` (an approval), `paused` (`{reason}`) and `resumed`, `retry` (`{reason, waitMs, model}`), " +
	"`usage` (`{usage, model}`), and at the end `done`, which is the turn."

func (s *Server) chatRoutes() {
	turn := s.schema(reflect.TypeFor[assistant.Turn]())
	stream := streamOf("id: 2\nevent: text\ndata: {\"text\":\"I \"}\n\n")

	register(s, needs(desktop.CanChat), once(huma.Operation{
		OperationID: "chat", Method: http.MethodPost, Path: desktopPath + "/chat", Tags: []string{tagChat},
		Summary: "Give the desktop's agent a message",
		Description: "Waits for the turn's end, however it ends: `stopReason` says how. With `Accept: text/event-stream` it is told as it happens. " + chatEvents +
			" A stream that was cut off goes on at the turn's events. One turn at a time: a second is a 409 whose `turnId` names the first.",
		MaxBodyBytes: largeBodyLimit,
		Errors:       []int{http.StatusConflict},
		Responses: map[string]*huma.Response{"200": {Description: "The turn, ended",
			Content: map[string]*huma.MediaType{"application/json": {Schema: turn}, eventStream: stream}}},
	}, makeAnswer), func(ctx context.Context, in *bodyInput[ChatRequest]) (*bodyAnswer, error) {
		r := in.Body
		var begun assistant.Turn
		var err error
		if id := doneBefore(ctx); id != "" {
			begun, err = s.assistant.Turn(ctx, callerOf(ctx), in.ID, id)
		} else {
			begun, err = s.assistant.Begin(ctx, callerOf(ctx), in.ID, assistant.Prompt{Message: r.Message, SessionID: r.SessionID, Model: r.Model,
				MaxSteps: r.MaxSteps, Timeout: time.Duration(r.TimeoutMs) * time.Millisecond})
		}
		if err != nil {
			return nil, err
		}
		s.recordTurn(ctx, begun)
		return &bodyAnswer{func(ctx huma.Context) {
			if r.CancelOnDisconnect {
				defer s.cancelAbandoned(ctx.Context(), begun)
			}
			if accepts(ctx.Header("Accept"), eventStream) {
				s.follow(ctx, begun, 0)
				return
			}
			ended, err := s.assistant.Wait(ctx.Context(), callerOf(ctx.Context()), in.ID, begun.ID)
			if err != nil {
				s.fail(ctx, err)
				return
			}
			respond(ctx, http.StatusOK, ended)
		}}, nil
	})

	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "cancelChat", Method: http.MethodPost, Path: desktopPath + "/chat/cancel", Tags: []string{tagChat},
		Summary: "End the turn that runs", Description: "At once. Answers with the turn, ended; 409 when none runs.",
		Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *optionalInput[CancelRequest]) (*turnAnswer, error) {
		ended, err := s.assistant.Cancel(ctx, callerOf(ctx), in.ID, valueOf(in.Body).TurnID)
		did(ctx).Target = ended.ID
		return &turnAnswer{ended}, err
	})

	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "getTurn", Method: http.MethodGet, Path: desktopPath + "/chat/turns/{turnId}", Tags: []string{tagChat},
		Summary: "Get a turn", Description: "As it is now. `endedAt` is null while it runs.",
	}, func(ctx context.Context, in *TurnPath) (*turnAnswer, error) {
		t, err := s.assistant.Turn(ctx, callerOf(ctx), in.ID, in.TurnID)
		return &turnAnswer{t}, err
	})

	type eventsInput struct {
		TurnPath
		LastEventID string `header:"Last-Event-ID" pattern:"^[0-9]{1,18}$" doc:"The id of the last event that was read: those after it follow"`
	}
	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "followTurn", Method: http.MethodGet, Path: desktopPath + "/chat/turns/{turnId}/events", Tags: []string{tagChat},
		Summary: "Follow a turn", Description: "From its beginning, or after `Last-Event-ID`, to its end. A turn that has ended can be followed for a day; then only `done` is left. " + chatEvents,
		Errors: []int{http.StatusBadRequest},
		Responses: map[string]*huma.Response{"200": {Description: "Its events",
			Content: map[string]*huma.MediaType{eventStream: stream}}},
	}, func(ctx context.Context, in *eventsInput) (*bodyAnswer, error) {
		after := int64(0)
		if in.LastEventID != "" {
			var err error
			if after, err = strconv.ParseInt(in.LastEventID, 10, 64); err != nil || after < 0 {
				return nil, desktop.Errorf(desktop.Invalid, "Last-Event-ID: expected the id of an event")
			}
		}
		t, err := s.assistant.Turn(ctx, callerOf(ctx), in.ID, in.TurnID)
		return &bodyAnswer{func(ctx huma.Context) { s.follow(ctx, t, after) }}, err
	})

	type sessionsAnswer struct {
		Body []assistant.Session
	}
	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "listSessions", Method: http.MethodGet, Path: desktopPath + "/chat/sessions", Tags: []string{tagChat},
		Summary: "List the sessions with a desktop's agent", Description: "The 200 used last, the most recent first.",
	}, func(ctx context.Context, in *DesktopPath) (*sessionsAnswer, error) {
		list, err := s.assistant.Sessions(ctx, callerOf(ctx), in.ID)
		return &sessionsAnswer{append([]assistant.Session{}, list...)}, err
	})

	type sessionAnswer struct {
		Body ChatSession
	}
	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "getSession", Method: http.MethodGet, Path: desktopPath + "/chat/sessions/{sessionId}", Tags: []string{tagChat},
		Summary: "Get a session with its history",
	}, func(ctx context.Context, in *SessionPath) (*sessionAnswer, error) {
		session, turns, err := s.assistant.History(ctx, callerOf(ctx), in.ID, in.SessionID)
		return &sessionAnswer{ChatSession{session, append([]assistant.Turn{}, turns...)}}, err
	})
	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "deleteSession", Method: http.MethodDelete, Path: desktopPath + "/chat/sessions/{sessionId}", Tags: []string{tagChat},
		Summary: "Forget a session", Description: "With its history, for good. 409 while one of its turns runs.",
		Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *SessionPath) (*struct{}, error) {
		did(ctx).Target = in.SessionID
		return nil, s.assistant.DeleteSession(ctx, callerOf(ctx), in.ID, in.SessionID)
	})

	type approvalsAnswer struct {
		Body []assistant.Approval
	}
	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "listApprovals", Method: http.MethodGet, Path: desktopPath + "/approvals", Tags: []string{tagChat},
		Summary: "List the steps that wait, or waited, for a yes", Description: "The newest 200, the most recent first. Which steps wait is the desktop's `approval`.",
	}, func(ctx context.Context, in *DesktopPath) (*approvalsAnswer, error) {
		list, err := s.assistant.Approvals(ctx, callerOf(ctx), in.ID)
		return &approvalsAnswer{append([]assistant.Approval{}, list...)}, err
	})
	type decideInput struct {
		DesktopPath
		ApprovalID string `path:"approvalId" maxLength:"64"`
		Body       Decision
	}
	type approvalAnswer struct {
		Body assistant.Approval
	}
	register(s, needs(desktop.CanChat), huma.Operation{
		OperationID: "decideApproval", Method: http.MethodPost, Path: desktopPath + "/approvals/{approvalId}", Tags: []string{tagChat},
		Summary: "Say yes or no to a step", Description: "409 when that has been decided, or its time was up.",
		Errors: []int{http.StatusConflict},
	}, func(ctx context.Context, in *decideInput) (*approvalAnswer, error) {
		did(ctx).Target = in.ApprovalID
		decision := "deny"
		if in.Body.Approve {
			decision = "approve"
		}
		counts(ctx, decision, 1)
		approval, err := s.assistant.Decide(ctx, callerOf(ctx), in.ID, in.ApprovalID, in.Body.Approve)
		return &approvalAnswer{approval}, err
	})
}

// recordTurn has the beginning of a turn in the log, rather than its end, which may be a day away.
func (s *Server) recordTurn(ctx context.Context, begun assistant.Turn) {
	did(ctx).Target = begun.ID
	s.record(ctx, exchangeOf(ctx), http.StatusOK)
}

// cancelAbandoned ends a turn whose caller has gone before it had ended.
func (s *Server) cancelAbandoned(ctx context.Context, t assistant.Turn) {
	if ctx.Err() == nil {
		return
	}
	// No turn of that name runs any more, if it is an error.
	_, _ = s.assistant.Cancel(context.WithoutCancel(ctx), callerOf(ctx), t.DesktopID, t.ID)
}

// follow sends a turn's events as they come.
func (s *Server) follow(ctx huma.Context, t assistant.Turn, after int64) {
	s.eachEvent(ctx, t, after, func(w *eventWriter, event assistant.Event) {
		w.write("id: " + strconv.FormatInt(event.Number, 10) + "\nevent: " + string(event.Kind) + "\ndata: " + string(event.Data) + "\n\n")
	})
}

// eachEvent hands a turn's events to send until there are no more, or the caller has gone.
func (s *Server) eachEvent(ctx huma.Context, t assistant.Turn, after int64, send func(*eventWriter, assistant.Event)) {
	within, cancel := context.WithCancel(ctx.Context())
	defer cancel()
	out := &eventWriter{w: humagin.Unwrap(ctx).Writer, gone: cancel}
	for {
		beat, release := context.WithTimeout(within, heartbeat)
		events, err := s.assistant.Events(beat, callerOf(ctx.Context()), t.DesktopID, t.ID, after)
		release()
		switch {
		case within.Err() != nil:
			return
		case errors.Is(err, context.DeadlineExceeded):
			out.comment("alive")
			continue
		case err != nil && out.begun:
			out.send("error", s.problem(ctx.Context(), err))
			return
		case err != nil:
			s.fail(ctx, err)
			return
		case len(events) == 0:
			if !out.begun {
				out.comment("over")
			}
			return
		}
		for _, event := range events {
			send(out, event)
			after = event.Number
		}
	}
}
