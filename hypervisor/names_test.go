package hypervisor

import (
	"regexp"
	"strings"
	"testing"
)

func TestMachineIdentity(t *testing.T) {
	uuid, mac := formatUUID(machineUUID("dt-7k3m9q2w5x8r4t6y")), machineMAC("dt-7k3m9q2w5x8r4t6y")
	// These never change: they are how a machine is found again.
	if uuid != "bd5e9a93-d99f-8e20-9ab4-c0e5beee2043" {
		t.Errorf("uuid is %s", uuid)
	}
	if mac != "52:54:00:b5:7f:55" {
		t.Errorf("MAC address is %s", mac)
	}
	version8 := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	if !version8.MatchString(uuid) {
		t.Errorf("%s is not a UUID of version 8", uuid)
	}
	if other := formatUUID(machineUUID("dt-7k3m9q2w5x8r4t6z")); other == uuid {
		t.Error("two ids have one UUID")
	}
}

func TestHostName(t *testing.T) {
	const id = "dt-7k3m9q2w5x8r4t6y"
	for name, want := range map[string]string{
		"desk":                   "desk",
		"My Desk 7":              "my-desk-7",
		"Ünïcode":                "n-code",
		"--a--b--":               "a-b",
		"机器":                     id,
		"":                       id,
		"a/../b root=/dev/sdb":   "a-b-root-dev-sdb",
		strings.Repeat("a-", 60): strings.Repeat("a-", 31) + "a",
	} {
		if got := hostName(name, id); got != want {
			t.Errorf("host name of %q is %q, want %q", name, got, want)
		}
	}
}

func TestMachineID(t *testing.T) {
	bureau := Options{Prefix: "bureau"}
	test := Options{Prefix: "bureau-test"}
	name, uuid := test.domainName("dt-a"), formatUUID(machineUUID("dt-a"))
	if got := test.machineID(name, uuid); got != "dt-a" {
		t.Errorf("own domain is %q", got)
	}
	if got := bureau.machineID(name, uuid); got != "" {
		t.Errorf("domain of a longer prefix is %q", got)
	}
	for _, foreign := range []string{"debian", "bureau-test", "bureau-test-", "bureau-test-DT"} {
		if got := test.machineID(foreign, uuid); got != "" {
			t.Errorf("domain %s is %q", foreign, got)
		}
	}
}

func TestBridgeNamesFit(t *testing.T) {
	seen := map[string]bool{}
	for _, prefix := range []string{"bureau", "bureau-test", "a-prefix-that-is-as-long-as-it-goes"} {
		for _, network := range []string{"nat", "isolated"} {
			name := (&Options{Prefix: prefix}).bridgeName(network)
			if len(name) > 15 || seen[name] {
				t.Errorf("bridge of %s %s is %q", prefix, network, name)
			}
			seen[name] = true
		}
	}
}

func TestOptions(t *testing.T) {
	defaults, err := Options{}.withDefaults()
	if err != nil || defaults.Prefix != "bureau" || defaults.Pool.Name != "bureau" || defaults.URI != "qemu:///system" || defaults.Log == nil {
		t.Errorf("defaults are %+v, %v", defaults, err)
	}
	for _, bad := range []Options{{Prefix: "Über"}, {Prefix: "a/b"}, {Acceleration: "xen"}} {
		if _, err := bad.withDefaults(); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestOurVolumes(t *testing.T) {
	digest := strings.Repeat("a1", 32)
	for _, name := range []string{overlayVolume("dt-a"), agentVolume(digest), manifestVolume("desktop"), contentVolume(digest, "qcow2"), contentVolume(digest, "json")} {
		if !ourVolume.MatchString(name) {
			t.Errorf("%s is not recognised", name)
		}
	}
	for _, name := range []string{"debian.qcow2", "agent-x.img", "content-a1.qcow2", "desktop-x.raw"} {
		if ourVolume.MatchString(name) {
			t.Errorf("%s is taken for ours", name)
		}
	}
}
