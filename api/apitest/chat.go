package apitest

import (
	"context"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
	"bureau/store"
)

// Chat is the agents of a World's desktops: the real Service and the real store, with a model that a
// test plays.
type Chat struct {
	Service *assistant.Service
	Store   *store.Store

	mu    sync.Mutex
	model ModelFunc
}

// ModelFunc plays a model.
type ModelFunc func(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error)

// Say is a model's answer in words.
func Say(text string) ModelFunc {
	return func(_ context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		tell(model.Delta{Text: text})
		return model.Response{Message: model.Message{Role: model.Assistant, Parts: []model.Part{{Text: text}}},
			Stop: model.EndTurn, Usage: model.Usage{Input: 10, Output: 2}, Model: "played"}, nil
	}
}

// Use is a model's answer that uses tools.
func Use(calls ...model.Call) ModelFunc {
	return func(context.Context, model.Request, func(model.Delta)) (model.Response, error) {
		message := model.Message{Role: model.Assistant}
		for i := range calls {
			message.Parts = append(message.Parts, model.Part{Call: &calls[i]})
		}
		return model.Response{Message: message, Stop: model.ToolUse, Usage: model.Usage{Input: 10, Output: 5}, Model: "played"}, nil
	}
}

// InTurn are answers one after another; the last one stays.
func InTurn(answers ...ModelFunc) ModelFunc {
	var mu sync.Mutex
	next := 0
	return func(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error) {
		mu.Lock()
		answer := answers[min(next, len(answers)-1)]
		next++
		mu.Unlock()
		return answer(ctx, request, tell)
	}
}

// NewChat makes the agents of a world's desktops; each has had a turn, and waits for an approval. Their
// ids are those of the desktop, with the usual prefixes.
func NewChat(t testing.TB, w *World) *Chat {
	t.Helper()
	kept, err := store.Open(context.Background(), filepath.Join(t.TempDir(), "bureau.db"))
	if err != nil {
		t.Fatal(err)
	}
	c := &Chat{Store: kept, model: Say("Hello.")}
	ctx := context.Background()
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	w.mu.Lock()
	for _, u := range w.users {
		check(kept.InsertUser(ctx, u))
	}
	for _, d := range w.desktops {
		check(kept.InsertDesktop(ctx, desktop.Record{ID: d.ID, Owner: d.Owner, Name: d.Name, Tier: d.Tier, Image: d.Image, Network: d.Network,
			Wish: desktop.WishRun, CreatedAt: Epoch, UpdatedAt: Epoch}, 0))
		ended := Epoch.Add(time.Minute)
		session := assistant.Session{ID: "ses-" + d.ID, DesktopID: d.ID, Title: "before", CreatedAt: Epoch, UpdatedAt: Epoch}
		turn := assistant.Turn{ID: "turn-" + d.ID, SessionID: session.ID, DesktopID: d.ID, Prompt: "before", Steps: []assistant.Step{}, CreatedAt: Epoch}
		check(kept.BeginTurn(ctx, turn, &session))
		check(kept.AppendMessage(ctx, turn, model.Message{Role: model.User, Parts: []model.Part{{Text: "before"}}}, nil))
		check(kept.AppendMessage(ctx, turn, model.Message{Role: model.Assistant, Parts: []model.Part{{Text: "after"}}}, nil))
		check(kept.AppendEvents(ctx, turn.ID, []assistant.Event{{Number: 1, Kind: assistant.EventDone, Data: []byte("{}")}}))
		turn.Message, turn.StopReason, turn.EndedAt = "after", assistant.EndTurn, &ended
		check(kept.EndTurn(ctx, turn, ""))
		check(kept.InsertApproval(ctx, assistant.Approval{ID: "apr-" + d.ID, DesktopID: d.ID, SessionID: session.ID, TurnID: turn.ID, Step: 1,
			Tool: "bash", Arguments: map[string]any{"command": "true"}, Reason: "it is a shell command", Status: assistant.Pending,
			CreatedAt: Epoch, ExpiresAt: ended}))
	}
	w.mu.Unlock()
	c.Service, err = assistant.New(ctx, assistant.Options{
		Desktops: w, Store: kept, Providers: anyModel{}, Meter: anyModel{}, Log: slog.New(slog.DiscardHandler),
		Model: func(model.Endpoint) (model.Model, error) { return c, nil },
	})
	check(err)
	t.Cleanup(func() {
		if err := c.Service.Close(); err != nil {
			t.Error(err)
		}
		if err := kept.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// SetModel changes who plays the model.
func (c *Chat) SetModel(f ModelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.model = f
}

// Next is what the model answers.
func (c *Chat) Next(ctx context.Context, request model.Request, tell func(model.Delta)) (model.Response, error) {
	c.mu.Lock()
	f := c.model
	c.mu.Unlock()
	return f(ctx, request, tell)
}

// anyModel has one endpoint for everybody, without a limit.
type anyModel struct{}

func (anyModel) Endpoints(context.Context, string, string) ([]model.Endpoint, error) {
	return []model.Endpoint{{Format: model.Anthropic, Model: "played"}}, nil
}
func (anyModel) Allow(context.Context, string, string) error { return nil }
func (anyModel) Record(context.Context, string, string, model.Endpoint, model.Usage) error {
	return nil
}
