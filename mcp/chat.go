package mcp

import (
	"context"
	"encoding/json"
	"time"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"bureau/api/client"
	"bureau/desktop"
)

// Chat is the AI agent of desktops as the API offers it. Who calls is in the client.
type Chat interface {
	// Send gives a desktop's agent a message and waits for its full answer; doing is told in a few
	// words what the agent does meanwhile. When ctx ends the agent stops.
	Send(ctx context.Context, c *client.Client, id string, message ChatMessage, doing func(string)) (ChatAnswer, error)
	// History is what has been said with a desktop's agent, in the API's JSON.
	History(ctx context.Context, c *client.Client, id string) (json.RawMessage, error)
}

// ChatMessage is what is said to an agent.
type ChatMessage struct {
	Message string
	Session string // of an earlier answer, to go on with; "" begins a new one
}

// ChatAnswer is what the agent has said.
type ChatAnswer struct {
	Session    string `json:"sessionId"`
	Message    string `json:"message"`
	StopReason string `json:"stopReason"`
	Error      string `json:"error,omitempty"` // more about a stopReason that is not end_turn
}

// longestChat is how long an agent may work at most; the API's own limits are shorter.
const longestChat = time.Hour

func chatTools(chat Chat) []tool {
	if chat == nil {
		return nil
	}
	type input struct {
		target
		Message string `json:"message" jsonschema:"What to tell the agent"`
		Session string `json:"sessionId,omitempty" jsonschema:"From an earlier answer, to go on with that conversation"`
	}
	return []tool{
		define(desktop.CanChat, sdk.Tool{Name: "chat", Title: "Message the desktop's AI agent",
			Description: "Gives a task or a message to the AI agent that works on a desktop and waits for its full answer. It sees the screen and acts by itself, one conversation at a time.",
			Annotations: inputHints()},
			func(p properties) { p["message"].MinLength = ptr(1) },
			func(ctx context.Context, c *call, in input) (*sdk.CallToolResult, error) {
				id, err := c.find(ctx, in.Desktop)
				if err != nil {
					return nil, err
				}
				began := time.Now()
				var answer ChatAnswer
				err = c.during(ctx, longestChat, "the agent works", func() (err error) {
					answer, err = chat.Send(ctx, c.client, id, ChatMessage{in.Message, in.Session}, func(what string) {
						c.progress(ctx, began, longestChat, what)
					})
					return err
				})
				if err != nil {
					return nil, err
				}
				return data(answer)
			}),
	}
}
