package hypervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// ensurePool makes the storage pool be there, active and started with the host.
func (h *Host) ensurePool(c *libvirt.Connect) error {
	name, path := h.opts.Pool.Name, h.opts.Pool.Path
	pool, err := c.LookupStoragePoolByName(name)
	if isCode(err, libvirt.ERR_NO_STORAGE_POOL) {
		definition := libvirtxml.StoragePool{Type: "dir", Name: name, Target: &libvirtxml.StoragePoolTarget{Path: path}}
		document, xmlErr := definition.Marshal()
		if xmlErr != nil {
			return xmlErr
		}
		pool, err = c.StoragePoolDefineXML(document, 0)
		if err != nil {
			// Another bureau may have been first.
			if other, lookupErr := c.LookupStoragePoolByName(name); lookupErr == nil {
				pool, err = other, nil
			}
		}
	}
	if err != nil {
		return fmt.Errorf("define storage pool %s at %s: %w", name, path, err)
	}
	defer pool.Free()
	active, err := pool.IsActive()
	if err != nil {
		return fmt.Errorf("look at storage pool %s: %w", name, err)
	}
	if !active {
		// Build makes the folder, or leaves one that is there as it is.
		if err := pool.Build(libvirt.STORAGE_POOL_BUILD_NEW); err != nil {
			return fmt.Errorf("make the folder of storage pool %s: %w", name, err)
		}
		if err := pool.Create(libvirt.STORAGE_POOL_CREATE_NORMAL); err != nil {
			if active, activeErr := pool.IsActive(); activeErr != nil || !active {
				return fmt.Errorf("start storage pool %s: %w", name, err)
			}
		}
	}
	if err := pool.SetAutostart(true); err != nil {
		return fmt.Errorf("start storage pool %s with the host: %w", name, err)
	}
	return nil
}

// withPool calls fn with the storage pool.
func (h *Host) withPool(c *libvirt.Connect, fn func(*libvirt.StoragePool) error) error {
	pool, err := c.LookupStoragePoolByName(h.opts.Pool.Name)
	if err != nil {
		return fmt.Errorf("find storage pool %s: %w", h.opts.Pool.Name, err)
	}
	defer pool.Free()
	return fn(pool)
}

// volume is what is known of a volume.
type volume struct {
	name, path string
	capacity   int64
	allocation int64
	backing    string // path of the backing volume
	modified   time.Time
}

func describeVolume(v *libvirt.StorageVol) (volume, error) {
	document, err := v.GetXMLDesc(0)
	if err != nil {
		return volume{}, err
	}
	var parsed libvirtxml.StorageVolume
	if err := parsed.Unmarshal(document); err != nil {
		return volume{}, fmt.Errorf("decode a volume's description: %w", err)
	}
	described := volume{name: parsed.Name}
	if parsed.Target != nil && parsed.Target.Timestamps != nil {
		described.modified = fromTimestamp(parsed.Target.Timestamps.Mtime)
	}
	if parsed.Target != nil {
		described.path = parsed.Target.Path
	}
	if parsed.Capacity != nil {
		described.capacity = int64(parsed.Capacity.Value)
	}
	if parsed.Allocation != nil {
		described.allocation = int64(parsed.Allocation.Value)
	}
	if parsed.BackingStore != nil {
		described.backing = parsed.BackingStore.Path
	}
	return described, nil
}

// findVolume describes the volume of that name; ok is false when there is none.
func (h *Host) findVolume(c *libvirt.Connect, name string) (found volume, ok bool, err error) {
	err = h.withPool(c, func(pool *libvirt.StoragePool) error {
		v, err := pool.LookupStorageVolByName(name)
		if isCode(err, libvirt.ERR_NO_STORAGE_VOL) {
			return nil
		}
		if err != nil {
			return err
		}
		defer v.Free()
		found, err = describeVolume(v)
		if isCode(err, libvirt.ERR_NO_STORAGE_VOL) {
			return nil
		}
		ok = err == nil
		return err
	})
	if err != nil {
		err = fmt.Errorf("look for volume %s: %w", name, err)
	}
	return found, ok, err
}

// volumePath is where the volume of that name is on the host.
func (h *Host) volumePath(c *libvirt.Connect, name string) (string, error) {
	v, ok, err := h.findVolume(c, name)
	if err == nil && !ok {
		err = fmt.Errorf("volume %s has gone from pool %s", name, h.opts.Pool.Name)
	}
	return v.path, err
}

// listVolumes describes all volumes of the pool.
func (h *Host) listVolumes(c *libvirt.Connect) ([]volume, error) {
	var list []volume
	err := h.withPool(c, func(pool *libvirt.StoragePool) error {
		volumes, err := pool.ListAllStorageVolumes(0)
		if err != nil {
			return err
		}
		for i := range volumes {
			v := &volumes[i]
			described, err := describeVolume(v)
			v.Free()
			if isCode(err, libvirt.ERR_NO_STORAGE_VOL) {
				continue // deleted meanwhile
			}
			if err != nil {
				return err
			}
			list = append(list, described)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("list the volumes of pool %s: %w", h.opts.Pool.Name, err)
	}
	return list, nil
}

// createVolume makes a volume. One with a backing volume is a qcow2 overlay; one without is raw,
// sparse and readable by everyone: images and agents are no secrets, and many machines share them.
func (h *Host) createVolume(c *libvirt.Connect, name string, capacity int64, backing string) error {
	definition := libvirtxml.StorageVolume{
		Name:       name,
		Capacity:   &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: uint64(capacity)},
		Allocation: &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: 0},
		Target: &libvirtxml.StorageVolumeTarget{
			Format:      &libvirtxml.StorageVolumeTargetFormat{Type: "raw"},
			Permissions: &libvirtxml.StorageVolumeTargetPermissions{Mode: "0644"},
		},
	}
	if backing != "" {
		definition.Target.Format.Type = "qcow2"
		definition.Target.Permissions.Mode = "0600"
		definition.BackingStore = &libvirtxml.StorageVolumeBackingStore{
			Path:   backing,
			Format: &libvirtxml.StorageVolumeTargetFormat{Type: "qcow2"},
		}
	}
	document, err := definition.Marshal()
	if err != nil {
		return err
	}
	err = h.withPool(c, func(pool *libvirt.StoragePool) error {
		v, err := pool.StorageVolCreateXML(document, 0)
		if err == nil {
			v.Free()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("make volume %s: %w", name, err)
	}
	return nil
}

// deleteVolume removes a volume; one that is not there is success.
func (h *Host) deleteVolume(c *libvirt.Connect, name string) error {
	err := h.withPool(c, func(pool *libvirt.StoragePool) error {
		v, err := pool.LookupStorageVolByName(name)
		if err != nil {
			return err
		}
		defer v.Free()
		return v.Delete(libvirt.STORAGE_VOL_DELETE_NORMAL)
	})
	if err != nil && !isCode(err, libvirt.ERR_NO_STORAGE_VOL) {
		return fmt.Errorf("delete volume %s: %w", name, err)
	}
	return nil
}

// transferSize is the largest piece that every libvirt takes in one message.
const transferSize = 262120

// uploadFile writes part of a file into the same place of a volume. Holes of the file are not sent.
func (h *Host) uploadFile(ctx context.Context, c *libvirt.Connect, name string, file *os.File, offset, length int64, sent func(int64)) error {
	return h.upload(ctx, c, name, offset, length, libvirt.STORAGE_VOL_UPLOAD_SPARSE_STREAM, func(stream *libvirt.Stream) error {
		buffer := make([]byte, transferSize)
		for at := offset; at < offset+length; {
			if err := ctx.Err(); err != nil {
				return err
			}
			data, hole, err := nextExtent(file, at, offset+length)
			if err != nil {
				return err
			}
			if hole > 0 {
				if err := stream.SendHole(hole, 0); err != nil {
					return err
				}
				at += hole
				sent(hole)
				continue
			}
			n, err := file.ReadAt(buffer[:min(data, transferSize)], at)
			if n == 0 {
				if err == io.EOF {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
			if err := sendAll(stream, buffer[:n]); err != nil {
				return err
			}
			at += int64(n)
			sent(int64(n))
		}
		return nil
	})
}

// nextExtent says how many bytes of data, or else of hole, begin at a place of the file.
func nextExtent(file *os.File, at, end int64) (data, hole int64, err error) {
	next, err := unix.Seek(int(file.Fd()), at, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but a hole from here on
		return 0, end - at, nil
	case errors.Is(err, unix.EINVAL): // a file system without holes
		return end - at, 0, nil
	case err != nil:
		return 0, 0, fmt.Errorf("find the holes of %s: %w", file.Name(), err)
	case next > at:
		return 0, min(next, end) - at, nil
	}
	next, err = unix.Seek(int(file.Fd()), at, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, fmt.Errorf("find the holes of %s: %w", file.Name(), err)
	}
	return min(next, end) - at, 0, nil
}

// uploadBytes writes data to the beginning of a volume.
func (h *Host) uploadBytes(ctx context.Context, c *libvirt.Connect, name string, data []byte) error {
	return h.upload(ctx, c, name, 0, int64(len(data)), 0, func(stream *libvirt.Stream) error {
		return sendAll(stream, data)
	})
}

func sendAll(stream *libvirt.Stream, data []byte) error {
	for len(data) > 0 {
		n, err := stream.Send(data)
		if err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

func (h *Host) upload(ctx context.Context, c *libvirt.Connect, name string, offset, length int64, flags libvirt.StorageVolUploadFlags, send func(*libvirt.Stream) error) error {
	err := h.withStream(c, name, func(v *libvirt.StorageVol, stream *libvirt.Stream) error {
		if err := v.Upload(stream, uint64(offset), uint64(length), flags); err != nil {
			return err
		}
		return send(stream)
	})
	if err != nil {
		return fmt.Errorf("fill volume %s: %w", name, err)
	}
	return nil
}

// download reads the beginning of a volume, as far as it goes and at most limit bytes.
func (h *Host) download(ctx context.Context, c *libvirt.Connect, name string, limit int64) ([]byte, error) {
	var content bytes.Buffer
	err := h.withStream(c, name, func(v *libvirt.StorageVol, stream *libvirt.Stream) error {
		if err := v.Download(stream, 0, uint64(limit), 0); err != nil {
			return err
		}
		buffer := make([]byte, transferSize)
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := stream.Recv(buffer)
			if err == io.EOF {
				return nil
			}
			if err != nil {
				return err
			}
			content.Write(buffer[:n])
		}
	})
	if err != nil {
		return nil, fmt.Errorf("read volume %s: %w", name, err)
	}
	return content.Bytes(), nil
}

// withStream finishes the stream when fn succeeds, which confirms that the data has arrived, and
// aborts it otherwise.
func (h *Host) withStream(c *libvirt.Connect, name string, fn func(*libvirt.StorageVol, *libvirt.Stream) error) error {
	return h.withPool(c, func(pool *libvirt.StoragePool) error {
		v, err := pool.LookupStorageVolByName(name)
		if err != nil {
			return err
		}
		defer v.Free()
		stream, err := c.NewStream(0)
		if err != nil {
			return err
		}
		defer stream.Free()
		if err := fn(v, stream); err != nil {
			stream.Abort()
			return err
		}
		return stream.Finish()
	})
}

// checkSpace says whether the pool has room for that many bytes and what is to stay free.
func (h *Host) checkSpace(c *libvirt.Connect, want int64) error {
	return h.withPool(c, func(pool *libvirt.StoragePool) error {
		h.refresh(pool)
		info, err := pool.GetInfo()
		if err != nil {
			return fmt.Errorf("measure pool %s: %w", h.opts.Pool.Name, err)
		}
		needed, free := want+h.opts.LeastSpace, int64(info.Available)
		if free < needed {
			return &desktop.Error{
				Code:    desktop.Exhausted,
				Message: fmt.Sprintf("the host's disk is full: %d MiB are needed, %d MiB are free", needed>>20, free>>20),
				Details: map[string]any{"resource": desktop.ResourceDisk, "needed": needed, "free": free},
			}
		}
		return nil
	})
}
