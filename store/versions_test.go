package store

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"modernc.org/sqlite"

	"bureau/assistant/usage"
	"bureau/desktop"
)

// A database of each earlier version of the schema lies in testdata/versions, under the name of the
// last migration that it has had. The bureau of that version made and filled it; it was written out so:
//
//	{ echo "PRAGMA user_version = N;"; sqlite3 bureau.db .dump; } > store/testdata/versions/000N_NAME.sql
//
// Whoever adds a migration adds the database of the version before it, with rows in all its tables.
const versions = "testdata/versions"

// versionFile is the database of the version that a migration leads to.
func versionFile(m migration) string { return filepath.Join(versions, filepath.Base(m.name)) }

// load makes a database of a version.
func load(t *testing.T, m migration) (path string) {
	t.Helper()
	dump, err := os.ReadFile(versionFile(m))
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "bureau.db")
	db, err := sql.Open("sqlite", path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	db.SetMaxOpenConns(1)
	if _, err := db.ExecContext(t.Context(), string(dump)); err != nil {
		t.Fatalf("%s: %v", versionFile(m), err)
	}
	return path
}

// contents are all rows of all tables of a database, by column.
func contents(t *testing.T, path string) (version int, tables map[string][]map[string]any) {
	t.Helper()
	db, err := readOnly(path)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	ctx := t.Context()
	if err := db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		t.Fatal(err)
	}
	if err := check(ctx, db); err != nil {
		t.Error(err)
	}
	names, err := collect(ctx, db, func(row scanner) (name string, err error) { return name, row.Scan(&name) },
		`SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'`)
	if err != nil {
		t.Fatal(err)
	}
	tables = map[string][]map[string]any{}
	for _, name := range names {
		rows, err := db.QueryContext(ctx, `SELECT * FROM `+name)
		if err != nil {
			t.Fatal(err)
		}
		columns, err := rows.Columns()
		if err != nil {
			t.Fatal(err)
		}
		tables[name] = []map[string]any{}
		for rows.Next() {
			values := make([]any, len(columns))
			into := make([]any, len(columns))
			for i := range values {
				into[i] = &values[i]
			}
			if err := rows.Scan(into...); err != nil {
				t.Fatal(err)
			}
			row := map[string]any{}
			for i, column := range columns {
				row[column] = values[i]
			}
			tables[name] = append(tables[name], row)
		}
		if err := rows.Err(); err != nil {
			t.Fatal(err)
		}
		rows.Close()
	}
	return version, tables
}

// TestEveryVersionMigrates opens a database of each earlier version: each row is there afterwards, with
// each value that it had, and this bureau reads what the earlier one wrote.
func TestEveryVersionMigrates(t *testing.T) {
	for i, m := range migrations[:len(migrations)-1] { // the newest needs no migration
		t.Run(filepath.Base(m.name), func(t *testing.T) {
			path := load(t, m)
			was, before := contents(t, path)
			if was != i+1 {
				t.Fatalf("the database says that it is version %d", was)
			}
			for name, rows := range before {
				if len(rows) == 0 {
					t.Errorf("the table %s has no rows to lose", name)
				}
			}
			s, err := Open(t.Context(), path)
			if err != nil {
				t.Fatal(err)
			}
			reads(t, s, was)
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			is, after := contents(t, path)
			if is != len(migrations) {
				t.Errorf("it is version %d afterwards, want %d", is, len(migrations))
			}
			for name, rows := range before {
				for _, row := range rows {
					if !slices.ContainsFunc(after[name], func(other map[string]any) bool { return holds(other, row) }) {
						t.Errorf("%s lost %v; it has\n%v", name, row, after[name])
					}
				}
			}
		})
	}
}

// holds tells whether a row has all the values of another one.
func holds(row, other map[string]any) bool {
	for column, value := range other {
		if there, ok := row[column]; !ok || !reflect.DeepEqual(there, value) {
			return false
		}
	}
	return true
}

// reads is that this bureau knows what a bureau of a version has left, and goes on with it.
func reads(t *testing.T, s *Store, version int) {
	t.Helper()
	ctx := t.Context()
	_, user, err := s.KeyByHash(ctx, desktop.HashKey("sk_live_fixture0"))
	if err != nil || user.Email != "admin@localhost" || user.Role != desktop.RoleAdmin {
		t.Errorf("got %+v, %v", user, err)
	}
	if keys, err := s.Keys(ctx, ""); err != nil || len(keys) != 3 || keys[2].RevokedAt == nil || keys[1].ExpiresAt == nil {
		t.Errorf("got %+v, %v", keys, err)
	}
	list, err := s.Desktops(ctx, desktop.Page{})
	if err != nil || len(list) != 4 || list[0].Name != "läuft" || !list[0].KeepAlive || list[3].Failure == "" {
		t.Errorf("got %+v, %v", list, err)
	}
	if version >= 2 {
		turn, err := s.Turn(ctx, "turn-1")
		if err != nil || len(turn.Steps) != 1 || turn.Steps[0].Result != "töpfe" || turn.Usage.Output != 4 {
			t.Errorf("got %+v, %v", turn, err)
		}
		messages, err := s.Messages(ctx, "ses-1")
		if err != nil || len(messages) != 2 || !strings.Contains(string(messages[0].Parts[1].Picture.Data), "PNG") {
			t.Errorf("got %+v, %v", messages, err)
		}
		if open, err := s.OpenTurns(ctx); err != nil || len(open) != 1 {
			t.Errorf("got %+v, %v", open, err)
		}
	}
	if version >= 3 {
		if all, err := s.AllProviders(ctx); err != nil || len(all) != 3 || all[0].Sealed == nil {
			t.Errorf("got %+v, %v", all, err)
		}
		if used, err := s.Usage(ctx, usage.Query{}); err != nil || len(used) != 1 || used[0].Output != 70 {
			t.Errorf("got %+v, %v", used, err)
		}
	}
	if version >= 4 && list[0].Lease.Holder != "Änne" {
		t.Errorf("got %+v", list[0].Lease)
	}
	if _, err := s.UpdateDesktop(ctx, "dt-stopped2222222222", func(*desktop.Record) error { return nil }); err != nil {
		t.Error(err)
	}
	if err := s.InsertUser(ctx, desktop.User{ID: "usr-new", Email: "new@example.org", Role: desktop.RoleUser, CreatedAt: epoch}); err != nil {
		t.Error(err)
	}
}

// TestNewerVersionIsRefused opens a database that a newer bureau has used: it is told so, and not a byte
// of it changes.
func TestNewerVersionIsRefused(t *testing.T) {
	s, path := open(t)
	if _, err := s.writer.ExecContext(t.Context(), fmt.Sprintf(`PRAGMA user_version = %d`, len(migrations)+1)); err != nil {
		t.Fatal(err)
	}
	s.Close()
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(t.Context(), path); err == nil || !strings.Contains(err.Error(), "newer bureau") {
		t.Errorf("got %v", err)
	}
	if after, err := os.ReadFile(path); err != nil || !slices.Equal(before, after) {
		t.Errorf("the database was changed, %v", err)
	}
	if _, err := Attach(t.Context(), path); err == nil {
		t.Error("a command uses it")
	}
}

// deadlyEnv has the child process of TestKilledMigration migrate a database and die on the way: the
// path, the migration's index, and the line of its script after which it dies.
const deadlyEnv = "BUREAU_STORE_DEADLY_MIGRATION"

func migrateAndDie(how string) error {
	parts := strings.SplitN(how, " ", 3)
	index, _ := strconv.Atoi(parts[0])
	line, _ := strconv.Atoi(parts[1])
	sqlite.MustRegisterScalarFunction("die", 0, func(*sqlite.FunctionContext, []driver.Value) (driver.Value, error) {
		syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	})
	list := slices.Clone(migrations[:index+1])
	lines := strings.SplitAfter(list[index].script, "\n")
	list[index].script = strings.Join(lines[:line], "") + "SELECT die();\n" + strings.Join(lines[line:], "")
	db, err := connect(parts[2], "_txlock", "immediate")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	return migrate(context.Background(), db, list)
}

// TestKilledMigration kills a process after each statement of each migration: the database is of the
// earlier version, with all that it had, and the next start migrates it.
func TestKilledMigration(t *testing.T) {
	for i, m := range migrations {
		if i == 0 {
			continue
		}
		lines := strings.SplitAfter(m.script, "\n")
		for at := 1; at <= len(lines); at++ {
			if !strings.HasSuffix(strings.TrimSpace(strings.SplitN(lines[at-1], "--", 2)[0]), ";") || at < len(lines) && strings.HasPrefix(lines[at], "END") {
				continue
			}
			t.Run(fmt.Sprintf("%s:%d", filepath.Base(m.name), at), func(t *testing.T) {
				path := load(t, migrations[i-1])
				was, before := contents(t, path)
				child := exec.Command(os.Args[0])
				child.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d %s", deadlyEnv, i, at, path))
				if out, err := child.CombinedOutput(); err == nil || child.ProcessState.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
					t.Fatalf("the child was not killed: %v\n%s", err, out)
				}
				is, after := contents(t, path)
				if is != was || !reflect.DeepEqual(before, after) {
					t.Errorf("it was version %d with\n%v\nand is version %d with\n%v", was, before, is, after)
				}
				s, err := Open(t.Context(), path)
				if err != nil {
					t.Fatal(err)
				}
				reads(t, s, was)
				s.Close()
			})
		}
	}
}
