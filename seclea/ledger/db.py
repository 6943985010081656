"""The ledger: one sqlite file per home. `Ledger` is the writer's; everybody else has a `LedgerView` (view.py).

Rule 1  One process, one connection writes and checkpoints (SQLite before 3.51.3 can corrupt a WAL otherwise). Readers
        are ``mode=ro``, read short, and close.
Rule 2  WAL and synchronous=FULL: what `Ledger.transaction` committed survives power loss. One transaction per drained batch.
Rule 3  No connection crosses a fork; the file is never opened but by sqlite (closing a plain descriptor of it would drop
        sqlite's own locks).
Source: SQLite documentation, "PRAGMA synchronous", "Write-Ahead Logging", "How To Corrupt An SQLite Database File".
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seclea.contract import Destination
from seclea.errors import LedgerDamagedError, LedgerError, LedgerFullError
from seclea.ledger import spare
from seclea.ledger.anchor import Anchor, anchor_of, read_anchor
from seclea.ledger.migrations import migrate, refuse_foreign, scripts
from seclea.ledger.reopening import Reopening
from seclea.ledger.seals import Seals
from seclea.ledger.space import Space
from seclea.ledger.view import LOCAL_ONLY, LOSSES, OPEN
from seclea.records import CHAIN_START, TRANSITIONS, Event, Lane, RecordKind, Status

log = logging.getLogger(__name__)

_BUSY_SECONDS = 0.5  # for another program that locks the file; the writer must go on to say so, and tries again


def row_hash(
    stream: bytes, lane: str, first: int, last: int, kind: str, key: str, digest: bytes, chain: bytes
) -> bytes:
    """The hash that a record's row carries over everything in it that never changes."""
    parts = (stream, lane.encode(), str(first).encode(), str(last).encode(), kind.encode(), key.encode(), digest, chain)
    return hashlib.sha256(b"\n".join(parts)).digest()


class Ledger(Reopening, Space):
    """The writer's ledger: the only connection that writes, commits and checkpoints.

    Raises:
        LedgerTooNewError, LedgerError: it cannot be used and is left untouched.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._anchor = Anchor(anchor_of(path))
        self._anchor_fails = False
        self._is_read_only = False
        try:
            refuse_foreign(path)
        except OSError as error:
            raise LedgerError(f"The ledger {path} cannot be opened: {error}.", "It is tried again.") from None
        try:
            self._connect()
            facts = os.stat(path)
            self._file = facts.st_dev, facts.st_ino
        except sqlite3.Error as error:
            raise self._in_our_words(error) or LedgerError(
                f"The ledger {path} cannot be opened: {error}.", "It is tried again."
            ) from None

    def _connect(self) -> None:
        previous = os.umask(0o077)
        try:
            # Payload threads never touch it; only the writer's main thread does.
            self._connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            try:
                self._set_up()
                self._seals = Seals(self._connection, self.path, read_anchor(anchor_of(self.path)), len(scripts()))
                self._note_moment()
            except BaseException:
                self._connection.close()  # or its log would stay beside a file that is not to be touched
                raise
        finally:
            os.umask(previous)

    def stay_usable(self) -> None:
        """Open the file again where our connection is of no use any more. Where it cannot be now, ask again: till then nothing
        can be read either.

        Raises:
            LedgerError, OSError, sqlite3.Error: not now.
        """
        if not self._is_read_only:
            return
        # A connection that could not write its shared memory once (a full disk, for one) is read-only for the rest of its
        # life; so is a second one of this process, while the first is there.
        self._connection.close()
        self._connect()
        self._is_read_only = False

    def _set_up(self) -> None:
        run = self._connection.execute
        fresh = run("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
        if fresh:
            run("PRAGMA page_size = 4096")
            run("PRAGMA auto_vacuum = INCREMENTAL")  # only possible before the first table
        # Before WAL: a file of somebody else must stay as it is.
        self._is_migrated = migrate(self._connection, str(self.path))
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("PRAGMA fullfsync = ON")
        run("PRAGMA foreign_keys = ON")
        run("PRAGMA trusted_schema = OFF")
        run("PRAGMA cell_size_check = ON")
        run("PRAGMA temp_store = MEMORY")
        run(
            "PRAGMA secure_delete = FAST"
        )  # where it is ON (Debian's sqlite), each page that is freed is written once more
        run("PRAGMA wal_autocheckpoint = 1000")
        run(f"PRAGMA journal_size_limit = {8 << 20}")  # twice of what it usually grows to between two checkpoints

    def hurry(self) -> None:
        """From here on wait for nobody who reads: a log that is not folded in is folded in at the next start."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA busy_timeout = 100")

    def close(self) -> None:
        """Checkpoint and close."""
        if self._seals.is_behind:  # changed outside of a transaction
            with contextlib.suppress(LedgerError, sqlite3.Error), self.transaction():
                pass
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._connection.close()
        self._anchor.close()

    def abandon(self) -> None:
        """Close without folding the log into a file that is damaged: another connection, open meanwhile, keeps it."""
        keeper = None
        with contextlib.suppress(sqlite3.Error):
            keeper = sqlite3.connect(f"file:{quote(os.fsencode(self.path))}?mode=ro", uri=True)
            keeper.execute("SELECT 1 FROM sqlite_schema").fetchone()
        self._connection.close()
        if keeper is not None:
            keeper.close()
        self._anchor.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; durable once the block has ended.

        Raises:
            LedgerFullError: no room on the disk; nothing was written.
            LedgerDamagedError: sqlite finds the file damaged, or it was taken away; nothing was written.
        """
        try:
            self._check_file()
            self.stay_usable()
            self._connection.execute("BEGIN IMMEDIATE")
            yield
            self._seals.finish()
            self._connection.execute("COMMIT")
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
            if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_READONLY:
                self._is_read_only = True
            self._seals.rolled_back()
            if isinstance(error, sqlite3.Error) and (said := self._in_our_words(error)) is not None:
                raise said from None
            raise
        if self._seals.committed():
            self._note_moment()

    def _note_moment(self) -> None:
        """Tell the anchor; where it cannot be, it stays behind, which is no harm."""
        try:
            self._anchor.write(self._seals.moment)
        except OSError as error:
            if not self._anchor_fails:
                log.warning("the anchor of %s cannot be written: %s", self.path, error)
            self._anchor_fails = True
        else:
            self._anchor_fails = False

    def _check_file(self) -> None:
        # sqlite would go on writing to a file that no path leads to: durable for as long as we live.
        try:
            facts = os.stat(self.path)
        except FileNotFoundError:
            found = None
        else:
            found = facts.st_dev, facts.st_ino
        if found != self._file:
            raise LedgerDamagedError(
                f"The ledger {self.path} was {'replaced' if found else 'deleted'} while it was in use.",
                "The next writer looks at what is there.",
            )

    def _in_our_words(self, error: sqlite3.Error) -> LedgerError | None:
        """Of what sqlite says, what has a way out that it does not name."""
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code == sqlite3.SQLITE_FULL or "is full" in str(error):
            return LedgerFullError(f"The disk of {self.path} is full.", "Make room; logging goes on by itself.")
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return LedgerDamagedError(
                f"The ledger {self.path} is damaged: {error}.",
                "The next writer moves it aside whole and salvages it; `seclea recover` does so now.",
            )
        return None

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Part of a transaction that can fail by itself."""
        mark = self._seals.mark()
        self._connection.execute("SAVEPOINT part")
        try:
            yield
        except BaseException:
            if self._connection.in_transaction:  # sqlite ends it by itself when the disk is full
                self._connection.execute("ROLLBACK TO part")
                self._connection.execute("RELEASE part")
                self._seals.back_to(mark)
            raise
        self._connection.execute("RELEASE part")

    def drop_spare(self) -> None:
        """A look found nothing wrong: a copy from before a migration may go; not by the start that migrated it."""
        if not self._is_migrated:
            spare.drop(self.path)

    def put_back(self) -> None:
        """The file was deleted while it was in use: write what we still hold of it to its place.

        Raises:
            LedgerError, OSError, sqlite3.Error: it cannot be.
        """
        draft = self.path.with_suffix(".back")
        draft.unlink(missing_ok=True)
        copy = sqlite3.connect(draft)
        try:
            self._connection.backup(copy)
        finally:
            copy.close()
        os.link(draft, self.path)  # never over a file that is there by now
        draft.unlink()

    # -- rings and streams ---------------------------------------------------------------------------------------

    def ring_sequence(self, ring: bytes, pid: int) -> int:
        """The last frame of this ring that is in the ledger; makes the ring known."""
        row = self._one("SELECT sequence FROM rings WHERE id = ?", (ring,))
        if row is not None:
            return int(row["sequence"])
        self._connection.execute(
            "INSERT INTO rings (id, sequence, pid, opened_ns) VALUES (?, 0, ?, ?)", (ring, pid, time.time_ns())
        )
        return 0

    def ring_row(self, ring: bytes) -> sqlite3.Row | None:
        """A ring as it stands in its row."""
        return self._one("SELECT * FROM rings WHERE id = ?", (ring,))

    def set_ring_sequence(self, ring: bytes, sequence: int) -> None:
        """Frames up to ``sequence`` are in this transaction."""
        self._connection.execute("UPDATE rings SET sequence = ? WHERE id = ?", (sequence, ring))

    def add_dropped(self, ring: bytes, count: int) -> None:
        """A tombstone says that the ring's client left out so many log calls."""
        self._connection.execute("UPDATE rings SET dropped = dropped + ? WHERE id = ?", (count, ring))

    def dropped_of_ring(self, ring: bytes) -> int:
        """How many log calls the tombstones of a ring's client stand for."""
        row = self.ring_row(ring)
        return int(row["dropped"]) if row is not None else 0

    def close_ring(self, ring: bytes) -> None:
        """The ring's producer is gone and its file empty."""
        self._connection.execute("UPDATE rings SET closed_ns = ? WHERE id = ?", (time.time_ns(), ring))
        self._connection.execute("DELETE FROM key_sets WHERE ring = ?", (ring,))

    def add_key_set(self, ring: bytes, number: int, keys: Sequence[str]) -> None:
        """Note the names of metrics that a ring's client says by number."""
        row = (ring, number, json.dumps(keys, separators=(",", ":")))
        self._connection.execute(
            "INSERT INTO key_sets (ring, number, keys) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET keys = excluded.keys",
            row,
        )

    def key_sets(self, ring: bytes) -> dict[int, tuple[str, ...]]:
        """What `add_key_set` noted for a ring, by number."""
        rows = self._all("SELECT number, keys FROM key_sets WHERE ring = ?", (ring,))
        return {row["number"]: tuple(json.loads(row["keys"])) for row in rows}

    def set_meta(self, key: str, value: str) -> None:
        """Note something, in the place of what stood under this key."""
        self._connection.execute(
            "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT DO UPDATE SET value = excluded.value", (key, value)
        )

    def destination(self, wanted: Destination, ca_bundle: str | None = None) -> int:
        """The number of a destination, made when new."""
        key = (wanted.platform_url, wanted.auth_url, wanted.organization)
        row = self._one("SELECT id FROM destinations WHERE platform_url = ? AND auth_url = ? AND organization = ?", key)
        if row is not None:
            if ca_bundle:
                self._connection.execute("UPDATE destinations SET ca_bundle = ? WHERE id = ?", (ca_bundle, row["id"]))
            return int(row["id"])
        cursor = self._connection.execute(
            "INSERT INTO destinations (platform_url, auth_url, organization, ca_bundle) VALUES (?, ?, ?, ?)",
            (*key, ca_bundle),
        )
        return int(cursor.lastrowid or 0)

    def set_destination(self, destination: int, **columns: Any) -> None:
        """Change a destination's state: hold, breaker, organization_uuid, extensions, last_error, next_try_ns."""
        allowed = {"hold", "breaker", "organization_uuid", "extensions", "last_error", "next_try_ns"}
        if not columns.keys() <= allowed:
            raise ValueError(f"not a destination's state: {sorted(columns.keys() - allowed)}")
        if "hold" in columns:  # the first moment of a hold is kept while its words change
            self._connection.execute(
                "UPDATE destinations SET hold_ns = CASE WHEN ?1 IS NULL THEN NULL ELSE coalesce(hold_ns, ?2) END WHERE id = ?3",
                (columns["hold"], time.time_ns(), destination),
            )
        for name, value in columns.items():
            self._connection.execute(
                f"UPDATE destinations SET {name} = ? WHERE id = ?",  # noqa: S608 (allow-list above)
                (value, destination),
            )

    def count_requests(self, destination: int, requests: int, retries: int) -> None:
        """Add to a destination's counters."""
        self._connection.execute(
            "UPDATE destinations SET requests = requests + ?, retries = retries + ? WHERE id = ?",
            (requests, retries, destination),
        )

    def note_trouble(self, destination: int, reason: str, error: str, *, of_destination: bool) -> None:
        """Count an attempt that did not come through; ``of_destination``: it was none of this record's own."""
        self._connection.execute(
            "INSERT INTO attempts (destination, reason, count) VALUES (?, ?, 1)"
            " ON CONFLICT DO UPDATE SET count = count + 1",
            (destination, reason),
        )
        if of_destination:
            self._connection.execute(
                "UPDATE destinations SET trouble = ?, trouble_ns = coalesce(trouble_ns, ?) WHERE id = ?",
                (error, time.time_ns(), destination),
            )

    def end_trouble(self, destination: int) -> None:
        """The destination answered as it should."""
        self._connection.execute(
            "UPDATE destinations SET trouble = NULL, trouble_ns = NULL, next_try_ns = NULL"
            " WHERE id = ? AND trouble_ns IS NOT NULL",
            (destination,),
        )

    def add_stream(
        self, uuid: bytes, ring: bytes, index: int, destination: int, project: str, run: str | None, rank: int
    ) -> int:
        """Make a stream with its two lanes known, once."""
        row = self._one("SELECT id FROM streams WHERE uuid = ?", (uuid,))
        if row is not None:
            return int(row["id"])
        cursor = self._connection.execute(
            "INSERT INTO streams (uuid, ring, ring_index, destination, project, run, rank) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (uuid, ring, index, destination, project, run, rank),
        )
        stream = int(cursor.lastrowid or 0)
        for lane in Lane:
            self._connection.execute(
                "INSERT INTO lanes (stream, lane, sequence, chain) VALUES (?, ?, 0, ?)", (stream, lane, CHAIN_START)
            )
        return stream

    def streams_of_ring(self, ring: bytes) -> list[sqlite3.Row]:
        """The streams that a ring speaks for."""
        return self._all("SELECT * FROM streams WHERE ring = ?", (ring,))

    def streams_of_run(self, run: str) -> list[sqlite3.Row]:
        """(stream uuid, lane, sequence) of every lane of a run, counting states that are still being saved."""
        return self._all(
            "SELECT s.uuid, l.lane, l.sequence + (SELECT count(*) FROM records r WHERE r.stream = s.id AND r.lane = l.lane"
            " AND r.status = 'Saving') AS sequence FROM streams s JOIN lanes l ON l.stream = s.id WHERE s.run = ?"
            " ORDER BY s.id, l.lane DESC",
            (run,),
        )

    def lane(self, stream: int, lane: str) -> tuple[int, bytes]:
        """(last sequence given, chain after it)."""
        row = self._one("SELECT sequence, chain FROM lanes WHERE stream = ? AND lane = ?", (stream, lane))
        assert row is not None
        return row["sequence"], row["chain"]

    # -- entities ------------------------------------------------------------------------------------------------

    def add_entity(self, row: dict[str, Any]) -> None:
        """Insert an entity. Raises sqlite3.IntegrityError where it is not unique."""
        columns = (
            "uuid",
            "kind",
            "destination",
            "project",
            "run",
            "name",
            "digest",
            "content",
            "framework",
            "sequence_num",
        )
        self._connection.execute(
            "INSERT INTO entities (uuid, kind, destination, project, run, name, digest, content, framework, sequence_num,"
            " same_as, json, refused) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (*(row.get(name) for name in columns), row.get("same_as"), row["json"], int(row.get("refused", 0))),
        )

    def set_remote_id(self, uuid: str, remote_id: str) -> None:
        """The portal knows this entity, by that id."""
        self._connection.execute("UPDATE entities SET remote_id = ? WHERE uuid = ?", (remote_id, uuid))

    def set_refused(self, uuid: str, refused: bool) -> None:
        """The portal refused this entity (or it is tried again)."""
        self._connection.execute("UPDATE entities SET refused = ? WHERE uuid = ?", (int(refused), uuid))

    def next_number(self, kind: str, *, project: str | None = None, run: str | None = None) -> int:
        """How many entities of this kind the project or run has, which is the next number from 0."""
        if run is not None:
            row = self._one(
                "SELECT coalesce(max(sequence_num) + 1, 0) FROM entities WHERE run = ? AND kind = ?", (run, kind)
            )
        else:
            row = self._one("SELECT count(*) FROM entities WHERE project = ? AND kind = ?", (project, kind))
        assert row is not None
        return int(row[0])

    # -- records -------------------------------------------------------------------------------------------------

    def add_record(
        self,
        kind: RecordKind,
        destination: int,
        stream: int,
        lane: Lane,
        *,
        entity: str | None = None,
        run: str | None = None,
        payload: str | None = None,
        reserved: int = 0,
        points: int = 0,
        needs: Sequence[str] = (),
        stands_for: int | None = None,
        hold: str | None = None,
    ) -> int:
        """Reserve a record as Saving; `seal` makes it Transmitting."""
        cursor = self._connection.execute(
            "INSERT INTO records (kind, status, destination, stream, lane, entity, run, payload, reserved, size, points,"
            " stands_for, hold, created_ns) VALUES (?, 'Saving', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                kind,
                destination,
                stream,
                lane,
                entity,
                run,
                payload,
                reserved,
                reserved,
                points,
                stands_for,
                hold,
                time.time_ns(),
            ),
        )
        record = int(cursor.lastrowid or 0)
        self._connection.execute("UPDATE records SET position = id WHERE id = ?", (record,))
        self._connection.executemany(
            "INSERT OR IGNORE INTO needs (record, entity) VALUES (?, ?)", [(record, uuid) for uuid in needs]
        )
        return record

    def seal(
        self, record: int, stream_uuid: bytes, stream: int, lane: str, kind: str, first: int, last: int, key: str,
        body: bytes, digest: bytes, chain: bytes, size: int,
    ) -> None:  # fmt: skip
        """Give a record its place, body and chain for ever; it becomes Transmitting and the lane's head moves."""
        self._change(record, Event.SAVED)
        sealed = row_hash(stream_uuid, lane, first, last, kind, key, digest, chain)
        self._connection.execute(
            "UPDATE records SET first = ?, last = ?, key = ?, body = ?, digest = ?, chain = ?, size = ?, reserved = 0,"
            " payload = NULL, row_hash = ? WHERE id = ?",
            (first, last, key, body, digest, chain, size, sealed, record),
        )
        self._connection.execute(
            "UPDATE lanes SET sequence = ?, chain = ? WHERE stream = ? AND lane = ?", (last, chain, stream, lane)
        )

    def seal_in_place(self, record: int, original: sqlite3.Row, key: str, body: bytes, digest: bytes) -> None:
        """Put a tombstone in the place of ``original``: same sequence and chain, the head does not move."""
        self._change(record, Event.SAVED)
        stream = self._one("SELECT uuid FROM streams WHERE id = ?", (original["stream"],))
        assert stream is not None
        first, last, lane, chain = original["first"], original["last"], original["lane"], original["chain"]
        sealed = row_hash(stream["uuid"], lane, first, last, RecordKind.TOMBSTONE, key, digest, chain)
        self._connection.execute(
            "UPDATE records SET first = ?, last = ?, key = ?, body = ?, digest = ?, chain = ?, size = ?, position = ?,"
            " row_hash = ? WHERE id = ?",
            (first, last, key, body, digest, chain, len(body), original["position"], sealed, record),
        )

    def stream_row(self, stream: int) -> sqlite3.Row:
        """A stream as it stands in its row."""
        row = self._one("SELECT * FROM streams WHERE id = ?", (stream,))
        assert row is not None
        return row

    def hold_of_entity(self, uuid: str) -> str | None:
        """Why the record that makes this entity is held, None when it is not."""
        row = self._one(
            "SELECT hold FROM records WHERE entity = ? AND hold IS NOT NULL AND status IN ('Saving', 'Transmitting')",
            (uuid,),
        )
        return None if row is None else str(row["hold"])

    def record_row(self, record: int) -> sqlite3.Row | None:
        """A record as it stands in its row."""
        return self._one("SELECT * FROM records WHERE id = ?", (record,))

    def saving(self) -> list[sqlite3.Row]:
        """Records whose payload is not durable yet, in order."""
        return self._all(f"SELECT * FROM records WHERE {OPEN} AND status = 'Saving' ORDER BY +id")  # noqa: S608

    def is_next_to_seal(self, record: int, stream: int, lane: str) -> bool:
        """Whether nothing before this record in its lane is still Saving."""
        row = self._one(
            "SELECT 1 FROM records WHERE stream = ? AND lane = ? AND status = 'Saving' AND id < ? LIMIT 1",
            (stream, lane, record),
        )
        return row is None

    def _change(self, record: int, event: Event, also: str = "", *values: Any) -> Status:
        """Let ``event`` happen to a record; ``also`` are further columns, in one statement, as a row is written whole."""
        row = self._one("SELECT status FROM records WHERE id = ?", (record,))
        if row is None:
            raise LedgerError(f"There is no record {record}.")
        status = TRANSITIONS.get((Status(row["status"]), event))
        if status is None:
            raise LedgerError(f"Record {record} is {row['status']} and cannot be {event.value}.")
        self._connection.execute(
            f"UPDATE records SET status = ?, settled_ns = ?{also} WHERE id = ?",  # noqa: S608 (ours)
            (status, time.time_ns() if status in (Status.COMPLETED, Status.FAILED) else None, *values, record),
        )
        return status

    def complete(self, record: int, event: Event, receipt: str, *, keep_body: bool) -> None:
        """The portal has it (or never will have a place for it). Its metrics body gives its space back."""
        body = "" if keep_body else ", body = NULL"
        self._change(record, event, f", receipt = ?, error = NULL, hold = NULL, reserved = 0{body}", receipt)
        self._connection.execute(
            "INSERT INTO totals (destination, kind, records, points, bytes) SELECT destination, kind || ?, 1, points, size"
            " FROM records WHERE id = ? ON CONFLICT DO UPDATE SET records = records + 1,"
            " points = points + excluded.points, bytes = bytes + excluded.bytes",
            (LOCAL_ONLY if event is Event.KEPT_LOCALLY else "", record),
        )

    def fail(self, record: int, event: Event, error: str) -> None:
        """The record is given up for good, with the reason."""
        self._change(record, event)
        self._connection.execute("UPDATE records SET error = ?, hold = NULL WHERE id = ?", (error, record))

    def hold(self, record: int, reason: str) -> None:
        """The record waits behind a refused parent."""
        self._change(record, Event.HELD)
        self._connection.execute("UPDATE records SET hold = ? WHERE id = ?", (reason, record))

    def note_attempt(self, record: int, error: str) -> None:
        """One more attempt did not come through."""
        self._connection.execute("UPDATE records SET retries = retries + 1, error = ? WHERE id = ?", (error, record))

    def is_open(self, record: int) -> bool:
        """Whether the record still waits for its outcome."""
        row = self._one("SELECT status FROM records WHERE id = ?", (record,))
        return row is not None and row["status"] == Status.TRANSMITTING

    def has_key(self, key: str) -> bool:
        """Whether some record has this idempotency key."""
        return self._one("SELECT 1 FROM records WHERE key = ?", (key,)) is not None

    def dependents(self, entity: str) -> list[sqlite3.Row]:
        """Open records that need this entity (or one that turned out to be it), in order."""
        return self._all(
            "SELECT * FROM records WHERE id IN ("  # noqa: S608
            " SELECT record FROM needs WHERE entity = ?1 OR entity IN (SELECT uuid FROM entities WHERE same_as = ?1)"
            f" UNION SELECT id FROM records WHERE {OPEN} AND run = ?1 AND kind <> 'training_run')"
            f" AND {OPEN} AND hold IS NULL ORDER BY id",
            (entity,),
        )

    # -- chunks, events ------------------------------------------------------------------------------------------

    def add_chunks(self, record: int, chunks: Sequence[tuple[str, int]]) -> None:
        """Name a record's payload; the files are durable already."""
        self._connection.executemany(
            "INSERT INTO chunks (sha256, bytes, refs) VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET refs = refs + 1",
            chunks,
        )
        self._connection.executemany(
            "INSERT INTO record_chunks (record, position, sha256, bytes) VALUES (?, ?, ?, ?)",
            [(record, position, sha256, size) for position, (sha256, size) in enumerate(chunks)],
        )

    def release_chunks(self, record: int) -> list[str]:
        """The record no longer needs its payload; returns chunks that nobody needs now (delete them after the commit)."""
        free = []
        for sha256, _ in self.chunks_of(record):
            self._connection.execute("UPDATE chunks SET refs = refs - 1 WHERE sha256 = ?", (sha256,))
            row = self._one("SELECT refs FROM chunks WHERE sha256 = ?", (sha256,))
            if row is not None and row["refs"] <= 0:
                self._connection.execute("DELETE FROM chunks WHERE sha256 = ?", (sha256,))
                free.append(sha256)
        return free

    def knows_chunk(self, sha256: str) -> bool:
        """Whether some record needs this chunk."""
        return self._one("SELECT 1 FROM chunks WHERE sha256 = ?", (sha256,)) is not None

    def add_event(
        self, kind: str, detail: str, *, destination: int | None = None, reason: str | None = None, count: int = 1
    ) -> None:
        """Write down something that happened to the pipeline; what was left out with ``reason`` and ``count``."""
        now_ns = time.time_ns()
        self._connection.execute(
            "INSERT INTO events (time_ns, kind, detail, destination, reason, count) VALUES (?, ?, ?, ?, ?, ?)",
            (now_ns, kind, detail, destination, reason, count),
        )
        if kind in LOSSES:
            self._connection.execute(
                "INSERT INTO losses (destination, reason, count, last_ns) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
                " SET count = count + excluded.count, last_ns = excluded.last_ns",
                (destination or 0, reason or kind, count, now_ns),
            )
