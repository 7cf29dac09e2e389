package hypervisor

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// These tests run real machines on qemu:///system. A machine needs no guest system to be defined,
// started, watched and stopped: an empty disk leaves it in its firmware for ever.

// machines is what Host is to the desktop package, but for OpenScreen, which is wired to package
// screen where both are known.
type machines interface {
	Image(ctx context.Context, name string) (desktop.Image, error)
	Images(ctx context.Context) ([]desktop.Image, error)
	Start(ctx context.Context, spec desktop.Spec) error
	Stop(ctx context.Context, id string, grace time.Duration) error
	Remove(ctx context.Context, id string) error
	Inspect(ctx context.Context, id string) (desktop.Machine, error)
	List(ctx context.Context) ([]desktop.Machine, error)
	Watch(ctx context.Context) <-chan string
}

var _ machines = (*Host)(nil)

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

// testBinary is a small file to give to guests that do not run it.
func testBinary(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func testOptions(t *testing.T) Options {
	t.Helper()
	return Options{
		Prefix:      "hypervisor-test",
		AgentBinary: testBinary(t, "an agent"),
		Version:     "test",
		Log:         slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

// openTest opens a host of the tests' prefix that begins and ends with nothing.
func openTest(t *testing.T, opts Options) *Host {
	t.Helper()
	purge := func() {
		h, err := Open(context.Background(), opts)
		if err != nil {
			t.Fatalf("open %s: %v (%v)", opts.URI, err, errors.Unwrap(err))
		}
		defer h.Close()
		if err := h.Purge(context.Background()); err != nil {
			t.Error("purge:", err)
		}
	}
	purge()
	h, err := Open(testContext(t), opts)
	if err != nil {
		t.Fatal("open:", err)
	}
	t.Cleanup(func() {
		h.Close()
		purge()
	})
	return h
}

// emptyDisk is a disk image with nothing on it.
func emptyDisk(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.qcow2")
	if output, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", path, "64M").CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, output)
	}
	return path
}

func importEmpty(t *testing.T, h *Host, name string) desktop.Image {
	t.Helper()
	image, err := h.ImportImage(testContext(t), ImageFiles{Name: name, Boot: "disk", Disk: emptyDisk(t), Description: "nothing"}, nil)
	if err != nil {
		t.Fatal("import:", err)
	}
	return image
}

func testSpec(image desktop.Image) desktop.Spec {
	return desktop.Spec{
		ID: desktop.NewID(), Owner: "usr-test", Name: `A "desk" <&>`, ImageDigest: image.Digest,
		Network: desktop.NetworkNAT, VCPUs: 1, MemoryBytes: 128 << 20, DiskBytes: 128 << 20,
	}
}

// wantChange waits for the watch to tell of a desktop.
func wantChange(t *testing.T, changes <-chan string, id string) {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		select {
		case got, ok := <-changes:
			if !ok {
				t.Fatal("the watch ended")
			}
			if got == id {
				return
			}
		case <-deadline:
			t.Fatalf("the watch did not tell of %q", id)
		}
	}
}

func wantState(t *testing.T, h *Host, id string, want desktop.MachineState) desktop.Machine {
	t.Helper()
	m, err := h.Inspect(testContext(t), id)
	if err != nil {
		t.Fatal("inspect:", err)
	}
	if m.State != want {
		t.Fatalf("machine is %s (%s), want %s", m.State, m.Cause, want)
	}
	return m
}

func wantCode(t *testing.T, err error, want desktop.Code) {
	t.Helper()
	if err == nil || desktop.CodeOf(err) != want {
		t.Fatalf("error is %v (%s), want %s", err, desktop.CodeOf(err), want)
	}
}

func TestLife(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	changes := h.Watch(ctx)
	spec := testSpec(importEmpty(t, h, "empty"))

	wantState(t, h, spec.ID, desktop.MachineAbsent)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	wantChange(t, changes, spec.ID)
	m := wantState(t, h, spec.ID, desktop.MachineRunning)
	if m.Owner != spec.Owner || m.Name != spec.Name || m.Acceleration != desktop.TCG && m.Acceleration != desktop.KVM {
		t.Errorf("machine is %+v, spec %+v", m, spec)
	}
	list, err := h.List(ctx)
	if err != nil || len(list) != 1 || list[0] != m {
		t.Errorf("list is %+v, %v; want %+v", list, err, m)
	}
	if err := h.Start(ctx, spec); err != nil {
		t.Error("start again:", err)
	}

	// The guest has no system to hear the request, so this is the forced end.
	if err := h.Stop(ctx, spec.ID, 10*time.Millisecond); err != nil {
		t.Fatal("stop:", err)
	}
	wantChange(t, changes, spec.ID)
	if m := wantState(t, h, spec.ID, desktop.MachineOff); m.Cause != "destroyed" || m.Acceleration != "" || m.Owner != spec.Owner {
		t.Errorf("machine is %+v", m)
	}
	if err := h.Stop(ctx, spec.ID, time.Minute); err != nil {
		t.Error("stop again:", err)
	}

	// Another start takes the new settings, on the same disk.
	spec.Name, spec.VCPUs, spec.DiskBytes = "Renamed", 2, 256<<20
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start with other settings:", err)
	}
	if m := wantState(t, h, spec.ID, desktop.MachineRunning); m.Name != "Renamed" {
		t.Errorf("machine is %+v", m)
	}
	overlay, ok, err := findVolume(t, h, overlayVolume(spec.ID))
	if err != nil || !ok || overlay.capacity != 256<<20 {
		t.Errorf("disk is %+v, %v, %v", overlay, ok, err)
	}
	if err := h.Remove(ctx, spec.ID); err != nil {
		t.Fatal("remove:", err)
	}
	wantState(t, h, spec.ID, desktop.MachineAbsent)
	if _, ok, err := findVolume(t, h, overlayVolume(spec.ID)); ok || err != nil {
		t.Errorf("the disk is still there: %v, %v", ok, err)
	}
	for _, err := range []error{h.Remove(ctx, spec.ID), h.Stop(ctx, spec.ID, time.Second)} {
		if err != nil {
			t.Error("of a machine that is gone:", err)
		}
	}
}

func findVolume(t *testing.T, h *Host, name string) (volume, bool, error) {
	t.Helper()
	c, giveBack := borrow(t, h)
	defer giveBack()
	return h.findVolume(c, name)
}

// domain gives the libvirt domain of a desktop, to do what guests and operators do.
func domain(t *testing.T, h *Host, id string, fn func(*libvirt.Domain) error) {
	t.Helper()
	c, giveBack := borrow(t, h)
	defer giveBack()
	if found, err := h.withDomain(c, id, fn); err != nil || !found {
		t.Fatalf("domain of %s: %v, %v", id, found, err)
	}
}

func TestPausedMachine(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	spec.Network = desktop.NetworkIsolated
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	domain(t, h, spec.ID, (*libvirt.Domain).Suspend)
	wantState(t, h, spec.ID, desktop.MachinePaused)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	wantState(t, h, spec.ID, desktop.MachineRunning)
	domain(t, h, spec.ID, (*libvirt.Domain).Suspend)
	if err := h.Stop(ctx, spec.ID, time.Hour); err != nil {
		t.Fatal("stop:", err)
	}
	wantState(t, h, spec.ID, desktop.MachineOff)
}

func TestStartRefusals(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	for _, test := range []struct {
		name   string
		change func(*desktop.Spec)
		want   desktop.Code
	}{
		{"an id that is none", func(s *desktop.Spec) { s.ID = "../x" }, desktop.Invalid},
		{"no image", func(s *desktop.Spec) { s.ImageDigest = s.ImageDigest[:62] + "00" }, desktop.NotFound},
		{"no such network", func(s *desktop.Spec) { s.Network = "lan" }, desktop.Invalid},
		{"no processor", func(s *desktop.Spec) { s.VCPUs = 0 }, desktop.Invalid},
		{"more memory than there is", func(s *desktop.Spec) { s.MemoryBytes = 1 << 50 }, desktop.Exhausted},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := spec
			test.change(&spec)
			wantCode(t, h.Start(ctx, spec), test.want)
			if list, err := h.List(ctx); err != nil || len(list) != 0 {
				t.Errorf("left behind: %+v, %v", list, err)
			}
			if _, there, err := findVolume(t, h, overlayVolume(spec.ID)); there || err != nil {
				t.Errorf("left a disk behind: %v, %v", there, err)
			}
		})
	}
	ended, cancel := context.WithCancel(ctx)
	cancel()
	if err := h.Start(ended, spec); !errors.Is(err, context.Canceled) {
		t.Errorf("start with an ended context: %v", err)
	}
}

// A start that fails after the disk was made leaves neither disk nor domain.
func TestFailedStartIsUndone(t *testing.T) {
	opts := testOptions(t)
	h := openTest(t, opts)
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	c, giveBack := borrow(t, h)
	defer giveBack()
	// Somebody else's domain has the name.
	foreign, err := c.DomainDefineXML(`<domain type='qemu'><name>` + opts.domainName(spec.ID) + `</name><memory>65536</memory><os><type machine='q35'>hvm</type></os></domain>`)
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Free()
	defer foreign.Undefine()
	if err := h.Start(ctx, spec); err == nil {
		t.Fatal("started")
	}
	if _, there, err := findVolume(t, h, overlayVolume(spec.ID)); there || err != nil {
		t.Errorf("left a disk behind: %v, %v", there, err)
	}
	if list, err := h.List(ctx); err != nil || len(list) != 0 {
		t.Errorf("the foreign domain is listed: %+v, %v", list, err)
	}
}

func TestConcurrentStarts(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	results := make(chan error)
	for range 4 {
		go func() { results <- h.Start(ctx, spec) }()
	}
	for range 4 {
		if err := <-results; err != nil {
			t.Error("start:", err)
		}
	}
	wantState(t, h, spec.ID, desktop.MachineRunning)
}

func TestOpenGraphics(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	if _, err := h.OpenGraphics(ctx, spec.ID, GraphicsVNC); desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("of an absent machine: %v", err)
	}
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	vnc, err := h.OpenGraphics(ctx, spec.ID, GraphicsVNC)
	if err != nil {
		t.Fatal("open VNC:", err)
	}
	defer vnc.Close()
	vnc.SetDeadline(time.Now().Add(time.Minute))
	greeting := make([]byte, 4)
	if _, err := vnc.Read(greeting); err != nil || string(greeting) != "RFB " {
		t.Errorf("VNC greets with %q, %v", greeting, err)
	}
	dbus, err := h.OpenGraphics(ctx, spec.ID, GraphicsDBus)
	if err != nil {
		t.Fatal("open D-Bus:", err)
	}
	defer dbus.Close()
	dbus.SetDeadline(time.Now().Add(time.Minute))
	if _, err := dbus.Write([]byte("\x00AUTH\r\n")); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 8)
	if _, err := dbus.Read(answer); err != nil || string(answer) != "REJECTED" {
		t.Errorf("D-Bus answers %q, %v", answer, err)
	}
	if _, err := h.OpenGraphics(ctx, spec.ID, 7); desktop.CodeOf(err) != desktop.NotFound {
		t.Errorf("of a display that is not there: %v", err)
	}
}

func TestImages(t *testing.T) {
	h := openTest(t, testOptions(t))
	ctx := testContext(t)
	_, err := h.Image(ctx, "empty")
	wantCode(t, err, desktop.NotFound)
	if images, err := h.Images(ctx); err != nil || len(images) != 0 {
		t.Fatalf("images are %+v, %v", images, err)
	}

	disk := emptyDisk(t)
	var last, total int64
	first, err := h.ImportImage(ctx, ImageFiles{Name: "empty", Boot: "disk", Disk: disk}, func(d, t int64) { last, total = d, t })
	if err != nil {
		t.Fatal("import:", err)
	}
	if info, err := os.Stat(disk); err != nil || last != info.Size() || total != info.Size() {
		t.Errorf("progress ended at %d of %d, the file is %v", last, total, info)
	}
	if first.DiskBytes != 64<<20 || first.SizeBytes == 0 || !validHex.MatchString(first.Digest) {
		t.Errorf("image is %+v", first)
	}
	if got, err := h.Image(ctx, "empty"); err != nil || got != first {
		t.Errorf("image is %+v, %v; want %+v", got, err, first)
	}
	uploads := 0
	again, err := h.ImportImage(ctx, ImageFiles{Name: "other", Boot: "disk", Disk: disk}, func(int64, int64) { uploads++ })
	if err != nil || uploads != 0 || again.Digest != first.Digest {
		t.Errorf("import of the same content: %d uploads, %+v, %v", uploads, again, err)
	}
	images, err := h.Images(ctx)
	if err != nil || !slices.Equal(images, []desktop.Image{first, again}) {
		t.Errorf("images are %+v, %v", images, err)
	}

	// A desktop keeps the content that it was made from, whatever its name stands for later.
	spec := testSpec(first)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	err = h.RemoveImage(ctx, "empty")
	wantCode(t, err, desktop.Conflict)
	var conflict *desktop.Error
	if errors.As(err, &conflict); !slices.Equal(conflict.Details["desktops"].([]string), []string{spec.ID}) {
		t.Errorf("conflict is %v", conflict.Details)
	}
	bigger := ImageFiles{Boot: "disk", Disk: disk, Digest: first.Digest[:60] + "0000", DiskBytes: 1 << 30}
	for _, name := range []string{"empty", "other"} {
		bigger.Name = name
		if image, err := h.ImportImage(ctx, bigger, nil); err != nil || image.DiskBytes != 1<<30 {
			t.Fatalf("import another content: %+v, %v", image, err)
		}
	}
	if err := h.Stop(ctx, spec.ID, 0); err != nil {
		t.Fatal("stop:", err)
	}
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start on the former content:", err)
	}
	if err := h.Remove(ctx, spec.ID); err != nil {
		t.Fatal("remove:", err)
	}
	for _, name := range []string{"empty", "other", "other", "never"} {
		if err := h.RemoveImage(ctx, name); err != nil {
			t.Errorf("remove image %s: %v", name, err)
		}
	}
	c, giveBack := borrow(t, h)
	defer giveBack()
	volumes, err := h.listVolumes(c)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range volumes {
		if v.name != agentVolume(h.agent.digest) {
			t.Errorf("volume %s is left", v.name)
		}
	}
}

// An import that was interrupted leaves no image, and the next one succeeds.
func TestInterruptedImport(t *testing.T) {
	h := openTest(t, testOptions(t))
	disk := emptyDisk(t)
	ctx, cancel := context.WithCancel(testContext(t))
	files := ImageFiles{Name: "empty", Boot: "disk", Disk: disk}
	if _, err := h.ImportImage(ctx, files, func(int64, int64) { cancel() }); err == nil {
		t.Fatal("the import was not interrupted")
	}
	ctx = testContext(t)
	if images, err := h.Images(ctx); err != nil || len(images) != 0 {
		t.Errorf("images are %+v, %v", images, err)
	}
	if _, err := h.ImportImage(ctx, files, nil); err != nil {
		t.Error("import again:", err)
	}
}

func TestAgentDisks(t *testing.T) {
	opts := testOptions(t)
	h := openTest(t, opts)
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}

	// A second bureau with another binary, while the machine of the first runs.
	opts.AgentBinary = testBinary(t, "another agent")
	second, err := Open(ctx, opts)
	if err != nil {
		t.Fatal("open:", err)
	}
	defer second.Close()
	other := testSpec(desktop.Image{Digest: spec.ImageDigest})
	if err := second.Start(ctx, other); err != nil {
		t.Fatal("start with another agent:", err)
	}
	for _, host := range []*Host{h, second} {
		if _, there, err := findVolume(t, h, agentVolume(host.agent.digest)); !there || err != nil {
			t.Errorf("agent's disk %s: %v, %v", host.agent.digest, there, err)
		}
	}
	if err := h.Remove(ctx, spec.ID); err != nil {
		t.Fatal("remove:", err)
	}
	// The first one's disk is nobody's now, and is removed by command alone.
	third, err := Open(ctx, opts)
	if err != nil {
		t.Fatal("open:", err)
	}
	defer third.Close()
	wantUnused(t, third, agentVolume(h.agent.digest))
	if err := third.RemoveUnused(ctx, agentVolume(h.agent.digest)); err != nil {
		t.Fatal("remove the former agent's disk:", err)
	}
	if _, there, err := findVolume(t, h, agentVolume(second.agent.digest)); !there || err != nil {
		t.Errorf("the agent's disk is gone: %v, %v", there, err)
	}
	// A host whose volume is gone makes it again.
	if err := h.Start(ctx, spec); err != nil {
		t.Error("start:", err)
	}
}

func TestClosedHost(t *testing.T) {
	h := openTest(t, testOptions(t))
	changes := h.Watch(testContext(t))
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, open := <-changes; open {
		t.Error("the watch goes on")
	}
	_, err := h.List(testContext(t))
	wantCode(t, err, desktop.Unavailable)
	if _, err := h.OpenAgent(testContext(t), desktop.NewID()); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("OpenAgent: %v", err)
	}
}

// borrow gives a test a connection of the host's.
func borrow(t *testing.T, h *Host) (c *libvirt.Connect, giveBack func()) {
	t.Helper()
	conn, err := h.borrow(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	return conn.Connect, func() { h.calls.giveBack(conn) }
}
