package store

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

// chatting is a store with a desktop, and a turn of it that runs.
func chatting(t *testing.T) (*Store, assistant.Turn) {
	t.Helper()
	s, _ := open(t)
	addUser(t, s, "usr-1")
	for _, id := range []string{"dt-1", "dt-2"} {
		if err := s.InsertDesktop(t.Context(), record(id, "usr-1", epoch), 0); err != nil {
			t.Fatal(err)
		}
	}
	return s, beginTurn(t, s, "dt-1", "1")
}

func beginTurn(t *testing.T, s *Store, desktopID, name string) assistant.Turn {
	t.Helper()
	session := assistant.Session{ID: "ses-" + name, DesktopID: desktopID, Title: "title", CreatedAt: epoch, UpdatedAt: epoch}
	turn := assistant.Turn{ID: "turn-" + name, SessionID: session.ID, DesktopID: desktopID, Prompt: "do it", Steps: []assistant.Step{}, CreatedAt: epoch}
	if err := s.BeginTurn(t.Context(), turn, &session); err != nil {
		t.Fatal(err)
	}
	return turn
}

func endTurn(t *testing.T, s *Store, turn assistant.Turn, fingerprint string) assistant.Turn {
	t.Helper()
	ended := epoch.Add(time.Minute)
	turn.Message, turn.StopReason, turn.Error, turn.Model = "done", assistant.TimedOut, "too long", "m"
	turn.Usage, turn.EndedAt = model.Usage{Input: 1, CacheRead: 2, CacheWrite: 3, Output: 4}, &ended
	if err := s.EndTurn(t.Context(), turn, fingerprint); err != nil {
		t.Fatal(err)
	}
	return turn
}

func TestTurnComesBackAsItWent(t *testing.T) {
	s, turn := chatting(t)
	ctx := t.Context()
	got, err := s.Turn(ctx, turn.ID)
	if err != nil || !reflect.DeepEqual(got, turn) || !got.Running() {
		t.Errorf("got %+v, %v", got, err)
	}
	steps := []assistant.Step{{Number: 1, Tool: "bash", Arguments: map[string]any{"command": "ls"}, Result: "a", At: epoch, DurationMs: 1.5}, {Number: 2, Tool: "x", Arguments: map[string]any{}, Failed: true, At: epoch}}
	message := model.Message{Role: model.User, Parts: []model.Part{
		{Result: &model.Result{ID: "1", Tool: "computer", Picture: &model.Picture{MediaType: "image/jpeg", Data: []byte("picture 1"), Width: 3, Height: 4}}},
		{Picture: &model.Picture{MediaType: "image/png", Data: []byte("picture 2"), Width: 5, Height: 6}},
		{Result: &model.Result{ID: "2", Tool: "bash", Text: "töpfe", Failed: true}},
	}}
	if err := s.AppendMessage(ctx, turn, message, steps); err != nil {
		t.Fatal(err)
	}
	if string(message.Parts[0].Result.Picture.Data) != "picture 1" {
		t.Error("keeping a message changed it")
	}
	other := model.Message{Role: model.Assistant, Parts: []model.Part{{Text: "I see"}, {Reasoning: &model.Reasoning{Text: "hm", Format: model.OpenAI, Opaque: []byte(`{"a":1}`)}},
		{Call: &model.Call{ID: "3", Tool: "bash", Arguments: []byte(`{"command":"ls"}`), Format: model.Gemini}}}}
	if err := s.AppendMessage(ctx, turn, other, nil); err != nil {
		t.Fatal(err)
	}
	messages, err := s.Messages(ctx, turn.SessionID)
	if err != nil || !reflect.DeepEqual(messages, []model.Message{message, other}) {
		t.Errorf("got %+v, %v", messages, err)
	}
	// The oldest pictures can be forgotten; their places stay.
	for range 2 {
		if err := s.DropPictures(ctx, turn.SessionID, 1); err != nil {
			t.Fatal(err)
		}
	}
	messages, err = s.Messages(ctx, turn.SessionID)
	if err != nil || messages[0].Parts[0].Result.Picture.Data != nil || messages[0].Parts[0].Result.Picture.Width != 3 || string(messages[0].Parts[1].Picture.Data) != "picture 2" {
		t.Errorf("got %+v, %v", messages[0], err)
	}

	want := endTurn(t, s, turn, "print")
	want.Steps = steps
	if got, err := s.Turn(ctx, turn.ID); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if list, err := s.Turns(ctx, turn.SessionID); err != nil || len(list) != 1 || !reflect.DeepEqual(list[0], want) {
		t.Errorf("got %+v, %v", list, err)
	}
	session, err := s.SessionByFingerprint(ctx, "dt-1", "print")
	if err != nil || session.ID != turn.SessionID || session.Turns != 1 || !session.UpdatedAt.Equal(*want.EndedAt) || session.Title != "title" {
		t.Errorf("got %+v, %v", session, err)
	}
	for _, missing := range [][2]string{{"dt-2", "print"}, {"dt-1", "other"}, {"dt-1", ""}} {
		_, err := s.SessionByFingerprint(ctx, missing[0], missing[1])
		wantCode(t, err, desktop.NotFound)
	}
}

func TestOneTurnOfADesktopRuns(t *testing.T) {
	s, turn := chatting(t)
	ctx := t.Context()
	second := assistant.Turn{ID: "turn-2", SessionID: turn.SessionID, DesktopID: "dt-1", CreatedAt: epoch}
	err := s.BeginTurn(ctx, second, nil)
	wantCode(t, err, desktop.Conflict)
	if !strings.Contains(fmt.Sprint(err), turn.ID) || err.(*desktop.Error).Details["turnId"] != turn.ID {
		t.Errorf("got %v", err)
	}
	beginTurn(t, s, "dt-2", "other")
	if open, err := s.OpenTurns(ctx); err != nil || len(open) != 2 {
		t.Errorf("got %+v, %v", open, err)
	}
	endTurn(t, s, turn, "")
	if err := s.BeginTurn(ctx, second, nil); err != nil {
		t.Error(err)
	}
	for _, foreign := range []assistant.Turn{{ID: "turn-3", SessionID: "ses-none", DesktopID: "dt-1"}, {ID: "turn-3", SessionID: "ses-other", DesktopID: "dt-1"}} {
		endTurn(t, s, second, "")
		wantCode(t, s.BeginTurn(ctx, foreign, nil), desktop.NotFound)
	}
}

func TestEventsAndApprovals(t *testing.T) {
	s, turn := chatting(t)
	ctx := t.Context()
	var events []assistant.Event
	for i := range int64(10) {
		events = append(events, assistant.Event{Number: i + 1, Kind: assistant.EventText, Data: []byte(`{"text":"x"}`)})
	}
	events = append(events, assistant.Event{Number: 20, Kind: assistant.EventDone, Data: []byte(`{}`)})
	if err := s.AppendEvents(ctx, turn.ID, events); err != nil {
		t.Fatal(err)
	}
	if last, err := s.LastEvent(ctx, turn.ID); err != nil || last != events[len(events)-1].Number {
		t.Errorf("the last event is %d, %v", last, err)
	}
	if last, err := s.LastEvent(ctx, "turn-unknown"); err != nil || last != 0 {
		t.Errorf("the last event of a turn that has none is %d, %v", last, err)
	}
	if got, err := s.Events(ctx, turn.ID, 3, 4); err != nil || !reflect.DeepEqual(got, events[3:7]) {
		t.Errorf("got %+v, %v", got, err)
	}
	if err := s.AppendEvents(ctx, turn.ID, events[:1]); err == nil {
		t.Error("an event was kept twice")
	}
	wantCode(t, s.AppendEvents(ctx, "turn-none", events), desktop.NotFound)

	approval := assistant.Approval{ID: "apr-1", DesktopID: "dt-1", SessionID: turn.SessionID, TurnID: turn.ID, Step: 3, Tool: "bash",
		Arguments: map[string]any{"command": "ls"}, Reason: "so", Status: assistant.Pending, CreatedAt: epoch, ExpiresAt: epoch.Add(time.Minute)}
	late := approval
	late.ID, late.CreatedAt = "apr-2", epoch.Add(time.Second)
	for _, a := range []assistant.Approval{approval, late} {
		if err := s.InsertApproval(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.Approvals(ctx, "dt-1", 10); err != nil || !reflect.DeepEqual(list, []assistant.Approval{late, approval}) {
		t.Errorf("got %+v, %v", list, err)
	}
	_, err := s.DecideApproval(ctx, "dt-2", "apr-1", assistant.Approved, epoch)
	wantCode(t, err, desktop.NotFound)
	decided, err := s.DecideApproval(ctx, "dt-1", "apr-1", assistant.Approved, epoch)
	if err != nil || decided.Status != assistant.Approved || !decided.DecidedAt.Equal(epoch) {
		t.Errorf("got %+v, %v", decided, err)
	}
	_, err = s.DecideApproval(ctx, "dt-1", "apr-1", assistant.Denied, epoch)
	wantCode(t, err, desktop.Conflict)

	// What waits when its turn ends has expired, and no yes comes after.
	ended := endTurn(t, s, turn, "")
	_, err = s.DecideApproval(ctx, "dt-1", "apr-2", assistant.Approved, epoch)
	wantCode(t, err, desktop.Conflict)
	if list, err := s.Approvals(ctx, "dt-1", 1); err != nil || len(list) != 1 || list[0].Status != assistant.Expired {
		t.Errorf("got %+v, %v", list, err)
	}

	if err := s.PruneEvents(ctx, "dt-1", *ended.EndedAt); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Events(ctx, turn.ID, 0, 100); err != nil || len(got) != len(events) {
		t.Errorf("got %d, %v", len(got), err)
	}
	if err := s.PruneEvents(ctx, "dt-1", ended.EndedAt.Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Events(ctx, turn.ID, 0, 100); err != nil || !reflect.DeepEqual(got, events[10:]) {
		t.Errorf("got %+v, %v", got, err)
	}
}

// Whatever belongs to a session goes with it, and a desktop's sessions with the desktop.
func TestSessionsAreForgottenWhole(t *testing.T) {
	s, turn := chatting(t)
	ctx := t.Context()
	fill := func(turn assistant.Turn) {
		t.Helper()
		if err := s.AppendMessage(ctx, turn, model.Message{Role: model.User, Parts: []model.Part{{Picture: &model.Picture{Data: []byte("x")}}}}, []assistant.Step{{Number: 1}}); err != nil {
			t.Fatal(err)
		}
		if err := s.AppendEvents(ctx, turn.ID, []assistant.Event{{Number: 1, Kind: assistant.EventText, Data: []byte("{}")}}); err != nil {
			t.Fatal(err)
		}
		if err := s.InsertApproval(ctx, assistant.Approval{ID: "apr-" + turn.ID, DesktopID: turn.DesktopID, SessionID: turn.SessionID, TurnID: turn.ID, Status: assistant.Pending}); err != nil {
			t.Fatal(err)
		}
	}
	rows := func() (all []int) {
		t.Helper()
		for _, table := range []string{"chat_sessions", "chat_turns", "chat_messages", "chat_pictures", "chat_steps", "chat_events", "chat_approvals"} {
			var n int
			if err := s.reader.QueryRow("SELECT count(*) FROM " + table).Scan(&n); err != nil {
				t.Fatal(err)
			}
			all = append(all, n)
		}
		return all
	}
	fill(turn)
	fill(beginTurn(t, s, "dt-2", "other"))
	if got := rows(); !reflect.DeepEqual(got, []int{2, 2, 2, 2, 2, 2, 2}) {
		t.Errorf("rows %v", got)
	}
	if err := s.DeleteSession(ctx, turn.SessionID); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.DeleteSession(ctx, turn.SessionID), desktop.NotFound)
	wantCode(t, s.EndTurn(ctx, turn, ""), desktop.NotFound)
	wantCode(t, s.AppendMessage(ctx, turn, model.Message{}, nil), desktop.NotFound)
	if got := rows(); !reflect.DeepEqual(got, []int{1, 1, 1, 1, 1, 1, 1}) {
		t.Errorf("rows %v", got)
	}
	if _, err := s.UpdateDesktop(ctx, "dt-2", func(r *desktop.Record) error { r.DestroyedAt = epoch; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := rows(); !reflect.DeepEqual(got, []int{0, 0, 0, 0, 0, 0, 0}) {
		t.Errorf("rows %v", got)
	}
}
