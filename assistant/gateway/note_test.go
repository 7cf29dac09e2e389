package gateway

import (
	"sync"
	"testing"

	"bureau/desktop/activity"
)

// What a guest is refused is told, and of which desktop; what is answered is not.
func TestRefusalsAreNoted(t *testing.T) {
	var mu sync.Mutex
	var all []activity.Entry
	b := newBench(t, func(o *Options) {
		o.OnlyConfigured = true
		o.Note = func(e activity.Entry) {
			mu.Lock()
			defer mu.Unlock()
			all = append(all, e)
		}
	}).serve()
	b.do("POST", "/gemini/v1beta/models/main:generateContent", ask)
	b.do("POST", messages, `{"model":"other"}`)
	b.do("GET", "/nothing/here", "")
	mu.Lock()
	defer mu.Unlock()
	if len(all) != 2 {
		t.Fatalf("got %+v", all)
	}
	for i, want := range []int{403, 404} {
		if e := all[i]; e.Actor != activity.ByGuest || e.DesktopID != "dt-1" || e.Action != "model" || e.Via != "gateway" || e.Status != want {
			t.Errorf("got %+v, want status %d", e, want)
		}
	}
}
