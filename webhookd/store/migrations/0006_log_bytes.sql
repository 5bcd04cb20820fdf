-- About how much each workspace's log takes, for retention and quotas: the triggers count every row that comes or goes.  An
-- event counts 200 bytes and its body, a delivery 400, a failed attempt 100 and its record: rows with their indexes, as
-- measured.  `EVENT_BYTES` and `DELIVERY_BYTES` in `store/workspaces.py` are the same.
ALTER TABLE workspaces ADD COLUMN log_bytes INTEGER NOT NULL DEFAULT 0;

-- Adding up in one pass, without sorting what may be millions of rows.
CREATE TEMP TABLE counted (workspace_seq INTEGER PRIMARY KEY, bytes INTEGER NOT NULL);
INSERT INTO temp.counted SELECT workspace_seq, 200 + coalesce(length(body), 0) FROM events NOT INDEXED WHERE true
  ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
INSERT INTO temp.counted SELECT e.workspace_seq, 400 FROM deliveries d NOT INDEXED CROSS JOIN endpoints e
  ON e.seq = d.endpoint_seq WHERE true ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
INSERT INTO temp.counted SELECT workspace_seq, 100 + length(record) FROM attempts NOT INDEXED WHERE true
  ON CONFLICT DO UPDATE SET bytes = bytes + excluded.bytes;
UPDATE workspaces SET log_bytes = c.bytes FROM temp.counted c WHERE c.workspace_seq = workspaces.seq;
DROP TABLE temp.counted;

CREATE TRIGGER events_come AFTER INSERT ON events BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + 200 + coalesce(length(NEW.body), 0) WHERE seq = NEW.workspace_seq;
END;
CREATE TRIGGER events_shrink AFTER UPDATE OF body ON events BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + coalesce(length(NEW.body), 0) - coalesce(length(OLD.body), 0)
    WHERE seq = NEW.workspace_seq;
END;
CREATE TRIGGER events_go AFTER DELETE ON events BEGIN
  UPDATE workspaces SET log_bytes = log_bytes - 200 - coalesce(length(OLD.body), 0) WHERE seq = OLD.workspace_seq;
END;
CREATE TRIGGER deliveries_come AFTER INSERT ON deliveries BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + 400
    WHERE seq = (SELECT workspace_seq FROM endpoints WHERE seq = NEW.endpoint_seq);
END;
CREATE TRIGGER deliveries_go AFTER DELETE ON deliveries BEGIN
  UPDATE workspaces SET log_bytes = log_bytes - 400
    WHERE seq = (SELECT workspace_seq FROM endpoints WHERE seq = OLD.endpoint_seq);
END;
CREATE TRIGGER attempts_come AFTER INSERT ON attempts BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + 100 + length(NEW.record) WHERE seq = NEW.workspace_seq;
END;
CREATE TRIGGER attempts_go AFTER DELETE ON attempts BEGIN
  UPDATE workspaces SET log_bytes = log_bytes - 100 - length(OLD.record) WHERE seq = OLD.workspace_seq;
END;

-- A workspace's oldest ids, which go when its log is too large.
CREATE INDEX events_remembered_by_workspace ON events (workspace_seq, accepted_at) WHERE body IS NULL;
