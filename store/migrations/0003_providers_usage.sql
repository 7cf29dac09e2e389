-- Who lends models, and what they took.
--
-- owner is NULL for the appliance's own providers. sealed is the provider's key, encrypted with a
-- master key that is not in here; key_end is what people see of it. private tells that the operator
-- named the address.

CREATE TABLE providers (
  id                TEXT    NOT NULL PRIMARY KEY,
  owner             TEXT    REFERENCES users (id),
  desktop           TEXT    REFERENCES desktops (id),
  name              TEXT    NOT NULL,
  kind              TEXT    NOT NULL,
  base_url          TEXT    NOT NULL,
  model             TEXT    NOT NULL,
  fallback_model    TEXT    NOT NULL,
  fallback_provider TEXT    NOT NULL,
  sealed            BLOB    NOT NULL,
  key_end           TEXT    NOT NULL,
  private           INTEGER NOT NULL CHECK (private IN (0, 1)),
  preferred_at      INTEGER NOT NULL, -- 0 for never
  created_at        INTEGER NOT NULL,
  updated_at        INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX providers_name ON providers (coalesce(owner, ''), lower(name)) WHERE desktop IS NULL;
CREATE UNIQUE INDEX providers_desktop ON providers (desktop) WHERE desktop IS NOT NULL;

-- hour is its beginning, in seconds since 1970 UTC. What was used by a desktop or through a provider
-- that is gone stays.
CREATE TABLE usage (
  owner       TEXT    NOT NULL,
  hour        INTEGER NOT NULL,
  desktop     TEXT    NOT NULL,
  provider    TEXT    NOT NULL,
  format      TEXT    NOT NULL,
  model       TEXT    NOT NULL,
  requests    INTEGER NOT NULL,
  input       INTEGER NOT NULL,
  cache_read  INTEGER NOT NULL,
  cache_write INTEGER NOT NULL,
  output      INTEGER NOT NULL,
  PRIMARY KEY (owner, hour, desktop, provider, format, model)
) STRICT;

CREATE INDEX usage_desktop ON usage (desktop, hour);
