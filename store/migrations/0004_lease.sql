-- The last lease that was taken of a desktop's input, also when it has expired. Its token is never
-- kept, only the token's hash, which is empty where no lease was taken.

ALTER TABLE desktops ADD COLUMN lease_holder     TEXT NOT NULL DEFAULT '';
ALTER TABLE desktops ADD COLUMN lease_user       TEXT NOT NULL DEFAULT '';
ALTER TABLE desktops ADD COLUMN lease_key        TEXT NOT NULL DEFAULT '';
ALTER TABLE desktops ADD COLUMN lease_token_hash TEXT NOT NULL DEFAULT '';
ALTER TABLE desktops ADD COLUMN lease_taken_at   INTEGER;
ALTER TABLE desktops ADD COLUMN lease_expires_at INTEGER;
