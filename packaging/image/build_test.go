package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bureau/desktop"
)

// fakeTools puts tools that take no time first in the PATH. mmdebstrap notes each of its runs in
// the file that is returned, and does what the script says besides.
func fakeTools(t *testing.T, mmdebstrap string) (runs string) {
	t.Helper()
	dir := t.TempDir()
	runs = filepath.Join(dir, "runs")
	for name, script := range map[string]string{
		"mmdebstrap": `echo run >>'` + runs + `'
for arg; do case $arg in */root) root=$arg ;; esac; done
mkdir -p "$root/boot" "$root/etc"; echo kernel >"$root/boot/vmlinuz-1"; echo initrd >"$root/boot/initrd.img-1"
echo "0 upgraded, 1 newly installed"; echo "Unpacking a"
` + mmdebstrap,
		"dpkg-query": `printf 'b 2 amd64\na 1 amd64\n'`,
		"mke2fs":     `while [ $# -gt 2 ]; do shift; done; echo raw >"$1"`, /* the size is last */
		"qemu-img":   `for last; do :; done; echo qcow2 >"$last"`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\nset -e\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return runs
}

func testRecipe() Recipe {
	return Recipe{Name: "mine", Suite: "stable", Session: "x", DiskBytes: 2 << 30, Packages: []string{"a"},
		files: []file{{path: "etc/one", mode: 0o640, data: []byte("1")}}}
}

// left lists what is in a cache besides locks and logs.
func left(t *testing.T, cache string) []string {
	t.Helper()
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext != ".lock" && ext != ".log" {
			names = append(names, e.Name())
		}
	}
	return names
}

// onlyRoot tells whether this is root. Whoever is not is refused, which is then what is tested.
func onlyRoot(t *testing.T) bool {
	t.Helper()
	if os.Geteuid() == 0 {
		return true
	}
	_, err := Build(t.Context(), testRecipe(), Options{CacheDir: t.TempDir()})
	if code := desktop.CodeOf(err); code != desktop.Forbidden && code != desktop.Unavailable {
		t.Fatalf("a build without root: %v", err)
	}
	return false
}

func TestBuild(t *testing.T) {
	runs := fakeTools(t, "")
	if !onlyRoot(t) {
		return
	}
	cache := t.TempDir()
	var stages []string
	options := Options{CacheDir: cache, Progress: func(p Progress) {
		if len(stages) == 0 || stages[len(stages)-1] != p.Stage {
			stages = append(stages, p.Stage)
		}
	}}
	first, err := Build(t.Context(), testRecipe(), options)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(stages, " "); got != "packages customize filesystem disk" {
		t.Errorf("stages %s", got)
	}
	for path, want := range map[string]string{first.Disk: "qcow2\n", first.Kernel: "kernel\n", first.Initrd: "initrd\n", first.Packages: "a 1 amd64\nb 2 amd64\n"} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", path, got, err)
		}
	}
	if got := left(t, cache); len(got) != 1 || got[0] != testRecipe().Digest() {
		t.Errorf("the cache has %q", got)
	}
	// Again is nothing to do; afresh gives the same for the same packages.
	for _, fresh := range []bool{false, true} {
		options.Fresh = fresh
		again, err := Build(t.Context(), testRecipe(), options)
		if err != nil || again.Digest != first.Digest {
			t.Errorf("fresh %v: %+v, %v", fresh, again, err)
		}
	}
	if got, _ := os.ReadFile(runs); string(got) != "run\nrun\n" {
		t.Errorf("mmdebstrap ran %q", got)
	}
}

func TestTwoBuildsAtOnceMakeOne(t *testing.T) {
	runs := fakeTools(t, "")
	if !onlyRoot(t) {
		return
	}
	cache := t.TempDir()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := Build(t.Context(), testRecipe(), Options{CacheDir: cache}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got, _ := os.ReadFile(runs); string(got) != "run\n" {
		t.Errorf("mmdebstrap ran %q", got)
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	fakeTools(t, "echo 'E: Unable to locate package a' >&2; exit 25")
	if !onlyRoot(t) {
		return
	}
	cache := t.TempDir()
	_, err := Build(t.Context(), testRecipe(), Options{CacheDir: cache})
	if err == nil || !strings.Contains(err.Error(), "Unable to locate package a") || !strings.Contains(err.Error(), "mine.log") {
		t.Errorf("%v", err)
	}
	if got := left(t, cache); len(got) != 0 {
		t.Errorf("the cache has %q", got)
	}
}

func TestInterruptedBuildLeavesNothing(t *testing.T) {
	// A child that the tool has started is the likeliest to be left behind.
	runs := fakeTools(t, `sh -c 'echo $$ >"$0.child"; exec sleep 1000' "$0" & wait`)
	if !onlyRoot(t) {
		return
	}
	cache := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		_, err := Build(ctx, testRecipe(), Options{CacheDir: cache})
		ended <- err
	}()
	child := filepath.Join(filepath.Dir(runs), "mmdebstrap.child")
	var pid string
	for pid == "" && ctx.Err() == nil {
		text, _ := os.ReadFile(child)
		if strings.HasSuffix(string(text), "\n") {
			pid = strings.TrimSpace(string(text))
		} else {
			time.Sleep(10 * time.Millisecond)
		}
	}
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if got := left(t, cache); len(got) != 0 {
		t.Errorf("the cache has %q", got)
	}
	deadline := time.Now().Add(30 * time.Second)
	for alive(pid) && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if alive(pid) {
		t.Errorf("process %s goes on", pid)
	}
}

// alive tells whether a process runs; one that has ended and waits to be noticed does not.
func alive(pid string) bool {
	text, err := os.ReadFile(filepath.Join("/proc", pid, "stat"))
	return err == nil && !strings.Contains(string(text), ") Z ")
}
