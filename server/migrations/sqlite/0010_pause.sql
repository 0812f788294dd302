-- Since when the key is paused, and who paused it: operator or self_service. Both are NULL unless it is paused.
ALTER TABLE keys ADD COLUMN paused_at BIGINT;
ALTER TABLE keys ADD COLUMN paused_by TEXT;
CREATE INDEX keys_paused ON keys (created_at, id) WHERE paused_at IS NOT NULL;
