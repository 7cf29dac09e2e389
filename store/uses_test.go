package store

import (
	"testing"
	"time"

	"bureau/desktop"
)

func TestUses(t *testing.T) {
	s, _ := open(t)
	addUser(t, s, "usr-1")
	for _, id := range []string{"dt-1", "dt-2", "dt-3"} {
		if err := s.InsertDesktop(t.Context(), record(id, "usr-1", epoch), 0); err != nil {
			t.Fatal(err)
		}
	}
	keep := func(uses map[string]time.Time) {
		t.Helper()
		if err := s.KeepUses(t.Context(), uses); err != nil {
			t.Fatal(err)
		}
	}
	keep(map[string]time.Time{"dt-1": epoch, "dt-2": epoch, "dt-none": epoch})
	keep(map[string]time.Time{"dt-1": epoch.Add(time.Hour)})
	if _, err := s.UpdateDesktop(t.Context(), "dt-2", func(r *desktop.Record) error { r.DestroyedAt = epoch; return nil }); err != nil {
		t.Fatal(err)
	}
	keep(map[string]time.Time{"dt-2": epoch})
	got, err := s.Uses(t.Context())
	if err != nil || len(got) != 1 || !got["dt-1"].Equal(epoch.Add(time.Hour)) {
		t.Errorf("uses %v, %v", got, err)
	}
}
