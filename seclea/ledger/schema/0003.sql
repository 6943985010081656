-- Names of metrics that a ring's client has said once, for log calls that carry numbers only. Gone with the ring.

CREATE TABLE key_sets (
    ring   BLOB NOT NULL,                 -- 16 bytes
    number INTEGER NOT NULL,
    keys   TEXT NOT NULL,                 -- JSON, a list of texts
    PRIMARY KEY (ring, number)
) STRICT, WITHOUT ROWID;
