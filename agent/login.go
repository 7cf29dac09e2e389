package agent

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// Whose desktop this is. The user is the one whose X session runs: some process of that session
// has DISPLAY in its environment, and what else a program on the screen needs to know with it. So
// nothing is configured, and a desktop that logs in another user is right by itself.

// account is a user as a process needs it.
type account struct {
	uid, gid uint32
	groups   []uint32
	name     string
	home     string
	shell    string
}

// lookupAccount finds a user by name or, for "#1000", by number.
func lookupAccount(name string) (account, error) {
	var u *user.User
	var err error
	if id, ok := strings.CutPrefix(name, "#"); ok {
		u, err = user.LookupId(id)
	} else {
		u, err = user.Lookup(name)
	}
	var noName user.UnknownUserError
	var noID user.UnknownUserIdError
	switch {
	case errors.As(err, &noName), errors.As(err, &noID):
		return account{}, desktop.Errorf(desktop.Invalid, "there is no user %q in the desktop", name)
	case err != nil:
		return account{}, fmt.Errorf("looking up the user %q: %w", name, err)
	}
	a := account{name: u.Username, home: u.HomeDir, shell: loginShell(u.Username)}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return account{}, fmt.Errorf("looking up the user %q: %w", name, err)
	}
	a.uid, a.gid = uint32(uid), uint32(gid)
	groups, err := u.GroupIds()
	if err != nil {
		return account{}, fmt.Errorf("looking up the groups of %q: %w", name, err)
	}
	for _, g := range groups {
		if id, err := strconv.ParseUint(g, 10, 32); err == nil {
			a.groups = append(a.groups, uint32(id))
		}
	}
	return a, nil
}

func loginShell(name string) string {
	passwd, _ := os.ReadFile("/etc/passwd") // without it: the default
	for line := range strings.Lines(string(passwd)) {
		fields := strings.Split(strings.TrimSpace(line), ":")
		if len(fields) == 7 && fields[0] == name && fields[6] != "" {
			return fields[6]
		}
	}
	return "/bin/sh"
}

// environment is what a login of the user gives a process.
func (a account) environment() map[string]string {
	env := map[string]string{
		"HOME": a.home, "USER": a.name, "LOGNAME": a.name, "SHELL": a.shell,
		"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games",
		"LANG": "C.UTF-8",
	}
	if a.uid == 0 {
		env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	runtime := "/run/user/" + strconv.Itoa(int(a.uid))
	if _, err := os.Stat(runtime); err == nil {
		env["XDG_RUNTIME_DIR"] = runtime
		if _, err := os.Stat(runtime + "/bus"); err == nil {
			env["DBUS_SESSION_BUS_ADDRESS"] = "unix:path=" + runtime + "/bus"
		}
	}
	return env
}

// The variables of a session that a program on its screen needs: these and those that begin so.
var (
	sessionVariables = []string{
		"DISPLAY", "XAUTHORITY", "DBUS_SESSION_BUS_ADDRESS", "LANG", "LANGUAGE", "DESKTOP_SESSION",
	}
	sessionPrefixes = []string{"XDG_", "LC_"}
	// screenVariables are those that let another user, root, draw on the screen.
	screenVariables = []string{"DISPLAY", "XAUTHORITY"}
)

// desktopSession is a user's session on the display.
type desktopSession struct {
	uid uint32
	env map[string]string

	pid     int
	started string
}

// sessions finds the desktop's session and remembers the process that told of it.
type sessions struct {
	mu   sync.Mutex
	last desktopSession
}

// find returns the session, false when nobody is logged in on the display.
func (s *sessions) find() (desktopSession, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last.pid != 0 && startTime(s.last.pid) == s.last.started {
		return s.last, true
	}
	s.last = scanSessions()
	return s.last, s.last.pid != 0
}

// scanSessions looks through all processes: the best is the one that knows most of its session,
// and among equals the oldest.
func scanSessions() desktopSession {
	var best desktopSession
	most := 0
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return best
	}
	var pids []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	for _, pid := range pids {
		dir := "/proc/" + strconv.Itoa(pid)
		var st syscall.Stat_t
		// System accounts, such as the greeter's, have no desktop.
		if syscall.Stat(dir, &st) != nil || st.Uid < 1000 || st.Uid >= 65534 {
			continue
		}
		raw, err := os.ReadFile(dir + "/environ")
		if err != nil {
			continue
		}
		env, score := sessionEnvironment(raw)
		if env["DISPLAY"] == "" || score <= most {
			continue
		}
		if started := startTime(pid); started != "" {
			best, most = desktopSession{uid: st.Uid, env: env, pid: pid, started: started}, score
		}
	}
	return best
}

// sessionEnvironment picks the session's variables from a process's environment and tells how many
// of those that matter most are among them.
func sessionEnvironment(environ []byte) (map[string]string, int) {
	env, score := map[string]string{}, 0
	for entry := range bytes.SplitSeq(environ, []byte{0}) {
		name, value, ok := strings.Cut(string(entry), "=")
		if !ok || value == "" {
			continue
		}
		if slices.Contains(sessionVariables, name) {
			score++
		} else if !slices.ContainsFunc(sessionPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }) {
			continue
		}
		env[name] = value
	}
	return env, score
}

// startTime tells one process from another that was given the same pid; "" when there is none.
func startTime(pid int) string {
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return ""
	}
	// The command's name, in parentheses, may hold anything.
	_, rest, ok := strings.Cut(string(stat), ") ")
	if at := strings.LastIndex(string(stat), ") "); at >= 0 {
		rest = string(stat)[at+2:]
	}
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 || fields[0] == "Z" {
		return ""
	}
	return fields[19]
}

// login decides who runs a command and in which environment.
func (r *runner) login(name string) (account, map[string]string, error) {
	session, found := r.sessions.find()
	who := name
	switch {
	case who != "":
	case unix.Geteuid() != 0: // an agent that is not root runs all as itself
		who = "#" + strconv.Itoa(unix.Geteuid())
	case found:
		who = "#" + strconv.Itoa(int(session.uid))
	case r.user != "":
		who = r.user
	default:
		who = "#1000"
	}
	a, err := lookupAccount(who)
	if err != nil {
		if name == "" {
			return account{}, nil, desktop.Errorf(desktop.Unavailable, "nobody is logged in to the desktop, and it has no user with the number 1000: name a user")
		}
		return account{}, nil, err
	}
	if own := unix.Geteuid(); own != 0 && a.uid != uint32(own) {
		return account{}, nil, desktop.Errorf(desktop.Unavailable, "the agent does not run as root and cannot run commands as %s", a.name)
	}
	env := a.environment()
	maps.Copy(env, r.lent)
	switch {
	case !found:
	case session.uid == a.uid:
		for name, value := range session.env {
			env[name] = value
		}
	default:
		for _, name := range screenVariables {
			if value, ok := session.env[name]; ok && (a.uid == 0 || name != "XAUTHORITY") {
				env[name] = value
			}
		}
	}
	return a, env, nil
}
