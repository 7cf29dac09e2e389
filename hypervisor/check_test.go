package hypervisor

import (
	"context"
	"io"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

func TestHasVirtualisation(t *testing.T) {
	for cpuinfo, want := range map[string]bool{
		"processor\t: 0\nflags\t\t: fpu vmx sse\n":                    true,
		"processor\t: 0\nflags\t\t: fpu svm\n\nprocessor\t: 1\n":      true,
		"processor\t: 0\nflags\t\t: fpu svm_lock sse\n":               false,
		"processor\t: 0\nvmx flags\t: vnmi\nflags\t\t: fpu\n":         false,
		"model name\t: vmx svm\nflags\t\t: fpu\nflags\t\t: fpu vmx\n": false,
		"": false,
	} {
		if got := hasVirtualisation(cpuinfo); got != want {
			t.Errorf("%q: %v", cpuinfo, got)
		}
	}
}

func TestHasDBusDisplay(t *testing.T) {
	var caps libvirtxml.DomainCaps
	if hasDBusDisplay(caps) {
		t.Error("where nothing is known")
	}
	if err := caps.Unmarshal(`<domainCapabilities><devices><graphics supported='yes'><enum name='type'><value>vnc</value><value>dbus</value></enum></graphics></devices></domainCapabilities>`); err != nil {
		t.Fatal(err)
	}
	if !hasDBusDisplay(caps) {
		t.Error("not found")
	}
}

func checksByName(checks []Check) map[string]Check {
	byName := map[string]Check{}
	for _, c := range checks {
		byName[c.Name] = c
	}
	return byName
}

func TestChecks(t *testing.T) {
	opts := testOptions(t)
	h := openTest(t, opts)
	before := checksByName(Checks(testContext(t), opts))
	for _, name := range []string{"mke2fs", "qemu-img", "dnsmasq", "libvirt", "libvirt version", "QEMU version", "network nat"} {
		if !before[name].OK {
			t.Errorf("%s: %+v", name, before[name])
		}
	}
	if c := before["images"]; c.OK || c.Fix != "bureau image build" {
		t.Errorf("without an image: %+v", c)
	}
	importEmpty(t, h, "empty")
	for name, c := range checksByName(Checks(testContext(t), opts)) {
		if c.Name == "" || c.Detail == "" || c.OK == (c.Fix != "") || c.OK && c.Warning {
			t.Errorf("%s is %+v", name, c)
		}
		if name == "images" && (!c.OK || c.Detail != "empty") {
			t.Errorf("with an image: %+v", c)
		}
	}
}

func TestChecksOfUnreachableDaemon(t *testing.T) {
	folder := t.TempDir()
	opts := testOptions(t)
	opts.URI = "qemu:///system?socket=" + filepath.Join(folder, "none")
	if c := checksByName(Checks(testContext(t), opts))["libvirt"]; c.OK || !strings.Contains(c.Fix, "libvirtd") {
		t.Errorf("without a daemon: %+v", c)
	}
	if _, err := Open(testContext(t), opts); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("open: %v", err)
	}
	opts.URI = "qemu+ssh://elsewhere/system"
	ended, cancel := context.WithTimeout(testContext(t), time.Nanosecond)
	defer cancel()
	if c := checksByName(Checks(ended, opts))["libvirt"]; c.OK || !strings.Contains(c.Detail, "not one of this host") {
		t.Errorf("of a remote daemon: %+v", c)
	}
}

// An ordinary user in the group libvirt can do everything. Root runs the tests of machines once
// more as nobody.
func TestOrdinaryUser(t *testing.T) {
	if os.Getuid() != 0 {
		return // every other test has shown it
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	group, err := user.LookupGroup("libvirt")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	gid, _ := strconv.Atoi(nobody.Gid)
	libvirtGroup, _ := strconv.Atoi(group.Gid)
	folder, err := os.MkdirTemp("", "b-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(folder)
	if err := os.Chown(folder, uid, gid); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	copied, err := os.OpenFile(filepath.Join(folder, "tests"), os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(copied, self); err != nil {
		t.Fatal(err)
	}
	if err := copied.Close(); err != nil {
		t.Fatal(err)
	}
	command := exec.Command(copied.Name(), "-test.run", "^(TestLife|TestImages|TestOpenGraphics|TestAgentStreamOfSilentGuest|TestChecks)$", "-test.v")
	command.Dir = folder
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "TMPDIR=" + folder}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{
		Uid: uint32(uid), Gid: uint32(gid), Groups: []uint32{uint32(libvirtGroup)},
	}}
	output, err := command.CombinedOutput()
	if err != nil || strings.Count(string(output), "--- PASS: ") != 5 {
		t.Errorf("as nobody: %v\n%s", err, output)
	}

	// And one who is not in the group is told how to get in.
	command = exec.Command(copied.Name(), "-test.run", "^TestOutsider$", "-test.v")
	command.Dir = folder
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + folder, "TMPDIR=" + folder, "BUREAU_TEST_OUTSIDER=yes"}
	command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	if output, err := command.CombinedOutput(); err != nil || !strings.Contains(string(output), "usermod --append --groups libvirt nobody") {
		t.Errorf("as an outsider: %v\n%s", err, output)
	}
}

// TestOutsider is run by TestOrdinaryUser as a user outside the group libvirt.
func TestOutsider(t *testing.T) {
	if os.Getenv("BUREAU_TEST_OUTSIDER") == "" {
		return
	}
	for _, c := range Checks(testContext(t), Options{AgentBinary: os.Args[0]}) {
		if c.Name == "libvirt" {
			if c.OK {
				t.Error("let in")
			}
			t.Log(c.Detail, c.Fix)
		}
	}
}
