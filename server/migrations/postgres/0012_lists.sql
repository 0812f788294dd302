-- Compared by bytes, as on SQLite.
ALTER TABLE secrets ALTER COLUMN hint TYPE TEXT COLLATE "C";

-- Sorting and filtering of lists. What a key lacks sorts after everything (no expiry) or before everything (never used).
CREATE INDEX keys_by_name ON keys (name_folded, id);
CREATE INDEX keys_by_expiry ON keys ((COALESCE(expires_at, 9223372036854775807)), id);
CREATE INDEX keys_by_use ON keys ((COALESCE(last_used_at, -1)), id);
CREATE INDEX keys_by_idle ON keys ((COALESCE(last_used_at, created_at)), id);
CREATE INDEX keys_low_on_credits ON keys (created_at, id) WHERE credits IS NOT NULL AND spent * 10 >= credits * 9;
CREATE INDEX keys_revoked ON keys (created_at, id) WHERE revoked_at IS NOT NULL;
CREATE INDEX secrets_leaked ON secrets (key_id) WHERE leaked_at IS NOT NULL;
CREATE INDEX secrets_rotated_out ON secrets (not_after, key_id) WHERE not_after IS NOT NULL;
CREATE INDEX secrets_by_hint ON secrets (hint, key_id);
CREATE INDEX audit_by_actor ON audit (actor, sequence);
CREATE INDEX audit_by_action ON audit (action, sequence);
CREATE INDEX audit_by_time ON audit (at, sequence);
