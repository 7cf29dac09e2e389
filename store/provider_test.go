package store

import (
	"bytes"
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"bureau/assistant/model"
	"bureau/assistant/provider"
	"bureau/assistant/usage"
	"bureau/desktop"
)

func providerRecord(id, owner, desktopID, name string) provider.Record {
	return provider.Record{Provider: provider.Provider{ID: id, Owner: owner, DesktopID: desktopID, Name: name, Kind: provider.OpenAI,
		BaseURL: "https://x.example/v1", Model: "m", FallbackModel: "n", KeyEnd: "cdef", CreatedAt: epoch, UpdatedAt: epoch},
		Sealed: []byte{0, 1, 255}, Private: true}
}

func TestProviders(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	addUser(t, s, "usr-1")
	if err := s.InsertDesktop(ctx, record("dt-1", "usr-1", epoch), 0); err != nil {
		t.Fatal(err)
	}
	want := providerRecord("prv-1", "usr-1", "", "One")
	second := providerRecord("prv-2", "usr-1", "", "two")
	second.CreatedAt, second.FallbackProvider = epoch.Add(time.Second), "prv-1"
	third := providerRecord("prv-3", "usr-1", "", "three")
	third.CreatedAt, third.PreferredAt = epoch.Add(2*time.Second), epoch
	own := providerRecord("prv-4", "usr-1", "dt-1", "One")
	appliance := providerRecord("prv-5", "", "", "One")
	for _, r := range []provider.Record{want, second, third, own, appliance} {
		if err := s.InsertProvider(ctx, r, 3); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := s.Provider(ctx, "prv-1"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	ids := func(list []provider.Record, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		var ids []string
		for _, r := range list {
			ids = append(ids, r.ID)
		}
		return strings.Join(ids, " ")
	}
	for scope, want := range map[provider.Scope]string{
		{Owner: "usr-1"}: "prv-3 prv-1 prv-2", {Owner: "usr-1", DesktopID: "dt-1"}: "prv-4", {}: "prv-5", {Owner: "usr-2"}: "",
	} {
		if got := ids(s.Providers(ctx, scope)); got != want {
			t.Errorf("%+v has %q, want %q", scope, got, want)
		}
	}
	wantCode(t, s.InsertProvider(ctx, providerRecord("prv-6", "usr-1", "", "ONE"), 9), desktop.Conflict)
	wantCode(t, s.InsertProvider(ctx, providerRecord("prv-6", "usr-1", "dt-1", "x"), 9), desktop.Conflict)
	wantCode(t, s.InsertProvider(ctx, providerRecord("prv-6", "usr-1", "", "four"), 3), desktop.Conflict)
	wantCode(t, s.InsertProvider(ctx, providerRecord("prv-6", "usr-9", "", "x"), 9), desktop.NotFound)

	got, err := s.UpdateProvider(ctx, "prv-1", func(r *provider.Record) error {
		r.Name, r.Sealed, r.Private, r.Owner, r.PreferredAt = "first", []byte("x"), false, "usr-2", epoch.Add(time.Hour)
		return nil
	})
	want.Name, want.Sealed, want.Private, want.PreferredAt = "first", []byte("x"), false, epoch.Add(time.Hour)
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	if got, err := s.Provider(ctx, "prv-1"); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, %v", got, err)
	}
	_, err = s.UpdateProvider(ctx, "prv-2", func(r *provider.Record) error { r.Name = "FIRST"; return nil })
	wantCode(t, err, desktop.Conflict)
	_, err = s.UpdateProvider(ctx, "prv-9", func(*provider.Record) error { return nil })
	wantCode(t, err, desktop.NotFound)

	if err := s.DeleteProvider(ctx, "prv-1"); err != nil {
		t.Fatal(err)
	}
	wantCode(t, s.DeleteProvider(ctx, "prv-1"), desktop.NotFound)
	if got, err := s.Provider(ctx, "prv-2"); err != nil || got.FallbackProvider != "" {
		t.Errorf("what fell back on it is %+v, %v", got, err)
	}
	// A desktop that is destroyed takes the key that it was given with it.
	if _, err := s.UpdateDesktop(ctx, "dt-1", func(r *desktop.Record) error { r.DestroyedAt = epoch; return nil }); err != nil {
		t.Fatal(err)
	}
	_, err = s.Provider(ctx, "prv-4")
	wantCode(t, err, desktop.NotFound)
	wantCode(t, s.InsertProvider(ctx, own, 9), desktop.NotFound)
	if got := ids(s.AllProviders(ctx)); got != "prv-3 prv-5 prv-2" && got != "prv-3 prv-2 prv-5" {
		t.Errorf("left are %s", got)
	}
}

// No file of the database has a provider's key in it.
func TestKeysAreSealed(t *testing.T) {
	s, path := open(t)
	addUser(t, s, "usr-1")
	if err := s.InsertDesktop(t.Context(), record("dt-1", "usr-1", epoch), 0); err != nil {
		t.Fatal(err)
	}
	vault, err := provider.OpenVault(filepath.Join(filepath.Dir(path), "master.keys"))
	if err != nil {
		t.Fatal(err)
	}
	r := provider.NewRegistry(s, vault, func(context.Context, model.Endpoint) (string, error) { return "", nil }, false, slog.New(slog.DiscardHandler))
	caller := desktop.Caller{User: desktop.User{ID: "usr-1"}}
	const secret, second = "sk-ant-never-to-be-seen-0123456789", "sk-ant-nor-this-one-98765432101234"
	p, err := r.Create(t.Context(), caller, provider.Draft{Kind: provider.Anthropic, APIKey: secret})
	if err != nil {
		t.Fatal(err)
	}
	changed := provider.Secret(second)
	if _, err := r.Update(t.Context(), caller, p.ID, provider.Change{APIKey: &changed}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.SetOfDesktop(t.Context(), caller, "dt-1", provider.Config{Kind: provider.Gemini, APIKey: secret}); err != nil {
		t.Fatal(err)
	}
	endpoints, err := r.Endpoints(t.Context(), "usr-1", "dt-1")
	if err != nil || endpoints[0].Key != secret {
		t.Fatalf("%v", err)
	}
	files, err := filepath.Glob(filepath.Join(t.TempDir(), "..", "*", "a folder*", "*"))
	if err != nil || len(files) < 3 {
		t.Fatalf("the files are %q, %v", files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, key := range []string{secret, second, secret[7:], second[7:]} {
			if bytes.Contains(text, []byte(key)) {
				t.Errorf("%s has a key", filepath.Base(file))
			}
		}
	}
}

func TestUsage(t *testing.T) {
	s, _ := open(t)
	ctx := t.Context()
	add := func(at time.Time, owner, id, name string, tokens int64) {
		t.Helper()
		row := usage.Row{Owner: owner, DesktopID: id, Provider: "prv-1", Format: model.Anthropic, Model: name, Requests: 1,
			Usage: model.Usage{Input: tokens, CacheRead: 2, CacheWrite: 3, Output: 4}}
		if err := s.AddUsage(ctx, at, row); err != nil {
			t.Fatal(err)
		}
	}
	hour := epoch.Truncate(time.Hour)
	add(hour.Add(time.Minute), "usr-1", "dt-1", "m", 1)
	add(hour.Add(59*time.Minute), "usr-1", "dt-1", "m", 10)
	add(hour.Add(time.Hour), "usr-1", "dt-1", "m", 100)
	add(hour, "usr-1", "dt-2", "m", 1000)
	add(hour, "usr-1", "dt-1", "n", 5)
	add(hour, "usr-2", "dt-3", "m", 7)
	for _, c := range []struct {
		query usage.Query
		want  []int64 // input tokens of the rows
	}{
		{usage.Query{}, []int64{1000, 111, 7, 5}},
		{usage.Query{Owner: "usr-1"}, []int64{1000, 111, 5}},
		{usage.Query{DesktopID: "dt-1"}, []int64{111, 5}},
		{usage.Query{Owner: "usr-2", DesktopID: "dt-1"}, nil},
		{usage.Query{DesktopID: "dt-1", Since: hour.Add(90 * time.Minute)}, []int64{100}},
		{usage.Query{DesktopID: "dt-1", Until: hour.Add(time.Hour)}, []int64{11, 5}},
	} {
		rows, err := s.Usage(ctx, c.query)
		if err != nil {
			t.Fatal(err)
		}
		var got []int64
		for _, r := range rows {
			got = append(got, r.Input)
			if r.CacheRead != 2*r.Requests || r.CacheWrite != 3*r.Requests || r.Output != 4*r.Requests || r.Format != model.Anthropic || r.Provider != "prv-1" {
				t.Errorf("a row is %+v", r)
			}
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: %v, want %v", c.query, got, c.want)
		}
	}
}
