package store

import (
	"context"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"bureau/desktop"
	"bureau/desktop/activity"
)

func entry(id string, at time.Time, change func(*activity.Entry)) activity.Entry {
	e := activity.Entry{At: at, Until: at, Count: 1, Actor: activity.ByKey, UserID: "usr-1", UserEmail: "Ada@example.org", KeyID: "key-1", KeyName: "ci",
		Via: "api", Address: "192.0.2.7", Action: "desktop.stop", DesktopID: "dt-1", DesktopName: "demo", Target: id, TargetName: "the " + id,
		Details: map[string]int64{"click": 2}, Outcome: activity.Done, Status: 202, RequestID: "r-" + id, Owner: "usr-1"}
	if change != nil {
		change(&e)
	}
	return e
}

func targets(entries []activity.Entry) string {
	var names []string
	for _, e := range entries {
		names = append(names, e.Target)
	}
	return strings.Join(names, " ")
}

func TestActivity(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	at := func(n int) time.Time { return epoch.Add(time.Duration(n) * time.Minute) }
	all := []activity.Entry{
		entry("a", at(0), nil),
		entry("b", at(1), func(e *activity.Entry) {
			e.Owner, e.UserID, e.UserEmail, e.DesktopID, e.KeyID = "usr-2", "usr-2", "bob@example.org", "dt-2", "key-2"
		}),
		entry("c", at(2), func(e *activity.Entry) {
			e.Action, e.Outcome, e.Status, e.Until, e.Count = "input", activity.Refused, 423, at(4), 7
		}),
		entry("d", at(3), func(e *activity.Entry) { e.DesktopName, e.Details, e.Action = "other", nil, "desktop.start" }),
		entry("e", at(4), func(e *activity.Entry) {
			*e = activity.Entry{At: e.At, Until: e.At, Count: 1, Target: "e", Details: e.Details}
		}),
	}
	if err := s.AppendActivity(ctx, all[:2]); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendActivity(ctx, all[2:]); err != nil {
		t.Fatal(err)
	}
	list, err := s.Activity(ctx, activity.Query{Oldest: true})
	if err != nil {
		t.Fatal(err)
	}
	all[3].Details = map[string]int64{}
	for i := range list {
		if list[i].ID != int64(i+1) {
			t.Errorf("entry %d has the id %d", i, list[i].ID)
		}
		list[i].ID = 0
	}
	if !reflect.DeepEqual(list, all) {
		t.Errorf("got\n%+v\nwant\n%+v", list, all)
	}
	for _, test := range []struct {
		query activity.Query
		want  string
	}{
		{activity.Query{}, "e d c b a"},
		{activity.Query{Limit: 2}, "e d"},
		{activity.Query{Limit: 2, Cursor: 4}, "c b"},
		{activity.Query{Limit: 2, Oldest: true}, "a b"},
		{activity.Query{Limit: 9, Oldest: true, Cursor: 3}, "d e"},
		{activity.Query{Owner: "usr-1"}, "d c a"},
		{activity.Query{Owner: "usr-2"}, "b"},
		{activity.Query{Owner: "usr-2", Desktop: "dt-1"}, ""},
		{activity.Query{Desktop: "dt-1"}, "d c a"},
		{activity.Query{DesktopName: "other"}, "d"},
		{activity.Query{User: "usr-2"}, "b"},
		{activity.Query{User: "ADA@example.org"}, "d c a"},
		{activity.Query{Key: "key-2"}, "b"},
		{activity.Query{Action: "desktop."}, "d b a"},
		{activity.Query{Action: "desktop.start"}, "d"},
		{activity.Query{Action: "desktop"}, ""},
		{activity.Query{Action: "%"}, ""},
		{activity.Query{Outcome: activity.Refused}, "c"},
		{activity.Query{Since: at(3)}, "e d c"}, // c went on until then
		{activity.Query{Until: at(2)}, "b a"},
		{activity.Query{Since: at(1), Until: at(2)}, "b"},
	} {
		list, err := s.Activity(ctx, test.query)
		if err != nil || targets(list) != test.want {
			t.Errorf("%+v: got %q, want %q; %v", test.query, targets(list), test.want, err)
		}
	}
}

// Entries of several are there together or not at all.
func TestActivityIsWrittenAsAWhole(t *testing.T) {
	s, _ := open(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.AppendActivity(ctx, []activity.Entry{entry("a", epoch, nil)}); err == nil {
		t.Fatal("no error")
	}
	if list, err := s.Activity(t.Context(), activity.Query{}); err != nil || len(list) != 0 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// Neither this program nor a slip in it changes or deletes what is in the log. Only what is older than
// the limit can go, by the one way there is.
func TestActivityIsAppendOnly(t *testing.T) {
	s, _ := open(t)
	ctx, now := t.Context(), time.Now()
	for i := range 10 {
		if err := s.AppendActivity(ctx, []activity.Entry{entry(fmt.Sprint(i), now.Add(-time.Duration(i)*24*time.Hour), nil)}); err != nil {
			t.Fatal(err)
		}
	}
	count := func() (n int) {
		t.Helper()
		if err := s.writer.QueryRowContext(ctx, `SELECT count(*) FROM activity`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, statement := range []string{
		`UPDATE activity SET action = 'nothing'`,
		`UPDATE activity SET id = id + 100`,
		`UPDATE OR REPLACE activity SET id = 1 WHERE id = 2`,
		`INSERT OR REPLACE INTO activity (id, ` + activityColumns + `) SELECT id, ` + activityColumns + ` FROM activity`,
		`DELETE FROM activity`,
		`DELETE FROM activity WHERE id = 10`,
		`UPDATE activity_horizon SET at = 9223372036854775807`,
		fmt.Sprintf(`UPDATE activity_horizon SET at = %d`, moment(now)),
		fmt.Sprintf(`UPDATE activity_horizon SET at = %d`, moment(now.Add(-22*time.Hour))),
		`UPDATE activity_horizon SET at = -1`,
		`DELETE FROM activity_horizon`,
		`INSERT INTO activity_horizon (one, at) VALUES (2, 0)`,
		`INSERT OR REPLACE INTO activity_horizon (one, at) VALUES (1, 9223372036854775807)`,
		`REPLACE INTO activity_horizon (one, at) VALUES (1, 0)`,
	} {
		if _, err := s.writer.ExecContext(ctx, statement); err == nil {
			t.Errorf("%s is let through; %d entries are left", statement, count())
		}
	}
	if n := count(); n != 10 {
		t.Fatalf("%d entries are left of 10", n)
	}
	if _, err := s.PruneActivity(ctx, now); err == nil {
		t.Error("what is of today can be forgotten")
	}
	n, err := s.PruneActivity(ctx, now.Add(-5*24*time.Hour+time.Minute))
	if err != nil || n != 5 || count() != 5 {
		t.Errorf("%d entries were forgotten, %d are left; %v", n, count(), err)
	}
	// An earlier limit later on: nothing happens, and the ids go on.
	if n, err = s.PruneActivity(ctx, now.Add(-8*24*time.Hour)); err != nil || n != 0 {
		t.Errorf("%d, %v", n, err)
	}
	if err := s.AppendActivity(ctx, []activity.Entry{entry("new", now, nil)}); err != nil {
		t.Fatal(err)
	}
	if list, err := s.Activity(ctx, activity.Query{Limit: 1}); err != nil || list[0].ID != 11 {
		t.Errorf("got %+v, %v", list, err)
	}
}

// An entry outlives all that it names.
func TestActivityOutlives(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	if err := s.InsertUser(ctx, desktop.User{ID: "usr-1", Email: "a@b", Role: desktop.RoleUser, CreatedAt: epoch}); err != nil {
		t.Fatal(err)
	}
	if err := s.InsertDesktop(ctx, record("dt-1", "usr-1", epoch), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.AppendActivity(ctx, []activity.Entry{entry("a", epoch, nil)}); err != nil {
		t.Fatal(err)
	}
	for _, statement := range []string{`DELETE FROM desktops`, `DELETE FROM users`} {
		if _, err := s.writer.ExecContext(ctx, statement); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := s.Activity(ctx, activity.Query{Desktop: "dt-1"}); err != nil || len(list) != 1 || list[0].UserEmail == "" || list[0].DesktopName == "" {
		t.Errorf("got %+v, %v", list, err)
	}
}
