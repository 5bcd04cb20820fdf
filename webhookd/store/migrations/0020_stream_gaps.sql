-- In a cluster: messages of the partition's stream that were left out when it was taken over with an empty disk.  They are read
-- later, the newest first, so that their events' ids are known; up to which sequence they are yet to be read.
CREATE TABLE stream_gaps (
  after  INTEGER PRIMARY KEY,
  upto   INTEGER NOT NULL
) STRICT;
