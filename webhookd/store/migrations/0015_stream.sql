-- In a cluster (`webhookd.cluster`) the partition's stream is the truth: up to which sequence it is applied here, and where in
-- it each event stood.  Both are written in the transaction that applies them; a single daemon has no rows here.
CREATE TABLE stream (applied INTEGER NOT NULL) STRICT;
CREATE TABLE stream_events (
  event_seq  INTEGER PRIMARY KEY REFERENCES events (seq) ON DELETE CASCADE,
  position   INTEGER NOT NULL                     -- 1024 times the sequence, and the place in its batch
) STRICT;
