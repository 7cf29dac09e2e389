package desktop

import (
	"maps"
	"slices"
	"time"
)

// Machines that want more processors than there are get equal shares of them. Who works on a desktop
// needs little, but at once: a machine that computes all the time, by its owner's wish or because its
// guest is hostile, holds a processor when another's is to wake for a click, and the click waits. So a
// machine that uses more than an equal share yields: it gets what the others leave, which is as much as
// before where they want nothing, and it does not hold up those that wake. Of machines that all compute
// none uses more than its share, or all yield alike, and they are equal again.
//
// The hypervisor keeps who yields for as long as the machine is on. A process that starts makes all
// machines equal first.

const (
	// yieldLook is how often it is looked what the machines use.
	yieldLook = time.Second
	// yieldWeight is what the last look counts, against all before.
	yieldWeight = 0.75
	// A machine yields that uses so many equal shares, while less than such a part of the host is idle.
	// Those that all compute use less, but for what is measured at different moments.
	yieldShares, yieldIdle = 1.15, 0.15
	// It yields no more when it uses less than so many, or such a part is idle.
	equalShares, equalIdle = 0.9, 0.3
)

// ProcessorUse is what the host's processors have done so far.
type ProcessorUse struct {
	Processors int
	Idle       time.Duration            // of all together, since the host was booted
	Machines   map[string]time.Duration // used by each desktop's machine that runs, since it was turned on
}

// yielding follows what machines use, and who yields. The zero value has seen nothing.
type yielding struct {
	before ProcessorUse
	at     time.Time
	idle   float64            // processors, over the last few looks
	uses   map[string]float64 // the same, of each machine
	yields map[string]bool    // as the hypervisor was last told; of those that do
}

// look takes in what the processors did until now, and returns for which machines it has to change
// whether they yield.
func (y *yielding) look(now ProcessorUse, at time.Time) map[string]bool {
	change := map[string]bool{}
	first := y.before.Machines == nil
	elapsed := at.Sub(y.at).Seconds()
	uses := make(map[string]float64, len(now.Machines))
	for id, used := range now.Machines {
		if before, known := y.before.Machines[id]; known && used >= before && elapsed > 0 {
			uses[id] = lately(y.uses[id], (used-before).Seconds()/elapsed)
		} else {
			delete(y.yields, id) // it was turned on, and is as any other
		}
		if first { // an earlier process may have made it yield
			change[id] = false
		}
	}
	if !first && elapsed > 0 {
		y.idle = lately(y.idle, (now.Idle-y.before.Idle).Seconds()/elapsed)
	}
	y.before, y.at, y.uses = now, at, uses
	maps.DeleteFunc(y.yields, func(id string, _ bool) bool { _, on := now.Machines[id]; return !on })
	if first {
		return change
	}
	all := y.idle // what there is for the machines: not what else the host has to do
	for _, use := range uses {
		all += use
	}
	share := all / float64(max(len(uses), 1))
	idle := y.idle / float64(max(now.Processors, 1))
	for id, use := range uses {
		switch {
		case !y.yields[id] && len(uses) > 1 && idle < yieldIdle && use > yieldShares*share:
			change[id] = true
		case y.yields[id] && (len(uses) == 1 || idle > equalIdle || use < equalShares*share):
			change[id] = false
		}
	}
	return change
}

func lately(before, now float64) float64 { return (1-yieldWeight)*before + yieldWeight*now }

// told notes what the hypervisor was told.
func (y *yielding) told(id string, yields bool) {
	if !yields {
		delete(y.yields, id)
		return
	}
	if y.yields == nil {
		y.yields = map[string]bool{}
	}
	y.yields[id] = true
}

// shareProcessors makes machines yield that use more of the processors than others.
func (m *Manager) shareProcessors() {
	ticker := time.NewTicker(yieldLook)
	defer ticker.Stop()
	var y yielding
	complained := false
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-ticker.C:
		}
		if m.takenBeside("", "", everyOn).running < 2 && len(y.yields) == 0 {
			continue // there is nobody to yield to
		}
		use, err := m.machines.Processors(m.ctx)
		if err != nil {
			m.log.Debug("what the machines use of the processors is not known", "error", err)
			continue
		}
		change := y.look(use, time.Now())
		for _, id := range slices.Sorted(maps.Keys(change)) {
			err := m.machines.Yield(m.ctx, id, change[id])
			if err == nil {
				y.told(id, change[id])
				if use := y.uses[id]; use > 0 {
					m.log.Debug("machine's share of the processors", "desktop", id, "yields", change[id], "uses", use)
				}
				continue
			}
			if code := CodeOf(err); !complained && code != Unavailable && code != NotFound && m.ctx.Err() == nil {
				complained = true
				m.log.Warn("a machine that computes cannot be made to yield to others", "desktop", id, "error", err)
			}
		}
	}
}
