package image

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"bureau/desktop"
)

func TestBuiltinRecipes(t *testing.T) {
	if got := strings.Join(Builtin(), " "); got != "desktop minimal" {
		t.Fatalf("built-in recipes are %q", got)
	}
	for _, name := range Builtin() {
		r, err := Load(name)
		if err != nil {
			t.Fatal(err)
		}
		modes := map[string]os.FileMode{}
		for _, f := range r.files {
			modes[f.path] = f.mode
		}
		for path, mode := range map[string]os.FileMode{
			"usr/lib/bureau/start-agent":                0o755,
			"usr/lib/bureau/start-x":                    0o755,
			"etc/initramfs-tools/hooks/bureau":          0o755,
			"etc/sudoers.d/agent":                       0o440,
			"etc/systemd/system/bureau-agent.service":   0o644,
			"etc/lightdm/lightdm.conf.d/50-bureau.conf": 0o644,
		} {
			if modes[path] != mode {
				t.Errorf("%s: %s has mode %o, want %o", name, path, modes[path], mode)
			}
		}
		if len(r.customize) == 0 || len(r.preinstall) == 0 {
			t.Errorf("%s: no script or no early files", name)
		}
		for _, p := range []string{"bash", "python3-minimal", "scrot", "sudo", "x11-utils", "xclip", "xdotool"} {
			if p != "bash" && !contains(r.Packages, p) {
				t.Errorf("%s lacks %s", name, p)
			}
		}
	}
}

// words are those of a file of the image, without its comments, for each line that has any.
func words(t *testing.T, r Recipe, path string) (lines [][]string) {
	t.Helper()
	i := slices.IndexFunc(r.files, func(f file) bool { return f.path == path })
	if i < 0 {
		t.Fatalf("%s has no %s", r.Name, path)
	}
	for line := range strings.Lines(string(r.files[i].data)) {
		line, _, _ = strings.Cut(line, "#")
		if fields := strings.Fields(line); len(fields) > 0 {
			lines = append(lines, fields)
		}
	}
	return lines
}

func TestModulesThatDesktopsNeedAreLoaded(t *testing.T) {
	r, err := Load("minimal")
	if err != nil {
		t.Fatal(err)
	}
	left := []string{"virtio_net", "virtio_balloon", "virtio_rng", "psmouse"} // to udev
	var early []string
	for _, line := range words(t, r, "etc/modules-load.d/bureau.conf") {
		early = append(early, line...)
	}
	// udev is not shown the devices of ACPI, by which it would load the drivers of these.
	for _, module := range []string{"button", "pvpanic_mmio"} {
		if !contains(early, module) {
			t.Errorf("%s is not loaded", module)
		}
	}
	for _, line := range words(t, r, "etc/modprobe.d/bureau.conf") {
		if len(line) != 2 || line[0] != "blacklist" {
			t.Errorf("%q does not leave the module to be loaded by its name", line)
			continue
		}
		if contains(early, line[1]) || contains(left, line[1]) {
			t.Errorf("%s is needed, and left out", line[1])
		}
	}
}

func TestUnitsThatDesktopsNeedAreNotMasked(t *testing.T) {
	script, err := builtin.ReadFile("common/customize")
	if err != nil {
		t.Fatal(err)
	}
	_, masked, found := strings.Cut(strings.ReplaceAll(string(script), "\\\n", " "), "units mask ")
	masked, _, _ = strings.Cut(masked, "\n")
	units := strings.Fields(masked)
	if !found || !contains(units, "systemd-networkd-wait-online.service") {
		t.Fatalf("masked are %q", units)
	}
	for _, unit := range []string{
		"bureau-agent.service", "dbus.socket", "lightdm.service", "systemd-growfs-root.service",
		"systemd-journal-flush.service", "systemd-logind.service", "systemd-modules-load.service",
		"systemd-networkd.service", "systemd-remount-fs.service", "systemd-resolved.service",
		"systemd-sysctl.service", "systemd-tmpfiles-setup.service", "systemd-udev-trigger.service",
		"systemd-user-sessions.service", "tmp.mount",
	} {
		if contains(units, unit) {
			t.Errorf("%s is masked", unit)
		}
	}
}

func contains(list []string, want string) bool {
	for _, s := range list {
		if s == want {
			return true
		}
	}
	return false
}

func recipeFS() fstest.MapFS {
	return fstest.MapFS{
		"recipe.yaml":   {Data: []byte("description: d\nsuite: stable\nsession: openbox\ndiskBytes: 2147483648\npackages: [xterm]\n")},
		"files/etc/one": {Data: []byte("1\n")},
		"files/bin/run": {Data: []byte("#!/bin/sh\n")},
		"customize":     {Data: []byte("#!/bin/sh\n")},
	}
}

func TestDigestCoversEverything(t *testing.T) {
	digest := func(change func(fstest.MapFS)) string {
		dir := recipeFS()
		change(dir)
		r, err := load(dir, "mine")
		if err != nil {
			t.Fatal(err)
		}
		return r.Digest()
	}
	none := digest(func(fstest.MapFS) {})
	if again := digest(func(fstest.MapFS) {}); again != none {
		t.Fatal("the digest of an unchanged recipe changes")
	}
	seen := map[string]string{none: "nothing"}
	for what, change := range map[string]func(fstest.MapFS){
		"a file's content": func(d fstest.MapFS) { d["files/etc/one"].Data = []byte("2\n") },
		"a file's mode":    func(d fstest.MapFS) { d["files/bin/run"].Data = []byte("/bin/sh\n") },
		"a new file":       func(d fstest.MapFS) { d["files/etc/two"] = &fstest.MapFile{Data: []byte("1\n")} },
		"a moved file":     func(d fstest.MapFS) { d["files/etc/on"] = d["files/etc/one"]; delete(d, "files/etc/one") },
		"the script":       func(d fstest.MapFS) { d["customize"].Data = []byte("#!/bin/sh -e\n") },
		"a package": func(d fstest.MapFS) {
			d["recipe.yaml"].Data = []byte(strings.Replace(string(d["recipe.yaml"].Data), "xterm", "xterm, x11-apps", 1))
		},
		"the size": func(d fstest.MapFS) {
			d["recipe.yaml"].Data = []byte(strings.Replace(string(d["recipe.yaml"].Data), "2147483648", "3221225472", 1))
		},
	} {
		got := digest(change)
		if other, ok := seen[got]; ok {
			t.Errorf("%s gives the same digest as %s", what, other)
		}
		seen[got] = what
	}
}

func TestRecipeFaults(t *testing.T) {
	for name, test := range map[string]struct{ old, new, want string }{
		"unknown key":     {"suite:", "suit:", "field suit not found"},
		"small disk":      {"2147483648", "1048576", "diskBytes"},
		"odd disk":        {"2147483648", "2147483649", "diskBytes"},
		"option as suite": {"stable", "--help", "suite"},
		"bad session":     {"openbox", "x;y", "session"},
		"bad package":     {"xterm", `"xterm --hook"`, "not the name of a package"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := recipeFS()
			dir["recipe.yaml"].Data = []byte(strings.Replace(string(dir["recipe.yaml"].Data), test.old, test.new, 1))
			_, err := load(dir, "mine")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one about %q", err, test.want)
			}
			if desktop.CodeOf(err) != desktop.Invalid {
				t.Fatalf("code %s", desktop.CodeOf(err))
			}
		})
	}
	if _, err := Load("nosuch"); desktop.CodeOf(err) != desktop.NotFound || !strings.Contains(err.Error(), "desktop and minimal") {
		t.Fatalf("unknown recipe: %v", err)
	}
	if _, err := Load("common"); desktop.CodeOf(err) != desktop.NotFound {
		t.Fatalf("common is not a recipe: %v", err)
	}
}

func TestLoadFolder(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "own")
	if err := os.CopyFS(dir, recipeFS()); err != nil {
		t.Fatal(err)
	}
	r, err := Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if r.Name != "own" || !contains(r.Packages, "xterm") || !contains(r.Packages, "lightdm") || len(r.customize) != 2 {
		t.Fatalf("read %q with %d packages and %d scripts", r.Name, len(r.Packages), len(r.customize))
	}
}

func TestWriteStaysInside(t *testing.T) {
	outside, root := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "etc")); err != nil {
		t.Fatal(err)
	}
	if err := write(root, []file{{path: "etc/passwd", mode: 0o644, data: []byte("x")}}); err == nil {
		t.Fatal("a link led out of the root")
	}
	if entries, _ := os.ReadDir(outside); len(entries) != 0 {
		t.Fatal("a file was written outside")
	}
	// A link in a file's place is replaced.
	if err := os.Symlink("/dev/null", filepath.Join(root, "link")); err != nil {
		t.Fatal(err)
	}
	if err := write(root, []file{{path: "link", mode: 0o600, data: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Lstat(filepath.Join(root, "link")); err != nil || info.Mode() != 0o600 {
		t.Fatalf("%v %v", info, err)
	}
}

func TestSources(t *testing.T) {
	for _, test := range []struct{ mirror, suite, want string }{
		{DefaultMirror, "stable", "deb http://deb.debian.org/debian stable main|deb http://deb.debian.org/debian stable-updates main|deb http://deb.debian.org/debian-security stable-security main"},
		{"http://cache:3142/deb.debian.org/debian/", "trixie", "deb http://cache:3142/deb.debian.org/debian trixie main|deb http://cache:3142/deb.debian.org/debian trixie-updates main|deb http://cache:3142/deb.debian.org/debian-security trixie-security main"},
		{"http://local/mirror", "stable", "deb http://local/mirror stable main|deb http://local/mirror stable-updates main"},
		{DefaultMirror, "sid", "deb http://deb.debian.org/debian sid main"},
	} {
		if got := strings.Join(sources(test.mirror, test.suite), "|"); got != test.want {
			t.Errorf("%s %s: %s", test.mirror, test.suite, got)
		}
	}
}

func TestProgressOfPackages(t *testing.T) {
	var got []Progress
	b := &builder{Options: Options{Progress: func(p Progress) { got = append(got, p) }}}
	watch := b.countPackages()
	for _, line := range []string{
		"Get:1 http://deb.debian.org/debian stable InRelease", // before anything is planned
		"0 upgraded, 2 newly installed, 0 to remove and 0 not upgraded.",
		"Get:2 http://deb.debian.org/debian stable/main amd64 a 1 [1 kB]",
		"Unpacking a (1) ...", "Setting up a (1) ...", "Processing triggers for b",
	} {
		watch(line)
	}
	if len(got) < 2 || got[0] != (Progress{Stage: "packages", Total: 6}) || got[1] != (Progress{Stage: "packages", Done: 1, Total: 6, Note: "downloading"}) {
		t.Fatalf("%+v", got)
	}
}

func TestCacheHoldsOnlyWhatIsComplete(t *testing.T) {
	cache := t.TempDir()
	r, err := load(recipeFS(), "mine")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(cache, r.Digest())
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(dir+".partial", 0o755))
	must(os.WriteFile(dir+".partial/disk.qcow2", nil, 0o644))
	if _, ok, err := Cached(r, cache); ok || err != nil {
		t.Fatalf("an unfinished build counts: %v %v", ok, err)
	}
	must(os.WriteFile(dir+".partial/image.json", []byte(`{"name":"mine","digest":"abc","disk":"/elsewhere/disk.qcow2"}`), 0o644))
	must(publish(dir+".partial", dir))
	files, ok, err := Cached(r, cache)
	if !ok || err != nil || files.Digest != "abc" || files.Disk != filepath.Join(dir, "disk.qcow2") {
		t.Fatalf("%+v %v %v", files, ok, err)
	}
	// Build finds it without root and without any tool.
	if files, err = Build(t.Context(), r, Options{CacheDir: cache}); err != nil || files.Digest != "abc" {
		t.Fatalf("%+v %v", files, err)
	}
}

func TestBuildsOfOneRecipeWait(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	waits := make(chan Progress, 1)
	b := &builder{Options: Options{Progress: func(p Progress) { waits <- p }}}
	unlock, err := b.lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	second := make(chan error, 1)
	go func() {
		release, err := b.lock(ctx, path)
		if err == nil {
			release()
		}
		second <- err
	}()
	if p := <-waits; p.Stage != "wait" {
		t.Fatalf("%+v", p)
	}
	select {
	case err := <-second:
		t.Fatalf("the second build did not wait: %v", err)
	default:
	}
	unlock()
	if err := <-second; err != nil {
		t.Fatal(err)
	}

	unlock, err = b.lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	gone, stop := context.WithCancel(t.Context())
	stop()
	if _, err := b.lock(gone, path); err != context.Canceled {
		t.Fatalf("a wait that is over: %v", err)
	}
}

func TestFailureShowsTheOutput(t *testing.T) {
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	out := &tail{next: log}
	for range 20 {
		out.Write([]byte("noise\n"))
	}
	out.Write([]byte("E: no space"))
	if got := out.String(); strings.Count(got, "\n") != tailLines+1 || !strings.HasSuffix(got, "  E: no space\n") {
		t.Fatalf("%q", got)
	}
}
