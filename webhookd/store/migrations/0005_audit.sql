-- Who changed what, and who was refused: kept by itself (`retention.audit_days`), so no key leads elsewhere.
CREATE TABLE audit (
  seq            INTEGER PRIMARY KEY AUTOINCREMENT,
  at             INTEGER NOT NULL,
  workspace_seq  INTEGER,                         -- NULL: it concerns the whole of webhookd
  workspace      TEXT,                            -- its id at that time
  token_id       TEXT,
  session_id     TEXT,                            -- where it was done on the page
  address        TEXT    NOT NULL,                -- of the caller
  action         TEXT    NOT NULL,
  target         TEXT    NOT NULL,                -- the path, with the id of what was made
  outcome        TEXT    NOT NULL                 -- "done", or the code of the refusal
) STRICT;
CREATE INDEX audit_by_workspace ON audit (workspace_seq, seq);
CREATE INDEX audit_by_time ON audit (at);
