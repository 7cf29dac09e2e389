package desktop

import (
	"context"
	"time"
)

// A guest that writes more than the host's disk has room for is paused by the hypervisor, in the middle
// of that write, and nothing is lost. It goes on by itself when there is room: its keeper looks from time
// to time, for nobody tells of a disk that somebody has tidied up.

const (
	// fullGlance is how often it looks.
	fullGlance = 5 * time.Second
	// fullRoom is what has to be free, so that the machine does not stop again at once.
	fullRoom = 64 << 20

	// pauseExplained is how long the hypervisor gets to find out why a machine stands still.
	pauseExplained = 10 * time.Second
)

// paused tells whether the machine stands still.
func (k *keeper) paused() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.machine.State == MachinePaused
}

// goesOn tells whether a paused machine is to go on: its disk was full, or a start is owed to it. One
// that an operator has paused stays so until then.
func (k *keeper) goesOn(record Record, machine Machine) bool {
	return machine.State == MachinePaused && (machine.Cause == CauseDiskFull || record.Boot == BootStart)
}

// goOn lets a paused machine go on, when there is room.
func (k *keeper) goOn(ctx context.Context, record Record, machine Machine) (time.Duration, error) {
	if machine.Cause == CauseDiskFull {
		facts, err := k.m.machines.Measure(ctx)
		if err != nil {
			return 0, err
		}
		if facts.DiskAvailable < fullRoom {
			return fullGlance, nil
		}
		k.log.Info("there is room on the host's disk: the machine goes on", "free", facts.DiskAvailable)
	}
	if err := k.m.machines.Start(ctx, record.spec()); err != nil {
		return 0, err
	}
	return fullGlance, nil // its event comes before
}

// pausedReason says why a desktop whose machine is paused cannot be used.
func pausedReason(cause string) string {
	if cause == CauseDiskFull {
		return "The host's disk is full, and the machine waits. It goes on by itself when there is room."
	}
	return "The machine was paused by the host; start lets it go on."
}

// spec is the machine that a record asks for.
func (r Record) spec() Spec {
	return Spec{
		ID:          r.ID,
		Owner:       r.Owner,
		Name:        r.Name,
		ImageDigest: r.ImageDigest,
		Network:     r.Network,
		VCPUs:       r.VCPUs,
		MemoryBytes: r.MemoryBytes,
		DiskBytes:   r.DiskBytes,
		HasDisk:     r.HasDisk,
	}
}
