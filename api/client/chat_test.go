package client

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"bureau/api"
	"bureau/api/apitest"
	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

// cutter ends each of the first streams after some bytes.
type cutter struct {
	next http.RoundTripper
	left atomic.Int32
}

func (c *cutter) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	if err == nil && response.Header.Get("Content-Type") == "text/event-stream" && c.left.Add(-1) >= 0 {
		response.Body = struct {
			io.Reader
			io.Closer
		}{io.LimitReader(response.Body, 700), response.Body}
	}
	return response, err
}

func TestChat(t *testing.T) {
	w := apitest.NewWorld()
	w.AddUser("usr-1")
	w.AddDesktop("dt-1", "usr-1")
	chat := apitest.NewChat(t, w)
	web := httptest.NewServer(api.New(api.Options{Desktops: w, Accounts: w, Assistant: chat.Service}).Handler())
	t.Cleanup(web.Close)
	cut := &cutter{}
	c, err := New(web.URL, w.AddKey("usr-1", nil, desktop.CanChat), WithTransport(func(next http.RoundTripper) http.RoundTripper {
		cut.next = next
		return cut
	}))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	const pieces = 50
	chat.SetModel(func(_ context.Context, _ model.Request, tell func(model.Delta)) (model.Response, error) {
		for range pieces {
			tell(model.Delta{Text: "piece "})
		}
		return apitest.Say("")(ctx, model.Request{}, func(model.Delta) {})
	})
	cut.left.Store(2)
	var text strings.Builder
	numbers := map[int64]bool{}
	turn, err := c.Chat(ctx, "dt-1", api.ChatRequest{Message: "go"}, func(event assistant.Event) {
		if numbers[event.Number] {
			t.Errorf("event %d comes again", event.Number)
		}
		numbers[event.Number] = true
		if event.Kind == assistant.EventText {
			text.WriteString("x")
		}
	})
	if err != nil || turn.StopReason != assistant.EndTurn || text.Len() != pieces || cut.left.Load() >= 0 {
		t.Errorf("got %+v, %v, %d pieces", turn, err, text.Len())
	}

	chat.SetModel(apitest.Say("Hello"))
	again, err := c.Chat(ctx, "dt-1", api.ChatRequest{Message: "more", SessionID: turn.SessionID}, nil)
	if err != nil || again.Message != "Hello" || again.SessionID != turn.SessionID {
		t.Errorf("got %+v, %v", again, err)
	}
	if got, err := c.Turn(ctx, "dt-1", again.ID); err != nil || got.Message != "Hello" {
		t.Errorf("got %+v, %v", got, err)
	}
	if list, err := c.ChatSessions(ctx, "dt-1"); err != nil || len(list) != 2 || list[0].ID != turn.SessionID {
		t.Errorf("got %+v, %v", list, err)
	}
	if session, err := c.ChatSession(ctx, "dt-1", turn.SessionID); err != nil || len(session.History) != 2 {
		t.Errorf("got %+v, %v", session, err)
	}
	if err := c.DeleteChatSession(ctx, "dt-1", turn.SessionID); err != nil {
		t.Error(err)
	}
	if _, err := c.Chat(ctx, "dt-1", api.ChatRequest{Message: "more", SessionID: turn.SessionID}, func(assistant.Event) {}); desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("got %v", err)
	}
	if _, err := c.CancelChat(ctx, "dt-1", ""); desktop.CodeOf(err) != desktop.Conflict {
		t.Errorf("got %v", err)
	}
	if list, err := c.Approvals(ctx, "dt-1"); err != nil || len(list) != 1 {
		t.Errorf("got %+v, %v", list, err)
	}
	if decided, err := c.Decide(ctx, "dt-1", "apr-dt-1", false); err != nil || decided.Status != assistant.Denied {
		t.Errorf("got %+v, %v", decided, err)
	}
}
