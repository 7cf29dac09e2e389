-- A database as a bureau of this version left it, with everything in it that such a bureau could keep.
PRAGMA user_version = 1;
PRAGMA foreign_keys=OFF;
BEGIN TRANSACTION;
CREATE TABLE users (
  id         TEXT   NOT NULL PRIMARY KEY,
  email      TEXT   NOT NULL,
  role       TEXT   NOT NULL CHECK (role IN ('admin', 'user')),
  tier       TEXT   NOT NULL,
  created_at INTEGER NOT NULL
) STRICT;
INSERT INTO users VALUES('usr-4m2k8x6q2a4b6c8d','admin@localhost','admin','max',1767323045678901234);
INSERT INTO users VALUES('usr-7k3m9q2w5x8r4t6y','Änne@Example.org','user','pro',1767323105678901234);
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
INSERT INTO api_keys VALUES('key-aaaaaaaaaaaaaaaa','usr-4m2k8x6q2a4b6c8d','first','sk_live_abcd',X'52e1ca99ace7fef84781b848188c62b950ee90e51f8cc5497376fcd133f918ae','desktop:read desktop:lifecycle desktop:control desktop:chat desktop:manage desktop:files',1767323165678901234,NULL,1767323405678901234,NULL);
INSERT INTO api_keys VALUES('key-bbbbbbbbbbbbbbbb','usr-7k3m9q2w5x8r4t6y','it''s "quoted"','sk_live_efgh',X'5e8bd1e33a9c1de0fca33004a4f768bc83a4cc3ade9ba3aa92fc2314f1a301e2','desktop:read desktop:chat',1767323225678901234,1767409445678901234,NULL,NULL);
INSERT INTO api_keys VALUES('key-cccccccccccccccc','usr-7k3m9q2w5x8r4t6y','','sk_live_ijkl',X'bd252a9f7fac5d607107d71a7cd64e2b17d1adedf886a75fbfbb6a2edeee35f0','',1767323285678901234,NULL,NULL,1767323345678901234);
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
INSERT INTO desktops VALUES('dt-running2222222222','usr-7k3m9q2w5x8r4t6y','läuft','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,1,'run','','',1767323645678901234,1767324245678901234,NULL);
INSERT INTO desktops VALUES('dt-booting2222222222','usr-7k3m9q2w5x8r4t6y','boots','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'run','start','',1767323705678901234,1767324305678901234,NULL);
INSERT INTO desktops VALUES('dt-stopped2222222222','usr-7k3m9q2w5x8r4t6y','stopped','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'halt','','',1767323765678901234,1767324365678901234,NULL);
INSERT INTO desktops VALUES('dt-failed22222222222','usr-7k3m9q2w5x8r4t6y','failed','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'run','','The machine ended unexpectedly (crashed); start boots it again from its disk.',1767323825678901234,1767324425678901234,NULL);
INSERT INTO desktops VALUES('dt-destroyed22222222','usr-7k3m9q2w5x8r4t6y','gone','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'destroy','','',1767323885678901234,1767324485678901234,1767324845678901234);
CREATE UNIQUE INDEX users_email ON users (lower(email));
CREATE INDEX api_keys_user ON api_keys (user_id, created_at, id);
CREATE INDEX desktops_alive ON desktops (created_at, id) WHERE destroyed_at IS NULL;
CREATE INDEX desktops_owner ON desktops (owner, created_at, id) WHERE destroyed_at IS NULL;
COMMIT;
