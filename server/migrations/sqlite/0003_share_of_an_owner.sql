-- When all of what an owner's keys may make by self-service is there again; NULL where none of it was ever used.
ALTER TABLE owners ADD COLUMN share_full_at BIGINT;
