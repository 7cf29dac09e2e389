package api

import (
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
)

// clientOf is the address that a request has come from: that of the connection's other end or, where
// that is one of the proxies, what it says of whom it asks for. It is the zero address for a request
// that came over the administration socket or from within the process.
//
// Of X-Forwarded-For only what proxies have written is believed: each appends the address it was
// connected from, and whatever is left of the first address that is no proxy's may be the client's own
// invention.
func clientOf(r *http.Request, proxies []netip.Prefix) netip.Addr {
	end, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	client := plain(end.Addr())
	if !amongst(client, proxies) {
		return client
	}
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for _, hop := range slices.Backward(hops) {
		address, ok := parseHop(hop)
		if !ok {
			break
		}
		if client = address; !amongst(client, proxies) {
			break
		}
	}
	return client
}

// parseHop reads an address that a proxy has written, with or without a port.
func parseHop(hop string) (netip.Addr, bool) {
	hop = strings.TrimSpace(hop)
	if host, _, err := net.SplitHostPort(hop); err == nil {
		hop = host
	}
	address, err := netip.ParseAddr(strings.Trim(hop, "[]"))
	return plain(address), err == nil
}

// plain is an address without what does not tell one host from another.
func plain(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

func amongst(a netip.Addr, networks []netip.Prefix) bool {
	return slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(a) })
}

// neighbourhood is what one stranger can be taken to hold all of: an IPv4 address, an IPv6 network of
// 64 bits. It is the zero prefix for the zero address.
func neighbourhood(a netip.Addr) netip.Prefix {
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}
