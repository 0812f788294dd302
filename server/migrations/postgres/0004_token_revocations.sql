-- How many tokens were revoked: servers that share the database see by it that streams of such tokens have to end.
ALTER TABLE head ADD COLUMN token_revocations BIGINT NOT NULL DEFAULT 0;
