//go:build cgo && libvirt_dlopen

package cmd

import (
	"context"
	"log/slog"

	"bureau/cmd/config"
	"bureau/desktop"
	"bureau/hypervisor"
	"bureau/packaging/image"
)

func addLibvirt(p *Parts) {
	p.Serve = serve
	p.Images = openImages
	p.Checks = checkHost
}

func hypervisorOptions(c config.Config, log *slog.Logger) hypervisor.Options {
	o := hypervisor.Options{
		URI:          c.Libvirt.URI,
		Prefix:       c.Libvirt.Prefix,
		LeastSpace:   int64(c.Capacity.DiskReserve),
		Acceleration: c.Acceleration,
		Version:      Version(),
		Log:          log,
	}
	o.Pool.Name, o.Pool.Path = c.Libvirt.Pool.Name, c.Libvirt.Pool.Path
	return o
}

// images is the hypervisor's store of images, open for one command.
type images struct{ *hypervisor.Host }

func openImages(ctx context.Context, c config.Config, log *slog.Logger) (Images, error) {
	host, err := hypervisor.Open(ctx, hypervisorOptions(c, log))
	if err != nil {
		return nil, err
	}
	return images{host}, nil
}

func (i images) Import(ctx context.Context, f image.Files, progress func(done, total int64)) (desktop.Image, error) {
	return i.ImportImage(ctx, hypervisor.ImageFiles{
		Name:        f.Name,
		Digest:      f.Digest,
		Description: f.Description,
		Boot:        f.Boot,
		Disk:        f.Disk,
		Kernel:      f.Kernel,
		Initrd:      f.Initrd,
		DiskBytes:   f.DiskBytes,
	}, progress)
}

func (i images) List(ctx context.Context) ([]desktop.Image, error) { return i.Images(ctx) }
func (i images) Remove(ctx context.Context, name string) error     { return i.RemoveImage(ctx, name) }

func checkHost(ctx context.Context, c config.Config) []Check {
	found := hypervisor.Checks(ctx, hypervisorOptions(c, slog.New(slog.DiscardHandler)))
	checks := make([]Check, len(found))
	for i, f := range found {
		checks[i] = Check(f)
	}
	return checks
}
