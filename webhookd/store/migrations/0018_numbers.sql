-- An event writes as few pages as it can: neither the last number given nor what it takes of its workspace's log is written with
-- each.  `counted`: up to which numbers rows are counted in `log_bytes`, which moving it does.  Numbers up to there are taken as
-- well, whether or not their rows are still there: the next one is one more than that and than the newest row's, so AUTOINCREMENT
-- with its page isn't needed.  What is deleted, or set aside, moves it first; otherwise it moves every so many rows.
CREATE TABLE counted (
  event_seq     INTEGER NOT NULL,
  delivery_seq  INTEGER NOT NULL
) STRICT;
INSERT INTO counted SELECT coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'events'), 0),
  coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'deliveries'), 0);
-- Nothing of this is in the tables themselves (sqlite.org/lang_altertable.html#otheralter).
PRAGMA writable_schema = ON;
UPDATE sqlite_schema SET sql = replace(sql, ' AUTOINCREMENT', '') WHERE type = 'table' AND name IN ('events', 'deliveries');
PRAGMA writable_schema = RESET;
DELETE FROM sqlite_sequence WHERE name IN ('events', 'deliveries');

DROP TRIGGER events_come;
DROP TRIGGER events_shrink;
DROP TRIGGER events_go;
DROP TRIGGER deliveries_come;
DROP TRIGGER deliveries_go;
CREATE TRIGGER counted_moves AFTER UPDATE ON counted BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + more.bytes FROM (
    SELECT workspace_seq, sum(200 + coalesce(length(body), 0)) AS bytes FROM events
    WHERE seq > OLD.event_seq AND seq <= NEW.event_seq GROUP BY workspace_seq
  ) more WHERE more.workspace_seq = workspaces.seq;
  UPDATE workspaces SET log_bytes = log_bytes + more.bytes FROM (
    SELECT e.workspace_seq, 400 * count(*) AS bytes FROM deliveries d NOT INDEXED CROSS JOIN endpoints e ON e.seq = d.endpoint_seq
    WHERE d.seq > OLD.delivery_seq AND d.seq <= NEW.delivery_seq GROUP BY e.workspace_seq
  ) more WHERE more.workspace_seq = workspaces.seq;
END;
CREATE TRIGGER events_come AFTER INSERT ON events WHEN NEW.seq % 256 = 0 BEGIN
  UPDATE counted SET event_seq = NEW.seq WHERE event_seq < NEW.seq;
END;
CREATE TRIGGER events_shrink AFTER UPDATE OF body ON events WHEN NEW.seq <= (SELECT event_seq FROM counted) BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + coalesce(length(NEW.body), 0) - coalesce(length(OLD.body), 0)
    WHERE seq = NEW.workspace_seq;
END;
CREATE TRIGGER events_go AFTER DELETE ON events BEGIN
  UPDATE workspaces SET log_bytes = log_bytes - 200 - coalesce(length(OLD.body), 0)
    WHERE seq = OLD.workspace_seq AND OLD.seq <= (SELECT event_seq FROM counted);
  UPDATE counted SET event_seq = OLD.seq WHERE event_seq < OLD.seq;
END;
CREATE TRIGGER deliveries_come AFTER INSERT ON deliveries WHEN NEW.seq % 512 = 0 BEGIN
  UPDATE counted SET delivery_seq = NEW.seq WHERE delivery_seq < NEW.seq;
END;
-- With a number that was set aside: a backfill's.
CREATE TRIGGER deliveries_come_late AFTER INSERT ON deliveries WHEN NEW.kind = 3 BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + 400 WHERE seq = (SELECT workspace_seq FROM endpoints WHERE seq = NEW.endpoint_seq)
    AND NEW.seq <= (SELECT delivery_seq FROM counted);
END;
CREATE TRIGGER deliveries_go AFTER DELETE ON deliveries BEGIN
  UPDATE workspaces SET log_bytes = log_bytes - 400 WHERE seq = (SELECT workspace_seq FROM endpoints WHERE seq = OLD.endpoint_seq)
    AND OLD.seq <= (SELECT delivery_seq FROM counted);
  UPDATE counted SET delivery_seq = OLD.seq WHERE delivery_seq < OLD.seq;
END;
