package desktop

import (
	"cmp"
	"context"
	"fmt"
)

// Admission answers one question before anything is touched: is there room for this desktop? A host
// that has promised more memory than it has ends in its kernel killing somebody's desktop; so what the
// desktops that run may come to use is added up, and a request for more is refused, with what it needs
// and what is free.
//
// A place is never kept anywhere. It follows from what is known of a desktop: one that should run, or
// whose machine is on, has a place. So no place is lost by a crash, and none has to be given back.
// Whoever asks for one holds m.admission from the adding up until the wish is kept, so that two do not
// both get the last.
//
// The host is measured before that, since a call of the hypervisor's takes its time. What it has left
// may change meanwhile; what is promised cannot.

// Capacity is how much of its host an appliance promises to desktops. The zero value promises any
// amount.
type Capacity struct {
	// Memory is how many times the host's memory the desktops that run may have together, from which
	// MemoryReserve is taken off for the host itself; 0 is any amount.
	Memory        float64
	MemoryReserve int64
	// VCPUsPerCPU is how many virtual processors they may have for each of the host's; 0 is any number.
	VCPUsPerCPU float64
	// Disk is how many times the room that there is for their disks may be promised to all desktops,
	// those that are off included; 0 is any amount. Disks grow as guests write.
	Disk float64
	// DiskReserve is what has to be free for a desktop to be made or started.
	DiskReserve int64
}

// The things of a host's that desktops share, as problem documents name them.
const (
	ResourceMemory   = "memory"
	ResourceVCPUs    = "vcpus"
	ResourceDisk     = "disk"
	ResourceDesktops = "desktops" // a user's own
	ResourceRunning  = "running"  // a user's own, those that run
)

// Resource is one thing of a host's: bytes, or processors.
type Resource struct {
	Total     int64  `json:"total" doc:"What the host has"`
	Available *int64 `json:"available,omitempty" doc:"What of it is not in use right now; absent for processors"`
	Limit     *int64 `json:"limit" doc:"How much of it may be promised to desktops; null for any amount"`
	Reserved  int64  `json:"reserved" doc:"What is promised to desktops: memory and processors to those that run, disk to all"`
	Free      *int64 `json:"free" doc:"What can still be promised; null for any amount"`
}

// HostState is what a host has, what of it is promised and what is free.
type HostState struct {
	Memory   Resource `json:"memory" doc:"In bytes"`
	VCPUs    Resource `json:"vcpus" doc:"In processors; the limit and what is reserved and free in virtual ones"`
	Disk     Resource `json:"disk" doc:"In bytes, of the file system with the desktops' disks"`
	Desktops int      `json:"desktops" doc:"How many desktops there are"`
	Running  int      `json:"running" doc:"How many of them run, or are about to"`
}

// load is what desktops take of a host.
type load struct {
	desktops, running int
	vcpus             int
	memory, disk      int64
}

// resource adds up one thing of the host's. A limit below nothing is nothing.
func resource(total int64, limited bool, limit float64, reserved int64) Resource {
	r := Resource{Total: total, Reserved: reserved}
	if limited {
		most := int64(max(limit, 0))
		free := max(most-reserved, 0)
		r.Limit, r.Free = &most, &free
	}
	return r
}

// state is what the host has, given what desktops take of it.
func (c Capacity) state(facts HostFacts, taken load) HostState {
	s := HostState{
		Memory:   resource(facts.MemoryBytes, c.Memory > 0, c.Memory*float64(facts.MemoryBytes)-float64(c.MemoryReserve), taken.memory),
		VCPUs:    resource(int64(facts.CPUs), c.VCPUsPerCPU > 0, c.VCPUsPerCPU*float64(facts.CPUs), int64(taken.vcpus)),
		Disk:     resource(facts.DiskBytes, c.Disk > 0, c.Disk*float64(facts.DiskAvailable+facts.DiskUsed), taken.disk),
		Desktops: taken.desktops, Running: taken.running,
	}
	s.Memory.Available, s.Disk.Available = &facts.MemoryAvailable, &facts.DiskAvailable
	return s
}

// room is nil when there is room for what is wanted beside what is taken, and Exhausted otherwise.
func (c Capacity) room(facts HostFacts, taken, wanted load) error {
	s := c.state(facts, taken)
	switch {
	case wanted.memory > 0 && s.Memory.Free != nil && wanted.memory > *s.Memory.Free:
		return exhausted(ResourceMemory, wanted.memory, *s.Memory.Free, "the host has not enough memory for this desktop: %s are needed, %s are free of the %s for desktops; stop another one, or give this one less",
			sizeText(wanted.memory), sizeText(*s.Memory.Free), sizeText(*s.Memory.Limit))
	case wanted.vcpus > 0 && s.VCPUs.Free != nil && int64(wanted.vcpus) > *s.VCPUs.Free:
		return exhausted(ResourceVCPUs, int64(wanted.vcpus), *s.VCPUs.Free, "the host has not enough processors for this desktop: %d are needed, %d are free of the %d for desktops; stop another one, or give this one fewer",
			wanted.vcpus, *s.VCPUs.Free, *s.VCPUs.Limit)
	case facts.DiskAvailable < c.DiskReserve:
		return exhausted(ResourceDisk, c.DiskReserve, facts.DiskAvailable, "the host's disk is full: %s have to be free for a desktop to be made or started, %s are",
			sizeText(c.DiskReserve), sizeText(facts.DiskAvailable))
	case wanted.disk > 0 && s.Disk.Free != nil && wanted.disk > *s.Disk.Free:
		return exhausted(ResourceDisk, wanted.disk, *s.Disk.Free, "the host has not enough disk for this desktop: %s are needed, %s are free of the %s for desktops; destroy another one, or give this one less",
			sizeText(wanted.disk), sizeText(*s.Disk.Free), sizeText(*s.Disk.Limit))
	}
	return nil
}

func exhausted(resource string, needed, free int64, format string, args ...any) *Error {
	e := Errorf(Exhausted, format, args...)
	e.Details = map[string]any{"resource": resource, "needed": needed, "free": free}
	return e
}

// AtLimit is the refusal of a user who has as many desktops, or desktops that run, as their tier allows.
func AtLimit(resource string, has, limit int) *Error {
	e := Errorf(Conflict, "the owner has %d of at most %d desktops: destroy one first", has, limit)
	if resource == ResourceRunning {
		e = Errorf(Conflict, "%d of the owner's desktops run, of at most %d: stop one first", has, limit)
	}
	e.Details = map[string]any{"resource": resource, "limit": limit, "needed": 1, "free": max(limit-has, 0)}
	return e
}

// sizeText is a size for people.
func sizeText(n int64) string {
	if n < 1<<30 {
		return fmt.Sprintf("%d MiB", n>>20)
	}
	return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
}

// place tells whether a desktop has a place among those that take memory and processors, and whether
// it takes them already.
func (k *keeper) place() (has, on bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	on = k.machine.on()
	has = on || k.starting || k.rec.Wish == WishRun && k.rec.Failure == ""
	return has && k.rec.DestroyedAt.IsZero(), on
}

// before puts desktops in the order in which their claims are older.
func (r Record) before(other Record) bool {
	return cmp.Or(r.CreatedAt.Compare(other.CreatedAt), cmp.Compare(r.ID, other.ID)) < 0
}

// takenBeside adds up what the desktops other than one take: memory and processors of those for which
// counts says so, disk of all. An empty owner is everybody.
func (m *Manager) takenBeside(id, owner string, counts func(k *keeper, has, on bool) bool) load {
	m.mu.Lock()
	keepers := make([]*keeper, 0, len(m.keepers))
	for _, k := range m.keepers {
		keepers = append(keepers, k)
	}
	m.mu.Unlock()
	var taken load
	for _, k := range keepers {
		r := k.record()
		if k.id == id || k.isGone() || !r.DestroyedAt.IsZero() || owner != "" && r.Owner != owner {
			continue
		}
		taken.desktops++
		taken.disk += r.DiskBytes
		if has, on := k.place(); counts(k, has, on) {
			taken.running++
			taken.vcpus += r.VCPUs
			taken.memory += r.MemoryBytes
		}
	}
	return taken
}

// everyPlace counts all that have one, everyOn those that have taken it.
func everyPlace(_ *keeper, has, _ bool) bool { return has }
func everyOn(_ *keeper, _, on bool) bool     { return on }

// Host tells what this host has, what of it is promised and what is free.
func (m *Manager) Host(ctx context.Context) (HostState, error) {
	facts, err := m.machines.Measure(ctx)
	if err != nil {
		return HostState{}, err
	}
	return m.config.Capacity.state(facts, m.takenBeside("", "", everyPlace)), nil
}

// admitNew keeps a new desktop if there is room for it, and starts its keeper.
func (m *Manager) admitNew(ctx context.Context, record Record, tier Tier, prepare func(ctx context.Context, id string) error) (Desktop, error) {
	facts, err := m.machines.Measure(ctx)
	if err != nil {
		return Desktop{}, err
	}
	m.admission.Lock()
	defer m.admission.Unlock()
	wanted := load{disk: record.DiskBytes}
	if record.Wish == WishRun {
		wanted.vcpus, wanted.memory = record.VCPUs, record.MemoryBytes
	}
	own := m.takenBeside("", record.Owner, everyPlace)
	switch {
	case tier.Desktops > 0 && own.desktops >= tier.Desktops:
		return Desktop{}, AtLimit(ResourceDesktops, own.desktops, tier.Desktops)
	case record.Wish == WishRun && tier.Running > 0 && own.running >= tier.Running:
		return Desktop{}, AtLimit(ResourceRunning, own.running, tier.Running)
	}
	if err := m.config.Capacity.room(facts, m.takenBeside("", "", everyPlace), wanted); err != nil {
		return Desktop{}, err
	}
	return m.insert(ctx, record, tier.Desktops, prepare)
}

// requestRun is a request that makes a desktop run: it is refused when there is no room for it.
func (m *Manager) requestRun(ctx context.Context, caller Caller, id string, change func(*keeper, *Record) error) (Desktop, error) {
	k, err := m.find(caller, id)
	if err != nil {
		return Desktop{}, err
	}
	ask := func() (Desktop, error) { return m.request(ctx, caller, id, change) }
	var check func() error
	for {
		m.admission.Lock()
		if has, _ := k.place(); has || k.record().Wish == WishDestroy {
			defer m.admission.Unlock()
			return ask()
		}
		if check != nil {
			defer m.admission.Unlock()
			if err := check(); err != nil {
				return Desktop{}, err
			}
			return ask()
		}
		m.admission.Unlock() // what has to be asked of others is not asked meanwhile
		if check, err = m.checkRun(ctx, k.record()); err != nil {
			return Desktop{}, err
		}
	}
}

// checkRun finds out what says whether a desktop may run that has no place. m.admission must be held
// where that is called.
func (m *Manager) checkRun(ctx context.Context, record Record) (check func() error, err error) {
	err = m.machines.HasContent(ctx, record.ImageDigest)
	if CodeOf(err) == NotFound && !record.HasDisk {
		// Nothing is based on it yet: the image that has the name now will do.
		if _, findErr := m.machines.Image(ctx, record.Image); findErr == nil {
			err = nil
		}
	}
	if err != nil {
		if CodeOf(err) == NotFound {
			err = Errorf(Conflict, "%w", err)
		}
		return nil, err
	}
	facts, err := m.machines.Measure(ctx)
	if err != nil {
		return nil, err
	}
	limit := 0
	for _, t := range m.config.Tiers {
		if t.Running == 0 {
			continue
		}
		owner, err := m.store.User(ctx, record.Owner)
		if err != nil {
			return nil, err
		}
		if tier, err := findTier(m.config.Tiers, owner.Tier); err == nil {
			limit = tier.Running
		}
		break
	}
	return func() error {
		if own := m.takenBeside(record.ID, record.Owner, everyPlace); limit > 0 && own.running >= limit {
			return AtLimit(ResourceRunning, own.running, limit)
		}
		return m.config.Capacity.room(facts, m.takenBeside(record.ID, "", everyPlace), load{vcpus: record.VCPUs, memory: record.MemoryBytes})
	}, nil
}

// mayStart is the last look before a machine is turned on. What was admitted still has to be there: the
// host may have come back with less memory, the settings may have changed, its disk may have filled up.
// Where not all fit that should run, the oldest do, so that some run and not none.
func (k *keeper) mayStart(ctx context.Context, record Record) error {
	facts, err := k.m.machines.Measure(ctx)
	if err != nil {
		return err
	}
	taken := k.m.takenBeside(record.ID, "", func(other *keeper, has, on bool) bool {
		return on || has && other.record().before(record)
	})
	return k.m.config.Capacity.room(facts, taken, load{vcpus: record.VCPUs, memory: record.MemoryBytes})
}
