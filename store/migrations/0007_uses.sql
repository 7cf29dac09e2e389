-- When a desktop was last used, kept from time to time, so that the count towards its stop for
-- inactivity goes on when the appliance is restarted.

CREATE TABLE desktop_uses (
  desktop_id TEXT    NOT NULL PRIMARY KEY REFERENCES desktops (id),
  used_at    INTEGER NOT NULL
) STRICT;
