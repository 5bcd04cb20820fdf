-- When a digest's mail first reached anybody (of its first row): so many an hour go to a workspace.
ALTER TABLE outbox ADD COLUMN reached_at INTEGER;
CREATE INDEX outbox_reached ON outbox (workspace_seq, reached_at) WHERE reached_at IS NOT NULL;
