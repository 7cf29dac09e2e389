package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// How a command runs. The agent is root; the command runs as the desktop's user, in a session and a
// family of its own, with pipes for its output. The call ends when the shell does: a program that
// was left in the background keeps the pipes open and must not hold the caller, and must not die of
// a broken pipe either, now or when the agent is replaced. So after a short grace what still
// arrives in the pipes is given to a cat that outlives the agent.

const (
	// outputGrace is how long after the shell's end its output may still be under way.
	outputGrace = 150 * time.Millisecond
	// scriptArgument is the longest script passed as an argument; the kernel takes 128 KiB.
	scriptArgument = 100 << 10
)

// fromPipe runs a script that is too long for an argument: it is read from descriptor 3, which the
// script itself does not inherit.
const fromPipe = "eval \"exec 3<&-\n$(cat <&3)\""

// runner runs commands.
type runner struct {
	user     string            // the desktop's user where no session tells
	lent     map[string]string // where the host's models are, for every command
	log      *slog.Logger
	sessions sessions
	families *families

	starting sync.Mutex // held while the agent's own process lends its settings to a child
}

func newRunner(user string, lent map[string]string, log *slog.Logger) *runner {
	return &runner{user: user, lent: lent, log: log, families: newFamilies()}
}

// run runs a command to its end, or kills it with all it has started when its time is up or ctx
// ends. emit receives the output as it is produced, one call at a time for each stream; after its
// first error the output is dropped.
func (r *runner) run(ctx context.Context, command desktop.Exec, emit func(desktop.Stream, []byte) error) (desktop.ExecResult, error) {
	var result desktop.ExecResult
	limit, err := checkExec(command)
	if err != nil {
		return result, err
	}
	who, env, err := r.login(command.User)
	if err != nil {
		return result, err
	}
	maps.Copy(env, command.Env)
	cwd, err := workingFolder(command.Cwd, who, env)
	if err != nil {
		return result, err
	}

	fam := r.families.make()
	defer fam.release()
	p, err := r.start(command, who, env, cwd, fam)
	if err != nil {
		return result, err
	}
	began := time.Now()
	outputs := []*output{p.stdout, p.stderr}
	var reading sync.WaitGroup
	for _, o := range outputs {
		reading.Go(func() { o.read(emit) })
	}
	drained := make(chan struct{})
	go func() { reading.Wait(); close(drained) }()

	timer := time.NewTimer(limit)
	defer timer.Stop()
	var failed error
	select {
	case <-p.ended:
	case <-timer.C:
		result.TimedOut = true
	case <-ctx.Done():
		failed = context.Cause(ctx)
	}
	grace := outputGrace
	if result.TimedOut || failed != nil {
		if err := fam.kill(); err != nil {
			r.log.Warn("a command was not ended completely", "error", err)
		}
		select {
		case <-p.ended:
		case <-time.After(killWait):
			failed = errors.New("the command does not end")
		}
		grace = time.Second
	}
	result.DurationMs = float64(time.Since(began).Microseconds()) / 1000
	select {
	case <-drained:
	case <-time.After(grace):
		for _, o := range outputs {
			o.pipe.SetReadDeadline(time.Now()) // ends its reader
		}
		<-drained
	}
	p.stopInput()
	for _, o := range outputs {
		o.leave(fam, r.log)
		result.Truncated = result.Truncated || o.truncated
	}
	if failed != nil {
		return result, failed
	}
	result.ExitCode = p.state.ExitCode()
	if status := p.state.Sys().(syscall.WaitStatus); status.Signaled() {
		result.ExitCode = 128 + int(status.Signal())
		result.Signal = strings.TrimPrefix(unix.SignalName(status.Signal()), "SIG")
	}
	return result, nil
}

// checkExec says what is wrong with a command, and how long it may take.
func checkExec(command desktop.Exec) (time.Duration, error) {
	switch {
	case strings.TrimSpace(command.Script) == "":
		return 0, desktop.Errorf(desktop.Invalid, "the command is empty")
	case len(command.Script) > desktop.MaxScriptLength:
		return 0, desktop.Errorf(desktop.TooLarge, "the command is longer than %d bytes", desktop.MaxScriptLength)
	case strings.ContainsRune(command.Script, 0):
		return 0, desktop.Errorf(desktop.Invalid, "the command has a NUL character")
	case strings.ContainsRune(command.Cwd, 0):
		return 0, desktop.Errorf(desktop.Invalid, "cwd has a NUL character")
	case command.Timeout < 0 || command.Timeout > desktop.MaxExecTimeout:
		return 0, desktop.Errorf(desktop.Invalid, "the time limit is not between 0 and %s", desktop.MaxExecTimeout)
	}
	for name, value := range command.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.ContainsRune(value, 0) {
			return 0, desktop.Errorf(desktop.Invalid, "the environment variable %q is not possible", name)
		}
	}
	if command.Timeout == 0 {
		return desktop.DefaultExecTimeout, nil
	}
	return command.Timeout, nil
}

// workingFolder is where a command starts.
func workingFolder(cwd string, who account, env map[string]string) (string, error) {
	switch {
	case cwd == "":
		if info, err := os.Stat(who.home); err == nil && info.IsDir() {
			return who.home, nil
		}
		return "/", nil
	case cwd == "~" || strings.HasPrefix(cwd, "~/"):
		cwd = who.home + cwd[1:]
	case !strings.HasPrefix(cwd, "/"):
		cwd = who.home + "/" + cwd
	}
	info, err := os.Stat(cwd)
	switch {
	case err != nil:
		return "", desktop.Errorf(desktop.Invalid, "the working folder %q does not exist in the desktop", cwd)
	case !info.IsDir():
		return "", desktop.Errorf(desktop.Invalid, "the working folder %q is not a folder", cwd)
	}
	env["PWD"] = cwd
	return cwd, nil
}

// process is a running command.
type process struct {
	stdout, stderr *output
	ended          chan struct{} // closed with state set
	state          *os.ProcessState
	stopInput      func() // ends the writing of standard input and waits for it
}

// start starts the command.
func (r *runner) start(command desktop.Exec, who account, env map[string]string, cwd string, fam *family) (*process, error) {
	var open []*os.File // closed when the command has, or has not, started
	defer func() {
		for _, f := range open {
			f.Close()
		}
	}()
	pipe := func() (reader, writer *os.File, err error) {
		if reader, writer, err = os.Pipe(); err != nil {
			err = fmt.Errorf("making a pipe: %w", err)
		}
		return reader, writer, err
	}
	shell := "/bin/sh"
	if command.Bash {
		shell = "/bin/bash"
	}
	c := exec.Command(shell, "-c", "--", command.Script)
	if len(command.Script) > scriptArgument {
		script, err := memoryFile(command.Script)
		if err != nil {
			return nil, err
		}
		open = append(open, script)
		c.Args[3] = fromPipe
		c.ExtraFiles = []*os.File{script}
	}
	c.Dir = cwd
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if unix.Geteuid() == 0 {
		c.SysProcAttr.Credential = &syscall.Credential{Uid: who.uid, Gid: who.gid, Groups: who.groups}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		c.Env = append(c.Env, name+"="+env[name])
	}
	c.Env = fam.join(c.SysProcAttr, c.Env)

	p := &process{ended: make(chan struct{}), stopInput: func() {}}
	ok := false
	for _, o := range []struct {
		name desktop.Stream
		at   **output
		end  *io.Writer
	}{{desktop.Stdout, &p.stdout, &c.Stdout}, {desktop.Stderr, &p.stderr, &c.Stderr}} {
		reader, writer, err := pipe()
		if err != nil {
			return nil, err
		}
		defer func() {
			if !ok {
				reader.Close()
			}
		}()
		open = append(open, writer)
		*o.at, *o.end = &output{stream: o.name, pipe: reader}, writer
	}
	var input *os.File
	if len(command.Stdin) > 0 {
		reader, writer, err := pipe()
		if err != nil {
			return nil, err
		}
		open = append(open, reader)
		c.Stdin, input = reader, writer
	}

	if err := r.launch(c); err != nil {
		if input != nil {
			input.Close()
		}
		if errors.Is(err, os.ErrPermission) {
			return nil, desktop.Errorf(desktop.Invalid, "%s may not start a command in %s", who.name, cwd)
		}
		return nil, fmt.Errorf("starting the command: %w", err)
	}
	ok = true
	fam.pid = c.Process.Pid
	if input != nil {
		p.stopInput = feed(input, command.Stdin)
	}
	go func() {
		// The pipes are files, so Wait waits for the process alone.
		_ = c.Wait() // what it says is in the state
		p.state = c.ProcessState
		close(p.ended)
	}()
	return p, nil
}

// launch starts a command that does not share the agent's protection from the kernel's
// out-of-memory killer. The setting is inherited by fork, so the agent goes without for a moment.
func (r *runner) launch(c *exec.Cmd) error {
	const file = "/proc/self/oom_score_adj"
	r.starting.Lock()
	defer r.starting.Unlock()
	own, err := os.ReadFile(file)
	if err == nil && strings.HasPrefix(string(own), "-") {
		if os.WriteFile(file, []byte("0"), 0) == nil {
			defer os.WriteFile(file, own, 0)
		}
	}
	return c.Start()
}

// memoryFile holds a text in memory.
func memoryFile(text string) (*os.File, error) {
	fd, err := unix.MemfdCreate("script", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("keeping the script: %w", err)
	}
	f := os.NewFile(uintptr(fd), "script")
	if _, err = f.WriteString(text); err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("keeping the script: %w", err)
	}
	return f, nil
}

// feed writes a command's standard input. What a command does not read is nobody's fault.
func feed(input *os.File, content []byte) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		input.Write(content)
		input.Close()
	}()
	return func() {
		input.SetWriteDeadline(time.Now()) // an error when it is closed already, as it mostly is
		<-done
	}
}

// output is the agent's end of a command's standard output or error.
type output struct {
	stream    desktop.Stream
	pipe      *os.File
	truncated bool
	ended     bool
}

// read passes on what arrives, up to the limit, and drops the rest.
func (o *output) read(emit func(desktop.Stream, []byte) error) {
	buf := make([]byte, 32<<10)
	passed := 0
	var gone error
	for {
		n, err := o.pipe.Read(buf)
		content := buf[:n]
		if room := desktop.MaxExecOutput - passed; n > room {
			content, o.truncated = buf[:room], true
		}
		passed += len(content)
		if len(content) > 0 && gone == nil {
			gone = emit(o.stream, content)
		}
		if err != nil {
			o.ended = !errors.Is(err, os.ErrDeadlineExceeded)
			return
		}
	}
}

// leave lets go of the pipe. When programs still hold its other end they get somebody who reads: a
// cat in their family, which ends with the last of them.
func (o *output) leave(fam *family, log *slog.Logger) {
	defer o.pipe.Close()
	if o.ended {
		return
	}
	// The runtime's end of a pipe does not block, and cat is not made for that.
	if raw, err := o.pipe.SyscallConn(); err == nil {
		raw.Control(func(fd uintptr) { syscall.SetNonblock(int(fd), false) })
	}
	// The shell ends at once, so that the cat is nobody's child here.
	drain := exec.Command("/bin/sh", "-c", "cat <&3 3<&- &")
	drain.Dir = "/"
	drain.ExtraFiles = []*os.File{o.pipe}
	drain.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	drain.Env = fam.join(drain.SysProcAttr, []string{"PATH=/usr/bin:/bin"})
	if err := drain.Run(); err != nil {
		log.Warn("the output of a background program is cut off", "error", err)
	}
}
