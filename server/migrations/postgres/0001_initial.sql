-- Times are milliseconds since the Unix epoch. Lists are JSON texts. The same schema as for SQLite, under the same
-- number. Ids are ordered by their bytes, whatever the locale of the database.

CREATE TABLE owners (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    disabled    BOOLEAN NOT NULL,
    -- A list, or NULL where nothing bounds the owner's keys.
    permissions TEXT,
    created_at  BIGINT  NOT NULL
);

CREATE TABLE keys (
    id          TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    name        TEXT   NOT NULL,
    owner       TEXT COLLATE "C" REFERENCES owners (id),
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
    id         TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    key_id     TEXT COLLATE "C" NOT NULL REFERENCES keys (id),
    digest     BYTEA   NOT NULL UNIQUE,
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
    chain    BYTEA   NOT NULL
);

-- The current state of every subject, encoded as it is sent.
CREATE TABLE edge_entries (
    subject BYTEA   NOT NULL PRIMARY KEY,
    version BIGINT  NOT NULL,
    entry   BYTEA   NOT NULL,
    removed BOOLEAN NOT NULL
);

CREATE INDEX edge_entries_removed ON edge_entries (version) WHERE removed;

-- What changed in which order; the log is cut from behind.
CREATE TABLE feed (
    sequence BIGINT NOT NULL PRIMARY KEY,
    subject  BYTEA  NOT NULL,
    chain    BYTEA  NOT NULL
);
