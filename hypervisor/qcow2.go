package hypervisor

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"bureau/desktop"
)

// An image comes from outside, and what its header says is read by QEMU with QEMU's rights: one
// that names a backing file or an external data file would hand a host's file to a guest. So only
// a qcow2 image that stands on its own is taken, by its header here and by qemu-img's word.

const (
	qcow2Magic           = 0x514649fb
	qcow2ExternalData    = 1 << 2
	qcow2KnownFeatures   = 1<<0 | 1<<1 | 1<<2 | 1<<3 | 1<<4
	qcow2ExtensionBack   = 0xe2792aca
	qcow2ExtensionData   = 0x44415441
	qcow2ExtensionCrypto = 0x0537be77
	qcow2HeaderMaximum   = 64 << 10
	imageDiskMaximum     = 16 << 40
)

// checkQCOW2 reads the header of an image and returns the disk's size.
func checkQCOW2(r io.Reader) (size int64, err error) {
	refuse := func(format string, args ...any) (int64, error) {
		return 0, desktop.Errorf(desktop.Invalid, "the disk image "+format, args...)
	}
	header, err := io.ReadAll(io.LimitReader(r, qcow2HeaderMaximum))
	if err != nil {
		return 0, fmt.Errorf("read the disk image: %w", err)
	}
	if len(header) < 4 || binary.BigEndian.Uint32(header) != qcow2Magic {
		return refuse("is not in the qcow2 format; convert it with `qemu-img convert -O qcow2`")
	}
	if len(header) < 72 {
		return refuse("is cut off in its header")
	}
	version := binary.BigEndian.Uint32(header[4:])
	backing := binary.BigEndian.Uint64(header[8:])
	clusterBits := binary.BigEndian.Uint32(header[20:])
	bytes := binary.BigEndian.Uint64(header[24:])
	crypt := binary.BigEndian.Uint32(header[32:])
	switch {
	case version != 2 && version != 3:
		return refuse("has the unknown qcow2 version %d", version)
	case backing != 0:
		return refuse("has a backing file; flatten it with `qemu-img convert -O qcow2`")
	case crypt != 0:
		return refuse("is encrypted")
	case clusterBits < 9 || clusterBits > 21:
		return refuse("has clusters of 2^%d bytes", clusterBits)
	case bytes == 0 || bytes > imageDiskMaximum:
		return refuse("has a disk of %d bytes", bytes)
	}
	length := uint32(72)
	if version == 3 {
		if len(header) < 104 {
			return refuse("is cut off in its header")
		}
		features := binary.BigEndian.Uint64(header[72:])
		length = binary.BigEndian.Uint32(header[100:])
		switch {
		case features&qcow2ExternalData != 0:
			return refuse("keeps its data in another file; flatten it with `qemu-img convert -O qcow2`")
		case features&^qcow2KnownFeatures != 0:
			return refuse("has unknown features %#x", features)
		case length < 104 || length%8 != 0 || int64(length) > int64(len(header)):
			return refuse("has a header of %d bytes", length)
		}
	}
	for rest := header[length:]; ; {
		if len(rest) < 8 {
			return refuse("is cut off in its header")
		}
		kind, size := binary.BigEndian.Uint32(rest), int64(binary.BigEndian.Uint32(rest[4:]))
		rest = rest[8:]
		switch kind {
		case 0:
			return int64(bytes), nil
		case qcow2ExtensionBack, qcow2ExtensionData:
			return refuse("names another file; flatten it with `qemu-img convert -O qcow2`")
		case qcow2ExtensionCrypto:
			return refuse("is encrypted")
		}
		if size = (size + 7) &^ 7; size > int64(len(rest)) {
			return refuse("is cut off in its header")
		}
		rest = rest[size:]
	}
}

// checkDisk checks an image's file, in both ways, and returns the size of its disk.
func checkDisk(ctx context.Context, path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, desktop.Errorf(desktop.Invalid, "the disk image cannot be opened: %w", err)
	}
	defer file.Close()
	size, err := checkQCOW2(file)
	if err != nil {
		return 0, err
	}
	qemuImg, err := tool("qemu-img")
	if err != nil {
		return 0, fmt.Errorf("find qemu-img: %w", err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, qemuImg, "info", "--output=json", "-f", "qcow2", "-U", "file:"+path)
	var complaint strings.Builder
	command.Stderr = &complaint
	output, err := command.Output()
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		return 0, desktop.Errorf(desktop.Invalid, "the disk image is not sound: %s", strings.TrimSpace(complaint.String()))
	}
	var info struct {
		Size     int64   `json:"virtual-size"`
		Backing  *string `json:"backing-filename"`
		Specific struct {
			Data struct {
				DataFile *string `json:"data-file"`
				Corrupt  bool    `json:"corrupt"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(output, &info); err != nil {
		return 0, fmt.Errorf("decode the words of qemu-img: %w", err)
	}
	switch {
	case info.Backing != nil || info.Specific.Data.DataFile != nil:
		return 0, desktop.Errorf(desktop.Invalid, "the disk image names another file; flatten it with `qemu-img convert -O qcow2`")
	case info.Specific.Data.Corrupt:
		return 0, desktop.Errorf(desktop.Invalid, "the disk image is marked corrupt")
	case info.Size != size:
		return 0, desktop.Errorf(desktop.Invalid, "the disk image changed while it was looked at")
	}
	return size, nil
}
