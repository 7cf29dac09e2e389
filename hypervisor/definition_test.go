package hypervisor

import (
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

var update = flag.Bool("update", false, "write the golden files anew")

func testDefinitions() map[string]definition {
	kernel := definition{
		spec: desktop.Spec{
			ID: "dt-7k3m9q2w5x8r4t6y", Owner: "usr-4m2k8x6q", Name: `Ann's <desk> & "more"`, Network: desktop.NetworkNAT,
			VCPUs: 2, MemoryBytes: 3 << 30, DiskBytes: 20 << 30,
		},
		domain: "bureau-dt-7k3m9q2w5x8r4t6y", network: "bureau-nat", address: "192.168.200.57",
		agent: "/pool/agent-0123456789abcdef.img", overlay: "/pool/desktop-dt-7k3m9q2w5x8r4t6y.qcow2",
		kernel: "/pool/content-a1.vmlinuz", initrd: "/pool/content-a1.initrd",
		acceleration: desktop.KVM, dbusDisplay: true, version: "1.2.3",
	}
	disk := kernel
	disk.kernel, disk.initrd, disk.acceleration, disk.dbusDisplay = "", "", desktop.TCG, false
	return map[string]definition{"kernel": kernel, "disk": disk}
}

func TestDefinition(t *testing.T) {
	for name, d := range testDefinitions() {
		t.Run(name, func(t *testing.T) {
			document, err := d.xml()
			if err != nil {
				t.Fatal(err)
			}
			golden := filepath.Join("testdata", name+".xml")
			if *update {
				if err := os.WriteFile(golden, []byte(document+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			var got, expected libvirtxml.Domain
			if err := got.Unmarshal(document); err != nil {
				t.Fatal(err)
			}
			if err := expected.Unmarshal(string(want)); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, expected) {
				t.Errorf("definition is\n%s\nwant\n%s", document, want)
			}
			meta, err := parseMetadata(got.Metadata.XML)
			if err != nil || meta.ID != d.spec.ID || meta.Name != d.spec.Name || meta.Owner != d.spec.Owner || meta.Acceleration != d.acceleration {
				t.Errorf("metadata is %+v, %v", meta, err)
			}
		})
	}
}

// What only holds for an emulated processor is not said to a kernel that runs on a real one.
func TestOnlyEmulatedKernelsAreUnguarded(t *testing.T) {
	d := testDefinitions()["kernel"]
	for _, acceleration := range []string{desktop.KVM, desktop.TCG} {
		d.acceleration = acceleration
		document, err := d.xml()
		if err != nil {
			t.Fatal(err)
		}
		for _, argument := range []string{" tsc=reliable", " mitigations=off", " lsm="} {
			if strings.Contains(document, argument) != (acceleration == desktop.TCG) {
				t.Errorf("%s: the command line's%s", acceleration, argument)
			}
		}
	}
}

// libvirt's schema accepts what is defined, and libvirt keeps it: nothing is dropped as unknown.
func TestDefinitionIsLibvirts(t *testing.T) {
	daemon := newPrivateDaemon(t)
	c, err := connectTo(testContext(t), daemon.uri)
	if err != nil {
		t.Fatal(err)
	}
	defer c.close()
	for name, wanted := range testDefinitions() {
		wanted.acceleration = desktop.TCG // KVM is not everywhere
		document, err := wanted.xml()
		if err != nil {
			t.Fatal(err)
		}
		d, err := c.DomainDefineXMLFlags(document, libvirt.DOMAIN_DEFINE_VALIDATE)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		kept, err := d.GetXMLDesc(libvirt.DOMAIN_XML_INACTIVE)
		if err != nil {
			t.Fatal(err)
		}
		var got libvirtxml.Domain
		if err := got.Unmarshal(kept); err != nil {
			t.Fatal(err)
		}
		devices := got.Devices
		switch {
		case devices.Interfaces[0].PortOptions == nil || devices.Interfaces[0].PortOptions.Isolated != "yes":
			t.Errorf("%s: the network port is not isolated", name)
		case devices.Disks[1].ReadOnly == nil || devices.Disks[1].Shareable == nil:
			t.Errorf("%s: the agent's disk is not shared read-only", name)
		case devices.MemBalloon.FreePageReporting != "on":
			t.Errorf("%s: free pages are not reported", name)
		case devices.Graphics[GraphicsVNC].VNC == nil || devices.Graphics[GraphicsVNC].VNC.Listeners[0].Socket == nil:
			t.Errorf("%s: VNC does not listen at a socket", name)
		case wanted.dbusDisplay && devices.Graphics[GraphicsDBus].DBus == nil:
			t.Errorf("%s: there is no D-Bus display", name)
		case len(devices.Inputs) != 2: // those of the PS/2 controller, which every such machine has
			t.Errorf("%s: inputs are %+v", name, devices.Inputs)
		}
		if err := undefineDomain(d); err != nil {
			t.Error(err)
		}
		d.Free()
	}
}
