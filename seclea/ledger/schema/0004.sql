-- What `seclea status` counts and dates. Times as everywhere: for people only.

-- What was left out (kinds 'left out', 'damaged', 'gap'), so that it can be summed by reason from a moment on.
ALTER TABLE events ADD COLUMN destination INTEGER;
ALTER TABLE events ADD COLUMN reason TEXT;
ALTER TABLE events ADD COLUMN count INTEGER;
CREATE INDEX events_kind ON events (kind, id);

-- The same in all, which outlives the events. Destination 0: of a ring, whatever it was for.
CREATE TABLE losses (
    destination INTEGER NOT NULL,
    reason      TEXT NOT NULL,
    count       INTEGER NOT NULL,
    last_ns     INTEGER NOT NULL,
    PRIMARY KEY (destination, reason)
) STRICT, WITHOUT ROWID;

-- `trouble`: what the latest attempt said, from the first that did not come through (`trouble_ns`) until one does.
ALTER TABLE destinations ADD COLUMN hold_ns INTEGER;
ALTER TABLE destinations ADD COLUMN trouble TEXT;
ALTER TABLE destinations ADD COLUMN trouble_ns INTEGER;
ALTER TABLE destinations ADD COLUMN next_try_ns INTEGER;

-- Attempts that did not come through, by what came of them: an HTTP status, or a word.
CREATE TABLE attempts (
    destination INTEGER NOT NULL REFERENCES destinations (id),
    reason      TEXT NOT NULL,
    count       INTEGER NOT NULL,
    PRIMARY KEY (destination, reason)
) STRICT, WITHOUT ROWID;
