-- The AI agent of a desktop: who answers its chat and what waits for a person's yes, and the
-- conversations with it.

ALTER TABLE desktops ADD COLUMN approval TEXT NOT NULL DEFAULT '{}'; -- JSON
ALTER TABLE desktops ADD COLUMN agent    TEXT NOT NULL DEFAULT '{}'; -- JSON

CREATE TABLE chat_sessions (
  id          TEXT    NOT NULL PRIMARY KEY,
  desktop_id  TEXT    NOT NULL REFERENCES desktops (id),
  title       TEXT    NOT NULL,
  fingerprint TEXT    NOT NULL, -- of the state it was left in; '' when nobody asks for it so
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL
) STRICT;

CREATE INDEX chat_sessions_desktop ON chat_sessions (desktop_id, updated_at, id);
CREATE INDEX chat_sessions_fingerprint ON chat_sessions (desktop_id, fingerprint) WHERE fingerprint <> '';

CREATE TABLE chat_turns (
  id          TEXT    NOT NULL PRIMARY KEY,
  session_id  TEXT    NOT NULL REFERENCES chat_sessions (id) ON DELETE CASCADE,
  desktop_id  TEXT    NOT NULL REFERENCES desktops (id),
  prompt      TEXT    NOT NULL,
  message     TEXT    NOT NULL,
  stop_reason TEXT    NOT NULL, -- '' while it runs
  error       TEXT    NOT NULL,
  model       TEXT    NOT NULL,
  usage       TEXT    NOT NULL, -- JSON
  created_at  INTEGER NOT NULL,
  ended_at    INTEGER           -- NULL while it runs
) STRICT;

CREATE INDEX chat_turns_session ON chat_turns (session_id, created_at, id);
-- One turn at a time for each desktop.
CREATE UNIQUE INDEX chat_turns_open ON chat_turns (desktop_id) WHERE ended_at IS NULL;
CREATE INDEX chat_turns_ended ON chat_turns (desktop_id, ended_at) WHERE ended_at IS NOT NULL;

-- The conversation as the models get it. The pictures lie beside it, since they are forgotten first.
CREATE TABLE chat_messages (
  session_id TEXT    NOT NULL REFERENCES chat_sessions (id) ON DELETE CASCADE,
  number     INTEGER NOT NULL,
  turn_id    TEXT    NOT NULL REFERENCES chat_turns (id) ON DELETE CASCADE,
  body       TEXT    NOT NULL, -- JSON, the pictures without their data
  PRIMARY KEY (session_id, number)
) STRICT;

CREATE TABLE chat_pictures (
  session_id TEXT    NOT NULL,
  message    INTEGER NOT NULL,
  part       INTEGER NOT NULL,
  data       BLOB, -- NULL when it has been forgotten
  PRIMARY KEY (session_id, message, part),
  FOREIGN KEY (session_id, message) REFERENCES chat_messages (session_id, number) ON DELETE CASCADE
) STRICT;

CREATE TABLE chat_steps (
  turn_id TEXT    NOT NULL REFERENCES chat_turns (id) ON DELETE CASCADE,
  number  INTEGER NOT NULL,
  body    TEXT    NOT NULL, -- JSON
  PRIMARY KEY (turn_id, number)
) STRICT;

CREATE TABLE chat_events (
  turn_id TEXT    NOT NULL REFERENCES chat_turns (id) ON DELETE CASCADE,
  number  INTEGER NOT NULL,
  kind    TEXT    NOT NULL,
  data    TEXT    NOT NULL, -- JSON
  PRIMARY KEY (turn_id, number)
) STRICT;

CREATE TABLE chat_approvals (
  id         TEXT    NOT NULL PRIMARY KEY,
  desktop_id TEXT    NOT NULL REFERENCES desktops (id),
  session_id TEXT    NOT NULL REFERENCES chat_sessions (id) ON DELETE CASCADE,
  turn_id    TEXT    NOT NULL REFERENCES chat_turns (id) ON DELETE CASCADE,
  step       INTEGER NOT NULL,
  tool       TEXT    NOT NULL,
  arguments  TEXT    NOT NULL, -- JSON
  reason     TEXT    NOT NULL,
  status     TEXT    NOT NULL CHECK (status IN ('pending', 'approved', 'denied', 'expired')),
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  decided_at INTEGER
) STRICT;

CREATE INDEX chat_approvals_desktop ON chat_approvals (desktop_id, created_at, id);
CREATE INDEX chat_approvals_turn ON chat_approvals (turn_id);
