package desktop

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// keyStore adds keys to memoryStore.
type keyStore struct {
	*memoryStore
	hashes  [][]byte
	keys    []Key
	touches int
}

func (s *keyStore) InsertKey(_ context.Context, key Key, hash []byte) error {
	s.hashes, s.keys = append(s.hashes, hash), append(s.keys, key)
	return nil
}

func (s *keyStore) KeyByHash(_ context.Context, hash []byte) (Key, User, error) {
	i := slices.IndexFunc(s.hashes, func(h []byte) bool { return bytes.Equal(h, hash) })
	if i < 0 {
		return Key{}, User{}, Errorf(NotFound, "no such key")
	}
	return s.keys[i], s.users[s.keys[i].UserID], nil
}

func (s *keyStore) TouchKey(context.Context, string, time.Time) error { s.touches++; return nil }

func (s *keyStore) RevokeKey(_ context.Context, id string, at time.Time) (Key, error) {
	i := slices.IndexFunc(s.keys, func(k Key) bool { return k.ID == id })
	s.keys[i].RevokedAt = &at
	return s.keys[i], nil
}

func TestKeys(t *testing.T) {
	ctx := t.Context()
	store := &keyStore{memoryStore: newMemoryStore(ann.User)}
	accounts := NewAccounts(store, testTiers, "free")
	soon := time.Now().Add(time.Hour)
	key, secret, err := accounts.CreateKey(ctx, ann.User.ID, "ci", []Capability{CanControl, CanRead, CanRead}, &soon)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(secret, KeyPrefix) || len(secret) != len(KeyPrefix)+40 || !strings.HasPrefix(secret, key.Prefix) || len(key.Prefix) > 12 {
		t.Errorf("secret %q, prefix %q", secret, key.Prefix)
	}
	if !slices.Equal(key.Capabilities, []Capability{CanRead, CanControl}) {
		t.Errorf("capabilities %v", key.Capabilities)
	}
	if bytes.Contains(store.hashes[0], []byte(secret)) || len(store.hashes[0]) != 32 {
		t.Error("the secret itself is kept")
	}
	for range 3 {
		caller, err := accounts.Authenticate(ctx, secret)
		if err != nil || caller.User != ann.User || !caller.Can(CanControl) || caller.Can(CanManage) || caller.Local {
			t.Errorf("%+v, %v", caller, err)
		}
	}
	if store.touches != 1 {
		t.Errorf("%d writes for three requests in a moment", store.touches)
	}
	for _, bad := range []string{"", "x", secret[:len(secret)-1], secret + "a", KeyPrefix, KeyPrefix + strings.Repeat("a", 1000)} {
		if _, err := accounts.Authenticate(ctx, bad); CodeOf(err) != Unauthenticated {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	past := time.Now().Add(-time.Second)
	store.keys[0].ExpiresAt = &past
	_, unknown := accounts.Authenticate(ctx, KeyPrefix+"unknown")
	if _, err := accounts.Authenticate(ctx, secret); CodeOf(err) != Unauthenticated || err.Error() != unknown.Error() {
		t.Errorf("expired: %v; unknown: %v", err, unknown)
	} else if cause := errors.Unwrap(err); cause == nil || !strings.Contains(cause.Error(), key.ID+" has expired") {
		t.Errorf("the operator is told %v", cause)
	}
	store.keys[0].ExpiresAt = nil
	if _, err := accounts.RevokeKey(ctx, key.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := accounts.Authenticate(ctx, secret); CodeOf(err) != Unauthenticated || err.Error() != unknown.Error() {
		t.Errorf("revoked: %v; unknown: %v", err, unknown)
	} else if cause := errors.Unwrap(err); cause == nil || !strings.Contains(cause.Error(), key.ID+" was revoked") {
		t.Errorf("the operator is told %v", cause)
	}
}

func TestKeyRequests(t *testing.T) {
	accounts := NewAccounts(&keyStore{memoryStore: newMemoryStore(ann.User)}, testTiers, "free")
	key, _, err := accounts.CreateKey(t.Context(), ann.User.ID, "", nil, nil)
	if err != nil || !slices.Equal(key.Capabilities, DefaultCapabilities()) {
		t.Errorf("%v, %v", key.Capabilities, err)
	}
	past := time.Now().Add(-time.Minute)
	for _, c := range []struct {
		user         string
		name         string
		capabilities []Capability
		expires      *time.Time
		code         Code
	}{
		{"usr-nobody", "", nil, nil, NotFound},
		{ann.User.ID, strings.Repeat("x", 64), nil, nil, Invalid},
		{ann.User.ID, "", []Capability{"desktop:fly"}, nil, Invalid},
		{ann.User.ID, "", nil, &past, Invalid},
	} {
		if _, _, err := accounts.CreateKey(t.Context(), c.user, c.name, c.capabilities, c.expires); CodeOf(err) != c.code {
			t.Errorf("%+v: %v", c, err)
		}
	}
	for _, email := range []string{"", "ann", "Ann <ann@example.org>", "a@b@c", strings.Repeat("a", 300) + "@example.org"} {
		if _, err := accounts.CreateUser(t.Context(), email, "", ""); CodeOf(err) != Invalid {
			t.Errorf("%.30q: %v", email, err)
		}
	}
}

func TestUpdateUser(t *testing.T) {
	bea := User{ID: "usr-bea", Role: RoleUser, Tier: "free"}
	retired := User{ID: "usr-retired", Role: RoleUser, Tier: "of former times"}
	accounts := NewAccounts(newMemoryStore(bea, retired), testTiers, "free")
	role := func(r Role) *Role { return &r }
	tier := func(t string) *string { return &t }
	for _, c := range []struct {
		user   string
		change UserChange
		want   User // its role and tier
		code   Code
	}{
		{bea.ID, UserChange{Tier: tier(testTiers[1].Name)}, User{Role: RoleUser, Tier: testTiers[1].Name}, ""},
		{bea.ID, UserChange{Role: role(RoleAdmin)}, User{Role: RoleAdmin, Tier: testTiers[1].Name}, ""},
		{bea.ID, UserChange{}, User{Role: RoleAdmin, Tier: testTiers[1].Name}, ""},
		{retired.ID, UserChange{Role: role(RoleAdmin)}, User{Role: RoleAdmin, Tier: retired.Tier}, ""},
		{bea.ID, UserChange{Role: role("king")}, User{}, Invalid},
		{bea.ID, UserChange{Tier: tier("huge")}, User{}, Invalid},
		{"usr-nobody", UserChange{Role: role(RoleUser)}, User{}, NotFound},
	} {
		got, err := accounts.UpdateUser(t.Context(), c.user, c.change)
		if (c.code == "") != (err == nil) || err != nil && CodeOf(err) != c.code || got.Role != c.want.Role || got.Tier != c.want.Tier {
			t.Errorf("%s %+v: %+v, %v", c.user, c.change, got, err)
		}
	}
}

// FuzzAuthenticate tries anything as a key: only the one that was made opens anything, and all else is
// told the same.
func FuzzAuthenticate(f *testing.F) {
	store := &keyStore{memoryStore: newMemoryStore(ann.User)}
	accounts := NewAccounts(store, testTiers, "free")
	_, secret, err := accounts.CreateKey(f.Context(), ann.User.ID, "ci", []Capability{CanRead}, nil)
	if err != nil {
		f.Fatal(err)
	}
	for _, s := range []string{"", KeyPrefix, secret[:len(secret)-1], strings.ToUpper(secret), secret + " ", "sk_live_\x00", strings.Repeat("a", 300)} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, given string) {
		caller, err := accounts.Authenticate(t.Context(), given)
		switch {
		case given == secret && (err != nil || caller.User.ID != ann.User.ID):
			t.Fatalf("the key itself: %v", err)
		case given != secret && CodeOf(err) != Unauthenticated:
			t.Fatalf("%q: %v", given, err)
		case given != KeyPrefix && strings.HasPrefix(given, KeyPrefix) && err != nil && strings.Contains(err.Error(), given):
			t.Fatalf("the error repeats the key: %v", err)
		}
	})
}
