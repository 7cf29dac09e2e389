package assistant

import (
	"testing"

	"bureau/assistant/model"
)

func TestLastSaid(t *testing.T) {
	person := func(text string) model.Message {
		return model.Message{Role: model.User, Parts: []model.Part{{Text: text}}}
	}
	says := func(text string) model.Message {
		return model.Message{Role: model.Assistant, Parts: []model.Part{{Text: text}, {Call: &model.Call{ID: "1", Tool: bashTool}}}}
	}
	results := model.Message{Role: model.User, Parts: []model.Part{{Result: &model.Result{ID: "1", Tool: bashTool}}}}
	for name, c := range map[string]struct {
		messages []model.Message
		want     string
	}{
		"nothing yet":        {nil, ""},
		"nothing this turn":  {[]model.Message{person("a"), says("before"), person("b")}, ""},
		"a word before acts": {[]model.Message{person("a"), says("I begin."), results, says("")}, "I begin."},
		"the last of two":    {[]model.Message{person("a"), says("one"), results, says("two"), results}, "two"},
	} {
		if got := lastSaid(c.messages); got != c.want {
			t.Errorf("%s: %q, not %q", name, got, c.want)
		}
	}
}
