package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"bureau/desktop"
)

// Restored is what a restore did.
type Restored struct {
	Copy
	// Former is where the database is now that was there before; "" where there was none.
	Former string `json:"former"`
	// Damaged tells that it could not be read as a database. It was kept as it is.
	Damaged bool `json:"damaged,omitempty"`
}

// Restore puts a copy of a database in the place of the one at path. The caller has the lock.
//
// The copy is examined first, and migrated beside the database, so that one which is damaged, of a
// newer bureau, or not bureau's at all is refused with nothing done. finish, when not nil, is given the
// new database before it takes its place. The former one is kept beside it.
//
// Whatever happens meanwhile, the database is then the former one or the new one, whole: one rename
// makes the difference.
func Restore(ctx context.Context, from, path string, finish func(*Store) error) (Restored, error) {
	r, err := restorer{ctx: ctx, from: from, path: path, finish: finish, at: func(string) {}}.run()
	if err != nil {
		return Restored{}, fmt.Errorf("restore the database: %w", err)
	}
	return r, nil
}

type restorer struct {
	ctx        context.Context
	from, path string
	finish     func(*Store) error
	at         func(step string) // called before each step, for tests to end the process there
}

const stagePrefix = ".bureau-restore-"

// The files that SQLite has beside a database: its logs, and the index of one of them.
var beside = []string{"-wal", "-shm", "-journal"}

func (r restorer) run() (Restored, error) {
	var done Restored
	r.at("examine")
	copied, err := examine(r.ctx, r.from)
	if err != nil {
		return done, err
	}
	if copied.SchemaVersion > len(migrations) {
		return done, desktop.Errorf(desktop.Invalid, "its schema is version %d, and this bureau knows versions up to %d: it is of a newer bureau, so restore it with that one",
			copied.SchemaVersion, len(migrations))
	}
	if copied.SHA256, err = digest(r.from); err != nil {
		return done, err
	}
	done.Copy = copied

	r.at("stage")
	left, err := filepath.Glob(filepath.Join(filepath.Dir(r.path), stagePrefix+"*")) // by one that was killed
	if err != nil {
		return done, err
	}
	for _, folder := range left {
		if err := os.RemoveAll(folder); err != nil {
			return done, err
		}
	}
	folder, err := os.MkdirTemp(filepath.Dir(r.path), stagePrefix) // closed to others
	if err != nil {
		return done, err
	}
	defer os.RemoveAll(folder)
	staged := filepath.Join(folder, "bureau.db")
	if err := copyFile(r.from, staged); err != nil {
		return done, err
	}
	r.at("migrate")
	if err := r.migrate(staged); err != nil {
		return done, err
	}
	if err := errors.Join(ownAs(staged, filepath.Dir(r.path)), syncFile(staged), syncFolder(folder)); err != nil {
		return done, err
	}

	r.at("fold")
	// SQLite deletes a log that it can make nothing of.
	for _, end := range beside {
		if err := os.Link(r.path+end, filepath.Join(folder, end)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return done, err
		}
	}
	switch err := fold(r.ctx, r.path); {
	case errors.Is(err, fs.ErrNotExist):
	case desktop.CodeOf(err) == desktop.Conflict:
		return done, err
	default:
		done.Damaged = err != nil
		if done.Former, err = r.keepFormer(folder, done.Damaged); err != nil {
			return done, err
		}
	}
	r.at("replace")
	if err := os.Rename(staged, r.path); err != nil {
		return done, err
	}
	r.at("sync")
	return done, syncFolder(filepath.Dir(r.path))
}

// migrate brings the staged copy to this bureau's schema, and lets the caller finish it. It is one
// file when that is done.
func (r restorer) migrate(staged string) error {
	s, err := Open(r.ctx, staged)
	if err != nil {
		return err
	}
	if r.finish != nil {
		err = r.finish(s)
	}
	if err := errors.Join(err, s.Close()); err != nil {
		return err
	}
	if err := fold(r.ctx, staged); err != nil {
		return err
	}
	_, err = examine(r.ctx, staged)
	return err
}

// fold takes the log of a database into it, so that it is one file. It is Conflict while somebody uses
// the database.
func fold(ctx context.Context, path string) error {
	if _, err := os.Stat(path); err != nil {
		return err
	}
	db, err := connect(path, "_txlock", "immediate")
	if err != nil {
		return err
	}
	db.SetMaxOpenConns(1)
	defer db.Close()
	var busy, frames, moved int
	err = db.QueryRowContext(ctx, `PRAGMA wal_checkpoint(TRUNCATE)`).Scan(&busy, &frames, &moved)
	var mode string
	if err == nil && busy == 0 {
		// In this mode there is no such log; the change is refused while another connection is open.
		err = db.QueryRowContext(ctx, `PRAGMA journal_mode = DELETE`).Scan(&mode)
	}
	switch {
	case isBusy(err) || err == nil && mode != "delete":
		return desktop.Errorf(desktop.Conflict, "another program uses the database %s: end it first", path).Because(err)
	case err != nil:
		return err
	}
	if err := db.Close(); err != nil {
		return err
	}
	return syncFile(path)
}

// keepFormer gives the database a second name, under which it stays when its first is taken. What was
// beside it has one in the folder.
func (r restorer) keepFormer(folder string, damaged bool) (string, error) {
	former := r.path + ".before-" + time.Now().UTC().Format("20060102T150405Z")
	for n := 2; ; n++ {
		if _, err := os.Lstat(former); errors.Is(err, fs.ErrNotExist) {
			break
		}
		former = fmt.Sprintf("%s.before-%s-%d", r.path, time.Now().UTC().Format("20060102T150405Z"), n)
	}
	r.at("keep")
	if err := os.Link(r.path, former); err != nil {
		return "", err
	}
	if damaged { // its log could not be folded in, and must not be taken for the new one's
		for _, end := range beside {
			for _, err := range []error{os.Rename(filepath.Join(folder, end), former+end), os.Remove(r.path + end)} {
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					return "", err
				}
			}
			r.at("keep" + end)
		}
	}
	return former, syncFolder(filepath.Dir(r.path))
}

// copyFile copies a file to a new one that only its owner may read, onto the disk.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
