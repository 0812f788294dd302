-- What each edge token has reported of which key, for as long as it can be undone.
CREATE TABLE reported_usage (
    -- The id of a token, or token-file.
    token         TEXT   NOT NULL,
    -- When it was reported, in hours since the Unix epoch.
    received_hour BIGINT NOT NULL,
    -- Of which key (empty: none was found), in which hour and with which verdict the requests were counted.
    key_id        TEXT   NOT NULL,
    hour          BIGINT NOT NULL,
    verdict       TEXT   NOT NULL,
    requests      BIGINT NOT NULL,
    -- What was added to what the key has spent.
    credits       BIGINT NOT NULL,
    PRIMARY KEY (token, received_hour, key_id, hour, verdict)
);

CREATE INDEX reported_usage_by_age ON reported_usage (received_hour);
