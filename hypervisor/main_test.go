package hypervisor

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestMain keeps libvirtd alive while these tests use it: one of the end-to-end tests ends it, and waits
// for the lock on this file to be free.
func TestMain(m *testing.M) {
	f, err := os.OpenFile(filepath.Join(os.TempDir(), "bureau-libvirtd.lock"), os.O_CREATE|os.O_RDWR, 0o666)
	if err == nil {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_SH)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hypervisor:", err)
		os.Exit(1)
	}
	code := m.Run()
	f.Close()
	os.Exit(code)
}
