package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Guests without a system. Each is a boot sector, so it runs as soon as the firmware has found it.

// obedient enables the power button of the machine (PM1 enable, bit 8), sleeps until the timer wakes
// it, eighteen times a second, and turns the machine off (PM1 control, sleep type 0 and sleep enable)
// when the button has been pressed (PM1 status, bit 8). The registers are where SeaBIOS puts them on a
// q35 machine, from port 0x600.
var obedient = []byte{
	0xfa,       // cli
	0x31, 0xc0, // xor ax, ax
	0x8e, 0xd8, // mov ds, ax
	0x8e, 0xd0, // mov ss, ax
	0xbc, 0x00, 0x7c, // mov sp, 0x7c00
	0xba, 0x02, 0x06, // mov dx, 0x602
	0xb8, 0x00, 0x01, // mov ax, 0x100
	0xef,             // out dx, ax
	0xfb,             // again: sti
	0xf4,             // hlt
	0xba, 0x00, 0x06, // mov dx, 0x600
	0xed,             // in ax, dx
	0xf6, 0xc4, 0x01, // test ah, 1
	0x74, 0xf5, // jz again
	0xba, 0x04, 0x06, // mov dx, 0x604
	0xb8, 0x00, 0x20, // mov ax, 0x2000
	0xef,       // out dx, ax
	0xeb, 0xec, // jmp again
}

// deaf sleeps for ever.
var deaf = []byte{
	0xfa,       // cli
	0xf4,       // hlt
	0xeb, 0xfc, // jmp to cli
}

// makeImage writes the qcow2 file of a disk that begins with a boot sector.
func makeImage(ctx context.Context, folder, name string, code []byte) (path string, err error) {
	disk := make([]byte, 1<<20)
	copy(disk, code)
	disk[510], disk[511] = 0x55, 0xaa
	raw := filepath.Join(folder, name+".raw")
	if err := os.WriteFile(raw, disk, 0o644); err != nil {
		return "", err
	}
	defer os.Remove(raw)
	path = filepath.Join(folder, name+".qcow2")
	out, err := exec.CommandContext(ctx, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, path).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	return path, nil
}
