-- Since when the endpoint's events were held when a mail said that they will expire, and that the first did: one each.
ALTER TABLE endpoints ADD COLUMN expiring_told INTEGER;
ALTER TABLE endpoints ADD COLUMN expired_told INTEGER;
