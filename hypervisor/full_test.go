package hypervisor

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// smallPool is a host on a daemon of its own whose pool is a file system of that many MiB.
func smallPool(t *testing.T, megabytes int) (h *Host, folder string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make a small file system")
	}
	daemon := newPrivateDaemon(t)
	folder = filepath.Join(daemon.folder, "pool")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	options := fmt.Sprintf("size=%dm,mode=755,uid=%d,gid=%d", megabytes, daemon.attr.Credential.Uid, daemon.attr.Credential.Gid)
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, options); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	opts := testOptions(t)
	opts.URI, opts.Pool.Path, opts.LeastSpace = daemon.uri, folder, 1<<20
	h, err := Open(testContext(t), opts)
	if err != nil {
		t.Fatal("open:", err, errors.Unwrap(err))
	}
	t.Cleanup(func() {
		if err := h.Purge(testContext(t)); err != nil && !strings.Contains(err.Error(), "not bureau's") {
			t.Error("purge:", err)
		}
		h.Close()
	})
	return h, folder
}

// grow makes room in a small pool.
func grow(t *testing.T, folder string, megabytes int) {
	t.Helper()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", syscall.MS_REMOUNT, fmt.Sprintf("size=%dm", megabytes)); err != nil {
		t.Fatal(err)
	}
}

// fillUp takes all the room that a folder's file system has, behind libvirt's back.
func fillUp(t *testing.T, folder string) (room func()) {
	t.Helper()
	path := filepath.Join(folder, "filler")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 1 << 20; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// imageFile is a disk image of so many MiB that hold something.
func imageFile(t *testing.T, megabytes int) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if err := os.WriteFile(raw, slices.Repeat([]byte("some"), megabytes<<18), 0o600); err != nil {
		t.Fatal(err)
	}
	return convert(t, raw)
}

func convert(t *testing.T, raw string) string {
	t.Helper()
	path := raw + ".qcow2"
	if output, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, output)
	}
	return path
}

// wantFiles checks what is in the pool's folder, but for the agent's disk.
func wantFiles(t *testing.T, folder string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "agent-") {
			got = append(got, e.Name())
		}
	}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("the pool has %q, want %q", got, want)
	}
}

// wantExhausted checks a refusal for want of disk.
func wantExhausted(t *testing.T, err error) {
	t.Helper()
	wantCode(t, err, desktop.Exhausted)
	if !strings.Contains(err.Error(), "disk") {
		t.Errorf("it does not say what is missing: %v", err)
	}
}

func TestFullPool(t *testing.T) {
	h, folder := smallPool(t, 64)
	ctx := testContext(t)
	image := importEmpty(t, h, "empty")
	content := []string{
		"image-empty.json", contentVolume(image.Digest, "json"), contentVolume(image.Digest, "qcow2"),
	}
	wantFiles(t, folder, content...)

	t.Run("an image larger than what is free", func(t *testing.T) {
		_, err := h.ImportImage(ctx, ImageFiles{Name: "large", Boot: "disk", Disk: imageFile(t, 100)}, func(int64, int64) { t.Error("it was begun") })
		wantExhausted(t, err)
		var e *desktop.Error
		if errors.As(err, &e); e.Details["resource"] != desktop.ResourceDisk || e.Details["needed"].(int64) < 100<<20 || e.Details["free"].(int64) > 64<<20 {
			t.Errorf("%v", e.Details)
		}
		wantFiles(t, folder, content...)
	})
	t.Run("a disk that fills up while an image comes in", func(t *testing.T) {
		kernel := imageFile(t, 1)
		room := func() {}
		_, err := h.ImportImage(ctx, ImageFiles{Name: "other", Boot: "kernel", Disk: imageFile(t, 30), Kernel: kernel, Initrd: kernel}, func(done, total int64) {
			if done > 8<<20 {
				room()
				room = fillUp(t, folder)
			}
		})
		wantExhausted(t, err)
		room()
		wantFiles(t, folder, content...)
		if images, err := h.Images(ctx); err != nil || len(images) != 1 {
			t.Errorf("images %+v, %v", images, err)
		}
	})
	t.Run("a start on a full disk", func(t *testing.T) {
		spec := testSpec(image)
		room := fillUp(t, folder)
		wantExhausted(t, h.Start(ctx, spec))
		facts, err := h.Measure(ctx)
		if err != nil || facts.DiskAvailable > 1<<20 || facts.DiskBytes != 64<<20 || facts.CPUs < 1 || facts.MemoryBytes < 1<<29 ||
			facts.MemoryAvailable < 1 || facts.MemoryAvailable > facts.MemoryBytes {
			t.Errorf("%+v, %v", facts, err)
		}
		if list, err := h.List(ctx); err != nil || len(list) != 0 {
			t.Errorf("machines %+v, %v", list, err)
		}
		room()
		wantFiles(t, folder, content...)
		if facts, err := h.Measure(ctx); err != nil || facts.DiskAvailable < 32<<20 {
			t.Errorf("%+v, %v", facts, err)
		}
	})
	t.Run("the image of a desktop", func(t *testing.T) {
		if err := h.HasContent(ctx, image.Digest); err != nil {
			t.Error(err)
		}
		for _, digest := range []string{image.Digest[:62] + "00", "../x", ""} {
			wantCode(t, h.HasContent(ctx, digest), desktop.NotFound)
		}
	})
	if _, err := h.ImportImage(ctx, ImageFiles{Name: "other", Boot: "disk", Disk: imageFile(t, 30)}, nil); err != nil {
		t.Error("with room again:", err)
	}
}

// writer is a boot sector that writes the firmware's code all over the disk, 64 KiB at a time, from its
// first MiB to its end and again from there on.
var writer = []byte{
	0x31, 0xc0, // xor ax, ax
	0x8e, 0xd8, // mov ds, ax
	// first:
	0x66, 0xc7, 0x06, 0x2b, 0x7c, 0x00, 0x08, 0x00, 0x00, // mov dword [lba], 2048
	// next:
	0xbe, 0x23, 0x7c, // mov si, packet
	0xb4, 0x43, // mov ah, 43h: write
	0xb0, 0x00, // mov al, 0
	0xcd, 0x13, // int 13h, to the disk that it was read from
	0x72, 0xec, // jc first: beyond the end
	0x66, 0x81, 0x06, 0x2b, 0x7c, 0x80, 0x00, 0x00, 0x00, // add dword [lba], 128
	0xeb, 0xea, // jmp next
	// packet, at 7c23h: its size, 128 sectors, from 0f000h:0
	0x10, 0x00, 0x80, 0x00, 0x00, 0x00, 0x00, 0xf0,
	// lba, at 7c2bh
	0, 0, 0, 0, 0, 0, 0, 0,
}

func writingDisk(t *testing.T) string {
	t.Helper()
	disk := make([]byte, 2<<20)
	copy(disk, writer)
	disk[510], disk[511] = 0x55, 0xaa
	raw := filepath.Join(t.TempDir(), "writer")
	if err := os.WriteFile(raw, disk, 0o600); err != nil {
		t.Fatal(err)
	}
	return convert(t, raw)
}

// fillTime is how long a guest may take to write a few MiB on a busy machine.
const fillTime = 4 * time.Minute

// wantFull waits until a machine is paused because its disk is full, as the watch tells.
func wantFull(t *testing.T, h *Host, changes <-chan string, id string) {
	t.Helper()
	deadline := time.After(fillTime)
	for {
		m, err := h.Inspect(testContext(t), id)
		if err != nil {
			t.Fatal(err)
		}
		if m.State == desktop.MachinePaused && m.Cause == desktop.CauseDiskFull {
			return
		}
		select {
		case <-changes:
		case <-deadline:
			t.Fatalf("the machine is %s (%s), its disk not full", m.State, m.Cause)
		}
	}
}

// A guest that writes until the host's disk is full is paused, says why, and goes on where it was when
// there is room.
func TestDiskFillsUpUnderAMachine(t *testing.T) {
	h, folder := smallPool(t, 24)
	ctx := testContext(t)
	image, err := h.ImportImage(ctx, ImageFiles{Name: "writer", Boot: "disk", Disk: writingDisk(t)}, nil)
	if err != nil {
		t.Fatal("import:", err)
	}
	spec := testSpec(image)
	changes := h.Watch(ctx)
	startWithoutNetwork(t, h, spec)
	wantFull(t, h, changes, spec.ID)
	facts, err := h.Measure(ctx)
	if err != nil || facts.DiskAvailable > 1<<20 || facts.DiskUsed < 8<<20 {
		t.Errorf("%+v, %v", facts, err)
	}
	written := func() (n int64) {
		domain(t, h, spec.ID, func(d *libvirt.Domain) error {
			stats, err := d.BlockStats("vda")
			if err == nil {
				n = stats.WrBytes
			}
			return err
		})
		return n
	}
	before := written()
	t.Logf("paused after %d MiB were written; %+v", before>>20, facts)

	// A start without room does no harm: the machine waits on.
	if err := h.Start(ctx, spec); err != nil {
		t.Error("start:", err)
	}
	wantFull(t, h, changes, spec.ID)

	grow(t, folder, 256)
	if err := h.Start(ctx, spec); err != nil {
		t.Fatal("start:", err)
	}
	wantState(t, h, spec.ID, desktop.MachineRunning)
	for deadline := time.Now().Add(fillTime); written() < before+32<<20; {
		if time.Now().After(deadline) {
			t.Fatalf("it wrote %d MiB and goes on no more", written()>>20)
		}
		time.Sleep(20 * time.Millisecond)
	}
	wantState(t, h, spec.ID, desktop.MachineRunning)
	if err := h.Stop(ctx, spec.ID, 0); err != nil {
		t.Fatal("stop:", err)
	}
	disk := filepath.Join(folder, overlayVolume(spec.ID))
	if output, err := exec.Command("qemu-img", "check", disk).CombinedOutput(); err != nil {
		t.Errorf("the disk is damaged: %v: %s", err, output)
	}
}
