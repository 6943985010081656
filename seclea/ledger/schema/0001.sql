-- seclea ledger, version 1. One process writes (the writer), others read.
-- Times are nanoseconds since 1970 UTC and for people only: order comes from ids and sequences.

CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;

-- Where records go. `hold` says why nothing is sent there until a person does something; `breaker` is the JSON state of
-- the circuit breaker, which so outlives every process.
CREATE TABLE destinations (
    id                INTEGER PRIMARY KEY,
    platform_url      TEXT NOT NULL,
    auth_url          TEXT NOT NULL,
    organization      TEXT NOT NULL,
    ca_bundle         TEXT,
    organization_uuid TEXT,
    extensions        INTEGER,            -- 1: speaks the extensions, 0: base only, NULL: not asked yet
    hold              TEXT,
    breaker           TEXT,
    requests          INTEGER NOT NULL DEFAULT 0,
    retries           INTEGER NOT NULL DEFAULT 0,
    last_error        TEXT,
    UNIQUE (platform_url, auth_url, organization)
) STRICT;

-- How far each client's ring has been taken over: frames up to `sequence` are in this ledger, once.
CREATE TABLE rings (
    id        BLOB PRIMARY KEY,           -- 16 bytes
    sequence  INTEGER NOT NULL,
    dropped   INTEGER NOT NULL DEFAULT 0, -- log calls the client left out, tombstoned here
    pid       INTEGER NOT NULL,
    opened_ns INTEGER NOT NULL,
    closed_ns INTEGER
) STRICT;

-- What one process says about one session (run IS NULL) or one run.
CREATE TABLE streams (
    id          INTEGER PRIMARY KEY,
    uuid        BLOB NOT NULL UNIQUE,     -- 16 bytes
    ring        BLOB NOT NULL,
    ring_index  INTEGER NOT NULL,
    destination INTEGER NOT NULL REFERENCES destinations (id),
    project     TEXT NOT NULL,            -- uuid of the project entity
    run         TEXT,                     -- uuid of the run entity
    rank        INTEGER NOT NULL DEFAULT 0,
    UNIQUE (ring, ring_index)
) STRICT;
CREATE INDEX streams_run ON streams (run) WHERE run IS NOT NULL;

-- The head of each stream and lane: last sequence given and the chain after it. Never thinned.
CREATE TABLE lanes (
    stream   INTEGER NOT NULL REFERENCES streams (id),
    lane     TEXT NOT NULL CHECK (lane IN ('ordered', 'bulk')),
    sequence INTEGER NOT NULL,
    chain    BLOB NOT NULL,
    PRIMARY KEY (stream, lane)
) STRICT, WITHOUT ROWID;

-- `same_as`: another entity that this one turned out to be (get-or-create, same content). `refused`: the portal said no.
CREATE TABLE entities (
    uuid         TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,
    destination  INTEGER NOT NULL REFERENCES destinations (id),
    project      TEXT,
    run          TEXT,
    name         TEXT NOT NULL,
    digest       TEXT,
    framework    TEXT,
    sequence_num INTEGER,
    remote_id    TEXT,
    same_as      TEXT,
    refused      INTEGER NOT NULL DEFAULT 0,
    json         TEXT NOT NULL
) STRICT;
CREATE UNIQUE INDEX one_project ON entities (destination, name)
    WHERE kind = 'project' AND same_as IS NULL AND refused = 0;
CREATE UNIQUE INDEX one_dataset_digest ON entities (project, digest)
    WHERE kind = 'dataset' AND same_as IS NULL AND refused = 0;
CREATE UNIQUE INDEX one_dataset_name ON entities (project, name)
    WHERE kind = 'dataset' AND same_as IS NULL AND refused = 0;
CREATE UNIQUE INDEX one_model ON entities (project, name, framework)
    WHERE kind = 'model' AND same_as IS NULL AND refused = 0;
CREATE UNIQUE INDEX one_state ON entities (run, sequence_num)
    WHERE kind = 'model_state' AND same_as IS NULL AND refused = 0;
CREATE INDEX entities_run ON entities (run, kind) WHERE run IS NOT NULL;
CREATE INDEX entities_project ON entities (project, kind) WHERE project IS NOT NULL;

-- An entity's, or a batch of metrics', way to the portal. Sequence, key, body, digest and chain are given when it becomes
-- Transmitting and never change. A tombstone that stands for a record takes its place (`position`) in the stream.
CREATE TABLE records (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    position    INTEGER,                  -- order of sending; the id, or that of the record it stands for
    kind        TEXT NOT NULL,
    status      TEXT NOT NULL CHECK (status IN ('Saving', 'Transmitting', 'Failed', 'Completed')),
    destination INTEGER NOT NULL REFERENCES destinations (id),
    stream      INTEGER NOT NULL REFERENCES streams (id),
    lane        TEXT NOT NULL CHECK (lane IN ('ordered', 'bulk')),
    entity      TEXT,
    run         TEXT,
    payload     TEXT,                     -- file in spool/incoming while Saving
    reserved    INTEGER NOT NULL DEFAULT 0, -- bytes set aside on disk for this record and its payload
    size        INTEGER NOT NULL DEFAULT 0, -- bytes to send: body and payload
    first       INTEGER,
    last        INTEGER,
    points      INTEGER NOT NULL DEFAULT 0,
    key         TEXT UNIQUE,
    body        BLOB,
    digest      BLOB,
    chain       BLOB,
    stands_for  INTEGER REFERENCES records (id),
    hold        TEXT,
    error       TEXT,
    retries     INTEGER NOT NULL DEFAULT 0,
    receipt     TEXT,
    created_ns  INTEGER NOT NULL,
    settled_ns  INTEGER,
    row_hash    BLOB                      -- sha256 over what never changes
) STRICT;
CREATE INDEX records_open ON records (destination, lane, position) WHERE status IN ('Saving', 'Transmitting');
CREATE INDEX records_stream ON records (stream, lane, first);
CREATE INDEX records_failed ON records (id) WHERE status = 'Failed';
CREATE INDEX records_held ON records (destination, lane) WHERE hold IS NOT NULL;
CREATE INDEX records_run_open ON records (run) WHERE status IN ('Saving', 'Transmitting');
CREATE INDEX records_entity ON records (entity) WHERE entity IS NOT NULL;

-- Entities that must be at the portal before a record may be sent.
CREATE TABLE needs (
    record INTEGER NOT NULL REFERENCES records (id),
    entity TEXT NOT NULL,
    PRIMARY KEY (record, entity)
) STRICT, WITHOUT ROWID;
CREATE INDEX needs_entity ON needs (entity);

-- Chunks in the spool; a file is deleted when nothing refers to it any more.
CREATE TABLE chunks (
    sha256 TEXT PRIMARY KEY,
    bytes  INTEGER NOT NULL,
    refs   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE record_chunks (
    record   INTEGER NOT NULL REFERENCES records (id),
    position INTEGER NOT NULL,
    sha256   TEXT NOT NULL,
    bytes    INTEGER NOT NULL,
    PRIMARY KEY (record, position)
) STRICT, WITHOUT ROWID;

-- Running totals of what was delivered, so that counting does not mean reading every row.
CREATE TABLE totals (
    destination INTEGER NOT NULL REFERENCES destinations (id),
    kind        TEXT NOT NULL,
    records     INTEGER NOT NULL DEFAULT 0,
    points      INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (destination, kind)
) STRICT, WITHOUT ROWID;

-- What happened to the pipeline itself: pauses, restarts, losses.
CREATE TABLE events (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    time_ns INTEGER NOT NULL,
    kind    TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
