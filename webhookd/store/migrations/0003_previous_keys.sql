-- Each replaced key signs until its own overlap ends, however often the key is rotated meanwhile.
ALTER TABLE endpoints ADD COLUMN previous_keys TEXT NOT NULL DEFAULT '[]';  -- JSON array of [key, until], newest first
UPDATE endpoints SET previous_keys = json_array(json_array(previous_key, previous_key_until))
  WHERE previous_key IS NOT NULL AND previous_key_until IS NOT NULL;
ALTER TABLE endpoints DROP COLUMN previous_key;
ALTER TABLE endpoints DROP COLUMN previous_key_until;
