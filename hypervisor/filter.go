package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// A desktop's traffic passes a filter of libvirt's at its tap device, before the host's bridge, routes
// and firewall see any of it. The filter lets a guest speak under its own MAC and IP address only, to
// the network's DHCP and DNS; on the network nat, it may also send IPv4 to whatever is neither the host
// nor another guest.
//
// All rules are of ebtables' kind. Those of iptables' kind would see bridged frames only where the
// kernel hands them over (br_netfilter), which is not so everywhere. Rules of ebtables' kind keep no
// state, so they cannot tell what is for the host from what it forwards: the filter names every address
// of the host, and is made anew when those change. Nor can a guest answer what the host asks it: the
// host speaks to guests over the agent link.
//
// Port isolation on the bridge keeps guests from each other's frames. The filter closes the way round
// it, by the host's MAC address and its routes.

// never are destinations that no guest may send to: this host under its other names, those who are
// near it, and whoever listens.
var never = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("127.0.0.0/8"),
	netip.MustParsePrefix("169.254.0.0/16"), // also where clouds hand their machines' credentials out
	netip.MustParsePrefix("224.0.0.0/3"),    // multicast, reserved, broadcast
}

// filters are what libvirt was told of the networks' filters. Host.networks guards them.
type filters struct {
	told    map[string]string // by network: what it has taken last, "" when it has refused
	changed bool              // running machines were given another one
}

// filterXML is the filter of a network's desktops. hosts are what the host itself answers to, and
// where its other guests are. With twice the last rule is there twice: the same filter, and not to libvirt.
func filterXML(name, network string, subnet netip.Prefix, hosts []netip.Prefix, twice bool) (string, error) {
	first, _ := hostRange(subnet)
	gateway := first.String()
	filter := libvirtxml.NWFilter{Name: name, UUID: formatUUID(filterUUID(name)), Chain: "root"}
	priority := -1000
	rule := func(action, direction string, r libvirtxml.NWFilterRule) {
		r.Action, r.Direction, r.Priority = action, direction, priority
		filter.Entries = append(filter.Entries, libvirtxml.NWFilterEntry{Rule: &r})
	}
	ip := func(from, to string) *libvirtxml.NWFilterRuleIP {
		return &libvirtxml.NWFilterRuleIP{SrcIPAddr: field(from), DstIPAddr: field(to)}
	}
	ports := func(r *libvirtxml.NWFilterRuleIP, protocol string, from, to int) libvirtxml.NWFilterRule {
		r.Protocol = field(protocol)
		if from != 0 {
			r.SrcPortStart = field(strconv.Itoa(from))
		}
		r.DstPortStart = field(strconv.Itoa(to))
		return libvirtxml.NWFilterRule{IP: r}
	}

	// Rules of one step have one priority: among them the order does not matter, and there may be many.
	step := func() { priority++ }

	spoofed := &libvirtxml.NWFilterRuleMAC{Match: "no"}
	spoofed.SrcMACAddr = field("$MAC")
	rule("drop", "out", libvirtxml.NWFilterRule{MAC: spoofed})
	step()
	for _, sender := range []string{"$IP", "0.0.0.0"} { // the latter asks whether an address is free
		rule("accept", "out", libvirtxml.NWFilterRule{ARP: &libvirtxml.NWFilterRuleARP{ARPSrcMACAddr: field("$MAC"), ARPSrcIPAddr: field(sender)}})
	}
	rule("accept", "in", libvirtxml.NWFilterRule{ARP: &libvirtxml.NWFilterRuleARP{}})
	rule("accept", "in", libvirtxml.NWFilterRule{IP: &libvirtxml.NWFilterRuleIP{}})
	rule("accept", "out", ports(ip("0.0.0.0", "255.255.255.255"), "udp", 68, 67))
	rule("accept", "out", ports(ip("$IP", gateway), "udp", 68, 67))
	rule("accept", "out", ports(ip("$IP", gateway), "udp", 0, 53))
	rule("accept", "out", ports(ip("$IP", gateway), "tcp", 0, 53))
	step()
	if network == desktop.NetworkNAT {
		for _, closed := range closedTo(subnet, hosts) {
			to := ip("", closed.Addr().String())
			to.DstIPMask = field(strconv.Itoa(closed.Bits()))
			rule("drop", "out", libvirtxml.NWFilterRule{IP: to})
		}
		step()
		rule("accept", "out", libvirtxml.NWFilterRule{IP: ip("$IP", "")})
	}
	// Whatever else there is: IPv6, tagged frames, other protocols.
	step()
	rule("drop", "inout", libvirtxml.NWFilterRule{})
	if twice {
		step()
		rule("drop", "inout", libvirtxml.NWFilterRule{})
	}
	return filter.Marshal()
}

// field is an attribute, which is left out when it is empty.
func field(value string) libvirtxml.NWFilterField { return libvirtxml.NWFilterField{Str: value} }

// closedTo are the destinations that a network's guests may not send to, without those that lie in
// others, in an order of their own: the same host gives the same filter.
func closedTo(subnet netip.Prefix, hosts []netip.Prefix) []netip.Prefix {
	closed := append([]netip.Prefix{subnet.Masked()}, never...)
	hosts = slices.Clone(hosts)
	slices.SortFunc(hosts, func(a, b netip.Prefix) int {
		if a.Bits() != b.Bits() {
			return a.Bits() - b.Bits()
		}
		return a.Addr().Compare(b.Addr())
	})
	for _, host := range hosts {
		if !slices.ContainsFunc(closed, func(c netip.Prefix) bool { return c.Bits() <= host.Bits() && c.Contains(host.Addr()) }) {
			closed = append(closed, host)
		}
	}
	return closed
}

// ownAddresses are all IPv4 destinations that the host takes for its own, broadcasts included: what
// the kernel's routes say is local, which is more than the interfaces' addresses.
func ownAddresses() ([]netip.Prefix, error) {
	dump, err := syscall.NetlinkRIB(syscall.RTM_GETROUTE, syscall.AF_INET)
	if err != nil {
		return nil, fmt.Errorf("ask for the host's routes: %w", err)
	}
	own, err := parseOwn(dump)
	if err != nil {
		return nil, fmt.Errorf("read the host's routes: %w", err)
	}
	return own, nil
}

// parseOwn reads the kernel's answer to RTM_GETROUTE.
func parseOwn(dump []byte) ([]netip.Prefix, error) {
	messages, err := syscall.ParseNetlinkMessage(dump)
	if err != nil {
		return nil, err
	}
	var own []netip.Prefix
	for i := range messages {
		m := &messages[i]
		if m.Header.Type != syscall.RTM_NEWROUTE || len(m.Data) < syscall.SizeofRtMsg || m.Data[0] != syscall.AF_INET {
			continue
		}
		switch m.Data[7] { // struct rtmsg: rtm_type
		case syscall.RTN_LOCAL, syscall.RTN_BROADCAST, syscall.RTN_ANYCAST:
		default:
			continue
		}
		attributes, err := syscall.ParseNetlinkRouteAttr(m)
		if err != nil {
			return nil, err
		}
		for _, a := range attributes {
			if address, ok := netip.AddrFromSlice(a.Value); a.Attr.Type == syscall.RTA_DST && ok {
				own = append(own, netip.PrefixFrom(address, int(m.Data[1])).Masked())
			}
		}
	}
	return own, nil
}

// defineFilter makes the filter of a network be what it should be today, also for machines that run.
// libvirt does nothing when it is so already, but with again it applies it in any case.
// The caller holds h.networks.
func (h *Host) defineFilter(c *libvirt.Connect, network string, subnet netip.Prefix, again bool) error {
	name := h.opts.networkName(network)
	closed, err := ownAddresses()
	if err != nil {
		return err
	}
	others, err := guestSubnets(c)
	if err != nil {
		return err
	}
	define := func(twice bool) (document string, err error) {
		if document, err = filterXML(name, network, subnet, append(closed, others...), twice); err != nil {
			return "", err
		}
		filter, err := c.NWFilterDefineXML(document)
		if err != nil {
			return "", fmt.Errorf("define the filter of network %s: %w", name, err)
		}
		return document, filter.Free()
	}
	before, known := h.filters.told[network]
	h.filters.told[network] = ""
	if again {
		if _, err := define(true); err != nil {
			return err
		}
	}
	now, err := define(false)
	if err != nil {
		return err
	}
	h.filters.told[network] = now
	h.filters.changed = h.filters.changed || known && before != now
	return nil
}

// refreshFilters makes the filters of all networks that there are fit the host's addresses, and tells
// whether they have changed since it was called last. With again libvirt applies them in any case.
func (h *Host) refreshFilters(c *libvirt.Connect, again bool) (changed bool, err error) {
	h.networks.Lock()
	defer h.networks.Unlock()
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
		n, err := c.LookupNetworkByName(h.opts.networkName(network))
		if isCode(err, libvirt.ERR_NO_NETWORK, libvirt.ERR_NO_SUPPORT) { // a session's daemon has none
			continue
		}
		if err != nil {
			return false, fmt.Errorf("find network %s: %w", h.opts.networkName(network), err)
		}
		_, subnet, err := readNetwork(n)
		n.Free()
		if err != nil {
			return false, err
		}
		if err := h.defineFilter(c, network, subnet, again); err != nil {
			return false, err
		}
	}
	changed, h.filters.changed = h.filters.changed, false
	return changed, nil
}

// How often the filters are looked at, whether or not the kernel has told of a change; how soon again
// when that failed; and how soon after a change they are applied once more.
const (
	filterEvery  = time.Minute
	filterAgain  = 2 * time.Second
	filterSettle = 10 * time.Second
)

// keepFilters makes the filters follow the host's addresses until the host is closed.
//
// A change is applied twice. libvirt puts a machine's new rules beside the old ones, and then the one in
// the other's place. When somebody else changes the kernel's tables at that moment, ebtables fails, and
// libvirt does not tell: it takes the filter for applied, and the old rules stay.
func (h *Host) keepFilters() {
	changes := make(chan struct{}, 1)
	if socket, err := routesSocket(); err != nil {
		h.log.Error("changes of the host's addresses are seen every minute only", "error", err)
	} else {
		context.AfterFunc(h.ctx, func() { socket.Close() })
		h.wg.Go(func() {
			if err := readRoutes(socket, changes); h.ctx.Err() == nil {
				h.log.Error("changes of the host's addresses are seen every minute only", "error", err)
			}
		})
	}
	once := false // a change was applied once
	for again := false; ; {
		asked := again // what is asked of libvirt may outlast run
		changed, err := run(h.ctx, h, queryTime, "close the host's addresses to desktops", func(_ context.Context, c *libvirt.Connect) (bool, error) {
			return h.refreshFilters(c, asked)
		})
		once = changed || once && !asked // what was refused is a change when it is taken
		wait := filterEvery
		switch {
		case err != nil && h.ctx.Err() == nil:
			wait = filterAgain
			if desktop.CodeOf(err) != desktop.Unavailable {
				h.log.Error("the host's addresses may be open to desktops", "error", err)
			}
		case once:
			wait = filterSettle
		}
		select {
		case <-changes:
			again = false
		case <-time.After(wait):
			again = once
		case <-h.ctx.Done():
			return
		}
	}
}

// routesSocket is where the kernel tells of changes of the host's IPv4 addresses and routes.
func routesSocket() (*os.File, error) {
	fd, err := syscall.Socket(syscall.AF_NETLINK, syscall.SOCK_RAW|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, syscall.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open a socket to the kernel's routes: %w", err)
	}
	const groups = 1<<(syscall.RTNLGRP_IPV4_IFADDR-1) | 1<<(syscall.RTNLGRP_IPV4_ROUTE-1)
	if err := syscall.Bind(fd, &syscall.SockaddrNetlink{Family: syscall.AF_NETLINK, Groups: groups}); err != nil {
		syscall.Close(fd)
		return nil, fmt.Errorf("listen to the kernel's routes: %w", err)
	}
	return os.NewFile(uintptr(fd), "netlink"), nil
}

// readRoutes tells of changes until the socket is closed. Those that come before the last one was
// taken count as that one.
func readRoutes(socket *os.File, changed chan<- struct{}) error {
	buffer := make([]byte, 1<<16)
	for {
		// That the kernel had to drop messages is news of a change, too.
		if _, err := socket.Read(buffer); err != nil && !errors.Is(err, syscall.ENOBUFS) {
			return err
		}
		select {
		case changed <- struct{}{}:
		default:
		}
	}
}

// purgeFilter removes a network's filter. No machine may use it any more.
func (h *Host) purgeFilter(c *libvirt.Connect, network string) error {
	name := h.opts.networkName(network)
	filter, err := c.LookupNWFilterByName(name)
	if isCode(err, libvirt.ERR_NO_NWFILTER, libvirt.ERR_NO_SUPPORT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find the filter of network %s: %w", name, err)
	}
	defer filter.Free()
	if err := filter.Undefine(); err != nil {
		return fmt.Errorf("forget the filter of network %s: %w", name, err)
	}
	return nil
}
