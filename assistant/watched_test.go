package assistant_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"bureau/assistant"
	"bureau/desktop/activity"
)

// What an agent does is told with whom it was done for and of which turn, and with nothing of what was
// typed or run.
func TestWhatATurnDoesIsNoted(t *testing.T) {
	var mu sync.Mutex
	counted := map[string]int64{}
	var all []activity.Entry
	b := newBench(t, func(b *bench) {
		b.options.Note = func(e activity.Entry) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, e)
			for name, n := range e.Details {
				counted[e.Action+" "+name] += n
			}
		}
	})
	turn := b.chat(assistant.Prompt{Message: "hunter2"},
		use("computer", screenshot),
		use("computer", `{"action":"left_click","coordinate":[3,4]}`, "computer", `{"action":"type","text":"hunter2"}`),
		bash("echo hunter2"),
		say("hunter2"))
	if turn.StopReason != assistant.EndTurn {
		t.Fatalf("got %+v", turn)
	}
	mu.Lock()
	defer mu.Unlock()
	if counted["input click"] != 1 || counted["input type"] != 1 || counted["exec bash"] < 1 {
		t.Errorf("got %v", counted)
	}
	seen := false
	for _, e := range all {
		seen = seen || e.Action == "screenshot"
		if e.Actor != activity.ByAgent || e.UserID != "usr-1" || e.Owner != "usr-1" || e.Via != "chat" || e.DesktopID != "dt-1" || e.Target != turn.ID || e.Outcome != activity.Done {
			t.Errorf("got %+v", e)
		}
		if strings.Contains(fmt.Sprintf("%+v", e), "hunter2") {
			t.Errorf("it tells too much: %+v", e)
		}
	}
	if !seen {
		t.Errorf("it looked, and nobody noted that: %+v", all)
	}
}
