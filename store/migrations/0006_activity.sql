-- The activity log: who did what to which desktop.
--
-- It is append-only, and names everything by itself instead of referring to it: the desktops, users
-- and keys may be gone. owner is the id of the user whose log an entry belongs to, beside the
-- administrators'; '' for theirs alone. An entry that stands for several has the times of the first
-- and of the last of them.

CREATE TABLE activity (
  id           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
  at           INTEGER NOT NULL,
  until        INTEGER NOT NULL,
  count        INTEGER NOT NULL,
  owner        TEXT    NOT NULL,
  actor        TEXT    NOT NULL,
  user_id      TEXT    NOT NULL,
  user_email   TEXT    NOT NULL,
  key_id       TEXT    NOT NULL,
  key_name     TEXT    NOT NULL,
  via          TEXT    NOT NULL,
  address      TEXT    NOT NULL,
  action       TEXT    NOT NULL,
  desktop_id   TEXT    NOT NULL,
  desktop_name TEXT    NOT NULL,
  target       TEXT    NOT NULL,
  target_name  TEXT    NOT NULL,
  details      TEXT    NOT NULL, -- JSON
  outcome      TEXT    NOT NULL,
  status       INTEGER NOT NULL, -- 0 where there was no HTTP answer
  request_id   TEXT    NOT NULL
) STRICT;

CREATE INDEX activity_at ON activity (at);
CREATE INDEX activity_owner ON activity (owner, id);
CREATE INDEX activity_desktop ON activity (desktop_id, id) WHERE desktop_id <> '';

CREATE TRIGGER activity_is_never_changed BEFORE UPDATE ON activity
BEGIN
  SELECT RAISE(ABORT, 'the activity log is append-only');
END;

-- INSERT OR REPLACE would delete without asking the trigger for that.
CREATE TRIGGER activity_is_never_replaced BEFORE INSERT ON activity
WHEN EXISTS (SELECT 1 FROM activity WHERE id = NEW.id)
BEGIN
  SELECT RAISE(ABORT, 'the activity log is append-only');
END;

-- What is from before the horizon may be deleted, and nothing else. The horizon never moves back, and
-- never comes as near to the present as a day (less an hour, for clocks that are read one after the other).
CREATE TABLE activity_horizon (
  one INTEGER NOT NULL PRIMARY KEY CHECK (one = 1),
  at  INTEGER NOT NULL
) STRICT;

INSERT INTO activity_horizon (one, at) VALUES (1, 0);

CREATE TRIGGER activity_is_never_deleted BEFORE DELETE ON activity
WHEN OLD.until >= (SELECT at FROM activity_horizon)
BEGIN
  SELECT RAISE(ABORT, 'the activity log is append-only');
END;

CREATE TRIGGER activity_horizon_moves_slowly BEFORE UPDATE ON activity_horizon
WHEN NEW.at < OLD.at OR NEW.at > (CAST(strftime('%s', 'now') AS INTEGER) - 82800) * 1000000000
BEGIN
  SELECT RAISE(ABORT, 'the horizon of the activity log only moves on, and no nearer than a day');
END;

CREATE TRIGGER activity_has_one_horizon BEFORE INSERT ON activity_horizon
BEGIN
  SELECT RAISE(ABORT, 'the activity log has one horizon');
END;

CREATE TRIGGER activity_horizon_stays BEFORE DELETE ON activity_horizon
BEGIN
  SELECT RAISE(ABORT, 'the activity log has one horizon');
END;
