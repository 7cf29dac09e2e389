package hypervisor

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"strings"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// Each desktop has one address on its network, reserved in libvirt's definition of that network from
// the desktop's first start until it is removed. So the filter knows it before the guest has said a
// word, and a guest that asks DHCP for more, under whatever names, gets nothing.

// ensureAddress makes the desktop's network be ready for it, and gives its address there.
func (h *Host) ensureAddress(c *libvirt.Connect, spec desktop.Spec) (address netip.Addr, err error) {
	h.networks.Lock()
	defer h.networks.Unlock()
	err = h.withNetwork(c, spec.Network, func(n *libvirt.Network, definition libvirtxml.Network, subnet netip.Prefix) error {
		if err := h.defineFilter(c, spec.Network, subnet, false); err != nil {
			return err
		}
		address, err = h.reserve(n, definition, subnet, machineMAC(spec.ID))
		return err
	})
	return address, err
}

// reserve finds the address of a MAC address or picks one.
func (h *Host) reserve(n *libvirt.Network, definition libvirtxml.Network, subnet netip.Prefix, mac string) (netip.Addr, error) {
	taken := map[netip.Addr]bool{}
	var ranges []libvirtxml.NetworkDHCPRange
	for _, ip := range definition.IPs {
		if ip.DHCP == nil {
			continue
		}
		ranges = append(ranges, ip.DHCP.Ranges...)
		for _, host := range ip.DHCP.Hosts {
			address, err := netip.ParseAddr(host.IP)
			if err != nil || !subnet.Contains(address) {
				continue
			}
			if strings.EqualFold(host.MAC, mac) {
				return address, nil
			}
			taken[address] = true
		}
	}
	if len(ranges) > 0 {
		// A network of a former version's gave addresses to whoever asked. Those keep what they have.
		leases, err := n.GetDHCPLeases()
		if err != nil {
			return netip.Addr{}, fmt.Errorf("read the leases of network %s: %w", definition.Name, err)
		}
		reserved := netip.Addr{}
		for _, lease := range leases {
			address, err := netip.ParseAddr(lease.IPaddr)
			if err != nil || taken[address] {
				continue
			}
			if err := updateHost(n, libvirt.NETWORK_UPDATE_COMMAND_ADD_LAST, lease.Mac, address); err != nil {
				h.log.Warn("a lease cannot be kept", "network", definition.Name, "mac", lease.Mac, "address", address, "error", err)
				continue
			}
			taken[address] = true
			if strings.EqualFold(lease.Mac, mac) {
				reserved = address
			}
		}
		for _, r := range ranges {
			document, err := r.Marshal()
			if err == nil {
				err = n.Update(libvirt.NETWORK_UPDATE_COMMAND_DELETE, libvirt.NETWORK_SECTION_IP_DHCP_RANGE, -1, document, updateFlags)
			}
			if err != nil {
				return netip.Addr{}, fmt.Errorf("take the range of addresses from network %s: %w", definition.Name, err)
			}
		}
		if reserved.IsValid() {
			return reserved, nil
		}
	}
	address, ok := pickAddress(subnet, taken, mac)
	if !ok {
		return netip.Addr{}, desktop.Errorf(desktop.Exhausted, "no address is free on network %s, which has %s; configure a larger subnet", definition.Name, subnet)
	}
	if err := updateHost(n, libvirt.NETWORK_UPDATE_COMMAND_ADD_LAST, mac, address); err != nil {
		return netip.Addr{}, fmt.Errorf("reserve the address %s on network %s: %w", address, definition.Name, err)
	}
	return address, nil
}

const updateFlags = libvirt.NETWORK_UPDATE_AFFECT_LIVE | libvirt.NETWORK_UPDATE_AFFECT_CONFIG

func updateHost(n *libvirt.Network, command libvirt.NetworkUpdateCommand, mac string, address netip.Addr) error {
	host := libvirtxml.NetworkDHCPHost{MAC: mac, IP: address.String()}
	document, err := host.Marshal()
	if err != nil {
		return err
	}
	flags := updateFlags
	if active, err := n.IsActive(); err == nil && !active {
		flags = libvirt.NETWORK_UPDATE_AFFECT_CONFIG
	}
	return n.Update(command, libvirt.NETWORK_SECTION_IP_DHCP_HOST, -1, document, flags)
}

// pickAddress looks for a free address from a place on that follows from the MAC address, so that one
// that was given up is not the next desktop's at once.
func pickAddress(subnet netip.Prefix, taken map[netip.Addr]bool, mac string) (netip.Addr, bool) {
	gateway, last := hostRange(subnet)
	first := gateway.Next()
	count := number(last) - number(first) + 1
	hash := fnv.New32a()
	hash.Write([]byte(strings.ToLower(mac)))
	for i := range count {
		address := v4(number(first) + (hash.Sum32()%count+i)%count)
		if !taken[address] {
			return address, true
		}
	}
	return netip.Addr{}, false
}

// releaseAddress gives a desktop's addresses back.
func (h *Host) releaseAddress(c *libvirt.Connect, id string) error {
	h.networks.Lock()
	defer h.networks.Unlock()
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
		n, err := c.LookupNetworkByName(h.opts.networkName(network))
		if isCode(err, libvirt.ERR_NO_NETWORK, libvirt.ERR_NO_SUPPORT) {
			continue
		}
		if err != nil {
			return fmt.Errorf("find network %s: %w", h.opts.networkName(network), err)
		}
		err = release(n, machineMAC(id))
		n.Free()
		if err != nil {
			return fmt.Errorf("give back an address on network %s: %w", h.opts.networkName(network), err)
		}
	}
	return nil
}

func release(n *libvirt.Network, mac string) error {
	definition, _, err := readNetwork(n)
	if err != nil {
		return err
	}
	for _, ip := range definition.IPs {
		if ip.DHCP == nil {
			continue
		}
		for _, host := range ip.DHCP.Hosts {
			address, err := netip.ParseAddr(host.IP)
			if err != nil || !strings.EqualFold(host.MAC, mac) {
				continue
			}
			if err := updateHost(n, libvirt.NETWORK_UPDATE_COMMAND_DELETE, host.MAC, address); err != nil {
				return err
			}
		}
	}
	return nil
}
