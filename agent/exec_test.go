package agent

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bureau/desktop"
)

// collected runs a command and collects its output as it comes.
func collected(ctx context.Context, r *runner, command desktop.Exec) (desktop.ExecResult, error) {
	out := map[desktop.Stream]*strings.Builder{desktop.Stdout: {}, desktop.Stderr: {}}
	result, err := r.run(ctx, command, func(s desktop.Stream, p []byte) error {
		out[s].Write(p)
		return nil
	})
	result.Stdout, result.Stderr = out[desktop.Stdout].String(), out[desktop.Stderr].String()
	return result, err
}

func testRunner(t *testing.T) *runner {
	t.Helper()
	return newRunner(testUser(), nil, slog.New(slog.DiscardHandler))
}

// testUser runs the tests' commands where nobody is named.
func testUser() string {
	if os.Geteuid() == 0 {
		return "root"
	}
	return ""
}

func TestExec(t *testing.T) {
	dir := t.TempDir()
	long := "x='" + strings.Repeat("y", 300<<10) + "'\necho ${#x}; ls /proc/self/fd | wc -l\n"
	big := strings.Repeat("0123456789abcdef", 64<<10)
	for name, c := range map[string]struct {
		command desktop.Exec
		want    desktop.ExecResult
	}{
		"output":            {desktop.Exec{Script: "echo out; echo err >&2"}, desktop.ExecResult{Stdout: "out\n", Stderr: "err\n"}},
		"exit code":         {desktop.Exec{Script: "exit 3"}, desktop.ExecResult{ExitCode: 3}},
		"not found":         {desktop.Exec{Script: "no-such-program 2>/dev/null"}, desktop.ExecResult{ExitCode: 127}},
		"signal":            {desktop.Exec{Script: "kill -TERM $$"}, desktop.ExecResult{ExitCode: 143, Signal: "TERM"}},
		"signal of a child": {desktop.Exec{Script: "sh -c 'kill -SEGV $$' 2>/dev/null; exit $?"}, desktop.ExecResult{ExitCode: 139}},
		"stdin":             {desktop.Exec{Script: "tr a-z A-Z", Stdin: []byte("hello\n")}, desktop.ExecResult{Stdout: "HELLO\n"}},
		"large stdin":       {desktop.Exec{Script: "wc -c", Stdin: []byte(big)}, desktop.ExecResult{Stdout: strconv.Itoa(len(big)) + "\n"}},
		"unread stdin":      {desktop.Exec{Script: "echo done", Stdin: []byte(big)}, desktop.ExecResult{Stdout: "done\n"}},
		"no stdin":          {desktop.Exec{Script: "cat; echo end"}, desktop.ExecResult{Stdout: "end\n"}},
		"cwd":               {desktop.Exec{Script: "pwd", Cwd: dir}, desktop.ExecResult{Stdout: dir + "\n"}},
		"env":               {desktop.Exec{Script: `echo "$A-$LANG"`, Env: map[string]string{"A": "b c", "LANG": "x"}}, desktop.ExecResult{Stdout: "b c-x\n"}},
		"bash":              {desktop.Exec{Script: `a=(1 2 3); echo "${#a[@]} $0"`, Bash: true}, desktop.ExecResult{Stdout: "3 /bin/bash\n"}},
		"begins with -":     {desktop.Exec{Script: "-x 2>/dev/null; echo $?"}, desktop.ExecResult{Stdout: "127\n"}},
		"long script":       {desktop.Exec{Script: long}, desktop.ExecResult{Stdout: "307200\n4\n"}},
		"long in bash":      {desktop.Exec{Script: long, Bash: true}, desktop.ExecResult{Stdout: "307200\n4\n"}},
		"no leaked files":   {desktop.Exec{Script: "ls /proc/self/fd | wc -l"}, desktop.ExecResult{Stdout: "4\n"}},
		"umask":             {desktop.Exec{Script: "umask"}, desktop.ExecResult{Stdout: "0022\n"}},
		"own session":       {desktop.Exec{Script: `set -- $(cat /proc/$$/stat); [ "$6" = $$ ] && [ "$5" = $$ ] && echo yes`}, desktop.ExecResult{Stdout: "yes\n"}},
		"syntax error":      {desktop.Exec{Script: "if 2>/dev/null", Bash: true}, desktop.ExecResult{ExitCode: 2}},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := collected(testContext(t), testRunner(t), c.command)
			if err != nil {
				t.Fatal(err)
			}
			if got.DurationMs <= 0 {
				t.Errorf("it took %v ms", got.DurationMs)
			}
			got.DurationMs = 0
			if name == "syntax error" {
				got.Stderr = ""
			}
			if got != c.want {
				t.Errorf("got %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestExecRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		command desktop.Exec
		code    desktop.Code
		message string
	}{
		"empty":        {desktop.Exec{Script: " \n"}, desktop.Invalid, "empty"},
		"too long":     {desktop.Exec{Script: strings.Repeat("#", desktop.MaxScriptLength+1)}, desktop.TooLarge, "longer than"},
		"NUL":          {desktop.Exec{Script: "a\x00b"}, desktop.Invalid, "NUL"},
		"no such cwd":  {desktop.Exec{Script: "true", Cwd: "/no/such"}, desktop.Invalid, `"/no/such" does not exist`},
		"cwd a file":   {desktop.Exec{Script: "true", Cwd: file}, desktop.Invalid, "not a folder"},
		"unknown user": {desktop.Exec{Script: "true", User: "nosuchuser"}, desktop.Invalid, `"nosuchuser"`},
		"env name":     {desktop.Exec{Script: "true", Env: map[string]string{"A=B": "c"}}, desktop.Invalid, `"A=B"`},
		"timeout":      {desktop.Exec{Script: "true", Timeout: desktop.MaxExecTimeout + 1}, desktop.Invalid, "time limit"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := collected(testContext(t), testRunner(t), c.command)
			code(t, err, c.code, c.message)
		})
	}
}

// As another user, with that user's groups and nothing of root's.
func TestExecUser(t *testing.T) {
	if os.Geteuid() != 0 {
		_, err := collected(testContext(t), testRunner(t), desktop.Exec{Script: "true", User: "root"})
		code(t, err, desktop.Unavailable, "does not run as root")
		return
	}
	got, err := collected(testContext(t), testRunner(t), desktop.Exec{
		Script: `id -un; id -Gn; echo "$USER $LOGNAME"; pwd; cat /etc/shadow 2>/dev/null || echo closed`, User: "daemon",
	})
	want := "daemon\ndaemon\ndaemon daemon\n/usr/sbin\nclosed\n"
	if err != nil || got.Stdout != want {
		t.Errorf("got %q %q, %v", got.Stdout, got.Stderr, err)
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = collected(testContext(t), testRunner(t), desktop.Exec{Script: "true", User: "daemon", Cwd: closed})
	code(t, err, desktop.Invalid, "may not start")
}

func TestExecTruncates(t *testing.T) {
	got, err := collected(testContext(t), testRunner(t), desktop.Exec{
		Script: "head -c 10000000 /dev/zero; head -c 10000000 /dev/zero >&2; echo end >&2; exit 5",
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Stdout) != desktop.MaxExecOutput || len(got.Stderr) != desktop.MaxExecOutput || !got.Truncated || got.ExitCode != 5 {
		t.Errorf("%d and %d bytes, truncated %v, exit code %d", len(got.Stdout), len(got.Stderr), got.Truncated, got.ExitCode)
	}
}

// alive tells whether a process is there and no zombie.
func alive(pid int) bool { return startTime(pid) != "" }

func pids(t *testing.T, text string) []int {
	t.Helper()
	var all []int
	for _, field := range strings.Fields(text) {
		pid, err := strconv.Atoi(field)
		if err != nil {
			t.Fatalf("%q is no pid", field)
		}
		all = append(all, pid)
	}
	return all
}

// modes runs a test with control groups and without.
func modes(t *testing.T, test func(t *testing.T, r *runner)) {
	t.Run("by descent", func(t *testing.T) {
		r := testRunner(t)
		r.families = &families{inUse: map[string]bool{}}
		test(t, r)
	})
	t.Run("control group", func(t *testing.T) {
		r := testRunner(t)
		if r.families.root == "" {
			t.Log("this machine has no control groups that can be written; the other way is used again")
		}
		test(t, r)
	})
}

// A timeout ends everything that the command has started, however it detached itself.
func TestExecTimeout(t *testing.T) {
	modes(t, func(t *testing.T, r *runner) {
		got, err := collected(testContext(t), r, desktop.Exec{
			Script: `sleep 1000 & echo $!
				setsid sh -c 'sleep 1000 & echo $!; setsid sh -c "sleep 1000 & echo \$!" & wait' &
				(setsid setsid sh -c 'echo $$; exec sleep 1000' >&2 &) 
				sleep 1000`,
			Timeout: 700 * time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		if !got.TimedOut || got.ExitCode != 137 || got.Signal != "KILL" {
			t.Errorf("got %+v", got)
		}
		started := append(pids(t, got.Stdout), pids(t, got.Stderr)...)
		if len(started) != 4 {
			t.Fatalf("%d processes were started", len(started))
		}
		for _, pid := range started {
			poll(t, "a process's end", func() bool { return !alive(pid) })
		}
	})
}

func TestExecCancelled(t *testing.T) {
	modes(t, func(t *testing.T, r *runner) {
		ctx, cancel := context.WithCancel(context.Background())
		var started []int
		_, err := r.run(ctx, desktop.Exec{Script: "setsid sh -c 'echo $$; exec sleep 1000' & wait"},
			func(_ desktop.Stream, p []byte) error {
				started = append(started, pids(t, string(p))...)
				cancel()
				return nil
			})
		if !errors.Is(err, context.Canceled) || len(started) != 1 {
			t.Fatalf("the error is %v, started %v", err, started)
		}
		poll(t, "the process's end", func() bool { return !alive(started[0]) })
	})
}

// A program left in the background does not hold the call, lives on, and may go on writing.
func TestExecBackground(t *testing.T) {
	modes(t, func(t *testing.T, r *runner) {
		dir := t.TempDir()
		fifo, done := filepath.Join(dir, "go"), filepath.Join(dir, "done")
		if err := unix.Mkfifo(fifo, 0o666); err != nil {
			t.Fatal(err)
		}
		got, err := collected(testContext(t), r, desktop.Exec{
			Cwd:    dir,
			Script: `(read x <go; head -c 1000000 /dev/zero && echo alive >done) & echo $!`,
		})
		if err != nil || got.ExitCode != 0 {
			t.Fatalf("got %+v, %v", got, err)
		}
		pid := pids(t, got.Stdout)[0]
		if !alive(pid) {
			t.Fatal("the background program is dead")
		}
		if err := os.WriteFile(fifo, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
		poll(t, "the background program's end", func() bool { return !alive(pid) })
		if _, err := os.Stat(done); err != nil {
			t.Error("it was ended by writing its output")
		}
		if r.families.root != "" {
			poll(t, "the control group's end", func() bool {
				fam := r.families.make() // sweeps
				fam.release()
				entries, err := os.ReadDir(r.families.root)
				for _, e := range entries {
					if e.IsDir() && !r.families.inUse[e.Name()] {
						return false
					}
				}
				return err == nil
			})
		}
	})
}

// A protected agent's commands are not protected from the out-of-memory killer.
func TestExecOutOfMemoryScore(t *testing.T) {
	const file = "/proc/self/oom_score_adj"
	own, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("-500"), 0); err != nil {
		t.Logf("this process may not protect itself: %v", err)
	} else {
		defer os.WriteFile(file, own, 0)
	}
	before, _ := os.ReadFile(file)
	got, err := collected(testContext(t), testRunner(t), desktop.Exec{Script: "cat " + file})
	if err != nil || strings.HasPrefix(got.Stdout, "-") {
		t.Errorf("the command's is %q, %v", got.Stdout, err)
	}
	if after, _ := os.ReadFile(file); string(after) != string(before) {
		t.Errorf("the agent's own is %q afterwards", after)
	}
}

// The session is found by what its processes have in their environment.
func TestFindSession(t *testing.T) {
	env, score := sessionEnvironment([]byte("A=b\x00DISPLAY=:7\x00XDG_SESSION_ID=3\x00XAUTHORITY=/x\x00LANG=\x00"))
	if len(env) != 3 || env["DISPLAY"] != ":7" || env["XDG_SESSION_ID"] != "3" || score != 2 {
		t.Errorf("got %v, %d", env, score)
	}
	if os.Geteuid() != 0 {
		return
	}
	c := &syscall.ProcAttr{
		Env: []string{"DISPLAY=:7", "XAUTHORITY=/home/x/.Xauthority", "DBUS_SESSION_BUS_ADDRESS=unix:path=/x", "XDG_SESSION_ID=c9", "LANG=de_DE.UTF-8"},
		Sys: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 61234, Gid: 61234}},
	}
	pid, err := syscall.ForkExec("/bin/sleep", []string{"sleep", "1000"}, c)
	if err != nil {
		t.Fatal(err)
	}
	end := func() {
		syscall.Kill(pid, syscall.SIGKILL)
		syscall.Wait4(pid, nil, 0, nil)
	}
	var s sessions
	found, ok := s.find()
	if !ok || found.uid != 61234 || found.env["XDG_SESSION_ID"] != "c9" || found.env["LANG"] != "de_DE.UTF-8" {
		t.Errorf("found %+v", found)
	}
	// Root may draw on that screen; a number without a name is no user.
	r := testRunner(t)
	got, err := collected(testContext(t), r, desktop.Exec{Script: `echo "$DISPLAY $XAUTHORITY $XDG_SESSION_ID"`, User: "root"})
	if err != nil || got.Stdout != ":7 /home/x/.Xauthority \n" {
		t.Errorf("root's is %q, %v", got.Stdout, err)
	}
	if _, err := collected(testContext(t), r, desktop.Exec{Script: "true"}); desktop.CodeOf(err) != desktop.Unavailable {
		t.Errorf("for a session of nobody the error is %v", err)
	}
	end()
	if found, ok := s.find(); ok && found.pid == pid {
		t.Error("a session was found after its end")
	}
}
