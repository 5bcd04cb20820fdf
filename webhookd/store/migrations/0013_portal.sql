-- A workspace's mails have a language.
ALTER TABLE workspaces ADD COLUMN language TEXT NOT NULL DEFAULT 'en';

-- Links into the portal, each by the hash of its code: it signs in once, to one workspace, by the right of the token that made it.
CREATE TABLE portal_links (
  code_sha256    BLOB    PRIMARY KEY,
  token_id       TEXT    NOT NULL REFERENCES tokens (id) ON DELETE CASCADE,
  token_sha256   BLOB    NOT NULL,
  workspace_seq  INTEGER NOT NULL REFERENCES workspaces (seq) ON DELETE CASCADE,
  read_only      INTEGER NOT NULL,
  language       TEXT    NOT NULL,                -- "": the reader's own
  return_url     TEXT    NOT NULL,                -- "": none
  created_at     INTEGER NOT NULL,
  expires_at     INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX portal_links_by_workspace ON portal_links (workspace_seq, created_at);

-- A session of the portal has rights in this workspace alone, whatever its token has; NULL: an ordinary session.
ALTER TABLE sessions ADD COLUMN workspace_seq INTEGER REFERENCES workspaces (seq) ON DELETE CASCADE;
ALTER TABLE sessions ADD COLUMN read_only INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN language TEXT NOT NULL DEFAULT '';
ALTER TABLE sessions ADD COLUMN return_url TEXT NOT NULL DEFAULT '';
