package assistant_test

import (
	"context"
	"sync/atomic"
	"testing"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

// A desktop is in use from before its turn begins until it has ended, also while the model thinks; a
// turn that does not begin leaves no use behind.
func TestTurnIsUse(t *testing.T) {
	var now, begun atomic.Int32
	b := newBench(t, func(b *bench) {
		b.options.Use = func(id string) func() {
			if id != "dt-1" {
				t.Errorf("use of %s", id)
			}
			now.Add(1)
			begun.Add(1)
			return func() { now.Add(-1) }
		}
	})
	var thinking int32
	b.chat(assistant.Prompt{Message: "hello"}, func(context.Context, model.Request, func(model.Delta)) (model.Response, error) {
		thinking = now.Load()
		return model.Response{Message: model.Message{Role: model.Assistant, Parts: []model.Part{{Text: "hi"}}}}, nil
	})
	if thinking != 1 || now.Load() != 0 || begun.Load() != 1 {
		t.Errorf("%d uses while it thought, %d afterwards, %d in all", thinking, now.Load(), begun.Load())
	}

	b.desk.set(func(d *desk) { d.desktop.Status = desktop.Stopping })
	if _, err := b.service.Begin(t.Context(), caller, "dt-1", assistant.Prompt{Message: "hello"}); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("on a desktop that is being stopped: %v", err)
	}
	if now.Load() != 0 || begun.Load() != 2 {
		t.Errorf("%d uses are left of %d", now.Load(), begun.Load())
	}
	if _, err := b.service.Begin(t.Context(), desktop.Caller{User: desktop.User{ID: "usr-2"}}, "dt-1", assistant.Prompt{Message: "hello"}); err == nil {
		t.Error("somebody else's turn begins")
	}
	if begun.Load() != 2 {
		t.Error("somebody else uses it")
	}
}
