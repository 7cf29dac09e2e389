package hypervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	"libvirt.org/go/libvirt"
	"libvirt.org/go/libvirtxml"

	"bureau/desktop"
)

// privateDaemon is a libvirtd of the test's own, which may be killed without disturbing anybody's
// machines. It is one of the session kind, which root runs as nobody: a daemon of root's would be
// of the system kind and share its folders with the real one.
type privateDaemon struct {
	folder string
	uri    string
	attr   *syscall.SysProcAttr
	cmd    *exec.Cmd
	exited chan struct{}
}

func newPrivateDaemon(t *testing.T) *privateDaemon {
	t.Helper()
	folder, err := os.MkdirTemp("", "b-") // short: libvirt puts sockets far below it
	if err != nil {
		t.Fatal(err)
	}
	d := &privateDaemon{
		folder: folder,
		uri:    "qemu:///session?socket=" + filepath.Join(folder, "libvirt", "libvirt-sock"),
		attr:   &syscall.SysProcAttr{},
	}
	if os.Getuid() == 0 {
		nobody, err := user.Lookup("nobody")
		if err != nil {
			t.Fatal(err)
		}
		uid, _ := strconv.Atoi(nobody.Uid)
		gid, _ := strconv.Atoi(nobody.Gid)
		if err := os.Chown(folder, uid, gid); err != nil {
			t.Fatal(err)
		}
		d.attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	if err := os.WriteFile(filepath.Join(folder, "libvirtd.conf"), []byte("auth_unix_rw = \"none\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.kill()
		os.RemoveAll(folder)
	})
	d.start(t)
	return d
}

func (d *privateDaemon) start(t *testing.T) {
	t.Helper()
	program, err := tool("libvirtd")
	if err != nil {
		t.Fatal(err)
	}
	d.cmd = exec.Command(program, "-f", filepath.Join(d.folder, "libvirtd.conf"))
	d.cmd.Dir = d.folder
	d.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.folder,
		"XDG_RUNTIME_DIR=" + d.folder, "XDG_CONFIG_HOME=" + d.folder + "/c", "XDG_CACHE_HOME=" + d.folder + "/k"}
	d.cmd.SysProcAttr = d.attr
	if err := d.cmd.Start(); err != nil {
		t.Fatal("start libvirtd:", err)
	}
	d.exited = make(chan struct{})
	go func(cmd *exec.Cmd, exited chan struct{}) {
		cmd.Wait()
		close(exited)
	}(d.cmd, d.exited)
	deadline := time.Now().Add(time.Minute)
	for {
		conn, err := net.Dial("unix", filepath.Join(d.folder, "libvirt", "libvirt-sock"))
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("libvirtd does not listen:", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (d *privateDaemon) kill() {
	d.cmd.Process.Kill()
	<-d.exited
}

// startWithoutNetwork turns on a machine on a daemon that can have no networks.
func startWithoutNetwork(t *testing.T, h *Host, spec desktop.Spec) {
	t.Helper()
	_, err := run(testContext(t), h, startTime, "start", func(ctx context.Context, c *libvirt.Connect) (struct{}, error) {
		none := struct{}{}
		agent, err := h.ensureAgent(ctx, c)
		if err != nil {
			return none, err
		}
		if _, _, _, err := h.ensureOverlay(ctx, c, spec); err != nil {
			return none, err
		}
		if agent, err = h.volumePath(c, agent); err != nil {
			return none, err
		}
		overlay, err := h.volumePath(c, overlayVolume(spec.ID))
		if err != nil {
			return none, err
		}
		document, err := definition{
			spec: spec, domain: h.opts.domainName(spec.ID),
			agent: agent, overlay: overlay, acceleration: desktop.TCG, dbusDisplay: true,
		}.xml()
		if err != nil {
			return none, err
		}
		var domain libvirtxml.Domain
		if err := domain.Unmarshal(document); err != nil {
			return none, err
		}
		domain.Devices.Interfaces = nil
		if document, err = domain.Marshal(); err != nil {
			return none, err
		}
		d, err := c.DomainDefineXML(document)
		if err != nil {
			return none, err
		}
		defer d.Free()
		return none, d.Create()
	})
	if err != nil {
		t.Fatal("start:", err)
	}
}

func TestDaemonDiesAndComesBack(t *testing.T) {
	daemon := newPrivateDaemon(t)
	opts := testOptions(t)
	opts.URI = daemon.uri
	opts.Pool.Path = filepath.Join(daemon.folder, "pool")
	ctx := testContext(t)
	h, err := Open(ctx, opts)
	if err != nil {
		t.Fatal("open:", err, errors.Unwrap(err))
	}
	defer h.Close()
	defer func() {
		if err := h.Purge(ctx); err != nil {
			t.Error("purge:", err)
		}
	}()
	changes := h.Watch(ctx)
	spec := testSpec(importEmpty(t, h, "empty"))
	startWithoutNetwork(t, h, spec)
	wantChange(t, changes, spec.ID)
	stream, err := h.OpenAgent(ctx, spec.ID)
	if err != nil {
		t.Fatal("open the agent:", err)
	}
	defer stream.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Read(make([]byte, 1))
		ended <- err
	}()
	stopped := make(chan error, 1)
	go func() { stopped <- h.Stop(ctx, spec.ID, time.Hour) }()

	for life := range 2 {
		daemon.kill()
		if life == 0 {
			if err := <-ended; err != io.EOF {
				t.Errorf("the agent's stream ended with %v", err)
			}
		}
		deadline := time.Now().Add(time.Minute)
		for {
			_, err := h.List(ctx)
			if err != nil {
				wantCode(t, err, desktop.Unavailable)
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("the daemon's death is not noticed")
			}
		}
		_, err = h.OpenAgent(ctx, spec.ID)
		wantCode(t, err, desktop.Unavailable)
		daemon.start(t)
		wantChange(t, changes, "")
		wantState(t, h, spec.ID, desktop.MachineRunning)
		// The daemon has its monitor of the machine back when it can answer this.
		domain(t, h, spec.ID, func(d *libvirt.Domain) error {
			_, err := d.BlockStats("vda")
			return err
		})
		if image, err := h.Image(ctx, "empty"); err != nil || image.Digest != spec.ImageDigest {
			t.Errorf("image is %+v, %v", image, err)
		}
	}
	again, err := h.OpenAgent(ctx, spec.ID)
	if err != nil {
		t.Fatal("open the agent again:", err)
	}
	again.Close()

	// Events arrive over the new connection.
	domain(t, h, spec.ID, (*libvirt.Domain).Destroy)
	wantChange(t, changes, spec.ID)
	wantState(t, h, spec.ID, desktop.MachineOff)
	select {
	case err := <-stopped:
		if err != nil && desktop.CodeOf(err) != desktop.Unavailable {
			t.Error("the stop that was under way:", err)
		}
	case <-ctx.Done():
		t.Error("the stop that was under way hangs")
	}
}

// A daemon that is there and does not answer is given up, as one that died is.
func TestDaemonHangs(t *testing.T) {
	daemon := newPrivateDaemon(t)
	opts := testOptions(t)
	opts.URI = daemon.uri
	opts.Pool.Path = filepath.Join(daemon.folder, "pool")
	h, err := Open(testContext(t), opts)
	if err != nil {
		t.Fatal("open:", err)
	}
	defer h.Close()
	changes := h.Watch(testContext(t))
	if err := daemon.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	soon, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	if _, err := h.List(soon); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("list: %v", err)
	}
	// Those who ask may be told that it takes too long before it is given up.
	for away := false; !away; {
		_, err = h.List(testContext(t))
		wantCode(t, err, desktop.Unavailable)
		h.mu.Lock()
		away = h.away
		h.mu.Unlock()
	}
	if err := daemon.cmd.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	wantChange(t, changes, "")
	if _, err := h.List(testContext(t)); err != nil {
		t.Error("list:", err)
	}
}

// The newest opener wins, and libvirtd lives through it, which it does not when the channel is
// taken by force.
func TestTakeovers(t *testing.T) {
	daemon := newPrivateDaemon(t)
	opts := testOptions(t)
	opts.URI = daemon.uri
	opts.Pool.Path = filepath.Join(daemon.folder, "pool")
	ctx := testContext(t)
	h, err := Open(ctx, opts)
	if err != nil {
		t.Fatal("open:", err)
	}
	defer h.Close()
	defer func() {
		if err := h.Purge(ctx); err != nil {
			t.Error("purge:", err)
		}
	}()
	spec := testSpec(importEmpty(t, h, "empty"))
	startWithoutNetwork(t, h, spec)
	var former io.ReadWriteCloser
	for range 50 {
		stream, err := h.OpenAgent(ctx, spec.ID)
		if err != nil {
			t.Fatal("open:", err)
		}
		if _, err := stream.Write(make([]byte, 100)); err != nil {
			t.Fatal("write:", err)
		}
		if former != nil {
			if _, err := former.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
				t.Fatal("write to the former stream:", err)
			}
		}
		former = stream
	}
	select {
	case <-daemon.exited:
		t.Error("libvirtd has died")
	default:
	}
	wantState(t, h, spec.ID, desktop.MachineRunning)
}
