package desktop

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
)

// What is on the host without a record here: a lost or restored database, another appliance of the
// same prefix, an import that was cut off. None of it is touched unless the operator says so.

// Stranger is a machine that carries a desktop's id and has no record here.
type Stranger struct {
	DesktopID string       `json:"desktopId" doc:"The id it carries" example:"dt-7k3m9q2w5x8r4t6y"`
	Domain    string       `json:"domain" doc:"The hypervisor's name for it" example:"bureau-dt-7k3m9q2w5x8r4t6y"`
	Owner     string       `json:"owner" doc:"Id of the user who owned it when it was last started"`
	Name      string       `json:"name" doc:"What the desktop was called then"`
	State     MachineState `json:"state" enum:"off,running,paused,dying"`
}

// Orphans is what no desktop here owns.
type Orphans struct {
	Machines []Stranger `json:"machines" doc:"They are left alone; adopt one to make it a desktop"`
	Volumes  []Volume   `json:"volumes" doc:"They take room and nothing needs them"`
}

// errOperator refuses what only the local operator may do.
var errOperator = Errorf(Forbidden, "only the operator may do this")

// strange lists the machines without a record.
func (m *Manager) strange(ctx context.Context) ([]Stranger, error) {
	machines, err := m.machines.List(ctx)
	if err != nil {
		return nil, err
	}
	found := []Stranger{}
	for _, machine := range machines {
		// The store is asked, not the keepers: a desktop that is being made or has just been destroyed
		// has a record and no keeper.
		record, err := m.store.Desktop(ctx, machine.ID)
		switch {
		case CodeOf(err) == NotFound, err == nil && !record.DestroyedAt.IsZero():
			found = append(found, Stranger{machine.ID, machine.Domain, machine.Owner, machine.Name, machine.State})
		case err != nil:
			return nil, err
		}
	}
	return found, nil
}

// reportStrangers tells the operator of all machines that have no record.
func (m *Manager) reportStrangers() {
	found, err := m.strange(m.ctx)
	if err != nil {
		if m.ctx.Err() == nil {
			m.log.Warn("looking for machines without a record failed", "error", err)
		}
		return
	}
	for _, s := range found {
		m.report(s)
	}
}

// reportStranger does so when that one has no record.
func (m *Manager) reportStranger(id string) {
	machine, err := m.machines.Inspect(m.ctx, id)
	if err != nil || machine.State == MachineAbsent {
		return
	}
	if record, err := m.store.Desktop(m.ctx, id); CodeOf(err) == NotFound || err == nil && !record.DestroyedAt.IsZero() {
		m.report(Stranger{id, machine.Domain, machine.Owner, machine.Name, machine.State})
	}
}

// report says it once for each.
func (m *Manager) report(s Stranger) {
	m.mu.Lock()
	told := m.strangers[s.DesktopID]
	m.strangers[s.DesktopID] = true
	m.mu.Unlock()
	if !told {
		m.log.Warn("a machine has no record here and is left alone; `bureau desktop adopt` makes it a desktop",
			"desktop", s.DesktopID, "domain", s.Domain, "owner", s.Owner, "name", s.Name, "state", s.State)
	}
}

// Orphans lists what no desktop owns, for the operator.
func (m *Manager) Orphans(ctx context.Context, caller Caller) (Orphans, error) {
	if !caller.Local {
		return Orphans{}, errOperator
	}
	machines, err := m.strange(ctx)
	if err != nil {
		return Orphans{}, err
	}
	volumes, err := m.unused(ctx)
	return Orphans{Machines: machines, Volumes: volumes}, err
}

// unused lists the volumes that neither the hypervisor nor a record needs. The hypervisor is asked
// first: a disk that is made after that is not in its answer, and one that was made before has had
// its record for longer.
func (m *Manager) unused(ctx context.Context) ([]Volume, error) {
	volumes, err := m.machines.Unused(ctx)
	if err != nil {
		return nil, err
	}
	records, err := m.store.Desktops(ctx, Page{})
	if err != nil {
		return nil, fmt.Errorf("reading the desktops: %w", err)
	}
	needed := func(v Volume) bool {
		return slices.ContainsFunc(records, func(r Record) bool {
			return r.ID == v.DesktopID || v.ImageDigest != "" && r.ImageDigest == v.ImageDigest
		})
	}
	return slices.DeleteFunc(append([]Volume{}, volumes...), needed), nil
}

// RemoveOrphan deletes a volume that Orphans lists, for the operator; one that is not there is
// NotFound, one that is needed Conflict.
func (m *Manager) RemoveOrphan(ctx context.Context, caller Caller, volume string) error {
	if !caller.Local {
		return errOperator
	}
	volumes, err := m.unused(ctx)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(volumes, func(v Volume) bool { return v.Name == volume })
	if i < 0 {
		return Errorf(NotFound, "no volume %s is without an owner", truncate(volume, 120))
	}
	if err := m.machines.RemoveUnused(ctx, volume); err != nil {
		return err
	}
	m.log.Info("a volume without an owner was removed", "volume", volume, "bytes", volumes[i].SizeBytes, "why", volumes[i].Why)
	return nil
}

// Adopt makes a desktop of a machine that has no record, named by its desktop's id or by the
// hypervisor's name for it, as the machine is: one that runs goes on running. It is the operator's to
// say for whom; when nobody is named it is the user who owned it, who must be known here.
func (m *Manager) Adopt(ctx context.Context, caller Caller, name, owner string) (Desktop, error) {
	if !caller.Local {
		return Desktop{}, errOperator
	}
	found, err := m.strange(ctx)
	if err != nil {
		return Desktop{}, err
	}
	i := slices.IndexFunc(found, func(s Stranger) bool { return name == s.DesktopID || name == s.Domain })
	if i < 0 {
		return Desktop{}, Errorf(NotFound, "no machine %s is without a record", truncate(name, 120))
	}
	s := found[i]
	user, err := findUser(ctx, m.store, cmp.Or(owner, s.Owner))
	if CodeOf(err) == NotFound {
		return Desktop{}, Errorf(Invalid, "owner: there is no user %q here; name one", truncate(cmp.Or(owner, s.Owner), 80)).Because(err)
	}
	if err != nil {
		return Desktop{}, err
	}
	spec, err := m.machines.Describe(ctx, s.DesktopID)
	if err != nil {
		return Desktop{}, err
	}
	image, err := m.imageOf(ctx, spec.ImageDigest)
	if err != nil {
		return Desktop{}, err
	}
	created := now()
	record := Record{
		ID:          s.DesktopID,
		Owner:       user.ID,
		Name:        strings.TrimSpace(s.Name),
		Tier:        m.tierFor(spec),
		Image:       image,
		ImageDigest: spec.ImageDigest,
		Network:     spec.Network,
		VCPUs:       spec.VCPUs,
		MemoryBytes: spec.MemoryBytes,
		DiskBytes:   spec.DiskBytes,
		HasDisk:     true,
		Wish:        WishRun,
		CreatedAt:   created,
		UpdatedAt:   created,
	}
	if s.State == MachineOff {
		record.Wish = WishHalt
	}
	if CheckName(record.Name) != nil {
		record.Name = "adopted-" + created.Format("20060102-150405")
	}
	if err := ctx.Err(); err != nil {
		return Desktop{}, err
	}
	if err := m.store.InsertDesktop(context.WithoutCancel(ctx), record, 0); err != nil {
		return Desktop{}, err
	}
	d, ok := m.take(record, Machine{ID: s.DesktopID, State: s.State, Domain: s.Domain})
	if !ok {
		return Desktop{}, errClosing
	}
	m.log.Info("a machine was adopted", "desktop", record.ID, "domain", s.Domain, "owner", record.Owner, "name", record.Name, "state", s.State)
	return d, nil
}

// imageOf is the name of the image that has a digest, or the digest's beginning.
func (m *Manager) imageOf(ctx context.Context, digest string) (string, error) {
	images, err := m.machines.Images(ctx)
	if err != nil {
		return "", err
	}
	for _, image := range images {
		if image.Digest == digest {
			return image.Name, nil
		}
	}
	return digest[:min(12, len(digest))], nil
}

// tierFor is the smallest tier that a machine fits into, or else the largest.
func (m *Manager) tierFor(spec Spec) string {
	name := ""
	for _, tier := range m.config.Tiers {
		name = tier.Name
		if spec.VCPUs <= tier.VCPUs && spec.MemoryBytes <= tier.MemoryBytes && spec.DiskBytes <= tier.DiskBytes {
			break
		}
	}
	return name
}
