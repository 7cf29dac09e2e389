package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"bureau/assistant"
	"bureau/assistant/model"
	"bureau/desktop"
)

const sessionColumns = `id, desktop_id, title, created_at, updated_at,
	(SELECT count(*) FROM chat_turns WHERE chat_turns.session_id = chat_sessions.id)`

func scanSession(row scanner) (assistant.Session, error) {
	var (
		s                assistant.Session
		created, updated int64
	)
	err := row.Scan(&s.ID, &s.DesktopID, &s.Title, &created, &updated, &s.Turns)
	s.CreatedAt, s.UpdatedAt = fromMoment(created), fromMoment(updated)
	return s, err
}

const turnColumns = `id, session_id, desktop_id, prompt, message, stop_reason, error, model, usage, created_at, ended_at`

func scanTurn(row scanner) (assistant.Turn, error) {
	var (
		t       assistant.Turn
		usage   jsonText
		created int64
		ended   sql.NullInt64
	)
	err := row.Scan(&t.ID, &t.SessionID, &t.DesktopID, &t.Prompt, &t.Message, &t.StopReason, &t.Error, &t.Model, &usage, &created, &ended)
	if err == nil {
		err = usage.into(&t.Usage)
	}
	t.Steps = []assistant.Step{}
	t.CreatedAt, t.EndedAt = fromMoment(created), fromMaybe(ended)
	return t, err
}

func (s *Store) BeginTurn(ctx context.Context, t assistant.Turn, session *assistant.Session) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		var running string
		err := tx.QueryRowContext(ctx, `SELECT id FROM chat_turns WHERE desktop_id = ? AND ended_at IS NULL`, t.DesktopID).Scan(&running)
		if err == nil {
			failure := desktop.Errorf(desktop.Conflict, "the desktop's agent is busy with turn %s", running)
			failure.Details = map[string]any{"turnId": running}
			return failure
		}
		if !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if session != nil {
			_, err = tx.ExecContext(ctx,
				`INSERT INTO chat_sessions (id, desktop_id, title, fingerprint, created_at, updated_at) VALUES (?, ?, ?, '', ?, ?)`,
				session.ID, session.DesktopID, session.Title, moment(session.CreatedAt), moment(session.UpdatedAt))
		} else {
			err = changeOne(ctx, tx, desktop.Errorf(desktop.NotFound, "there is no session %s", t.SessionID),
				`UPDATE chat_sessions SET updated_at = ? WHERE id = ? AND desktop_id = ?`, moment(t.CreatedAt), t.SessionID, t.DesktopID)
		}
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO chat_turns (`+turnColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			t.ID, t.SessionID, t.DesktopID, t.Prompt, t.Message, t.StopReason, t.Error, t.Model, asJSON(t.Usage), moment(t.CreatedAt), maybePointer(t.EndedAt))
		if err != nil {
			return err
		}
		return noteEffect(ctx, tx, t.ID)
	})
	return chatError(err, "begin turn %s", t.ID)
}

// changeOne runs a change that has to find its row.
func changeOne(ctx context.Context, tx *sql.Tx, missing error, query string, args ...any) error {
	result, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err != nil || n > 0 {
		return err
	}
	return missing
}

// chatError says what was being done, unless the error says all that there is to say.
func chatError(err error, format string, args ...any) error {
	var known *desktop.Error
	if err == nil || errors.As(err, &known) {
		return err
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}

// pictureOf is the picture of a message's part, of which there is at most one.
func pictureOf(part *model.Part) **model.Picture {
	if part.Result != nil {
		return &part.Result.Picture
	}
	return &part.Picture
}

func (s *Store) AppendMessage(ctx context.Context, t assistant.Turn, message model.Message, steps []assistant.Step) error {
	// The pictures are taken out of a copy: the message goes on being somebody else's.
	var pictures []struct {
		part int
		data []byte
	}
	plain := model.Message{Role: message.Role, Parts: make([]model.Part, len(message.Parts))}
	for i, part := range message.Parts {
		if part.Result != nil {
			result := *part.Result
			part.Result = &result
		}
		if place := pictureOf(&part); *place != nil {
			pictures = append(pictures, struct {
				part int
				data []byte
			}{i, (*place).Data})
			without := **place
			without.Data = nil
			*place = &without
		}
		plain.Parts[i] = part
	}
	err := s.write(ctx, func(tx *sql.Tx) error {
		var number int64
		err := tx.QueryRowContext(ctx, `SELECT coalesce(max(number), 0) + 1 FROM chat_messages WHERE session_id = ?`, t.SessionID).Scan(&number)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO chat_messages (session_id, number, turn_id, body) VALUES (?, ?, ?, ?)`,
			t.SessionID, number, t.ID, asJSON(plain))
		for _, picture := range pictures {
			if err == nil {
				_, err = tx.ExecContext(ctx, `INSERT INTO chat_pictures (session_id, message, part, data) VALUES (?, ?, ?, ?)`,
					t.SessionID, number, picture.part, picture.data)
			}
		}
		for _, step := range steps {
			if err == nil {
				_, err = tx.ExecContext(ctx, `INSERT INTO chat_steps (turn_id, number, body) VALUES (?, ?, ?)`, t.ID, step.Number, asJSON(step))
			}
		}
		return err
	})
	if dangling(err) {
		return desktop.Errorf(desktop.NotFound, "there is no session %s", t.SessionID).Because(err)
	}
	return chatError(err, "keep a message of session %s", t.SessionID)
}

func (s *Store) AppendStep(ctx context.Context, turnID string, step assistant.Step) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO chat_steps (turn_id, number, body) VALUES (?, ?, ?)`, turnID, step.Number, asJSON(step))
		return err
	})
	return chatError(err, "keep a step of turn %s", turnID)
}

func (s *Store) DropPictures(ctx context.Context, sessionID string, oldest int) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx,
			`UPDATE chat_pictures SET data = NULL WHERE session_id = ? AND data IS NOT NULL AND (message, part) IN (
				SELECT message, part FROM chat_pictures WHERE session_id = ? ORDER BY message, part LIMIT ?)`, sessionID, sessionID, oldest)
		return err
	})
	return chatError(err, "forget pictures of session %s", sessionID)
}

func (s *Store) EndTurn(ctx context.Context, t assistant.Turn, fingerprint string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		err := changeOne(ctx, tx, desktop.Errorf(desktop.NotFound, "there is no turn %s", t.ID),
			`UPDATE chat_turns SET message = ?, stop_reason = ?, error = ?, model = ?, usage = ?, ended_at = ? WHERE id = ?`,
			t.Message, t.StopReason, t.Error, t.Model, asJSON(t.Usage), maybePointer(t.EndedAt), t.ID)
		if err != nil {
			return err
		}
		if _, err = tx.ExecContext(ctx, `UPDATE chat_sessions SET updated_at = ?, fingerprint = ? WHERE id = ?`,
			maybePointer(t.EndedAt), fingerprint, t.SessionID); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE chat_approvals SET status = ?, decided_at = ? WHERE turn_id = ? AND status = ?`,
			assistant.Expired, maybePointer(t.EndedAt), t.ID, assistant.Pending)
		return err
	})
	return chatError(err, "end turn %s", t.ID)
}

func (s *Store) OpenTurns(ctx context.Context) ([]assistant.Turn, error) {
	list, err := s.turns(ctx, `ended_at IS NULL`)
	return list, chatError(err, "list the open turns")
}

func (s *Store) Turn(ctx context.Context, id string) (assistant.Turn, error) {
	list, err := s.turns(ctx, `id = ?`, id)
	if err == nil && len(list) == 0 {
		err = desktop.Errorf(desktop.NotFound, "there is no turn %s", id)
	}
	if err != nil {
		return assistant.Turn{}, chatError(err, "read turn %s", id)
	}
	return list[0], nil
}

func (s *Store) Turns(ctx context.Context, sessionID string) ([]assistant.Turn, error) {
	list, err := s.turns(ctx, `session_id = ?`, sessionID)
	return list, chatError(err, "list the turns of session %s", sessionID)
}

// turns are those that a condition selects, oldest first, with their steps.
func (s *Store) turns(ctx context.Context, where string, args ...any) ([]assistant.Turn, error) {
	list, err := collect(ctx, s.reader, scanTurn, `SELECT `+turnColumns+` FROM chat_turns WHERE `+where+` ORDER BY created_at, id`, args...)
	if err != nil {
		return nil, err
	}
	for i := range list {
		list[i].Steps, err = collect(ctx, s.reader, func(row scanner) (step assistant.Step, err error) {
			var body jsonText
			if err = row.Scan(&body); err == nil {
				err = body.into(&step)
			}
			return step, err
		}, `SELECT body FROM chat_steps WHERE turn_id = ? ORDER BY number`, list[i].ID)
		if err != nil {
			return nil, err
		}
	}
	return list, nil
}

func (s *Store) Messages(ctx context.Context, sessionID string) ([]model.Message, error) {
	type picture struct {
		message int64
		part    int
		data    []byte
	}
	// One transaction, so that both are of one moment.
	tx, err := s.reader.BeginTx(ctx, &sql.TxOptions{ReadOnly: true})
	if err != nil {
		return nil, chatError(err, "read session %s", sessionID)
	}
	defer tx.Rollback()
	places := map[int64]int{}
	list, err := collect(ctx, tx, func(row scanner) (message model.Message, err error) {
		var number int64
		var body jsonText
		if err = row.Scan(&number, &body); err == nil {
			places[number] = len(places)
			err = body.into(&message)
		}
		return message, err
	}, `SELECT number, body FROM chat_messages WHERE session_id = ? ORDER BY number`, sessionID)
	if err != nil {
		return nil, chatError(err, "read session %s", sessionID)
	}
	pictures, err := collect(ctx, tx, func(row scanner) (p picture, err error) {
		return p, row.Scan(&p.message, &p.part, &p.data)
	}, `SELECT message, part, data FROM chat_pictures WHERE session_id = ? AND data IS NOT NULL`, sessionID)
	if err != nil {
		return nil, chatError(err, "read session %s", sessionID)
	}
	for _, p := range pictures {
		if place := *pictureOf(&list[places[p.message]].Parts[p.part]); place != nil {
			place.Data = p.data
		}
	}
	return list, nil
}

func (s *Store) Sessions(ctx context.Context, desktopID string, limit int) ([]assistant.Session, error) {
	list, err := collect(ctx, s.reader, scanSession,
		`SELECT `+sessionColumns+` FROM chat_sessions WHERE desktop_id = ? ORDER BY updated_at DESC, id LIMIT ?`, desktopID, limit)
	return list, chatError(err, "list the sessions of desktop %s", desktopID)
}

func (s *Store) Session(ctx context.Context, id string) (assistant.Session, error) {
	session, err := scanSession(s.reader.QueryRowContext(ctx, `SELECT `+sessionColumns+` FROM chat_sessions WHERE id = ?`, id))
	if errors.Is(err, sql.ErrNoRows) {
		err = desktop.Errorf(desktop.NotFound, "there is no session %s", id)
	}
	return session, chatError(err, "read session %s", id)
}

func (s *Store) SessionByFingerprint(ctx context.Context, desktopID, fingerprint string) (assistant.Session, error) {
	session, err := scanSession(s.reader.QueryRowContext(ctx,
		`SELECT `+sessionColumns+` FROM chat_sessions WHERE desktop_id = ? AND fingerprint = ? AND fingerprint <> '' ORDER BY updated_at DESC LIMIT 1`,
		desktopID, fingerprint))
	if errors.Is(err, sql.ErrNoRows) {
		err = desktop.Errorf(desktop.NotFound, "there is no such session")
	}
	return session, chatError(err, "look a session of desktop %s up", desktopID)
}

func (s *Store) DeleteSession(ctx context.Context, id string) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		return changeOne(ctx, tx, desktop.Errorf(desktop.NotFound, "there is no session %s", id), `DELETE FROM chat_sessions WHERE id = ?`, id)
	})
	return chatError(err, "delete session %s", id)
}

func (s *Store) AppendEvents(ctx context.Context, turnID string, events []assistant.Event) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		insert, err := tx.PrepareContext(ctx, `INSERT INTO chat_events (turn_id, number, kind, data) VALUES (?, ?, ?, ?)`)
		if err != nil {
			return err
		}
		defer insert.Close()
		for _, event := range events {
			if _, err := insert.ExecContext(ctx, turnID, event.Number, event.Kind, string(event.Data)); err != nil {
				return err
			}
		}
		return nil
	})
	if dangling(err) {
		return desktop.Errorf(desktop.NotFound, "there is no turn %s", turnID).Because(err)
	}
	return chatError(err, "keep events of turn %s", turnID)
}

func (s *Store) Events(ctx context.Context, turnID string, after int64, limit int) ([]assistant.Event, error) {
	list, err := collect(ctx, s.reader, func(row scanner) (e assistant.Event, err error) {
		var data string
		err = row.Scan(&e.Number, &e.Kind, &data)
		e.Data = []byte(data)
		return e, err
	}, `SELECT number, kind, data FROM chat_events WHERE turn_id = ? AND number > ? ORDER BY number LIMIT ?`, turnID, after, limit)
	return list, chatError(err, "read the events of turn %s", turnID)
}

func (s *Store) LastEvent(ctx context.Context, turnID string) (int64, error) {
	var number int64
	err := s.reader.QueryRowContext(ctx, `SELECT coalesce(max(number), 0) FROM chat_events WHERE turn_id = ?`, turnID).Scan(&number)
	return number, chatError(err, "read the last event of turn %s", turnID)
}

func (s *Store) PruneEvents(ctx context.Context, desktopID string, before time.Time) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `DELETE FROM chat_events WHERE kind <> ? AND turn_id IN (
			SELECT id FROM chat_turns WHERE desktop_id = ? AND ended_at < ?)`, assistant.EventDone, desktopID, moment(before))
		return err
	})
	return chatError(err, "forget events of desktop %s", desktopID)
}

const approvalColumns = `id, desktop_id, session_id, turn_id, step, tool, arguments, reason, status, created_at, expires_at, decided_at`

func scanApproval(row scanner) (assistant.Approval, error) {
	var (
		a                assistant.Approval
		arguments        jsonText
		created, expires int64
		decided          sql.NullInt64
	)
	err := row.Scan(&a.ID, &a.DesktopID, &a.SessionID, &a.TurnID, &a.Step, &a.Tool, &arguments, &a.Reason, &a.Status, &created, &expires, &decided)
	if err == nil {
		err = arguments.into(&a.Arguments)
	}
	a.CreatedAt, a.ExpiresAt, a.DecidedAt = fromMoment(created), fromMoment(expires), fromMaybe(decided)
	return a, err
}

func (s *Store) InsertApproval(ctx context.Context, a assistant.Approval) error {
	err := s.write(ctx, func(tx *sql.Tx) error {
		_, err := tx.ExecContext(ctx, `INSERT INTO chat_approvals (`+approvalColumns+`) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
			a.ID, a.DesktopID, a.SessionID, a.TurnID, a.Step, a.Tool, asJSON(a.Arguments), a.Reason, a.Status,
			moment(a.CreatedAt), moment(a.ExpiresAt), maybePointer(a.DecidedAt))
		return err
	})
	return chatError(err, "keep approval %s", a.ID)
}

func (s *Store) Approvals(ctx context.Context, desktopID string, limit int) ([]assistant.Approval, error) {
	list, err := collect(ctx, s.reader, scanApproval,
		`SELECT `+approvalColumns+` FROM chat_approvals WHERE desktop_id = ? ORDER BY created_at DESC, id LIMIT ?`, desktopID, limit)
	return list, chatError(err, "list the approvals of desktop %s", desktopID)
}

func (s *Store) DecideApproval(ctx context.Context, desktopID, id string, status assistant.ApprovalStatus, at time.Time) (assistant.Approval, error) {
	var a assistant.Approval
	err := s.write(ctx, func(tx *sql.Tx) error {
		var err error
		a, err = scanApproval(tx.QueryRowContext(ctx, `SELECT `+approvalColumns+` FROM chat_approvals WHERE id = ? AND desktop_id = ?`, id, desktopID))
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return desktop.Errorf(desktop.NotFound, "there is no approval %s", id)
		case err != nil:
			return err
		case a.Status != assistant.Pending:
			return desktop.Errorf(desktop.Conflict, "the approval is %s already", a.Status)
		}
		decided := at.UTC()
		a.Status, a.DecidedAt = status, &decided
		_, err = tx.ExecContext(ctx, `UPDATE chat_approvals SET status = ?, decided_at = ? WHERE id = ?`, status, moment(at), id)
		return err
	})
	return a, chatError(err, "decide approval %s", id)
}
