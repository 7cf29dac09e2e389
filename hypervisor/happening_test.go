package hypervisor

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"bureau/desktop"
)

// bootSector is a disk image whose firmware runs code of a few bytes, which is all of a guest that it
// takes to panic, to shut down or to reboot.
func bootSector(t *testing.T, code []byte) string {
	t.Helper()
	sector := make([]byte, 64<<20)
	copy(sector, code)
	copy(sector[len(code):], []byte{0xf4, 0xeb, 0xfd}) // hlt; jmp to it
	sector[510], sector[511] = 0x55, 0xaa
	raw := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(raw, sector, 0o600); err != nil {
		t.Fatal(err)
	}
	disk := raw + ".qcow2"
	if output, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, disk).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v: %s", err, output)
	}
	return disk
}

// What a guest does by itself is heard of through libvirt's events, and told apart.
func TestGuestActsByItself(t *testing.T) {
	opts := testOptions(t)
	opts.Prefix = "hypervisor-events"
	h := openTest(t, opts)
	for _, test := range []struct {
		name string
		code []byte
		want func(desktop.Machine) bool
	}{
		// mov dx, 0x505; mov al, 1; out dx, al: the port of the panic device
		{"panic", []byte{0xba, 0x05, 0x05, 0xb0, 0x01, 0xee}, func(m desktop.Machine) bool {
			return m.State == desktop.MachineOff && m.Cause == "panicked"
		}},
		// mov dx, 0x604; mov ax, 0x2000; out dx, ax: ACPI's sleep state 5
		{"shutdown", []byte{0xba, 0x04, 0x06, 0xb8, 0x00, 0x20, 0xef}, func(m desktop.Machine) bool {
			return m.State == desktop.MachineOff && m.Cause == "shutdown"
		}},
		// mov dx, 0xcf9; mov al, 6; out dx, al: the reset register
		{"reboot", []byte{0xba, 0xf9, 0x0c, 0xb0, 0x06, 0xee}, func(m desktop.Machine) bool {
			return m.State == desktop.MachineRunning && m.Reboots > 0
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			ctx := testContext(t)
			image, err := h.ImportImage(ctx, ImageFiles{Name: test.name, Boot: "disk", Disk: bootSector(t, test.code)}, nil)
			if err != nil {
				t.Fatal("import:", err)
			}
			watching, stop := context.WithCancel(ctx)
			defer stop()
			changes := h.Watch(watching)
			spec := testSpec(image)
			if err := h.Start(ctx, spec); err != nil {
				t.Fatal("start:", err)
			}
			began := time.Now()
			for {
				m, err := h.Inspect(ctx, spec.ID)
				if err != nil {
					t.Fatal("inspect:", err)
				}
				if test.want(m) {
					t.Logf("%+v, %s after the start", m, time.Since(began).Round(time.Millisecond))
					break
				}
				wantChange(t, changes, spec.ID) // nothing but an event leads on
			}
			if test.name == "panic" {
				// Another process has not heard of it, and knows as much as libvirt does.
				other, err := Open(ctx, opts)
				if err != nil {
					t.Fatal("open:", err)
				}
				defer other.Close()
				if m := wantState(t, other, spec.ID, desktop.MachineOff); m.Cause != "crashed" {
					t.Errorf("machine is %+v", m)
				}
			}
			if err := h.Remove(ctx, spec.ID); err != nil {
				t.Fatal("remove:", err)
			}
			if m := wantState(t, h, spec.ID, desktop.MachineAbsent); m.Reboots != 0 || m.Cause != "" {
				t.Errorf("machine is %+v", m)
			}
		})
	}
}
