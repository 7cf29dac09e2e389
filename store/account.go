package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"bureau/desktop"
)

const userColumns = `users.id, users.email, users.role, users.tier, users.created_at`

func scanUser(row scanner) (desktop.User, error) {
	var (
		u       desktop.User
		created int64
	)
	err := row.Scan(&u.ID, &u.Email, &u.Role, &u.Tier, &created)
	u.CreatedAt = fromMoment(created)
	return u, err
}

func (s *Store) InsertUser(ctx context.Context, u desktop.User) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO users (id, email, role, tier, created_at) VALUES (?, ?, ?, ?, ?)`,
			u.ID, u.Email, u.Role, u.Tier, moment(u.CreatedAt))
		if err != nil {
			return err
		}
		return noteEffect(ctx, tx, u.ID)
	})
	if duplicate(err) {
		return desktop.Errorf(desktop.Conflict, "there is a user %s already", u.Email).Because(err)
	}
	if err != nil {
		return fmt.Errorf("keep user %s: %w", u.ID, err)
	}
	return nil
}

func (s *Store) UpdateUser(ctx context.Context, id string, change func(*desktop.User) error) (desktop.User, error) {
	var u desktop.User
	err := s.write(ctx, func(tx *sql.Tx) error {
		var err error
		if u, err = readUser(ctx, tx, id, byID); err != nil {
			return err
		}
		was := u.Role
		if err := change(&u); err != nil {
			return err
		}
		if was == desktop.RoleAdmin && u.Role != was {
			var others bool
			if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM users WHERE role = ? AND id <> ?)`, was, id).Scan(&others); err != nil {
				return err
			}
			if !others {
				return desktop.Errorf(desktop.Conflict, "%s is the last administrator: make another one first", u.Email)
			}
		}
		_, err = tx.ExecContext(ctx, `UPDATE users SET role = ?, tier = ? WHERE id = ?`, u.Role, u.Tier, id)
		return err
	})
	if err != nil {
		return desktop.User{}, fmt.Errorf("change user %s: %w", id, err)
	}
	return u, nil
}

func (s *Store) User(ctx context.Context, id string) (desktop.User, error) {
	return readUser(ctx, s.reader, id, byID)
}

// UserByEmail finds a user by e-mail address, in capital or small letters.
func (s *Store) UserByEmail(ctx context.Context, email string) (desktop.User, error) {
	return readUser(ctx, s.reader, email, `lower(users.email) = lower(?)`)
}

const byID = `users.id = ?`

func readUser(ctx context.Context, q querier, name, where string) (desktop.User, error) {
	u, err := scanUser(q.QueryRowContext(ctx, `SELECT `+userColumns+` FROM users WHERE `+where, name))
	if errors.Is(err, sql.ErrNoRows) {
		return desktop.User{}, desktop.Errorf(desktop.NotFound, "there is no user %s", name)
	}
	if err != nil {
		return desktop.User{}, fmt.Errorf("read user %s: %w", name, err)
	}
	return u, nil
}

// Users lists all of them, oldest first.
func (s *Store) Users(ctx context.Context) ([]desktop.User, error) {
	list, err := collect(ctx, s.reader, scanUser, `SELECT `+userColumns+` FROM users ORDER BY created_at, id`)
	if err != nil {
		return nil, fmt.Errorf("list the users: %w", err)
	}
	return list, nil
}

const keyColumns = `api_keys.id, api_keys.user_id, api_keys.name, api_keys.prefix, api_keys.capabilities,
	api_keys.created_at, api_keys.expires_at, api_keys.last_used_at, api_keys.revoked_at`

func scanKey(row scanner) (desktop.Key, error) {
	k, _, err := scanKeyAnd(row, nil)
	return k, err
}

func scanKeyWithUser(row scanner) (desktop.Key, desktop.User, error) {
	return scanKeyAnd(row, &desktop.User{})
}

// scanKeyAnd scans a key, and the user behind it when asked for.
func scanKeyAnd(row scanner, u *desktop.User) (desktop.Key, desktop.User, error) {
	var (
		k                      desktop.Key
		capabilities           string
		created, userCreated   int64
		expires, used, revoked sql.NullInt64
	)
	into := []any{&k.ID, &k.UserID, &k.Name, &k.Prefix, &capabilities, &created, &expires, &used, &revoked}
	if u == nil {
		u = &desktop.User{}
	} else {
		into = append(into, &u.ID, &u.Email, &u.Role, &u.Tier, &userCreated)
	}
	if err := row.Scan(into...); err != nil {
		return desktop.Key{}, desktop.User{}, err
	}
	k.Capabilities = []desktop.Capability{}
	for _, name := range strings.Fields(capabilities) {
		k.Capabilities = append(k.Capabilities, desktop.Capability(name))
	}
	k.CreatedAt, u.CreatedAt = fromMoment(created), fromMoment(userCreated)
	k.ExpiresAt, k.LastUsedAt, k.RevokedAt = fromMaybe(expires), fromMaybe(used), fromMaybe(revoked)
	return k, *u, nil
}

func (s *Store) InsertKey(ctx context.Context, k desktop.Key, hash []byte) error {
	names := make([]string, len(k.Capabilities))
	for i, capability := range k.Capabilities {
		names[i] = string(capability)
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO api_keys (id, user_id, name, prefix, hash, capabilities, created_at, expires_at, last_used_at, revoked_at)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			k.ID, k.UserID, k.Name, k.Prefix, hash, strings.Join(names, " "), moment(k.CreatedAt),
			maybePointer(k.ExpiresAt), maybePointer(k.LastUsedAt), maybePointer(k.RevokedAt))
		if err != nil {
			return err
		}
		return noteEffect(ctx, tx, k.ID)
	})
	switch {
	case err == nil:
		return nil
	case duplicate(err):
		return desktop.Errorf(desktop.Conflict, "there is such a key already").Because(err)
	case dangling(err):
		return desktop.Errorf(desktop.NotFound, "there is no user %s", k.UserID).Because(err)
	}
	return fmt.Errorf("keep key %s: %w", k.ID, err)
}

func (s *Store) KeyByHash(ctx context.Context, hash []byte) (desktop.Key, desktop.User, error) {
	k, u, err := scanKeyWithUser(s.reader.QueryRowContext(ctx,
		`SELECT `+keyColumns+`, `+userColumns+` FROM api_keys JOIN users ON users.id = api_keys.user_id WHERE api_keys.hash = ?`, hash))
	if errors.Is(err, sql.ErrNoRows) {
		return desktop.Key{}, desktop.User{}, desktop.Errorf(desktop.NotFound, "there is no such key")
	}
	if err != nil {
		return desktop.Key{}, desktop.User{}, fmt.Errorf("look a key up: %w", err)
	}
	return k, u, nil
}

// Keys lists a user's keys, or everybody's for "", oldest first.
func (s *Store) Keys(ctx context.Context, userID string) ([]desktop.Key, error) {
	query, args := `SELECT `+keyColumns+` FROM api_keys`, []any{}
	if userID != "" {
		query += ` WHERE user_id = ?`
		args = append(args, userID)
	}
	list, err := collect(ctx, s.reader, scanKey, query+` ORDER BY created_at, id`, args...)
	if err != nil {
		return nil, fmt.Errorf("list the keys: %w", err)
	}
	return list, nil
}

func (s *Store) RevokeKey(ctx context.Context, id string, at time.Time) (desktop.Key, error) {
	var k desktop.Key
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `UPDATE api_keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL`, moment(at), id)
		if err != nil {
			return err
		}
		k, err = scanKey(tx.QueryRowContext(ctx, `SELECT `+keyColumns+` FROM api_keys WHERE id = ?`, id))
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return desktop.Key{}, desktop.Errorf(desktop.NotFound, "there is no key %s", id)
	}
	if err != nil {
		return desktop.Key{}, fmt.Errorf("revoke key %s: %w", id, err)
	}
	return k, nil
}

// TouchKey never moves the last use back: requests end in another order than they began.
func (s *Store) TouchKey(ctx context.Context, id string, at time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx,
			`UPDATE api_keys SET last_used_at = CASE WHEN last_used_at > ? THEN last_used_at ELSE ? END WHERE id = ?`,
			moment(at), moment(at), id)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n > 0 {
			return err
		}
		return desktop.Errorf(desktop.NotFound, "there is no key %s", id)
	})
	if err != nil && desktop.CodeOf(err) != desktop.NotFound {
		return fmt.Errorf("record the use of key %s: %w", id, err)
	}
	return err
}
