package gateway

import (
	"log/slog"
	"net/http/httptest"
	"testing"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// The vendors' own clients speak through the gateway as they would to the vendors, and what they are
// told of tokens is what is recorded. The provider is the strict one of the models' tests.
func TestVendorsClients(t *testing.T) {
	for _, format := range model.Formats() {
		t.Run(string(format), func(t *testing.T) {
			script := modeltest.Script{Steps: []modeltest.Step{
				{Text: "I look.", Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"ls"}`)}},
				{Text: "Done, with \"usage\": {\"input_tokens\": 5}."},
				{Fail: &modeltest.Failure{Kind: modeltest.Overloaded, RetryAfter: "7"}},
			}}
			server := modeltest.New(secret, script)
			server.Failf = t.Errorf
			provider := httptest.NewServer(server)
			defer provider.Close()
			b := newBench(t, nil).serve()
			b.chains = map[model.Format][]model.Endpoint{format: {modeltest.Endpoint(format, provider.URL, secret)}}

			lent := modeltest.Endpoint(format, b.url, "lent-by-bureau")
			lent.BaseURL += map[model.Format]string{model.Anthropic: "/anthropic", model.OpenAI: "/openai/v1", model.OpenAIChat: "/openai/v1", model.Gemini: "/gemini"}[format]
			m, err := model.New(lent, nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			request := model.Request{System: "You are a test.", Messages: []model.Message{{Role: model.User, Parts: []model.Part{{Text: "Look."}}}},
				Tools: []model.Tool{{Name: "bash", Description: "Run a command.", Schema: []byte(`{"type":"object","properties":{"command":{"type":"string"}},"required":["command"],"additionalProperties":false}`)}}}
			first, err := m.Next(t.Context(), request, nil)
			if err != nil || first.Stop != model.ToolUse {
				t.Fatalf("%+v, %v", first, err)
			}
			if u := <-b.used; u.usage != first.Usage || u.usage.Output == 0 || u.endpoint.Model != lent.Model {
				t.Errorf("recorded %+v, the client was told %+v", u, first.Usage)
			}
			request.Messages = append(request.Messages, first.Message)
			for _, part := range first.Message.Parts {
				if part.Call != nil {
					request.Messages = append(request.Messages, model.Message{Role: model.User, Parts: []model.Part{{Result: &model.Result{ID: part.Call.ID, Tool: "bash", Text: "poem"}}}})
				}
			}
			second, err := m.Next(t.Context(), request, nil)
			if err != nil || second.Stop != model.EndTurn {
				t.Fatalf("%+v, %v", second, err)
			}
			if u := <-b.used; u.usage != second.Usage {
				t.Errorf("recorded %+v, the client was told %+v", u, second.Usage)
			}
			_, err = m.Next(t.Context(), request, nil)
			if failure, ok := err.(*model.Error); !ok || failure.Code != model.Overloaded || failure.RetryAfter.Seconds() != 7 {
				t.Errorf("overloaded, the client sees %v", err)
			}
			// Without a provider the client sees a refusal that it understands.
			b.chains = nil
			_, err = m.Next(t.Context(), request, nil)
			if failure, ok := err.(*model.Error); !ok || failure.Code != model.Unauthorized || failure.Status != 403 {
				t.Errorf("without a provider, the client sees %v", err)
			}
		})
	}
}
