-- Order by key: `null`, or the path of the key, the number of lanes, and up to which deliveries an earlier way holds.
ALTER TABLE endpoints ADD COLUMN ordering TEXT NOT NULL DEFAULT 'null';
ALTER TABLE subscriptions ADD COLUMN order_key TEXT;           -- the path; NULL: the endpoint's events go one by one
ALTER TABLE deliveries ADD COLUMN lane_hash INTEGER;           -- of the key (`rules/ordering.py`), if it was ordered by one
ALTER TABLE deliveries ADD COLUMN sequence INTEGER;            -- counts the endpoint's deliveries that have a hash
-- What waits, by hash, and everything by hash: a lane finds its next one, and the one before it.
CREATE INDEX deliveries_lanes_waiting ON deliveries (endpoint_seq, lane_hash, seq)
  WHERE state = 0 AND lane_hash IS NOT NULL;
CREATE INDEX deliveries_lanes ON deliveries (endpoint_seq, lane_hash, seq) WHERE lane_hash IS NOT NULL;

CREATE TABLE sequences (
  endpoint_seq  INTEGER PRIMARY KEY REFERENCES endpoints (seq) ON DELETE CASCADE,
  newest        INTEGER NOT NULL
) STRICT;
CREATE TRIGGER deliveries_in_sequence AFTER INSERT ON deliveries WHEN NEW.lane_hash IS NOT NULL BEGIN
  INSERT INTO sequences (endpoint_seq, newest) VALUES (NEW.endpoint_seq, 1)
    ON CONFLICT (endpoint_seq) DO UPDATE SET newest = newest + 1;
  UPDATE deliveries SET sequence = (SELECT newest FROM sequences WHERE endpoint_seq = NEW.endpoint_seq)
    WHERE seq = NEW.seq;
END;
