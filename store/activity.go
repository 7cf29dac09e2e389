package store

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"bureau/desktop/activity"
)

var _ activity.Store = (*Store)(nil)

const activityColumns = `at, until, count, owner, actor, user_id, user_email, key_id, key_name, via, address,
	action, desktop_id, desktop_name, target, target_name, details, outcome, status, request_id`

// AppendActivity implements activity.Store.
func (s *Store) AppendActivity(ctx context.Context, entries []activity.Entry) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx,
			`INSERT INTO activity (`+activityColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, e := range entries {
			if e.Details == nil {
				e.Details = map[string]int64{}
			}
			_, err := insert.ExecContext(ctx, moment(e.At), moment(e.Until), e.Count, e.Owner, e.Actor, e.UserID, e.UserEmail,
				e.KeyID, e.KeyName, e.Via, e.Address, e.Action, e.DesktopID, e.DesktopName, e.Target, e.TargetName,
				asJSON(e.Details), e.Outcome, e.Status, e.RequestID)
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("write the activity log: %w", err)
	}
	return nil
}

// Activity implements activity.Store.
func (s *Store) Activity(ctx context.Context, query activity.Query) ([]activity.Entry, error) {
	where, args := `1 = 1`, []any{}
	add := func(condition string, values ...any) {
		where += ` AND ` + condition
		args = append(args, values...)
	}
	if query.Owner != "" {
		add(`owner = ?`, query.Owner)
	}
	if query.Desktop != "" {
		add(`desktop_id = ?`, query.Desktop)
	}
	if query.DesktopName != "" {
		add(`desktop_name = ?`, query.DesktopName)
	}
	if query.User != "" {
		add(`(user_id = ? OR lower(user_email) = lower(?))`, query.User, query.User)
	}
	if query.Key != "" {
		add(`key_id = ?`, query.Key)
	}
	if n := len(query.Action); n > 0 && query.Action[n-1] == '.' {
		add(`substr(action, 1, ?) = ?`, n, query.Action)
	} else if n > 0 {
		add(`action = ?`, query.Action)
	}
	if query.Outcome != "" {
		add(`outcome = ?`, query.Outcome)
	}
	if !query.Since.IsZero() {
		add(`until >= ?`, moment(query.Since))
	}
	if !query.Until.IsZero() {
		add(`at < ?`, moment(query.Until))
	}
	order := `DESC`
	switch {
	case query.Oldest:
		order = `ASC`
		add(`id > ?`, query.Cursor)
	case query.Cursor > 0:
		add(`id < ?`, query.Cursor)
	}
	text := `SELECT id, ` + activityColumns + ` FROM activity WHERE ` + where + ` ORDER BY id ` + order
	if query.Limit > 0 {
		text += ` LIMIT ?`
		args = append(args, query.Limit)
	}
	list, err := collect(ctx, s.reader, scanActivity, text, args...)
	if err != nil {
		return nil, fmt.Errorf("read the activity log: %w", err)
	}
	return list, nil
}

func scanActivity(row scanner) (activity.Entry, error) {
	var (
		e         activity.Entry
		at, until int64
		details   jsonText
	)
	err := row.Scan(&e.ID, &at, &until, &e.Count, &e.Owner, &e.Actor, &e.UserID, &e.UserEmail, &e.KeyID, &e.KeyName, &e.Via,
		&e.Address, &e.Action, &e.DesktopID, &e.DesktopName, &e.Target, &e.TargetName, &details, &e.Outcome, &e.Status, &e.RequestID)
	if err == nil {
		err = details.into(&e.Details)
	}
	e.At, e.Until = fromMoment(at), fromMoment(until)
	return e, err
}

// pruneAtOnce is how many entries one transaction forgets: others wait for the writer meanwhile.
const pruneAtOnce = 5000

// PruneActivity implements activity.Store. It moves the horizon, without which the schema lets no
// entry be deleted.
func (s *Store) PruneActivity(ctx context.Context, before time.Time) (int64, error) {
	var all int64
	for {
		var n int64
		err := s.write(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, `UPDATE activity_horizon SET at = ? WHERE at < ?`, moment(before), moment(before)); err != nil {
				return err
			}
			result, err := tx.ExecContext(ctx,
				`DELETE FROM activity WHERE id IN (SELECT id FROM activity WHERE at < ? AND until < ? LIMIT ?)`,
				moment(before), moment(before), pruneAtOnce)
			if err != nil {
				return err
			}
			n, err = result.RowsAffected()
			return err
		})
		if err != nil {
			return all, fmt.Errorf("forget old activity: %w", err)
		}
		if all += n; n < pruneAtOnce {
			return all, nil
		}
	}
}
