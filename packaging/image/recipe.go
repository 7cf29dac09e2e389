package image

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"bureau/desktop"
)

// A recipe is a folder: recipe.yaml says what the image is for and which packages it has on top of
// common/packages, files/ is laid over the root file system after common/files, and an executable
// customize, if there is one, runs after common/customize.

//go:embed all:common all:desktop all:minimal
var builtin embed.FS

// builderVersion changes whenever this package turns the same recipe into something else.
const builderVersion = "1"

// Recipe says what an image is made of.
type Recipe struct {
	Name        string   `yaml:"-"`
	Description string   `yaml:"description"`
	Suite       string   `yaml:"suite"`     // of Debian: stable, or a release's code name
	Session     string   `yaml:"session"`   // the X session that lightdm starts
	DiskBytes   int64    `yaml:"diskBytes"` // size of the file system; desktops' disks are as large or larger
	Packages    []string `yaml:"packages"`  // those of common/packages are added

	files      []file
	customize  [][]byte // scripts, in order
	preinstall []file   // of files, those that must be there before the packages are
}

// file is one that is laid over the root file system.
type file struct {
	path string // relative to the root
	mode fs.FileMode
	data []byte
}

// Builtin lists the names of the recipes that bureau brings along.
func Builtin() []string {
	entries, _ := builtin.ReadDir(".")
	var names []string
	for _, e := range entries {
		if e.Name() != "common" {
			names = append(names, e.Name())
		}
	}
	return names
}

// Load reads a recipe: one of the built-in ones by its name, or any folder by a path that has a
// slash in it.
func Load(nameOrPath string) (Recipe, error) {
	if strings.ContainsRune(nameOrPath, filepath.Separator) {
		dir, err := filepath.Abs(nameOrPath)
		if err != nil {
			return Recipe{}, fmt.Errorf("recipe: %w", err)
		}
		return load(os.DirFS(dir), filepath.Base(dir))
	}
	sub, err := fs.Sub(builtin, nameOrPath)
	if err != nil || nameOrPath == "common" || !slices.Contains(Builtin(), nameOrPath) {
		return Recipe{}, desktop.Errorf(desktop.NotFound,
			"no recipe is called %q: there are %s, or give the path of a folder with a recipe.yaml (./%s)",
			nameOrPath, strings.Join(Builtin(), " and "), nameOrPath)
	}
	return load(sub, nameOrPath)
}

func load(dir fs.FS, name string) (Recipe, error) {
	recipe := Recipe{Name: name}
	text, err := fs.ReadFile(dir, "recipe.yaml")
	if err != nil {
		return Recipe{}, desktop.Errorf(desktop.NotFound, "recipe %s: %w", name, err)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	decoder.KnownFields(true)
	if err := decoder.Decode(&recipe); err != nil {
		return Recipe{}, desktop.Errorf(desktop.Invalid, "recipe %s: recipe.yaml: %w", name, err)
	}
	common, err := fs.Sub(builtin, "common")
	if err != nil {
		return Recipe{}, err
	}
	packages, err := fs.ReadFile(common, "packages")
	if err != nil {
		return Recipe{}, err
	}
	for line := range strings.Lines(string(packages)) {
		line, _, _ = strings.Cut(line, "#")
		recipe.Packages = append(recipe.Packages, strings.Fields(line)...)
	}
	slices.Sort(recipe.Packages)
	recipe.Packages = slices.Compact(recipe.Packages)

	files := map[string]file{}
	for _, source := range []fs.FS{common, dir} {
		if err := overlay(source, files); err != nil {
			return Recipe{}, fmt.Errorf("recipe %s: %w", name, err)
		}
		switch script, err := fs.ReadFile(source, "customize"); {
		case err == nil:
			recipe.customize = append(recipe.customize, script)
		case !errors.Is(err, fs.ErrNotExist):
			return Recipe{}, fmt.Errorf("recipe %s: %w", name, err)
		}
	}
	for _, f := range files {
		recipe.files = append(recipe.files, f)
		// Otherwise the initramfs is made twice, first the large default one.
		if strings.Contains(f.path, "initramfs-tools/") {
			recipe.preinstall = append(recipe.preinstall, f)
		}
	}
	slices.SortFunc(recipe.files, func(a, b file) int { return strings.Compare(a.path, b.path) })
	return recipe, recipe.check()
}

// overlay collects what is in a recipe's folder files. Git and embed keep no more than one of a
// file's mode bits, so the modes go by rule: scripts can be run, sudo's own rules are as sudo
// wants them, and the rest is readable by all.
func overlay(source fs.FS, into map[string]file) error {
	err := fs.WalkDir(source, "files", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() {
			return desktop.Errorf(desktop.Invalid, "%s is not a regular file", name)
		}
		data, err := fs.ReadFile(source, name)
		if err != nil {
			return err
		}
		target := strings.TrimPrefix(name, "files/")
		mode := fs.FileMode(0o644)
		switch {
		case strings.HasPrefix(target, "etc/sudoers.d/"):
			mode = 0o440
		case bytes.HasPrefix(data, []byte("#!")):
			mode = 0o755
		}
		into[target] = file{path: target, mode: mode, data: data}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

var (
	nameRule    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	packageRule = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]+(=[A-Za-z0-9.+:~-]+)?$`)
	wordRule    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
)

// Least and most bytes of an image's file system.
const (
	leastDisk = 1 << 30
	mostDisk  = 1 << 40
)

func (r Recipe) check() error {
	switch {
	case !nameRule.MatchString(r.Name):
		return desktop.Errorf(desktop.Invalid, "recipe %q: the folder's name is the image's: lower-case letters, digits, '.', '_' and '-'", r.Name)
	case !wordRule.MatchString(r.Suite):
		return desktop.Errorf(desktop.Invalid, "recipe %s: suite %q is not a release of Debian", r.Name, r.Suite)
	case !wordRule.MatchString(r.Session):
		return desktop.Errorf(desktop.Invalid, "recipe %s: session %q is not the name of an X session", r.Name, r.Session)
	case r.DiskBytes < leastDisk || r.DiskBytes > mostDisk || r.DiskBytes%(1<<20) != 0:
		return desktop.Errorf(desktop.Invalid, "recipe %s: diskBytes %d is not a number of whole MiB from 1 GiB to 1 TiB", r.Name, r.DiskBytes)
	}
	for _, p := range r.Packages {
		if !packageRule.MatchString(p) {
			return desktop.Errorf(desktop.Invalid, "recipe %s: %q is not the name of a package", r.Name, p)
		}
	}
	return nil
}

// Digest is the sha256 of everything the recipe says, in hex.
func (r Recipe) Digest() string {
	h := sha256.New()
	field(h, builderVersion, r.Name, r.Description, r.Suite, r.Session, fmt.Sprint(r.DiskBytes))
	field(h, r.Packages...)
	for _, f := range r.files {
		field(h, f.path, f.mode.String(), string(f.data))
	}
	for _, script := range r.customize {
		field(h, string(script))
	}
	return hex.EncodeToString(h.Sum(nil))
}

// DigestFiles is the digest of an image that no recipe made: of how it boots and of its files'
// contents. An empty path stands for a file that it does not have.
func DigestFiles(boot string, paths ...string) (string, error) {
	h := sha256.New()
	field(h, boot)
	for _, path := range paths {
		content := sha256.New()
		if path != "" {
			f, err := os.Open(path)
			if err != nil {
				return "", err
			}
			_, err = io.Copy(content, f)
			f.Close()
			if err != nil {
				return "", fmt.Errorf("%s: %w", path, err)
			}
		}
		field(h, string(content.Sum(nil)))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// field writes strings so that no two lists of them look alike.
func field(h hash.Hash, values ...string) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(values)))
	h.Write(n[:])
	for _, v := range values {
		binary.BigEndian.PutUint64(n[:], uint64(len(v)))
		h.Write(n[:])
		h.Write([]byte(v))
	}
}

// write puts files into a root folder, making the folders they lie in.
func write(root string, files []file) error {
	dir, err := os.OpenRoot(root) // a symbolic link of the image leads nowhere outside it
	if err != nil {
		return err
	}
	defer dir.Close()
	for _, f := range files {
		if err := dir.MkdirAll(path.Dir(f.path), 0o755); err != nil {
			return err
		}
		// A file of a package is replaced, not written through.
		if err := dir.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := dir.WriteFile(f.path, f.data, f.mode); err != nil {
			return err
		}
		if err := dir.Chmod(f.path, f.mode); err != nil { // the umask took some
			return err
		}
	}
	return nil
}
