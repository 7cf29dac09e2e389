package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
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
	command := exec.CommandContext(ctx, path, os.Args[1:]...)
	command.Env = append(os.Environ(), probeVariable+"=1")
	var said bytes.Buffer
	command.Stdout, command.Stderr = &said, &said
	command.WaitDelay = time.Second
	if err := command.Run(); err != nil {
		return desktop.Errorf(desktop.Unavailable, "the delivered agent does not run in this desktop: %w: %s",
			err, cleanLine(said.String(), 500))
	}
	return nil
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
