package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// Measure implements desktop.Machines.
func (h *Host) Measure(ctx context.Context) (desktop.HostFacts, error) {
	return run(ctx, h, queryTime, "measure the host", func(ctx context.Context, c *libvirt.Connect) (desktop.HostFacts, error) {
		var facts desktop.HostFacts
		node, err := c.GetNodeInfo()
		if err != nil {
			return facts, err
		}
		facts.CPUs = int(node.Cpus)
		if facts.MemoryBytes, facts.MemoryAvailable, err = hostMemory(c); err != nil {
			return facts, err
		}
		err = h.withPool(c, func(pool *libvirt.StoragePool) error {
			h.refresh(pool)
			info, err := pool.GetInfo()
			if err != nil {
				return fmt.Errorf("measure pool %s: %w", h.opts.Pool.Name, err)
			}
			facts.DiskBytes, facts.DiskAvailable = int64(info.Capacity), int64(info.Available)
			facts.DiskUsed, err = overlaysUse(pool)
			return err
		})
		return facts, err
	})
}

// hostMemory is how much the host has, and what a new machine could be given right now, in bytes. Of a
// host whose memory changes while it runs, as that of virtual ones may, GetNodeInfo tells an older size.
func hostMemory(c *libvirt.Connect) (total, available int64, err error) {
	stats, err := c.GetMemoryStats(libvirt.NODE_MEMORY_STATS_ALL_CELLS, 0)
	if err != nil {
		return 0, 0, fmt.Errorf("measure the host's memory: %w", err)
	}
	return int64(stats.Total) << 10, int64(stats.Free+stats.Buffers+stats.Cached) << 10, nil
}

// refresh makes the pool's figures those of now: libvirt counts what it does itself, not what guests
// write and others tidy up. It cannot while it is doing something in the pool, such as taking in an
// image; the figures are then those of a moment ago.
func (h *Host) refresh(pool *libvirt.StoragePool) {
	err := pool.Refresh(0)
	if err == nil {
		return
	}
	// One that could not be read has been stopped by that, and is started again.
	if active, activeErr := pool.IsActive(); activeErr == nil && !active {
		err = errors.Join(err, pool.Create(libvirt.STORAGE_POOL_CREATE_NORMAL))
		h.log.Warn("the storage pool could not be read", "pool", h.opts.Pool.Name, "error", err)
	} else {
		h.log.Debug("the storage pool's figures are not those of now", "pool", h.opts.Pool.Name, "error", err)
	}
}

// overlaysUse is what the machines' own disks take of the pool now.
func overlaysUse(pool *libvirt.StoragePool) (int64, error) {
	volumes, err := pool.ListAllStorageVolumes(0)
	if err != nil {
		return 0, fmt.Errorf("list the volumes: %w", err)
	}
	var used int64
	for i := range volumes {
		v := &volumes[i]
		name, err := v.GetName()
		var info *libvirt.StorageVolInfo
		if err == nil && strings.HasPrefix(name, "desktop-") && ourVolume.MatchString(name) {
			info, err = v.GetInfo()
		}
		v.Free()
		switch {
		case isCode(err, libvirt.ERR_NO_STORAGE_VOL): // deleted meanwhile
		case err != nil:
			return 0, fmt.Errorf("measure volume %s: %w", name, err)
		case info != nil:
			used += int64(info.Allocation)
		}
	}
	return used, nil
}

// HasContent implements desktop.Machines.
func (h *Host) HasContent(ctx context.Context, digest string) error {
	_, err := run(ctx, h, queryTime, "look for the image", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		if !validHex.MatchString(digest) {
			return struct{}{}, noContent(digest)
		}
		_, ok, err := h.content(ctx, c, digest)
		if err == nil && !ok {
			err = noContent(digest)
		}
		return struct{}{}, err
	})
	return err
}

func noContent(digest string) error {
	return desktop.Errorf(desktop.NotFound,
		"the image that this desktop was made from (%.12s) is not on this host; make it with `bureau image build`, or bring it with `bureau image import`", digest)
}
