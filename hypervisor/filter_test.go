package hypervisor

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

func prefixes(list ...string) []netip.Prefix {
	var all []netip.Prefix
	for _, text := range list {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestFilterXML(t *testing.T) {
	hosts := prefixes("192.0.2.2/32", "192.0.2.255/32", "127.0.0.0/8", "192.168.200.1/32", "203.0.113.7/32", "192.0.2.2/32")
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
		t.Run(network, func(t *testing.T) {
			document, err := filterXML("x-"+network, network, netip.MustParsePrefix("192.168.200.0/24"), hosts, false)
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", "filter-"+network+".xml")
			if *update {
				if err := os.WriteFile(golden, []byte(document+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if document != strings.TrimSuffix(string(want), "\n") {
				t.Errorf("the filter is\n%s\nwant\n%s", document, want)
			}
			again, err := filterXML("x-"+network, network, netip.MustParsePrefix("192.168.200.0/24"), hosts, true)
			const last = `action="drop" direction="inout"`
			if err != nil || again == document || strings.Count(again, last) != strings.Count(document, last)+1 {
				t.Errorf("once more it is\n%s\n%v", again, err)
			}
		})
	}
}

func TestClosedTo(t *testing.T) {
	subnet := netip.MustParsePrefix("192.168.200.0/24")
	always := prefixes("192.168.200.0/24", "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3")
	for _, test := range []struct {
		name  string
		hosts []netip.Prefix
		want  []netip.Prefix
	}{
		{"nothing", nil, nil},
		{"what is closed anyway", prefixes("127.0.0.1/32", "192.168.200.1/32", "169.254.1.1/32", "255.255.255.255/32"), nil},
		{"in order and once", prefixes("203.0.113.7/32", "192.0.2.2/32", "203.0.113.7/32"), prefixes("192.0.2.2/32", "203.0.113.7/32")},
		{"one within another", prefixes("10.1.2.3/32", "10.0.0.0/8"), prefixes("10.0.0.0/8")},
		{"wider than the subnet", prefixes("192.168.0.0/16"), prefixes("192.168.0.0/16")},
	} {
		if got, want := closedTo(subnet, test.hosts), append(slices.Clone(always), test.want...); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", test.name, got, want)
		}
	}
}

// What the kernel says is the host's own has at least the addresses of its interfaces.
func TestOwnAddresses(t *testing.T) {
	own, err := ownAddresses()
	if err != nil {
		t.Fatal(err)
	}
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		address := netip.MustParsePrefix(a.String()).Addr()
		if address.Is4() && !slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(address) }) {
			t.Errorf("%s is not among %v", address, own)
		}
	}
	everybody := netip.MustParseAddr("224.0.0.1") // a group's, which is no host's own
	if slices.ContainsFunc(own, func(p netip.Prefix) bool { return p.Contains(everybody) }) {
		t.Errorf("%v has an address that nobody has", own)
	}
}

func TestPickAddress(t *testing.T) {
	subnet := netip.MustParsePrefix("10.0.0.0/29")
	taken := map[netip.Addr]bool{}
	for range 5 { // .2 to .6: the first is the gateway's, the last the broadcast
		address, ok := pickAddress(subnet, taken, "52:54:00:01:02:03")
		if !ok || taken[address] || !subnet.Contains(address) || address.As4()[3] < 2 || address.As4()[3] > 6 {
			t.Fatalf("%s (%v) is picked beside %v", address, ok, taken)
		}
		taken[address] = true
	}
	if address, ok := pickAddress(subnet, taken, "52:54:00:01:02:03"); ok {
		t.Errorf("%s is picked where none is free", address)
	}
	one, _ := pickAddress(subnet, nil, "52:54:00:01:02:03")
	if again, _ := pickAddress(subnet, nil, "52:54:00:01:02:03"); again != one {
		t.Errorf("%s, then %s", one, again)
	}
}

// networkNow reads one of the host's networks.
func networkNow(t *testing.T, h *Host, c *libvirt.Connect, network string, flags libvirt.NetworkXMLFlags) libvirtxml.Network {
	t.Helper()
	n, err := c.LookupNetworkByName(h.opts.networkName(network))
	if err != nil {
		t.Fatal(err)
	}
	defer n.Free()
	document, err := n.GetXMLDesc(flags)
	if err != nil {
		t.Fatal(err)
	}
	var definition libvirtxml.Network
	if err := definition.Unmarshal(document); err != nil {
		t.Fatal(err)
	}
	return definition
}

func reserved(n libvirtxml.Network) map[string]string {
	found := map[string]string{}
	for _, ip := range n.IPs {
		if ip.DHCP != nil {
			for _, host := range ip.DHCP.Hosts {
				found[host.MAC] = host.IP
			}
		}
	}
	return found
}

// A desktop keeps its address until it is removed, and nobody else is given it.
func TestAddresses(t *testing.T) {
	h := openTest(t, testOptions(t))
	c, giveBack := borrow(t, h)
	defer giveBack()
	spec := func(id string) desktop.Spec { return desktop.Spec{ID: id, Network: desktop.NetworkIsolated} }
	seen := map[netip.Addr]string{}
	for _, id := range []string{"one", "two", "three", "one"} {
		address, err := h.ensureAddress(c, spec(id))
		if err != nil {
			t.Fatal(err)
		}
		if other, taken := seen[address]; taken && other != id {
			t.Errorf("%s has the address of %s", id, other)
		}
		seen[address] = id
	}
	if len(seen) != 3 {
		t.Errorf("three desktops have %v", seen)
	}
	for _, flags := range []libvirt.NetworkXMLFlags{0, libvirt.NETWORK_XML_INACTIVE} {
		if now := reserved(networkNow(t, h, c, desktop.NetworkIsolated, flags)); len(now) != 3 {
			t.Errorf("reserved are %v", now)
		}
	}
	for _, id := range []string{"two", "two", "never"} {
		if err := h.releaseAddress(c, id); err != nil {
			t.Error(err)
		}
	}
	if now := reserved(networkNow(t, h, c, desktop.NetworkIsolated, 0)); len(now) != 2 || now[machineMAC("two")] != "" {
		t.Errorf("reserved are %v", now)
	}
}

// A network that gives addresses to whoever asks, as former versions made them, no longer does.
func TestFormerNetwork(t *testing.T) {
	h := openTest(t, testOptions(t))
	c, giveBack := borrow(t, h)
	defer giveBack()
	if _, err := h.ensureAddress(c, desktop.Spec{ID: "one", Network: desktop.NetworkIsolated}); err != nil {
		t.Fatal(err)
	}
	definition := networkNow(t, h, c, desktop.NetworkIsolated, 0)
	n, err := c.LookupNetworkByName(definition.Name)
	if err != nil {
		t.Fatal(err)
	}
	defer n.Free()
	if err := n.Destroy(); err != nil {
		t.Fatal(err)
	}
	subnet := networkSubnets(must(definition.Marshal()))[0]
	first, last := hostRange(subnet)
	definition.IPs[0].DHCP = &libvirtxml.NetworkDHCP{Ranges: []libvirtxml.NetworkDHCPRange{{Start: first.Next().String(), End: last.String()}}}
	former, err := c.NetworkDefineXML(must(definition.Marshal()))
	if err != nil {
		t.Fatal(err)
	}
	defer former.Free()
	address, err := h.ensureAddress(c, desktop.Spec{ID: "two", Network: desktop.NetworkIsolated})
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range []libvirt.NetworkXMLFlags{0, libvirt.NETWORK_XML_INACTIVE} {
		now := networkNow(t, h, c, desktop.NetworkIsolated, flags)
		if ranges := now.IPs[0].DHCP.Ranges; len(ranges) != 0 {
			t.Errorf("it still has %v", ranges)
		}
		if got := reserved(now)[machineMAC("two")]; got != address.String() {
			t.Errorf("reserved is %q, not %s", got, address)
		}
	}
}

func must(document string, err error) string {
	if err != nil {
		panic(err)
	}
	return document
}

// A machine that runs is filtered by the kernel, also at an address that the host gets later.
func TestFilterOfRunningMachine(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to ask the kernel for its filters and to give the host an address")
	}
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	var tap, address string
	domain(t, h, spec.ID, func(d *libvirt.Domain) error {
		document, err := d.GetXMLDesc(0)
		if err != nil {
			return err
		}
		var now libvirtxml.Domain
		if err := now.Unmarshal(document); err != nil {
			return err
		}
		tap, address = now.Devices.Interfaces[0].Target.Dev, now.Devices.Interfaces[0].FilterRef.Parameters[0].Value
		return nil
	})
	// ebtables fails now and then when others change its tables as it reads them.
	var now string
	rules := func(done func() bool) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
			output, err := exec.CommandContext(ctx, "ebtables", "-t", "nat", "-L", "libvirt-I-"+tap).CombinedOutput()
			if now = string(output); err == nil && done() {
				return
			}
			if time.Now().After(end) {
				t.Fatalf("ebtables: %v: %s", err, output)
			}
		}
	}
	rules(func() bool { return true })
	lines := strings.Split(strings.TrimSpace(now), "\n")
	if first := "-s ! " + machineMAC(spec.ID) + " -j DROP"; !strings.Contains(now, first) {
		t.Errorf("%q is not in\n%s", first, now)
	}
	if want := "-p IPv4 --ip-src " + address + " -j ACCEPT"; strings.TrimSpace(lines[len(lines)-2]) != want {
		t.Errorf("the rule before the last is not %q in\n%s", want, now)
	}
	if last := strings.TrimSpace(lines[len(lines)-1]); last != "-j DROP" {
		t.Errorf("the last rule is %q in\n%s", last, now)
	}

	const late = "198.51.100.77"
	rule := "--ip-dst " + late + " -j DROP"
	if strings.Contains(now, rule) {
		t.Fatalf("the host has %s already", late)
	}
	if output, err := exec.CommandContext(ctx, "ip", "addr", "add", late+"/32", "dev", "lo").CombinedOutput(); err != nil {
		t.Fatalf("ip addr: %v: %s", err, output)
	}
	defer exec.Command("ip", "addr", "del", late+"/32", "dev", "lo").Run()
	rules(func() bool { return strings.Contains(now, rule) })

	// As when libvirt fails to put the new rules in the place of the old ones, of which it tells nobody.
	took := false
	rules(func() bool {
		if !took { // ebtables fails now and then here, too
			took = exec.CommandContext(ctx, "ebtables", "-t", "nat", "-D", "libvirt-I-"+tap, "-p", "IPv4", "--ip-dst", late, "-j", "DROP").Run() == nil
			return false
		}
		return strings.Contains(now, rule)
	})
	if err := h.Remove(ctx, spec.ID); err != nil {
		t.Fatal("remove:", err)
	}
	c, giveBack := borrow(t, h)
	defer giveBack()
	if left := reserved(networkNow(t, h, c, desktop.NetworkNAT, 0)); len(left) != 0 {
		t.Errorf("reserved are still %v", left)
	}
}

// The filter holds for any card on the bridge: here for that of a network namespace, which sends what
// a guest might. The end-to-end tests have a real guest do the same and more.
func TestWhatAGuestReaches(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make network namespaces")
	}
	ctx := testContext(t)
	h := openTest(t, testOptions(t))
	c, giveBack := borrow(t, h)
	defer giveBack()
	probe := filepath.Join(t.TempDir(), "probe")
	if output, err := exec.CommandContext(ctx, "go", "build", "-o", probe, "../e2e/probe").CombinedOutput(); err != nil {
		t.Fatalf("build the probe: %v: %s", err, output)
	}
	ip := func(command string) {
		t.Helper()
		if output, err := exec.CommandContext(ctx, "ip", strings.Fields(command)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, output)
		}
	}
	// plug makes a namespace with a cable to this machine.
	plug := func(name string) {
		t.Helper()
		remove := func() {
			exec.Command("ip", "netns", "del", name).Run() // it need not be there
			exec.Command("ip", "link", "del", name).Run()
		}
		remove()
		t.Cleanup(remove)
		ip("netns add " + name)
		ip("link add " + name + " type veth peer name eth0 netns " + name)
		ip("link set " + name + " up")
		ip("-n " + name + " link set eth0 up")
	}
	const outside, outsideHost = "198.51.100.6", "198.51.100.5" // of TEST-NET-2
	plug("hyp-outside")
	ip("addr add " + outsideHost + "/30 dev hyp-outside")
	ip("-n hyp-outside addr add " + outside + "/30 dev eth0")
	ip("-n hyp-outside route add default via " + outsideHost)
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	reach := func(from string, destinations ...string) []string {
		t.Helper()
		output, err := exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", from, probe, "reach"}, destinations...)...).Output()
		if err != nil {
			t.Fatalf("reach: %v: %s", err, output)
		}
		var reached []string
		if err := json.Unmarshal(output, &reached); err != nil {
			t.Fatal(err)
		}
		slices.Sort(reached)
		return reached
	}
	own, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	if got := reach("hyp-outside", "tcp:"+outsideHost+":"+port, "icmp:"+outsideHost); len(got) != 2 {
		t.Fatalf("another machine reaches only %v of this one: the test proves nothing", got)
	}
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
		t.Run(network, func(t *testing.T) {
			var addresses [2]netip.Addr
			names := [2]string{"hyp-one", "hyp-two"}
			for i, name := range names {
				if addresses[i], err = h.ensureAddress(c, desktop.Spec{ID: name, Network: network}); err != nil {
					t.Fatal(err)
				}
			}
			now := networkNow(t, h, c, network, 0)
			gateway := now.IPs[0].Address
			for i, name := range names {
				plug(name)
				ip("-n " + name + " link set eth0 address " + machineMAC(name))
				ip(fmt.Sprintf("-n %s addr add %s/%d dev eth0", name, addresses[i], now.IPs[0].Prefix))
				ip("-n " + name + " route add default via " + gateway)
				ip("link set " + name + " master " + now.Bridge.Name)
				binding := libvirtxml.NWFilterBinding{
					Owner:   &libvirtxml.NWFilterBindingOwner{Name: name, UUID: formatUUID(machineUUID(name))},
					PortDev: &libvirtxml.NWFilterBindingPortDev{Name: name},
					MAC:     &libvirtxml.NWFilterBindingMAC{Address: machineMAC(name)},
					FilterRef: &libvirtxml.NWFilterBindingFilterRef{Filter: h.opts.networkName(network),
						Parameters: []libvirtxml.NWFilterBindingFilterParam{{Name: "IP", Value: addresses[i].String()}}},
				}
				bound, err := c.NWFilterBindingCreateXML(must(binding.Marshal()), 0)
				if err != nil {
					t.Fatal(err)
				}
				defer bound.Free()
				defer bound.Delete()
			}
			allowed := []string{"dns:" + gateway + ":53", "tcp:" + gateway + ":53"}
			if network == desktop.NetworkNAT {
				allowed = append(allowed, "icmp:"+outside)
			}
			closed := []string{"icmp:" + outside, "icmp:" + addresses[1].String()}
			for _, a := range own {
				if address := netip.MustParsePrefix(a.String()).Addr(); address.Is4() && !address.IsLoopback() {
					closed = append(closed, "icmp:"+address.String(), "tcp:"+address.String()+":"+port)
				}
			}
			closed = append(closed, "icmp:"+gateway, "tcp:"+gateway+":"+port)
			closed = slices.DeleteFunc(closed, func(d string) bool { return slices.Contains(allowed, d) })
			slices.Sort(allowed)
			if got := reach("hyp-one", slices.Concat(allowed, closed)...); !slices.Equal(got, allowed) {
				t.Errorf("reached are\n%v\nallowed are\n%v\nof\n%v", got, allowed, closed)
			}
			// By way of the host, whose routes lead to the other.
			ip("-n hyp-one neigh replace " + addresses[1].String() + " lladdr " + now.MAC.Address + " dev eth0 nud permanent")
			if got := reach("hyp-one", "icmp:"+addresses[1].String()); len(got) > 0 {
				t.Errorf("by way of the host it reaches %v", got)
			}
			// Under another's address, and another's name.
			ip(fmt.Sprintf("-n hyp-one addr replace %s/%d dev eth0", addresses[1], now.IPs[0].Prefix))
			ip("-n hyp-one addr del " + fmt.Sprintf("%s/%d", addresses[0], now.IPs[0].Prefix) + " dev eth0")
			if got := reach("hyp-one", allowed...); len(got) > 0 {
				t.Errorf("with another's address it reaches %v", got)
			}
		})
	}
}
