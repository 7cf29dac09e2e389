package store

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
)

// The migrations are numbered from 1 without gaps. One that has been released is never edited: a
// change of the schema is a further file.
//
//go:embed migrations/*.sql
var embedded embed.FS

var migrations = must(readMigrations(embedded))

// must is for what is compiled in: a fault there is found by the first test that runs.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

// migration brings a schema from the version before its own to its own.
type migration struct {
	name   string
	script string
}

func readMigrations(files fs.FS) ([]migration, error) {
	names, err := fs.Glob(files, "migrations/*.sql") // sorted
	if err != nil {
		return nil, err
	}
	var list []migration
	for i, name := range names {
		number, _, _ := strings.Cut(strings.TrimPrefix(name, "migrations/"), "_")
		if n, err := strconv.Atoi(number); err != nil || n != i+1 {
			return nil, fmt.Errorf("migration %s is not number %d", name, i+1)
		}
		script, err := fs.ReadFile(files, name)
		if err != nil {
			return nil, err
		}
		list = append(list, migration{name, string(script)})
	}
	return list, nil
}

// migrate applies what is missing, each migration in a transaction of its own together with the
// version it leads to. Two processes that open a database at once do it once: the transaction
// holds the write lock before it asks for the version.
func migrate(ctx context.Context, db *sql.DB, list []migration) error {
	for {
		done, err := step(ctx, db, list)
		if err != nil || done {
			return err
		}
	}
}

func step(ctx context.Context, db *sql.DB, list []migration) (done bool, err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return false, err
	}
	defer tx.Rollback()

	var version int
	if err := tx.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return false, err
	}
	if version > len(list) {
		return false, fmt.Errorf("its schema is version %d, and this bureau knows versions up to %d: "+
			"it was used by a newer bureau, so run that one, or restore a backup made before", version, len(list))
	}
	if version == len(list) {
		return true, nil
	}
	next := list[version]
	if _, err := tx.ExecContext(ctx, next.script); err != nil {
		return false, fmt.Errorf("%s: %w", next.name, err)
	}
	// A pragma takes no parameters; the number is our own.
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, version+1)); err != nil {
		return false, fmt.Errorf("%s: %w", next.name, err)
	}
	return false, tx.Commit()
}
