package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"bureau/desktop/activity"
)

// activity is the whole log, as the operator's command line shows it.
func (a *appliance) activity(t testing.TB, args ...string) []activity.Entry {
	t.Helper()
	out, err := a.output(t.Context(), append([]string{"activity", "--json", "--limit", "100000"}, args...)...)
	if err != nil {
		t.Fatal(err)
	}
	return decode[[]activity.Entry](t, out)
}

// find is the one entry of an action on a desktop.
func find(t testing.TB, entries []activity.Entry, action, desktop string) activity.Entry {
	t.Helper()
	for _, e := range entries {
		if e.Action == action && e.DesktopID == desktop {
			return e
		}
	}
	t.Errorf("no %s of %q among %d entries", action, desktop, len(entries))
	return activity.Entry{}
}

// What is done to desktops is told while it happens and afterwards; a backup that is taken meanwhile
// brings an appliance back to that moment, with its log. No guest has to run for that.
func TestActivityBackupAndRestore(t *testing.T) {
	create := func(name string) string {
		r := lab.call(t, http.MethodPost, "/v1/desktops", map[string]any{"name": name, "tier": "small", "start": false})
		return decode[state](t, r.body).ID
	}
	kept := create("kept")
	t.Cleanup(func() {
		if r, err := lab.send(context.Background(), http.MethodDelete, "/v1/desktops/"+kept, nil); err != nil || r.status/100 != 2 {
			t.Errorf("destroying the desktop: %v, %v", r, err)
		}
	})
	lab.call(t, http.MethodPatch, "/v1/desktops/"+kept, map[string]any{"keepAlive": true})
	for range 3 { // it does not run
		if r, err := lab.send(t.Context(), http.MethodPost, "/v1/desktops/"+kept+"/type", map[string]any{"text": "hunter2"}); err != nil || r.status != 503 {
			t.Fatalf("%v, %v", r, err)
		}
	}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, lab.url+"/v1/desktops", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer sk_live_nobodys")
	answer, err := lab.http.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()

	log := lab.activity(t)
	if e := find(t, log, "desktop.create", kept); e.UserEmail != owner || e.KeyName != "tests" || e.Address != "127.0.0.1" || e.Status != 201 || e.DesktopName != "kept" {
		t.Errorf("got %+v", e)
	}
	if e := find(t, log, "desktop.update", kept); e.Details["keepAlive"] != 1 {
		t.Errorf("got %+v", e)
	}
	if e := find(t, log, "input", kept); e.Outcome != activity.Failed || e.Status != 503 {
		t.Errorf("got %+v", e)
	}
	if e := find(t, log, "authenticate", ""); e.Actor != activity.ByNobody || e.Address != "127.0.0.1" || e.Status != 401 {
		t.Errorf("got %+v", e)
	}
	find(t, log, "appliance.start", "")
	find(t, log, "user.create", "")
	find(t, log, "key.create", "")
	if text, err := json.Marshal(log); err != nil || strings.Contains(string(text), "hunter2") {
		t.Errorf("the log has what was typed, %v", err)
	}
	if r := lab.call(t, http.MethodGet, "/v1/events?durationMs=1&desktop="+kept, nil); !strings.Contains(string(r.body), "event: desktop.status\ndata: {") {
		t.Errorf("the events are %s", r)
	}
	if r := lab.call(t, http.MethodGet, "/v1/desktops/"+kept+"/activity?action=desktop.create", nil); len(decode[[]activity.Entry](t, r.body)) != 1 {
		t.Errorf("the desktop's log is %s", r)
	}

	// A backup while it runs, and what comes after it.
	file, keys := filepath.Join(lab.dir, "copy.db"), filepath.Join(lab.dir, "copy.keys")
	out, err := lab.output(t.Context(), "backup", file, "--keys", keys, "--json")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(file); os.Remove(keys) })
	if made := decode[struct{ Users, Desktops int }](t, out); made.Users < 2 || made.Desktops < 1 {
		t.Errorf("got %s", out)
	}
	later := create("later")
	find(t, lab.activity(t), "backup", "")
	if out, err := lab.output(t.Context(), "restore", file); err == nil || !strings.Contains(err.Error(), "the appliance runs") {
		t.Errorf("restored under a running appliance: %s, %v", out, err)
	}
	if err := lab.end(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	running := false
	defer func() {
		if !running {
			if err := lab.start(context.Background()); err != nil {
				t.Error(err)
			}
		}
	}()
	out, err = lab.output(t.Context(), "restore", file, "--keys", keys, "--json")
	if err != nil {
		t.Fatal(err)
	}
	former := decode[struct{ Former string }](t, out).Former
	t.Cleanup(func() { os.Remove(former) })
	if _, err := os.Stat(former); err != nil {
		t.Error(err)
	}
	if err := lab.start(t.Context()); err != nil {
		t.Fatal(err)
	}
	running = true
	if s, err := lab.desktop(t.Context(), kept); err != nil || s.Status != "stopped" || s.Name != "kept" {
		t.Errorf("got %+v, %v", s, err)
	}
	if r, err := lab.send(t.Context(), http.MethodGet, "/v1/desktops/"+later, nil); err != nil || r.status != http.StatusNotFound {
		t.Errorf("a desktop that was made after the backup: %v, %v", r, err)
	}
	log = lab.activity(t)
	find(t, log, "desktop.create", kept)
	find(t, log, "restore", "")
	for _, e := range log {
		if e.DesktopID == later {
			t.Errorf("the log of the backup's time has %+v", e)
		}
	}
}
