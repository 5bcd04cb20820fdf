-- A workspace's events that have a body, with what they are searched by.  The newest ones aren't here yet: they come together, when
-- they are counted (`counted`), because an index that each event enters by itself costs a page each.
CREATE TABLE event_log (
  workspace_seq  INTEGER NOT NULL,
  event_seq      INTEGER NOT NULL,
  accepted_at    INTEGER NOT NULL,
  type           TEXT    NOT NULL,
  PRIMARY KEY (workspace_seq, event_seq)
) STRICT, WITHOUT ROWID;
INSERT INTO event_log SELECT workspace_seq, seq, accepted_at, type FROM events INDEXED BY events_log
  WHERE body IS NOT NULL AND seq <= (SELECT event_seq FROM counted) ORDER BY workspace_seq, seq;
DROP INDEX events_log;

CREATE TRIGGER counted_events AFTER UPDATE OF event_seq ON counted BEGIN
  INSERT INTO event_log SELECT workspace_seq, seq, accepted_at, type FROM events
    WHERE seq > OLD.event_seq AND seq <= NEW.event_seq AND body IS NOT NULL;
END;
CREATE TRIGGER events_pruned AFTER UPDATE OF body ON events WHEN NEW.body IS NULL BEGIN
  DELETE FROM event_log WHERE workspace_seq = NEW.workspace_seq AND event_seq = NEW.seq;
END;
CREATE TRIGGER events_leave AFTER DELETE ON events BEGIN
  DELETE FROM event_log WHERE workspace_seq = OLD.workspace_seq AND event_seq = OLD.seq;
END;
