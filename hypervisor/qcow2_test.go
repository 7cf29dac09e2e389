package hypervisor

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bureau/desktop"
)

// header makes the beginning of a sound version 3 image of 1 GiB, with changes.
func header(change func(b []byte) []byte) []byte {
	b := make([]byte, 112+8)
	binary.BigEndian.PutUint32(b, qcow2Magic)
	binary.BigEndian.PutUint32(b[4:], 3)
	binary.BigEndian.PutUint32(b[20:], 16)
	binary.BigEndian.PutUint64(b[24:], 1<<30)
	binary.BigEndian.PutUint32(b[100:], 112)
	return change(b)
}

func put32(at int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
}

func put64(at int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b }
}

func TestCheckQCOW2(t *testing.T) {
	same := func(b []byte) []byte { return b }
	for _, test := range []struct {
		name  string
		image []byte
		sound bool
	}{
		{"sound", header(same), true},
		{"of version 2", header(func(b []byte) []byte { return append(put32(4, 2)(b)[:72], 0, 0, 0, 0, 0, 0, 0, 0) }), true},
		{"with an unknown extension", append(header(put32(112, 0x6803f857)), make([]byte, 8)...), true},
		{"empty", nil, false},
		{"raw", make([]byte, 1<<16), false},
		{"of a later version", header(put32(4, 4)), false},
		{"with a backing file", header(put64(8, 0x1000)), false},
		{"with a backing format", header(put32(112, qcow2ExtensionBack)), false},
		{"with external data", header(put64(72, qcow2ExternalData)), false},
		{"with the name of a data file", header(put32(112, qcow2ExtensionData)), false},
		{"with unknown features", header(put64(72, 1<<40)), false},
		{"encrypted", header(put32(32, 1)), false},
		{"encrypted by an extension", header(put32(112, qcow2ExtensionCrypto)), false},
		{"of no size", header(put64(24, 0)), false},
		{"of absurd size", header(put64(24, 1<<62)), false},
		{"with absurd clusters", header(put32(20, 63)), false},
		{"with a header beyond the end", header(put32(100, 1<<30)), false},
		{"with a header of odd length", header(put32(100, 109)), false},
		{"with an extension beyond the end", header(func(b []byte) []byte { return put32(116, 0xffffffff)(put32(112, 7)(b)) }), false},
	} {
		size, err := checkQCOW2(bytes.NewReader(test.image))
		if test.sound && (err != nil || size != 1<<30) {
			t.Errorf("an image %s: %d, %v", test.name, size, err)
		}
		if !test.sound && desktop.CodeOf(err) != desktop.Invalid {
			t.Errorf("an image %s: %d, %v", test.name, size, err)
		}
	}
	whole := header(same)
	for n := range len(whole) {
		if _, err := checkQCOW2(bytes.NewReader(whole[:n])); desktop.CodeOf(err) != desktop.Invalid {
			t.Errorf("an image cut off at %d: %v", n, err)
		}
	}
}

func FuzzCheckQCOW2(f *testing.F) {
	f.Add(header(func(b []byte) []byte { return b }))
	f.Add(header(put64(8, 8)))
	f.Fuzz(func(t *testing.T, image []byte) {
		if size, err := checkQCOW2(bytes.NewReader(image)); err == nil && (size <= 0 || size > imageDiskMaximum) {
			t.Errorf("size is %d", size)
		}
	})
}

// What qemu-img makes is judged as it should be.
func TestCheckDisk(t *testing.T) {
	folder := t.TempDir()
	secret := filepath.Join(folder, "secret")
	if err := os.WriteFile(secret, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	create := func(name string, args ...string) string {
		path := filepath.Join(folder, name)
		command := exec.Command("qemu-img", append(append([]string{"create", "-q"}, args...), path, "1M")...)
		if output, err := command.CombinedOutput(); err != nil {
			t.Fatalf("qemu-img: %v: %s", err, output)
		}
		return path
	}
	if size, err := checkDisk(testContext(t), create("sound", "-f", "qcow2")); size != 1<<20 || err != nil {
		t.Errorf("sound: %d, %v", size, err)
	}
	if size, err := checkDisk(testContext(t), create("version2", "-f", "qcow2", "-o", "compat=0.10")); size != 1<<20 || err != nil {
		t.Errorf("of version 2: %d, %v", size, err)
	}
	for name, path := range map[string]string{
		"raw":                  create("raw", "-f", "raw"),
		"with a backing file":  create("overlay", "-f", "qcow2", "-b", secret, "-F", "raw"),
		"with an external one": create("external", "-f", "qcow2", "-o", "data_file="+filepath.Join(folder, "data")),
		"missing":              filepath.Join(folder, "none"),
		"another format":       create("vmdk", "-f", "vmdk"),
	} {
		if _, err := checkDisk(testContext(t), path); desktop.CodeOf(err) != desktop.Invalid {
			t.Errorf("%s: %v", name, err)
		}
	}
}
