-- Filters (`rules/filters.py`): patterns by event type, as JSON; '' for none.
ALTER TABLE endpoints ADD COLUMN filters TEXT NOT NULL DEFAULT '';
ALTER TABLE endpoints ADD COLUMN selected_at INTEGER NOT NULL DEFAULT 0;  -- since when event types and filters are as they are
ALTER TABLE subscriptions ADD COLUMN filter TEXT;                         -- the id of the endpoint's filters; NULL: it has none
UPDATE endpoints SET selected_at = updated_at;
