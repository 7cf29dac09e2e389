package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// Start implements desktop.Machines. The domain is defined anew each time, so that a machine gets
// today's settings, agent and acceleration at its next start; its disk is made once and kept.
func (h *Host) Start(ctx context.Context, spec desktop.Spec) error {
	if err := checkSpec(spec); err != nil {
		return err
	}
	_, err := run(ctx, h, startTime, "start the machine", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		unlock, err := h.machines.lock(ctx, spec.ID)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		return struct{}{}, h.start(ctx, c, spec)
	})
	return err
}

func checkSpec(spec desktop.Spec) error {
	if err := checkID(spec.ID); err != nil {
		return err
	}
	switch {
	case !validHex.MatchString(spec.ImageDigest):
		return desktop.Errorf(desktop.Invalid, "%q is not an image's digest", spec.ImageDigest)
	case spec.VCPUs < 1 || spec.VCPUs > 288:
		return desktop.Errorf(desktop.Invalid, "a machine cannot have %d processors", spec.VCPUs)
	case spec.MemoryBytes < 64<<20:
		return desktop.Errorf(desktop.Invalid, "a machine cannot do with %d bytes of memory", spec.MemoryBytes)
	case spec.DiskBytes < 0:
		return desktop.Errorf(desktop.Invalid, "a disk cannot have %d bytes", spec.DiskBytes)
	}
	return nil
}

func (h *Host) start(ctx context.Context, c *libvirt.Connect, spec desktop.Spec) error {
	on, err := h.turnOn(ctx, c, spec.ID)
	if on || err != nil {
		return err
	}
	if err := h.checkMemory(c, spec.MemoryBytes); err != nil {
		return err
	}
	if err := h.checkSpace(c, 0); err != nil {
		return err
	}
	agent, err := h.ensureAgent(ctx, c)
	if err != nil {
		return err
	}
	agent, err = h.volumePath(c, agent)
	if err != nil {
		return err
	}
	kernel, initrd, made, err := h.ensureOverlay(ctx, c, spec)
	var acceleration string
	var dbusDisplay bool
	if err == nil {
		acceleration, dbusDisplay, err = h.abilities(c)
	}
	var address netip.Addr
	if err == nil {
		address, err = h.ensureAddress(c, spec)
	}
	var overlay string
	if err == nil {
		overlay, err = h.volumePath(c, overlayVolume(spec.ID))
	}
	if err == nil {
		err = h.launch(ctx, c, definition{
			spec:         spec,
			domain:       h.opts.domainName(spec.ID),
			network:      h.opts.networkName(spec.Network),
			address:      address.String(),
			agent:        agent,
			overlay:      overlay,
			kernel:       kernel,
			initrd:       initrd,
			acceleration: acceleration,
			dbusDisplay:  dbusDisplay,
			version:      h.opts.Version,
		})
	}
	if err != nil && made {
		// Nothing has ever run on this disk: leave no trace of the attempt.
		err = errors.Join(err, h.undefine(c, spec.ID), h.releaseAddress(c, spec.ID), h.deleteVolume(c, overlayVolume(spec.ID)))
	}
	return err
}

// turnOn deals with a machine that is not simply off. It reports on when there is nothing more to
// do.
func (h *Host) turnOn(ctx context.Context, c *libvirt.Connect, id string) (on bool, err error) {
	changes := h.subscribe()
	defer h.unsubscribe(changes)
	for {
		var state libvirt.DomainState
		var reason int
		found, err := h.withDomain(c, id, func(d *libvirt.Domain) (err error) {
			if state, reason, err = d.GetState(); err != nil {
				return err
			}
			switch {
			case state == libvirt.DOMAIN_PAUSED && !passing(libvirt.DomainPausedReason(reason)):
				return d.Resume()
			case state == libvirt.DOMAIN_PMSUSPENDED:
				return d.PMWakeup(0)
			case state == libvirt.DOMAIN_CRASHED:
				return d.Destroy()
			}
			return nil
		})
		switch {
		case err != nil:
			return false, fmt.Errorf("turn on machine %s: %w", id, err)
		case !found, state == libvirt.DOMAIN_SHUTOFF, state == libvirt.DOMAIN_CRASHED:
			return false, nil
		case state != libvirt.DOMAIN_SHUTDOWN:
			return true, nil
		}
		select { // it is on its way off
		case <-changes.wake:
		case <-time.After(time.Second):
		case <-ctx.Done():
			return false, ctx.Err()
		}
	}
}

// launch defines the domain and turns it on.
func (h *Host) launch(ctx context.Context, c *libvirt.Connect, wanted definition) error {
	document, err := wanted.xml()
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d, err := c.DomainDefineXMLFlags(document, libvirt.DOMAIN_DEFINE_VALIDATE)
	if err != nil {
		return fmt.Errorf("define machine %s: %w", wanted.spec.ID, err)
	}
	defer d.Free()
	if err := d.Create(); err != nil {
		if state, _, stateErr := d.GetState(); stateErr == nil && state == libvirt.DOMAIN_RUNNING {
			return nil // somebody else was first
		}
		return fmt.Errorf("turn on machine %s: %w", wanted.spec.ID, err)
	}
	return nil
}

// What a machine must be able to have of its memory right now, and how many times the host's memory it
// may be given at most.
const (
	leastMemory = 1 << 30
	mostMemory  = 2
)

// checkMemory says whether the machine could be turned on right now. Machines take only what they touch,
// so that one fits which may come to want more than there is now; what all of them may come to want is
// for the caller to add up.
func (h *Host) checkMemory(c *libvirt.Connect, want int64) error {
	total, available, err := hostMemory(c)
	if err != nil {
		return err
	}
	needed, free := min(want, leastMemory), available
	if most := mostMemory * total; want > most {
		needed, free = want, most
	}
	if free < needed {
		return &desktop.Error{
			Code:    desktop.Exhausted,
			Message: fmt.Sprintf("the host has not enough memory right now: %d MiB are needed to turn the machine on, %d MiB are free", needed>>20, free>>20),
			Details: map[string]any{"resource": desktop.ResourceMemory, "needed": needed, "free": free},
		}
	}
	return nil
}

// ensureOverlay makes sure of the machine's disk and finds what it boots with.
func (h *Host) ensureOverlay(ctx context.Context, c *libvirt.Connect, spec desktop.Spec) (kernel, initrd string, made bool, err error) {
	h.images.RLock()
	defer h.images.RUnlock()
	image, ok, err := h.content(ctx, c, spec.ImageDigest)
	if err != nil {
		return "", "", false, err
	}
	if !ok {
		return "", "", false, noContent(spec.ImageDigest)
	}
	base, ok, err := h.findVolume(c, contentVolume(spec.ImageDigest, "qcow2"))
	if err != nil {
		return "", "", false, err
	}
	if !ok {
		return "", "", false, fmt.Errorf("the disk of image %.12s is missing from pool %s", spec.ImageDigest, h.opts.Pool.Name)
	}
	if image.Boot == bootKernel {
		for part, path := range map[string]*string{"vmlinuz": &kernel, "initrd": &initrd} {
			v, ok, err := h.findVolume(c, contentVolume(spec.ImageDigest, part))
			if err != nil {
				return "", "", false, err
			}
			if !ok {
				return "", "", false, fmt.Errorf("the %s of image %.12s is missing from pool %s", part, spec.ImageDigest, h.opts.Pool.Name)
			}
			*path = v.path
		}
	}
	made, err = h.makeOverlay(ctx, c, spec, base.path, max(spec.DiskBytes, image.DiskBytes))
	return kernel, initrd, made, err
}

// makeOverlay makes the disk, or grows the one that is there.
func (h *Host) makeOverlay(ctx context.Context, c *libvirt.Connect, spec desktop.Spec, base string, capacity int64) (made bool, err error) {
	name := overlayVolume(spec.ID)
	overlay, there, err := h.findVolume(c, name)
	if err != nil {
		return false, err
	}
	if spec.HasDisk && (!there || overlay.backing == "") {
		return false, desktop.Errorf(desktop.NotFound, "the disk of desktop %s is gone from the host, and nothing is left to start; only destroy leads on", spec.ID)
	}
	if there && overlay.backing == "" {
		// Half made: the daemon died while it wrote the header, so no machine has used it.
		if err := h.deleteVolume(c, name); err != nil {
			return false, err
		}
		there = false
	}
	switch {
	case !there:
		if err := ctx.Err(); err != nil {
			return false, err
		}
		return true, h.createVolume(c, name, capacity, base)
	case overlay.backing != base:
		return false, desktop.Errorf(desktop.Conflict, "the disk of desktop %s is based on another image than %.12s", spec.ID, spec.ImageDigest)
	case overlay.capacity < capacity:
		return false, h.withPool(c, func(pool *libvirt.StoragePool) error {
			v, err := pool.LookupStorageVolByName(name)
			if err != nil {
				return err
			}
			defer v.Free()
			if err := v.Resize(uint64(capacity), 0); err != nil {
				return fmt.Errorf("grow volume %s: %w", name, err)
			}
			return nil
		})
	}
	return false, nil
}

// withDomain calls fn with the desktop's domain; found is false when there is none, also when it
// vanishes meanwhile.
func (h *Host) withDomain(c *libvirt.Connect, id string, fn func(*libvirt.Domain) error) (found bool, err error) {
	d, err := c.LookupDomainByUUIDString(formatUUID(machineUUID(id)))
	if err == nil {
		defer d.Free()
		if name := domainName(d); name != h.opts.domainName(id) {
			return false, desktop.Errorf(desktop.Conflict, "desktop %s runs as domain %s, of another bureau on this host", id, name)
		}
		err = fn(d)
	}
	if isCode(err, libvirt.ERR_NO_DOMAIN) {
		return false, nil
	}
	return err == nil, err
}

// shutdownAgain is how often the guest is asked again: one that is still booting, or asks its user
// whether to shut down, does not act on the first request.
const shutdownAgain = 5 * time.Second

// Stop implements desktop.Machines.
func (h *Host) Stop(ctx context.Context, id string, grace time.Duration) error {
	if err := checkID(id); err != nil {
		return err
	}
	changes := h.subscribe()
	defer h.unsubscribe(changes)
	end := time.NewTimer(max(grace, 0))
	defer end.Stop()
	again := time.NewTicker(shutdownAgain)
	defer again.Stop()
	for ask := grace > 0; ; {
		off, err := h.askOff(ctx, id, ask)
		if off || err != nil {
			return err
		}
		ask = false
		select {
		case <-changes.wake:
			for _, more := changes.take(); more; {
				_, more = changes.take()
			}
		case <-again.C:
			ask = true
		case <-end.C:
			return h.destroy(ctx, id)
		case <-ctx.Done():
			return fmt.Errorf("stop machine %s: %w", id, ctx.Err())
		}
	}
}

// askOff tells whether the machine is off, and asks the guest to shut down when it is not. One
// that cannot hear, because its processors stand still, is turned off.
func (h *Host) askOff(ctx context.Context, id string, ask bool) (off bool, err error) {
	return run(ctx, h, queryTime, "stop the machine", func(ctx context.Context, c *libvirt.Connect) (bool, error) {
		off := false
		found, err := h.withDomain(c, id, func(d *libvirt.Domain) error {
			state, reason, err := d.GetState()
			if err != nil {
				return err
			}
			switch state {
			case libvirt.DOMAIN_SHUTOFF:
				off = true
				return nil
			case libvirt.DOMAIN_PAUSED:
				if !passing(libvirt.DomainPausedReason(reason)) {
					off = true
					err = d.Destroy()
				}
			case libvirt.DOMAIN_PMSUSPENDED, libvirt.DOMAIN_CRASHED:
				off = true
				err = d.Destroy()
			case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED:
				if ask {
					err = d.ShutdownFlags(libvirt.DOMAIN_SHUTDOWN_ACPI_POWER_BTN)
				}
			}
			if isCode(err, libvirt.ERR_OPERATION_INVALID) { // it went off just now
				off, err = true, nil
			}
			return err
		})
		return off || !found, err
	})
}

// passing tells whether libvirt itself has paused the machine and lets it go on, or off, soon.
func passing(reason libvirt.DomainPausedReason) bool {
	switch reason {
	case libvirt.DOMAIN_PAUSED_STARTING_UP, libvirt.DOMAIN_PAUSED_SHUTTING_DOWN, libvirt.DOMAIN_PAUSED_SAVE,
		libvirt.DOMAIN_PAUSED_DUMP, libvirt.DOMAIN_PAUSED_SNAPSHOT, libvirt.DOMAIN_PAUSED_MIGRATION:
		return true
	}
	return false
}

// destroy turns a machine off at once.
func (h *Host) destroy(ctx context.Context, id string) error {
	_, err := run(ctx, h, removeTime, "turn off the machine", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		_, err := h.withDomain(c, id, destroyDomain)
		return struct{}{}, err
	})
	return err
}

func destroyDomain(d *libvirt.Domain) error {
	err := d.Destroy()
	if isCode(err, libvirt.ERR_OPERATION_INVALID) { // is off already
		return nil
	}
	return err
}

// Remove implements desktop.Machines.
func (h *Host) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	_, err := run(ctx, h, removeTime, "remove the machine", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		unlock, err := h.machines.lock(ctx, id)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		if err := h.undefine(c, id); err != nil {
			return struct{}{}, err
		}
		h.forget(id)
		if err := h.releaseAddress(c, id); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, h.deleteVolume(c, overlayVolume(id))
	})
	return err
}

// undefine turns a machine off and forgets it with everything that libvirt keeps of it.
func (h *Host) undefine(c *libvirt.Connect, id string) error {
	_, err := h.withDomain(c, id, func(d *libvirt.Domain) error {
		if err := destroyDomain(d); err != nil {
			return fmt.Errorf("turn off machine %s: %w", id, err)
		}
		return undefineDomain(d)
	})
	return err
}

func undefineDomain(d *libvirt.Domain) error {
	return d.UndefineFlags(libvirt.DOMAIN_UNDEFINE_MANAGED_SAVE | libvirt.DOMAIN_UNDEFINE_SNAPSHOTS_METADATA |
		libvirt.DOMAIN_UNDEFINE_CHECKPOINTS_METADATA | libvirt.DOMAIN_UNDEFINE_NVRAM)
}

// Inspect implements desktop.Machines.
func (h *Host) Inspect(ctx context.Context, id string) (desktop.Machine, error) {
	if err := checkID(id); err != nil {
		return desktop.Machine{}, err
	}
	return run(ctx, h, queryTime, "inspect the machine", func(ctx context.Context, c *libvirt.Connect) (desktop.Machine, error) {
		machine := desktop.Machine{ID: id, State: desktop.MachineAbsent}
		found, err := h.withDomain(c, id, func(d *libvirt.Domain) (err error) {
			machine, err = describe(d, id)
			return err
		})
		if err == nil && !found {
			machine = desktop.Machine{ID: id, State: desktop.MachineAbsent}
			_, there, err := h.findVolume(c, overlayVolume(id))
			machine.DiskGone = !there
			return machine, err
		}
		if err != nil {
			return desktop.Machine{}, err
		}
		h.recall(&machine)
		if machine.State != desktop.MachineOff {
			leases, err := h.leases(c)
			if err != nil {
				return desktop.Machine{}, err
			}
			machine.Address = leases[machineMAC(id)]
		}
		return machine, nil
	})
}

// List implements desktop.Machines.
func (h *Host) List(ctx context.Context) ([]desktop.Machine, error) {
	return run(ctx, h, queryTime, "list the machines", func(ctx context.Context, c *libvirt.Connect) ([]desktop.Machine, error) {
		leases, err := h.leases(c)
		if err != nil {
			return nil, err
		}
		machines := []desktop.Machine{}
		err = h.eachDomain(c, func(id string, d *libvirt.Domain) error {
			machine, err := describe(d, id)
			if isCode(err, libvirt.ERR_NO_DOMAIN) {
				return nil
			}
			if err != nil {
				return err
			}
			if machine.State != desktop.MachineOff {
				machine.Address = leases[machineMAC(id)]
			}
			h.recall(&machine)
			machines = append(machines, machine)
			return nil
		})
		slices.SortFunc(machines, func(a, b desktop.Machine) int { return strings.Compare(a.ID, b.ID) })
		return machines, err
	})
}

// eachDomain calls fn with every domain of this host's prefix.
func (h *Host) eachDomain(c *libvirt.Connect, fn func(id string, d *libvirt.Domain) error) error {
	domains, err := c.ListAllDomains(0)
	if err != nil {
		return fmt.Errorf("list domains: %w", err)
	}
	var failures []error
	for i := range domains {
		d := &domains[i]
		uuid, err := d.GetUUIDString()
		if err == nil {
			if id := h.opts.machineID(domainName(d), uuid); id != "" {
				err = fn(id, d)
			}
		}
		failures = append(failures, err)
		d.Free()
	}
	return errors.Join(failures...)
}

// describe reads what a domain is doing.
func describe(d *libvirt.Domain, id string) (desktop.Machine, error) {
	machine := desktop.Machine{ID: id, Domain: domainName(d)}
	state, reason, err := d.GetState()
	if err != nil {
		return machine, err
	}
	document, err := d.GetMetadata(libvirt.DOMAIN_METADATA_ELEMENT, metadataURI, libvirt.DOMAIN_AFFECT_CURRENT)
	if err != nil && !isCode(err, libvirt.ERR_NO_DOMAIN_METADATA) {
		return machine, err
	}
	if err == nil {
		meta, err := parseMetadata(document)
		if err != nil {
			return machine, err
		}
		machine.Owner, machine.Name = meta.Owner, meta.Name
		machine.Acceleration = meta.Acceleration
	}
	machine.State, machine.Cause = stateOf(state, reason)
	if machine.State == desktop.MachineOff {
		machine.Acceleration = ""
	}
	return machine, nil
}

// stateOf puts libvirt's state in the house's words.
func stateOf(state libvirt.DomainState, reason int) (desktop.MachineState, string) {
	switch state {
	case libvirt.DOMAIN_RUNNING, libvirt.DOMAIN_BLOCKED:
		return desktop.MachineRunning, ""
	case libvirt.DOMAIN_PAUSED:
		switch libvirt.DomainPausedReason(reason) {
		case libvirt.DOMAIN_PAUSED_IOERROR: // the only one that pauses a machine; see the disks' error policy
			return desktop.MachinePaused, desktop.CauseDiskFull
		case libvirt.DOMAIN_PAUSED_UNKNOWN, libvirt.DOMAIN_PAUSED_CRASHED:
			return desktop.MachinePaused, desktop.CauseUnknown
		}
		return desktop.MachinePaused, ""
	case libvirt.DOMAIN_PMSUSPENDED:
		return desktop.MachinePaused, ""
	case libvirt.DOMAIN_SHUTDOWN:
		return desktop.MachineDying, ""
	case libvirt.DOMAIN_CRASHED:
		return desktop.MachineOff, "crashed"
	}
	switch libvirt.DomainShutoffReason(reason) {
	case libvirt.DOMAIN_SHUTOFF_SHUTDOWN:
		return desktop.MachineOff, "shutdown"
	case libvirt.DOMAIN_SHUTOFF_DESTROYED:
		return desktop.MachineOff, "destroyed"
	case libvirt.DOMAIN_SHUTOFF_CRASHED:
		return desktop.MachineOff, "crashed"
	case libvirt.DOMAIN_SHUTOFF_FAILED, libvirt.DOMAIN_SHUTOFF_DAEMON:
		return desktop.MachineOff, "failed"
	}
	return desktop.MachineOff, ""
}
