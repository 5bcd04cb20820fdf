-- A database of the first version, as `sqlite3 .dump` shows it; frozen: migrations have to take it as it is.
PRAGMA page_size = 8192;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA application_id = 2003331940;
CREATE TABLE attempts (
  seq            INTEGER PRIMARY KEY AUTOINCREMENT,
  delivery_seq   INTEGER NOT NULL,
  endpoint_seq   INTEGER NOT NULL,
  workspace_seq  INTEGER NOT NULL,
  ended_at       INTEGER NOT NULL,
  counted        INTEGER NOT NULL,                -- 1 if it counts against the failure budget
  record         BLOB    NOT NULL                 -- the attempt as the API shows it, JSON
) STRICT;
CREATE TABLE deliveries (
  seq              INTEGER PRIMARY KEY AUTOINCREMENT,
  event_seq        INTEGER NOT NULL REFERENCES events (seq),
  endpoint_seq     INTEGER NOT NULL,
  event_type       TEXT    NOT NULL,
  state            INTEGER NOT NULL DEFAULT 0,    -- 0 pending 1 delivered 2 dropped 3 expired 4 skipped 5 cancelled
  kind             INTEGER NOT NULL DEFAULT 0,    -- 0 an event's own 1 replay 2 test
  size             INTEGER NOT NULL,              -- bytes of the body
  replay_of        INTEGER,                       -- the delivery that was replayed
  accepted_at      INTEGER NOT NULL,
  attempt_count    INTEGER NOT NULL DEFAULT 0,    -- all attempts ever
  tries            INTEGER NOT NULL DEFAULT 0,    -- attempts of the present schedule
  next_attempt_at  INTEGER,
  finished_at      INTEGER,
  final_attempt    BLOB                           -- the attempt that delivered it, as JSON; failed ones are in `attempts`
) STRICT;
INSERT INTO "deliveries" VALUES(1,1,1,'message.sent',0,0,29,NULL,5000,0,0,NULL,NULL,NULL);
INSERT INTO "deliveries" VALUES(2,2,1,'message.sent',0,0,29,NULL,6000,0,0,NULL,NULL,NULL);
INSERT INTO "deliveries" VALUES(3,3,1,'message.sent',0,0,29,NULL,2000,0,0,NULL,NULL,NULL);
INSERT INTO "deliveries" VALUES(4,4,1,'message.sent',0,0,29,NULL,3000,0,0,NULL,NULL,NULL);
CREATE TABLE endpoints (
  seq                 INTEGER PRIMARY KEY AUTOINCREMENT,
  id                  TEXT    NOT NULL UNIQUE,
  workspace_seq       INTEGER NOT NULL REFERENCES workspaces (seq),
  url                 TEXT    NOT NULL,
  event_types         TEXT    NOT NULL,           -- JSON array; the truth for people, `subscriptions` for the machine
  description         TEXT    NOT NULL,
  success             TEXT    NOT NULL,           -- '200' or '2xx'
  headers             TEXT    NOT NULL,           -- JSON array of [name, value]
  signing_key         TEXT    NOT NULL,
  previous_key        TEXT,
  previous_key_until  INTEGER,
  state               TEXT    NOT NULL,
  disabled_reason     TEXT,
  disabled_at         INTEGER,
  disabled_message    TEXT,
  skipped_upto        INTEGER NOT NULL DEFAULT 0, -- deliveries up to here were skipped by a person; rows follow
  forgiven_upto       INTEGER NOT NULL DEFAULT 0, -- attempts up to here don't count against the budget any more
  created_at          INTEGER NOT NULL,
  updated_at          INTEGER NOT NULL,
  deleted_at          INTEGER                     -- its waiting deliveries are cancelled by this; rows follow
) STRICT;
INSERT INTO "endpoints" VALUES(1,'ep_01arz3ndektsv4rrffq69g5fav',1,'https://example.com/hook','["*"]','','200','[]','whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw',NULL,NULL,'active',NULL,NULL,NULL,0,0,1000,1000,NULL);
CREATE TABLE events (
  seq            INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace_seq  INTEGER NOT NULL,
  id             TEXT    NOT NULL,
  type           TEXT    NOT NULL,
  accepted_at    INTEGER NOT NULL,
  body_sha256    BLOB,                            -- set when the body is pruned before the id may be forgotten
  body           BLOB,
  UNIQUE (workspace_seq, id)
) STRICT;
INSERT INTO "events" VALUES(1,1,'old-1','message.sent',5000,NULL,X'7B226576656E745F74797065223A226D6573736167652E73656E74227D');
INSERT INTO "events" VALUES(2,1,'old-2','message.sent',6000,NULL,X'7B226576656E745F74797065223A226D6573736167652E73656E74227D');
INSERT INTO "events" VALUES(3,1,'old-3','message.sent',2000,NULL,X'7B226576656E745F74797065223A226D6573736167652E73656E74227D');
INSERT INTO "events" VALUES(4,1,'old-4','message.sent',3000,NULL,X'7B226576656E745F74797065223A226D6573736167652E73656E74227D');
CREATE TABLE outbox (
  seq           INTEGER PRIMARY KEY AUTOINCREMENT,
  workspace_seq INTEGER NOT NULL,
  kind          TEXT    NOT NULL,
  created_at    INTEGER NOT NULL,
  message_id    TEXT    NOT NULL,
  digest_of     INTEGER,                          -- the row whose mail carries this one (itself, if it is the first)
  tried         INTEGER NOT NULL DEFAULT 0,
  last_error    TEXT,
  sent_at       INTEGER,                          -- when the mail server took it, or when it was given up
  payload       TEXT    NOT NULL,                 -- JSON: the facts that the mail tells
  envelope      TEXT                              -- JSON: the mail as it may have been taken already (of the first row)
) STRICT;
CREATE TABLE sessions (
  secret_sha256  BLOB    PRIMARY KEY,
  token_sha256   BLOB    NOT NULL,
  expires_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE subscriptions (
  workspace_seq  INTEGER NOT NULL,
  event_type     TEXT    NOT NULL,                -- '*' is every type
  endpoint_seq   INTEGER NOT NULL,
  PRIMARY KEY (workspace_seq, event_type, endpoint_seq)
) STRICT, WITHOUT ROWID;
INSERT INTO "subscriptions" VALUES(1,'*',1);
CREATE TABLE tokens (
  id             TEXT    PRIMARY KEY,
  scope          TEXT    NOT NULL,
  workspace_seq  INTEGER,                         -- NULL: every workspace
  secret_sha256  BLOB    NOT NULL UNIQUE,
  note           TEXT    NOT NULL,
  created_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE workspaces (
  seq              INTEGER PRIMARY KEY AUTOINCREMENT,
  id               TEXT    NOT NULL,
  name             TEXT    NOT NULL,
  plan             TEXT    NOT NULL,
  notify           TEXT    NOT NULL,              -- JSON array of mail addresses
  created_at       INTEGER NOT NULL,
  plan_changed_at  INTEGER NOT NULL,
  deleted_at       INTEGER
) STRICT;
INSERT INTO "workspaces" VALUES(1,'default','Default','advanced','[]',1000,1000,NULL);
CREATE UNIQUE INDEX workspaces_by_id ON workspaces (id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX endpoints_by_url ON endpoints (workspace_seq, url) WHERE deleted_at IS NULL;
CREATE INDEX endpoints_by_workspace ON endpoints (workspace_seq);
CREATE INDEX subscriptions_by_endpoint ON subscriptions (endpoint_seq);
CREATE INDEX events_remembered ON events (accepted_at) WHERE body IS NULL;
CREATE INDEX events_log ON events (workspace_seq, seq, accepted_at, type) WHERE body IS NOT NULL;
CREATE INDEX deliveries_waiting ON deliveries (endpoint_seq, seq, size, accepted_at, event_type) WHERE state = 0;
CREATE INDEX deliveries_log ON deliveries (endpoint_seq, state, seq, accepted_at, event_type) WHERE state <> 0;
CREATE INDEX deliveries_by_event ON deliveries (event_seq);
CREATE INDEX attempts_by_delivery ON attempts (delivery_seq);
CREATE INDEX attempts_by_endpoint ON attempts (endpoint_seq);
CREATE INDEX attempts_counted ON attempts (ended_at) WHERE counted = 1;
CREATE INDEX outbox_unsent ON outbox (seq) WHERE sent_at IS NULL;
CREATE INDEX outbox_by_digest ON outbox (digest_of) WHERE sent_at IS NULL;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('workspaces',1);
INSERT INTO "sqlite_sequence" VALUES('endpoints',1);
INSERT INTO "sqlite_sequence" VALUES('events',4);
INSERT INTO "sqlite_sequence" VALUES('deliveries',4);
PRAGMA user_version = 1;
