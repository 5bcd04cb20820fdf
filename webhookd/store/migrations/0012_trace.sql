-- The trace context that an event came with: traceparent, after a line feed tracestate.  NULL: none.
ALTER TABLE events ADD COLUMN trace TEXT;
