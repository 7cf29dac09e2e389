package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"bureau/desktop"
)

var _ desktop.Claims = (*Store)(nil)

// claimsLimit is how many claims one caller may have at a time.
const claimsLimit = 10_000

// Take implements desktop.Claims.
func (s *Store) Take(ctx context.Context, claim desktop.Claim, at time.Time) (desktop.Past, error) {
	var past desktop.Past
	err := s.write(ctx, func(tx *sql.Tx) error {
		past = desktop.Past{}
		if _, err := tx.ExecContext(ctx, `DELETE FROM idempotency WHERE expires_at <= ?`, moment(at)); err != nil {
			return err
		}
		var (
			fingerprint, body       []byte
			process, effect, header string
			status                  int
		)
		err := tx.QueryRowContext(ctx,
			`SELECT fingerprint, process, effect, status, header, body FROM idempotency WHERE caller = ? AND key_hash = ?`,
			claim.Caller, claim.KeyHash).Scan(&fingerprint, &process, &effect, &status, &header, &body)
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return s.newClaim(ctx, tx, claim, at)
		case err != nil:
			return err
		case !bytes.Equal(fingerprint, claim.Fingerprint):
			past.Differs = true
			return nil
		case process == s.process:
			past.InFlight = true
			return nil
		case status != 0:
			past.Effect, past.Answer = effect, &desktop.Answer{Status: status, Body: body}
			return json.Unmarshal([]byte(header), &past.Answer.Header)
		}
		// Whoever had it has gone: it ended without an answer, or with the process.
		past.Effect = effect
		_, err = tx.ExecContext(ctx, `UPDATE idempotency SET process = ? WHERE caller = ? AND key_hash = ?`, s.process, claim.Caller, claim.KeyHash)
		return err
	})
	var known *desktop.Error
	if err != nil && !errors.As(err, &known) {
		err = fmt.Errorf("look an idempotency key up: %w", err)
	}
	return past, err
}

func (s *Store) newClaim(ctx context.Context, tx *sql.Tx, claim desktop.Claim, at time.Time) error {
	var count int
	var first sql.NullInt64
	err := tx.QueryRowContext(ctx, `SELECT count(*), min(expires_at) FROM idempotency WHERE caller = ?`, claim.Caller).Scan(&count, &first)
	if err != nil {
		return err
	}
	if count >= claimsLimit {
		failure := desktop.Errorf(desktop.RateLimited, "there are %d idempotency keys of the last day, which is the most that are remembered", count)
		failure.RetryAfter = max(time.Second, fromMoment(first.Int64).Sub(at))
		return failure
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO idempotency (caller, key_hash, fingerprint, process, effect, status, header, body, created_at, expires_at)
			VALUES (?, ?, ?, ?, '', 0, '{}', x'', ?, ?)`,
		claim.Caller, claim.KeyHash, claim.Fingerprint, s.process, moment(at), moment(at.Add(desktop.ClaimTime)))
	return err
}

// Finish implements desktop.Claims.
func (s *Store) Finish(ctx context.Context, claim desktop.Claim, answer *desktop.Answer) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		if answer != nil {
			_, err := tx.ExecContext(ctx,
				`UPDATE idempotency SET process = '', status = ?, header = ?, body = ? WHERE caller = ? AND key_hash = ? AND process = ?`,
				answer.Status, asJSON(answer.Header), append([]byte{}, answer.Body...), claim.Caller, claim.KeyHash, s.process)
			return err
		}
		_, err := tx.ExecContext(ctx, `DELETE FROM idempotency WHERE caller = ? AND key_hash = ? AND process = ? AND effect = ''`,
			claim.Caller, claim.KeyHash, s.process)
		if err == nil {
			_, err = tx.ExecContext(ctx, `UPDATE idempotency SET process = '' WHERE caller = ? AND key_hash = ? AND process = ?`,
				claim.Caller, claim.KeyHash, s.process)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("keep what a request with an idempotency key has done: %w", err)
	}
	return nil
}

// noteEffect notes, in the transaction that makes or changes it, what the request has done that ctx
// belongs to: when that is told of after a crash, it has happened, and when not, it has not. The
// first one counts. A request without a claim notes nothing.
func noteEffect(ctx context.Context, tx *sql.Tx, id string) error {
	claim, ok := desktop.ClaimOf(ctx)
	if !ok {
		return nil
	}
	_, err := tx.ExecContext(ctx, `UPDATE idempotency SET effect = ? WHERE caller = ? AND key_hash = ? AND effect = ''`,
		id, claim.Caller, claim.KeyHash)
	return err
}
