package hypervisor

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"bureau/desktop"
)

func TestChooseSubnet(t *testing.T) {
	for _, test := range []struct {
		taken []string
		want  string
	}{
		{nil, "192.168.200.0/24"},
		{[]string{"192.168.200.0/24"}, "192.168.201.0/24"},
		{[]string{"192.168.200.128/25", "192.168.201.7/32"}, "192.168.202.0/24"},
		{[]string{"192.168.0.0/16"}, "10.213.0.0/24"},
		{[]string{"192.168.0.0/16", "10.0.0.0/8"}, "172.30.0.0/24"},
		{[]string{"192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12"}, ""},
	} {
		var taken []netip.Prefix
		for _, text := range test.taken {
			taken = append(taken, netip.MustParsePrefix(text))
		}
		got, err := chooseSubnet(taken)
		if test.want == "" {
			wantCode(t, err, desktop.Exhausted)
		} else if err != nil || got.String() != test.want {
			t.Errorf("beside %v: %v, %v; want %s", test.taken, got, err, test.want)
		}
	}
}

func TestParseRoutes(t *testing.T) {
	const table = `Iface	Destination	Gateway 	Flags	RefCnt	Use	Metric	Mask		MTU	Window	IRTT
eth0	00000000	010200C0	0003	0	0	0	00000000	0	0	0
eth0	000200C0	00000000	0001	0	0	0	00FFFFFF	0	0	0
tun0	0000000A	00000000	0001	0	0	0	000000FF	0	0	0
bad	line
`
	want := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("10.0.0.0/8")}
	if got := parseRoutes(table); !slices.Equal(got, want) {
		t.Errorf("routes are %v, want %v", got, want)
	}
}

func TestNetworkXML(t *testing.T) {
	subnet := netip.MustParsePrefix("10.213.4.0/22")
	nat, err := networkXML("x-nat", "x-nat", desktop.NetworkNAT, subnet)
	if err != nil {
		t.Fatal(err)
	}
	isolated, err := networkXML("x-isolated", "x-isolated", desktop.NetworkIsolated, subnet)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`<forward mode="nat">`, `address="10.213.4.1"`, `prefix="22"`, `stp="off"`} {
		if !strings.Contains(nat, want) {
			t.Errorf("%s is not in %s", want, nat)
		}
	}
	if strings.Contains(isolated, "<forward") || !strings.Contains(isolated, "no-resolv") {
		t.Errorf("isolated is %s", isolated)
	}
	for _, document := range []string{nat, isolated} {
		if strings.Contains(document, "<range") {
			t.Errorf("it gives addresses to whoever asks: %s", document)
		}
		if got := networkSubnets(document); !slices.Equal(got, []netip.Prefix{subnet}) {
			t.Errorf("subnets are %v", got)
		}
	}
	netmask := `<network><ip address='192.168.122.1' netmask='255.255.255.0'/><ip family='ipv6' address='fd00::1' prefix='64'/></network>`
	if got := networkSubnets(netmask); !slices.Equal(got, []netip.Prefix{netip.MustParsePrefix("192.168.122.0/24")}) {
		t.Errorf("subnets are %v", got)
	}
}

// The networks that are made lie apart from each other and from all that the host has.
func TestNetworks(t *testing.T) {
	h := openTest(t, testOptions(t))
	c, giveBack := borrow(t, h)
	defer giveBack()
	before, err := takenSubnets(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated, desktop.NetworkNAT} {
		if _, err := h.ensureAddress(c, desktop.Spec{ID: "one", Network: network}); err != nil {
			t.Fatal(err)
		}
	}
	var made []netip.Prefix
	for _, network := range []string{desktop.NetworkNAT, desktop.NetworkIsolated} {
		n, err := c.LookupNetworkByName(h.opts.networkName(network))
		if err != nil {
			t.Fatal(err)
		}
		defer n.Free()
		document, err := n.GetXMLDesc(0)
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, networkSubnets(document)...)
		// One that an operator has stopped is started again.
		if err := n.Destroy(); err != nil {
			t.Fatal(err)
		}
		if _, err := h.ensureAddress(c, desktop.Spec{ID: "two", Network: network}); err != nil {
			t.Error("start again:", err)
		}
	}
	if len(made) != 2 || made[0].Overlaps(made[1]) {
		t.Fatalf("networks have %v", made)
	}
	for _, subnet := range made {
		for _, other := range before {
			if subnet.Overlaps(other) {
				t.Errorf("%s overlaps %s of the host's", subnet, other)
			}
		}
	}
}
