package hypervisor

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"libvirt.org/go/libvirt"
)

// The agent's disk is a small ext2 file system labelled BUREAU with the host's own binary in it,
// one volume for each content, shared read-only by all machines. It is made without root, by
// mke2fs from a folder.
//
// A volume cannot be renamed, so completeness is marked otherwise: the first block, which has the
// superblock's magic number, is written last.

const (
	agentLabel      = "BUREAU"
	agentFile       = "bureau"
	agentBlock      = 4096
	agentMaximum    = 1 << 30
	superblockMagic = 0x438 // where 0xEF53 stands, little-endian
)

// agentDisk is the binary that guests are given.
type agentDisk struct {
	path   string
	digest string
	size   int64
}

func (a *agentDisk) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the agent's binary: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, io.LimitReader(file, agentMaximum+1))
	if err != nil {
		return fmt.Errorf("read the agent's binary: %w", err)
	}
	if size == 0 || size > agentMaximum {
		return fmt.Errorf("the agent's binary %s has %d bytes", path, size)
	}
	a.path, a.digest, a.size = path, hex.EncodeToString(sum.Sum(nil)), size
	return nil
}

// ensureAgent makes sure of the volume with the agent and names it.
func (h *Host) ensureAgent(ctx context.Context, c *libvirt.Connect) (string, error) {
	h.agents.Lock()
	defer h.agents.Unlock()
	name := agentVolume(h.agent.digest)
	if _, there, err := h.findVolume(c, name); err != nil {
		return "", err
	} else if there {
		start, err := h.download(ctx, c, name, agentBlock)
		if err == nil && isFileSystem(start) {
			return name, nil
		}
		if err := h.deleteVolume(c, name); err != nil {
			return "", err
		}
	}
	file, err := h.agent.build(ctx)
	if err != nil {
		return "", fmt.Errorf("make the agent's disk: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	if err := h.checkSpace(c, info.Size()); err != nil {
		return "", err
	}
	if err := h.createVolume(c, name, info.Size(), ""); err != nil {
		return "", err
	}
	ignore := func(int64) {}
	err = h.uploadFile(ctx, c, name, file, agentBlock, info.Size()-agentBlock, ignore)
	if err == nil {
		err = h.uploadFile(ctx, c, name, file, 0, agentBlock, ignore)
	}
	if err != nil {
		return "", errors.Join(err, h.deleteVolume(c, name))
	}
	h.log.Info("the agent's disk is made", "volume", name, "bytes", info.Size())
	return name, nil
}

func isFileSystem(start []byte) bool {
	return len(start) > superblockMagic+1 && start[superblockMagic] == 0x53 && start[superblockMagic+1] == 0xef
}

// build makes the file system in a temporary file that is already unlinked.
func (a *agentDisk) build(ctx context.Context) (*os.File, error) {
	folder, err := os.MkdirTemp("", "bureau-agent-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(folder)
	content := filepath.Join(folder, "content")
	if err := os.Mkdir(content, 0o755); err != nil {
		return nil, err
	}
	if err := copyExecutable(filepath.Join(content, agentFile), a.path, a.digest); err != nil {
		return nil, err
	}
	disk := filepath.Join(folder, "disk")
	mke2fs, err := tool("mke2fs")
	if err != nil {
		return nil, err
	}
	blocks := (a.size+a.size/32)/agentBlock + 512
	command := exec.CommandContext(ctx, mke2fs, "-q", "-F", "-t", "ext2", "-b", strconv.Itoa(agentBlock),
		"-m", "0", "-N", "16", "-L", agentLabel, "-O", "^resize_inode", "-E", "root_owner=0:0",
		"-d", content, disk, strconv.FormatInt(blocks, 10))
	if output, err := command.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, strings.TrimSpace(string(output)))
	}
	return os.Open(disk)
}

// copyExecutable copies the binary, which must still be the one that was read.
func copyExecutable(to, from, digest string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Chmod(0o755); err != nil { // whatever the umask
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(file, sum), source); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != digest {
		return fmt.Errorf("%s has changed since bureau was started", from)
	}
	return file.Close()
}

// tool finds a program, also where an ordinary user's PATH does not lead.
func tool(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, folder := range []string{"/usr/sbin", "/sbin"} {
		if path, sbinErr := exec.LookPath(filepath.Join(folder, name)); sbinErr == nil {
			return path, nil
		}
	}
	return "", err
}
