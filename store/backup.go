package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"bureau/desktop"
)

// Copy describes a copy of a database.
type Copy struct {
	Path          string    `json:"path"`
	SchemaVersion int       `json:"schemaVersion"`
	Bytes         int64     `json:"bytes"`
	SHA256        string    `json:"sha256"`
	CreatedAt     time.Time `json:"createdAt"`
	Users         int64     `json:"users"`
	Desktops      int64     `json:"desktops"` // those that are not destroyed
	// Providers is how many providers' keys are in it, which only the master keys open.
	Providers int64 `json:"providers"`
}

// Backup copies the database at path to a file of its own while it is in use, and proves the copy. In
// it is all that was committed when Backup began, and nothing by half. The file, which must not exist,
// is complete and on the disk when Backup returns, and otherwise not there; nobody else may read it.
func Backup(ctx context.Context, path, to string) (Copy, error) {
	c, err := backup(ctx, path, to)
	if err != nil {
		return Copy{}, fmt.Errorf("back the database up: %w", err)
	}
	return c, nil
}

func backup(ctx context.Context, path, to string) (Copy, error) {
	if _, err := os.Lstat(to); err == nil {
		return Copy{}, desktop.Errorf(desktop.Conflict, "%s is there already", to)
	}
	if _, err := os.Stat(path); err != nil {
		return Copy{}, err
	}
	folder, err := os.MkdirTemp(filepath.Dir(to), ".bureau-backup-")
	if err != nil {
		return Copy{}, err
	}
	defer os.RemoveAll(folder)
	part := filepath.Join(folder, "bureau.db")
	db, err := readOnly(path)
	if err != nil {
		return Copy{}, err
	}
	defer db.Close()
	// One reading of the whole, which neither waits for writers nor makes them wait. The folder is
	// closed to others; SQLite gives the file the mode that the process's mask leaves it.
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, part); err != nil {
		return Copy{}, err
	}
	if err := errors.Join(os.Chmod(part, 0o600), syncFile(part)); err != nil {
		return Copy{}, err
	}
	c, err := examine(ctx, part)
	if err != nil {
		return Copy{}, err
	}
	if c.SHA256, err = digest(part); err != nil {
		return Copy{}, err
	}
	// Not a rename, which would take the place of a file that has come meanwhile.
	if err := os.Link(part, to); errors.Is(err, fs.ErrExist) {
		return Copy{}, desktop.Errorf(desktop.Conflict, "%s is there already", to)
	} else if err != nil { // a file system without links
		if err := os.Rename(part, to); err != nil {
			return Copy{}, err
		}
	}
	c.Path = to
	return c, syncFolder(filepath.Dir(to))
}

// examine reads a copy through: that it is a whole database of a bureau's, and which.
func examine(ctx context.Context, path string) (Copy, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Copy{}, err
	}
	c := Copy{Path: path, Bytes: info.Size(), CreatedAt: time.Now().UTC().Truncate(time.Second)}
	db, err := readOnly(path)
	if err != nil {
		return Copy{}, err
	}
	defer db.Close()
	if err := check(ctx, db); err != nil {
		return Copy{}, err
	}
	if err := db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&c.SchemaVersion); err != nil {
		return Copy{}, err
	}
	for _, count := range []struct {
		table, query string
		into         *int64
	}{
		{"users", `SELECT count(*) FROM users`, &c.Users},
		{"desktops", `SELECT count(*) FROM desktops WHERE destroyed_at IS NULL`, &c.Desktops},
		{"providers", `SELECT count(*) FROM providers WHERE length(sealed) > 0`, &c.Providers},
	} {
		var there int
		if err := db.QueryRowContext(ctx, `SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = ?`, count.table).Scan(&there); err != nil {
			return Copy{}, err
		}
		switch {
		case there == 0 && count.table == "providers": // an early bureau had none
		case there == 0:
			return Copy{}, desktop.Errorf(desktop.Invalid, "it is not a database of bureau's: it has no %s", count.table)
		default:
			if err := db.QueryRowContext(ctx, count.query).Scan(count.into); err != nil {
				return Copy{}, err
			}
		}
	}
	return c, nil
}

// check is nil when SQLite finds a database whole.
func check(ctx context.Context, db *sql.DB) error {
	found, err := collect(ctx, db, func(row scanner) (text string, err error) { return text, row.Scan(&text) }, `PRAGMA integrity_check(5)`)
	switch {
	case err != nil:
		return desktop.Errorf(desktop.Invalid, "it is not a whole SQLite database: %w", err)
	case len(found) != 1 || found[0] != "ok":
		return desktop.Errorf(desktop.Invalid, "it is damaged: %v", found)
	}
	dangling, err := collect(ctx, db, func(row scanner) (table string, err error) {
		var rowid sql.NullInt64
		var parent, key any
		return table, row.Scan(&table, &rowid, &parent, &key)
	}, `PRAGMA foreign_key_check`)
	switch {
	case err != nil:
		return err
	case len(dangling) > 0:
		return desktop.Errorf(desktop.Invalid, "it is damaged: rows of %s refer to some that are not there", dangling[0])
	}
	return nil
}

func digest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
