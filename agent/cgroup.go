package agent

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A family is a command with everything it has started, however that detached itself. Killing a
// process group is not enough (setsid leaves it), so every command begins in a control group of
// its own, which nothing can leave without being root. Where control groups cannot be written the
// family is found by parents, sessions and a variable in the environment: good enough unless a
// program sheds all three.

// familyVariable marks a command's processes where there are no control groups.
const familyVariable = "BUREAU_EXEC"

// killWait bounds the wait for killed processes to be gone.
const killWait = 5 * time.Second

// families makes control groups below one of its own.
type families struct {
	root string // empty when there are no control groups

	mu    sync.Mutex
	inUse map[string]bool
}

func newFamilies() *families {
	f := &families{inUse: map[string]bool{}}
	for _, mount := range cgroupMounts() {
		root := filepath.Join(mount, "bureau-exec")
		if err := os.Mkdir(root, 0o755); err == nil || errors.Is(err, os.ErrExist) {
			if unix.Access(root, unix.W_OK) == nil {
				f.root = root
				break
			}
		}
	}
	return f
}

// cgroupMounts are the places where version 2 control groups are mounted.
func cgroupMounts() []string {
	info, _ := os.ReadFile("/proc/self/mountinfo") // none without /proc
	var mounts []string
	for line := range strings.Lines(string(info)) {
		before, after, _ := strings.Cut(line, " - ")
		fields := strings.Fields(before)
		if strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			mounts = append(mounts, fields[4])
		}
	}
	return mounts
}

// family is one command's.
type family struct {
	owner *families
	dir   *os.File // its control group, nil when there is none
	mark  string
	pid   int // of the command, once it runs
}

// make prepares a family for a command that starts next.
func (f *families) make() *family {
	fam := &family{owner: f, mark: strings.ToLower(rand.Text()[:16])}
	if f.root == "" {
		return fam
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sweepLocked()
	path := filepath.Join(f.root, fam.mark)
	if err := os.Mkdir(path, 0o755); err != nil {
		return fam
	}
	dir, err := os.Open(path)
	if err != nil {
		os.Remove(path)
		return fam
	}
	fam.dir = dir
	f.inUse[fam.mark] = true
	return fam
}

// sweepLocked removes the groups whose last process has ended since their commands did.
func (f *families) sweepLocked() {
	entries, err := os.ReadDir(f.root)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() && !f.inUse[e.Name()] {
			os.Remove(filepath.Join(f.root, e.Name())) // refused while it has processes
		}
	}
}

// join has the command start as a member.
func (fam *family) join(attr *syscall.SysProcAttr, env []string) []string {
	if fam.dir == nil {
		return append(env, familyVariable+"="+fam.mark)
	}
	attr.UseCgroupFD, attr.CgroupFD = true, int(fam.dir.Fd())
	return env
}

// release lets the family's remaining processes live on.
func (fam *family) release() {
	if fam.dir == nil {
		return
	}
	fam.owner.mu.Lock()
	defer fam.owner.mu.Unlock()
	path := fam.dir.Name()
	fam.dir.Close()
	delete(fam.owner.inUse, fam.mark)
	os.Remove(path) // refused while it has processes; swept later
}

// kill ends every member. It returns when they are gone, or with what is known of those that are
// not.
func (fam *family) kill() error {
	deadline := time.Now().Add(killWait)
	for {
		left, err := fam.killOnce()
		if err != nil || left == 0 {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d processes of the command do not end", left)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// killOnce kills the members there are and tells how many it found.
func (fam *family) killOnce() (int, error) {
	if fam.dir == nil {
		pids := relatives(fam.pid, fam.mark)
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids), nil
	}
	members, err := os.ReadFile(filepath.Join(fam.dir.Name(), "cgroup.procs"))
	if err != nil {
		return 0, fmt.Errorf("listing the command's processes: %w", err)
	}
	pids := strings.Fields(string(members))
	if len(pids) == 0 {
		return 0, nil
	}
	if os.WriteFile(filepath.Join(fam.dir.Name(), "cgroup.kill"), []byte("1"), 0) != nil {
		for _, field := range pids { // a kernel before 5.14
			if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
				syscall.Kill(pid, syscall.SIGKILL)
			}
		}
	}
	return len(pids), nil
}

// relatives finds a command's living processes: itself, its descendants, its session, and those
// that carry its mark.
func relatives(leader int, mark string) []int {
	type process struct{ pid, parent, session int }
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var all []process
	var found []int
	marked := []byte("\x00" + familyVariable + "=" + mark + "\x00")
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile("/proc/" + e.Name() + "/stat")
		if err != nil {
			continue
		}
		at := bytes.LastIndex(stat, []byte(") "))
		fields := strings.Fields(string(stat[at+2:]))
		if at < 0 || len(fields) < 4 || fields[0] == "Z" || fields[0] == "X" {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		session, _ := strconv.Atoi(fields[3])
		all = append(all, process{pid, parent, session})
		environ, _ := os.ReadFile("/proc/" + e.Name() + "/environ")
		if pid == leader || session == leader || bytes.Contains(append([]byte{0}, environ...), marked) {
			found = append(found, pid)
		}
	}
	for i := 0; i < len(found); i++ {
		for _, p := range all {
			if p.parent == found[i] && !slices.Contains(found, p.pid) {
				found = append(found, p.pid)
			}
		}
	}
	return found
}
