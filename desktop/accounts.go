package desktop

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// KeyPrefix begins every API key's secret.
const KeyPrefix = "sk_live_"

const (
	keyBytes     = 25 // 200 random bits, 40 characters of base 32
	touchEvery   = time.Minute
	maxKeyLength = 256
)

// Accounts says who may use the appliance: its users and their keys.
type Accounts struct {
	store       Store
	tiers       []Tier
	defaultTier string

	mu      sync.Mutex
	touched map[string]time.Time // key id → when its use was last recorded
}

// NewAccounts makes Accounts of a store. A new user gets defaultTier unless another is named.
func NewAccounts(store Store, tiers []Tier, defaultTier string) *Accounts {
	return &Accounts{store: store, tiers: tiers, defaultTier: defaultTier, touched: make(map[string]time.Time)}
}

// HashKey is what is kept of a key's secret. A fast hash is right here: a secret has 200 random
// bits, so there is nothing to guess that a slow hash would protect, and every request pays for it.
//
// The store looks the hash up in an index. How long that takes may tell how far the hash of what was
// presented agrees with one that is kept; whoever wants to make use of that has to find secrets by the
// beginning of their hash, and at its end has a hash, which opens nothing. So no comparison of secrets
// is left whose time could tell anything of one.
func HashKey(secret string) []byte {
	sum := sha256.Sum256([]byte(secret))
	return sum[:]
}

// Authenticate finds who a secret belongs to. The error is Unauthenticated when it is not one, or
// its key was revoked or has expired. All of these are one answer, and one look-up: what a key was is
// for the operator's log.
func (a *Accounts) Authenticate(ctx context.Context, secret string) (Caller, error) {
	if secret == "" {
		return Caller{}, Errorf(Unauthenticated, "no API key: send it as Authorization: Bearer %s…", KeyPrefix)
	}
	bad := Errorf(Unauthenticated, "the key is unknown, revoked or expired")
	if !strings.HasPrefix(secret, KeyPrefix) || len(secret) > maxKeyLength {
		return Caller{}, bad // what a key looks like is no secret
	}
	key, user, err := a.store.KeyByHash(ctx, HashKey(secret))
	now := time.Now().UTC()
	switch {
	case err != nil && CodeOf(err) != NotFound:
		return Caller{}, err
	case err != nil:
		return Caller{}, bad.Because(err)
	case key.RevokedAt != nil:
		return Caller{}, bad.Because(fmt.Errorf("key %s was revoked", key.ID))
	case key.ExpiresAt != nil && !now.Before(*key.ExpiresAt):
		return Caller{}, bad.Because(fmt.Errorf("key %s has expired", key.ID))
	}
	if a.shouldTouch(key.ID, now) {
		// A disk that is full is no reason to keep out who only wants to look, or to make room.
		if err := a.store.TouchKey(ctx, key.ID, now); err != nil && CodeOf(err) != Unavailable {
			return Caller{}, err
		}
	}
	return Caller{User: user, Key: key}, nil
}

// shouldTouch tells whether the use of a key is worth a write to the disk.
func (a *Accounts) shouldTouch(id string, now time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.touched[id]) < touchEvery {
		return false
	}
	a.touched[id] = now
	return true
}

// CreateUser makes a user. An empty role is RoleUser, an empty tier the default one.
func (a *Accounts) CreateUser(ctx context.Context, email string, role Role, tier string) (User, error) {
	role, tier = cmp.Or(role, RoleUser), cmp.Or(tier, a.defaultTier)
	address, err := mail.ParseAddress(email)
	if err != nil || address.Address != email || len(email) > 254 {
		return User{}, Errorf(Invalid, "email %q is not an e-mail address", truncate(email, 80))
	}
	if err := checkRole(role); err != nil {
		return User{}, err
	}
	if _, err := findTier(a.tiers, tier); err != nil {
		return User{}, err
	}
	user := User{ID: "usr-" + randomBase32(10), Email: email, Role: role, Tier: tier, CreatedAt: now()}
	if err := a.store.InsertUser(ctx, user); err != nil {
		return User{}, err
	}
	return user, nil
}

func checkRole(role Role) error {
	if role != RoleAdmin && role != RoleUser {
		return Errorf(Invalid, "role %q is neither admin nor user", role)
	}
	return nil
}

// UpdateUser changes a user, named by id or e-mail address, from the next request on. Desktops stay as
// large as they were made, and nobody is asked to give one back. It is Conflict when no administrator
// would be left.
func (a *Accounts) UpdateUser(ctx context.Context, user string, change UserChange) (User, error) {
	found, err := a.FindUser(ctx, user)
	if err != nil {
		return User{}, err
	}
	return a.store.UpdateUser(ctx, found.ID, func(u *User) error {
		if change.Role != nil {
			if err := checkRole(*change.Role); err != nil {
				return err
			}
			u.Role = *change.Role
		}
		// What stays may be a tier that the configuration had once.
		if change.Tier != nil {
			if _, err := findTier(a.tiers, *change.Tier); err != nil {
				return err
			}
			u.Tier = *change.Tier
		}
		return nil
	})
}

// Users lists all users.
func (a *Accounts) Users(ctx context.Context) ([]User, error) { return a.store.Users(ctx) }

// FindUser finds a user by id or e-mail address.
func (a *Accounts) FindUser(ctx context.Context, user string) (User, error) {
	return findUser(ctx, a.store, user)
}

func findUser(ctx context.Context, store Store, user string) (User, error) {
	if strings.Contains(user, "@") {
		return store.UserByEmail(ctx, user)
	}
	return store.User(ctx, user)
}

// CreateKey makes a key for a user, named by id or e-mail address, and returns its secret, which is
// kept nowhere. Without capabilities it gets DefaultCapabilities.
func (a *Accounts) CreateKey(ctx context.Context, user, name string, capabilities []Capability, expiresAt *time.Time) (Key, string, error) {
	owner, err := a.FindUser(ctx, user)
	if err != nil {
		return Key{}, "", err
	}
	if utf8.RuneCountInString(name) > NameLength {
		return Key{}, "", Errorf(Invalid, "name is longer than %d characters", NameLength)
	}
	if len(capabilities) == 0 {
		capabilities = DefaultCapabilities()
	}
	held := make([]Capability, 0, len(capabilities))
	for _, known := range Capabilities() { // in the manual's order, each once
		if slices.Contains(capabilities, known) {
			held = append(held, known)
		}
	}
	for _, c := range capabilities {
		if !slices.Contains(held, c) {
			return Key{}, "", Errorf(Invalid, "capability %q is unknown; there are %v", truncate(string(c), 80), Capabilities())
		}
	}
	created := now()
	if expiresAt != nil {
		if !expiresAt.After(created) {
			return Key{}, "", Errorf(Invalid, "expiresAt is in the past")
		}
		utc := expiresAt.UTC().Truncate(time.Millisecond)
		expiresAt = &utc
	}
	secret := KeyPrefix + randomBase32(keyBytes)
	key := Key{
		ID:           "key-" + randomBase32(10),
		UserID:       owner.ID,
		Name:         name,
		Prefix:       secret[:len(KeyPrefix)+4],
		Capabilities: held,
		CreatedAt:    created,
		ExpiresAt:    expiresAt,
	}
	if err := a.store.InsertKey(ctx, key, HashKey(secret)); err != nil {
		return Key{}, "", err
	}
	return key, secret, nil
}

// Keys lists the keys of a user, named by id or e-mail address, or everybody's for "".
func (a *Accounts) Keys(ctx context.Context, user string) ([]Key, error) {
	if user == "" {
		return a.store.Keys(ctx, "")
	}
	owner, err := a.FindUser(ctx, user)
	if err != nil {
		return nil, err
	}
	return a.store.Keys(ctx, owner.ID)
}

// RevokeKey ends a key; the next request with it is refused.
func (a *Accounts) RevokeKey(ctx context.Context, id string) (Key, error) {
	return a.store.RevokeKey(ctx, id, now())
}

// FirstAdmin is the appliance's first administrator, made now where there is none, and whether it
// was.
func (a *Accounts) FirstAdmin(ctx context.Context, email, tier string) (User, bool, error) {
	user, err := firstAdmin(ctx, a.store)
	if CodeOf(err) != NotFound {
		return user, false, err
	}
	user, err = a.CreateUser(ctx, email, RoleAdmin, tier)
	return user, err == nil, err
}

func firstAdmin(ctx context.Context, store Store) (User, error) {
	users, err := store.Users(ctx)
	if err != nil {
		return User{}, err
	}
	for _, u := range users {
		if u.Role == RoleAdmin {
			return u, nil
		}
	}
	return User{}, Errorf(NotFound, "there is no administrator")
}

// now is the present, in the precision that the store and the API keep.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }

func findTier(tiers []Tier, name string) (Tier, error) {
	names := make([]string, len(tiers))
	for i, t := range tiers {
		if t.Name == name {
			return t, nil
		}
		names[i] = t.Name
	}
	return Tier{}, Errorf(Invalid, "tier %q is unknown; there are %s", truncate(name, 80), strings.Join(names, ", "))
}

// truncate shortens what a caller sent for use in an answer to them.
func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
