package hypervisor

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/bits"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// Two networks serve all desktops of a host: nat, which leads out, and isolated, which leads
// nowhere. Each is a bridge with libvirt's dnsmasq, which gives every desktop an address of its own
// (address.go), and a filter for what desktops send (filter.go). Whatever subnet the host itself uses
// or routes is left alone, or desktops would cut it off.

// withNetwork calls fn with a network that is there and active, and with its definition. The caller
// holds h.networks.
func (h *Host) withNetwork(c *libvirt.Connect, network string, fn func(*libvirt.Network, libvirtxml.Network, netip.Prefix) error) error {
	if network != desktop.NetworkNAT && network != desktop.NetworkIsolated {
		return desktop.Errorf(desktop.Invalid, "there is no network %q; it is nat or isolated", network)
	}
	name := h.opts.networkName(network)
	n, err := c.LookupNetworkByName(name)
	if isCode(err, libvirt.ERR_NO_NETWORK) {
		n, err = h.defineNetwork(c, network)
	}
	if err != nil {
		return fmt.Errorf("find network %s: %w", name, err)
	}
	defer func() { n.Free() }()
	if err := h.activate(c, network, &n); err != nil {
		return err
	}
	definition, subnet, err := readNetwork(n)
	if err != nil {
		return err
	}
	return fn(n, definition, subnet)
}

// activate starts a network that is off. It may have to be replaced for that.
func (h *Host) activate(c *libvirt.Connect, network string, at **libvirt.Network) error {
	n, name := *at, h.opts.networkName(network)
	active, err := n.IsActive()
	if err != nil {
		return fmt.Errorf("look at network %s: %w", name, err)
	}
	if active {
		return nil
	}
	err = n.Create()
	if err != nil {
		if active, activeErr := n.IsActive(); activeErr == nil && active {
			return nil
		}
		// The host may have come to use the subnet since it was chosen. An inactive network has
		// no machine on it, so it may be chosen anew.
		if _, fixed := h.opts.Subnets[network]; !fixed && strings.Contains(err.Error(), "already in use") {
			h.log.Warn("a network's subnet is in use by now; choosing another", "network", name, "error", err)
			if err := n.Undefine(); err != nil {
				return fmt.Errorf("redefine network %s: %w", name, err)
			}
			replacement, defineErr := h.defineNetwork(c, network)
			if defineErr != nil {
				return fmt.Errorf("redefine network %s: %w", name, defineErr)
			}
			n.Free()
			n, *at = replacement, replacement
			err = n.Create()
		}
	}
	if err != nil {
		return fmt.Errorf("start network %s: %w", name, err)
	}
	if err := n.SetAutostart(true); err != nil {
		return fmt.Errorf("start network %s with the host: %w", name, err)
	}
	return nil
}

func (h *Host) defineNetwork(c *libvirt.Connect, network string) (*libvirt.Network, error) {
	subnet, fixed := h.opts.Subnets[network]
	if !fixed {
		taken, err := takenSubnets(c)
		if err != nil {
			return nil, err
		}
		if subnet, err = chooseSubnet(taken); err != nil {
			return nil, err
		}
	}
	document, err := networkXML(h.opts.networkName(network), h.opts.bridgeName(network), network, subnet)
	if err != nil {
		return nil, err
	}
	return c.NetworkDefineXML(document)
}

// networkXML defines a network. It has no range of addresses for whoever asks: each desktop's is
// reserved when it starts. The bridge speaks no spanning tree, which its filters would not see.
func networkXML(name, bridge, network string, subnet netip.Prefix) (string, error) {
	first, _ := hostRange(subnet)
	definition := libvirtxml.Network{
		Name:   name,
		Bridge: &libvirtxml.NetworkBridge{Name: bridge, STP: "off", Delay: "0"},
		IPs:    []libvirtxml.NetworkIP{{Address: first.String(), Prefix: uint(subnet.Bits())}},
	}
	switch network {
	case desktop.NetworkNAT:
		definition.Forward = &libvirtxml.NetworkForward{Mode: "nat"}
	case desktop.NetworkIsolated:
		// Without this a guest could talk to the world through the host's resolver.
		definition.DnsmasqOptions = &libvirtxml.NetworkDnsmasqOptions{
			Option: []libvirtxml.NetworkDnsmasqOption{{Value: "no-resolv"}},
		}
	}
	return definition.Marshal()
}

// hostRange is the first and the last address of a subnet that a machine may have.
func hostRange(subnet netip.Prefix) (first, last netip.Addr) {
	base := number(subnet.Masked().Addr())
	size := uint32(1) << (32 - subnet.Bits())
	return v4(base + 1), v4(base + size - 2)
}

func number(address netip.Addr) uint32 { return binary.BigEndian.Uint32(address.AsSlice()) }

func v4(n uint32) netip.Addr {
	return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, n)))
}

// chooseSubnet finds a private /24 that overlaps nothing taken, in places that neither home
// routers nor container engines take first.
func chooseSubnet(taken []netip.Prefix) (netip.Prefix, error) {
	free := func(a, b, c byte) (netip.Prefix, bool) {
		subnet := netip.PrefixFrom(netip.AddrFrom4([4]byte{a, b, c, 0}), 24)
		for _, t := range taken {
			if t.Overlaps(subnet) {
				return netip.Prefix{}, false
			}
		}
		return subnet, true
	}
	for c := 200; c < 254; c++ {
		if subnet, ok := free(192, 168, byte(c)); ok {
			return subnet, nil
		}
	}
	for c := range 256 {
		if subnet, ok := free(10, 213, byte(c)); ok {
			return subnet, nil
		}
	}
	for c := range 256 {
		if subnet, ok := free(172, 30, byte(c)); ok {
			return subnet, nil
		}
	}
	return netip.Prefix{}, desktop.Errorf(desktop.Exhausted, "no private subnet is free for the desktops' network; choose one in the configuration")
}

// takenSubnets are those of the host's interfaces and routes and of every libvirt network.
func takenSubnets(c *libvirt.Connect) ([]netip.Prefix, error) {
	var taken []netip.Prefix
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		return nil, fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil && prefix.Addr().Is4() {
			taken = append(taken, prefix.Masked())
		}
	}
	routes, err := os.ReadFile("/proc/net/route")
	if err != nil {
		return nil, fmt.Errorf("list the host's routes: %w", err)
	}
	taken = append(taken, parseRoutes(string(routes))...)
	guests, err := guestSubnets(c)
	return append(taken, guests...), err
}

// guestSubnets are those of every libvirt network, whoever made it.
func guestSubnets(c *libvirt.Connect) ([]netip.Prefix, error) {
	networks, err := c.ListAllNetworks(0)
	if err != nil {
		return nil, fmt.Errorf("list libvirt's networks: %w", err)
	}
	var subnets []netip.Prefix
	for i := range networks {
		document, err := networks[i].GetXMLDesc(0)
		networks[i].Free()
		if err != nil {
			continue // removed meanwhile
		}
		subnets = append(subnets, networkSubnets(document)...)
	}
	return subnets, nil
}

// parseRoutes reads the format of /proc/net/route, leaving out the default route.
func parseRoutes(table string) []netip.Prefix {
	var routes []netip.Prefix
	lines := bufio.NewScanner(strings.NewReader(table))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 8 {
			continue
		}
		destination, err1 := hex.DecodeString(fields[1])
		mask, err2 := hex.DecodeString(fields[7])
		if err1 != nil || err2 != nil || len(destination) != 4 || len(mask) != 4 {
			continue // the heading
		}
		// Both are numbers of the host's byte order, which is little-endian where QEMU's KVM is.
		length := bits.OnesCount32(binary.LittleEndian.Uint32(mask))
		if length == 0 {
			continue
		}
		routes = append(routes, netip.PrefixFrom(v4(binary.LittleEndian.Uint32(destination)), length).Masked())
	}
	return routes
}

// readNetwork reads what libvirt says of one of our networks.
func readNetwork(n *libvirt.Network) (libvirtxml.Network, netip.Prefix, error) {
	var definition libvirtxml.Network
	document, err := n.GetXMLDesc(0)
	if err != nil {
		return definition, netip.Prefix{}, fmt.Errorf("read a network's definition: %w", err)
	}
	if err := definition.Unmarshal(document); err != nil {
		return definition, netip.Prefix{}, fmt.Errorf("decode a network's definition: %w", err)
	}
	subnets := networkSubnets(document)
	if len(subnets) == 0 {
		return definition, netip.Prefix{}, fmt.Errorf("network %s has no IPv4 subnet", definition.Name)
	}
	return definition, subnets[0], nil
}

// networkSubnets are the IPv4 subnets of a libvirt network.
func networkSubnets(document string) []netip.Prefix {
	var n libvirtxml.Network
	if n.Unmarshal(document) != nil {
		return nil
	}
	var subnets []netip.Prefix
	for _, ip := range n.IPs {
		address, err := netip.ParseAddr(ip.Address)
		if err != nil || !address.Is4() {
			continue
		}
		length := int(ip.Prefix)
		if mask := net.ParseIP(ip.Netmask).To4(); mask != nil {
			length, _ = net.IPMask(mask).Size()
		}
		if length == 0 {
			length = 24
		}
		subnets = append(subnets, netip.PrefixFrom(address, length).Masked())
	}
	return subnets
}

// leases are the newest DHCP leases of the host's networks, by MAC address.
func (h *Host) leases(c *libvirt.Connect) (map[string]string, error) {
	found := map[string]string{}
	expiry := map[string]time.Time{}
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
		n, err := c.LookupNetworkByName(h.opts.networkName(network))
		if isCode(err, libvirt.ERR_NO_NETWORK) {
			continue
		}
		if err != nil {
			return nil, err
		}
		leases, err := n.GetDHCPLeases()
		n.Free()
		if err != nil {
			if isCode(err, libvirt.ERR_OPERATION_INVALID) { // not active
				continue
			}
			return nil, fmt.Errorf("read the leases of network %s: %w", h.opts.networkName(network), err)
		}
		for _, lease := range leases {
			mac := strings.ToLower(lease.Mac)
			if _, seen := found[mac]; seen && lease.ExpiryTime.Before(expiry[mac]) {
				continue
			}
			found[mac], expiry[mac] = lease.IPaddr, lease.ExpiryTime
		}
	}
	return found, nil
}
