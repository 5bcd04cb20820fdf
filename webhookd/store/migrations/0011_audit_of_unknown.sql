-- Refused secrets of unknown callers have a number of entries of their own, so that they push out nothing else.
CREATE INDEX audit_of_unknown ON audit (seq) WHERE token_id IS NULL;
