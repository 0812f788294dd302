-- Sessions of the console. Only a digest of the cookie is kept. A session is one of a token: of the database (token), or of a line
-- of the file admin-token (file_token, its digest). Sessions that were ended are deleted; the audit log keeps that they were.
CREATE TABLE sessions (
    id           TEXT    NOT NULL PRIMARY KEY,
    digest       BLOB    NOT NULL UNIQUE,
    token        TEXT REFERENCES tokens (id),
    file_token   BLOB,
    user_agent   TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
);

CREATE INDEX sessions_by_age ON sessions (created_at, id);
