package cmd

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"bureau/assistant/model"
	"bureau/assistant/provider"
	"bureau/desktop"
	"bureau/desktop/activity"
	"bureau/store"
)

// makeDatabase FOLDER USERS makes what an appliance keeps: users, a desktop, and a provider with a key.
func makeDatabase(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: database FOLDER USERS")
	}
	ctx := context.Background()
	users, err := strconv.Atoi(args[1])
	ts.Check(err)
	s, err := store.Open(ctx, filepath.Join(args[0], "bureau.db"))
	ts.Check(err)
	for i := range users {
		ts.Check(s.InsertUser(ctx, desktop.User{ID: fmt.Sprintf("usr-%d", i), Email: fmt.Sprintf("%d@example.org", i), Role: desktop.RoleUser, CreatedAt: time.Now()}))
	}
	ts.Check(s.InsertDesktop(ctx, desktop.Record{ID: "dt-1", Owner: "usr-0", Name: "demo", Wish: desktop.WishHalt}, 0))
	vault, err := provider.OpenVault(filepath.Join(args[0], "master.keys"))
	ts.Check(err)
	check := func(context.Context, model.Endpoint) (string, error) { return "", nil }
	registry := provider.NewRegistry(s, vault, check, true, slog.New(slog.DiscardHandler))
	_, err = registry.Create(ctx, desktop.Caller{Local: true}, provider.Draft{Kind: provider.Anthropic, APIKey: "sk-ant-0123456789abcdef", Name: "main"})
	ts.Check(err)
	ts.Check(s.Close())
}

// recorded FILE ACTION… checks what the activity log in a database has.
func recorded(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 1 {
		ts.Fatalf("usage: recorded FILE ACTION…")
	}
	ctx := context.Background()
	s, err := store.Open(ctx, ts.MkAbs(args[0]))
	ts.Check(err)
	list, err := s.Activity(ctx, activity.Query{Oldest: true})
	ts.Check(err)
	ts.Check(s.Close())
	var actions []string
	for _, e := range list {
		actions = append(actions, e.Action)
		if e.Actor != activity.ByOperator || e.Via != "command" || e.TargetName == "" {
			ts.Fatalf("got %+v", e)
		}
	}
	for _, want := range args[1:] {
		if !strings.Contains(" "+strings.Join(actions, " ")+" ", " "+want+" ") {
			ts.Fatalf("there is no %s in %v", want, actions)
		}
	}
}

// held FOLDER holds the database there as an appliance does, until the script ends.
func held(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: held FOLDER")
	}
	release, err := store.Lock(filepath.Join(args[0], "bureau.db"))
	ts.Check(err)
	ts.Defer(func() { ts.Check(release()) })
}

// activity answers with three entries, to one who follows with a fourth, and then no more.
func (f *fakeAppliance) activity(w http.ResponseWriter, r *http.Request, answer func(string)) {
	entry := func(id int, rest string) string {
		return fmt.Sprintf(`{"id":%d,"at":"2026-01-02T03:04:05Z","until":"2026-01-02T03:04:05Z","future":"field",%s}`, id, rest)
	}
	switch r.URL.Query().Get("cursor") {
	case "":
		answer(`[` + entry(3, `"count":7,"actor":"nobody","via":"api","address":"198.51.100.9","action":"authenticate","outcome":"refused","status":401`) + `,` +
			entry(2, `"count":12,"actor":"agent","userEmail":"ada@example.org","via":"chat","action":"input","desktopName":"demo","target":"turn-1","details":{"click":10,"type":2},"outcome":"done"`) + `,` +
			entry(1, `"count":1,"actor":"key","userEmail":"ada@example.org","keyName":"ci","via":"api","address":"192.0.2.7","action":"desktop.stop","desktopName":"demo","outcome":"done","status":202`) + `]`)
	case "3":
		answer(`[` + entry(4, `"count":1,"actor":"operator","via":"socket","action":"key.create","outcome":"done","status":201`) + `]`)
	default:
		problemJSON(w, 503, "the appliance is shutting down", "")
	}
}
