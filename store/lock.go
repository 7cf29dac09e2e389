package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// Who uses a database is told by locks on two bytes of a file beside it. The kernel releases them with
// the process that holds them, however it ends. An appliance has the first byte to itself, and shares
// the second with commands; who replaces the database has both to itself.
const (
	serveByte = iota
	usersByte
)

// Lock makes this process the one appliance that uses the database at path, until release is called or
// the process ends. It is Conflict while there is another one, or the database is being replaced.
func Lock(path string) (release func() error, err error) {
	return lock(path, unix.F_WRLCK, unix.F_RDLCK)
}

// LockAlone makes this process the only one that uses the database at path, as Restore needs.
func LockAlone(path string) (release func() error, err error) {
	return lock(path, unix.F_WRLCK, unix.F_WRLCK)
}

// share keeps the database from being replaced.
func share(path string) (release func() error, err error) {
	return lock(path, unix.F_UNLCK, unix.F_RDLCK)
}

func lock(path string, serve, users int16) (func() error, error) {
	fail := func(err error) (func() error, error) {
		return nil, fmt.Errorf("lock the database %s: %w", path, err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fail(err)
	}
	name := path + ".lock"
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fail(err)
	}
	if err := ownAs(name, filepath.Dir(path)); err != nil {
		f.Close()
		return fail(err)
	}
	for at, kind := range map[int64]int16{serveByte: serve, usersByte: users} {
		if kind == unix.F_UNLCK {
			continue
		}
		// Of the open file, not of the process: closing another one of it releases nothing.
		err := unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: at, Len: 1})
		if err == nil {
			continue
		}
		f.Close()
		if errors.Is(err, unix.EAGAIN) || errors.Is(err, unix.EACCES) {
			return nil, desktop.Errorf(desktop.Conflict, "another bureau uses the database %s: end it first", path)
		}
		return fail(err)
	}
	return f.Close, nil // the file stays: whoever deletes it lets two have a lock
}

// OwnAsFolder gives a file that root has made to the owner of the folder that it is in: the appliance
// is not root.
func OwnAsFolder(path string) error { return ownAs(path, filepath.Dir(path)) }

// ownAs gives a file that root has made to the owner of a folder.
func ownAs(path, folder string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(folder)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("the owner of %s cannot be told", folder)
	}
	return os.Lchown(path, int(owner.Uid), int(owner.Gid))
}
