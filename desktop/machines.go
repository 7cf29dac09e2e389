package desktop

import (
	"context"
	"io"
	"time"
)

// Networks a desktop can be on.
const (
	NetworkNAT      = "nat"      // reaches the outside through the host
	NetworkIsolated = "isolated" // reaches nothing but DHCP and DNS
)

// Accelerations of a machine.
const (
	KVM = "kvm"
	TCG = "tcg"
)

// Spec is a machine as the Manager wants it.
type Spec struct {
	ID, Owner, Name string
	ImageDigest     string
	Network         string
	VCPUs           int
	MemoryBytes     int64
	DiskBytes       int64
	// HasDisk says that the disk was made before: when it is gone, the machine cannot be started.
	HasDisk bool
}

// MachineState is what a machine is doing.
type MachineState string

// The states of a machine.
const (
	MachineAbsent  MachineState = "absent"  // not defined on this host
	MachineOff     MachineState = "off"     // defined, not running
	MachineRunning MachineState = "running" // its processors run
	MachinePaused  MachineState = "paused"  // it holds memory, its processors stand still
	MachineDying   MachineState = "dying"   // on its way off
)

// CauseDiskFull is why a machine is paused whose guest wrote more than the host's disk has room for.
// What it wrote is not lost: it goes on from there when there is room again.
const CauseDiskFull = "disk-full"

// CauseUnknown is why a machine is paused of which the hypervisor cannot tell why, or not yet: one whose
// guest's kernel has panicked stands still for a while, until that is known and it is turned off.
const CauseUnknown = "unknown"

// Machine is what the hypervisor knows of a desktop.
type Machine struct {
	ID    string
	State MachineState
	// Cause is why the machine is off: "shutdown" by the guest or an orderly stop, "destroyed" by
	// the host, "panicked", which is the guest's kernel, "crashed", "failed", or "" when the
	// hypervisor does not know. Of a paused machine it is CauseDiskFull, CauseUnknown, or "" when
	// somebody wanted it.
	Cause string
	// Reboots counts the times that the guest was seen to reboot. It begins anew with the process.
	Reboots      uint64
	DiskGone     bool   // of an absent machine: it has no disk either
	Domain       string // the hypervisor's name for it
	Owner, Name  string // as they were when the machine was defined
	Acceleration string // KVM or TCG, while it is not off
	Address      string // from its DHCP lease; empty while there is none
}

// on tells whether the machine has memory and processors.
func (m Machine) on() bool {
	switch m.State {
	case MachineRunning, MachinePaused, MachineDying:
		return true
	}
	return false
}

// Image is a disk image that desktops are based on.
type Image struct {
	Name        string    `json:"name"`
	Digest      string    `json:"digest"` // sha256 of what it was made from, in hex
	Description string    `json:"description,omitempty"`
	Boot        string    `json:"boot"`      // "kernel" for direct kernel boot, "disk" for a boot loader
	DiskBytes   int64     `json:"diskBytes"` // the least size of a desktop's disk
	SizeBytes   int64     `json:"sizeBytes"` // what it takes on the host
	CreatedAt   time.Time `json:"createdAt"`
}

// HostFacts is what a host has for machines. Sizes are bytes.
type HostFacts struct {
	CPUs            int
	MemoryBytes     int64 // all of the host's
	MemoryAvailable int64 // what can be had of it now
	DiskBytes       int64 // all of the file system that the disks are on
	DiskAvailable   int64 // what can be had of it now
	DiskUsed        int64 // what the machines' own disks take of it now
}

// Machines is this host's hypervisor. Every method is idempotent (already so, or already gone, is
// success), returns when ctx is done, and has a deadline of its own besides.
type Machines interface {
	// Image finds an image by its name. It is NotFound, saying how to get one, when there is none.
	Image(ctx context.Context, name string) (Image, error)
	// Images lists all of them by name.
	Images(ctx context.Context) ([]Image, error)

	// HasContent is NotFound, saying how to bring it, when the image of that digest is not on this host.
	HasContent(ctx context.Context, digest string) error
	// Measure tells what this host has for machines, and how much of it is left now.
	Measure(ctx context.Context) (HostFacts, error)

	// Processors tells what the host's processors have done so far.
	Processors(ctx context.Context) (ProcessorUse, error)
	// Yield makes a machine that is on get only a little of the processors while others want them all,
	// or as much as any other again. It is NotFound when the machine is not on.
	Yield(ctx context.Context, id string, yields bool) error

	// Start makes the disk of a machine that had none before, defines the machine and turns it on. It
	// is NotFound when the image is gone, or the disk that was made before. A machine that is paused
	// goes on.
	Start(ctx context.Context, spec Spec) error
	// Stop asks the guest to shut down and turns the machine off when it has not done so within
	// grace. It returns with the machine off.
	Stop(ctx context.Context, id string, grace time.Duration) error
	// Remove turns the machine off, forgets it and deletes its disk.
	Remove(ctx context.Context, id string) error

	// Inspect tells what a machine is doing; MachineAbsent is not an error.
	Inspect(ctx context.Context, id string) (Machine, error)
	// List tells of every machine that carries a desktop's id in its metadata.
	List(ctx context.Context) ([]Machine, error)
	// Watch delivers the id of each desktop whose machine changed, and "" when any may have (the
	// connection to the hypervisor was lost and is back). It ends with ctx.
	Watch(ctx context.Context) <-chan string

	Inventory

	// OpenAgent opens the byte stream to the guest's agent. It is exclusive, the newest opener
	// wins; stale bytes may come first; nothing resumes after an end of file.
	OpenAgent(ctx context.Context, id string) (io.ReadWriteCloser, error)
	// OpenScreen connects to the machine's display.
	OpenScreen(ctx context.Context, id string) (Screen, error)
}

// Inventory is what is on the host besides what the Manager asked for.
type Inventory interface {
	// Describe tells how a machine and its disk are made; NotFound when there is no such machine, or
	// it has no disk.
	Describe(ctx context.Context, id string) (Spec, error)
	// Unused lists the volumes that nothing on the host refers to: disks without a machine, what is
	// left of imports that were cut off, images without a name and a disk, agents of former versions.
	// Whether one belongs to a desktop without a machine is not the hypervisor's to know.
	Unused(ctx context.Context) ([]Volume, error)
	// RemoveUnused deletes a volume that Unused lists; Conflict when something refers to it now.
	RemoveUnused(ctx context.Context, name string) error
}

// Volume is one that nothing on the host refers to.
type Volume struct {
	Name      string `json:"name" doc:"In the hypervisor's storage pool" example:"desktop-dt-7k3m9q2w5x8r4t6y.qcow2"`
	SizeBytes int64  `json:"sizeBytes" doc:"What it takes on the host"`
	Why       string `json:"why" doc:"Why nothing needs it" example:"the disk of a machine that is gone"`

	DesktopID   string `json:"-"` // whose disk it is
	ImageDigest string `json:"-"` // of what image it is a part
}
