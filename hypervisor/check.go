package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"strings"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// Check is one finding about this host.
type Check struct {
	Name    string
	OK      bool
	Warning bool   // not OK, and bureau works all the same
	Detail  string // what is so, or what is wrong
	Fix     string // the command that mends it; empty when OK
}

// The least versions, in libvirt's way of counting. libvirt 8.4 and QEMU 7.0 brought the D-Bus
// display.
const (
	leastLibvirt = 8_004_000
	leastQEMU    = 7_000_000
)

// Thresholds below which an operator is warned.
const (
	littleSpace  = 10 << 30
	littleMemory = 4 << 30
)

func passed(name, format string, args ...any) Check {
	return Check{Name: name, OK: true, Detail: fmt.Sprintf(format, args...)}
}

func warned(name, detail, fix string) Check {
	return Check{Name: name, Warning: true, Detail: detail, Fix: fix}
}

func failed(name, detail, fix string) Check {
	return Check{Name: name, Detail: detail, Fix: fix}
}

// Checks examines the host for bureau. It changes nothing: a pool or a network that bureau would
// make at its start is not an error.
func Checks(ctx context.Context, opts Options) []Check {
	opts, err := opts.withDefaults()
	if err != nil {
		return []Check{failed("configuration", err.Error(), "correct the configuration")}
	}
	checks := checkTools()
	conn, err := connectTo(ctx, opts.URI)
	if err != nil {
		checks = append(checks, checkKVM(nil, opts.Acceleration)...)
		return append(checks, explainUnreachable(opts.URI, err))
	}
	done := make(chan []Check, 1)
	go func() { // the calls may outlast ctx, but not the connection's keepalive
		defer conn.close()
		c := conn.Connect
		found := []Check{passed("libvirt", "%s answers", opts.URI)}
		found = append(found, checkKVM(c, opts.Acceleration)...)
		found = append(found, checkVersions(c)...)
		found = append(found, checkPool(ctx, c, opts)...)
		found = append(found, checkFilters(c))
		found = append(found, checkNetworks(c, opts)...)
		found = append(found, checkHostMemory(c))
		done <- found
	}()
	select {
	case found := <-done:
		return append(checks, found...)
	case <-ctx.Done():
		return append(checks, failed("libvirt", "libvirt does not answer at "+opts.URI, "systemctl restart libvirtd"))
	}
}

func checkTools() []Check {
	var checks []Check
	for _, t := range []struct{ name, purpose, pack string }{
		{"mke2fs", "makes the disk that brings guests their agent", "e2fsprogs"},
		{"qemu-img", "examines disk images", "qemu-utils"},
		{"dnsmasq", "gives desktops their addresses", "dnsmasq-base"},
		{"ebtables", "keeps desktops from each other and from the host", "iptables"},
	} {
		if path, err := tool(t.name); err == nil {
			checks = append(checks, passed(t.name, "%s %s", path, t.purpose))
		} else {
			checks = append(checks, failed(t.name, t.name+", which "+t.purpose+", is not installed", "apt-get install "+t.pack))
		}
	}
	return checks
}

func checkKVM(c *libvirt.Connect, wanted string) []Check {
	var checks []Check
	kvm := ProbeKVM(c)
	switch {
	case kvm.Usable:
		checks = append(checks, passed("kvm", "%s", kvm.Reason))
	case wanted == desktop.KVM:
		checks = append(checks, failed("kvm", kvm.Reason+"; the configuration asks for KVM", kvm.Fix))
	default:
		checks = append(checks, warned("kvm", kvm.Reason+"; desktops are emulated, which is several times slower", kvm.Fix))
	}
	if deviceTrap() {
		checks = append(checks, warned("kvm device",
			"/dev/kvm is closed to QEMU's user, so libvirt examines QEMU anew at every start of a desktop, which takes seconds",
			"chgrp kvm /dev/kvm && chmod 660 /dev/kvm, then restart libvirtd"))
	}
	return checks
}

// explainUnreachable says why there is no connection: the daemon is not there, does not let this
// user in, or has no way of asking whether it should.
func explainUnreachable(uri string, err error) Check {
	cause := err
	for next := errors.Unwrap(cause); next != nil; next = errors.Unwrap(cause) {
		cause = next
	}
	message := cause.Error()
	who := "this user"
	if u, err := user.Current(); err == nil {
		who = u.Username
	}
	sockets, socketErr := remoteSockets(uri)
	there := false
	for _, socket := range sockets {
		if _, err := os.Stat(socket); err == nil {
			there = true
		}
	}
	lower := strings.ToLower(message)
	switch {
	case socketErr != nil:
		return failed("libvirt", socketErr.Error(), "set the URI to qemu:///system")
	case strings.Contains(lower, "libvirt.so") || strings.Contains(lower, "failed to dlopen"):
		return failed("libvirt", "the libvirt library is not installed", "apt-get install libvirt0")
	case !there:
		return failed("libvirt", "libvirt does not run: "+strings.Join(sockets, " and ")+" are missing",
			"apt-get install libvirt-daemon-system && systemctl enable --now libvirtd")
	case strings.Contains(lower, "permission denied"):
		return failed("libvirt", "libvirt does not let "+who+" in", "usermod --append --groups libvirt "+who+", then log in again")
	case strings.Contains(lower, "system bus") || strings.Contains(lower, "polkit") || strings.Contains(lower, "authentication"):
		return failed("libvirt", "libvirt cannot ask polkit whether "+who+" may connect: "+message,
			`put unix_sock_group = "libvirt", unix_sock_rw_perms = "0770" and auth_unix_rw = "none" into /etc/libvirt/libvirtd.conf, then restart libvirtd`)
	default:
		return failed("libvirt", "libvirt does not answer at "+uri+": "+message, "systemctl restart libvirtd")
	}
}

func formatVersion(v uint32) string {
	return fmt.Sprintf("%d.%d.%d", v/1_000_000, v/1000%1000, v%1000)
}

func checkVersions(c *libvirt.Connect) []Check {
	var checks []Check
	for _, v := range []struct {
		name  string
		read  func() (uint32, error)
		least uint32
	}{
		{"libvirt version", c.GetLibVersion, leastLibvirt},
		{"QEMU version", c.GetVersion, leastQEMU},
	} {
		version, err := v.read()
		switch {
		case err != nil:
			checks = append(checks, failed(v.name, "it is not known: "+err.Error(), "apt-get install qemu-system-x86 libvirt-daemon-driver-qemu"))
		case version < v.least:
			checks = append(checks, failed(v.name, formatVersion(version)+" is older than "+formatVersion(v.least), "upgrade to Debian 12, Ubuntu 24.04 or later"))
		default:
			checks = append(checks, passed(v.name, "%s", formatVersion(version)))
		}
	}
	caps, err := domainCapabilities(c, "qemu")
	switch {
	case err != nil:
		checks = append(checks, failed("machines", "libvirt cannot run q35 machines: "+err.Error(), "apt-get install qemu-system-x86"))
	case !hasDBusDisplay(caps):
		checks = append(checks, warned("D-Bus display", "QEMU has no D-Bus display: pictures come by VNC, more slowly", "apt-get install qemu-system-common, then restart libvirtd"))
	default:
		checks = append(checks, passed("D-Bus display", "QEMU has it"))
	}
	return checks
}

func checkPool(ctx context.Context, c *libvirt.Connect, opts Options) []Check {
	const name = "storage pool"
	pool, err := c.LookupStoragePoolByName(opts.Pool.Name)
	if isCode(err, libvirt.ERR_NO_STORAGE_POOL) {
		return []Check{
			passed(name, "%s is not there yet; bureau makes it in %s", opts.Pool.Name, opts.Pool.Path),
			noImage(),
		}
	}
	if err != nil {
		return []Check{failed(name, err.Error(), "virsh pool-info "+opts.Pool.Name)}
	}
	defer pool.Free()
	active, err := pool.IsActive()
	if err != nil {
		return []Check{failed(name, err.Error(), "virsh pool-info "+opts.Pool.Name)}
	}
	if !active {
		return []Check{warned(name, opts.Pool.Name+" is not active; bureau tries to start it", "virsh pool-start "+opts.Pool.Name)}
	}
	info, err := pool.GetInfo()
	if err != nil {
		return []Check{failed(name, err.Error(), "virsh pool-refresh "+opts.Pool.Name)}
	}
	left := fmt.Sprintf("%.1f GiB are left in %s", float64(info.Available)/(1<<30), opts.Pool.Name)
	var checks []Check
	switch {
	case int64(info.Available) < opts.LeastSpace:
		checks = append(checks, failed("disk space", left+"; no desktop starts", "free some space in "+opts.Pool.Path))
	case info.Available < littleSpace:
		checks = append(checks, warned("disk space", left, "free some space in "+opts.Pool.Path))
	default:
		checks = append(checks, passed("disk space", "%s", left))
	}
	h := &Host{opts: opts, log: opts.Log}
	volumes, err := h.listVolumes(c)
	if err != nil {
		return append(checks, failed(name, err.Error(), "virsh pool-refresh "+opts.Pool.Name))
	}
	images, err := h.namedImages(ctx, c, volumes)
	switch {
	case err != nil:
		checks = append(checks, failed("images", err.Error(), "virsh vol-list "+opts.Pool.Name))
	case len(images) == 0:
		checks = append(checks, noImage())
	default:
		var names []string
		for _, image := range images {
			names = append(names, image.Name)
		}
		checks = append(checks, passed("images", "%s", strings.Join(names, ", ")))
	}
	return checks
}

func noImage() Check {
	return failed("images", "there is no image to make desktops from", "bureau image build")
}

// checkFilters says whether libvirt can filter what desktops send. Without that none starts.
func checkFilters(c *libvirt.Connect) Check {
	if _, err := c.NumOfNWFilters(); err != nil {
		return failed("network filters", "libvirt cannot filter desktops' traffic, and so starts none: "+err.Error(),
			"apt-get install libvirt-daemon-config-nwfilter, then restart libvirtd")
	}
	return passed("network filters", "libvirt has them")
}

func checkNetworks(c *libvirt.Connect, opts Options) []Check {
	var checks []Check
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
		name := "network " + network
		object := opts.networkName(network)
		n, err := c.LookupNetworkByName(object)
		if isCode(err, libvirt.ERR_NO_NETWORK) {
			check := passed(name, "%s is not there yet; bureau makes it for the first desktop on it", object)
			if subnet, fixed := opts.Subnets[network]; fixed {
				if taken, err := takenSubnets(c); err == nil {
					for _, t := range taken {
						if t.Overlaps(subnet) {
							check = failed(name, fmt.Sprintf("the configured subnet %s overlaps %s, which the host uses", subnet, t), "configure another subnet, or none")
						}
					}
				}
			}
			checks = append(checks, check)
			continue
		}
		if err != nil {
			checks = append(checks, failed(name, err.Error(), "virsh net-info "+object))
			continue
		}
		active, err := n.IsActive()
		n.Free()
		switch {
		case err != nil:
			checks = append(checks, failed(name, err.Error(), "virsh net-info "+object))
		case !active:
			checks = append(checks, warned(name, object+" is not active; bureau starts it with the next desktop on it", "virsh net-start "+object))
		default:
			checks = append(checks, passed(name, "%s is active", object))
		}
	}
	if forwarding, err := os.ReadFile("/proc/sys/net/ipv4/ip_forward"); err == nil && strings.TrimSpace(string(forwarding)) == "0" {
		// libvirt turns it on with the first network that forwards.
		checks = append(checks, warned("forwarding", "the host does not forward packets; libvirt turns it on with the network nat", "sysctl -w net.ipv4.ip_forward=1"))
	}
	return checks
}

func checkHostMemory(c *libvirt.Connect) Check {
	_, available, err := hostMemory(c)
	switch {
	case err != nil:
		return failed("memory", err.Error(), "virsh nodememstats")
	case available < littleMemory:
		return warned("memory", fmt.Sprintf("%d MiB are available, which is little for desktops", available>>20), "stop something, or add memory")
	default:
		return passed("memory", "%.1f GiB are available", float64(available)/(1<<30))
	}
}
