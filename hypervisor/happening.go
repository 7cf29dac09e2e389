package hypervisor

import (
	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// happening is what only libvirt's events tell of a machine: afterwards a guest that panicked looks
// like any other that ended without being asked, and one that rebooted like one that did not.
type happening struct {
	reboots  uint64
	panicked bool // since it was last started
}

func (p *happening) lifecycle(e *libvirt.DomainEventLifecycle) {
	switch e.Event {
	case libvirt.DOMAIN_EVENT_STARTED:
		p.panicked = false
	case libvirt.DOMAIN_EVENT_UNDEFINED:
		*p = happening{}
	case libvirt.DOMAIN_EVENT_CRASHED:
		if libvirt.DomainEventCrashedDetailType(e.Detail) == libvirt.DOMAIN_EVENT_CRASHED_PANICKED {
			p.panicked = true
		}
	}
}

// recall adds what happened to a machine to what is known of it.
func (h *Host) recall(machine *desktop.Machine) {
	h.mu.Lock()
	past := h.happened[machine.ID]
	h.mu.Unlock()
	machine.Reboots = past.reboots
	if past.panicked && machine.State == desktop.MachineOff && machine.Cause == "crashed" {
		machine.Cause = "panicked"
	}
}

func (h *Host) forget(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.happened, id)
}
