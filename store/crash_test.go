package store

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"bureau/desktop"
)

// crashEnv names the database for the child process of TestCrash.
const crashEnv = "BUREAU_STORE_CRASH_TEST"

func TestMain(m *testing.M) {
	if path := os.Getenv(crashEnv); path != "" {
		fmt.Fprintln(os.Stderr, writeForEver(path))
		os.Exit(1)
	}
	if how := os.Getenv(deadlyEnv); how != "" {
		fmt.Fprintln(os.Stderr, migrateAndDie(how))
		os.Exit(1)
	}
	if how := os.Getenv(restoreEnv); how != "" {
		fmt.Fprintln(os.Stderr, restoreAndDie(how))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// writeForEver makes desktops and says the id of each that the store has said yes to.
func writeForEver(path string) error {
	ctx := context.Background()
	s, err := Open(ctx, path)
	if err != nil {
		return err
	}
	if err := s.InsertUser(ctx, desktop.User{ID: "usr-1", Email: "a@b", Role: desktop.RoleUser, CreatedAt: epoch}); err != nil {
		return err
	}
	for i := 0; ; i++ {
		id := fmt.Sprintf("dt-%06d", i)
		if err := s.InsertDesktop(ctx, record(id, "usr-1", epoch), 0); err != nil {
			return err
		}
		fmt.Println(id)
	}
}

// TestCrash kills a process in the middle of its writing: everything that it was told had happened
// is there, and the database is whole.
func TestCrash(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bureau.db")
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), crashEnv+"="+path)
	child.Stderr = os.Stderr
	output, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var promised []string
	lines := bufio.NewScanner(output)
	for lines.Scan() {
		promised = append(promised, lines.Text())
		if len(promised) == 200 {
			child.Process.Kill() // what was printed before it died is still read
		}
	}
	child.Wait() // it was killed
	if len(promised) < 200 {
		t.Fatalf("the child ended after %d desktops", len(promised))
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
	for _, id := range promised {
		if _, err := s.Desktop(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
}
