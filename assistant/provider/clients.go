package provider

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/net/http/httpproxy"

	"bureau/assistant/model"
	"bureau/desktop"
)

// ClientOptions are the operator's say in how providers are reached.
type ClientOptions struct {
	Proxy   string // URL of a proxy, none when empty
	NoProxy string // hosts and networks that are reached without it, as in NO_PROXY
	// PrivateAddresses lets users' own providers be anywhere, too.
	PrivateAddresses bool
}

// Clients are the connections to providers, of two sorts that share nothing: those to what the
// operator has named go anywhere, those to what a user has named to public addresses only. Which
// address a name leads to is looked at when a connection is made, and so after the last look-up.
type Clients struct{ anywhere, public *http.Client }

const (
	dialTimeout   = 10 * time.Second
	headerTimeout = 10 * time.Minute // models that think before they speak take minutes
)

// NewClients makes them.
func NewClients(o ClientOptions) (*Clients, error) {
	var proxies func(*url.URL) (*url.URL, error)
	var proxy *url.URL
	if o.Proxy != "" {
		var err error
		if proxy, err = url.Parse(o.Proxy); err != nil || proxy.Host == "" {
			return nil, desktop.Errorf(desktop.Invalid, "the proxy %q is not an address such as http://proxy.example.org:3128", o.Proxy)
		}
		proxies = (&httpproxy.Config{HTTPProxy: o.Proxy, HTTPSProxy: o.Proxy, NoProxy: o.NoProxy}).ProxyFunc()
	}
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	anywhere := transport(dialer.DialContext)
	if proxies != nil {
		anywhere.Proxy = func(r *http.Request) (*url.URL, error) { return proxies(r.URL) }
	}
	c := &Clients{anywhere: client(anywhere)}
	if c.public = c.anywhere; o.PrivateAddresses {
		return c, nil
	}

	guarded := *dialer
	guarded.Control = func(_, address string, _ syscall.RawConn) error { return checkAddress(address) }
	public := transport(func(ctx context.Context, network, address string) (net.Conn, error) {
		if proxy != nil && address == hostPort(proxy) { // the operator's own choice
			return dialer.DialContext(ctx, network, address)
		}
		return guarded.DialContext(ctx, network, address)
	})
	if proxies != nil {
		public.Proxy = func(r *http.Request) (*url.URL, error) {
			through, err := proxies(r.URL)
			if err != nil {
				return nil, err
			}
			// Which address a name has is the proxy's to find out. What is plainly inside is refused.
			if hostPort(r.URL) == hostPort(proxy) || through != nil && inside(r.URL.Hostname()) {
				return nil, refused(r.URL.Hostname())
			}
			return through, nil
		}
	}
	c.public = client(public)
	return c, nil
}

// For is the client that reaches an endpoint. It follows no redirects, which would take a key
// elsewhere, and keeps no cookies.
func (c *Clients) For(endpoint model.Endpoint) *http.Client {
	if endpoint.Private {
		return c.anywhere
	}
	return c.public
}

// Close lets go of idle connections.
func (c *Clients) Close() {
	c.anywhere.CloseIdleConnections()
	c.public.CloseIdleConnections()
}

func client(t *http.Transport) *http.Client {
	return &http.Client{
		Transport:     t,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func transport(dial func(context.Context, string, string) (net.Conn, error)) *http.Transport {
	return &http.Transport{
		DialContext:            dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    10 * time.Second,
		ResponseHeaderTimeout:  headerTimeout,
		MaxResponseHeaderBytes: 64 << 10,
		DisableCompression:     true, // it would hold streams back
		ForceAttemptHTTP2:      true,
		MaxIdleConns:           64,
		MaxIdleConnsPerHost:    16,
		IdleConnTimeout:        90 * time.Second,
	}
}

func hostPort(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "socks5": "1080", "socks5h": "1080"}[u.Scheme]
		if port == "" {
			port = "80"
		}
	}
	return net.JoinHostPort(u.Hostname(), port)
}

func refused(address string) error {
	return desktop.Errorf(desktop.Invalid, "%s is not a public address, and users' own providers must have one", address)
}

// checkAddress refuses what is not public, and this host under whichever address.
func checkAddress(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connecting to %s: %w", address, err)
	}
	ip := at.Addr().Unmap().WithZone("")
	if !public(ip) {
		return refused(ip.String())
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("looking up this host's addresses: %w", err)
	}
	for _, a := range own {
		if prefix, err := netip.ParsePrefix(a.String()); err == nil && prefix.Addr().Unmap().WithZone("") == ip {
			return refused(ip.String())
		}
	}
	return nil
}

// special are the networks that are not the public internet, beyond those that netip knows: this
// network, carriers' inner ones, protocol assignments, documentation, benchmarks, relays that lead to
// an IPv4 address in an IPv6 one, reserved.
var special = func() (list []netip.Prefix) {
	for _, s := range []string{
		"0.0.0.0/8", "100.64.0.0/10", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "240.0.0.0/4",
		"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16", "fec0::/10",
	} {
		list = append(list, netip.MustParsePrefix(s))
	}
	return list
}()

// public tells whether an address is one of the public internet.
func public(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	return ip.IsGlobalUnicast() && !ip.IsPrivate() && !slices.ContainsFunc(special, func(p netip.Prefix) bool { return p.Contains(ip) })
}

// inside tells whether a name plainly is not one of the public internet's.
func inside(host string) bool {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if ip, err := netip.ParseAddr(host); err == nil {
		return !public(ip)
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	// Names that end in a number are an address in a notation of old.
	numeric := last != "" && strings.Trim(last, "0123456789abcdefx") == "" && strings.ContainsAny(last[:1], "0123456789")
	return !strings.Contains(host, ".") || numeric || slices.Contains([]string{"localhost", "local", "internal", "lan", "home", "corp", "intranet", "arpa"}, last)
}
