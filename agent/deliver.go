package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// The guest's side of being brought to the host's version. The new binary is written beside the
// place it takes, checked against the checksum that came with it, tried out (one that does not run
// in this guest must never take the place: the service would start it for ever), and renamed.

const (
	delivered    = "agent" // its name in RunDir
	sumHeader    = "Bureau-Sha256"
	probeTimeout = 60 * time.Second
)

// fingerprint tells one binary from another without reading all of it, which takes an emulated guest
// many seconds of its boot: it is the sha256 of the file's size (8 bytes) and of 64 blocks of 8 KiB,
// evenly spread, the first and the last included. The first block of a Go program holds its build
// id, which is a checksum of the whole.
func fingerprint(path string) (sum [32]byte, err error) {
	const blocks, length = 64, 8 << 10
	fail := func(err error) ([32]byte, error) {
		return [32]byte{}, fmt.Errorf("looking at the agent's binary: %w", err)
	}
	f, err := os.Open(path)
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	size := info.Size()
	h := sha256.New()
	binary.Write(h, binary.BigEndian, size)
	for i := range int64(blocks) {
		at := max(size-length, 0) * i / (blocks - 1)
		if _, err := io.Copy(h, io.NewSectionReader(f, at, length)); err != nil {
			return fail(err)
		}
	}
	h.Sum(sum[:0])
	return sum, nil
}

func (g *guest) servePut(w http.ResponseWriter, r *http.Request) {
	g.putting.Lock()
	defer g.putting.Unlock()
	if err := g.put(r.Context(), r.Header.Get(sumHeader), http.MaxBytesReader(w, r.Body, maxBinary)); err != nil {
		g.log.Error("a delivered agent was not taken", "error", err)
		writeError(w, err)
		return
	}
	g.log.Info("another agent has been delivered")
	w.WriteHeader(http.StatusNoContent)
	g.once.Do(func() { close(g.replaced) })
}

func (g *guest) put(ctx context.Context, sum string, content io.Reader) error {
	dir := g.options.runDir()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("making the folder of the agent: %w", err)
	}
	if err := allowExec(dir); err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, delivered+".*")
	if err != nil {
		return fmt.Errorf("keeping the delivered agent: %w", err)
	}
	defer os.Remove(f.Name()) // gone already when it took its place
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(io.MultiWriter(f, h), content); err != nil {
		return fmt.Errorf("keeping the delivered agent: %w", err)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != sum {
		return desktop.Errorf(desktop.Invalid, "the delivered agent's checksum is %s and not %s", got, sum)
	}
	if err := f.Chmod(0o755); err != nil {
		return fmt.Errorf("keeping the delivered agent: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("keeping the delivered agent: %w", err)
	}
	if err := probe(ctx, f.Name()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), filepath.Join(dir, delivered)); err != nil {
		return fmt.Errorf("keeping the delivered agent: %w", err)
	}
	return nil
}

// probe runs a binary as far as Run.
func probe(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	for {
		command := exec.CommandContext(ctx, path, os.Args[1:]...)
		command.Env = append(os.Environ(), probeVariable+"=1")
		var said bytes.Buffer
		command.Stdout, command.Stderr = &said, &said
		command.WaitDelay = time.Second
		err := command.Run()
		switch {
		case err == nil:
			return nil
		case errors.Is(err, unix.ETXTBSY) && ctx.Err() == nil:
			// A command that starts at this moment holds the file open for writing until it has.
			time.Sleep(10 * time.Millisecond)
		default:
			return desktop.Errorf(desktop.Unavailable, "the delivered agent does not run in this desktop: %w: %s",
				err, cleanLine(said.String(), 500))
		}
	}
}

// allowExec makes programs in dir startable where its file system forbids it, as /run does in
// Debian: the folder is mounted on itself without that restriction.
func allowExec(dir string) error {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return fmt.Errorf("looking at %s: %w", dir, err)
	}
	if fs.Flags&unix.ST_NOEXEC == 0 {
		return nil
	}
	// Recursive, to keep what is mounted below in sight.
	err := unix.Mount(dir, dir, "", unix.MS_BIND|unix.MS_REC, "")
	if err == nil {
		err = unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_NOSUID|unix.MS_NODEV, "")
	}
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s forbids programs and only root can change that: %w", dir, err)
	}
	if err != nil {
		return fmt.Errorf("allowing programs in %s: %w", dir, err)
	}
	return nil
}
