-- What a token may do is stored, not inferred from a row that is missing: an unbound token says so, a bound one has the
-- number of its workspace and goes with that row.  A session belongs to its token.
CREATE TABLE new_tokens (
  id             TEXT    PRIMARY KEY,
  scope          TEXT    NOT NULL,
  unbound        INTEGER NOT NULL CHECK (unbound = (workspace_seq IS NULL)),  -- 1: good for every workspace
  workspace_seq  INTEGER REFERENCES workspaces (seq) ON DELETE CASCADE,
  secret_sha256  BLOB    NOT NULL UNIQUE,
  note           TEXT    NOT NULL,
  created_at     INTEGER NOT NULL,
  expires_at     INTEGER,                         -- NULL: never
  last_used_at   INTEGER
) STRICT, WITHOUT ROWID;
-- A token that survived its workspace is dropped here.
INSERT INTO new_tokens
  SELECT id, scope, workspace_seq IS NULL, workspace_seq, secret_sha256, note, created_at, NULL, NULL FROM tokens
  WHERE workspace_seq IS NULL OR workspace_seq IN (SELECT seq FROM workspaces WHERE deleted_at IS NULL);
DROP TABLE tokens;
ALTER TABLE new_tokens RENAME TO tokens;
CREATE INDEX tokens_by_workspace ON tokens (workspace_seq);

CREATE TABLE new_sessions (
  secret_sha256  BLOB    PRIMARY KEY,
  id             TEXT    NOT NULL UNIQUE,         -- to list and end it by
  token_id       TEXT    NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
  token_sha256   BLOB    NOT NULL,                -- of the secret at sign-in: a session ends when that is replaced
  address        TEXT    NOT NULL,                -- where it was signed in from
  created_at     INTEGER NOT NULL,
  last_used_at   INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL                 -- at the latest
) STRICT, WITHOUT ROWID;
INSERT INTO new_sessions
  SELECT s.secret_sha256, 'ses_' || lower(hex(randomblob(10))), t.id, s.token_sha256, '', s.expires_at - 43200000,
    CAST(unixepoch('subsec') * 1000 AS INTEGER), s.expires_at
  FROM sessions s JOIN tokens t ON t.secret_sha256 = s.token_sha256;
DROP TABLE sessions;
ALTER TABLE new_sessions RENAME TO sessions;
CREATE INDEX sessions_by_token ON sessions (token_id);
