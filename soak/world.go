package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The soak's program runs three times, one in the other: as what was called, which waits; as the
// first process of the namespaces, which makes the world in them and then does what init does; and as
// the one that soaks. When the first process ends, for whatever reason, the kernel ends all others.
const (
	roleEnv   = "BUREAU_SOAK_ROLE"
	roleInit  = "init"
	roleSoak  = "soak"
	optionEnv = "BUREAU_SOAK_OPTIONS"
)

// options are what the soak was called with.
type options struct {
	Seed    uint64
	Kills   int           // how many there have to be
	Limit   time.Duration // for all of it
	Slots   int           // places for desktops
	Clients int
	Bureau  string   // the appliance's program
	Env     []string // of the appliance's processes, besides the usual
	Keep    string   // folder on the host for what a failure leaves behind
	Verbose bool
}

// where the world's things are, within its namespaces.
const (
	worldDir    = "/run/soak"
	homeDir     = worldDir + "/home" // of the user that serve runs as; a core is left there
	bureauPath  = worldDir + "/bureau"
	configPath  = worldDir + "/config.yaml"
	socketPath  = homeDir + "/admin.sock"
	dataDir     = homeDir + "/data"
	poolDir     = "/var/lib/libvirt/" + prefix
	lockDir     = "/run/lock" // which is /var/lock, too; libvirt locks the agents' channels there
	serveLog    = worldDir + "/serve.log"
	libvirtLog  = worldDir + "/libvirtd.log"
	address     = "127.0.0.1:7878"
	libvirtURI  = "qemu:///system"
	prefix      = "bureau-soak"
	foreignName = prefix + "er-own-guest" // an operator's, whose name is close to ours
)

// enter runs the soak in namespaces of its own and returns how it ended.
func enter(ctx context.Context, o options, stdout, stderr io.Writer) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	text, err := json.Marshal(o)
	if err != nil {
		return err
	}
	args := []string{program}
	if os.Geteuid() != 0 {
		// Namespaces with libvirt's users in them are root's to make.
		args = []string{"sudo", "-n", "--preserve-env=" + roleEnv + "," + optionEnv, program}
	}
	c := exec.CommandContext(ctx, args[0], args[1:]...)
	c.Env = append(os.Environ(), roleEnv+"="+roleInit, optionEnv+"="+string(text))
	c.Stdout, c.Stderr = stdout, stderr
	c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Geteuid() == 0 {
		c.SysProcAttr.Cloneflags = unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID | unix.CLONE_NEWIPC
	}
	return c.Run()
}

// roled does the part that the environment names; ok is false when that is none.
func roled() (code int, ok bool) {
	role := os.Getenv(roleEnv)
	if role != roleInit && role != roleSoak {
		return 0, false
	}
	var o options
	if err := json.Unmarshal([]byte(os.Getenv(optionEnv)), &o); err != nil {
		return fail(err), true
	}
	if role == roleSoak {
		return soak(context.Background(), o), true
	}
	if os.Getpid() != 1 { // sudo has kept us from the namespaces
		if err := enter(context.Background(), o, os.Stdout, os.Stderr); err != nil {
			return fail(err), true
		}
		return 0, true
	}
	if err := makeWorld(o); err != nil {
		return fail(fmt.Errorf("make the soak's world: %w", err)), true
	}
	return reign(), true
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, "soak:", err)
	return 1
}

// makeWorld turns new namespaces into a host of their own for libvirt.
func makeWorld(o options) error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("keep the mounts to ourselves: %w", err)
	}
	bureau, err := os.Open(o.Bureau) // which may be where the world has other things
	if err != nil {
		return err
	}
	defer bureau.Close()
	type mount struct{ kind, at, data string }
	mounts := []mount{
		{"proc", "/proc", ""},
		{"sysfs", "/sys", ""}, // of the new network, where libvirt looks for its interfaces
		{"tmpfs", "/run", "mode=755"},
	}
	for _, folder := range []string{"/etc/libvirt", "/var/lib/libvirt", "/var/cache/libvirt", "/var/log/libvirt"} {
		if _, err := os.Stat(folder); err != nil {
			return fmt.Errorf("%w; packaging/host/prepare --tests makes this machine ready", err)
		}
		mounts = append(mounts, mount{"tmpfs", folder, "mode=755"})
	}
	for _, m := range mounts {
		if err := unix.Mount(m.kind, m.at, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.at, err)
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("ip link set lo up: %w: %s", err, out)
	}
	for path, content := range map[string]string{
		// As packaging/host/prepare has it where there is no polkit.
		"/etc/libvirt/libvirtd.conf": "unix_sock_group = \"libvirt\"\nunix_sock_rw_perms = \"0770\"\nauth_unix_rw = \"none\"\n",
		// What needs daemons and folders that this world has not.
		"/etc/libvirt/qemu.conf": "stdio_handler = \"file\"\nsecurity_driver = \"none\"\ncgroup_controllers = []\n",
		configPath:               configuration(),
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	program, err := os.OpenFile(bureauPath, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(program, bureau); err != nil {
		return err
	}
	if err := program.Close(); err != nil {
		return err
	}
	as, err := unprivileged()
	if err != nil {
		return err
	}
	for _, folder := range []string{homeDir, lockDir} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return err
		}
	}
	// A process that dies by itself leaves a core, which a failure keeps.
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}); err != nil {
		return fmt.Errorf("allow cores: %w", err)
	}
	return os.Chown(homeDir, int(as.Uid), int(as.Gid))
}

// configuration is the appliance's: small machines and short times.
func configuration() string {
	return fmt.Sprintf(`listen: %s
adminSocket: %s
dataDir: %s
libvirt:
  prefix: %s
  pool:
    name: %s
    path: %s
image: %s
network: isolated
acceleration: tcg
tiers:
  soak: {vcpus: 1, memory: 512MiB, disk: 1GiB, desktops: 0}
defaultTier: soak
rateLimit: 0
stopGrace: 2s
bootTimeout: 10s
log:
  level: debug
`, address, socketPath, dataDir, prefix, prefix, poolDir, imageObedient)
}

// unprivileged is who serve runs as: nobody in particular, in the group libvirt.
func unprivileged() (*syscall.Credential, error) {
	u, err := user.Lookup("nobody")
	if err != nil {
		return nil, err
	}
	g, err := user.LookupGroup("libvirt")
	if err != nil {
		return nil, fmt.Errorf("%w; packaging/host/prepare --tests makes this machine ready", err)
	}
	var ids [3]uint32
	for i, text := range []string{u.Uid, u.Gid, g.Gid} {
		n, err := strconv.ParseUint(text, 10, 32)
		if err != nil {
			return nil, err
		}
		ids[i] = uint32(n)
	}
	return &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}, nil
}

// loseHost is the rest of what a host loses with its power: the guests, the networks' servers and
// bridges, and all that was in /run. libvirtd and serve are dead already.
func loseHost() {
	folders, _ := filepath.Glob("/proc/[0-9]*/exe")
	for _, folder := range folders {
		program, err := os.Readlink(folder)
		if err != nil {
			continue
		}
		name := filepath.Base(program)
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(folder)))
		if name == "dnsmasq" || strings.HasPrefix(name, "qemu-") {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	links, _ := net.Interfaces()
	for _, link := range links {
		if link.Name != "lo" {
			exec.Command("ip", "link", "delete", link.Name).Run()
		}
	}
	exec.Command("nft", "flush", "ruleset").Run()
	os.RemoveAll("/run/libvirt")
}

// reign starts the one that soaks and then does what the first process has to: it takes the exit
// codes of all that others have left, such as the QEMUs of a libvirtd that was killed.
func reign() int {
	program, err := os.Executable()
	if err != nil {
		return fail(err)
	}
	env := []string{roleEnv + "=" + roleSoak, optionEnv + "=" + os.Getenv(optionEnv)}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GORACE"} {
		if value, set := os.LookupEnv(name); set {
			env = append(env, name+"="+value)
		}
	}
	child, err := os.StartProcess(program, []string{program}, &os.ProcAttr{Env: env, Files: []*os.File{nil, os.Stdout, os.Stderr}})
	if err != nil {
		return fail(err)
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return fail(fmt.Errorf("wait: %w", err))
		case pid == child.Pid && status.Signaled():
			return fail(fmt.Errorf("the soak was ended by %s", status.Signal()))
		case pid == child.Pid:
			return status.ExitStatus()
		}
	}
}
