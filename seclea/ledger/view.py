"""Looks at the ledger: the questions that the writer, the sender and the clients ask.

A look is short: readers are ``mode=ro``, hold no transaction open between two questions, and never checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from seclea.errors import LedgerDamagedError, LedgerError
from seclea.ledger.seals import is_sealed, tables
from seclea.records import Lane, Record, RecordKind, Status

_RECORD_COLUMNS = """r.*, s.uuid AS stream_uuid,
    (SELECT key FROM records o WHERE o.id = r.stands_for) AS stands_for_key"""

# In the words of the indices on open records: sqlite takes those only for a query that says just this.
OPEN = "status IN ('Saving', 'Transmitting')"

# Keys of `Reader.meta`, with values in JSON.
PAUSES = "pauses"  # by kind of reason: [count, seconds]
OPEN_PAUSE = "pause"  # [since_ns, reason, monotonic_ns, boot id] while logging is paused, else empty
DAMAGE = "damage"  # [time_ns, words, where the original lies] of the last time that the ledger was salvaged
THINNED = "kept here only, and gone"  # [records, points]

LOCAL_ONLY = (
    " (local only)"  # behind the kind in the totals, behind "Completed" in counts: the portal has no place for it
)

LOSSES = ("left out", "damaged", "gap")  # kinds of events that say what is in no record


def _to_record(row: sqlite3.Row, chunks: Sequence[tuple[str, int]] = ()) -> Record:
    return Record(
        id=row["id"],
        kind=RecordKind(row["kind"]),
        status=Status(row["status"]),
        destination=row["destination"],
        stream=row["stream_uuid"],
        lane=Lane(row["lane"]),
        first=row["first"] or 0,
        last=row["last"] or 0,
        key=row["key"] or "",
        body=row["body"] or b"",
        digest=row["digest"] or b"",
        chain=row["chain"] or b"",
        entity=row["entity"],
        run=row["run"],
        size=row["size"],
        retries=row["retries"],
        hold=row["hold"],
        error=row["error"],
        stands_for=row["stands_for_key"],
        chunks=tuple(chunks),
    )


def is_corrupt(error: BaseException) -> bool:
    """Whether sqlite says by this error that the file is damaged."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a ledger that one process waits for.

    Attributes:
        ring: the process's own, 16 bytes.
        runs: uuids of the runs that it takes part in; of these also what other processes say.
        up_to: the last record that counts as pending; what comes later was handed over after the wait began.
    """

    ring: bytes
    runs: frozenset[str]
    up_to: int | None = None

    def streams(self, alias: str = "") -> tuple[str, list[Any]]:
        """A condition on ``records.stream``, and its values."""
        marks = ", ".join("?" * len(self.runs))
        condition = f" AND {alias}stream IN (SELECT id FROM streams WHERE ring = ? OR run IN ({marks}))"  # noqa: S608
        return condition, [self.ring, *sorted(self.runs)]


class Reader:
    """Questions that both the writer and the others ask."""

    _connection: sqlite3.Connection

    def _all(self, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def _one(self, sql: str, parameters: Sequence[Any] = ()) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self._connection.execute(sql, parameters).fetchone()
        return row

    def _check(self, table: str, row: sqlite3.Row) -> None:
        """Look at a row's seal before it is believed, where that is wanted."""

    def destinations(self) -> list[sqlite3.Row]:
        """All destinations with their state."""
        return self._all("SELECT * FROM destinations ORDER BY id")

    def entity(self, uuid: str) -> sqlite3.Row | None:
        """An entity by our uuid; where it turned out to be another one, that one."""
        for _ in range(8):  # same_as never makes long chains; a bound, lest a damaged ledger loops us
            row = self._one("SELECT * FROM entities WHERE uuid = ?", (uuid,))
            if row is None or row["same_as"] is None:
                return row
            uuid = row["same_as"]
        raise LedgerError(f"The entity {uuid} refers to itself in the ledger.", "Run `seclea status`.")

    def find_entity(self, kind: str, project: str | None, **columns: Any) -> sqlite3.Row | None:
        """The accepted entity of that kind with these columns (name, digest, framework, destination, run)."""
        found = self.find_entities(kind, project, limit=1, **columns)
        return found[0] if found else None

    def find_entities(self, kind: str, project: str | None, *, limit: int = 1000, **columns: Any) -> list[sqlite3.Row]:
        """The accepted entities of that kind with these columns, oldest first."""
        allowed = {"name", "digest", "content", "framework", "destination", "run", "sequence_num"}
        if not columns.keys() <= allowed:
            raise ValueError(f"not a column to find entities by: {sorted(columns.keys() - allowed)}")
        terms = "".join(f" AND {name} = ?" for name in columns)
        if project is not None:
            terms += " AND project = ?"
        values = [*columns.values(), *([project] if project is not None else [])]
        return self._all(
            "SELECT * FROM entities"  # noqa: S608 (allow-list)
            f" WHERE kind = ? AND same_as IS NULL AND refused = 0{terms} ORDER BY uuid LIMIT ?",
            [kind, *values, limit],
        )

    def refused_entities(self, kind: str) -> list[str]:
        """uuids of entities of that kind that the writer or the portal refused."""
        rows = self._all("SELECT uuid FROM entities WHERE refused = 1 AND kind = ?", (kind,))
        return [row["uuid"] for row in rows]

    def steps(self, project: str) -> list[tuple[str, tuple[str, ...]]]:
        """(dataset, its inputs) of every recorded transformation of a project."""
        rows = self._all(
            "SELECT json_extract(json, '$.dataset') AS dataset, json_extract(json, '$.inputs') AS inputs FROM entities"
            " WHERE kind = 'dataset_transformation' AND project = ? AND refused = 0",
            (project,),
        )
        return [(row["dataset"], tuple(json.loads(row["inputs"] or "[]"))) for row in rows]

    def meta(self, key: str) -> str | None:
        """What was noted under this key."""
        row = self._one("SELECT value FROM meta WHERE key = ?", (key,))
        return None if row is None else str(row["value"])

    def counts(self, destination: int | None = None) -> dict[str, dict[str, int]]:
        """Records by kind and status. Completed ones come from the running totals."""
        where = "" if destination is None else " AND destination = ?"
        values = () if destination is None else (destination,)
        result: dict[str, dict[str, int]] = {}
        for some in (OPEN, "status = 'Failed' AND sent_again IS NULL"):
            for row in self._all(
                f"SELECT kind, status, count(*) AS n FROM records WHERE {some}{where} GROUP BY kind, status",  # noqa: S608
                values,
            ):
                result.setdefault(row["kind"], {})[row["status"]] = row["n"]
        for row in self._all(
            f"SELECT kind, sum(records) AS n FROM totals WHERE 1{where} GROUP BY kind",  # noqa: S608
            values,
        ):
            kind = row["kind"].removesuffix(LOCAL_ONLY)
            result.setdefault(kind, {})["Completed" + row["kind"].removeprefix(kind)] = row["n"]
        return result

    def last_record(self) -> int:
        """The number of the latest record."""
        row = self._one("SELECT coalesce(max(id), 0) AS id FROM records")
        return int(row["id"]) if row is not None else 0

    def pending(self, destination: int | None = None, up_to: int | None = None) -> tuple[int, int]:
        """(records, bytes) that are accepted, neither delivered nor given up, nor held behind a refused parent."""
        where = "" if destination is None else " AND destination = ?"
        bound = "" if up_to is None else " AND id <= ?"
        row = self._one(
            "SELECT count(*) AS n, coalesce(sum(size), 0) AS b FROM records"  # noqa: S608
            f" WHERE {OPEN} AND hold IS NULL{where}{bound}",
            [one for one in (destination, up_to) if one is not None],
        )
        assert row is not None
        return row["n"], row["b"]

    def delivered(self, destination: int | None = None) -> tuple[int, int, int]:
        """(records, metric points, bytes) that the portal acknowledged."""
        where = f" WHERE kind NOT LIKE '%{LOCAL_ONLY}'" + ("" if destination is None else " AND destination = ?")
        row = self._one(
            "SELECT coalesce(sum(records), 0) AS n, coalesce(sum(points), 0) AS p, coalesce(sum(bytes), 0) AS b"  # noqa: S608
            f" FROM totals{where}",
            () if destination is None else (destination,),
        )
        assert row is not None
        return row["n"], row["p"], row["b"]

    def conditions_of_trouble(self) -> tuple[str, str]:
        """What makes a record failed, and what held: not what another one goes in the stead of, or a person lets be."""
        names = {row["name"] for row in self._all("PRAGMA table_info(records)")}  # an older seclea's ledger has fewer
        left = "".join(f" AND {name} IS NULL" for name in ("sent_again", "dismissed_ns") if name in names)
        seen = " AND dismissed_ns IS NULL" if "dismissed_ns" in names else ""
        return f"status = 'Failed'{left}", f"status = 'Transmitting' AND hold IS NOT NULL{seen}"

    def troubled(self, destination: int | None = None, limit: int = 100, part: Part | None = None) -> list[sqlite3.Row]:
        """Failed and held records with their reasons, oldest first."""
        where = "" if destination is None else " AND r.destination = ?"
        values: list[Any] = [] if destination is None else [destination]
        failed, held = self.conditions_of_trouble()
        if part is not None:
            condition, more = part.streams("r.")
            where, values = where + condition, values + more
        return self._all(
            "SELECT r.id, r.kind, r.status, r.destination, r.entity, r.run, r.hold, r.error, r.size, e.name FROM records r"  # noqa: S608
            " LEFT JOIN entities e ON e.uuid = r.entity"
            f" WHERE r.id IN (SELECT id FROM records WHERE {failed} UNION SELECT id FROM records WHERE {held}){where}"
            " ORDER BY r.id LIMIT ?",
            [*values, limit],
        )

    def left_out(self) -> list[str]:
        """What clients had to leave out, in words, latest first."""
        rows = self._all(
            "SELECT detail FROM events WHERE kind IN ('left out', 'damaged', 'gap') ORDER BY id DESC LIMIT 20"
        )
        return [row["detail"] for row in rows]

    def last_error(self, destination: int) -> str | None:
        """What the latest attempt that did not come through said, while something is still open."""
        row = self._one(
            f"SELECT error FROM records WHERE {OPEN} AND destination = ? AND status = 'Transmitting'"  # noqa: S608
            " AND error IS NOT NULL ORDER BY position LIMIT 1",
            (destination,),
        )
        return None if row is None else str(row["error"])

    def open_records(self, destination: int, lane: str, after: int, limit: int) -> list[sqlite3.Row]:
        """Records that may be sent, in order: rows of (id, position, stream, kind, reopened_ns). Held ones are left out."""
        return self._all(
            "SELECT r.id, r.position, s.uuid AS stream, r.kind, r.reopened_ns"  # noqa: S608
            " FROM records r JOIN streams s ON s.id = r.stream"
            f" WHERE r.{OPEN} AND r.destination = ? AND r.lane = ? AND r.status = 'Transmitting' AND r.hold IS NULL"
            " AND r.position > ? ORDER BY r.position LIMIT ?",
            (destination, lane, after, limit),
        )

    def record(self, record: int) -> Record | None:
        """A record with its body and its chunks."""
        row = self._one(
            f"SELECT {_RECORD_COLUMNS} FROM records r JOIN streams s ON s.id = r.stream WHERE r.id = ?",  # noqa: S608
            (record,),
        )
        if row is None:
            return None
        self._check("records", row)
        return _to_record(row, self.chunks_of(record))

    def lane_row(
        self, stream: bytes, lane: str, *, first: int | None = None, last: int | None = None
    ) -> sqlite3.Row | None:
        """(id, status, chain, reopened_ns) of the record of a lane that starts (or ends) with this sequence."""
        column, value = ("first", first) if first is not None else ("last", last)
        return self._one(
            "SELECT r.id, r.status, r.chain, r.reopened_ns FROM records r JOIN streams s ON s.id = r.stream"  # noqa: S608
            f" WHERE s.uuid = ? AND r.lane = ? AND r.{column} = ? AND r.chain IS NOT NULL ORDER BY r.status = 'Completed' DESC",
            (stream, lane, value),
        )

    def is_damaged(self, stream: bytes) -> bool:
        """Whether records of this stream were lost with a damaged ledger."""
        row = self._one("SELECT damaged_ns FROM streams WHERE uuid = ?", (stream,))
        return row is not None and row["damaged_ns"] is not None

    def delivery_of(self, uuid: str) -> sqlite3.Row | None:
        """The record by which the portal was given this entity, once it has acknowledged it."""
        return self._one(
            "SELECT * FROM records WHERE entity = ? AND status = 'Completed' AND kind <> 'tombstone' ORDER BY id DESC LIMIT 1",
            (uuid,),
        )

    def is_lost(self, uuid: str) -> bool:
        """Whether nothing here says how this entity was sent: its record is lost or thinned, or the portal had it first."""
        row = self._one(
            "SELECT 1 FROM entities e WHERE uuid = ? AND same_as IS NULL AND NOT EXISTS"
            " (SELECT 1 FROM records WHERE entity = e.uuid AND kind <> 'tombstone')",
            (uuid,),
        )
        return row is not None

    def was_delivered(self, record: int) -> bool:
        """Whether the portal has acknowledged this (now open) record once."""
        row = self._one("SELECT receipt FROM records WHERE id = ?", (record,))
        return row is not None and row["receipt"] is not None

    def following(self, record: Record, limit: int, limit_bytes: int) -> list[tuple[Record, int | None]]:
        """Batches of metrics that follow this one in its stream and may go with it, each with when it was opened again."""
        rows = self._all(
            f"SELECT {_RECORD_COLUMNS} FROM streams s JOIN records r ON r.stream = s.id"  # noqa: S608
            " WHERE s.uuid = ? AND r.lane = ? AND r.first > ? AND r.position = r.id ORDER BY r.first LIMIT ?",
            (record.stream, record.lane, record.first, limit),
        )
        found: list[tuple[Record, int | None]] = []
        last, size = record.last, record.size
        for row in rows:
            size += row["size"]
            may_go = (row["kind"], row["status"], row["hold"], row["retries"]) == ("metrics", "Transmitting", None, 0)
            if not may_go or row["first"] != last + 1 or size > limit_bytes:
                break
            last = row["last"]
            self._check("records", row)
            found.append((_to_record(row), row["reopened_ns"]))
        return found

    def position_of(self, record: int) -> int:
        """Where a record stands in the order of sending."""
        row = self._one("SELECT position FROM records WHERE id = ?", (record,))
        return int(row["position"]) if row is not None else 0

    def held_streams(self, destination: int, lane: str) -> dict[bytes, int]:
        """Streams with a held record, and its position: nothing behind it may be sent. (In a session's, a tombstone stands
        there; only not for what the portal lost.)
        """
        rows = self._all(
            "SELECT s.uuid, min(r.position) AS position FROM records r JOIN streams s ON s.id = r.stream"
            " WHERE r.destination = ? AND r.lane = ? AND r.status = 'Transmitting' AND r.hold IS NOT NULL"
            " AND (r.run IS NOT NULL OR NOT EXISTS (SELECT 1 FROM records t WHERE t.stands_for = r.id)) GROUP BY s.uuid",
            (destination, lane),
        )
        return {row["uuid"]: row["position"] for row in rows}

    def delivered_streams(self, destination: int, lane: str) -> list[bytes]:
        """Streams of a destination of which the portal has acknowledged something in this lane, oldest first."""
        rows = self._all(
            "SELECT s.uuid FROM streams s WHERE s.destination = ? AND EXISTS (SELECT 1 FROM records r"
            " WHERE r.stream = s.id AND r.lane = ? AND r.status = 'Completed') ORDER BY s.id",
            (destination, lane),
        )
        return [row["uuid"] for row in rows]

    def chunks_of(self, record: int) -> list[tuple[str, int]]:
        """(sha256, bytes) of a record's payload, in order."""
        rows = self._all("SELECT sha256, bytes FROM record_chunks WHERE record = ? ORDER BY position", (record,))
        return [(row["sha256"], row["bytes"]) for row in rows]

    def all_chunks(self) -> list[str]:
        """sha256 of every chunk that the spool has to have."""
        return [row["sha256"] for row in self._all("SELECT sha256 FROM chunks ORDER BY sha256")]

    def unmet_needs(self, record: int) -> list[str]:
        """Entities that this record needs at the portal and that are not there yet."""
        rows = self._all(
            "SELECT n.entity FROM (SELECT entity FROM needs WHERE record = ?1 UNION"
            " SELECT run FROM records WHERE id = ?1 AND run IS NOT NULL AND kind <> 'training_run') n"
            " LEFT JOIN entities e ON e.uuid = n.entity LEFT JOIN entities t ON t.uuid = e.same_as"
            " WHERE coalesce(t.remote_id, e.remote_id) IS NULL",
            (record,),
        )
        return [row["entity"] for row in rows]

    def needs_of(self, record: int) -> list[str]:
        """Entities that this record names."""
        rows = self._all(
            "SELECT entity FROM needs WHERE record = ?1 UNION SELECT run FROM records WHERE id = ?1 AND run IS NOT NULL",
            (record,),
        )
        return [row[0] for row in rows]

    def remote_ids(self, uuids: Sequence[str]) -> dict[str, str]:
        """The portal's id of each of these entities that it has; also under the id of what one turned out to be."""
        found = {}
        for uuid in uuids:
            row = self.entity(uuid)
            if row is not None and row["remote_id"] is not None:
                found[uuid] = found[row["uuid"]] = row["remote_id"]
        return found

    def hashes(self, uuids: Sequence[str]) -> dict[str, str]:
        """The identity of each of these that is a dataset, likewise."""
        found = {}
        for uuid in uuids:
            row = self.entity(uuid)
            if row is not None and row["digest"]:
                found[uuid] = found[row["uuid"]] = row["digest"]
        return found

    def project_of(self, record: int) -> str:
        """The project whose stream a record stands in."""
        row = self._one("SELECT s.project FROM records r JOIN streams s ON s.id = r.stream WHERE r.id = ?", (record,))
        return str(row["project"]) if row is not None else ""


class LedgerView(Reader):
    """A short look at the ledger from any process. Use as a context manager; holds no connection longer.

    Raises:
        LedgerError: there is no ledger, or it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key: bytes | None = None  # of its seals, once asked for
        if not path.exists():
            raise LedgerError(f"There is no ledger at {path} yet.")
        try:
            self._connection = sqlite3.connect(
                f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=5.0, isolation_level=None
            )
            try:
                self._connection.row_factory = sqlite3.Row
                self._connection.execute("PRAGMA wal_autocheckpoint = 0")
                self._connection.execute("PRAGMA query_only = ON")
                version = self._connection.execute("PRAGMA user_version").fetchone()[0]
            except BaseException:
                self._connection.close()
                raise
        except sqlite3.Error as error:
            raise LedgerError(f"The ledger {path} cannot be read: {error}.") from None
        if not version:
            self._connection.close()
            raise LedgerError(f"The ledger {path} is being made just now.")

    def __enter__(self) -> LedgerView:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        self.close()
        if isinstance(error, sqlite3.Error):
            raise LedgerError(f"The ledger {self._path} cannot be read: {error}.") from error

    def _check(self, table: str, row: sqlite3.Row) -> None:
        """Look at a row's seal, and at its body.

        Raises:
            LedgerDamagedError: it is not what was committed; nothing of it must be sent.
        """
        if self._key is None:
            head = self._one("SELECT ledger FROM seals WHERE id = 1")
            if head is None:
                raise LedgerError(f"The ledger {self._path} is being made just now.")
            self._key = head["ledger"]
        of = next(one for one in tables() if one.name == table)
        body = row["body"]
        altered = body is not None and row["digest"] is not None and hashlib.sha256(body).digest() != row["digest"]
        if altered or not is_sealed(self._key, of, [row[name] for name in of.columns], row["seal"]):
            raise LedgerDamagedError(
                f"The ledger {self._path} is damaged: record {row['id']} is not what was committed."
            )

    def close(self) -> None:
        """Give the connection back."""
        self._connection.close()
