package assistant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/desktop/activity"
)

// Options are what a Service is made of. All interfaces are required; zero limits take the defaults.
type Options struct {
	Desktops  Desktops
	Store     Store
	Providers Providers
	Meter     Meter
	// Model is the model at an endpoint.
	Model func(model.Endpoint) (model.Model, error)
	// Note takes down what turns do, for the activity log; nil for nobody.
	Note func(activity.Entry)
	// Use, when not nil, notes that a desktop is used until done is called, so that it is not stopped for
	// inactivity while its agent thinks.
	Use func(desktopID string) (done func())
	Log *slog.Logger // none when nil

	MaxSteps        int           // of a turn that names none
	Timeout         time.Duration // of a turn that names none
	MaxTokens       int64         // that one turn may take, read and written together; 0 is no limit
	ApprovalTimeout time.Duration // after it no answer is a no
	DesktopWait     time.Duration // for a desktop that has gone away in the middle of a turn
}

// Defaults of Options.
const (
	DefaultMaxSteps        = 200
	DefaultTimeout         = time.Hour
	DefaultApprovalTimeout = 10 * time.Minute
	DefaultDesktopWait     = 5 * time.Minute
)

const (
	storeTimeout = 30 * time.Second
	// eventsKept is how long a turn that has ended can be followed as it happened.
	eventsKept = 24 * time.Hour
	// eventLeap is between the events that a turn is known to have had when the appliance died and
	// the one that says so: some that were told had not been kept.
	eventLeap = 1_000_000
	maxListed = 200 // sessions, and approvals
)

// Service is the agents of all desktops: it owns the turns that run.
type Service struct {
	Options
	ctx    context.Context // of the turns
	cancel context.CancelCauseFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	closed bool
	turns  map[string]*turn // those that run, by their desktop

	sleep func(ctx context.Context, d time.Duration) error // of a turn that has to wait
}

// Why a turn's context ended.
var (
	errCancelled   = errors.New("the turn was cancelled")
	errInterrupted = errors.New("the appliance ended in the middle of the turn")
	errTimeout     = errors.New("the turn's time was up")
)

// New makes a Service. Turns that an earlier process left open are closed as interrupted, so that
// their sessions can go on. The turns end, as interrupted, when ctx does.
func New(ctx context.Context, o Options) (*Service, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxSteps == 0 {
		o.MaxSteps = DefaultMaxSteps
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.ApprovalTimeout == 0 {
		o.ApprovalTimeout = DefaultApprovalTimeout
	}
	if o.DesktopWait == 0 {
		o.DesktopWait = DefaultDesktopWait
	}
	s := &Service{Options: o, turns: map[string]*turn{}, sleep: sleep}
	if err := s.recover(ctx); err != nil {
		return nil, err
	}
	turns, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(errInterrupted) })
	s.ctx, s.cancel = turns, func(cause error) { stop(); cancel(cause) }
	return s, nil
}

// Close interrupts the turns that run and waits for their ends.
func (s *Service) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel(errInterrupted)
	s.wg.Wait()
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// recover ends the turns that nobody works on any more.
func (s *Service) recover(ctx context.Context) error {
	open, err := s.Store.OpenTurns(ctx)
	if err != nil {
		return fmt.Errorf("reading the open turns: %w", err)
	}
	for _, t := range open {
		if err := s.abandon(ctx, t); err != nil {
			return fmt.Errorf("closing turn %s: %w", t.ID, err)
		}
	}
	return nil
}

// abandon closes a turn that nobody works on any more, and leaves its session one that can go on.
func (s *Service) abandon(ctx context.Context, t Turn) error {
	messages, err := s.Store.Messages(ctx, t.SessionID)
	if err != nil {
		return err
	}
	t.Message = lastSaid(messages)
	for _, message := range closingMessages(messages, Interrupted, errInterrupted.Error()) {
		if err := s.Store.AppendMessage(ctx, t, message, nil); err != nil {
			return err
		}
	}
	last, err := s.Store.LastEvent(ctx, t.ID)
	if err != nil {
		return err
	}
	ended := now()
	t.StopReason, t.Error, t.EndedAt = Interrupted, errInterrupted.Error(), &ended
	done := Event{Number: last + eventLeap, Kind: EventDone, Data: asJSON(t)}
	if err := errors.Join(s.Store.AppendEvents(ctx, t.ID, []Event{done}), s.Store.EndTurn(ctx, t, "")); err != nil {
		return err
	}
	s.Log.Warn("a turn was interrupted by the appliance's end", "desktop", t.DesktopID, "turn", t.ID)
	return nil
}

// Begin begins a turn and returns at once. The turn goes on whatever becomes of ctx. It is Unavailable
// when the desktop cannot be used, and Conflict, with the member "turnId", while another turn runs.
func (s *Service) Begin(ctx context.Context, caller desktop.Caller, desktopID string, prompt Prompt) (Turn, error) {
	if _, err := s.Desktops.Get(ctx, caller, desktopID); err != nil {
		return Turn{}, err
	}
	// The use begins before the status is looked at: a desktop that runs then is not stopped any more.
	done := func() {}
	if s.Use != nil {
		done = s.Use(desktopID)
	}
	begun := false
	defer func() {
		if !begun {
			done()
		}
	}()
	d, err := s.Desktops.Get(ctx, caller, desktopID)
	if err != nil {
		return Turn{}, err
	}
	if err := prompt.check(); err != nil {
		return Turn{}, err
	}
	if d.Status != desktop.Running || !d.AgentReady {
		return Turn{}, unavailable(d)
	}
	if prompt.MaxSteps == 0 {
		prompt.MaxSteps = s.MaxSteps
	}
	if prompt.Timeout == 0 {
		prompt.Timeout = s.Timeout
	}
	var endpoints []model.Endpoint
	if d.Agent.Kind != desktop.AgentCommand {
		if endpoints, err = s.endpoints(ctx, d, prompt.Model); err != nil {
			return Turn{}, err
		}
	}
	created := now()
	record := Turn{ID: newID("turn-"), SessionID: prompt.SessionID, DesktopID: d.ID, Prompt: prompt.Message, Steps: []Step{}, CreatedAt: created}
	if prompt.SessionID == "" && prompt.Fingerprint != "" {
		found, err := s.Store.SessionByFingerprint(ctx, d.ID, prompt.Fingerprint)
		switch {
		case err == nil:
			record.SessionID, prompt.Earlier = found.ID, ""
		case desktop.CodeOf(err) != desktop.NotFound:
			return Turn{}, err
		}
	}
	var session *Session
	if record.SessionID == "" {
		session = &Session{ID: newID("ses-"), DesktopID: d.ID, Title: title(prompt.Message), CreatedAt: created, UpdatedAt: created}
		record.SessionID = session.ID
	} else {
		prompt.Earlier = ""
	}

	if err := s.lockFor(ctx, d.ID); err != nil {
		return Turn{}, err
	}
	defer s.mu.Unlock()
	err = s.Store.BeginTurn(ctx, record, session)
	if busy := turnIn(err); busy != "" && s.turns[d.ID] == nil {
		// Its end could not be kept.
		if stale, failed := s.Store.Turn(ctx, busy); failed == nil && s.abandon(ctx, stale) == nil {
			err = s.Store.BeginTurn(ctx, record, session)
		}
	}
	if err != nil {
		return Turn{}, err
	}
	t := newTurn(s, caller, d, record, prompt, endpoints)
	s.turns[d.ID] = t
	begun = true
	s.wg.Go(func() {
		defer done()
		t.run()
		s.mu.Lock()
		delete(s.turns, d.ID)
		s.mu.Unlock()
		close(t.ended)
	})
	return record, nil
}

// lockFor locks s.mu when no turn of the desktop is just ending.
func (s *Service) lockFor(ctx context.Context, desktopID string) error {
	for {
		s.mu.Lock()
		if s.closed || s.ctx.Err() != nil {
			s.mu.Unlock()
			return &desktop.Error{Code: desktop.Unavailable, Message: "the appliance is shutting down", RetryAfter: 5 * time.Second}
		}
		t := s.turns[desktopID]
		if t == nil || !t.over() {
			return nil
		}
		s.mu.Unlock()
		select {
		case <-t.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// turnIn is the turn that an error of BeginTurn names.
func turnIn(err error) string {
	var e *desktop.Error
	if errors.As(err, &e) {
		id, _ := e.Details["turnId"].(string)
		return id
	}
	return ""
}

func (p Prompt) check() error {
	switch {
	case strings.TrimSpace(p.Message) == "":
		return desktop.Errorf(desktop.Invalid, "message is empty")
	case len(p.Message) > MaxMessageLength:
		return desktop.Errorf(desktop.TooLarge, "message is longer than %d bytes", MaxMessageLength)
	case p.MaxSteps < 0 || p.MaxSteps > MaxSteps:
		return desktop.Errorf(desktop.Invalid, "maxSteps is not from 1 to %d", MaxSteps)
	case p.Timeout < 0 || p.Timeout > MaxTimeout:
		return desktop.Errorf(desktop.Invalid, "timeoutMs is not from 1 to %d", MaxTimeout.Milliseconds())
	}
	return nil
}

func title(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	return shorten(line, 80)
}

func unavailable(d desktop.Desktop) error {
	e := desktop.Errorf(desktop.Unavailable, "the desktop is %s; start it first", d.Status)
	switch d.Status {
	case desktop.Running, desktop.Booting, desktop.Pending:
		e = desktop.Errorf(desktop.Unavailable, "the desktop is %s and its agent is not ready yet", d.Status)
	}
	e.RetryAfter = 2 * time.Second
	e.Details = map[string]any{"desktopStatus": d.Status}
	return e
}

// endpoints are those to be asked, in their order.
func (s *Service) endpoints(ctx context.Context, d desktop.Desktop, wanted string) ([]model.Endpoint, error) {
	list, err := s.Providers.Endpoints(ctx, d.Owner, d.ID)
	if desktop.CodeOf(err) == desktop.NotFound || err == nil && len(list) == 0 {
		return nil, desktop.Errorf(desktop.Conflict, "no model provider is configured for this desktop: add one with \"bureau provider add\"")
	}
	if err != nil || wanted == "" {
		return list, err
	}
	for i, endpoint := range list {
		if endpoint.Model == wanted {
			return append([]model.Endpoint{endpoint}, append(list[:i:i], list[i+1:]...)...), nil
		}
	}
	other := list[0]
	other.Model = wanted
	return append([]model.Endpoint{other}, list[1:]...), nil
}

// running is the turn that runs on a desktop, nil when none does.
func (s *Service) running(desktopID string) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.turns[desktopID]
}

// find is a desktop's turn: the one that runs, or as it was kept.
func (s *Service) find(ctx context.Context, caller desktop.Caller, desktopID, turnID string) (Turn, *turn, error) {
	if _, err := s.Desktops.Get(ctx, caller, desktopID); err != nil {
		return Turn{}, nil, err
	}
	if t := s.running(desktopID); t != nil && t.id == turnID {
		return t.snapshot(), t, nil
	}
	record, err := s.Store.Turn(ctx, turnID)
	if err == nil && record.DesktopID != desktopID {
		err = desktop.Errorf(desktop.NotFound, "there is no turn %s", shorten(turnID, 64))
	}
	return record, nil, err
}

// Turn is a turn as it is now.
func (s *Service) Turn(ctx context.Context, caller desktop.Caller, desktopID, turnID string) (Turn, error) {
	record, _, err := s.find(ctx, caller, desktopID, turnID)
	return record, err
}

// Wait is a turn when it has ended.
func (s *Service) Wait(ctx context.Context, caller desktop.Caller, desktopID, turnID string) (Turn, error) {
	record, t, err := s.find(ctx, caller, desktopID, turnID)
	if err != nil || t == nil {
		return record, err
	}
	select {
	case <-t.ended:
		return t.snapshot(), nil
	case <-ctx.Done():
		return Turn{}, ctx.Err()
	}
}

// Events waits for events of a turn after a number and returns some of them; none when there are no
// more to come.
func (s *Service) Events(ctx context.Context, caller desktop.Caller, desktopID, turnID string, after int64) ([]Event, error) {
	record, t, err := s.find(ctx, caller, desktopID, turnID)
	if err != nil {
		return nil, err
	}
	if t != nil {
		return t.journal.read(ctx, after)
	}
	return s.Store.Events(ctx, record.ID, after, journalPage)
}

// Cancel ends the turn that runs on a desktop and returns it, ended. With a turn's id it is that one
// or none. It is Conflict when no such turn runs.
func (s *Service) Cancel(ctx context.Context, caller desktop.Caller, desktopID, turnID string) (Turn, error) {
	if _, err := s.Desktops.Get(ctx, caller, desktopID); err != nil {
		return Turn{}, err
	}
	t := s.running(desktopID)
	if t == nil || turnID != "" && t.id != turnID {
		return Turn{}, desktop.Errorf(desktop.Conflict, "no such turn runs on this desktop")
	}
	t.stop(errCancelled)
	select {
	case <-t.ended:
		return t.snapshot(), nil
	case <-ctx.Done():
		return Turn{}, ctx.Err()
	}
}

// Sessions are a desktop's, the most recently used first.
func (s *Service) Sessions(ctx context.Context, caller desktop.Caller, desktopID string) ([]Session, error) {
	if _, err := s.Desktops.Get(ctx, caller, desktopID); err != nil {
		return nil, err
	}
	return s.Store.Sessions(ctx, desktopID, maxListed)
}

// session is one of a desktop's.
func (s *Service) session(ctx context.Context, caller desktop.Caller, desktopID, sessionID string) (Session, error) {
	if _, err := s.Desktops.Get(ctx, caller, desktopID); err != nil {
		return Session{}, err
	}
	session, err := s.Store.Session(ctx, sessionID)
	if err == nil && session.DesktopID != desktopID {
		err = desktop.Errorf(desktop.NotFound, "there is no session %s", shorten(sessionID, 64))
	}
	return session, err
}

// History is a session with its turns, oldest first. The one that runs is as it is now.
func (s *Service) History(ctx context.Context, caller desktop.Caller, desktopID, sessionID string) (Session, []Turn, error) {
	session, err := s.session(ctx, caller, desktopID, sessionID)
	if err != nil {
		return Session{}, nil, err
	}
	turns, err := s.Store.Turns(ctx, sessionID)
	if t := s.running(desktopID); t != nil {
		for i := range turns {
			if turns[i].ID == t.id {
				turns[i] = t.snapshot()
			}
		}
	}
	return session, turns, err
}

// DeleteSession forgets a session. It is Conflict while one of its turns runs.
func (s *Service) DeleteSession(ctx context.Context, caller desktop.Caller, desktopID, sessionID string) error {
	if _, err := s.session(ctx, caller, desktopID, sessionID); err != nil {
		return err
	}
	s.mu.Lock() // no turn of it begins meanwhile
	defer s.mu.Unlock()
	if t := s.turns[desktopID]; t != nil && t.sessionID == sessionID {
		e := desktop.Errorf(desktop.Conflict, "turn %s of the session runs: cancel it first", t.id)
		e.Details = map[string]any{"turnId": t.id}
		return e
	}
	return s.Store.DeleteSession(ctx, sessionID)
}

// Approvals are a desktop's, the newest first.
func (s *Service) Approvals(ctx context.Context, caller desktop.Caller, desktopID string) ([]Approval, error) {
	if _, err := s.Desktops.Get(ctx, caller, desktopID); err != nil {
		return nil, err
	}
	return s.Store.Approvals(ctx, desktopID, maxListed)
}

// Decide answers an approval. It is Conflict when it has been answered, or has expired.
func (s *Service) Decide(ctx context.Context, caller desktop.Caller, desktopID, approvalID string, approve bool) (Approval, error) {
	if _, err := s.Desktops.Get(ctx, caller, desktopID); err != nil {
		return Approval{}, err
	}
	status := Denied
	if approve {
		status = Approved
	}
	// What is kept decides, so that no yes is given twice, or after its time.
	approval, err := s.Store.DecideApproval(ctx, desktopID, approvalID, status, now())
	if err != nil {
		return Approval{}, err
	}
	if t := s.running(desktopID); t != nil {
		t.decided(approval)
	}
	return approval, nil
}

func now() time.Time { return time.Now().UTC() }
