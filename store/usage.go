package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"bureau/assistant/usage"
)

var _ usage.Store = (*Store)(nil)

// bucket is the beginning of a time's hour as a column holds it.
func bucket(t time.Time) int64 { return t.UTC().Truncate(usage.Bucket).Unix() }

// AddUsage implements usage.Store.
func (s *Store) AddUsage(ctx context.Context, at time.Time, row usage.Row) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`INSERT INTO usage (owner, hour, desktop, provider, format, model, requests, input, cache_read, cache_write, output)
				VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (owner, hour, desktop, provider, format, model) DO UPDATE SET
					requests = usage.requests + excluded.requests, input = usage.input + excluded.input,
					cache_read = usage.cache_read + excluded.cache_read, cache_write = usage.cache_write + excluded.cache_write,
					output = usage.output + excluded.output`,
			row.Owner, bucket(at), row.DesktopID, row.Provider, row.Format, row.Model,
			row.Requests, row.Input, row.CacheRead, row.CacheWrite, row.Output)
		return err
	})
	if err != nil {
		return fmt.Errorf("keep the usage of desktop %s: %w", row.DesktopID, err)
	}
	return nil
}

// Usage implements usage.Store.
func (s *Store) Usage(ctx context.Context, query usage.Query) ([]usage.Row, error) {
	where, args := `1 = 1`, []any{}
	add := func(condition string, value any) {
		where += ` AND ` + condition
		args = append(args, value)
	}
	if query.Owner != "" {
		add(`owner = ?`, query.Owner)
	}
	if query.DesktopID != "" {
		add(`desktop = ?`, query.DesktopID)
	}
	if !query.Since.IsZero() {
		add(`hour >= ?`, bucket(query.Since))
	}
	if !query.Until.IsZero() {
		add(`hour < ?`, bucket(query.Until))
	}
	list, err := collect(ctx, s.reader, scanUsage,
		`SELECT owner, desktop, provider, format, model, sum(requests), sum(input), sum(cache_read), sum(cache_write), sum(output)
			FROM usage WHERE `+where+` GROUP BY owner, desktop, provider, format, model
			ORDER BY sum(input) + sum(cache_write) + sum(output) DESC, owner, desktop, provider, format, model`, args...)
	if err != nil {
		return nil, fmt.Errorf("sum the usage up: %w", err)
	}
	return list, nil
}

func scanUsage(row scanner) (usage.Row, error) {
	var r usage.Row
	err := row.Scan(&r.Owner, &r.DesktopID, &r.Provider, &r.Format, &r.Model, &r.Requests, &r.Input, &r.CacheRead, &r.CacheWrite, &r.Output)
	return r, err
}
