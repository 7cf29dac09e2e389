package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"bureau/desktop"
)

const desktopColumns = `id, owner, name, tier, image, image_digest, network, vcpus, memory_bytes, disk_bytes,
	keep_alive, approval, agent, wish, boot, failure, created_at, updated_at, destroyed_at,
	lease_holder, lease_user, lease_key, lease_token_hash, lease_taken_at, lease_expires_at, has_disk`

func scanDesktop(row scanner) (desktop.Record, error) {
	var (
		r                desktop.Record
		approval, agent  jsonText
		created, updated int64
		destroyed        sql.NullInt64
		taken, expires   sql.NullInt64
	)
	err := row.Scan(&r.ID, &r.Owner, &r.Name, &r.Tier, &r.Image, &r.ImageDigest, &r.Network,
		&r.VCPUs, &r.MemoryBytes, &r.DiskBytes, &r.KeepAlive, &approval, &agent, &r.Wish, &r.Boot, &r.Failure,
		&created, &updated, &destroyed,
		&r.Lease.Holder, &r.Lease.UserID, &r.Lease.KeyID, &r.Lease.TokenHash, &taken, &expires, &r.HasDisk)
	if err == nil {
		err = errors.Join(approval.into(&r.Approval), agent.into(&r.Agent))
	}
	r.CreatedAt, r.UpdatedAt = fromMoment(created), fromMoment(updated)
	if t := fromMaybe(destroyed); t != nil {
		r.DestroyedAt = *t
	}
	if t := fromMaybe(taken); t != nil {
		r.Lease.TakenAt = *t
	}
	if t := fromMaybe(expires); t != nil {
		r.Lease.ExpiresAt = *t
	}
	return r, err
}

func (s *Store) InsertDesktop(ctx context.Context, r desktop.Record, limit int) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if limit > 0 {
			var count int
			err := tx.QueryRowContext(ctx,
				`SELECT count(*) FROM desktops WHERE owner = ? AND destroyed_at IS NULL`, r.Owner).Scan(&count)
			if err != nil {
				return err
			}
			if count >= limit {
				return desktop.AtLimit(desktop.ResourceDesktops, count, limit)
			}
		}
		_, err := tx.ExecContext(ctx,
			`INSERT INTO desktops (`+desktopColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			r.ID, r.Owner, r.Name, r.Tier, r.Image, r.ImageDigest, r.Network, r.VCPUs, r.MemoryBytes, r.DiskBytes,
			r.KeepAlive, asJSON(r.Approval), asJSON(r.Agent), r.Wish, r.Boot, r.Failure, moment(r.CreatedAt), moment(r.UpdatedAt), maybe(r.DestroyedAt),
			r.Lease.Holder, r.Lease.UserID, r.Lease.KeyID, r.Lease.TokenHash, maybe(r.Lease.TakenAt), maybe(r.Lease.ExpiresAt), r.HasDisk)
		if err != nil {
			return err
		}
		return noteDesktop(ctx, tx, r)
	})
	switch {
	case err == nil:
		return nil
	case duplicate(err):
		return desktop.Errorf(desktop.Conflict, "there is a desktop %s already", r.ID).Because(err)
	case dangling(err):
		return desktop.Errorf(desktop.NotFound, "there is no user %s", r.Owner).Because(err)
	}
	return fmt.Errorf("keep desktop %s: %w", r.ID, err)
}

func (s *Store) UpdateDesktop(ctx context.Context, id string, change func(*desktop.Record) error) (desktop.Record, error) {
	var (
		r       desktop.Record
		refused error // by change, to be returned as it is
	)
	err := s.write(ctx, func(tx *sql.Tx) error {
		before, err := readDesktop(ctx, tx, id)
		if err != nil {
			return err
		}
		r = before
		if refused = change(&r); refused != nil {
			return refused
		}
		r.ID, r.Owner, r.CreatedAt = before.ID, before.Owner, before.CreatedAt // for good
		_, err = tx.ExecContext(ctx,
			`UPDATE desktops SET name = ?, tier = ?, image = ?, image_digest = ?, network = ?, vcpus = ?, memory_bytes = ?,
				disk_bytes = ?, keep_alive = ?, approval = ?, agent = ?, wish = ?, boot = ?, failure = ?, updated_at = ?, destroyed_at = ?,
				lease_holder = ?, lease_user = ?, lease_key = ?, lease_token_hash = ?, lease_taken_at = ?, lease_expires_at = ?, has_disk = ? WHERE id = ?`,
			r.Name, r.Tier, r.Image, r.ImageDigest, r.Network, r.VCPUs, r.MemoryBytes,
			r.DiskBytes, r.KeepAlive, asJSON(r.Approval), asJSON(r.Agent), r.Wish, r.Boot, r.Failure, moment(r.UpdatedAt), maybe(r.DestroyedAt),
			r.Lease.Holder, r.Lease.UserID, r.Lease.KeyID, r.Lease.TokenHash, maybe(r.Lease.TakenAt), maybe(r.Lease.ExpiresAt), r.HasDisk, id)
		if err == nil && !r.DestroyedAt.IsZero() {
			// Nobody is left to use the key that it was given, or to ask for its conversations.
			_, err = tx.ExecContext(ctx, `DELETE FROM providers WHERE desktop = ?`, id)
			if err == nil {
				_, err = tx.ExecContext(ctx, `DELETE FROM chat_sessions WHERE desktop_id = ?`, id)
			}
		}
		if err == nil {
			err = noteDesktop(ctx, tx, r)
		}
		return err
	})
	switch {
	case err == nil:
		r.UpdatedAt = r.UpdatedAt.UTC()
		if !r.DestroyedAt.IsZero() {
			r.DestroyedAt = r.DestroyedAt.UTC()
		}
		return r, nil
	case refused != nil:
		return desktop.Record{}, refused
	}
	return desktop.Record{}, fmt.Errorf("change desktop %s: %w", id, err)
}

func (s *Store) Desktop(ctx context.Context, id string) (desktop.Record, error) {
	return readDesktop(ctx, s.reader, id)
}

func readDesktop(ctx context.Context, q querier, id string) (desktop.Record, error) {
	r, err := scanDesktop(q.QueryRowContext(ctx, `SELECT `+desktopColumns+` FROM desktops WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		return desktop.Record{}, desktop.Errorf(desktop.NotFound, "there is no desktop %s", id)
	}
	if err != nil {
		return desktop.Record{}, fmt.Errorf("read desktop %s: %w", id, err)
	}
	return r, nil
}

func (s *Store) Desktops(ctx context.Context, page desktop.Page) ([]desktop.Record, error) {
	where, args := `destroyed_at IS NULL`, []any{}
	if page.Owner != "" {
		where += ` AND owner = ?`
		args = append(args, page.Owner)
	}
	if page.After != "" {
		// The desktop that the page before ended with may have been destroyed since; its row is
		// still there to tell the place. One of somebody else is as unknown as one that never was.
		last, err := s.Desktop(ctx, page.After)
		if desktop.CodeOf(err) == desktop.NotFound || err == nil && page.Owner != "" && last.Owner != page.Owner {
			return nil, desktop.Errorf(desktop.Invalid, "after is not the id of a desktop: %s", page.After)
		}
		if err != nil {
			return nil, err
		}
		where += ` AND (created_at, id) > (?, ?)`
		args = append(args, moment(last.CreatedAt), last.ID)
	}
	query := `SELECT ` + desktopColumns + ` FROM desktops WHERE ` + where + ` ORDER BY created_at, id`
	if page.Limit > 0 {
		query += ` LIMIT ?`
		args = append(args, page.Limit)
	}
	list, err := collect(ctx, s.reader, scanDesktop, query, args...)
	if err != nil {
		return nil, fmt.Errorf("list the desktops: %w", err)
	}
	return list, nil
}

// noteDesktop notes a desktop as what a request has made or changed. One on its way out is none yet,
// or no more: see desktop.Draft.Prepare.
func noteDesktop(ctx context.Context, tx *sql.Tx, r desktop.Record) error {
	if r.Wish == desktop.WishDestroy {
		return nil
	}
	return noteEffect(ctx, tx, r.ID)
}
