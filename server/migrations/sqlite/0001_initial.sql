-- Times are milliseconds since the Unix epoch. Lists are JSON texts. Only portable SQL, so that another database can
-- take the same schema.

CREATE TABLE owners (
    id          TEXT    NOT NULL PRIMARY KEY,
    disabled    BOOLEAN NOT NULL,
    -- A list, or NULL where nothing bounds the owner's keys.
    permissions TEXT,
    created_at  BIGINT  NOT NULL
);

CREATE TABLE keys (
    id          TEXT   NOT NULL PRIMARY KEY,
    name        TEXT   NOT NULL,
    owner       TEXT   REFERENCES owners (id),
    kind        TEXT   NOT NULL,
    environment TEXT,
    scopes      TEXT   NOT NULL,
    allow_ip    TEXT   NOT NULL,
    -- A list such as ["10/s"], or NULL for the dialect's default.
    limits      TEXT,
    created_at  BIGINT NOT NULL,
    expires_at  BIGINT,
    revoked_at  BIGINT
);

CREATE INDEX keys_by_age ON keys (created_at, id);
CREATE INDEX keys_by_owner ON keys (owner, created_at, id);

CREATE TABLE secrets (
    id         TEXT    NOT NULL PRIMARY KEY,
    key_id     TEXT    NOT NULL REFERENCES keys (id),
    digest     BLOB    NOT NULL UNIQUE,
    hint       TEXT    NOT NULL,
    created_at BIGINT  NOT NULL,
    not_after  BIGINT,
    -- Whether the edges were told to forget it; it then never returns to the feed.
    forgotten  BOOLEAN NOT NULL
);

CREATE INDEX secrets_by_key ON secrets (key_id, created_at);

-- The end of the feed: one row. Whoever writes holds it until commit, so that the feed's order is commit order.
CREATE TABLE head (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch    BIGINT  NOT NULL,
    sequence BIGINT  NOT NULL,
    chain    BLOB    NOT NULL
);

-- The current state of every subject, encoded as it is sent.
CREATE TABLE edge_entries (
    subject BLOB    NOT NULL PRIMARY KEY,
    version BIGINT  NOT NULL,
    entry   BLOB    NOT NULL,
    removed BOOLEAN NOT NULL
);

CREATE INDEX edge_entries_removed ON edge_entries (version) WHERE removed;

-- What changed in which order; the log is cut from behind.
CREATE TABLE feed (
    sequence BIGINT NOT NULL PRIMARY KEY,
    subject  BLOB   NOT NULL,
    chain    BLOB   NOT NULL
);
