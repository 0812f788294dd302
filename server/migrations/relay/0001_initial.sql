-- What a relay of the feed has: the feed's own tables, as a control plane has them, and what of the next state has come.

CREATE TABLE head (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    epoch    BIGINT  NOT NULL,
    sequence BIGINT  NOT NULL,
    chain    BLOB    NOT NULL
);

CREATE TABLE edge_entries (
    subject BLOB    NOT NULL PRIMARY KEY,
    version BIGINT  NOT NULL,
    entry   BLOB    NOT NULL,
    removed BOOLEAN NOT NULL
);

CREATE INDEX edge_entries_removed ON edge_entries (version) WHERE removed;

-- The numbers are the control plane's. A chain of zeros is one that nobody told.
CREATE TABLE feed (
    sequence BIGINT NOT NULL PRIMARY KEY,
    subject  BLOB   NOT NULL,
    chain    BLOB   NOT NULL
);

-- The entries of pages that do not yet lead to a head of the history. Nobody is served from here.
CREATE TABLE staged (
    subject BLOB    NOT NULL PRIMARY KEY,
    version BIGINT  NOT NULL,
    entry   BLOB    NOT NULL,
    removed BOOLEAN NOT NULL
);

CREATE INDEX staged_by_version ON staged (version);

CREATE TABLE upstream (
    id         INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    -- Where the next page begins, as it is told to the upstream.
    position   BLOB    NOT NULL,
    -- The position after the changes before a staged snapshot; NULL while what is staged continues what is served.
    base       BLOB,
    -- Whether there ever was a complete state.
    complete   BIGINT  NOT NULL,
    -- When the control plane was last known to have nothing newer, by this machine's clock.
    current_at BIGINT
);
