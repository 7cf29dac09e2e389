package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"bureau/assistant/provider"
	"bureau/desktop"
)

var _ provider.Store = (*Store)(nil)

const providerColumns = `id, coalesce(owner, ''), coalesce(desktop, ''), name, kind, base_url, model, fallback_model, fallback_provider,
	sealed, key_end, private, preferred_at, created_at, updated_at`

func scanProvider(row scanner) (provider.Record, error) {
	var (
		r                           provider.Record
		preferred, created, updated int64
	)
	err := row.Scan(&r.ID, &r.Owner, &r.DesktopID, &r.Name, &r.Kind, &r.BaseURL, &r.Model, &r.FallbackModel, &r.FallbackProvider,
		&r.Sealed, &r.KeyEnd, &r.Private, &preferred, &created, &updated)
	if preferred != 0 {
		r.PreferredAt = fromMoment(preferred)
	}
	r.CreatedAt, r.UpdatedAt = fromMoment(created), fromMoment(updated)
	return r, err
}

// orNull is NULL for the empty string, in a column that refers to another table.
func orNull(s string) sql.NullString { return sql.NullString{String: s, Valid: s != ""} }

func preference(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return moment(t)
}

// InsertProvider implements provider.Store.
func (s *Store) InsertProvider(ctx context.Context, r provider.Record, limit int) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		var count int
		err := tx.QueryRowContext(ctx, `SELECT count(*) FROM providers WHERE coalesce(owner, '') = ? AND desktop IS NULL`, r.Owner).Scan(&count)
		if err != nil {
			return err
		}
		if r.DesktopID == "" && count >= limit {
			return desktop.Errorf(desktop.Conflict, "there are %d of at most %d providers: remove one first", count, limit)
		}
		if r.DesktopID != "" {
			// A desktop that has been destroyed meanwhile is given no key: nobody would take it away again.
			var alive int
			err := tx.QueryRowContext(ctx, `SELECT count(*) FROM desktops WHERE id = ? AND destroyed_at IS NULL`, r.DesktopID).Scan(&alive)
			if err != nil {
				return err
			}
			if alive == 0 {
				return desktop.Errorf(desktop.NotFound, "there is no desktop %s", r.DesktopID)
			}
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO providers (id, owner, desktop, name, kind, base_url, model, fallback_model, fallback_provider,
				sealed, key_end, private, preferred_at, created_at, updated_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.ID, orNull(r.Owner), orNull(r.DesktopID), r.Name, r.Kind, r.BaseURL, r.Model, r.FallbackModel, r.FallbackProvider,
			r.Sealed, r.KeyEnd, r.Private, preference(r.PreferredAt), moment(r.CreatedAt), moment(r.UpdatedAt))
		if err != nil || r.DesktopID != "" { // a desktop's own is not what the request is about
			return err
		}
		return noteEffect(ctx, tx, r.ID)
	})
	return providerError(err, r, "keep")
}

// providerError makes what the caller is told of a write that failed.
func providerError(err error, r provider.Record, what string) error {
	var known *desktop.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		return err
	case duplicate(err) && r.DesktopID != "":
		return desktop.Errorf(desktop.Conflict, "desktop %s has a provider already", r.DesktopID).Because(err)
	case duplicate(err):
		return desktop.Errorf(desktop.Conflict, "there is a provider %s already", r.Name).Because(err)
	case dangling(err):
		return desktop.Errorf(desktop.NotFound, "there is no such owner or desktop").Because(err)
	}
	return fmt.Errorf("%s provider %s: %w", what, r.ID, err)
}

// UpdateProvider implements provider.Store.
func (s *Store) UpdateProvider(ctx context.Context, id string, change func(*provider.Record) error) (provider.Record, error) {
	var (
		r       provider.Record
		refused error // by change, to be returned as it is
	)
	err := s.write(ctx, func(tx *sql.Tx) error {
		before, err := readProvider(ctx, tx, id)
		if err != nil {
			return err
		}
		r = before
		if refused = change(&r); refused != nil {
			return refused
		}
		r.ID, r.Owner, r.DesktopID, r.CreatedAt = before.ID, before.Owner, before.DesktopID, before.CreatedAt // for good
		_, err = tx.ExecContext(ctx,
			`UPDATE providers SET name = ?, kind = ?, base_url = ?, model = ?, fallback_model = ?, fallback_provider = ?,
				sealed = ?, key_end = ?, private = ?, preferred_at = ?, updated_at = ? WHERE id = ?`,
			r.Name, r.Kind, r.BaseURL, r.Model, r.FallbackModel, r.FallbackProvider,
			r.Sealed, r.KeyEnd, r.Private, preference(r.PreferredAt), moment(r.UpdatedAt), id)
		return err
	})
	if refused != nil {
		return provider.Record{}, refused
	}
	if err != nil {
		return provider.Record{}, providerError(err, r, "change")
	}
	return r, nil
}

// DeleteProvider implements provider.Store.
func (s *Store) DeleteProvider(ctx context.Context, id string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `DELETE FROM providers WHERE id = ?`, id)
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil {
			return err
		} else if n == 0 {
			return desktop.Errorf(desktop.NotFound, "there is no provider %s", id)
		}
		_, err = tx.ExecContext(ctx, `UPDATE providers SET fallback_provider = '' WHERE fallback_provider = ?`, id)
		return err
	})
	return providerError(err, provider.Record{Provider: provider.Provider{ID: id}}, "delete")
}

// Provider implements provider.Store.
func (s *Store) Provider(ctx context.Context, id string) (provider.Record, error) {
	return readProvider(ctx, s.reader, id)
}

func readProvider(ctx context.Context, q querier, id string) (provider.Record, error) {
	r, err := scanProvider(q.QueryRowContext(ctx, `SELECT `+providerColumns+` FROM providers WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return provider.Record{}, desktop.Errorf(desktop.NotFound, "there is no provider %s", id)
	}
	if err != nil {
		return provider.Record{}, fmt.Errorf("read provider %s: %w", id, err)
	}
	return r, nil
}

// Providers implements provider.Store.
func (s *Store) Providers(ctx context.Context, scope provider.Scope) ([]provider.Record, error) {
	return s.providers(ctx, `WHERE coalesce(owner, '') = ? AND coalesce(desktop, '') = ?`, scope.Owner, scope.DesktopID)
}

// AllProviders implements provider.Store.
func (s *Store) AllProviders(ctx context.Context) ([]provider.Record, error) {
	return s.providers(ctx, ``)
}

func (s *Store) providers(ctx context.Context, where string, args ...any) ([]provider.Record, error) {
	list, err := collect(ctx, s.reader, scanProvider,
		`SELECT `+providerColumns+` FROM providers `+where+` ORDER BY preferred_at DESC, created_at, id`, args...)
	if err != nil {
		return nil, fmt.Errorf("list the providers: %w", err)
	}
	return list, nil
}
