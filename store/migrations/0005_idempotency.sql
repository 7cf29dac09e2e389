-- What requests with an Idempotency-Key have done, for a day.
--
-- caller is the id of the API key, or "operator". key_hash and fingerprint are hashes of the
-- Idempotency-Key and, keyed by it, of the request: neither the key nor the body is in here. process
-- is the one that is doing the request, empty when none is. effect is the id of what the request
-- made or changed; it is written in the transaction that does so. status is 0 while no answer is kept.

CREATE TABLE idempotency (
  caller      TEXT    NOT NULL,
  key_hash    BLOB    NOT NULL,
  fingerprint BLOB    NOT NULL,
  process     TEXT    NOT NULL,
  effect      TEXT    NOT NULL,
  status      INTEGER NOT NULL,
  header      TEXT    NOT NULL,
  body        BLOB    NOT NULL,
  created_at  INTEGER NOT NULL,
  expires_at  INTEGER NOT NULL,
  PRIMARY KEY (caller, key_hash)
) STRICT;

CREATE INDEX idempotency_expiry ON idempotency (expires_at);

-- Whether a disk was made for a desktop. Of those that were made before this was kept, the ones that
-- have been started have one; of others it is learned when their machine is seen.

ALTER TABLE desktops ADD COLUMN has_disk INTEGER NOT NULL DEFAULT 0 CHECK (has_disk IN (0, 1));

UPDATE desktops SET has_disk = 1 WHERE wish = 'run' AND boot = '' AND failure = '';
