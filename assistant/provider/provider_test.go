package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"bureau/assistant/model"
	"bureau/desktop"
)

const secret = "sk-ant-never-to-be-seen-0123456789"

// memory is a Store without a disk.
type memory struct {
	mu       sync.Mutex
	records  []Record
	desktops map[string]desktop.Record
}

func (m *memory) InsertProvider(_ context.Context, r Record, limit int) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	same := 0
	for _, o := range m.records {
		if o.Owner == r.Owner && o.DesktopID == r.DesktopID {
			if same++; strings.EqualFold(o.Name, r.Name) {
				return desktop.Errorf(desktop.Conflict, "there is a provider %s already", r.Name)
			}
		}
	}
	if same >= limit {
		return desktop.Errorf(desktop.Conflict, "too many")
	}
	m.records = append(m.records, r)
	return nil
}

func (m *memory) UpdateProvider(_ context.Context, id string, change func(*Record) error) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, r := range m.records {
		if r.ID == id {
			if err := change(&r); err != nil {
				return Record{}, err
			}
			m.records[i] = r
			return r, nil
		}
	}
	return Record{}, desktop.Errorf(desktop.NotFound, "none")
}

func (m *memory) DeleteProvider(_ context.Context, id string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = slices.DeleteFunc(m.records, func(r Record) bool { return r.ID == id })
	return nil
}

func (m *memory) Provider(_ context.Context, id string) (Record, error) {
	for _, r := range m.records {
		if r.ID == id {
			return r, nil
		}
	}
	return Record{}, desktop.Errorf(desktop.NotFound, "there is no provider %s", id)
}

func (m *memory) Providers(_ context.Context, s Scope) ([]Record, error) {
	var list []Record
	for _, r := range m.records {
		if r.Owner == s.Owner && r.DesktopID == s.DesktopID {
			list = append(list, r)
		}
	}
	slices.SortStableFunc(list, func(a, b Record) int { return b.PreferredAt.Compare(a.PreferredAt) })
	return list, nil
}

func (m *memory) AllProviders(context.Context) ([]Record, error) { return slices.Clone(m.records), nil }

func (m *memory) User(_ context.Context, id string) (desktop.User, error) {
	if id != "usr-1" && id != "usr-2" {
		return desktop.User{}, desktop.Errorf(desktop.NotFound, "there is no user %s", id)
	}
	return desktop.User{ID: id}, nil
}

func (m *memory) UserByEmail(context.Context, string) (desktop.User, error) {
	return desktop.User{ID: "usr-1"}, nil
}

func (m *memory) Desktop(_ context.Context, id string) (desktop.Record, error) {
	d, ok := m.desktops[id]
	if !ok {
		return d, desktop.Errorf(desktop.NotFound, "none")
	}
	return d, nil
}

var (
	operator = desktop.Caller{Local: true}
	anna     = desktop.Caller{User: desktop.User{ID: "usr-1"}}
	bert     = desktop.Caller{User: desktop.User{ID: "usr-2"}}
)

type bench struct {
	*Registry
	t     *testing.T
	store *memory
	log   bytes.Buffer
	tried model.Endpoint
	fails error
}

func newBench(t *testing.T) *bench {
	b := &bench{t: t, store: &memory{desktops: map[string]desktop.Record{"dt-1": {ID: "dt-1", Owner: "usr-1"}}}}
	b.Registry = NewRegistry(b.store, vault(t, filepath.Join(t.TempDir(), "master.keys")), func(_ context.Context, e model.Endpoint) (string, error) {
		b.tried = e
		return "It answers.", b.fails
	}, false, slog.New(slog.NewTextHandler(&b.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	return b
}

func vault(t *testing.T, path string) *Vault {
	t.Helper()
	v, err := OpenVault(path)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func (b *bench) add(caller desktop.Caller, draft Draft) Provider {
	b.t.Helper()
	p, err := b.Create(b.t.Context(), caller, draft)
	if err != nil {
		b.t.Fatal(err)
	}
	return p
}

// models lists what a desktop's requests go to, in order.
func (b *bench) models(desktopID string, formats ...model.Format) string {
	b.t.Helper()
	chains, err := b.Chains(b.t.Context(), "usr-1", desktopID, formats...)
	if desktop.CodeOf(err) == desktop.NotFound {
		return "none"
	}
	if err != nil {
		b.t.Fatal(err)
	}
	var lines []string
	for _, chain := range chains {
		var names []string
		for _, e := range chain {
			names = append(names, e.Model)
			if e.Key != secret {
				b.t.Errorf("%s has the key %q", e, e.Key)
			}
		}
		lines = append(lines, strings.Join(names, ">"))
	}
	return strings.Join(lines, " ")
}

func wantCode(t *testing.T, err error, code desktop.Code, says string) {
	t.Helper()
	if err == nil || desktop.CodeOf(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("the error is %v (%s), want %s with %q", err, desktop.CodeOf(err), code, says)
	}
}

// The nearest provider is used: the desktop's own, its owner's, the appliance's; of those the default
// one first, and then what it falls back on.
func TestNearest(t *testing.T) {
	b := newBench(t)
	if got := b.models("dt-1"); got != "none" {
		t.Errorf("without any: %s", got)
	}
	b.add(operator, Draft{Kind: Anthropic, APIKey: secret, Model: "appliance"})
	if got := b.models("dt-1"); got != "appliance" {
		t.Errorf("the appliance's: %s", got)
	}
	b.add(bert, Draft{Kind: Anthropic, APIKey: secret, Model: "bert's"})
	first := b.add(anna, Draft{Kind: OpenAI, APIKey: secret, Model: "one", FallbackModel: "small"})
	second := b.add(anna, Draft{Kind: OpenRouter, APIKey: secret, Model: "two", FallbackProvider: "openai"})
	if !first.Default || second.Default || second.FallbackProvider != first.ID || second.Name != "openrouter" || first.KeyEnd != "6789" {
		t.Errorf("made %+v %+v", first, second)
	}
	if got := b.models("dt-1"); got != "one>small two>one>small" {
		t.Errorf("the owner's: %s", got)
	}
	yes := true
	if p, err := b.Update(t.Context(), anna, second.ID, Change{Default: &yes}); err != nil || !p.Default {
		t.Errorf("%+v, %v", p, err)
	}
	if got := b.models("dt-1"); got != "two>one>small one>small" {
		t.Errorf("the default first: %s", got)
	}
	// A circle is gone through once.
	if _, err := b.Update(t.Context(), anna, first.ID, Change{FallbackProvider: &second.ID}); err != nil {
		t.Error(err)
	}
	if got := b.models("dt-1"); got != "two>one>small one>small>two" {
		t.Errorf("in a circle: %s", got)
	}
	// The gateway asks for formats: the nearest that has one of them, and no other format's fallback.
	for formats, want := range map[model.Format]string{model.OpenAI: "one>small", model.OpenAIChat: "two", model.Anthropic: "appliance", model.Gemini: "none"} {
		if got := b.models("dt-1", formats); got != want {
			t.Errorf("%s: %s, want %s", formats, got, want)
		}
	}
	if _, err := b.SetOfDesktop(t.Context(), anna, "dt-1", Config{Kind: Gemini, APIKey: secret, Model: "own", EmbeddingsAPIKey: "x"}); err != nil {
		t.Fatal(err)
	}
	if got := b.models("dt-1"); got != "own" {
		t.Errorf("its own: %s", got)
	}
	if p, err := b.SetOfDesktop(t.Context(), anna, "dt-1", Config{Kind: Anthropic, APIKey: secret}); err != nil || p.Model != kinds[Anthropic].model || p.BaseURL != "https://api.anthropic.com" {
		t.Errorf("%+v, %v", p, err)
	}
	if list, err := b.List(t.Context(), anna, ""); err != nil || len(list) != 2 {
		t.Errorf("listed %+v, %v", list, err)
	}
	for range 2 {
		if err := b.RemoveOfDesktop(t.Context(), anna, "dt-1"); err != nil {
			t.Error(err)
		}
	}
	if got := b.models("dt-1"); !strings.HasPrefix(got, "two") {
		t.Errorf("afterwards: %s", got)
	}
	if err := b.Delete(t.Context(), anna, first.ID); err != nil {
		t.Error(err)
	}
	if strings.Contains(b.log.String(), secret) {
		t.Error("the log has a key")
	}
}

func TestWhoseProviders(t *testing.T) {
	b := newBench(t)
	its := b.add(anna, Draft{Kind: Anthropic, APIKey: secret})
	appliance := b.add(operator, Draft{Kind: Anthropic, APIKey: secret})
	if _, err := b.SetOfDesktop(t.Context(), anna, "dt-1", Config{Kind: Gemini, APIKey: secret}); err != nil {
		t.Fatal(err)
	}
	ctx, name := t.Context(), "stolen"
	for _, id := range []string{its.ID, appliance.ID, "prv-none"} {
		_, err := b.Get(ctx, bert, id)
		wantCode(t, err, desktop.NotFound, "no provider")
		_, err = b.Update(ctx, bert, id, Change{Name: &name})
		wantCode(t, err, desktop.NotFound, "no provider")
		_, err = b.Test(ctx, bert, id)
		wantCode(t, err, desktop.NotFound, "no provider")
		wantCode(t, b.Delete(ctx, bert, id), desktop.NotFound, "no provider")
	}
	_, err := b.OfDesktop(ctx, bert, "dt-1")
	wantCode(t, err, desktop.NotFound, "no desktop")
	_, err = b.SetOfDesktop(ctx, bert, "dt-1", Config{Kind: Gemini, APIKey: secret})
	wantCode(t, err, desktop.NotFound, "no desktop")
	wantCode(t, b.RemoveOfDesktop(ctx, bert, "dt-1"), desktop.NotFound, "no desktop")
	_, err = b.TestOfDesktop(ctx, bert, "dt-1")
	wantCode(t, err, desktop.NotFound, "no desktop")
	_, err = b.List(ctx, bert, "usr-1")
	wantCode(t, err, desktop.Invalid, "only the operator")
	_, err = b.Create(ctx, bert, Draft{Kind: Anthropic, APIKey: secret, Owner: "usr-1"})
	wantCode(t, err, desktop.Invalid, "only the operator")
	if list, err := b.List(ctx, operator, "anna@example.org"); err != nil || len(list) != 1 || list[0].ID != its.ID {
		t.Errorf("the operator lists %+v, %v", list, err)
	}
	_, err = b.Create(ctx, operator, Draft{Kind: Anthropic, APIKey: secret, Owner: "usr-9"})
	wantCode(t, err, desktop.NotFound, "usr-9")
	// An appliance's provider is no fallback of a user's.
	_, err = b.Create(ctx, bert, Draft{Kind: Anthropic, APIKey: secret, FallbackProvider: appliance.ID})
	wantCode(t, err, desktop.Invalid, "fallbackProvider")
}

func TestRefusesDrafts(t *testing.T) {
	b := newBench(t)
	for says, draft := range map[string]Draft{
		"provider: expected":         {Kind: "other", APIKey: secret, Model: "m", BaseURL: "https://x.example", Name: "n"},
		"apiKey: anthropic needs":    {Kind: Anthropic},
		"apiKey: gemini needs":       {Kind: Gemini, BaseURL: "https://x.example"},
		"apiKey has characters":      {Kind: Anthropic, APIKey: "a\r\nHost: evil"},
		"model: say which":           {Kind: OpenRouter, APIKey: secret},
		"model has characters":       {Kind: OpenAI, APIKey: secret, Model: "a b"},
		"fallbackModel is longer":    {Kind: OpenAI, APIKey: secret, FallbackModel: strings.Repeat("x", 201)},
		"baseUrl: say where":         {Kind: OpenAIChat, Model: "m"},
		"baseUrl: expected https":    {Kind: OpenAIChat, Model: "m", BaseURL: "http://models.example.org"},
		"127.0.0.1 is not a public":  {Kind: OpenAIChat, Model: "m", BaseURL: "https://127.0.0.1:8080"},
		"::1 is not a public":        {Kind: OpenAIChat, Model: "m", BaseURL: "https://[::1]/v1"},
		"169.254.169.254 is not":     {Kind: OpenAIChat, Model: "m", BaseURL: "https://169.254.169.254/latest"},
		"an address such as":         {Kind: OpenAIChat, Model: "m", BaseURL: "file:///etc/passwd"},
		"without a user":             {Kind: OpenAIChat, Model: "m", BaseURL: "https://a:b@x.example"},
		"name has control":           {Kind: Anthropic, APIKey: secret, Name: "a\x1b"},
		"fallbackProvider: there is": {Kind: Anthropic, APIKey: secret, FallbackProvider: "none"},
	} {
		_, err := b.Create(t.Context(), anna, draft)
		wantCode(t, err, desktop.Invalid, says)
		if err != nil && strings.Contains(err.Error(), secret) {
			t.Errorf("the error has the key: %v", err)
		}
	}
	local := Draft{Kind: OpenAIChat, Model: "m", BaseURL: "http://127.0.0.1:8080/v1/"}
	if p := b.add(operator, local); p.BaseURL != "http://127.0.0.1:8080/v1" || !b.store.records[0].Private {
		t.Errorf("the operator's own is %+v", p)
	}
	b.Registry.anywhere = true
	b.add(anna, local)
	if b.store.records[1].Private {
		t.Error("a user's provider counts as the operator's")
	}
}

// A key goes nowhere but where it was given for, whoever changes the provider.
func TestKeyStaysWithItsAddress(t *testing.T) {
	b := newBench(t)
	p := b.add(operator, Draft{Kind: OpenAIChat, Model: "m", APIKey: secret, BaseURL: "http://10.0.0.5/v1", Owner: "usr-1"})
	elsewhere, key := "https://collector.example/v1", Secret("sk-another-key-0123456789")
	_, err := b.Update(t.Context(), anna, p.ID, Change{BaseURL: &elsewhere})
	wantCode(t, err, desktop.Invalid, "give apiKey too")
	no := false
	_, err = b.Update(t.Context(), anna, p.ID, Change{Default: &no})
	wantCode(t, err, desktop.Invalid, "default")
	inside := "http://10.0.0.6/v1" // beside what the operator named, which is no leave for this
	_, err = b.Update(t.Context(), anna, p.ID, Change{BaseURL: &inside, APIKey: &key})
	wantCode(t, err, desktop.Invalid, "https")
	other := "n"
	if _, err := b.Update(t.Context(), anna, p.ID, Change{Model: &other}); err != nil || !b.store.records[0].Private {
		t.Errorf("%+v, %v", b.store.records[0], err)
	}
	if p, err := b.Update(t.Context(), anna, p.ID, Change{BaseURL: &elsewhere, APIKey: &key}); err != nil || b.store.records[0].Private || p.KeyEnd != "6789" {
		t.Errorf("%+v, %v", p, err)
	}
	chains, err := b.Chains(t.Context(), "usr-1", "dt-1")
	if err != nil || chains[0][0].Key != string(key) || chains[0][0].BaseURL != elsewhere {
		t.Errorf("%v", err)
	}
}

func TestTrying(t *testing.T) {
	b := newBench(t)
	p := b.add(anna, Draft{Kind: Anthropic, APIKey: secret, Model: "m", FallbackModel: "n"})
	v, err := b.Test(t.Context(), anna, p.ID)
	if err != nil || !v.OK || v.Message != "It answers." || b.tried.Key != secret || b.tried.Model != "m" || b.tried.Private {
		t.Errorf("%+v, %v, tried %s", v, err, b.tried)
	}
	b.fails = &model.Error{Code: model.Unauthorized, Status: 401, Message: "no such key"}
	if v, err := b.Test(t.Context(), anna, p.ID); err != nil || v.OK || v.Code != "unauthorized" || !strings.Contains(v.Message, "no such key") {
		t.Errorf("%+v, %v", v, err)
	}
	b.fails = errors.New("something else")
	if _, err := b.Test(t.Context(), anna, p.ID); err == nil || desktop.CodeOf(err) != desktop.Internal {
		t.Errorf("%v", err)
	}
}

// Whatever is done to show a key, it does not show.
func TestSecretsDoNotShow(t *testing.T) {
	draft := Draft{Kind: Anthropic, APIKey: secret}
	text, _ := json.Marshal(draft)
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "draft", draft, "key", draft.APIKey, "endpoint", model.Endpoint{Key: secret})
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "draft", draft, "key", draft.APIKey, "endpoint", model.Endpoint{Key: secret})
	all := string(text) + log.String() + fmt.Sprintf("%v %+v %#v %s", draft, draft, draft, model.Endpoint{Key: secret})
	if strings.Contains(all, secret) {
		t.Errorf("the key shows in %s", all)
	}
}

func TestVault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "master.keys")
	first := vault(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("%v %v", info.Mode(), err)
	}
	sealed := first.seal("prv-1", secret)
	if bytes.Contains(sealed, []byte(secret)) || bytes.Equal(sealed, first.seal("prv-1", secret)) {
		t.Error("what is sealed can be read, or told from another")
	}
	if key, current, err := vault(t, path).open("prv-1", sealed); err != nil || key != secret || !current {
		t.Errorf("%q %v %v", key, current, err)
	}
	// Another provider's row, a bit that has changed, a part of it, an empty one.
	changed := bytes.Clone(sealed)
	changed[len(changed)-1] ^= 1
	for name, c := range map[string]struct {
		id     string
		sealed []byte
	}{"moved": {"prv-2", sealed}, "changed": {"prv-1", changed}, "cut": {"prv-1", sealed[:20]}, "empty": {"prv-1", nil}} {
		if key, _, err := first.open(c.id, c.sealed); err == nil {
			t.Errorf("%s: %q", name, key)
		}
	}

	// A new key before the old one: both open, the new one seals, and all is sealed anew.
	b := newBench(t)
	b.Registry.vault = first
	p := b.add(anna, Draft{Kind: Anthropic, APIKey: secret})
	old, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	next := strings.Repeat("0f", masterSize) + "\n"
	if err := os.WriteFile(path, append([]byte(next), old...), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Registry.vault = vault(t, path)
	if err := b.Reseal(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	b.Registry.vault = vault(t, path)
	if got := b.models("dt-1"); got != p.Model {
		t.Errorf("after the change: %s", got)
	}
	// The file is lost: said clearly, and mended with a new key.
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	b.Registry.vault = vault(t, path)
	if err := b.Reseal(t.Context()); err != nil || !strings.Contains(b.log.String(), "has to be given anew") {
		t.Errorf("%v\n%s", err, &b.log)
	}
	_, err = b.Endpoints(t.Context(), "usr-1", "dt-1")
	wantCode(t, err, desktop.Unavailable, "give it anew")
	key := Secret(secret)
	if _, err := b.Update(t.Context(), anna, p.ID, Change{APIKey: &key}); err != nil {
		t.Error(err)
	}
	if got := b.models("dt-1"); got != p.Model {
		t.Errorf("with a new key: %s", got)
	}

	for name, text := range map[string]string{"empty": "", "short": "00ff\n", "no digits": strings.Repeat("x", 64)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := OpenVault(path); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if err := os.WriteFile(path, []byte(next), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenVault(path); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("a file that others may read: %v", err)
	}
}

func TestPublic(t *testing.T) {
	for address, want := range map[string]bool{
		"8.8.8.8": true, "2606:4700::1111": true, "::ffff:8.8.8.8": true,
		"127.0.0.1": false, "::1": false, "10.1.2.3": false, "172.16.0.1": false, "192.168.122.1": false, "169.254.169.254": false, "100.64.0.1": false,
		"0.0.0.0": false, "::": false, "255.255.255.255": false, "224.0.0.1": false, "fe80::1%eth0": false, "fd00::1": false, "ff02::1": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::127.0.0.1": false, "64:ff9b::7f00:1": false, "2002:7f00:1::": false, "2001:0:7f00:1::": false,
		"192.0.2.1": false, "198.18.0.1": false, "240.0.0.1": false,
	} {
		if got := public(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: %v", address, got)
		}
	}
	for host, want := range map[string]bool{
		"api.openai.com": false, "localhost": true, "LOCALHOST.": true, "router": true, "db.internal": true, "a.local": true, "10.0.0.1": true, "8.8.8.8": false,
		"0x7f.1": true, "2130706433": true, "127.1": true, "example.de": false,
	} {
		if got := inside(host); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

// What a user has named is not connected to at an address that is not public, whatever its name; what
// the operator has named is. Redirects are not followed.
func TestClients(t *testing.T) {
	reached := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reached++
		if r.URL.Path == "/elsewhere" {
			http.Redirect(w, r, "/", http.StatusFound)
		}
	}))
	defer server.Close()
	_, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewClients(ClientOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "127.1"} {
		_, err := c.For(model.Endpoint{}).Get("http://" + host + ":" + port)
		if err == nil || reached > 0 {
			t.Fatalf("%s was reached: %v", host, err)
		}
		if host != "127.1" { // which not every resolver takes for an address
			wantCode(t, err, desktop.Invalid, "not a public address")
		}
	}
	// This host is not public under its other addresses either.
	for _, own := range ownAddresses(t) {
		wantCode(t, checkAddress(net.JoinHostPort(own, port)), desktop.Invalid, "not a public address")
	}
	response, err := c.For(model.Endpoint{Private: true}).Get(server.URL + "/elsewhere")
	if err != nil || response.StatusCode != http.StatusFound || reached != 1 {
		t.Errorf("the operator's: %v, reached %d times", err, reached)
	} else {
		response.Body.Close()
	}
	open, err := NewClients(ClientOptions{PrivateAddresses: true})
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	if response, err := open.For(model.Endpoint{}).Get(server.URL); err != nil {
		t.Errorf("where the operator allows it: %v", err)
	} else {
		response.Body.Close()
	}
}

func ownAddresses(t *testing.T) (list []string) {
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		list = append(list, netip.MustParsePrefix(a.String()).Addr().String())
	}
	return list
}

// Through a proxy the name is the proxy's to look up; what is plainly inside is refused before.
func TestProxy(t *testing.T) {
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = append(asked, r.RequestURI) }))
	defer proxy.Close()
	c, err := NewClients(ClientOptions{Proxy: proxy.URL, NoProxy: ".direct.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, target := range []string{"http://127.0.0.1:1/", "http://metadata.internal/", "http://intranet/", proxy.URL + "/x", "http://10.0.0.1/"} {
		if _, err := c.For(model.Endpoint{}).Get(target); err == nil {
			t.Errorf("%s was asked for", target)
		}
	}
	for _, e := range []model.Endpoint{{}, {Private: true}} {
		response, err := c.For(e).Get("http://models.example.org/v1")
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
	}
	if !slices.Equal(asked, []string{"http://models.example.org/v1", "http://models.example.org/v1"}) {
		t.Errorf("the proxy was asked for %v", asked)
	}
	if _, err := NewClients(ClientOptions{Proxy: "nonsense"}); err == nil {
		t.Error("a proxy without an address was taken")
	}
}
