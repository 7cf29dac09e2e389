package assistant

import (
	"context"

	"bureau/assistant/model"
)

// Providers finds the models that a desktop may use: its own provider's, else its owner's, else the
// appliance's.
type Providers interface {
	// Endpoints are in the order in which they are to be tried, the fallbacks after the first.
	// desktop.NotFound when nobody has configured any.
	Endpoints(ctx context.Context, owner, desktopID string) ([]model.Endpoint, error)
}

// Meter keeps count of what models cost, and within limits.
type Meter interface {
	// Allow is asked before each request to a model, which it counts. It is desktop.RateLimited when the
	// desktop or its owner has used up what it may.
	Allow(ctx context.Context, owner, desktopID string) error
	// Record adds what one answer took.
	Record(ctx context.Context, owner, desktopID string, endpoint model.Endpoint, usage model.Usage) error
}
