-- Counting 256 large events took 70 ms: a sum grouped straight from the table sorts rows with their bodies.
DROP TRIGGER counted_moves;
CREATE TRIGGER counted_moves AFTER UPDATE ON counted BEGIN
  UPDATE workspaces SET log_bytes = log_bytes + more.bytes FROM (
    WITH lengths AS MATERIALIZED (
      SELECT workspace_seq, 200 + coalesce(length(body), 0) AS bytes FROM events WHERE seq > OLD.event_seq AND seq <= NEW.event_seq
    ) SELECT workspace_seq, sum(bytes) AS bytes FROM lengths GROUP BY workspace_seq
  ) more WHERE more.workspace_seq = workspaces.seq;
  UPDATE workspaces SET log_bytes = log_bytes + more.bytes FROM (
    SELECT e.workspace_seq, 400 * count(*) AS bytes FROM deliveries d NOT INDEXED CROSS JOIN endpoints e ON e.seq = d.endpoint_seq
    WHERE d.seq > OLD.delivery_seq AND d.seq <= NEW.delivery_seq GROUP BY e.workspace_seq
  ) more WHERE more.workspace_seq = workspaces.seq;
END;
