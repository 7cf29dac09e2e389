//go:build cgo && libvirt_dlopen

package cmd

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bureau/assistant/model"
	"bureau/assistant/model/modeltest"
	"bureau/assistant/provider"
	meter "bureau/assistant/usage"
	"bureau/cmd/config"
	"bureau/desktop"
	"bureau/desktop/activity"
	"bureau/store"
)

// notes is an activity log that a test has no further use for.
func notes(t *testing.T, kept *store.Store) *activity.Log {
	t.Helper()
	log := activity.NewLog(kept, 0, slog.New(slog.DiscardHandler))
	t.Cleanup(func() { log.Close() })
	return log
}

// What serve puts together lends models: a provider that was added is tried, a guest's request goes
// to it with its key, what it took is recorded and limits hold, also after a restart.
func TestLendModels(t *testing.T) {
	const key = "sk-of-the-provider-0123456789"
	server := httptest.NewServer(modeltest.New(key, modeltest.Script{Repeat: true, Steps: []modeltest.Step{{Text: "OK."}}}))
	defer server.Close()
	c, err := config.Load(emptyConfig(t, "dataDir: "+t.TempDir()+"\nmodels: {desktop: {requestsPerDay: 1}, owner: {requestsPerDay: 0}}\n"), nil)
	if err != nil {
		t.Fatal(err)
	}
	start := func() (*store.Store, *lender) {
		t.Helper()
		kept, err := store.Open(t.Context(), c.Database())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { kept.Close() })
		l, err := lendModels(t.Context(), c, kept, notes(t, kept), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.clients.Close)
		return kept, l
	}
	kept, l := start()
	accounts := desktop.NewAccounts(kept, tiersOf(c), c.DefaultTier)
	user, err := accounts.CreateUser(t.Context(), "anna@example.org", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.InsertDesktop(t.Context(), desktop.Record{ID: "dt-1", Owner: user.ID, Wish: desktop.WishHalt}, 0); err != nil {
		t.Fatal(err)
	}
	operator := desktop.Caller{Local: true}
	name := modeltest.Endpoint(model.Anthropic, "", "").Model
	p, err := l.providers.Create(t.Context(), operator, provider.Draft{Kind: provider.Anthropic, APIKey: key, BaseURL: server.URL, Model: name})
	if err != nil {
		t.Fatal(err)
	}
	if v, err := l.providers.Test(t.Context(), operator, p.ID); err != nil || !v.OK || !strings.Contains(v.Message, name) {
		t.Errorf("trying it: %+v, %v", v, err)
	}
	// A user's own may not be here.
	if _, err := l.providers.Create(t.Context(), desktop.Caller{User: user}, provider.Draft{Kind: provider.Anthropic, APIKey: key, BaseURL: server.URL}); desktop.CodeOf(err) != desktop.Invalid {
		t.Errorf("a user's provider on this host: %v", err)
	}

	ask := func(l *lender) (answered string, err error) {
		guest := httptest.NewServer(l.gateway.For("dt-1"))
		defer guest.Close()
		m, err := model.New(model.Endpoint{Format: model.Anthropic, BaseURL: guest.URL + "/anthropic", Key: "none", Model: name}, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			return "", err
		}
		response, err := m.Next(t.Context(), model.Request{System: "You are a test.", Messages: []model.Message{{Role: model.User, Parts: []model.Part{{Text: "Say OK."}}}}}, nil)
		if err != nil {
			return "", err
		}
		return response.Message.Parts[0].Text, nil
	}
	if text, err := ask(l); err != nil || text != "OK." {
		t.Fatalf("a guest got %q, %v", text, err)
	}
	rows, err := l.meter.Usage(t.Context(), desktop.Caller{User: user}, meter.Query{})
	if err != nil || len(rows) != 1 || rows[0].DesktopID != "dt-1" || rows[0].Provider != p.ID || rows[0].Output == 0 {
		t.Errorf("recorded %+v, %v", rows, err)
	}
	_, l = start()
	_, err = ask(l)
	if failure, ok := err.(*model.Error); !ok || failure.Status != http.StatusTooManyRequests {
		t.Errorf("beyond the limit: %v", err)
	}
	if info, err := os.Stat(filepath.Join(c.DataDir, "master.keys")); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the master keys: %v, %v", info, err)
	}
}
