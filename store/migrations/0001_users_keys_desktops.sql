-- Users, their API keys and their desktops.
--
-- Times are nanoseconds since 1970 UTC; sizes are bytes; booleans are 0 and 1. What a machine is
-- doing is never kept here: it is the hypervisor's to say.

CREATE TABLE users (
  id         TEXT   NOT NULL PRIMARY KEY,
  email      TEXT   NOT NULL,
  role       TEXT   NOT NULL CHECK (role IN ('admin', 'user')),
  tier       TEXT   NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX users_email ON users (lower(email));

-- The secret of a key is never kept, only its hash; prefix is the beginning that people see.
CREATE TABLE api_keys (
  id           TEXT    NOT NULL PRIMARY KEY,
  user_id      TEXT    NOT NULL REFERENCES users (id),
  name         TEXT    NOT NULL,
  prefix       TEXT    NOT NULL,
  hash         BLOB    NOT NULL UNIQUE,
  capabilities TEXT    NOT NULL, -- separated by spaces
  created_at   INTEGER NOT NULL,
  expires_at   INTEGER,
  last_used_at INTEGER,
  revoked_at   INTEGER
) STRICT;

CREATE INDEX api_keys_user ON api_keys (user_id, created_at, id);

CREATE TABLE desktops (
  id           TEXT    NOT NULL PRIMARY KEY,
  owner        TEXT    NOT NULL REFERENCES users (id),
  name         TEXT    NOT NULL,
  tier         TEXT    NOT NULL,
  image        TEXT    NOT NULL,
  image_digest TEXT    NOT NULL,
  network      TEXT    NOT NULL,
  vcpus        INTEGER NOT NULL,
  memory_bytes INTEGER NOT NULL,
  disk_bytes   INTEGER NOT NULL,
  keep_alive   INTEGER NOT NULL CHECK (keep_alive IN (0, 1)),
  wish         TEXT    NOT NULL CHECK (wish IN ('run', 'halt', 'destroy')),
  boot         TEXT    NOT NULL CHECK (boot IN ('', 'start', 'restart')),
  failure      TEXT    NOT NULL,
  created_at   INTEGER NOT NULL,
  updated_at   INTEGER NOT NULL,
  destroyed_at INTEGER
) STRICT;

-- Both listings: everybody's, and one owner's; destroyed ones are history and in neither.
CREATE INDEX desktops_alive ON desktops (created_at, id) WHERE destroyed_at IS NULL;
CREATE INDEX desktops_owner ON desktops (owner, created_at, id) WHERE destroyed_at IS NULL;
