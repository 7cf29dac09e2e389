//go:build cgo && libvirt_dlopen

package cmd

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lockDatabase makes this process the only appliance that uses a database. Two would start and stop the
// same machines, each by what it takes to be true. The lock is the kernel's: it ends with the process.
func lockDatabase(database string) (unlock func() error, err error) {
	path := database + ".lock"
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the database: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		file.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("another bureau serve uses the database %s: end it first", database)
		}
		return nil, fmt.Errorf("locking the database (%s): %w", path, err)
	}
	return file.Close, nil
}
