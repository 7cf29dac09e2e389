package hypervisor

import (
	"context"
	"errors"
	"fmt"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// Purge removes everything that carries this host's prefix: machines with their disks, images,
// agents, the pool and the networks with their filters. A volume in the pool that is not bureau's is kept, and the
// pool with it; that is Conflict. The Host is of no use afterwards.
func (h *Host) Purge(ctx context.Context) error {
	_, err := run(ctx, h, startTime, "remove everything", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		return struct{}{}, errors.Join(
			h.eachDomain(c, func(id string, d *libvirt.Domain) error {
				if err := destroyDomain(d); err != nil {
					return fmt.Errorf("turn off machine %s: %w", id, err)
				}
				return undefineDomain(d)
			}),
			h.purgePool(c),
			h.purgeNetwork(c, desktop.NetworkNAT),
			h.purgeNetwork(c, desktop.NetworkIsolated),
		)
	})
	return err
}

func (h *Host) purgePool(c *libvirt.Connect) error {
	volumes, err := h.listVolumes(c)
	if err != nil {
		return err
	}
	foreign := ""
	for _, v := range volumes {
		if !ourVolume.MatchString(v.name) {
			foreign = v.name
			continue
		}
		if err := h.deleteVolume(c, v.name); err != nil {
			return err
		}
	}
	if foreign != "" {
		return desktop.Errorf(desktop.Conflict, "storage pool %s holds %s, which is not bureau's", h.opts.Pool.Name, foreign)
	}
	return h.withPool(c, func(pool *libvirt.StoragePool) error {
		if err := pool.Destroy(); err != nil {
			return fmt.Errorf("stop storage pool %s: %w", h.opts.Pool.Name, err)
		}
		if err := pool.Delete(libvirt.STORAGE_POOL_DELETE_NORMAL); err != nil {
			h.log.Warn("the storage pool's folder stays", "pool", h.opts.Pool.Name, "error", err)
		}
		if err := pool.Undefine(); err != nil {
			return fmt.Errorf("forget storage pool %s: %w", h.opts.Pool.Name, err)
		}
		return nil
	})
}

func (h *Host) purgeNetwork(c *libvirt.Connect, network string) error {
	h.networks.Lock()
	defer h.networks.Unlock()
	n, err := c.LookupNetworkByName(h.opts.networkName(network))
	if isCode(err, libvirt.ERR_NO_NETWORK) {
		return h.purgeFilter(c, network)
	}
	if err != nil {
		return err
	}
	defer n.Free()
	if err := n.Destroy(); err != nil && !isCode(err, libvirt.ERR_OPERATION_INVALID) {
		return fmt.Errorf("stop network %s: %w", h.opts.networkName(network), err)
	}
	if err := n.Undefine(); err != nil {
		return fmt.Errorf("forget network %s: %w", h.opts.networkName(network), err)
	}
	return h.purgeFilter(c, network)
}
