package cmd

import (
	"context"
	"io"
	"log/slog"

	"bureau/cmd/config"
	"bureau/desktop"
	"bureau/packaging/image"
)

// Parts are the rooms that only some builds have, as the commands use them. A nil member is a part
// that this build is without.
type Parts struct {
	// Serve runs the appliance until ctx ends. ready is called once it answers.
	Serve func(ctx context.Context, c config.Config, log *slog.Logger, ready func(Served)) error
	// Agent serves the host from within a guest until ctx ends.
	Agent func(ctx context.Context, options AgentOptions, log *slog.Logger) error
	// OpenAPI is the API's description as JSON.
	OpenAPI func() ([]byte, error)
	// Images opens the hypervisor's store of images.
	Images func(ctx context.Context, c config.Config, log *slog.Logger) (Images, error)
	// Checks examines the host.
	Checks func(ctx context.Context, c config.Config) []Check
}

// Served is what an operator is told when the appliance is up.
type Served struct {
	URL         string // of the API
	Fingerprint string // of the API's certificate, when it is self-signed
	AdminSocket string
	Admin       desktop.User
	FirstStart  bool // the database was made just now
}

// AgentOptions are those of `bureau agent`.
type AgentOptions struct {
	Port    string // of the virtio-serial device
	Version string
}

// Images is the hypervisor's store of disk images.
type Images interface {
	// Import adds an image, or puts it in the place of one with its name; desktops made of the
	// former one keep it. An image that is there already, by its digest, is success.
	Import(ctx context.Context, files image.Files, progress func(done, total int64)) (desktop.Image, error)
	List(ctx context.Context) ([]desktop.Image, error)
	// Remove deletes an image. It is Conflict while desktops are based on it.
	Remove(ctx context.Context, name string) error
	// Purge removes everything that bureau made in libvirt.
	Purge(ctx context.Context) error
	io.Closer
}

// Check is one finding about the host.
type Check struct {
	Name    string `json:"name"`
	OK      bool   `json:"ok"`
	Warning bool   `json:"warning"` // not OK, but bureau works
	Detail  string `json:"detail"`
	Fix     string `json:"fix,omitempty"` // a command that mends it
}
