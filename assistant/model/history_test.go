package model_test

import (
	"encoding/json"
	"strings"
	"testing"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
)

// TestFallback lets each format go on with what each other one has begun. The server checks that the
// conversation is one that the second vendor takes.
func TestFallback(t *testing.T) {
	each(t, func(t *testing.T, first model.Format) {
		each(t, func(t *testing.T, second model.Format) {
			server, url := serve(t,
				modeltest.Step{Reasoning: "Both at once.", Text: "I look and list.", Calls: []modeltest.Call{
					modeltest.Use("bash", `{"command":"ls"}`), modeltest.Computer(`{"type":"screenshot"}`),
				}},
				modeltest.Step{Calls: []modeltest.Call{modeltest.Computer(`{"type":"click","x":10,"y":10}`)}},
				modeltest.Step{Text: "I go on.", Calls: []modeltest.Call{modeltest.Use("bash", `{"command":"ls"}`), modeltest.Computer(`{"type":"click","x":20,"y":20}`)}},
				modeltest.Step{Text: "Done."},
			)
			r := request("Look.")
			from, to := newModel(t, modeltest.Endpoint(first, url, key)), newModel(t, modeltest.Endpoint(second, url, key))
			for range 2 {
				answer := asked(t, from, &r, nil)
				r.Messages = append(r.Messages, results(t, answer.Message, "a file"))
			}
			answer := asked(t, to, &r, nil)
			r.Messages = append(r.Messages, results(t, answer.Message, "a file"))
			r.Messages[len(r.Messages)-1].Parts = append(r.Messages[len(r.Messages)-1].Parts, model.Part{Text: "Hurry up."})
			asked(t, to, &r, nil)

			seen := server.Requests()[2]
			if n := len(seen.Pictures()); n != 2 {
				t.Errorf("%d pictures came over, not 2", n)
			}
			listed, reasoned := false, false
			for _, message := range seen.Messages {
				for _, part := range message.Parts {
					listed = listed || part.Call != nil && part.Call.Tool == "bash"
					reasoned = reasoned || part.Reasoning != nil
					if part.Call != nil && part.Call.Tool == model.Computer && first != second {
						t.Errorf("a computer's call of %s came over to %s", first, second)
					}
				}
			}
			if !listed {
				t.Error("the call of bash did not come over")
			}
			if first != second && reasoned {
				t.Error("the reasoning came over")
			}
			if first != second && !strings.Contains(string(seen.Body), "Done on the computer before") {
				t.Error("what was done on the computer is not told")
			}
		})
	})
}

// TestOldPictures leaves out the pictures of the past, and a picture that could not be taken, as the
// caller does to save room.
func TestOldPictures(t *testing.T) {
	each(t, func(t *testing.T, format model.Format) {
		server, url := serve(t,
			modeltest.Step{Reasoning: "Hm.", Calls: []modeltest.Call{modeltest.Computer(`{"type":"screenshot"}`)}},
			modeltest.Step{Calls: []modeltest.Call{modeltest.Computer(`{"type":"click","x":10,"y":10}`)}},
			modeltest.Step{Text: "Done."},
		)
		m := newModel(t, modeltest.Endpoint(format, url, key))
		r := request("Look.")
		first := asked(t, m, &r, nil)
		old := results(t, first.Message, "")
		old.Parts[0].Result.Picture, old.Parts[0].Result.Text = nil, "(a picture that is no longer here)"
		r.Messages = append(r.Messages, old)
		second := asked(t, m, &r, nil)
		failed := results(t, second.Message, "")
		failed.Parts[0].Result.Failed, failed.Parts[0].Result.Text = true, "the screen is locked"
		r.Messages = append(r.Messages, failed)
		if last := asked(t, m, &r, nil); last.Message.Parts[0].Text != "Done." {
			t.Errorf("%+v", last)
		}
		body := string(server.Requests()[2].Body)
		for _, said := range []string{"no longer here", "the screen is locked"} {
			if !strings.Contains(body, said) {
				t.Errorf("%q is not told", said)
			}
		}
		if n := len(server.Requests()[2].Pictures()); n != 1 {
			t.Errorf("%d pictures, not 1", n)
		}
	})
}

// TestOddHistory is of messages that no vendor would take as they are.
func TestOddHistory(t *testing.T) {
	call := func(id string) model.Part {
		return model.Part{Call: &model.Call{ID: id, Tool: "bash", Arguments: json.RawMessage(`{"command":"true"}`), Format: "another"}}
	}
	result := func(id string) model.Part { return model.Part{Result: &model.Result{ID: id, Tool: "bash"}} }
	long := strings.Repeat("x", 100)
	each(t, func(t *testing.T, format model.Format) {
		_, url := serve(t, modeltest.Step{Text: "Fine."})
		m := newModel(t, modeltest.Endpoint(format, url, key))
		r := request("Go.")
		r.Messages = append(r.Messages,
			model.Message{Role: model.Assistant}, // nothing was said
			model.Message{Role: model.User, Parts: []model.Part{{Text: "Hello?"}, {Picture: picture(t, 20, 10)}}},
			model.Message{Role: model.Assistant, Parts: []model.Part{{Reasoning: &model.Reasoning{Text: "Hm.", Format: "another"}}}},
			model.Message{Role: model.User, Parts: []model.Part{{Text: "Hello!"}}},
			model.Message{Role: model.Assistant, Parts: []model.Part{{Text: "Yes."}, call("functions.bash:0"), call(long + "1"), call(long + "2")}},
			// Text before the results, which are in another order.
			model.Message{Role: model.User, Parts: []model.Part{{Text: "So."}, result("functions.bash:0"), result(long + "1"), result(long + "2")}},
		)
		if _, err := m.Next(t.Context(), r, nil); err != nil {
			t.Error(err)
		}
	})
}
