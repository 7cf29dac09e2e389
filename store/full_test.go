package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"bureau/desktop"
)

// smallDisk is a folder on a file system of that size, which takes root to make.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("only root can make a small file system")
	}
	folder := t.TempDir()
	if err := syscall.Mount("tmpfs", folder, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(folder, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return folder
}

// full fills a folder's disk up to the last byte, and returns what makes room again.
func full(t *testing.T, folder string) (room func()) {
	t.Helper()
	path := filepath.Join(folder, "filler")
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for size := 64 << 10; size > 0; {
		if _, err := file.Write(make([]byte, size)); err != nil {
			if !errors.Is(err, syscall.ENOSPC) {
				t.Fatal(err)
			}
			size /= 2
		}
	}
	return func() {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
}

// wantFull checks what somebody is told whose request changes nothing for want of room.
func wantFull(t *testing.T, what string, err error) {
	t.Helper()
	var e *desktop.Error
	if !errors.As(err, &e) || e.Code != desktop.Unavailable || !strings.Contains(e.Message, "full") || e.RetryAfter <= 0 {
		t.Errorf("%s: %v (%s)", what, err, desktop.CodeOf(err))
	}
}

// With its disk full the store says so, changes nothing, still tells what it has, and works again when
// there is room.
func TestFullDisk(t *testing.T) {
	for _, c := range []struct {
		name string
		// fill takes the room away, and its result gives it back.
		fill func(t *testing.T, s *Store, folder string) (room func())
		disk func(t *testing.T) string
	}{
		{"a small disk", func(t *testing.T, _ *Store, folder string) func() { return full(t, folder) }, func(t *testing.T) string { return smallDisk(t, 4<<20) }},
		{"a limit of SQLite's own", func(t *testing.T, s *Store, _ string) func() {
			set := func(pages string) {
				if _, err := s.writer.Exec("PRAGMA max_page_count = " + pages); err != nil {
					t.Fatal(err)
				}
			}
			set("1") // what it has already, at the least
			return func() { set("1000000") }
		}, func(t *testing.T) string { return t.TempDir() }},
	} {
		t.Run(c.name, func(t *testing.T) {
			folder := c.disk(t)
			s, err := Open(t.Context(), filepath.Join(folder, "bureau.db"))
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			addUser(t, s, "usr-1")
			if err := s.InsertDesktop(t.Context(), record("dt-0", "usr-1", epoch), 0); err != nil {
				t.Fatal(err)
			}
			room := c.fill(t, s, folder)

			// What fits into pages that are there already may still be kept.
			made := []string{"dt-0"}
			for i := 1; ; i++ {
				if i > 10_000 {
					t.Fatal("the disk does not fill up")
				}
				r := record(fmt.Sprint("dt-", i), "usr-1", epoch.Add(time.Duration(i)))
				r.Name = strings.Repeat("x", 2000)
				if err := s.InsertDesktop(t.Context(), r, 0); err != nil {
					wantFull(t, "insert", err)
					break
				}
				made = append(made, r.ID)
			}
			_, err = s.UpdateDesktop(t.Context(), "dt-0", func(r *desktop.Record) error {
				r.Failure = strings.Repeat("y", 100_000)
				return nil
			})
			wantFull(t, "update", err)

			check := func(ids []string) {
				t.Helper()
				list, err := s.Desktops(t.Context(), desktop.Page{})
				if err != nil {
					t.Fatal("reading:", err)
				}
				var got []string
				for _, r := range list {
					got = append(got, r.ID)
					if len(r.Failure) == 100_000 {
						t.Errorf("%s is half changed", r.ID)
					}
				}
				if fmt.Sprint(got) != fmt.Sprint(ids) {
					t.Errorf("the store has %v, said yes to %v", got, ids)
				}
			}
			check(made)
			if err := s.Ping(t.Context()); err != nil {
				t.Error("ping:", err)
			}

			room()
			last := record("dt-last", "usr-1", epoch.Add(time.Hour))
			if err := s.InsertDesktop(t.Context(), last, 0); err != nil {
				t.Fatal("with room again:", err)
			}
			check(append(made, last.ID))
			var sound string
			if err := s.writer.QueryRow("PRAGMA integrity_check").Scan(&sound); err != nil || sound != "ok" {
				t.Errorf("the database is not sound: %s, %v", sound, err)
			}
		})
	}
}
