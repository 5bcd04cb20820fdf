-- How an endpoint's requests are signed over the body alone, in `X-Webhook-Signature`.
ALTER TABLE endpoints ADD COLUMN x_webhook_signature INTEGER NOT NULL DEFAULT 1;       -- 0: sent without that header
ALTER TABLE endpoints ADD COLUMN x_webhook_signature_key TEXT NOT NULL DEFAULT 'null'; -- JSON: a key of its own, or null
