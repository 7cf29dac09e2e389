package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"
)

func (s *Store) KeepUses(ctx context.Context, uses map[string]time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		for id, at := range uses {
			_, err := tx.ExecContext(ctx,
				`INSERT INTO desktop_uses (desktop_id, used_at) SELECT id, ? FROM desktops WHERE id = ? AND destroyed_at IS NULL
				ON CONFLICT (desktop_id) DO UPDATE SET used_at = excluded.used_at`, moment(at), id)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("keep when the desktops were used: %w", err)
	}
	return nil
}

func (s *Store) Uses(ctx context.Context) (map[string]time.Time, error) {
	type use struct {
		id string
		at int64
	}
	list, err := collect(ctx, s.reader, func(row scanner) (u use, err error) {
		err = row.Scan(&u.id, &u.at)
		return u, err
	}, `SELECT desktop_id, used_at FROM desktop_uses JOIN desktops ON id = desktop_id WHERE destroyed_at IS NULL`)
	if err != nil {
		return nil, fmt.Errorf("read when the desktops were used: %w", err)
	}
	uses := make(map[string]time.Time, len(list))
	for _, u := range list {
		uses[u.id] = fromMoment(u.at)
	}
	return uses, nil
}
