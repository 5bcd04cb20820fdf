-- Addresses for a workspace's notices that its own admin gave and that have yet to confirm it, by the hash of the link's code.
-- A row stays until it expires: it counts for how many were asked in the last hour.
CREATE TABLE confirmations (
  code_sha256    BLOB    PRIMARY KEY,
  workspace_seq  INTEGER NOT NULL REFERENCES workspaces (seq) ON DELETE CASCADE,
  address        TEXT    NOT NULL,
  asked_at       INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL,
  done           INTEGER NOT NULL DEFAULT 0       -- 1: confirmed or withdrawn
) STRICT, WITHOUT ROWID;
CREATE INDEX confirmations_by_workspace ON confirmations (workspace_seq, asked_at);
