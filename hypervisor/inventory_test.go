package hypervisor

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

func unusedNames(t *testing.T, h *Host) []string {
	t.Helper()
	list, err := h.Unused(testContext(t))
	if err != nil {
		t.Fatal("unused:", err)
	}
	names := []string{}
	for _, v := range list {
		if v.Why == "" {
			t.Errorf("nothing says why of %+v", v)
		}
		names = append(names, v.Name)
	}
	return names
}

func wantUnused(t *testing.T, h *Host, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := unusedNames(t, h); !slices.Equal(got, append([]string{}, want...)) {
		t.Errorf("unused are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDescribe(t *testing.T) {
	opts := testOptions(t)
	opts.Prefix = "hypervisor-inventory"
	h := openTest(t, opts)
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	spec.VCPUs, spec.Network = 2, desktop.NetworkIsolated
	_, err := h.Describe(ctx, spec.ID)
	wantCode(t, err, desktop.NotFound)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	want := spec
	want.HasDisk = true
	if got, err := h.Describe(ctx, spec.ID); err != nil || got != want {
		t.Errorf("got %+v, %v\nwant %+v", got, err, want)
	}
	if m := wantState(t, h, spec.ID, desktop.MachineRunning); m.Domain != opts.Prefix+"-"+spec.ID {
		t.Errorf("machine is %+v", m)
	}
}

// A disk that was made is never replaced by an empty one.
func TestLostDisk(t *testing.T) {
	opts := testOptions(t)
	opts.Prefix = "hypervisor-inventory"
	h := openTest(t, opts)
	ctx := testContext(t)
	spec := testSpec(importEmpty(t, h, "empty"))
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	if err := h.Stop(ctx, spec.ID, 0); err != nil {
		t.Fatal("stop:", err)
	}
	spec.HasDisk = true
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start with its disk:", err)
	}

	// The machine is forgotten: it comes back from its disk.
	domain(t, h, spec.ID, (*libvirt.Domain).Destroy)
	domain(t, h, spec.ID, undefineDomain)
	if m := wantState(t, h, spec.ID, desktop.MachineAbsent); m.DiskGone {
		t.Error("the disk is said to be gone")
	}
	wantUnused(t, h, overlayVolume(spec.ID))
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start of a machine that was forgotten:", err)
	}
	wantUnused(t, h)

	// Its disk is gone, too.
	domain(t, h, spec.ID, (*libvirt.Domain).Destroy)
	domain(t, h, spec.ID, undefineDomain)
	c, giveBack := borrow(t, h)
	defer giveBack()
	if err := h.deleteVolume(c, overlayVolume(spec.ID)); err != nil {
		t.Fatal(err)
	}
	if m := wantState(t, h, spec.ID, desktop.MachineAbsent); !m.DiskGone {
		t.Error("the disk is said to be there")
	}
	wantCode(t, h.Start(ctx, spec), desktop.NotFound)
	if _, there, err := findVolume(t, h, overlayVolume(spec.ID)); there || err != nil {
		t.Errorf("an empty disk was made: %v, %v", there, err)
	}
	if err := h.Remove(ctx, spec.ID); err != nil {
		t.Error("remove:", err)
	}
}

func TestUnused(t *testing.T) {
	opts := testOptions(t)
	opts.Prefix = "hypervisor-inventory"
	h := openTest(t, opts)
	ctx := testContext(t)
	image := importEmpty(t, h, "empty")
	spec := testSpec(image)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	wantUnused(t, h)

	c, giveBack := borrow(t, h)
	defer giveBack()
	// What crashes leave behind: a disk without a machine, a part of an image, an image's name that
	// was never written, an agent of another binary.
	lost := overlayVolume("dt-lost")
	base, _, err := h.findVolume(c, contentVolume(image.Digest, "qcow2"))
	if err != nil {
		t.Fatal(err)
	}
	digest := strings.Repeat("ab", 32)
	part, name, agent := contentVolume(digest, "qcow2"), manifestVolume("half"), agentVolume(strings.Repeat("cd", 32))
	for volume, backing := range map[string]string{lost: base.path, part: "", name: "", agent: ""} {
		if err := h.createVolume(c, volume, 1<<20, backing); err != nil {
			t.Fatal(err)
		}
	}
	wantUnused(t, h, lost, agent) // the others may be arriving
	long := time.Now().Add(-2 * quiet)
	for _, volume := range []string{part, name} {
		v, ok, err := h.findVolume(c, volume)
		if err != nil || !ok {
			t.Fatal(volume, ok, err)
		}
		if err := os.Chtimes(v.path, long, long); err != nil {
			t.Fatal(err)
		}
	}
	// A file that libvirt was not told of, and one that is not bureau's.
	unknown := agentVolume(strings.Repeat("ef", 32))
	for _, file := range []string{unknown, "an-operators-own.iso"} {
		path := filepath.Join(filepath.Dir(base.path), file)
		if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(path) })
	}
	wantUnused(t, h, lost, part, name, agent, unknown)

	for _, needed := range []string{overlayVolume(spec.ID), contentVolume(image.Digest, "qcow2"), contentVolume(image.Digest, "json"),
		manifestVolume("empty"), agentVolume(h.agent.digest), "an-operators-own.iso", "../../etc/passwd"} {
		wantCode(t, h.RemoveUnused(ctx, needed), desktop.Conflict)
	}
	for _, volume := range []string{lost, part, name, agent, unknown} {
		if err := h.RemoveUnused(ctx, volume); err != nil {
			t.Errorf("remove %s: %v", volume, err)
		}
	}
	wantUnused(t, h)
	wantState(t, h, spec.ID, desktop.MachineRunning)

	// An image without a name is needed as long as a disk is based on it.
	if err := h.deleteVolume(c, manifestVolume("empty")); err != nil {
		t.Fatal(err)
	}
	wantUnused(t, h)
	if err := h.Remove(ctx, spec.ID); err != nil {
		t.Fatal("remove:", err)
	}
	wantUnused(t, h, contentVolume(image.Digest, "qcow2"), contentVolume(image.Digest, "json"))
	// The operator's own file is in the way of the end of the test.
	os.Remove(filepath.Join(filepath.Dir(base.path), "an-operators-own.iso"))
	if err := h.withPool(c, func(pool *libvirt.StoragePool) error { return pool.Refresh(0) }); err != nil {
		t.Error(err)
	}
}

// A disk is the pool's by what libvirt says of where the volume is, wherever the configuration has the pool.
func TestReferred(t *testing.T) {
	names := map[string]string{"/elsewhere/a.qcow2": "a.qcow2", "/elsewhere/b.qcow2": "b.qcow2", "/elsewhere/c.vmlinuz": "c.vmlinuz"}
	got := referred(`<domain type='qemu'><os><type>hvm</type><kernel>/elsewhere/c.vmlinuz</kernel><initrd>/boot/initrd</initrd></os><devices>
		<disk type='file' device='disk'><source file='/elsewhere/a.qcow2'/><target dev='vda'/></disk>
		<disk type='volume' device='disk'><source pool='bureau' volume='b.qcow2'/><target dev='vdb'/></disk>
		<disk type='volume' device='disk'><source pool='other' volume='x.qcow2'/><target dev='vdc'/></disk>
		<disk type='file' device='disk'><source file='/other/b.qcow2'/><target dev='vdd'/></disk>
		<disk type='file' device='cdrom'><target dev='sda'/></disk></devices></domain>`, "bureau", names)
	slices.Sort(got)
	if want := []string{"a.qcow2", "b.qcow2", "c.vmlinuz"}; !slices.Equal(got, want) {
		t.Errorf("got %q, not %q", got, want)
	}
}
