-- What failed and is tried again: few rows, which enter by a failure alone, so an event that is delivered at once pays nothing.
CREATE INDEX deliveries_retrying ON deliveries (endpoint_seq, seq, accepted_at, event_type)
  WHERE state = 0 AND attempt_count > 0;
