-- What a key may use and how many credits it begins with, under a name of its own.
CREATE TABLE plans (
    id         TEXT   NOT NULL PRIMARY KEY,
    -- A list such as ["10/s"], or NULL for the dialect's default.
    limits     TEXT,
    -- What a key of the plan begins with that names no credits of its own; NULL does not bound it.
    credits    BIGINT,
    created_at BIGINT NOT NULL,
    -- Counts the changes, for conditional requests.
    version    BIGINT NOT NULL
);

-- user, team or organization; NULL where nobody has said.
ALTER TABLE owners ADD COLUMN kind TEXT;
ALTER TABLE owners ADD COLUMN version BIGINT NOT NULL DEFAULT 1;

-- Who it is for, among those who belong to the owner.
ALTER TABLE keys ADD COLUMN member TEXT;
ALTER TABLE keys ADD COLUMN plan TEXT REFERENCES plans (id);
-- An object whose values are texts.
ALTER TABLE keys ADD COLUMN metadata TEXT NOT NULL DEFAULT '{}';
-- How much it may spend altogether; NULL does not bound it.
ALTER TABLE keys ADD COLUMN credits BIGINT;
ALTER TABLE keys ADD COLUMN spent BIGINT NOT NULL DEFAULT 0;
ALTER TABLE keys ADD COLUMN last_used_at BIGINT;
ALTER TABLE keys ADD COLUMN version BIGINT NOT NULL DEFAULT 1;

CREATE INDEX keys_by_plan ON keys (plan);
CREATE INDEX keys_by_member ON keys (owner, member) WHERE member IS NOT NULL;

-- A password hash, where only that is kept: a PHC string or bcrypt's own. The digest is then the selector's address.
ALTER TABLE secrets ADD COLUMN hash TEXT;
ALTER TABLE secrets ADD COLUMN last_used_at BIGINT;
-- When it was reported as found in public.
ALTER TABLE secrets ADD COLUMN leaked_at BIGINT;

-- Who did what, in order; nothing in it is ever changed or removed.
CREATE TABLE audit (
    sequence BIGINT NOT NULL PRIMARY KEY,
    at       BIGINT NOT NULL,
    -- Who: a token, a key, a webhook, or the server itself.
    actor    TEXT   NOT NULL,
    -- What, such as key.revoked.
    action   TEXT   NOT NULL,
    -- The id of what it was done to.
    subject  TEXT   NOT NULL,
    -- An object.
    details  TEXT   NOT NULL
);

CREATE INDEX audit_by_subject ON audit (subject, sequence);

-- Requests that must not be carried out twice, by the digest of their Idempotency-Key.
CREATE TABLE idempotency (
    digest      BLOB   NOT NULL PRIMARY KEY,
    -- Of the request, so that another one under the same key is noticed.
    fingerprint BLOB   NOT NULL,
    key_id      TEXT   NOT NULL REFERENCES keys (id),
    secret_id   TEXT   NOT NULL REFERENCES secrets (id),
    -- With the Idempotency-Key itself, what the plaintext was drawn from.
    salt        BLOB   NOT NULL,
    created_at  BIGINT NOT NULL
);

CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- Tokens of operators and edges that were made over the API.
CREATE TABLE tokens (
    id           TEXT   NOT NULL PRIMARY KEY,
    name         TEXT   NOT NULL,
    digest       BLOB   NOT NULL UNIQUE,
    -- read, write or edge.
    scope        TEXT   NOT NULL,
    created_at   BIGINT NOT NULL,
    expires_at   BIGINT,
    revoked_at   BIGINT,
    last_used_at BIGINT
);

-- The batches of usage that were taken, so that one that is sent again counts once.
CREATE TABLE usage_batches (
    id          BLOB   NOT NULL PRIMARY KEY,
    received_at BIGINT NOT NULL
);

CREATE INDEX usage_batches_by_age ON usage_batches (received_at);

-- Requests by hour (since the Unix epoch) and verdict; those that no key could be found for have no key_id.
CREATE TABLE usage (
    key_id   TEXT   NOT NULL,
    hour     BIGINT NOT NULL,
    verdict  TEXT   NOT NULL,
    requests BIGINT NOT NULL,
    PRIMARY KEY (key_id, hour, verdict)
);

CREATE INDEX usage_by_hour ON usage (hour);

CREATE TRIGGER audit_is_not_changed BEFORE UPDATE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;

CREATE TRIGGER audit_is_not_removed BEFORE DELETE ON audit
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
