package cmd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"bureau/desktop"
	"bureau/packaging/image"
)

func (a *app) imageCommand() *cobra.Command {
	return group("image", "Build and manage the images of desktops",
		`Build and manage the disk images that desktops are based on. These commands speak to libvirt
themselves, so the appliance need not run: use them as root or in the group libvirt.`,
		a.imageBuild(), a.imageList(), a.imageImport(), a.imageRemove(), a.imagePurge())
}

// images opens the hypervisor's store; the caller closes it.
func (a *app) images(ctx context.Context) (Images, error) {
	settings, err := a.configuration(nil)
	if err != nil {
		return nil, err
	}
	if a.parts.Images == nil {
		return nil, without("libvirt")
	}
	log := slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: slog.LevelWarn}))
	return a.parts.Images(ctx, settings, log)
}

func (a *app) imageBuild() *cobra.Command {
	var options image.Options
	var doImport bool
	c := &cobra.Command{
		Use: "build [RECIPE…]", Short: "Build an image from Debian's packages",
		Long: `Build images from recipes: the built-in ones (` + strings.Join(image.Builtin(), ", ") + `; the configured default without
any), or the folder of your own by its path. An image is kept by the digest of its recipe:
as long as that has not changed, nothing is built again. --fresh builds again all the same,
to take in what Debian has published since.

It makes a chroot, so it needs root; it needs no KVM, no loop device and no mounts.`,
		Example: "  sudo bureau image build desktop --import\n  sudo bureau image build ./my-recipe",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				settings, err := a.configuration(nil)
				if err != nil {
					return err
				}
				args = []string{settings.Image}
			}
			var recipes []image.Recipe
			for _, arg := range args {
				recipe, err := image.Load(arg)
				if err != nil {
					return err
				}
				recipes = append(recipes, recipe)
			}
			if doImport && a.parts.Images == nil {
				return without("libvirt")
			}
			for _, recipe := range recipes {
				if err := a.buildOne(c.Context(), recipe, options, doImport); err != nil {
					return err
				}
			}
			return nil
		},
	}
	f := c.Flags()
	f.BoolVar(&doImport, "import", false, "import it too, for desktops to be made of it")
	f.BoolVar(&options.Fresh, "fresh", false, "build it even if nothing has changed, with the present packages")
	f.StringVar(&options.CacheDir, "cache", image.DefaultCacheDir, "folder that keeps what was built")
	f.StringVar(&options.WorkDir, "work", "", "folder to build in, on a file system with 8 GB free (default: the cache)")
	f.StringVar(&options.Mirror, "mirror", image.DefaultMirror, "Debian mirror")
	return c
}

// stageNames are a build's stages for people.
var stageNames = map[string]string{
	"wait": "waiting for another build", "packages": "installing packages",
	"customize": "setting up", "filesystem": "making the file system", "disk": "writing the disk",
}

func (a *app) buildOne(ctx context.Context, recipe image.Recipe, options image.Options, doImport bool) error {
	progress := newStatus(a.err)
	defer progress.abandon()
	built := false
	options.Progress = func(p image.Progress) {
		built = true
		if a.json {
			a.jsonLine(map[string]any{"event": "progress", "image": recipe.Name, "stage": p.Stage, "done": p.Done, "total": p.Total, "note": p.Note})
			return
		}
		progress.show(stageNames[p.Stage], p.Note, p.Done, p.Total)
	}
	files, err := image.Build(ctx, recipe, options)
	if err != nil {
		return err
	}
	progress.end()
	if a.json {
		a.jsonLine(map[string]any{"event": "built", "cached": !built, "files": files})
	} else {
		how := "is unchanged"
		if built {
			how = "built"
		}
		fmt.Fprintf(a.out, "image %s %s: %s, %s\n", files.Name, how, files.Digest[:12], humanBytes(files.SizeBytes))
	}
	if !doImport {
		return nil
	}
	return a.importFiles(ctx, files)
}

// jsonLine prints one event of something that has several.
func (a *app) jsonLine(value any) {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err) // only our own types
	}
	fmt.Fprintf(a.out, "%s\n", text)
}

func (a *app) importFiles(ctx context.Context, files image.Files) error {
	store, err := a.images(ctx)
	if err != nil {
		return err
	}
	defer store.Close()
	progress := newStatus(a.err)
	defer progress.abandon()
	imported, err := store.Import(ctx, files, func(done, total int64) {
		if a.json {
			return
		}
		progress.show("importing "+files.Name, "", int(done>>10), int(total>>10))
	})
	if err != nil {
		return err
	}
	progress.end()
	a.recordCommand(ctx, "image.import", imported.Name)
	if a.json {
		a.jsonLine(map[string]any{"event": "imported", "image": imported})
		return nil
	}
	_, err = fmt.Fprintf(a.out, "image %s is imported\n", imported.Name)
	return err
}

func (a *app) imageList() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List the images that desktops can be made of", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			store, err := a.images(c.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			list, err := store.List(c.Context())
			if err != nil {
				return err
			}
			if a.json {
				if list == nil {
					list = []desktop.Image{}
				}
				return a.printJSON(list)
			}
			var rows [][]string
			for _, i := range list {
				rows = append(rows, []string{i.Name, i.Digest[:min(12, len(i.Digest))], humanBytes(i.SizeBytes), humanBytes(i.DiskBytes), humanTime(i.CreatedAt), i.Description})
			}
			return a.table([]string{"NAME", "DIGEST", "SIZE", "LEAST DISK", "IMPORTED", "DESCRIPTION"}, rows)
		},
	}
}

func (a *app) imageImport() *cobra.Command {
	var name, description, kernel, initrd string
	c := &cobra.Command{
		Use: "import FILE.qcow2", Short: "Import a disk image of your own",
		Long: `Import a qcow2 file that boots by itself, or with --kernel and --initrd one file system that
the host boots. To be of use, a desktop has to run "bureau agent"; docs/operations.md says
what else an image needs.`,
		Example: "  bureau image import ubuntu.qcow2 --name ubuntu",
		Args:    cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if (kernel == "") != (initrd == "") {
				return usage("--kernel and --initrd belong together")
			}
			files, err := describeDisk(c.Context(), args[0], kernel, initrd)
			if err != nil {
				return err
			}
			files.Name, files.Description = name, description
			if name == "" {
				files.Name = strings.TrimSuffix(filepath.Base(args[0]), filepath.Ext(args[0]))
			}
			return a.importFiles(c.Context(), files)
		},
	}
	f := c.Flags()
	f.StringVar(&name, "name", "", "its name (default: the file's)")
	f.StringVar(&description, "description", "", "what it is, for people")
	f.StringVar(&kernel, "kernel", "", "kernel that the host boots, for an image without a boot loader")
	f.StringVar(&initrd, "initrd", "", "initramfs for that kernel")
	return c
}

// describeDisk finds out what has to be known of somebody's own image, and refuses what would not
// be an image of its own.
func describeDisk(ctx context.Context, disk, kernel, initrd string) (image.Files, error) {
	files := image.Files{Boot: "disk", Disk: disk, Kernel: kernel, Initrd: initrd}
	if kernel != "" {
		files.Boot = "kernel"
	}
	paths := []string{disk, kernel, initrd}
	for _, path := range paths {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err != nil {
			return image.Files{}, usage("%w", err)
		} else if !info.Mode().IsRegular() {
			return image.Files{}, usage("%s is not a file", path)
		} else if path == disk {
			files.SizeBytes = info.Size()
		}
	}
	tool, err := exec.LookPath("qemu-img")
	if err != nil {
		return image.Files{}, desktop.Errorf(desktop.Unavailable, "importing an image needs qemu-img: sudo apt-get install qemu-utils")
	}
	cmd := exec.CommandContext(ctx, tool, "info", "--output=json", "--", disk)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	if err != nil {
		return image.Files{}, usage("%s: qemu-img cannot read it: %s", disk, strings.TrimSpace(stderr.String()))
	}
	var info struct {
		Format      string `json:"format"`
		VirtualSize int64  `json:"virtual-size"`
		Backing     string `json:"backing-filename"`
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return image.Files{}, fmt.Errorf("qemu-img info: %w", err)
	}
	switch {
	case info.Format != "qcow2":
		return image.Files{}, usage("%s is %s, not qcow2: qemu-img convert -O qcow2 %s NEW.qcow2", disk, info.Format, disk)
	case info.Backing != "": // it would name any file of the host
		return image.Files{}, usage("%s is based on another file, %s: qemu-img convert -O qcow2 %s NEW.qcow2", disk, info.Backing, disk)
	}
	files.DiskBytes = info.VirtualSize
	files.Digest, err = image.DigestFiles(files.Boot, paths...)
	return files, err
}

func (a *app) imageRemove() *cobra.Command {
	return &cobra.Command{
		Use: "remove NAME", Aliases: []string{"rm"}, Short: "Remove an image that no desktop needs", Args: cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			store, err := a.images(c.Context())
			if err != nil {
				return err
			}
			defer store.Close()
			list, err := store.List(c.Context())
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(list, func(i desktop.Image) bool { return i.Name == args[0] }) {
				return desktop.Errorf(desktop.NotFound, "there is no image %q; bureau image list shows those that there are", args[0])
			}
			if err := store.Remove(c.Context(), args[0]); err != nil {
				return err
			}
			a.recordCommand(c.Context(), "image.remove", args[0])
			return nil
		},
	}
}

// imagePurge is what make clean ends with; people have no use for it.
func (a *app) imagePurge() *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "purge", Hidden: true, Args: cobra.NoArgs,
		Short: "Remove everything that bureau has made in libvirt: desktops, images, networks, pool",
		RunE: func(c *cobra.Command, _ []string) error {
			if !yes {
				return usage("this removes every desktop with its disk: add --yes")
			}
			store, err := a.images(c.Context())
			if err != nil {
				return err
			}
			return errors.Join(store.Purge(c.Context()), store.Close())
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "really")
	return c
}

// checkBuilder is doctor's check of the tools; whether the default image is there is the
// hypervisor's to say.
func checkBuilder() Check {
	check := Check{Name: "image tools", OK: true, Detail: "images can be built"}
	if err := image.CheckTools(); err != nil {
		check.OK, check.Warning, check.Detail = false, true, err.Error()
		if _, fix, ok := strings.Cut(err.Error(), ": "); ok {
			check.Fix = fix
		}
	}
	return check
}
