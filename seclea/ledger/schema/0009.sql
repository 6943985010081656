-- What sqlite does not see: each row carries a seal over all that stands in it, and one row says how many rows each table has and
-- what their seals come to (seals.py). The same moment stands outside, in the anchor's file.

CREATE TABLE seals (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    ledger  BLOB NOT NULL,                -- 16 random bytes, made once: the key of all seals
    number  INTEGER NOT NULL,             -- of the latest commit
    running BLOB NOT NULL,                -- hash over all commits up to this one
    sums    BLOB NOT NULL,                -- msgpack: by table [rows, sum of their seals]
    seal    BLOB NOT NULL
) STRICT;
ALTER TABLE meta ADD COLUMN seal BLOB;
ALTER TABLE destinations ADD COLUMN seal BLOB;
ALTER TABLE rings ADD COLUMN seal BLOB;
ALTER TABLE streams ADD COLUMN damaged_ns INTEGER; -- records of it were lost here; it may have to go on as another one
ALTER TABLE streams ADD COLUMN seal BLOB;
ALTER TABLE lanes ADD COLUMN seal BLOB;
ALTER TABLE entities ADD COLUMN seal BLOB DEFAULT x'000000000000000000000000000000000000000000000000';
-- As long as a seal from the beginning: a large row that is sealed is changed in place, and not written whole once more.
ALTER TABLE records ADD COLUMN seal BLOB DEFAULT x'000000000000000000000000000000000000000000000000';
ALTER TABLE needs ADD COLUMN seal BLOB;
ALTER TABLE chunks ADD COLUMN seal BLOB;
ALTER TABLE record_chunks ADD COLUMN seal BLOB;
ALTER TABLE totals ADD COLUMN seal BLOB;
ALTER TABLE key_sets ADD COLUMN seal BLOB;
ALTER TABLE losses ADD COLUMN seal BLOB;
ALTER TABLE attempts ADD COLUMN seal BLOB;
ALTER TABLE events ADD COLUMN seal BLOB;
ALTER TABLE run_ends ADD COLUMN seal BLOB;
