package mcp

import (
	"context"
	"encoding/json"
	"fmt"

	"bureau/api"
	"bureau/api/client"
	"bureau/assistant"
)

// Agents is the Chat of the appliance that the client speaks to.
type Agents struct{}

var _ Chat = Agents{}

// Send implements Chat. The agent's words are the answer's; of its steps, and of what it waits for,
// doing is told.
func (Agents) Send(ctx context.Context, c *client.Client, id string, message ChatMessage, doing func(string)) (ChatAnswer, error) {
	request := api.ChatRequest{Message: message.Message, SessionID: message.Session, CancelOnDisconnect: true}
	turn, err := c.Chat(ctx, id, request, func(event assistant.Event) {
		if what := tale(event); what != "" {
			doing(what)
		}
	})
	if err != nil {
		return ChatAnswer{}, err
	}
	return ChatAnswer{Session: turn.SessionID, Message: turn.Message, StopReason: string(turn.StopReason), Error: turn.Error}, nil
}

// tale is an event in a few words; "" for one that nobody needs to hear of.
func tale(event assistant.Event) string {
	var said struct {
		Number int    `json:"number"`
		Tool   string `json:"tool"`
		Reason string `json:"reason"`
	}
	if json.Unmarshal(event.Data, &said) != nil {
		return ""
	}
	switch event.Kind {
	case assistant.EventToolCall:
		return fmt.Sprintf("step %d: %s", said.Number, said.Tool)
	case assistant.EventApproval:
		return "waiting for a person's yes to " + said.Tool
	case assistant.EventPaused:
		return "waiting: " + said.Reason
	case assistant.EventResumed:
		return "going on"
	case assistant.EventRetry:
		return "asking the model again: " + said.Reason
	}
	return ""
}

// History implements Chat: the sessions, each with its turns.
func (Agents) History(ctx context.Context, c *client.Client, id string) (json.RawMessage, error) {
	sessions, err := c.ChatSessions(ctx, id)
	if err != nil {
		return nil, err
	}
	const most = 20 // the newest
	whole := make([]api.ChatSession, 0, min(len(sessions), most))
	for _, session := range sessions[:min(len(sessions), most)] {
		one, err := c.ChatSession(ctx, id, session.ID)
		if err != nil {
			return nil, err
		}
		whole = append(whole, one)
	}
	return json.Marshal(whole)
}
