package hypervisor

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// KVM says whether the host's processor can run guests, and why not.
type KVM struct {
	Usable bool
	Reason string
	Fix    string // a command, or what else to do
}

// ProbeKVM finds out whether KVM really works. The presence of /dev/kvm proves nothing: inside
// another machine it may be there on a processor without virtualisation, where a guest hangs
// without a word. So the processor's flags, the device and libvirt must agree; bureau's own user
// need not have access to the device. conn may be nil, and libvirt is then not asked.
func ProbeKVM(conn *libvirt.Connect) KVM {
	cpuinfo, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return KVM{Reason: fmt.Sprintf("the processor's flags cannot be read: %v", err)}
	}
	if _, err := os.Stat("/dev/kvm"); err != nil {
		if hasVirtualisation(string(cpuinfo)) {
			return KVM{Reason: "the processor has virtualisation, and /dev/kvm is missing", Fix: "modprobe kvm_intel || modprobe kvm_amd"}
		}
		return KVM{Reason: "the processor shows no virtualisation (vmx or svm)", Fix: "enable VT-x or AMD-V in the firmware, or nested virtualisation on the machine that this one runs in"}
	}
	if !hasVirtualisation(string(cpuinfo)) {
		return KVM{Reason: "/dev/kvm is there, but the processor shows no virtualisation (vmx or svm): guests would hang",
			Fix: "enable nested virtualisation on the machine that this one runs in"}
	}
	if conn != nil {
		caps, err := domainCapabilities(conn, "kvm")
		if err != nil || caps.Domain != "kvm" {
			return KVM{Reason: fmt.Sprintf("libvirt cannot use KVM: %v", err), Fix: "chgrp kvm /dev/kvm && chmod 660 /dev/kvm, then restart libvirtd"}
		}
	}
	return KVM{Usable: true, Reason: "the processor and libvirt agree on KVM"}
}

func hasVirtualisation(cpuinfo string) bool {
	for line := range strings.Lines(cpuinfo) {
		name, flags, _ := strings.Cut(line, ":")
		if strings.TrimSpace(name) != "flags" {
			continue
		}
		for _, flag := range strings.Fields(flags) {
			if flag == "vmx" || flag == "svm" {
				return true
			}
		}
		return false // all processors of a host are alike in this
	}
	return false
}

// deviceTrap says whether /dev/kvm makes libvirt examine QEMU anew at each start of a machine, for
// several seconds: that happens when root may open it and QEMU's user may not.
func deviceTrap() bool {
	var info unix.Stat_t
	if unix.Stat("/dev/kvm", &info) != nil || info.Mode&0o006 == 0o006 {
		return false
	}
	return !groupNamed(info.Gid, "kvm") || info.Mode&0o060 != 0o060
}

func groupNamed(gid uint32, name string) bool {
	groups, err := os.ReadFile("/etc/group")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(groups)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) >= 3 && fields[0] == name && fields[2] == fmt.Sprint(gid) {
			return true
		}
	}
	return false
}

func domainCapabilities(c *libvirt.Connect, kind string) (libvirtxml.DomainCaps, error) {
	var caps libvirtxml.DomainCaps
	document, err := c.GetDomainCapabilities("", "x86_64", "q35", kind, 0)
	if err != nil {
		return caps, err
	}
	return caps, caps.Unmarshal(document)
}

// hasDBusDisplay tells whether machines can have the D-Bus display.
func hasDBusDisplay(caps libvirtxml.DomainCaps) bool {
	if caps.Devices == nil || caps.Devices.Graphics == nil {
		return false
	}
	for _, list := range caps.Devices.Graphics.Enums {
		if list.Name != "type" {
			continue
		}
		for _, kind := range list.Values {
			if kind == "dbus" {
				return true
			}
		}
	}
	return false
}

// abilities decides how the next machine is run.
func (h *Host) abilities(c *libvirt.Connect) (acceleration string, dbusDisplay bool, err error) {
	acceleration = h.opts.Acceleration
	if acceleration == "auto" {
		acceleration = desktop.TCG
		if ProbeKVM(c).Usable {
			acceleration = desktop.KVM
		}
	}
	kind := "qemu"
	if acceleration == desktop.KVM {
		kind = "kvm"
	}
	caps, err := domainCapabilities(c, kind)
	if err != nil {
		return "", false, fmt.Errorf("ask libvirt for the abilities of %s machines: %w", acceleration, err)
	}
	return acceleration, hasDBusDisplay(caps), nil
}
