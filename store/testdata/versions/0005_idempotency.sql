PRAGMA user_version = 5;
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
INSERT INTO api_keys VALUES('key-aaaaaaaaaaaaaaaa','usr-4m2k8x6q2a4b6c8d','first','sk_live_abcd',X'52e1ca99ace7fef84781b848188c62b950ee90e51f8cc5497376fcd133f918ae','desktop:read desktop:lifecycle desktop:control desktop:chat desktop:manage desktop:files provider:manage',1767323165678901234,NULL,1767323405678901234,NULL);
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
, approval TEXT NOT NULL DEFAULT '{}', agent    TEXT NOT NULL DEFAULT '{}', lease_holder     TEXT NOT NULL DEFAULT '', lease_user       TEXT NOT NULL DEFAULT '', lease_key        TEXT NOT NULL DEFAULT '', lease_token_hash TEXT NOT NULL DEFAULT '', lease_taken_at   INTEGER, lease_expires_at INTEGER, has_disk INTEGER NOT NULL DEFAULT 0 CHECK (has_disk IN (0, 1))) STRICT;
INSERT INTO desktops VALUES('dt-running2222222222','usr-7k3m9q2w5x8r4t6y','läuft','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,1,'run','','',1767323645678901234,1767324245678901234,NULL,'{}','{}','Änne','usr-7k3m9q2w5x8r4t6y','key-bbbbbbbbbbbbbbbb','0123abcd',1767326645678901234,1767326945678901234,1);
INSERT INTO desktops VALUES('dt-booting2222222222','usr-7k3m9q2w5x8r4t6y','boots','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'run','start','',1767323705678901234,1767324305678901234,NULL,'{}','{}','','','','',NULL,NULL,0);
INSERT INTO desktops VALUES('dt-stopped2222222222','usr-7k3m9q2w5x8r4t6y','stopped','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'halt','','',1767323765678901234,1767324365678901234,NULL,'{"shell":true}','{}','','','','',NULL,NULL,0);
INSERT INTO desktops VALUES('dt-failed22222222222','usr-7k3m9q2w5x8r4t6y','failed','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'run','','The machine ended unexpectedly (crashed); start boots it again from its disk.',1767323825678901234,1767324425678901234,NULL,'{}','{}','','','','',NULL,NULL,0);
INSERT INTO desktops VALUES('dt-destroyed22222222','usr-7k3m9q2w5x8r4t6y','gone','pro','desktop','0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0','nat',4,8589934592,42949672960,0,'destroy','','',1767323885678901234,1767324485678901234,1767324845678901234,'{}','{}','','','','',NULL,NULL,0);
CREATE TABLE chat_sessions (
  id          TEXT    NOT NULL PRIMARY KEY,
  desktop_id  TEXT    NOT NULL REFERENCES desktops (id),
  title       TEXT    NOT NULL,
  fingerprint TEXT    NOT NULL, -- of the state it was left in; '' when nobody asks for it so
  created_at  INTEGER NOT NULL,
  updated_at  INTEGER NOT NULL
) STRICT;
INSERT INTO chat_sessions VALUES('ses-1','dt-running2222222222','Schreib ein Gedicht','print',1767325445678901234,1767326045678901234);
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
INSERT INTO chat_turns VALUES('turn-1','ses-1','dt-running2222222222','Schreib ein Gedicht','done','end_turn','','m','{"inputTokens":1,"cacheReadTokens":2,"cacheWriteTokens":3,"outputTokens":4}',1767325445678901234,1767325745678901234);
INSERT INTO chat_turns VALUES('turn-2','ses-1','dt-running2222222222','weiter','','','','','{"inputTokens":0,"cacheReadTokens":0,"cacheWriteTokens":0,"outputTokens":0}',1767326045678901234,NULL);
CREATE TABLE chat_messages (
  session_id TEXT    NOT NULL REFERENCES chat_sessions (id) ON DELETE CASCADE,
  number     INTEGER NOT NULL,
  turn_id    TEXT    NOT NULL REFERENCES chat_turns (id) ON DELETE CASCADE,
  body       TEXT    NOT NULL, -- JSON, the pictures without their data
  PRIMARY KEY (session_id, number)
) STRICT;
INSERT INTO chat_messages VALUES('ses-1',1,'turn-1','{"role":"user","parts":[{"text":"Schreib ein Gedicht"},{"picture":{"mediaType":"image/png","data":null,"width":5,"height":6}}]}');
INSERT INTO chat_messages VALUES('ses-1',2,'turn-1','{"role":"assistant","parts":[{"call":{"id":"c1","tool":"bash","arguments":{"command":"ls"},"format":"gemini"}}]}');
CREATE TABLE chat_pictures (
  session_id TEXT    NOT NULL,
  message    INTEGER NOT NULL,
  part       INTEGER NOT NULL,
  data       BLOB, -- NULL when it has been forgotten
  PRIMARY KEY (session_id, message, part),
  FOREIGN KEY (session_id, message) REFERENCES chat_messages (session_id, number) ON DELETE CASCADE
) STRICT;
INSERT INTO chat_pictures VALUES('ses-1',1,1,X'89504e470d0a1a0a0070696374757265');
CREATE TABLE chat_steps (
  turn_id TEXT    NOT NULL REFERENCES chat_turns (id) ON DELETE CASCADE,
  number  INTEGER NOT NULL,
  body    TEXT    NOT NULL, -- JSON
  PRIMARY KEY (turn_id, number)
) STRICT;
INSERT INTO chat_steps VALUES('turn-1',1,'{"number":1,"tool":"bash","arguments":{"command":"ls"},"result":"töpfe","at":"2026-01-02T03:45:05.678901234Z","durationMs":1.5}');
CREATE TABLE chat_events (
  turn_id TEXT    NOT NULL REFERENCES chat_turns (id) ON DELETE CASCADE,
  number  INTEGER NOT NULL,
  kind    TEXT    NOT NULL,
  data    TEXT    NOT NULL, -- JSON
  PRIMARY KEY (turn_id, number)
) STRICT;
INSERT INTO chat_events VALUES('turn-1',1,'turn','{"turnId":"turn-1"}');
INSERT INTO chat_events VALUES('turn-1',2,'text','{"text":"I "}');
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
INSERT INTO chat_approvals VALUES('apr-1','dt-running2222222222','ses-1','turn-1',1,'bash','{"command":"rm x"}','it is a shell command','approved',1767325505678901234,1767326105678901234,1767325565678901234);
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
INSERT INTO providers VALUES('prv-1','usr-7k3m9q2w5x8r4t6y',NULL,'One','openai','https://x.example/v1','m','n','',X'0001ff27','cdef',1,0,1767326045678901234,1767326105678901234);
INSERT INTO providers VALUES('prv-2',NULL,NULL,'the appliance''s','anthropic','https://y.example','m','','',X'','',0,0,1767326045678901234,1767326105678901234);
INSERT INTO providers VALUES('prv-3','usr-7k3m9q2w5x8r4t6y','dt-running2222222222','own','gemini','https://z.example','g','','',X'09','',0,1767326165678901234,1767326045678901234,1767326105678901234);
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
INSERT INTO usage VALUES('usr-7k3m9q2w5x8r4t6y',1767322800,'dt-running2222222222','prv-1','openai','m',3,100,20,5,70);
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
INSERT INTO idempotency VALUES('key-1',X'00112233445566778899aabbccddeeff',X'ffeeddccbbaa99887766554433221100','','dt-stopped2222222222',201,'{"Location":["/v1/desktops/dt-stopped2222222222"]}',X'7b226e616d65223a2274c3b6706665227d',1764000000000000000,4102444800000000000);
CREATE UNIQUE INDEX users_email ON users (lower(email));
CREATE INDEX api_keys_user ON api_keys (user_id, created_at, id);
CREATE INDEX desktops_alive ON desktops (created_at, id) WHERE destroyed_at IS NULL;
CREATE INDEX desktops_owner ON desktops (owner, created_at, id) WHERE destroyed_at IS NULL;
CREATE INDEX chat_sessions_desktop ON chat_sessions (desktop_id, updated_at, id);
CREATE INDEX chat_sessions_fingerprint ON chat_sessions (desktop_id, fingerprint) WHERE fingerprint <> '';
CREATE INDEX chat_turns_session ON chat_turns (session_id, created_at, id);
CREATE UNIQUE INDEX chat_turns_open ON chat_turns (desktop_id) WHERE ended_at IS NULL;
CREATE INDEX chat_turns_ended ON chat_turns (desktop_id, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX chat_approvals_desktop ON chat_approvals (desktop_id, created_at, id);
CREATE INDEX chat_approvals_turn ON chat_approvals (turn_id);
CREATE UNIQUE INDEX providers_name ON providers (coalesce(owner, ''), lower(name)) WHERE desktop IS NULL;
CREATE UNIQUE INDEX providers_desktop ON providers (desktop) WHERE desktop IS NOT NULL;
CREATE INDEX usage_desktop ON usage (desktop, hour);
CREATE INDEX idempotency_expiry ON idempotency (expires_at);
COMMIT;
