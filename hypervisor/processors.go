package hypervisor

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// Processors implements desktop.Machines.
func (h *Host) Processors(ctx context.Context) (desktop.ProcessorUse, error) {
	return run(ctx, h, queryTime, "see what the machines use of the processors", func(ctx context.Context, c *libvirt.Connect) (desktop.ProcessorUse, error) {
		use := desktop.ProcessorUse{Machines: map[string]time.Duration{}}
		node, err := c.GetNodeInfo()
		if err != nil {
			return use, err
		}
		host, err := c.GetCPUStats(int(libvirt.NODE_CPU_STATS_ALL_CPUS), 0)
		if err != nil {
			return use, err
		}
		use.Processors, use.Idle = int(node.Cpus), time.Duration(host.Idle+host.Iowait)
		all, err := c.GetAllDomainStats(nil, libvirt.DOMAIN_STATS_CPU_TOTAL,
			libvirt.CONNECT_GET_ALL_DOMAINS_STATS_RUNNING|libvirt.CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT)
		if err != nil {
			return use, err
		}
		for _, stats := range all {
			uuid, err := stats.Domain.GetUUIDString()
			if err == nil && stats.Cpu != nil && stats.Cpu.TimeSet {
				if id := h.opts.machineID(domainName(stats.Domain), uuid); id != "" {
					use.Machines[id] = time.Duration(stats.Cpu.Time)
				}
			}
			stats.Domain.Free()
		}
		return use, nil
	})
}

// yieldingPart is how much a machine that yields gets of what another does.
const yieldingPart = 16

// Yield implements desktop.Machines. It lasts until the machine is turned off.
func (h *Host) Yield(ctx context.Context, id string, yields bool) error {
	if err := checkID(id); err != nil {
		return err
	}
	shares := ordinaryShares()
	if yields {
		shares /= yieldingPart
	}
	_, err := run(ctx, h, queryTime, "share the processors", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		found, err := h.withDomain(c, id, func(d *libvirt.Domain) error {
			active, err := d.IsActive()
			if err != nil {
				return err
			}
			if !active {
				return desktop.Errorf(desktop.NotFound, "machine %s is not on", id)
			}
			return d.SetSchedulerParametersFlags(&libvirt.DomainSchedulerParameters{CpuSharesSet: true, CpuShares: shares}, libvirt.DOMAIN_AFFECT_LIVE)
		})
		if err == nil && !found {
			err = desktop.Errorf(desktop.NotFound, "there is no machine %s", id)
		}
		return struct{}{}, err
	})
	return err
}

// ordinaryShares is what a machine has when nobody says anything: the kernel's default, which libvirt
// passes on as it is, is another number in each version of its control groups.
func ordinaryShares() uint64 {
	var fs unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC {
		return 100 // cpu.weight
	}
	return 1024 // cpu.shares
}
