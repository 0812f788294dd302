-- The name as searches compare it, since SQL's LOWER differs between databases. The server fills it in for keys that are there.
ALTER TABLE keys ADD COLUMN name_folded TEXT;
CREATE INDEX keys_not_folded ON keys (id) WHERE name_folded IS NULL;
