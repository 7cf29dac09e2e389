package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// The agents of these tests are processes: this test binary, told by its environment to be one. The
// device is a pseudo-terminal in raw mode, which has what makes a virtio-serial port hard: it has no
// connections, and what one process wrote reaches the next one.

const portVariable = "AGENT_TEST_PORT"

func TestMain(m *testing.M) {
	if path := os.Getenv(portVariable); path != "" {
		err := Run(context.Background(), Options{
			Version: "child", Port: path, RunDir: os.Getenv("AGENT_TEST_RUN"), User: testUser(),
			Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// What the caller of the tests leaked is not the agent's leak.
	unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	os.Exit(m.Run())
}

// tty is a pseudo-terminal that stands for the device.
type tty struct {
	t      *testing.T
	master *os.File
	path   string
}

func newTTY(t *testing.T) *tty {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	control := func(do func(fd int) error) {
		t.Helper()
		raw, err := master.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(err, raw.Control(func(fd uintptr) { err = do(int(fd)) }), err); err != nil {
			t.Fatal(err)
		}
	}
	var number int
	control(func(fd int) (err error) {
		if err = unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(fd, unix.TIOCGPTN)
		}
		return err
	})
	path := fmt.Sprintf("/dev/pts/%d", number)
	// Held open, for the other end is to outlive its processes.
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	control(func(fd int) error {
		mode := unix.Termios{Cflag: unix.CS8 | unix.CREAD}
		mode.Cc[unix.VMIN] = 1
		return unix.IoctlSetTermios(fd, unix.TCSETS, &mode)
	})
	return &tty{t: t, master: master, path: path}
}

// connect is the host's end of a new connection.
func (y *tty) connect() *os.File {
	y.t.Helper()
	raw, err := y.master.SyscallConn()
	if err != nil {
		y.t.Fatal(err)
	}
	dup := -1
	raw.Control(func(fd uintptr) { dup, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) })
	if err != nil {
		y.t.Fatal(err)
	}
	unix.SetNonblock(dup, true)
	return os.NewFile(uintptr(dup), "master")
}

// child starts an agent process.
func (y *tty) child(binary, run string) *exec.Cmd {
	y.t.Helper()
	c := exec.Command(binary)
	c.Env = append(os.Environ(), portVariable+"="+y.path, "AGENT_TEST_RUN="+run)
	if os.Getenv("AGENT_TEST_LOG") != "" {
		c.Stderr = y.t.Output()
	}
	if err := c.Start(); err != nil {
		y.t.Fatal(err)
	}
	y.t.Cleanup(func() {
		c.Process.Kill()
		c.Wait()
	})
	return c
}

// padded copies this binary with something behind it, which changes its checksum and nothing else.
func padded(t *testing.T, text string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "bureau")
	if err := os.WriteFile(path, append(data, text...), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// Processes that are killed, on a device that outlives them.
func TestKilledAgent(t *testing.T) {
	y := newTTY(t)
	binary, run := padded(t, ""), t.TempDir()
	child := y.child(binary, run)
	for range 3 {
		a := connect(t, &Connector{Binary: binary}, y.connect())
		answers(t, a)
		// It is killed while it is sending.
		killed := make(chan struct{})
		_, err := a.Exec(testContext(t), desktop.Exec{Script: "cat /dev/zero"}, func(desktop.Stream, []byte) {
			select {
			case <-killed:
			default:
				close(killed)
				child.Process.Kill()
				child.Wait()
				child = y.child(binary, run)
			}
		})
		code(t, err, desktop.Unavailable, "went away")
		wait(t, a.Done(), "the session's end")
	}
}

// A host brings an agent to its own version, once, and goes on with it.
func TestDeliver(t *testing.T) {
	y := newTTY(t)
	old, run := padded(t, "old"), t.TempDir()
	child := y.child(old, run)
	c := &Connector{Binary: padded(t, "new")}
	a := connect(t, c, y.connect())
	answers(t, a)
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", child.Process.Pid))
	if want := filepath.Join(run, "agent"); err != nil || exe != want {
		t.Errorf("the process runs %q, %v; want %q", exe, err, want)
	}
	entries, err := os.ReadDir(run)
	if err != nil || len(entries) != 1 {
		t.Errorf("the folder holds %v, %v", entries, err)
	}
	a.Close()
	again := connect(t, c, y.connect())
	answers(t, again)
}

// A guest that stays what it was is refused with a reason.
func TestDeliverInVain(t *testing.T) {
	p := newPort()
	w := newWire(p.open(), true, nil)
	defer w.close()
	ctx := testContext(t)
	var taken int
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			l := w.leg()
			switch err := answer(ctx, l, peer{version: "0.1"}); {
			case absent(err):
				continue
			case err != nil:
				return
			}
			m, err := newMux(l, false, testLog(t))
			if err != nil {
				return
			}
			m.serve(ctx, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				taken++
				w.WriteHeader(http.StatusNoContent)
			}), hostStreams, testLog(t))
			m.close()
			l.Close()
		}
	}()
	_, err := (&Connector{Binary: padded(t, "new"), Log: testLog(t)}).Connect(ctx, testDesktop, p.connect())
	code(t, err, desktop.Unavailable, "is 0.1 still")
	w.close()
	wait(t, done, "the guest's end")
	if taken != 1 {
		t.Errorf("delivered %d times", taken)
	}
}

func TestPutRefuses(t *testing.T) {
	sum := func(b []byte) string { s := sha256.Sum256(b); return hex.EncodeToString(s[:]) }
	script := []byte("#!/bin/sh\necho not here; exit 3\n")
	for name, c := range map[string]struct {
		content []byte
		sum     string
		code    desktop.Code
		message string
	}{
		"another checksum": {script, sum(nil), desktop.Invalid, "checksum"},
		"does not run":     {script, sum(script), desktop.Unavailable, "does not run in this desktop: exit status 3: not here"},
		"no program":       {[]byte("x"), sum([]byte("x")), desktop.Unavailable, "does not run"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := &guest{options: Options{RunDir: dir}, log: testLog(t), replaced: make(chan struct{})}
			r := httptest.NewRequest(http.MethodPut, routeAgent, bytes.NewReader(c.content))
			r.Header.Set(sumHeader, c.sum)
			w := httptest.NewRecorder()
			g.servePut(w, r)
			if w.Code == http.StatusNoContent {
				t.Fatal("it was taken")
			}
			code(t, readError(w.Body), c.code, c.message)
			if entries, _ := os.ReadDir(dir); len(entries) != 0 {
				t.Errorf("left behind: %v", entries)
			}
			select {
			case <-g.replaced:
				t.Error("the agent would restart")
			default:
			}
		})
	}
}

// Binaries are told apart by size and content, short or long.
func TestFingerprint(t *testing.T) {
	path := filepath.Join(t.TempDir(), "binary")
	if _, err := fingerprint(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without a file the error is %v", err)
	}
	seen := map[[32]byte]string{}
	long := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	for name, content := range map[string][]byte{
		"empty":      nil,
		"short":      []byte("one"),
		"other":      []byte("two"),
		"long":       long,
		"longer":     append(bytes.Clone(long), 0),
		"first byte": append([]byte("x"), long[1:]...),
		"last byte":  append(bytes.Clone(long[1:]), 'x'),
	} {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		sum, err := fingerprint(path)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := fingerprint(path); err != nil || again != sum {
			t.Errorf("%s has two fingerprints, %v", name, err)
		}
		if other := seen[sum]; other != "" {
			t.Errorf("%s and %s have the same", name, other)
		}
		seen[sum] = name
	}
}

// /run forbids programs in Debian; the folder of the agent does not afterwards, and what is mounted
// below it stays in sight.
func TestPutWhereProgramsAreForbidden(t *testing.T) {
	above := t.TempDir()
	err := unix.Mount("tmpfs", above, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, "")
	if err != nil {
		// Only root can mount, and only root needs to: allowed folders are left as they are.
		if err := allowExec(above); err != nil {
			t.Error(err)
		}
		return
	}
	defer unix.Unmount(above, unix.MNT_DETACH)
	dir := filepath.Join(above, "bureau")
	disk := filepath.Join(dir, "disk")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(disk, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	script := []byte("#!/bin/sh\nexit 0\n")
	sum := sha256.Sum256(script)
	g := &guest{options: Options{RunDir: dir}, log: testLog(t), replaced: make(chan struct{})}
	for range 2 {
		if err := g.put(testContext(t), hex.EncodeToString(sum[:]), bytes.NewReader(script)); err != nil {
			t.Fatal(err)
		}
		if err := probe(testContext(t), filepath.Join(dir, delivered)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Join(disk, "file")); err != nil {
		t.Errorf("what was mounted below is gone: %v", err)
	}
}
