// Package store keeps desktops, users and keys, the providers of models and what these took, and
// conversations in SQLite. It is desktop.Store, desktop.Claims, provider.Store, usage.Store and assistant.Store and
// nothing more: it holds no policy, and knows neither HTTP nor the hypervisor.
//
// There are two pools on one database in WAL mode. The writer has a single connection, so that
// writes queue in this process instead of failing on SQLite's lock, and every one of its
// transactions takes the write lock at its beginning. The readers never wait for it. Commits are
// synchronous: what the store has said yes to survives a crash of the machine.
//
// The SQL is kept plain enough for PostgreSQL to take over.
package store

import (
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"bureau/assistant"
	"bureau/desktop"
)

// Store is all of these in one SQLite file. It is safe for concurrent use.
type Store struct {
	writer *sql.DB
	reader *sql.DB
	// process tells a claim that this process is behind from one whose process is gone.
	process string
	// release gives a lock back that goes with the store; nil for none.
	release func() error
}

var (
	_ desktop.Store   = (*Store)(nil)
	_ assistant.Store = (*Store)(nil)
)

// busyTimeout is how long a statement waits for another process that holds the lock, such as a
// backup.
const busyTimeout = 10 * time.Second

// readers is how many readings go on at once.
const readers = 4

// Open opens the database at path, makes it when there is none, and brings its schema up to date.
// A database of a newer bureau is refused and left as it is.
func Open(ctx context.Context, path string) (*Store, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open the database: %w", err)
	}
	if err := prepare(path); err != nil {
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	s := &Store{process: rand.Text()}
	if s.writer, err = connect(path, "_txlock", "immediate"); err == nil {
		s.writer.SetMaxOpenConns(1)
		if err = connected(ctx, s.writer); err == nil {
			err = migrate(ctx, s.writer, migrations)
		}
		if err == nil {
			_, err = s.writer.ExecContext(ctx, `DELETE FROM idempotency WHERE expires_at <= ?`, moment(time.Now()))
		}
	}
	if err == nil {
		if s.reader, err = connect(path, "_pragma", "query_only(1)"); err == nil {
			s.reader.SetMaxOpenConns(readers)
			s.reader.SetMaxIdleConns(readers)
			err = s.reader.PingContext(ctx)
		}
	}
	if err != nil {
		s.Close()
		return nil, fmt.Errorf("open the database %s: %w", path, err)
	}
	return s, nil
}

// Attach opens the database at path for a command beside the appliance that may use it. There is
// none, and no error, where no database is. It changes no schema: one of another bureau is refused.
func Attach(ctx context.Context, path string) (*Store, error) {
	version, err := versionOf(ctx, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case version != len(migrations):
		return nil, fmt.Errorf("the database %s has a schema of version %d, and this bureau's is %d: start the appliance once", path, version, len(migrations))
	}
	release, err := share(path)
	if err != nil {
		return nil, err
	}
	s, err := Open(ctx, path)
	if err != nil {
		return nil, errors.Join(err, release())
	}
	s.release = release
	return s, nil
}

// versionOf is the version of the schema of the database at path, which is only read.
func versionOf(ctx context.Context, path string) (version int, err error) {
	if _, err := os.Stat(path); err != nil {
		return 0, err
	}
	db, err := readOnly(path)
	if err != nil {
		return 0, err
	}
	defer db.Close()
	if err := db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the database %s: %w", path, err)
	}
	return version, nil
}

// prepare makes the folder and the file readable by nobody else before SQLite writes to them; the
// log files beside it take over the file's mode.
func prepare(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(file.Chmod(0o600), file.Close())
}

// readOnly makes a pool that changes nothing about the database, its mode included.
func readOnly(path string) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{
		"mode":    {"ro"},
		"_pragma": {fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds())},
	}.Encode()}
	return sql.Open("sqlite", dsn.String())
}

// connect makes a pool; key and value are a further parameter of the driver.
func connect(path, key, value string) (*sql.DB, error) {
	query := url.Values{"_pragma": {
		fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()),
		"journal_mode(WAL)",
		"synchronous(FULL)",
		"foreign_keys(1)",
	}}
	query.Add(key, value)
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: query.Encode()}
	return sql.Open("sqlite", dsn.String())
}

// connected makes a first connection. The change to WAL wants the file for itself, and SQLite does not
// wait for that as it does for a lock: of two processes that open a new database at once, one is told
// that it is busy.
func connected(ctx context.Context, db *sql.DB) error {
	const pause = 5 * time.Millisecond
	for began := time.Now(); ; {
		err := db.PingContext(ctx)
		if !isBusy(err) || time.Since(began) > busyTimeout {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// isBusy tells whether somebody else's lock was in the way.
func isBusy(err error) bool {
	var e *sqlite.Error
	return errors.As(err, &e) && (e.Code()&0xff == sqlite3.SQLITE_BUSY || e.Code()&0xff == sqlite3.SQLITE_LOCKED)
}

// Ping tells whether the database answers.
func (s *Store) Ping(ctx context.Context) error {
	var one int
	if err := s.reader.QueryRowContext(ctx, `SELECT 1 FROM users LIMIT 1`).Scan(&one); err != nil && !errors.Is(err, sql.ErrNoRows) {
		return fmt.Errorf("ask the database: %w", err)
	}
	return nil
}

// Close waits for running queries and closes the database.
func (s *Store) Close() error {
	var errs []error
	// The readers go first, so that the last connection is one that may fold the log into the file.
	for _, db := range []*sql.DB{s.reader, s.writer} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	if s.release != nil {
		errs = append(errs, s.release())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close the database: %w", err)
	}
	return nil
}

// write runs do in one transaction on the writer.
func (s *Store) write(ctx context.Context, do func(*sql.Tx) error) error {
	tx, err := s.writer.BeginTx(ctx, nil)
	if err != nil {
		return explain(err)
	}
	defer tx.Rollback() // does nothing after a commit
	if err := do(tx); err != nil {
		return explain(err)
	}
	return explain(tx.Commit())
}

// fullAgain is what a caller is told to wait when the disk is full.
const fullAgain = 30 * time.Second

// explain tells a full disk from a fault of ours. It is Unavailable rather than Exhausted: nothing that
// the caller stops or destroys would make room.
func explain(err error) error {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return err
	}
	switch failure.Code() {
	case sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE:
		return &desktop.Error{
			Code:       desktop.Unavailable,
			Message:    "the disk of the appliance's database is full: nothing was changed",
			RetryAfter: fullAgain,
			Details:    map[string]any{"resource": "database"},
			Err:        err,
		}
	}
	return err
}

// querier is what a reading needs: the readers' pool, or a transaction.
type querier interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

// scanner is one row of either kind.
type scanner interface{ Scan(dest ...any) error }

// collect reads all rows of a query.
func collect[T any](ctx context.Context, q querier, scan func(scanner) (T, error), query string, args ...any) ([]T, error) {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	list := []T{}
	for rows.Next() {
		item, err := scan(rows)
		if err != nil {
			return nil, err
		}
		list = append(list, item)
	}
	return list, rows.Err()
}

// violates tells whether err is a broken constraint of the given extended codes.
func violates(err error, codes ...int) bool {
	var failure *sqlite.Error
	if !errors.As(err, &failure) {
		return false
	}
	for _, code := range codes {
		if failure.Code() == code {
			return true
		}
	}
	return false
}

func duplicate(err error) bool {
	return violates(err, sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY)
}

func dangling(err error) bool { return violates(err, sqlite3.SQLITE_CONSTRAINT_FOREIGNKEY) }

// jsonText is a column that holds JSON.
type jsonText string

func (t jsonText) into(value any) error { return json.Unmarshal([]byte(t), value) }

// asJSON is a value of our own types, which always can be written, as such a column holds it.
func asJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic(err)
	}
	return string(text)
}

// moment is a time as a column holds it.
func moment(t time.Time) int64 { return t.UnixNano() }

func fromMoment(n int64) time.Time { return time.Unix(0, n).UTC() }

// maybe is a time that may be missing: NULL for the zero time.
func maybe(t time.Time) sql.NullInt64 {
	if t.IsZero() {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: moment(t), Valid: true}
}

func maybePointer(t *time.Time) sql.NullInt64 {
	if t == nil {
		return sql.NullInt64{}
	}
	return sql.NullInt64{Int64: moment(*t), Valid: true}
}

func fromMaybe(n sql.NullInt64) *time.Time {
	if !n.Valid {
		return nil
	}
	t := fromMoment(n.Int64)
	return &t
}
