package desktop

import (
	"context"
	"time"
)

// Store keeps desktops, users and keys. Every method is one transaction: it has happened, durably,
// when it returns nil, and not at all when it returns an error.
type Store interface {
	// InsertDesktop keeps a new desktop. limit, when positive, is how many desktops that are not
	// destroyed the owner may have with it; beyond it the error is Conflict.
	InsertDesktop(ctx context.Context, record Record, limit int) error
	// UpdateDesktop reads, changes and writes one record; an error of change undoes it and is
	// returned as it is. It is NotFound for an unknown id. UpdatedAt is change's own business.
	UpdateDesktop(ctx context.Context, id string, change func(*Record) error) (Record, error)
	Desktop(ctx context.Context, id string) (Record, error)
	// Desktops lists those that are not destroyed, oldest first (by CreatedAt, then ID).
	Desktops(ctx context.Context, page Page) ([]Record, error)

	// KeepUses keeps when desktops were last used, by id; those that are not there are left out.
	KeepUses(ctx context.Context, uses map[string]time.Time) error
	// Uses are what was kept of the desktops that are not destroyed.
	Uses(ctx context.Context) (map[string]time.Time, error)

	// InsertUser keeps a user; a second one with the same e-mail address is Conflict.
	InsertUser(ctx context.Context, user User) error
	// UpdateUser changes a user's role and tier in one transaction and returns the user, who is left as
	// they were by an error of change's. It is NotFound for an unknown id, and Conflict when no
	// administrator would be left.
	UpdateUser(ctx context.Context, id string, change func(*User) error) (User, error)
	User(ctx context.Context, id string) (User, error)
	UserByEmail(ctx context.Context, email string) (User, error)
	Users(ctx context.Context) ([]User, error)

	// InsertKey keeps a key by the hash of its secret.
	InsertKey(ctx context.Context, key Key, hash []byte) error
	// KeyByHash finds a key and its user, also a revoked or expired one; NotFound when unknown.
	KeyByHash(ctx context.Context, hash []byte) (Key, User, error)
	// Keys lists a user's keys, or everybody's for "".
	Keys(ctx context.Context, userID string) ([]Key, error)
	// RevokeKey marks a key revoked; one that is already stays as it was.
	RevokeKey(ctx context.Context, id string, at time.Time) (Key, error)
	// TouchKey records that a key was used.
	TouchKey(ctx context.Context, id string, at time.Time) error
}

// Page selects from a listing.
type Page struct {
	Owner string // everybody's when empty
	After string // the id of the last desktop of the page before
	Limit int    // all when 0
}
