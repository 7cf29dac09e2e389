package image

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"bureau/desktop"
)

// A build goes on in a folder whose name ends in ".partial"; only when everything in it is on the
// disk is it renamed to the recipe's digest, which is what later builds look for. A lock file
// beside it makes two builds of one recipe wait for each other, and as the kernel lets go of it
// when its holder dies, a ".partial" folder found while holding the lock is rubbish.
//
// The tools run in a mount namespace of their own, so that nothing they mount is ever seen
// outside, not even when they are killed.

type builder struct {
	recipe Recipe
	Options
	root string // the image's root folder
	log  *os.File
}

// Cached finds a finished image of the recipe; ok is false when there is none.
func Cached(recipe Recipe, cacheDir string) (files Files, ok bool, err error) {
	if cacheDir == "" {
		cacheDir = DefaultCacheDir
	}
	return cached(filepath.Join(cacheDir, recipe.Digest()))
}

func cached(dir string) (files Files, ok bool, err error) {
	text, err := os.ReadFile(filepath.Join(dir, "image.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return Files{}, false, nil
	}
	if err != nil {
		return Files{}, false, fmt.Errorf("image cache: %w", err)
	}
	if err := json.Unmarshal(text, &files); err != nil {
		return Files{}, false, fmt.Errorf("image cache: %s: %w", dir, err)
	}
	// The cache may have been moved since.
	for _, p := range []*string{&files.Disk, &files.Kernel, &files.Initrd, &files.Packages} {
		*p = filepath.Join(dir, filepath.Base(*p))
	}
	return files, true, nil
}

func (b *builder) build(ctx context.Context) (Files, error) {
	var err error
	if b.CacheDir, err = filepath.Abs(b.CacheDir); err != nil {
		return Files{}, fmt.Errorf("image cache: %w", err)
	}
	dir := filepath.Join(b.CacheDir, b.recipe.Digest())
	if !b.Fresh { // without the lock and without root: a finished image does not change
		if files, ok, err := cached(dir); err != nil || ok {
			return files, err
		}
	}
	if err := checkHost(); err != nil {
		return Files{}, err
	}
	if err := os.MkdirAll(b.CacheDir, 0o755); err != nil {
		return Files{}, fmt.Errorf("image cache: %w", err)
	}
	unlock, err := b.lock(ctx, dir+".lock")
	if err != nil {
		return Files{}, err
	}
	defer unlock()
	if !b.Fresh { // it may have been built while we waited
		if files, ok, err := cached(dir); err != nil || ok {
			return files, err
		}
	}
	files, err := b.make(ctx, dir)
	if ctx.Err() != nil {
		err = fmt.Errorf("build of image %s interrupted: %w", b.recipe.Name, ctx.Err())
	}
	if err != nil {
		return Files{}, err
	}
	return files, nil
}

// make builds into dir, whose lock is held.
func (b *builder) make(ctx context.Context, dir string) (Files, error) {
	partial := dir + ".partial"
	work, err := filepath.Abs(filepath.Join(b.WorkDir, filepath.Base(dir)+".work"))
	if err != nil {
		return Files{}, err
	}
	defer os.RemoveAll(partial)
	defer os.RemoveAll(work)
	for _, d := range []string{partial, work} {
		if err := os.RemoveAll(d); err != nil {
			return Files{}, fmt.Errorf("remains of an earlier build: %w", err)
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return Files{}, err
		}
	}
	b.root = filepath.Join(work, "root")
	if b.log, err = os.Create(filepath.Join(b.CacheDir, b.recipe.Name+".log")); err != nil {
		return Files{}, err
	}
	defer b.log.Close()

	files := Files{
		Name: b.recipe.Name, Recipe: b.recipe.Digest(), Description: b.recipe.Description,
		Boot: "kernel", DiskBytes: b.recipe.DiskBytes,
		Disk:   filepath.Join(dir, "disk.qcow2"),
		Kernel: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd"),
		Packages: filepath.Join(dir, "packages"),
	}
	if err := b.packages(ctx, work); err != nil {
		return Files{}, err
	}
	if err := b.customize(ctx, work); err != nil {
		return Files{}, err
	}
	if files.Digest, err = b.manifest(ctx, filepath.Join(partial, "packages")); err != nil {
		return Files{}, err
	}
	if err := b.boot(partial); err != nil {
		return Files{}, err
	}
	if err := b.disk(ctx, work, partial, files.Digest); err != nil {
		return Files{}, err
	}
	info, err := os.Stat(filepath.Join(partial, "disk.qcow2"))
	if err != nil {
		return Files{}, err
	}
	files.SizeBytes, files.BuiltAt = info.Size(), time.Now().UTC().Truncate(time.Second)
	text, err := json.MarshalIndent(files, "", "  ")
	if err != nil {
		return Files{}, err
	}
	if err := os.WriteFile(filepath.Join(partial, "image.json"), append(text, '\n'), 0o644); err != nil {
		return Files{}, err
	}
	if err := publish(partial, dir); err != nil {
		return Files{}, fmt.Errorf("image cache: %w", err)
	}
	return files, nil
}

// packages makes the root folder.
func (b *builder) packages(ctx context.Context, work string) error {
	b.Progress(Progress{Stage: "packages", Note: "reading the package lists"})
	early := filepath.Join(work, "early")
	if err := os.Mkdir(early, 0o755); err != nil {
		return err
	}
	if err := write(early, b.recipe.preinstall); err != nil {
		return err
	}
	args := []string{
		"--variant=minbase", "--format=directory", "--verbose",
		"--include=" + strings.Join(b.recipe.Packages, ","),
		"--essential-hook=cp -R --no-preserve=ownership " + shellQuote(early) + `/. "$1"/`,
		// Nobody reads manuals in a desktop that a program drives.
		"--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/info/*",
		"--dpkgopt=path-exclude=/usr/share/doc/*",
		"--dpkgopt=path-include=/usr/share/doc/*/copyright",
		"--dpkgopt=path-exclude=/usr/share/lintian/*",
	}
	for _, keyring := range keyrings {
		if _, err := os.Stat(keyring); err == nil {
			args = append(args, "--keyring="+keyring)
			break
		}
	}
	args = append(args, b.aptOptions(ctx)...)
	args = append(args, b.recipe.Suite, b.root)
	args = append(args, sources(b.Mirror, b.recipe.Suite)...)
	return b.run(ctx, b.countPackages(), "mmdebstrap", args...)
}

// inherited are the host's settings of apt that a build needs to reach the mirror in the same way.
var inherited = regexp.MustCompile(`^(Acquire::(?:Retries|Check-Valid-Until|Check-Date|https?::Proxy(?:::[^ ]*)?)) "([^"]+)";$`)

// aptOptions hands the host's settings on. common/customize removes them from the image again.
func (b *builder) aptOptions(ctx context.Context) []string {
	cmd := b.command(ctx, "apt-config", "dump")
	out, err := cmd.Output()
	if err != nil {
		return nil // not a Debian host; mmdebstrap has defaults
	}
	var args []string
	for line := range strings.Lines(string(out)) {
		if m := inherited.FindStringSubmatch(strings.TrimSpace(line)); m != nil {
			args = append(args, fmt.Sprintf(`--aptopt=%s "%s"`, m[1], m[2]))
		}
	}
	return args
}

// sources are the lines of the image's sources.list.
func sources(mirror, suite string) []string {
	mirror = strings.TrimSuffix(mirror, "/")
	lines := []string{fmt.Sprintf("deb %s %s main", mirror, suite)}
	if suite == "unstable" || suite == "sid" {
		return lines
	}
	lines = append(lines, fmt.Sprintf("deb %s %s-updates main", mirror, suite))
	if base, ok := strings.CutSuffix(mirror, "/debian"); ok {
		lines = append(lines, fmt.Sprintf("deb %s/debian-security %s-security main", base, suite))
	}
	return lines
}

var planned = regexp.MustCompile(`^\d+ upgraded, (\d+) newly installed`)

// countPackages turns the installer's own output into progress: each package is fetched, unpacked
// and set up.
func (b *builder) countPackages() func(string) {
	now := Progress{Stage: "packages"}
	last, all := time.Time{}, 0
	return func(line string) {
		verb, _, _ := strings.Cut(line, " ")
		verb, _, _ = strings.Cut(verb, ":") // apt says "Get:12"
		switch {
		case verb == "Get" && all > 0:
			now.Note = "downloading"
		case verb == "Unpacking":
			now.Note = "unpacking"
		case verb == "Setting":
			now.Note = "setting up"
		default:
			if m := planned.FindStringSubmatch(line); m != nil {
				// The first plan has the essential packages only; how much there is in all is
				// known with the second, which has those of the recipe.
				n, _ := strconv.Atoi(m[1])
				all += 3 * n
				if n >= len(b.recipe.Packages) {
					now.Total = all
				}
				b.Progress(now)
			}
			return
		}
		now.Done = min(now.Done+1, all)
		if time.Since(last) >= 100*time.Millisecond {
			last = time.Now()
			b.Progress(now)
		}
	}
}

// customize lays the recipe's files over the root and runs its scripts.
func (b *builder) customize(ctx context.Context, work string) error {
	b.Progress(Progress{Stage: "customize"})
	if err := write(b.root, b.recipe.files); err != nil {
		return fmt.Errorf("files of recipe %s: %w", b.recipe.Name, err)
	}
	for i, text := range b.recipe.customize {
		script := filepath.Join(work, fmt.Sprintf("customize-%d", i))
		if err := os.WriteFile(script, text, 0o755); err != nil {
			return err
		}
		if err := b.run(ctx, nil, script, b.root, b.recipe.Session); err != nil {
			return err
		}
	}
	return nil
}

// manifest writes down the packages and returns the image's digest.
func (b *builder) manifest(ctx context.Context, path string) (string, error) {
	var list bytes.Buffer
	cmd := b.command(ctx, "dpkg-query", "--admindir="+filepath.Join(b.root, "var/lib/dpkg"),
		"--show", "--showformat=${Package} ${Version} ${Architecture}\n")
	cmd.Stdout = &list
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("list of packages: %w", err)
	}
	lines := slices.Sorted(strings.Lines(list.String()))
	text := strings.Join(lines, "")
	h := sha256.New()
	field(h, b.recipe.Digest(), text)
	return hex.EncodeToString(h.Sum(nil)), os.WriteFile(path, []byte(text), 0o644)
}

// boot takes the kernel and its initramfs out of the root.
func (b *builder) boot(into string) error {
	for pattern, name := range map[string]string{"vmlinuz-*": "vmlinuz", "initrd.img-*": "initrd"} {
		found, err := filepath.Glob(filepath.Join(b.root, "boot", pattern))
		if err != nil {
			return err
		}
		if len(found) != 1 {
			return fmt.Errorf("image %s has %d files boot/%s instead of one", b.recipe.Name, len(found), pattern)
		}
		from, err := os.Open(found[0])
		if err != nil {
			return err
		}
		defer from.Close()
		to, err := os.OpenFile(filepath.Join(into, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
		if err != nil {
			return err
		}
		_, err = io.Copy(to, from)
		if err := errors.Join(err, to.Close()); err != nil {
			return fmt.Errorf("boot/%s: %w", name, err)
		}
	}
	return nil
}

// disk makes a file system of the root folder. What a digest decides stays the same for it: the
// file system's id and the seed of its hashes.
func (b *builder) disk(ctx context.Context, work, into, digest string) error {
	b.Progress(Progress{Stage: "filesystem"})
	id := fmt.Sprintf("%s-%s-%s-%s-%s", digest[:8], digest[8:12], digest[12:16], digest[16:20], digest[20:32])
	raw := filepath.Join(work, "disk.raw")
	err := b.run(ctx, nil, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "desktop", "-U", id,
		// A desktop has no other users to keep blocks for, and what is not written is not stored.
		"-m", "0", "-J", "size=32",
		"-E", "lazy_itable_init=1,lazy_journal_init=1,root_owner=0:0,hash_seed="+id,
		"-d", b.root, raw, strconv.FormatInt(b.recipe.DiskBytes>>10, 10)+"k")
	if err != nil {
		return err
	}
	b.Progress(Progress{Stage: "disk"})
	return b.run(ctx, nil, "qemu-img", "convert", "-W", "-f", "raw", "-O", "qcow2",
		raw, filepath.Join(into, "disk.qcow2"))
}

// publish makes a finished folder the one that is found from now on.
func publish(partial, dir string) error {
	entries, err := os.ReadDir(partial)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if err := flush(filepath.Join(partial, e.Name())); err != nil {
			return err
		}
	}
	if err := flush(partial); err != nil {
		return err
	}
	if err := os.RemoveAll(dir); err != nil { // only there when built afresh
		return err
	}
	if err := os.Rename(partial, dir); err != nil {
		return err
	}
	return flush(filepath.Dir(dir))
}

func flush(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// lock waits for the recipe's lock.
func (b *builder) lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR|syscall.O_CLOEXEC, 0o644)
	if err != nil {
		return nil, fmt.Errorf("image cache: %w", err)
	}
	waiting := false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if !waiting {
			b.Progress(Progress{Stage: "wait", Note: "another build of this image is under way"})
			waiting = true
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// command prepares a tool to run in its own mount namespace and process group.
func (b *builder) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive",
		// Users with a bare PATH do not have the folders that the tools are in.
		"PATH="+os.Getenv("PATH")+":/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Stderr = b.log
	return cmd
}

// run runs a tool with its output in the log. On failure the error has the last lines of it.
func (b *builder) run(ctx context.Context, watch func(line string), name string, args ...string) error {
	fmt.Fprintf(b.log, "# %s %s\n", name, strings.Join(args, " "))
	cmd := b.command(ctx, name, args...)
	output := &tail{next: b.log, watch: watch}
	cmd.Stdout, cmd.Stderr = output, output
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w\n%s(everything is in %s)", filepath.Base(name), err, output, b.log.Name())
	}
	return nil
}

// tail passes output on, tells watch of each line, and remembers the last ones.
type tail struct {
	next    io.Writer
	watch   func(string)
	partial []byte
	lines   []string
}

const tailLines = 8

func (t *tail) Write(p []byte) (int, error) {
	t.partial = append(t.partial, p...)
	for {
		i := bytes.IndexAny(t.partial, "\n\r")
		if i < 0 {
			break
		}
		line := string(t.partial[:i])
		t.partial = t.partial[i+1:]
		if t.watch != nil {
			t.watch(line)
		}
		if strings.TrimSpace(line) != "" {
			t.lines = append(t.lines, line)
			t.lines = t.lines[max(0, len(t.lines)-tailLines):]
		}
	}
	return t.next.Write(p)
}

func (t *tail) String() string {
	var s strings.Builder
	scanner := bufio.NewScanner(strings.NewReader(strings.Join(append(t.lines, string(t.partial)), "\n")))
	for scanner.Scan() {
		fmt.Fprintf(&s, "  %s\n", scanner.Text())
	}
	return s.String()
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// keyrings are where Debian and Ubuntu keep the keys of Debian's archive.
var keyrings = []string{
	"/usr/share/keyrings/debian-archive-keyring.gpg",
	"/usr/share/keyrings/debian-archive-keyring.pgp",
}

// CheckTools says what a build on this host would lack, with the command that mends it.
func CheckTools() error {
	var missing []string
	for _, tool := range []struct{ name, pkg string }{
		{"mmdebstrap", "mmdebstrap"}, {"mke2fs", "e2fsprogs"}, {"qemu-img", "qemu-utils"}, {"dpkg-query", "dpkg"},
	} {
		if !installed(tool.name) {
			missing = append(missing, tool.pkg)
		}
	}
	if !slices.ContainsFunc(keyrings, func(p string) bool { _, err := os.Stat(p); return err == nil }) {
		missing = append(missing, "debian-archive-keyring")
	}
	if len(missing) > 0 {
		return desktop.Errorf(desktop.Unavailable,
			"building an image needs packages that this host lacks: sudo apt-get install %s", strings.Join(missing, " "))
	}
	return nil
}

func checkHost() error {
	if err := CheckTools(); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return desktop.Errorf(desktop.Forbidden, "building an image makes a chroot, which only root may: sudo %s",
			strings.Join(os.Args, " "))
	}
	return nil
}

func installed(tool string) bool {
	if _, err := exec.LookPath(tool); err == nil {
		return true
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if _, err := exec.LookPath(filepath.Join(dir, tool)); err == nil {
			return true
		}
	}
	return false
}
