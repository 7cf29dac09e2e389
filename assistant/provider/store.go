package provider

import (
	"context"
	"time"

	"bureau/desktop"
)

// Record is a provider as it is kept.
type Record struct {
	Provider
	Sealed []byte // the key
	// Private tells that the operator has named the address: it may be the host itself, or on its
	// networks.
	Private     bool
	PreferredAt time.Time // when it was made the default; zero when never
}

// Scope is whose providers are meant: the appliance's when all is empty, a user's, or one desktop's.
type Scope struct{ Owner, DesktopID string }

// Store keeps providers. Every method is one transaction.
type Store interface {
	// InsertProvider is Conflict when its scope has one of that name, a desktop any, or an owner limit
	// of them, and NotFound when the owner or the desktop is not there, or no longer.
	InsertProvider(ctx context.Context, record Record, limit int) error
	// UpdateProvider reads, changes and writes one; an error of change undoes it and is returned as it
	// is. NotFound for an unknown id.
	UpdateProvider(ctx context.Context, id string, change func(*Record) error) (Record, error)
	// DeleteProvider also takes it from where it was the fallback. NotFound for an unknown id.
	DeleteProvider(ctx context.Context, id string) error
	Provider(ctx context.Context, id string) (Record, error)
	// Providers lists a scope's: the one that was preferred last first, then the oldest.
	Providers(ctx context.Context, scope Scope) ([]Record, error)
	// AllProviders lists everybody's.
	AllProviders(ctx context.Context) ([]Record, error)

	User(ctx context.Context, id string) (desktop.User, error)
	UserByEmail(ctx context.Context, email string) (desktop.User, error)
	Desktop(ctx context.Context, id string) (desktop.Record, error)
}
