package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// quiet is how long nothing has been written to what an import left behind before it counts as cut
// off. An import writes all the time, and may be another process's.
const quiet = 10 * time.Minute

// Describe implements desktop.Machines.
func (h *Host) Describe(ctx context.Context, id string) (desktop.Spec, error) {
	if err := checkID(id); err != nil {
		return desktop.Spec{}, err
	}
	return run(ctx, h, queryTime, "describe the machine", func(ctx context.Context, c *libvirt.Connect) (desktop.Spec, error) {
		spec := desktop.Spec{ID: id, HasDisk: true}
		found, err := h.withDomain(c, id, func(d *libvirt.Domain) error {
			machine, err := describe(d, id)
			if err != nil {
				return err
			}
			spec.Owner, spec.Name = machine.Owner, machine.Name
			document, err := d.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
			if err != nil {
				return err
			}
			return h.readDefinition(document, &spec)
		})
		if err != nil {
			return desktop.Spec{}, err
		}
		if !found {
			return desktop.Spec{}, desktop.Errorf(desktop.NotFound, "there is no machine of desktop %s", id)
		}
		disk, there, err := h.findVolume(c, overlayVolume(id))
		if err != nil {
			return desktop.Spec{}, err
		}
		spec.ImageDigest = contentDigest(filepath.Base(disk.backing))
		if !there || spec.ImageDigest == "" {
			return desktop.Spec{}, desktop.Errorf(desktop.NotFound, "the machine of desktop %s has no disk in pool %s", id, h.opts.Pool.Name)
		}
		spec.DiskBytes = disk.capacity
		return spec, nil
	})
}

// readDefinition takes from a domain's XML what definition.xml put there.
func (h *Host) readDefinition(document string, spec *desktop.Spec) error {
	var domain libvirtxml.Domain
	if err := domain.Unmarshal(document); err != nil {
		return fmt.Errorf("decode the domain of desktop %s: %w", spec.ID, err)
	}
	if domain.VCPU != nil {
		spec.VCPUs = int(domain.VCPU.Value)
	}
	if domain.Memory != nil { // libvirt gives it in KiB
		spec.MemoryBytes = int64(domain.Memory.Value) << 10
	}
	if domain.Devices != nil {
		for _, card := range domain.Devices.Interfaces {
			if card.Source == nil || card.Source.Network == nil {
				continue
			}
			for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
				if card.Source.Network.Network == h.opts.networkName(network) {
					spec.Network = network
				}
			}
		}
	}
	if spec.Network == "" {
		return desktop.Errorf(desktop.Conflict, "the machine of desktop %s is on no network of bureau's", spec.ID)
	}
	return nil
}

// contentDigest is the digest in the name of a content's volume, "" for any other.
func contentDigest(name string) string {
	digest, _, _ := strings.Cut(strings.TrimPrefix(name, "content-"), ".")
	if !strings.HasPrefix(name, "content-") || !validHex.MatchString(digest) {
		return ""
	}
	return digest
}

// diskOwner is the id of the desktop whose disk a volume is, "" for any other.
func diskOwner(name string) string {
	id, isDisk := strings.CutPrefix(name, "desktop-")
	id, isQCOW2 := strings.CutSuffix(id, ".qcow2")
	if !isDisk || !isQCOW2 || checkID(id) != nil {
		return ""
	}
	return id
}

// Unused implements desktop.Machines.
func (h *Host) Unused(ctx context.Context) ([]desktop.Volume, error) {
	return run(ctx, h, queryTime, "look for volumes that nothing needs", func(ctx context.Context, c *libvirt.Connect) ([]desktop.Volume, error) {
		// What a daemon that died had not taken note of shows only then. It is refused while something
		// is being written, when the next one shows it.
		err := h.withPool(c, func(pool *libvirt.StoragePool) error { return pool.Refresh(0) })
		if err != nil {
			h.log.Debug("the storage pool was not read anew", "pool", h.opts.Pool.Name, "error", err)
		}
		h.images.RLock()
		defer h.images.RUnlock()
		return h.unused(ctx, c)
	})
}

// unused is what Unused answers. The caller holds h.images, at least for reading.
func (h *Host) unused(ctx context.Context, c *libvirt.Connect) ([]desktop.Volume, error) {
	volumes, err := h.listVolumes(c)
	if err != nil {
		return nil, err
	}
	named, err := h.namedImages(ctx, c, volumes)
	if err != nil {
		return nil, err
	}
	// The domains come last: whatever a volume of the list was made for is defined by now, or is still
	// being made under a record of the store's.
	used, err := h.usedVolumes(c, volumes)
	if err != nil {
		return nil, err
	}
	written := map[string]time.Time{} // when any part of a content was last written to
	for _, v := range volumes {
		if digest := contentDigest(v.name); digest != "" && v.modified.After(written[digest]) {
			written[digest] = v.modified
		}
	}
	list := []desktop.Volume{}
	for _, v := range volumes {
		if !ourVolume.MatchString(v.name) || used[v.name] {
			continue
		}
		entry := desktop.Volume{Name: v.name, SizeBytes: v.allocation, DesktopID: diskOwner(v.name), ImageDigest: contentDigest(v.name)}
		switch {
		case entry.DesktopID != "":
			entry.Why = "the disk of a desktop that is unknown here and has no machine"
		case entry.ImageDigest != "":
			digest := entry.ImageDigest
			_, complete, err := h.content(ctx, c, digest)
			if err != nil {
				return nil, err
			}
			isNamed := slices.ContainsFunc(named, func(i desktop.Image) bool { return i.Digest == digest })
			switch {
			case isNamed || len(overlaysOn(volumes, digest)) > 0:
				continue
			case complete:
				entry.Why = "of an image that has no name any more and that no disk is based on"
			case time.Since(written[digest]) < quiet:
				continue // it may be arriving
			default:
				entry.Why = "of an image whose import was cut off"
			}
		case strings.HasPrefix(v.name, "agent-"):
			if v.name == agentVolume(h.agent.digest) {
				continue
			}
			entry.Why = "the agent of another version, which no machine uses"
		default: // an image's name
			name := strings.TrimSuffix(strings.TrimPrefix(v.name, "image-"), ".json")
			if time.Since(v.modified) < quiet || slices.ContainsFunc(named, func(i desktop.Image) bool { return i.Name == name }) {
				continue
			}
			entry.Why = "the name of an image whose import was cut off"
		}
		list = append(list, entry)
	}
	slices.SortFunc(list, func(a, b desktop.Volume) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

// usedVolumes are the names of those of the pool's volumes that any domain refers to, now or at its
// next start.
func (h *Host) usedVolumes(c *libvirt.Connect, volumes []volume) (map[string]bool, error) {
	domains, err := c.ListAllDomains(0)
	if err != nil {
		return nil, fmt.Errorf("list domains: %w", err)
	}
	names := make(map[string]string, len(volumes)) // by their paths
	for _, v := range volumes {
		names[v.path] = v.name
	}
	used := map[string]bool{}
	var failures []error
	for i := range domains {
		for _, flags := range []libvirt.DomainXMLFlags{0, libvirt.DOMAIN_XML_INACTIVE} {
			document, err := domains[i].GetXMLDesc(flags)
			if isCode(err, libvirt.ERR_NO_DOMAIN) {
				continue // removed meanwhile
			}
			if err != nil {
				failures = append(failures, err)
				continue
			}
			for _, name := range referred(document, h.opts.Pool.Name, names) {
				used[name] = true
			}
		}
		domains[i].Free()
	}
	return used, errors.Join(failures...)
}

// referred are the volumes of the pool that a domain refers to: as disks, by volume or by file, and
// what it boots with. names are those of the pool's volumes by their paths.
func referred(document, pool string, names map[string]string) []string {
	var domain libvirtxml.Domain
	if domain.Unmarshal(document) != nil {
		return nil
	}
	var found, files []string
	if domain.OS != nil {
		files = append(files, domain.OS.Kernel, domain.OS.Initrd)
	}
	if domain.Devices != nil {
		for _, disk := range domain.Devices.Disks {
			switch source := disk.Source; {
			case source == nil:
			case source.File != nil:
				files = append(files, source.File.File)
			case source.Volume != nil && source.Volume.Pool == pool:
				found = append(found, source.Volume.Volume)
			}
		}
	}
	for _, file := range files {
		if name, ok := names[filepath.Clean(file)]; ok {
			found = append(found, name)
		}
	}
	return found
}

// RemoveUnused implements desktop.Machines.
func (h *Host) RemoveUnused(ctx context.Context, name string) error {
	_, err := run(ctx, h, removeTime, "remove volume "+name, func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		key := "image " + contentDigest(name)
		if id := diskOwner(name); id != "" {
			key = id
		}
		unlock, err := h.machines.lock(ctx, key)
		if err != nil {
			return struct{}{}, err
		}
		defer unlock()
		h.agents.Lock()
		defer h.agents.Unlock()
		h.images.Lock()
		defer h.images.Unlock()
		list, err := h.unused(ctx, c)
		if err != nil {
			return struct{}{}, err
		}
		if !slices.ContainsFunc(list, func(v desktop.Volume) bool { return v.Name == name }) {
			return struct{}{}, desktop.Errorf(desktop.Conflict, "volume %s is needed, or gone", name)
		}
		return struct{}{}, h.deleteVolume(c, name)
	})
	return err
}

// fromTimestamp is a moment as libvirt tells it of a volume: seconds since 1970 with a fraction.
func fromTimestamp(text string) time.Time {
	seconds, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(int64(seconds * 1000))
}
