-- The summary of all entries that are not removed, and the sequence at which it was so. A server that does not know of it moves the
-- sequence of the head alone, and the summary counts as unknown until it is made anew.
ALTER TABLE head ADD COLUMN summary BYTEA;
ALTER TABLE head ADD COLUMN summary_at BIGINT;
