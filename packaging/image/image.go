// Package image builds the disk images that desktops are based on, from the recipes beside it and
// the packages of a Debian mirror. It needs root (for a chroot), mmdebstrap, e2fsprogs and
// qemu-img, but no loop device, no mount that outlives it and no KVM.
//
// What comes out is files in a cache directory. The package knows nothing of libvirt, where the
// files are imported to, nor of the running appliance.
package image

import (
	"context"
	"time"
)

// Files is a finished image. Boot is "kernel": the host boots Kernel and Initrd, with Disk, a qcow2
// file holding one ext4 file system and no partition table, as the root.
type Files struct {
	Name        string    `json:"name"`
	Digest      string    `json:"digest"` // of the recipe and of every package with its version
	Recipe      string    `json:"recipe"` // digest of the recipe alone, what the cache goes by
	Description string    `json:"description"`
	Boot        string    `json:"boot"`
	Disk        string    `json:"disk"` // absolute path, as those below
	Kernel      string    `json:"kernel"`
	Initrd      string    `json:"initrd"`
	Packages    string    `json:"packages"`  // a list of the packages and their versions
	DiskBytes   int64     `json:"diskBytes"` // the least size of a desktop's disk
	SizeBytes   int64     `json:"sizeBytes"` // what the disk file takes
	BuiltAt     time.Time `json:"builtAt"`
}

// DefaultMirror is where packages come from.
const DefaultMirror = "http://deb.debian.org/debian"

// DefaultCacheDir is where finished images are kept.
const DefaultCacheDir = "/var/cache/bureau/images"

// Options of a build. The zero value builds into DefaultCacheDir from DefaultMirror, quietly.
type Options struct {
	// CacheDir keeps one folder for each recipe digest.
	CacheDir string
	// WorkDir is where the image is put together; a folder in CacheDir by default. It has to allow
	// device files and set-user-id bits.
	WorkDir string
	// Mirror is a Debian mirror. The security archive is taken from beside it when its address
	// ends in /debian.
	Mirror string
	// Fresh builds again, with the mirror's present packages, even if the cache has the image.
	Fresh bool
	// Progress is told how far the build has come, from one goroutine.
	Progress func(Progress)
}

// Progress is how far a build has come. Total is 0 where only the stage is known.
type Progress struct {
	Stage string `json:"stage"` // one of Stages
	Done  int    `json:"done"`
	Total int    `json:"total"`
	Note  string `json:"note,omitempty"` // what is being done, in a few words
}

// Stages of a build, in their order. "wait" is only seen when another build of the same recipe is
// under way, and nothing at all when the cache has the image.
var Stages = []string{"wait", "packages", "customize", "filesystem", "disk"}

func (o Options) withDefaults() Options {
	if o.CacheDir == "" {
		o.CacheDir = DefaultCacheDir
	}
	if o.Mirror == "" {
		o.Mirror = DefaultMirror
	}
	if o.WorkDir == "" {
		o.WorkDir = o.CacheDir
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	return o
}

// Build makes the recipe's image, or finds it in the cache. It is safe to run several times at
// once: builds of the same recipe wait for each other. When it fails or ctx ends, nothing is left
// behind but a log, whose path the error names.
func Build(ctx context.Context, recipe Recipe, options Options) (Files, error) {
	b := &builder{recipe: recipe, Options: options.withDefaults()}
	return b.build(ctx)
}
