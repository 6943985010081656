-- How runs end: by a word of their process, or by what the writer knows of the processes that spoke for them.

-- With `pid`: which process a ring is of, also when the ring itself is gone (shared memory after a reboot).
ALTER TABLE rings ADD COLUMN start_ticks INTEGER;
ALTER TABLE rings ADD COLUMN boot BLOB;
-- How its process went: 'in order' (Python came to its end), 'gone' (killed, crashed, left by os._exit), 'told' (gone
-- together with a writer that got SIGTERM); NULL while it lives, and for rings of before this version.
ALTER TABLE rings ADD COLUMN ended TEXT;
ALTER TABLE rings ADD COLUMN told_ns INTEGER; -- the writer got SIGTERM while this process lived

ALTER TABLE streams ADD COLUMN starts INTEGER NOT NULL DEFAULT 0; -- 1: its process started the run

-- `reason` says why the writer ended the run; NULL: the user's program did.
CREATE TABLE run_ends (
    run     TEXT PRIMARY KEY,
    status  TEXT NOT NULL,
    reason  TEXT,
    time_ns INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
