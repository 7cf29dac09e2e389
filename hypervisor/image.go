package hypervisor

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"libvirt.org/go/libvirt"

	"bureau/desktop"
)

// An image is a content and a name for it.
//
// The content is volumes named by its digest: the disk, for direct boot a kernel and an initial
// RAM disk, and last a manifest, whose presence says that the others are complete. It never
// changes. The name is a manifest of its own that says which content it stands for; importing
// another content under the same name replaces it in one write. Desktops hold on to the digest:
// they keep the content that they were made from for as long as they live.

const (
	bootKernel = "kernel"
	bootDisk   = "disk"

	// A manifest is one block of a fixed size, so that it is written at once.
	manifestSize     = 4096
	descriptionLimit = 1000
)

// ImageFiles is an image to import, as files that this process can read.
type ImageFiles struct {
	Name        string
	Digest      string // sha256 in hex of what it was made from; of the files when empty
	Description string
	Boot        string // "kernel" or "disk"
	Disk        string // a qcow2 image that stands on its own
	Kernel      string // of Boot "kernel"
	Initrd      string
	DiskBytes   int64 // the least size of a desktop's disk; the image's own when smaller
}

func (f ImageFiles) check() error {
	switch {
	case !validImage.MatchString(f.Name):
		return desktop.Errorf(desktop.Invalid, "%q is not an image's name: it is lower-case letters, digits, dots, hyphens and underscores", f.Name)
	case f.Digest != "" && !validHex.MatchString(f.Digest):
		return desktop.Errorf(desktop.Invalid, "%q is not a sha256 in hex", f.Digest)
	case len(f.Description) > descriptionLimit:
		return desktop.Errorf(desktop.TooLarge, "the image's description is longer than %d bytes", descriptionLimit)
	case f.Boot == bootDisk && (f.Kernel != "" || f.Initrd != ""):
		return desktop.Errorf(desktop.Invalid, "an image that boots from its disk has no kernel beside it")
	case f.Boot == bootKernel && (f.Kernel == "" || f.Initrd == ""):
		return desktop.Errorf(desktop.Invalid, "an image that boots a kernel needs the kernel and its initial RAM disk")
	case f.Boot != bootKernel && f.Boot != bootDisk:
		return desktop.Errorf(desktop.Invalid, "boot is %q; it is kernel or disk", f.Boot)
	case f.DiskBytes < 0 || f.DiskBytes > imageDiskMaximum:
		return desktop.Errorf(desktop.Invalid, "a disk cannot have %d bytes", f.DiskBytes)
	}
	return nil
}

// imagePart is one file of an image.
type imagePart struct{ part, path string }

// parts are the files in the order in which they are uploaded, small ones first.
func (f ImageFiles) parts() []imagePart {
	var list []imagePart
	if f.Boot == bootKernel {
		list = []imagePart{{"vmlinuz", f.Kernel}, {"initrd", f.Initrd}}
	}
	return append(list, imagePart{"qcow2", f.Disk})
}

// ImportImage brings an image into the pool and gives it its name; what is there already is not
// brought again. progress, when not nil, is called with the bytes done so far, one call at a time
// and none after the return.
func (h *Host) ImportImage(ctx context.Context, files ImageFiles, progress func(done, total int64)) (desktop.Image, error) {
	if err := files.check(); err != nil {
		return desktop.Image{}, err
	}
	size, err := checkDisk(ctx, files.Disk)
	if err != nil {
		return desktop.Image{}, err
	}
	files.DiskBytes = max(files.DiskBytes, size)
	if files.Digest == "" {
		if files.Digest, err = digestOf(ctx, files.parts()); err != nil {
			return desktop.Image{}, err
		}
	}
	var mu sync.Mutex
	over := progress == nil
	report := func(done, total int64) {
		mu.Lock()
		defer mu.Unlock()
		if !over {
			progress(done, total)
		}
	}
	defer func() {
		mu.Lock()
		defer mu.Unlock()
		over = true
	}()
	return run(ctx, h, importTime, "import image "+files.Name, func(ctx context.Context, c *libvirt.Connect) (desktop.Image, error) {
		unlock, err := h.machines.lock(ctx, "image "+files.Digest)
		if err != nil {
			return desktop.Image{}, err
		}
		defer unlock()
		image, err := h.importContent(ctx, c, files, report)
		if err != nil {
			return desktop.Image{}, err
		}
		h.images.Lock()
		defer h.images.Unlock()
		if err := h.writeManifest(ctx, c, manifestVolume(files.Name), image); err != nil {
			// Nobody's, unless it has another name.
			return desktop.Image{}, errors.Join(err, h.removeUnusedContents(context.WithoutCancel(ctx), c))
		}
		// The content that the name stood for before may be nobody's now.
		return image, h.removeUnusedContents(ctx, c)
	})
}

func digestOf(ctx context.Context, parts []imagePart) (string, error) {
	sum := sha256.New()
	for _, p := range parts {
		err := func() error {
			file, err := os.Open(p.path)
			if err != nil {
				return err
			}
			defer file.Close()
			_, err = io.Copy(sum, &contextReader{ctx, file})
			return err
		}()
		if err != nil {
			return "", fmt.Errorf("read the image's %s: %w", p.part, err)
		}
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}

type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r *contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// importContent uploads the parts of an image, unless the content is complete already.
func (h *Host) importContent(ctx context.Context, c *libvirt.Connect, files ImageFiles, progress func(done, total int64)) (desktop.Image, error) {
	image := desktop.Image{
		Name:        files.Name,
		Digest:      files.Digest,
		Description: files.Description,
		Boot:        files.Boot,
		DiskBytes:   files.DiskBytes,
		CreatedAt:   time.Now().UTC().Truncate(time.Second),
	}
	content, complete, err := h.content(ctx, c, files.Digest)
	if err != nil {
		return image, err
	}
	if complete {
		image.Boot, image.DiskBytes = content.Boot, content.DiskBytes
		image.SizeBytes, image.CreatedAt = content.SizeBytes, content.CreatedAt
		return image, nil
	}
	var opened []*os.File
	defer func() {
		for _, file := range opened {
			file.Close()
		}
	}()
	var total, done int64
	for _, p := range files.parts() {
		file, err := os.Open(p.path)
		if err != nil {
			return image, desktop.Errorf(desktop.Invalid, "the image's %s cannot be opened: %w", filepath.Base(p.path), err)
		}
		opened = append(opened, file)
		info, err := file.Stat()
		if err != nil {
			return image, err
		}
		if !info.Mode().IsRegular() || info.Size() == 0 {
			return image, desktop.Errorf(desktop.Invalid, "the image's %s is not a file with content", filepath.Base(p.path))
		}
		total += info.Size()
	}
	if err := h.checkSpace(c, total); err != nil {
		return image, err
	}
	err = h.fill(ctx, c, files, opened, &image, func(n int64) {
		done += n
		progress(done, total)
	})
	if err == nil {
		err = h.writeManifest(ctx, c, contentVolume(files.Digest, "json"), image)
	}
	if err != nil {
		// A part of an image is of no use, and may be what has filled the disk.
		for _, p := range files.parts() {
			err = errors.Join(err, h.deleteVolume(c, contentVolume(files.Digest, p.part)))
		}
	}
	return image, err
}

// fill makes the volumes of an image's parts.
func (h *Host) fill(ctx context.Context, c *libvirt.Connect, files ImageFiles, opened []*os.File, image *desktop.Image, sent func(int64)) error {
	for i, p := range files.parts() {
		info, err := opened[i].Stat()
		if err != nil {
			return err
		}
		name := contentVolume(files.Digest, p.part)
		if err := h.deleteVolume(c, name); err != nil { // of an import that was interrupted
			return err
		}
		if err := h.createVolume(c, name, info.Size(), ""); err != nil {
			return err
		}
		if err := h.uploadFile(ctx, c, name, opened[i], 0, info.Size(), sent); err != nil {
			return err
		}
		v, ok, err := h.findVolume(c, name)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("volume %s vanished while it was filled", name)
		}
		image.SizeBytes += v.allocation
	}
	return ctx.Err()
}

// writeManifest writes an image's manifest into a volume, whole or not at all.
func (h *Host) writeManifest(ctx context.Context, c *libvirt.Connect, name string, image desktop.Image) error {
	block, err := encodeManifest(image)
	if err != nil {
		return err
	}
	_, there, err := h.findVolume(c, name)
	if err != nil {
		return err
	}
	if !there {
		if err := h.createVolume(c, name, manifestSize, ""); err != nil {
			return err
		}
	}
	if err := h.uploadBytes(ctx, c, name, block); err != nil {
		if !there {
			err = errors.Join(err, h.deleteVolume(c, name))
		}
		return err
	}
	return nil
}

func encodeManifest(image desktop.Image) ([]byte, error) {
	text, err := json.Marshal(image)
	if err != nil {
		return nil, fmt.Errorf("encode the manifest of image %s: %w", image.Name, err)
	}
	if len(text) > manifestSize {
		return nil, desktop.Errorf(desktop.TooLarge, "the manifest of image %s is longer than %d bytes", image.Name, manifestSize)
	}
	return append(text, bytes.Repeat([]byte{' '}, manifestSize-len(text))...), nil
}

// decodeManifest reads what encodeManifest made; ok is false for a volume that was made and never
// written.
func decodeManifest(block []byte) (image desktop.Image, ok bool, err error) {
	text := bytes.Trim(block, " \x00")
	if len(text) == 0 {
		return desktop.Image{}, false, nil
	}
	if err := json.Unmarshal(text, &image); err != nil {
		return desktop.Image{}, false, fmt.Errorf("decode an image's manifest: %w", err)
	}
	if !validImage.MatchString(image.Name) || !validHex.MatchString(image.Digest) || (image.Boot != bootKernel && image.Boot != bootDisk) {
		return desktop.Image{}, false, errors.New("an image's manifest has not what it must have")
	}
	return image, true, nil
}

func (h *Host) readManifest(ctx context.Context, c *libvirt.Connect, name string) (desktop.Image, bool, error) {
	block, err := h.download(ctx, c, name, manifestSize)
	if isCode(err, libvirt.ERR_NO_STORAGE_VOL) {
		return desktop.Image{}, false, nil
	}
	if err != nil {
		return desktop.Image{}, false, err
	}
	image, ok, err := decodeManifest(block)
	if err != nil {
		return desktop.Image{}, false, fmt.Errorf("volume %s: %w", name, err)
	}
	return image, ok, nil
}

// content is the manifest of a content; ok is false when it is not there, or not complete.
func (h *Host) content(ctx context.Context, c *libvirt.Connect, digest string) (image desktop.Image, ok bool, err error) {
	image, ok, err = h.readManifest(ctx, c, contentVolume(digest, "json"))
	if ok && image.Digest != digest {
		return desktop.Image{}, false, nil
	}
	return image, ok, err
}

// Image implements desktop.Machines.
func (h *Host) Image(ctx context.Context, name string) (desktop.Image, error) {
	missing := desktop.Errorf(desktop.NotFound, "there is no image %q on this host; make one with `bureau image build`", name)
	if !validImage.MatchString(name) {
		return desktop.Image{}, missing
	}
	return run(ctx, h, queryTime, "find the image", func(ctx context.Context, c *libvirt.Connect) (desktop.Image, error) {
		image, ok, err := h.readManifest(ctx, c, manifestVolume(name))
		if err == nil && !ok {
			err = missing
		}
		return image, err
	})
}

// Images implements desktop.Machines.
func (h *Host) Images(ctx context.Context) ([]desktop.Image, error) {
	return run(ctx, h, queryTime, "list the images", func(ctx context.Context, c *libvirt.Connect) ([]desktop.Image, error) {
		volumes, err := h.listVolumes(c)
		if err != nil {
			return nil, err
		}
		return h.namedImages(ctx, c, volumes)
	})
}

// namedImages reads the manifests among the volumes. One that cannot be read is reported and left
// out: it must not make the others useless.
func (h *Host) namedImages(ctx context.Context, c *libvirt.Connect, volumes []volume) ([]desktop.Image, error) {
	images := []desktop.Image{}
	for _, v := range volumes {
		name, isManifest := strings.CutPrefix(v.name, "image-")
		name, isJSON := strings.CutSuffix(name, ".json")
		if !isManifest || !isJSON {
			continue
		}
		image, ok, err := h.readManifest(ctx, c, v.name)
		var libvirtError libvirt.Error
		switch {
		case errors.As(err, &libvirtError) || ctx.Err() != nil:
			return nil, err
		case err != nil:
			h.log.Error("an image's manifest cannot be read", "volume", v.name, "error", err)
		case ok && image.Name == name:
			images = append(images, image)
		}
	}
	slices.SortFunc(images, func(a, b desktop.Image) int { return strings.Compare(a.Name, b.Name) })
	return images, nil
}

// RemoveImage takes an image off the host; one that is not there is success. It is Conflict while
// desktops are based on it.
func (h *Host) RemoveImage(ctx context.Context, name string) error {
	if !validImage.MatchString(name) {
		return nil
	}
	_, err := run(ctx, h, removeTime, "remove image "+name, func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		h.images.Lock()
		defer h.images.Unlock()
		image, ok, err := h.readManifest(ctx, c, manifestVolume(name))
		if err != nil {
			return struct{}{}, err
		}
		if ok {
			volumes, err := h.listVolumes(c)
			if err != nil {
				return struct{}{}, err
			}
			if users := overlaysOn(volumes, image.Digest); len(users) > 0 {
				return struct{}{}, &desktop.Error{
					Code:    desktop.Conflict,
					Message: fmt.Sprintf("image %s is the base of %s", name, strings.Join(users, ", ")),
					Details: map[string]any{"desktops": users},
				}
			}
		}
		if err := h.deleteVolume(c, manifestVolume(name)); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, h.removeUnusedContents(ctx, c)
	})
	return err
}

// overlaysOn are the ids of the desktops whose disks are based on a content.
func overlaysOn(volumes []volume, digest string) []string {
	var ids []string
	for _, v := range volumes {
		if v.backing == "" || filepath.Base(v.backing) != contentVolume(digest, "qcow2") {
			continue
		}
		id := strings.TrimSuffix(strings.TrimPrefix(v.name, "desktop-"), ".qcow2")
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// removeUnusedContents deletes the complete contents that neither a name nor a disk refers to. The
// manifest goes first: what is left after an interruption is an incomplete content, which the next
// import of it replaces. Incomplete ones are left alone, because another process may be filling
// them. The caller holds h.images.
func (h *Host) removeUnusedContents(ctx context.Context, c *libvirt.Connect) error {
	volumes, err := h.listVolumes(c)
	if err != nil {
		return err
	}
	named, err := h.namedImages(ctx, c, volumes)
	if err != nil {
		return err
	}
	keep := map[string]bool{}
	for _, image := range named {
		keep[contentVolume(image.Digest, "json")] = true
	}
	for _, v := range volumes {
		if !strings.HasPrefix(v.name, "content-") || !strings.HasSuffix(v.name, ".json") || keep[v.name] {
			continue
		}
		content, ok, err := h.readManifest(ctx, c, v.name)
		if err != nil || !ok || len(overlaysOn(volumes, content.Digest)) > 0 {
			continue
		}
		if slices.ContainsFunc(named, func(i desktop.Image) bool { return i.Digest == content.Digest }) {
			continue
		}
		for _, part := range []string{"json", "qcow2", "vmlinuz", "initrd"} {
			if err := h.deleteVolume(c, contentVolume(content.Digest, part)); err != nil {
				return err
			}
		}
		h.log.Info("an image's content that nothing refers to is removed", "image", content.Name, "digest", content.Digest)
	}
	return nil
}
