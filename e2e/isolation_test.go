package e2e

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// What of the network a guest reaches, whatever it sends: its network's DHCP and DNS, on nat the
// outside, and nothing of the host's or of other guests'. The outside is a network namespace, reached
// from the host as another machine would be; nothing leaves this one. What got through is told by who
// listens where it would arrive, on the host's bridge and in another guest.

// The outside host and the host's leg there (TEST-NET-2).
const (
	outside     = "198.51.100.2"
	outsideHost = "198.51.100.1"
	outsidePort = 7070
	guestPort   = 7072
	libvirtPort = 16509
)

// bridged is a network of the appliance's as libvirt tells it.
type bridged struct {
	Bridge struct {
		Name string `xml:"name,attr"`
	} `xml:"bridge"`
	MAC struct {
		Address string `xml:"address,attr"`
	} `xml:"mac"`
	IP struct {
		Address string `xml:"address,attr"`
		Prefix  int    `xml:"prefix,attr"`
		Hosts   []struct {
			MAC string `xml:"mac,attr"`
			IP  string `xml:"ip,attr"`
		} `xml:"dhcp>host"`
	} `xml:"ip"`
}

func network(t testing.TB, kind string) bridged {
	t.Helper()
	var n bridged
	if err := xml.Unmarshal([]byte(virsh(t, "net-dumpxml", prefix+"-"+kind)), &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// subnet of the network.
func (n bridged) subnet() netip.Prefix {
	return netip.PrefixFrom(netip.MustParseAddr(n.IP.Address), n.IP.Prefix).Masked()
}

// guestNet is where a guest is on its network.
type guestNet struct {
	*guest
	network bridged
	card    string // the interface in the guest
	mac     net.HardwareAddr
	ip      netip.Addr
}

func (g *guest) onNetwork(t testing.TB, kind string) guestNet {
	t.Helper()
	n := guestNet{guest: g, network: network(t, kind)}
	var domain struct {
		Devices struct {
			Interface struct {
				MAC struct {
					Address string `xml:"address,attr"`
				} `xml:"mac"`
			} `xml:"interface"`
		} `xml:"devices"`
	}
	if err := xml.Unmarshal([]byte(virsh(t, "dumpxml", g.domain())), &domain); err != nil {
		t.Fatal(err)
	}
	var err error
	if n.mac, err = net.ParseMAC(domain.Devices.Interface.MAC.Address); err != nil {
		t.Fatal(err)
	}
	n.card = strings.TrimSpace(g.sh(t, "cd /sys/class/net && grep -l -i "+n.mac.String()+" */address | cut -d/ -f1"))
	for _, host := range n.network.IP.Hosts {
		if host.MAC == n.mac.String() {
			n.ip = netip.MustParseAddr(host.IP)
		}
	}
	if !n.ip.IsValid() {
		t.Fatalf("no address is reserved for %s: %+v", n.mac, n.network)
	}
	return n
}

// reaches tells which destinations answer the guest.
func (g guestNet) reaches(t testing.TB, destinations []string) []string {
	t.Helper()
	return decode[[]string](t, []byte(g.root(t, probePath+" reach '"+strings.Join(destinations, "' '")+"'")))
}

// told is a program on the host that prints lines.
type told struct {
	mu    sync.Mutex
	lines []string
}

func (l *told) all() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines)
}

// tell runs a program of the probe's as root until the test ends, and returns when it is ready.
func tell(t testing.TB, args ...string) *told {
	t.Helper()
	c := asRoot(context.Background(), args...)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	c.Stderr = &stderr
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	l := &told{}
	ready, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		scanner := bufio.NewScanner(out)
		scanner.Buffer(nil, 1<<20)
		if scanner.Scan() && scanner.Text() == "ready" {
			close(ready)
		}
		for scanner.Scan() {
			l.mu.Lock()
			l.lines = append(l.lines, scanner.Text())
			l.mu.Unlock()
		}
		c.Wait()
	}()
	t.Cleanup(func() {
		asRoot(context.Background(), "kill", strconv.Itoa(c.Process.Pid)).Run()
		<-ended
	})
	select {
	case <-ready:
	case <-ended:
		t.Fatalf("%s: %s", strings.Join(args, " "), stderr.Bytes())
	}
	return l
}

func root(t testing.TB, command string) {
	t.Helper()
	if out, err := asRoot(t.Context(), strings.Fields(command)...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", command, err, out)
	}
}

// namespace makes a machine of its own, with a cable to the host whose end there is link.
func namespace(t testing.TB, name, link string) {
	t.Helper()
	remove := func() {
		for _, command := range []string{"ip netns del " + name, "ip link del " + link} {
			asRoot(context.Background(), strings.Fields(command)...).Run() // it need not be there
		}
	}
	remove()
	t.Cleanup(remove)
	root(t, "ip netns add "+name)
	root(t, "ip link add "+link+" type veth peer name eth0 netns "+name)
	root(t, "ip link set "+link+" up")
	root(t, "ip -n "+name+" link set lo up")
	root(t, "ip -n "+name+" link set eth0 up")
}

// onHost is the probe, to be run on this machine.
func onHost(t testing.TB) string {
	t.Helper()
	if _, err := probeBinary(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(lab.dir, "probe")
}

// minimals makes desktops of the small image at once, one on each of the networks.
func minimals(t testing.TB, networks ...string) []*guest {
	t.Helper()
	needMinimal(t)
	guests := make([]*guest, len(networks))
	for i, network := range networks {
		name := fmt.Sprintf("%s-%d", network, i)
		g, err := lab.create(t.Context(), map[string]any{"name": name, "image": "minimal", "tier": "small", "network": network})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
			defer cancel()
			if r, err := lab.send(ctx, http.MethodDelete, "/v1/desktops/"+g.id, nil); err != nil || r.status/100 != 2 {
				t.Errorf("destroying %s: %v %s", name, err, r)
			}
		})
		g.watch(t)
		guests[i] = g
	}
	for _, g := range guests {
		if err := errors.Join(lab.readied(t.Context(), g.id), g.putProbe(t.Context())); err != nil {
			t.Fatal(err)
		}
	}
	return guests
}

// hostAddresses are all that this machine has, by version.
func hostAddresses(t testing.TB) (v4, v6 []netip.Addr) {
	t.Helper()
	all, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range all {
		address := netip.MustParsePrefix(a.String()).Addr()
		switch {
		case address.IsLoopback(): // is the guest's own, too, unless frames are made by hand
		case address.Is4():
			v4 = append(v4, address)
		case !address.IsLinkLocalUnicast():
			v6 = append(v6, address)
		}
	}
	return v4, v6
}

func freeUDPAndTCP(t testing.TB) int {
	t.Helper()
	for range 100 {
		l, err := net.Listen("tcp", ":0")
		if err != nil {
			t.Fatal(err)
		}
		port := l.Addr().(*net.TCPAddr).Port
		p, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		l.Close()
		if err == nil {
			p.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}

func at(address netip.Addr, port int) string {
	return netip.AddrPortFrom(address, uint16(port)).String()
}

// broadcast is the last address of a subnet.
func broadcast(subnet netip.Prefix) netip.Addr {
	b := subnet.Masked().Addr().As4()
	last := binary.BigEndian.Uint32(b[:]) | (uint32(1)<<(32-subnet.Bits()) - 1)
	binary.BigEndian.PutUint32(b[:], last)
	return netip.AddrFrom4(b)
}

// linkLocal is the IPv6 address that follows from a MAC address.
func linkLocal(mac net.HardwareAddr) string {
	b := [16]byte{0: 0xfe, 1: 0x80, 8: mac[0] ^ 2, 9: mac[1], 10: mac[2], 11: 0xff, 12: 0xfe, 13: mac[3], 14: mac[4], 15: mac[5]}
	return netip.AddrFrom16(b).String()
}

// awaitClosed returns when an address that the host has just been given is closed to a desktop, which it
// is once libvirt has made the filters anew.
func awaitClosed(t *testing.T, g guestNet, address string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	began := time.Now()
	eventually(t, patience, func() error {
		if got := g.reaches(t, []string{"tcp:" + l.Addr().String()}); len(got) > 0 {
			return fmt.Errorf("the desktop reaches %v", got)
		}
		return nil
	})
	t.Logf("%s is closed after %s", address, time.Since(began).Round(100*time.Millisecond))
}

func TestNetworkIsolation(t *testing.T) {
	own(t)
	guests := minimals(t, "nat", "nat", "isolated")
	left, right, isolated := guests[0].onNetwork(t, "nat"), guests[1].onNetwork(t, "nat"), guests[2].onNetwork(t, "isolated")
	nat := left.network
	probe := onHost(t)

	// The outside, which knows the way back to the desktops of both networks.
	const away, cable = prefix + "-outside", "bt-outside"
	namespace(t, away, cable)
	root(t, "ip addr add "+outsideHost+"/30 dev "+cable)
	root(t, "ip -n "+away+" addr add "+outside+"/30 dev eth0")
	root(t, "ip -n "+away+" route add default via "+outsideHost)
	outsider := tell(t, "ip", "netns", "exec", away, probe, "listen", "-port", strconv.Itoa(outsidePort))

	// A machine on the bridge of the isolated network, without any isolation of its own.
	const peer, plug = prefix + "-peer", "bt-peer"
	peerIP := isolated.network.subnet().Addr().Next().Next()
	for peerIP == isolated.ip {
		peerIP = peerIP.Next()
	}
	namespace(t, peer, plug)
	root(t, "ip link set "+plug+" master "+isolated.network.Bridge.Name)
	root(t, fmt.Sprintf("ip -n %s addr add %s/%d dev eth0", peer, peerIP, isolated.network.IP.Prefix))
	neighbour := tell(t, "ip", "netns", "exec", peer, probe, "listen", "-port", strconv.Itoa(guestPort))

	// A service at every address of the host's, over IPv6 on the bridges, too, where libvirt turns that off.
	for i, n := range []bridged{nat, isolated.network} {
		root(t, "sysctl -q -w net.ipv6.conf."+n.Bridge.Name+".disable_ipv6=0")
		root(t, fmt.Sprintf("ip addr add fd00:b0:%d::1/64 dev %s nodad", i, n.Bridge.Name))
	}
	servicePort := freeUDPAndTCP(t)
	service := tell(t, probe, "listen", "-port", strconv.Itoa(servicePort))
	if l, err := net.Listen("tcp", fmt.Sprintf(":%d", libvirtPort)); err == nil { // or the real one listens
		defer l.Close()
	}
	api := strings.TrimPrefix(lab.url, "http://127.0.0.1:")
	v4, v6 := hostAddresses(t)
	t.Logf("the host has %v and %v; the desktops are %s, %s and %s", v4, v6, left.ip, right.ip, isolated.ip)

	// What the host offers is open to any other neighbour of its.
	var offered []string
	for _, address := range v4 {
		offered = append(offered, "tcp:"+at(address, servicePort))
	}
	offered = append(offered, "udp:"+at(netip.MustParseAddr(outsideHost), servicePort))
	out, err := asRoot(t.Context(), append([]string{"ip", "netns", "exec", away, probe, "reach"}, offered...)...).Output()
	if got := decode[[]string](t, out); err != nil || len(got) != len(offered) {
		t.Fatalf("another machine reaches %v of %v (%v): the test proves nothing", got, offered, err)
	}

	// Who comes to the second desktop.
	right.background(t, "sh -c 'exec "+probePath+" listen -port "+strconv.Itoa(guestPort)+" >/tmp/came'")
	eventually(t, patience, func() error {
		_, err := right.trySh(t.Context(), "", "grep -q ready /tmp/came")
		return err
	})

	awaitClosed(t, left, outsideHost)
	for _, g := range []guestNet{left, isolated} {
		kind := map[string]string{nat.Bridge.Name: "nat", isolated.network.Bridge.Name: "isolated"}[g.network.Bridge.Name]
		t.Run(kind, func(t *testing.T) {
			gateway, bridge := g.network.IP.Address, g.network.MAC.Address
			if got := strings.Fields(g.sh(t, "ip -4 -o addr show dev "+g.card+" | tr -s ' ' | cut -d' ' -f4")); !slices.Equal(got, []string{fmt.Sprintf("%s/%d", g.ip, g.network.IP.Prefix)}) {
				t.Errorf("it has got %v by DHCP, and %s is its own", got, g.ip)
			}
			outward := []string{fmt.Sprintf("tcp:%s:%d", outside, outsidePort), fmt.Sprintf("udp:%s:%d", outside, outsidePort), "icmp:" + outside}
			allowed := []string{"dns:" + gateway + ":53", "tcp:" + gateway + ":53"}
			closed := []string{fmt.Sprintf("tcp:%s:%d", peerIP, guestPort), fmt.Sprintf("udp:%s:%d", peerIP, guestPort), "icmp:" + peerIP.String()}
			if kind == "nat" {
				allowed = append(allowed, outward...)
			} else {
				closed = append(closed, outward...)
				g.root(t, "ip route add default via "+gateway)
				defer g.root(t, "ip route del default via "+gateway)
			}
			// Ways that the guest's administrator makes: by the host's MAC address to a neighbour, and for IPv6.
			v6Gateway := map[string]string{"nat": "fd00:b0:0::1", "isolated": "fd00:b0:1::1"}[kind]
			g.root(t, fmt.Sprintf(`ip -6 addr add %[1]s9/64 dev %[2]s nodad; ip -6 neigh replace %[1]s lladdr %[3]s dev %[2]s nud permanent
				ip -6 route replace default via %[1]s dev %[2]s`, v6Gateway, g.card, bridge))
			defer g.root(t, fmt.Sprintf("ip -6 route del default via %[1]s; ip -6 addr del %[1]s9/64 dev %[2]s; true", v6Gateway, g.card))
			bridgeMAC, err := net.ParseMAC(bridge)
			if err != nil {
				t.Fatal(err)
			}
			for address, mac := range map[string]net.HardwareAddr{linkLocal(bridgeMAC): bridgeMAC, linkLocal(right.mac): right.mac} {
				g.root(t, fmt.Sprintf("ip -6 neigh replace %s lladdr %s dev %s nud permanent", address, mac, g.card))
				closed = append(closed, "icmp:"+address+"%"+g.card,
					fmt.Sprintf("tcp:[%s%%%s]:%d", address, g.card, servicePort), fmt.Sprintf("udp:[%s%%%s]:%d", address, g.card, guestPort))
			}
			for _, address := range slices.Concat(v4, v6) {
				for _, port := range []string{strconv.Itoa(servicePort), "22", strconv.Itoa(libvirtPort), api} {
					closed = append(closed, "tcp:"+net.JoinHostPort(address.String(), port))
				}
				closed = append(closed, "udp:"+net.JoinHostPort(address.String(), strconv.Itoa(servicePort)), "icmp:"+address.String())
			}
			for _, many := range []string{"255.255.255.255", broadcast(g.network.subnet()).String(), "198.51.100.3", "224.0.0.1", "169.254.169.254"} {
				closed = append(closed, fmt.Sprintf("udp:%s:%d", many, servicePort))
			}
			for _, other := range []guestNet{left, right, isolated} {
				if other.id != g.id {
					closed = append(closed, fmt.Sprintf("tcp:%s:%d", other.ip, guestPort), fmt.Sprintf("udp:%s:%d", other.ip, guestPort), "icmp:"+other.ip.String())
				}
			}
			slices.Sort(allowed)
			got := g.reaches(t, slices.Concat(allowed, closed))
			slices.Sort(got)
			if !slices.Equal(got, allowed) {
				t.Errorf("it reaches\n%s\nand may reach\n%s", strings.Join(got, "\n"), strings.Join(allowed, "\n"))
			}
			neighbours := []netip.Addr{right.ip}
			if kind == "isolated" {
				neighbours = []netip.Addr{peerIP}
			}
			for _, other := range neighbours {
				g.root(t, fmt.Sprintf("ip neigh replace %s lladdr %s dev %s nud permanent", other, bridge, g.card))
				if got := g.reaches(t, []string{fmt.Sprintf("tcp:%s:%d", other, guestPort), fmt.Sprintf("udp:%s:%d", other, guestPort), "icmp:" + other.String()}); len(got) > 0 {
					t.Errorf("by way of the host it reaches %v", got)
				}
				g.root(t, fmt.Sprintf("ip neigh del %s dev %s", other, g.card))
			}
			t.Logf("%d destinations answer, %d do not", len(allowed), len(closed))
		})
	}
	for _, who := range service.all() {
		if !strings.Contains(who, outside+"]:") && !strings.Contains(who, outside+":") {
			t.Errorf("to the host's service came %s", who)
		}
	}
	if came := neighbour.all(); len(came) > 0 {
		t.Errorf("to the neighbour on the isolated network came %v", came)
	}
	for _, who := range outsider.all() {
		if !strings.Contains(who, " "+outsideHost+":") {
			t.Errorf("to the outside came %s, which is not a desktop behind the host's address", who)
		}
	}
	t.Run("made by hand", func(t *testing.T) { testForgeries(t, left, right, probe) })

	// What came to the second desktop, once what the host sends has come.
	conn, err := net.Dial("udp", at(right.ip, guestPort))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	eventually(t, patience, func() error {
		if _, err := conn.Write([]byte("the host")); err != nil {
			return err
		}
		if came := right.sh(t, "cat /tmp/came"); !strings.Contains(came, "udp "+nat.IP.Address) {
			return fmt.Errorf("to the second desktop came only %q", came)
		}
		return nil
	})
	for line := range strings.Lines(right.sh(t, "grep -v ready /tmp/came")) {
		if !strings.HasPrefix(strings.ReplaceAll(line, "[::ffff:", ""), "udp "+nat.IP.Address) {
			t.Errorf("to the second desktop came %s", line)
		}
	}
}

// testForgeries sends frames that no honest guest sends, and looks whether any arrives, on the host's
// bridge or in another guest.
func testForgeries(t *testing.T, left, right guestNet, probe string) {
	const mark, end = "forged:", ";"
	bridge := must(net.ParseMAC(left.network.MAC.Address))
	gateway := netip.MustParseAddr(left.network.IP.Address)
	stranger := net.HardwareAddr{0x52, 0x54, 0x00, 0xee, 0xee, 0xee}
	everyone := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	zero, all := netip.MustParseAddr("0.0.0.0"), netip.MustParseAddr("255.255.255.255")
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	honest := func(name string) []byte {
		return ethernet(bridge, left.mac, 0x0800, ipv4(left.ip, gateway, 17, 0, udp(999, 53, name)))
	}
	type forgery struct {
		name  string
		frame func(text string) []byte
	}
	to := func(mac net.HardwareAddr, from, to netip.Addr, sourcePort, port uint16) func(string) []byte {
		return func(text string) []byte {
			return ethernet(mac, left.mac, 0x0800, ipv4(from, to, 17, 0, udp(sourcePort, port, text)))
		}
	}
	forgeries := []forgery{
		{"another's MAC address", func(text string) []byte {
			return ethernet(bridge, right.mac, 0x0800, ipv4(left.ip, gateway, 17, 0, udp(999, 53, text)))
		}},
		{"nobody's MAC address, for DHCP", func(text string) []byte {
			return ethernet(everyone, stranger, 0x0800, ipv4(zero, all, 17, 0, udp(68, 67, text)))
		}},
		{"another's address", to(bridge, right.ip, gateway, 999, 53)},
		{"the gateway's address", to(bridge, gateway, gateway, 999, 53)},
		{"an address from elsewhere", to(bridge, netip.MustParseAddr("203.0.113.9"), netip.MustParseAddr(outside), 999, 9)},
		{"no address, for DNS", to(bridge, zero, gateway, 999, 53)},
		{"a DHCP server", to(everyone, left.ip, all, 67, 68)},
		{"a broadcast", to(everyone, left.ip, all, 999, 9)},
		{"a multicast", to(net.HardwareAddr{1, 0, 0x5e, 0, 0, 0xfb}, left.ip, netip.MustParseAddr("224.0.0.251"), 5353, 5353)},
		{"the host's loopback", to(bridge, left.ip, netip.MustParseAddr("127.0.0.1"), 999, 9)},
		{"the cloud's metadata", to(bridge, left.ip, netip.MustParseAddr("169.254.169.254"), 999, 80)},
		{"another desktop", to(right.mac, left.ip, right.ip, 999, guestPort)},
		{"another desktop by way of the host", to(bridge, left.ip, right.ip, 999, guestPort)},
		{"TCP's DNS port over UDP's neighbour", to(bridge, left.ip, gateway, 53, 54)},
		{"a later fragment", func(text string) []byte {
			return ethernet(bridge, left.mac, 0x0800, ipv4(left.ip, gateway, 17, 4, udp(999, 53, text)))
		}},
		{"another protocol", func(text string) []byte {
			return ethernet(bridge, left.mac, 0x0800, ipv4(left.ip, gateway, 47, 0, []byte(text)))
		}},
		{"a tag around", func(text string) []byte {
			inner := ethernet(bridge, left.mac, 0x0800, ipv4(left.ip, gateway, 17, 0, udp(999, 53, text)))
			return slices.Concat(inner[:12], []byte{0x81, 0, 0, 1}, inner[12:])
		}},
		{"IPv6 to everyone", func(text string) []byte {
			return ethernet(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, left.mac, 0x86dd, ipv6(text))
		}},
		{"another kind of frame", func(text string) []byte { return ethernet(everyone, left.mac, 0x88b5, []byte(text)) }},
		{"a spanning tree", func(text string) []byte {
			return ethernet(net.HardwareAddr{1, 0x80, 0xc2, 0, 0, 0}, left.mac, 60, []byte("\x42\x42\x03\x00\x00\x00\x00\x00"+text))
		}},
		{"ARP for the gateway's address", arp(everyone, left.mac, left.mac, gateway)},
		{"ARP for another's address", arp(everyone, left.mac, left.mac, right.ip)},
		{"ARP with another MAC address inside", arp(everyone, left.mac, right.mac, left.ip)},
		{"ARP from another MAC address", arp(everyone, right.mac, right.mac, right.ip)},
	}
	for _, a := range own {
		if p := netip.MustParsePrefix(a.String()); p.Addr().Is4() {
			forgeries = append(forgeries, forgery{"the host at " + p.Addr().String(), to(bridge, left.ip, p.Addr(), 999, 9)})
			if p.Bits() < 31 {
				last := broadcast(p)
				forgeries = append(forgeries, forgery{"everyone at " + last.String(), to(bridge, left.ip, last, 999, 9)})
			}
		}
	}

	host := tell(t, probe, "sniff", "-i", left.network.Bridge.Name)
	right.root(t, "setsid "+probePath+" sniff -i "+right.card+" >/tmp/sniffed 2>&1 </dev/null & echo $! >/tmp/sniff.pid")
	defer right.root(t, "kill $(cat /tmp/sniff.pid)")
	eventually(t, patience, func() error {
		_, err := right.trySh(t.Context(), "", "grep -q ready /tmp/sniffed")
		return err
	})
	var frames strings.Builder
	fmt.Fprintln(&frames, hex.EncodeToString(honest("honest:first")))
	for _, f := range forgeries {
		fmt.Fprintln(&frames, hex.EncodeToString(f.frame(mark+f.name+end)))
	}
	// A desktop that asks for addresses under more names than it has gets none.
	for i := range 20 {
		fmt.Fprintln(&frames, hex.EncodeToString(ethernet(everyone, left.mac, 0x0800, ipv4(zero, all, 17, 0, udp(68, 67, discover(byte(i)))))))
	}
	fmt.Fprintln(&frames, hex.EncodeToString(honest("honest:last")))
	if r := left.exec(t, map[string]any{"command": probePath + " send -i " + left.card, "stdin": frames.String(), "user": "root"}); r.ExitCode != 0 {
		t.Fatalf("sending: %s", r.Stderr)
	}
	eventually(t, patience, func() error {
		for _, want := range []string{"honest:first", "honest:last"} {
			if !slices.ContainsFunc(host.all(), func(line string) bool { return strings.Contains(line, hex.EncodeToString([]byte(want))) }) {
				return fmt.Errorf("%s has not arrived", want)
			}
		}
		return nil
	})
	conn, err := net.Dial("udp", at(right.ip, 9))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var seen string
	eventually(t, patience, func() error {
		if _, err := conn.Write([]byte("from the host")); err != nil {
			return err
		}
		seen = right.sh(t, "cat /tmp/sniffed")
		if !strings.Contains(seen, hex.EncodeToString([]byte("from the host"))) {
			return errors.New("the second desktop sees nothing of the host's")
		}
		return nil
	})
	for where, lines := range map[string][]string{"the host": host.all(), "the second desktop": strings.Fields(seen)} {
		count := 0
		for _, line := range lines {
			frame, err := hex.DecodeString(line)
			if err != nil || len(frame) < 14 {
				continue
			}
			count++
			if _, name, forged := strings.Cut(string(frame), mark); forged {
				name, _, _ = strings.Cut(name, end)
				t.Errorf("%s got: %s", where, name)
			}
			source, kind := net.HardwareAddr(frame[6:12]).String(), binary.BigEndian.Uint16(frame[12:])
			switch {
			case kind != 0x0800 && kind != 0x0806:
				t.Errorf("%s got a frame of type %#x from %s", where, kind, source)
			case where == "the host" && source != left.mac.String() && source != right.mac.String(),
				where != "the host" && source != bridge.String():
				t.Errorf("%s got a frame from %s", where, source)
			}
		}
		t.Logf("%s got %d frames, and was sent %d forged ones", where, count, len(forgeries))
	}
	for line := range strings.Lines(virsh(t, "net-dhcp-leases", prefix+"-nat")) {
		if !strings.Contains(line, left.mac.String()) && !strings.Contains(line, right.mac.String()) {
			t.Errorf("somebody has got an address: %s", line)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func ethernet(to, from net.HardwareAddr, kind uint16, payload []byte) []byte {
	frame := slices.Concat(to, from, binary.BigEndian.AppendUint16(nil, kind), payload)
	for len(frame) < 60 {
		frame = append(frame, 0)
	}
	return frame
}

// ipv4 is a packet, or with an offset (in units of eight bytes) a part of one.
func ipv4(from, to netip.Addr, protocol byte, offset uint16, payload []byte) []byte {
	h := make([]byte, 20)
	h[0], h[8], h[9] = 0x45, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)+len(payload)))
	binary.BigEndian.PutUint16(h[6:], offset)
	copy(h[12:], from.AsSlice())
	copy(h[16:], to.AsSlice())
	var sum uint32
	for i := 0; i < len(h); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(h[i:]))
	}
	for sum>>16 != 0 {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(h[10:], ^uint16(sum))
	return append(h, payload...)
}

// ipv6 is a datagram to all nodes.
func ipv6(text string) []byte {
	payload := udp(999, 9, text)
	h := make([]byte, 40)
	h[0], h[6], h[7] = 0x60, 17, 255
	binary.BigEndian.PutUint16(h[4:], uint16(len(payload)))
	copy(h[8:], netip.MustParseAddr("fe80::bad").AsSlice())
	copy(h[24:], netip.MustParseAddr("ff02::1").AsSlice())
	return append(h, payload...)
}

// udp leaves the checksum out, which IPv4 allows.
func udp(from, to uint16, text string) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(text)))
	return append(append(b, 0, 0), text...)
}

// arp says that an address is at a MAC address.
func arp(to, from, claimed net.HardwareAddr, address netip.Addr) func(string) []byte {
	return func(text string) []byte {
		return ethernet(to, from, 0x0806, slices.Concat([]byte{0, 1, 8, 0, 6, 4, 0, 2}, claimed, address.AsSlice(), to, address.AsSlice(), []byte(text)))
	}
}

// discover is a DHCP client's first message, of one that the network does not know.
func discover(n byte) string {
	b := make([]byte, 236)
	b[0], b[1], b[2], b[7], b[10] = 1, 1, 6, n, 0x80
	copy(b[28:], []byte{0x52, 0x54, 0x00, 0xdd, 0xdd, n})
	return string(b) + "\x63\x82\x53\x63\x35\x01\x01\xff"
}
