package hypervisor

import (
	"encoding/xml"
	"fmt"
	"strings"

	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// AgentPort is the name of the virtio-serial port between a guest's agent and the host.
const AgentPort = "org.bureau.agent.0"

// Indexes of a machine's displays, for OpenGraphics.
const (
	GraphicsVNC  = 0
	GraphicsDBus = 1
)

// metadataURI is the XML namespace of what a domain carries of its desktop.
const metadataURI = "urn:bureau:desktop:1"

// metadata is kept in the domain, so that a machine is recognised without the store.
type metadata struct {
	XMLName      xml.Name `xml:"desktop"`
	Namespace    string   `xml:"xmlns,attr,omitempty"` // libvirt leaves it out when it is asked for it
	Version      string   `xml:"version,attr,omitempty"`
	ID           string   `xml:"id"`
	Owner        string   `xml:"owner"`
	Name         string   `xml:"name"`
	Acceleration string   `xml:"acceleration"`
}

// definition is everything a domain's XML follows from.
type definition struct {
	spec         desktop.Spec
	domain       string // its name
	network      string // also its filter's name
	address      string // the only one that the guest may use there
	agent        string // paths of the disks
	overlay      string
	kernel       string // paths, both empty to boot from the disk
	initrd       string
	acceleration string
	dbusDisplay  bool
	version      string
}

// xml is the domain as libvirt wants it.
func (d definition) xml() (string, error) {
	id := machineUUID(d.spec.ID)
	meta, err := xml.Marshal(metadata{
		Namespace:    metadataURI,
		Version:      d.version,
		ID:           d.spec.ID,
		Owner:        d.spec.Owner,
		Name:         d.spec.Name,
		Acceleration: d.acceleration,
	})
	if err != nil {
		return "", fmt.Errorf("encode metadata: %w", err)
	}
	domain := libvirtxml.Domain{
		Type:     "qemu",
		Name:     d.domain,
		UUID:     formatUUID(id),
		Title:    d.spec.Name,
		Metadata: &libvirtxml.DomainMetadata{XML: string(meta)},
		GenID:    &libvirtxml.DomainGenID{}, // a fresh one at each start and restore
		Memory:   &libvirtxml.DomainMemory{Value: uint(d.spec.MemoryBytes >> 10), Unit: "KiB"},
		VCPU:     &libvirtxml.DomainVCPU{Value: uint(d.spec.VCPUs)},
		OS:       &libvirtxml.DomainOS{Type: &libvirtxml.DomainOSType{Arch: "x86_64", Machine: "q35", Type: "hvm"}},
		CPU:      &libvirtxml.DomainCPU{Mode: "maximum"},
		Features: &libvirtxml.DomainFeatureList{
			ACPI: &libvirtxml.DomainFeature{},
			APIC: &libvirtxml.DomainFeatureAPIC{},
		},
		// A desktop that put itself to sleep could not be woken by its agent.
		PM: &libvirtxml.DomainPM{
			SuspendToMem:  &libvirtxml.DomainPMPolicy{Enabled: "no"},
			SuspendToDisk: &libvirtxml.DomainPMPolicy{Enabled: "no"},
		},
		Clock:      &libvirtxml.DomainClock{Offset: "utc"},
		OnPoweroff: "destroy",
		OnReboot:   "restart",
		OnCrash:    "destroy",
		Devices:    d.devices(),
	}
	if d.acceleration == desktop.KVM {
		domain.Type = "kvm"
		domain.CPU.Mode = "host-passthrough"
	}
	if d.kernel != "" {
		domain.OS.Kernel, domain.OS.Initrd = d.kernel, d.initrd
		line := []string{
			"root=/dev/vda", "rw", "quiet", "console=ttyS0", "console=tty0",
			"systemd.hostname=" + hostName(d.spec.Name, d.spec.ID),
			fmt.Sprintf("systemd.machine_id=%x", id[:]),
			// Before the module is there that tells the host of a panic, it would stay in it unseen.
			"panic=10",
		}
		if d.acceleration == desktop.TCG {
			// All emulated processors count the host's ticks. The kernel cannot know that, and would ask an
			// emulated HPET for the time instead, which stops the processor at every look at the clock.
			line = append(line, "tsc=reliable")
			// What keeps a real processor from guessing costs an emulated one, which does not guess, time at
			// every call; and Debian's choice of security modules less those that nothing in a desktop sets up,
			// as systemd takes a second to write programs for that of BPF.
			line = append(line, "mitigations=off", "lsm=landlock,yama,apparmor")
		}
		domain.OS.Cmdline = strings.Join(line, " ")
	} else {
		domain.OS.BootDevices = []libvirtxml.DomainBootDevice{{Dev: "hd"}}
	}
	return domain.Marshal()
}

func (d definition) devices() *libvirtxml.DomainDeviceList {
	list := &libvirtxml.DomainDeviceList{
		Disks: []libvirtxml.DomainDisk{{
			Device: "disk",
			// A full host disk stops the machine rather than failing its file system.
			Driver: &libvirtxml.DomainDiskDriver{
				Name: "qemu", Type: "qcow2", Discard: "unmap", DetectZeros: "unmap",
				ErrorPolicy: "enospace",
			},
			Source: fileSource(d.overlay),
			Target: &libvirtxml.DomainDiskTarget{Dev: "vda", Bus: "virtio"},
		}, {
			Device:    "disk",
			Driver:    &libvirtxml.DomainDiskDriver{Name: "qemu", Type: "raw"},
			Source:    fileSource(d.agent),
			Target:    &libvirtxml.DomainDiskTarget{Dev: "vdb", Bus: "virtio"},
			ReadOnly:  &libvirtxml.DomainDiskReadOnly{},
			Shareable: &libvirtxml.DomainDiskShareable{},
		}},
		Controllers: []libvirtxml.DomainController{
			{Type: "usb", Model: "none"},
		},
		Interfaces: []libvirtxml.DomainInterface{{
			MAC:    &libvirtxml.DomainInterfaceMAC{Address: machineMAC(d.spec.ID)},
			Source: &libvirtxml.DomainInterfaceSource{Network: &libvirtxml.DomainInterfaceSourceNetwork{Network: d.network}},
			Model:  &libvirtxml.DomainInterfaceModel{Type: "virtio"},
			// Desktops on one bridge do not see each other.
			PortOptions: &libvirtxml.DomainInterfacePortOptions{Isolated: "yes"},
			FilterRef: &libvirtxml.DomainInterfaceFilterRef{
				Filter:     d.network,
				Parameters: []libvirtxml.DomainInterfaceFilterParam{{Name: "IP", Value: d.address}},
			},
		}},
		// For `virsh console`; what nobody reads is dropped.
		Serials: []libvirtxml.DomainSerial{{Source: &libvirtxml.DomainChardevSource{Pty: &libvirtxml.DomainChardevSourcePty{}}}},
		Channels: []libvirtxml.DomainChannel{{
			Source: &libvirtxml.DomainChardevSource{UNIX: &libvirtxml.DomainChardevSourceUNIX{}},
			Target: &libvirtxml.DomainChannelTarget{VirtIO: &libvirtxml.DomainChannelTargetVirtIO{Name: AgentPort}},
		}},
		// In the order of the constants GraphicsVNC and GraphicsDBus.
		Graphics: []libvirtxml.DomainGraphic{{
			VNC: &libvirtxml.DomainGraphicVNC{Listeners: []libvirtxml.DomainGraphicListener{
				{Socket: &libvirtxml.DomainGraphicListenerSocket{}},
			}},
		}},
		Videos: []libvirtxml.DomainVideo{{Model: libvirtxml.DomainVideoModel{
			Type: "virtio", Heads: 1, Primary: "yes",
			Resolution: &libvirtxml.DomainVideoResolution{X: 1280, Y: 800},
		}}},
		RNGs: []libvirtxml.DomainRNG{{
			Model:   "virtio",
			Backend: &libvirtxml.DomainRNGBackend{Random: &libvirtxml.DomainRNGBackendRandom{Device: "/dev/urandom"}},
		}},
		// Memory that the guest frees goes back to the host.
		MemBalloon: &libvirtxml.DomainMemBalloon{Model: "virtio", AutoDeflate: "on", FreePageReporting: "on"},
		Panics:     []libvirtxml.DomainPanic{{Model: "isa"}},
	}
	if d.dbusDisplay {
		list.Graphics = append(list.Graphics, libvirtxml.DomainGraphic{DBus: &libvirtxml.DomainGraphicDBus{P2P: "yes"}})
	}
	return list
}

// fileSource is a volume by its path. By its name libvirtd would look it up in the pool again when it
// finds the machine after a restart of its own, and it ends a machine whose volume it does not find at
// that moment, without a word.
func fileSource(path string) *libvirtxml.DomainDiskSource {
	return &libvirtxml.DomainDiskSource{File: &libvirtxml.DomainDiskSourceFile{File: path}}
}

// parseMetadata reads what xml wrote.
func parseMetadata(document string) (metadata, error) {
	var m metadata
	if err := xml.Unmarshal([]byte(document), &m); err != nil {
		return metadata{}, fmt.Errorf("decode a domain's metadata: %w", err)
	}
	return m, nil
}
