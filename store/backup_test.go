package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"bureau/desktop"
	"bureau/desktop/activity"
)

// TestBackupUnderLoad backs a database up while others write: each backup is whole, and has all that
// had been said yes to when it began.
func TestBackupUnderLoad(t *testing.T) {
	s, path := open(t)
	addUser(t, s, "usr-1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var wg sync.WaitGroup
	var acknowledged [3]atomic.Int64
	for w := range acknowledged {
		wg.Go(func() {
			for i := int64(1); ctx.Err() == nil; i++ {
				err := s.InsertDesktop(ctx, record(fmt.Sprintf("dt-%d-%06d", w, i), "usr-1", epoch), 0)
				if err == nil && i%5 == 0 {
					err = s.AppendActivity(ctx, []activity.Entry{entry(fmt.Sprint(i), epoch, nil)})
				}
				if err != nil {
					if ctx.Err() == nil {
						t.Error(err)
					}
					return
				}
				acknowledged[w].Store(i)
			}
		})
	}
	for n := range 5 {
		for acknowledged[n%3].Load() < int64(20*(n+1)) { // there is something to be missed
			if t.Failed() {
				return
			}
		}
		var least [3]int64
		for w := range acknowledged {
			least[w] = acknowledged[w].Load()
		}
		to := filepath.Join(t.TempDir(), "copy.db")
		copied, err := Backup(t.Context(), path, to)
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(to)
		if err != nil || info.Mode().Perm() != 0o600 || info.Size() != copied.Bytes {
			t.Errorf("%v, %v", info, err)
		}
		if sum, err := digest(to); err != nil || sum != copied.SHA256 || copied.SchemaVersion != len(migrations) || copied.Users != 1 {
			t.Errorf("%s, %v: %+v", sum, err, copied)
		}
		b, err := Open(t.Context(), to)
		if err != nil {
			t.Fatal(err)
		}
		var whole string
		if err := b.writer.QueryRow(`PRAGMA integrity_check`).Scan(&whole); err != nil || whole != "ok" {
			t.Errorf("integrity: %s, %v", whole, err)
		}
		for w := range least {
			for i := int64(1); i <= least[w]; i++ {
				if _, err := b.Desktop(t.Context(), fmt.Sprintf("dt-%d-%06d", w, i)); err != nil {
					t.Fatalf("backup %d: %v", n, err)
				}
			}
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
	cancel()
	wg.Wait()
}

func TestBackupRefuses(t *testing.T) {
	s, path := open(t)
	addUser(t, s, "usr-1")
	dir := t.TempDir()
	there := filepath.Join(dir, "there")
	if err := os.WriteFile(there, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := Backup(t.Context(), path, there)
	wantCode(t, err, desktop.Conflict)
	if text, err := os.ReadFile(there); err != nil || string(text) != "mine" {
		t.Errorf("%q, %v", text, err)
	}
	if _, err := Backup(t.Context(), filepath.Join(dir, "none.db"), filepath.Join(dir, "x")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Backup(t.Context(), path, filepath.Join(dir, "no", "x")); err == nil {
		t.Error("no error")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Backup(ctx, path, filepath.Join(dir, "x")); err == nil {
		t.Error("no error")
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 1 {
		t.Errorf("what failed left %v, %v", left, err)
	}
}

// marked is a database at path whose one user says which it is; wal leaves what was written in its log.
func marked(t *testing.T, path, mark string, wal bool) {
	t.Helper()
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.InsertUser(t.Context(), desktop.User{ID: "usr-1", Email: mark + "@example.org", Role: desktop.RoleUser, CreatedAt: epoch}); err != nil {
		t.Fatal(err)
	}
	if !wal {
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	// As after a crash: the files as they are while it is open.
	files := map[string][]byte{}
	for _, end := range []string{"", "-wal"} {
		if files[end], err = os.ReadFile(path + end); err != nil {
			t.Fatal(err)
		}
	}
	if len(files["-wal"]) == 0 {
		t.Fatal("there is no log to lose")
	}
	s.Close()
	for end, data := range files {
		if err := os.WriteFile(path+end, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// markOf is which database is at path.
func markOf(t *testing.T, path string) string {
	t.Helper()
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("there is no database: %v", err)
	}
	s, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var whole string
	if err := s.writer.QueryRow(`PRAGMA integrity_check`).Scan(&whole); err != nil || whole != "ok" {
		t.Errorf("integrity: %s, %v", whole, err)
	}
	users, err := s.Users(t.Context())
	if err != nil || len(users) != 1 {
		t.Fatalf("got %+v, %v", users, err)
	}
	mark, _, _ := strings.Cut(users[0].Email, "@")
	return mark
}

func TestRestore(t *testing.T) {
	for _, wal := range []bool{false, true} {
		dir := t.TempDir()
		path, from := filepath.Join(dir, "bureau.db"), filepath.Join(t.TempDir(), "copy.db")
		marked(t, from, "copied", false)
		marked(t, path, "former", wal)
		finished := false
		done, err := Restore(t.Context(), from, path, func(s *Store) error {
			finished = true
			return s.AppendActivity(t.Context(), []activity.Entry{entry("restore", epoch, nil)})
		})
		if err != nil {
			t.Fatal(err)
		}
		if got := markOf(t, path); got != "copied" || !finished || done.Damaged || done.Users != 1 {
			t.Errorf("it is the %s one: %+v", got, done)
		}
		if got := markOf(t, done.Former); got != "former" {
			t.Errorf("what is kept is the %s one", got)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", info, err)
		}
		s, err := Open(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := s.Activity(t.Context(), activity.Query{}); err != nil || len(list) != 1 {
			t.Errorf("got %+v, %v", list, err)
		}
		s.Close()
		if got := markOf(t, from); got != "copied" {
			t.Errorf("the backup is the %s one", got)
		}
	}
}

// A database of each version can be restored, and where there is none at all.
func TestRestoreOfEarlierVersions(t *testing.T) {
	for _, m := range migrations[:len(migrations)-1] {
		from := load(t, m)
		path := filepath.Join(t.TempDir(), "bureau.db")
		done, err := Restore(t.Context(), from, path, nil)
		if err != nil || done.Former != "" || done.Desktops != 4 {
			t.Fatalf("%s: %+v, %v", m.name, done, err)
		}
		if version, _ := contents(t, path); version != len(migrations) {
			t.Errorf("%s: it is version %d", m.name, version)
		}
	}
}

func TestRestoreRefuses(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "bureau.db")
	marked(t, path, "former", true)
	good := filepath.Join(t.TempDir(), "good.db")
	marked(t, good, "copied", false)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	written := func(data []byte) string {
		file := filepath.Join(t.TempDir(), "x.db")
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	changed := func(statement string) string {
		file := written(whole)
		s, err := Open(t.Context(), file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.writer.Exec(statement); err != nil {
			t.Fatal(err)
		}
		s.Close()
		return file
	}
	torn := append([]byte{}, whole...)
	for i := 4096; i < 3*4096; i++ {
		torn[i] = 0xff
	}
	for name, from := range map[string]string{
		"nothing":    filepath.Join(dir, "none"),
		"empty":      written(nil),
		"a text":     written([]byte(strings.Repeat("no database ", 1000))),
		"a half":     written(whole[:len(whole)/2]),
		"damaged":    written(torn),
		"newer":      changed(fmt.Sprintf(`PRAGMA user_version = %d`, len(migrations)+1)),
		"another's":  changed(`PRAGMA foreign_keys = 0; ALTER TABLE users RENAME TO people`),
		"no version": changed(`PRAGMA user_version = 0`),
	} {
		done, err := Restore(t.Context(), from, path, nil)
		if err == nil {
			t.Errorf("%s: it is restored: %+v", name, done)
		}
	}
	if _, err := Restore(t.Context(), good, path, func(*Store) error { return errors.New("no") }); err == nil {
		t.Error("an error of the finish is ignored")
	}
	s, err := Open(t.Context(), path) // somebody uses it, without a lock
	if err != nil {
		t.Fatal(err)
	}
	_, err = Restore(t.Context(), good, path, nil)
	wantCode(t, err, desktop.Conflict)
	s.Close()
	if got := markOf(t, path); got != "former" {
		t.Errorf("it is the %s one", got)
	}
	left, err := filepath.Glob(filepath.Join(dir, "*"))
	hidden, _ := filepath.Glob(filepath.Join(dir, ".*"))
	if err != nil || len(left) != 1 || len(hidden) != 0 {
		t.Errorf("what was refused left %v and %v", left, hidden)
	}
}

// A database that cannot be read is kept as it is, with its log, which nothing takes for the new one's.
func TestRestoreOverDamage(t *testing.T) {
	path, from := filepath.Join(t.TempDir(), "bureau.db"), filepath.Join(t.TempDir(), "copy.db")
	marked(t, from, "copied", false)
	marked(t, path, "former", true)
	log, err := os.ReadFile(path + "-wal")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("rubbish ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	copy(log, "rubbish, too") // or else all of the database would be in it
	if err := os.WriteFile(path+"-wal", log, 0o600); err != nil {
		t.Fatal(err)
	}
	done, err := Restore(t.Context(), from, path, nil)
	if err != nil || !done.Damaged {
		t.Fatalf("%+v, %v", done, err)
	}
	if got := markOf(t, path); got != "copied" {
		t.Errorf("it is the %s one", got)
	}
	if text, err := os.ReadFile(done.Former); err != nil || !strings.HasPrefix(string(text), "rubbish") {
		t.Errorf("%.20q, %v", text, err)
	}
	if text, err := os.ReadFile(done.Former + "-wal"); err != nil || !strings.HasPrefix(string(text), "rubbish") {
		t.Errorf("%.20q, %v", text, err)
	}
}

// restoreEnv has the child process of TestKilledRestore restore, and die at a step.
const restoreEnv = "BUREAU_STORE_DEADLY_RESTORE"

func restoreAndDie(how string) error {
	parts := strings.SplitN(how, " ", 3)
	_, err := restorer{ctx: context.Background(), from: parts[1], path: parts[2], finish: func(*Store) error { return nil },
		at: func(step string) {
			if step == parts[0] {
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}}.run()
	return err
}

// TestKilledRestore kills a process at each step of a restore: the database is the former one or the
// new one, whole, and the restore can be done again.
func TestKilledRestore(t *testing.T) {
	for _, test := range []struct {
		step, want string
	}{
		{"examine", "former"}, {"stage", "former"}, {"migrate", "former"}, {"fold", "former"}, {"keep", "former"}, {"replace", "former"}, {"sync", "copied"},
	} {
		for _, wal := range []bool{false, true} {
			path, from := filepath.Join(t.TempDir(), "bureau.db"), filepath.Join(t.TempDir(), "copy.db")
			marked(t, from, "copied", false)
			marked(t, path, "former", wal)
			child := exec.Command(os.Args[0])
			child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %s", restoreEnv, test.step, from, path))
			if out, err := child.CombinedOutput(); err == nil || child.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("at %s the child was not killed: %v\n%s", test.step, err, out)
			}
			if got := markOf(t, path); got != test.want {
				t.Errorf("killed at %s it is the %s one, want the %s one", test.step, got, test.want)
			}
			if _, err := Restore(t.Context(), from, path, nil); err != nil {
				t.Errorf("again after %s: %v", test.step, err)
			}
			if got := markOf(t, path); got != "copied" {
				t.Errorf("again after %s it is the %s one", test.step, got)
			}
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(path), stagePrefix+"*")); len(left) != 0 {
				t.Errorf("%v are left", left)
			}
		}
	}
}

// Two appliances never use one database, and nobody does while it is replaced. A command beside an
// appliance may.
func TestLocks(t *testing.T) {
	s, path := open(t)
	s.Close()
	serve, err := Lock(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Lock(path)
	wantCode(t, err, desktop.Conflict)
	_, err = LockAlone(path)
	wantCode(t, err, desktop.Conflict)
	command, err := Attach(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	serve()
	_, err = LockAlone(path)
	wantCode(t, err, desktop.Conflict)
	if err := command.Close(); err != nil {
		t.Fatal(err)
	}
	alone, err := LockAlone(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = Attach(t.Context(), path)
	wantCode(t, err, desktop.Conflict)
	_, err = Lock(path)
	wantCode(t, err, desktop.Conflict)
	alone()
	if serve, err = Lock(path); err != nil {
		t.Fatal(err)
	}
	serve()
	if none, err := Attach(t.Context(), filepath.Join(t.TempDir(), "none.db")); none != nil || err != nil {
		t.Errorf("%v, %v", none, err)
	}
}
