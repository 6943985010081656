"""A salvaged ledger made consistent: what a missing row meant to others is put right, or said.

stream row missing            made again from the keys of its records
lane behind, or missing       its last record says where it ends
entity row missing            made again from its record's body; else a name only, taken to be at the portal
entity that nobody will send  taken to be at the portal; where it is not, what needs it is held
destination row missing       its records are held
chunks' counts                from the records that need them
hole before open records      the stream is marked: the portal may have what is missing here (writer/damage.py)
end of a stream unknown       the ring goes on in a new stream, where no key was ever used
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seclea.ledger.salvage import Found
from seclea.records import BULK_KINDS, CHAIN_START, Lane, RecordKind, chain_hash

_OPEN = "status IN ('Saving', 'Transmitting')"
_NUMBERS_APART = 1_000_000  # between the last record that is known and the next: an outcome on its way names a number


@dataclass(slots=True)
class Mended:
    """What `mend` leaves to be done, and told.

    Attributes:
        altered: open records whose body is not what was recorded, or whose payload is unknown.
        holes: (stream, lane, first, last) that are missing before or among open records.
        continued: (stream that ends, stream that goes on for it) by their numbers.
    """

    altered: list[int] = field(default_factory=list)
    holes: list[tuple[int, str, int, int]] = field(default_factory=list)
    continued: list[tuple[int, int]] = field(default_factory=list)


def mend(path: Path, found: Found) -> Mended:
    """Mend the ledger that `salvage` wrote. Runs in one transaction; the file is not in use yet."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.row_factory = sqlite3.Row
    connection.create_function("seclea_sha256", 1, lambda body: hashlib.sha256(body).digest(), deterministic=True)
    try:
        connection.execute("BEGIN IMMEDIATE")
        mending = _Mending(connection, found)
        mending.run()
        connection.execute("COMMIT")
        return mending.result
    finally:
        connection.close()


class _Mending:
    def __init__(self, connection: sqlite3.Connection, found: Found) -> None:
        self._run = connection.execute
        self._found = found
        self._now_ns = time.time_ns()
        self.result = Mended()

    def run(self) -> None:
        """All of it, in an order in which each step finds what it needs."""
        self._destinations()
        self._streams()
        self._payloads()
        self._entities()
        self._lanes()
        # An altered body is no body: it would be found again at each start. The original has it.
        self._run(
            "UPDATE records SET body = NULL WHERE body IS NOT NULL AND digest IS NOT NULL AND seclea_sha256(body) <> digest"
        )
        self._bodies_and_chains()
        self._numbers()

    def _all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        return self._run(sql, values).fetchall()

    def _destinations(self) -> None:
        for row in self._all(
            "SELECT DISTINCT destination AS id FROM (SELECT destination FROM records UNION SELECT destination FROM streams"
            " UNION SELECT destination FROM entities) WHERE destination NOT IN (SELECT id FROM destinations)"
        ):
            self._run(
                "INSERT INTO destinations (id, platform_url, auth_url, organization, hold, hold_ns)"
                " VALUES (?, ?, '', '', ?, ?)",
                (
                    row["id"],
                    f"lost:{row['id']}",
                    "where it goes was lost with a damaged row of the ledger",
                    self._now_ns,
                ),
            )

    def _streams(self) -> None:
        for row in self._all(
            "SELECT stream, max(key) AS key, max(destination) AS destination, max(run) AS run FROM records"
            " WHERE stream NOT IN (SELECT id FROM streams) GROUP BY stream"
        ):
            text = (row["key"] or "").partition(".")[0]
            uuid = bytes.fromhex(text) if len(text) == 32 else os.urandom(16)
            project = self._run(
                "SELECT project FROM entities WHERE project IS NOT NULL AND (uuid = ?1 OR uuid IN"
                " (SELECT entity FROM records WHERE stream = ?2)) LIMIT 1",
                (row["run"], row["stream"]),
            ).fetchone()
            self._run(
                "INSERT INTO streams (id, uuid, ring, ring_index, destination, project, run, damaged_ns)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    row["stream"],
                    uuid,
                    bytes(16),
                    -row["stream"],
                    row["destination"],
                    project[0] if project else "",
                    row["run"],
                    self._now_ns,
                ),
            )

    def _payloads(self) -> None:
        # Rows of a record that is gone, or that was delivered long ago and came back.
        self._run("DELETE FROM needs WHERE record NOT IN (SELECT id FROM records)")
        self._run("DELETE FROM record_chunks WHERE record NOT IN (SELECT id FROM records)")
        self._run("UPDATE records SET stands_for = NULL WHERE stands_for NOT IN (SELECT id FROM records)")
        self._run("UPDATE records SET sent_again = NULL WHERE sent_again NOT IN (SELECT id FROM records)")
        if self._found.is_whole("chunks") and self._found.is_whole("record_chunks") and self._found.is_whole("records"):
            return
        kinds = ", ".join(f"'{kind}'" for kind in BULK_KINDS)
        for row in self._all(
            f"SELECT id, body FROM records WHERE status IN ('Transmitting', 'Failed') AND kind IN ({kinds})"  # noqa: S608
            " AND body IS NOT NULL"
        ):
            body = _json(row["body"])
            chunks = body.get("chunks") or []
            for position, chunk in enumerate(chunks):
                self._run(
                    "INSERT OR IGNORE INTO record_chunks (record, position, sha256, bytes) VALUES (?, ?, ?, ?)",
                    (row["id"], position, chunk[0], chunk[1]),
                )
        self._run("DELETE FROM chunks")
        self._run(
            "INSERT INTO chunks (sha256, bytes, refs) SELECT c.sha256, max(c.bytes), count(*) FROM record_chunks c"
            " JOIN records r ON r.id = c.record WHERE r.status <> 'Completed' AND r.sent_again IS NULL GROUP BY c.sha256"
        )

    def _entities(self) -> None:
        if not self._found.is_whole("records") or not self._found.is_whole("entities"):
            # Nobody will send it any more: the portal may have it, and where it has not it says so (sender/rewind.py).
            self._run(
                "UPDATE entities SET remote_id = uuid WHERE remote_id IS NULL AND same_as IS NULL AND refused = 0"
                " AND uuid NOT IN (SELECT entity FROM records WHERE entity IS NOT NULL AND kind <> 'tombstone'"
                " AND status <> 'Completed')"
            )
        if self._found.is_whole("entities"):
            return
        named = (
            "SELECT n.entity FROM needs n JOIN records r ON r.id = n.record WHERE r.status <> 'Completed'"
            " UNION SELECT entity FROM records WHERE entity IS NOT NULL"
            " UNION SELECT run FROM records WHERE run IS NOT NULL UNION SELECT run FROM streams WHERE run IS NOT NULL"
            " UNION SELECT project FROM streams WHERE project <> ''"
        )
        runs = {row[0] for row in self._all("SELECT run FROM streams WHERE run IS NOT NULL")}
        projects = {row[0] for row in self._all("SELECT project FROM streams")}
        for row in self._all(f"SELECT entity AS uuid FROM ({named}) WHERE entity NOT IN (SELECT uuid FROM entities)"):  # noqa: S608
            self._make_entity(row["uuid"], runs, projects)

    def _make_entity(self, uuid: str, runs: set[str], projects: set[str]) -> None:
        record = self._run(
            "SELECT r.kind, r.status, r.body, r.destination, r.run, s.project FROM records r JOIN streams s ON s.id = r.stream"
            " WHERE r.entity = ? AND r.kind <> 'tombstone' ORDER BY r.id DESC LIMIT 1",
            (uuid,),
        ).fetchone()
        if record is not None:
            body = _json(record["body"])
            kind, project = record["kind"], body.get("project") or record["project"]
            known = record["status"] == "Completed"
        else:  # nothing here says more of it; its stream may have been delivered as far as that
            body, known = {}, True
            kind = RecordKind.TRAINING_RUN if uuid in runs else RecordKind.PROJECT if uuid in projects else "dataset"
            project = None
        destination = record["destination"] if record is not None else self._destination_of(uuid)
        if destination is None:
            return
        digest, remote = body.get("hash"), uuid if known else None
        run = body.get("training_run")
        self._run(
            "INSERT INTO entities (uuid, kind, destination, project, run, name, digest, framework, remote_id, refused, json)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1, ?)",
            (
                uuid,
                kind,
                destination,
                project,
                run,
                body.get("name") or uuid,
                digest,
                body.get("framework"),
                remote,
                json.dumps(body | {"uuid": uuid}),
            ),
        )
        # As one that is refused it cannot be in the way of another; it is none.
        self._run("UPDATE OR IGNORE entities SET refused = 0 WHERE uuid = ?", (uuid,))

    def _destination_of(self, uuid: str) -> int | None:
        row = self._run(
            "SELECT destination FROM records WHERE run = ?1 OR id IN (SELECT record FROM needs WHERE entity = ?1)"
            " UNION SELECT destination FROM streams WHERE run = ?1 OR project = ?1 LIMIT 1",
            (uuid,),
        ).fetchone()
        return None if row is None else int(row[0])

    def _lanes(self) -> None:
        self._run("DELETE FROM lanes WHERE stream NOT IN (SELECT id FROM streams)")
        for stream in self._all("SELECT id FROM streams"):
            for lane in Lane:
                self._run(
                    "INSERT OR IGNORE INTO lanes (stream, lane, sequence, chain) VALUES (?, ?, 0, ?)",
                    (stream["id"], lane, CHAIN_START),
                )
                last = self._run(
                    "SELECT last, chain FROM records WHERE stream = ? AND lane = ? AND first IS NOT NULL"
                    " ORDER BY first DESC, last DESC LIMIT 1",
                    (stream["id"], lane),
                ).fetchone()
                if last is not None:
                    self._run(
                        "UPDATE lanes SET sequence = ?, chain = ? WHERE stream = ? AND lane = ? AND sequence < ?",
                        (last["last"], last["chain"], stream["id"], lane, last["last"]),
                    )
        if not self._found.is_whole("lanes") or not self._found.is_whole("streams"):
            self._go_on()

    def _go_on(self) -> None:
        """Where a lane ends nobody knows: whoever still logs to it goes on in a new stream."""
        for row in self._all(
            "SELECT s.* FROM streams s LEFT JOIN rings r ON r.id = s.ring WHERE s.ring_index >= 0 AND r.closed_ns IS NULL"
        ):
            self._run(
                "UPDATE streams SET ring_index = ?, damaged_ns = ? WHERE id = ?", (-row["id"], self._now_ns, row["id"])
            )
            cursor = self._run(
                "INSERT INTO streams (uuid, ring, ring_index, destination, project, run, rank, starts)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    os.urandom(16),
                    row["ring"],
                    row["ring_index"],
                    row["destination"],
                    row["project"],
                    row["run"],
                    row["rank"],
                    row["starts"],
                ),
            )
            successor = int(cursor.lastrowid or 0)
            # What has no place yet would get one that the portal may have given away.
            self._run("UPDATE records SET stream = ? WHERE stream = ? AND status = 'Saving'", (successor, row["id"]))
            for lane in Lane:
                self._run(
                    "INSERT INTO lanes (stream, lane, sequence, chain) VALUES (?, ?, 0, ?)",
                    (successor, lane, CHAIN_START),
                )
            self._run(
                "INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)",
                (f"goes on for stream {row['id']}", str(successor)),
            )
            self.result.continued.append((row["id"], successor))

    def _bodies_and_chains(self) -> None:
        """Look at the open records, lane by lane: bodies, chains, holes."""
        kinds = tuple(BULK_KINDS)
        for lane in self._all(f"SELECT DISTINCT stream, lane FROM records WHERE {_OPEN}"):  # noqa: S608
            stream = self._run("SELECT uuid FROM streams WHERE id = ?", (lane["stream"],)).fetchone()
            uuid, before = stream["uuid"], None
            for row in self._in_order(lane["stream"], lane["lane"]):
                is_open = row["status"] == "Transmitting"
                digest = row["digest"]
                if is_open and (row["body"] is None or hashlib.sha256(row["body"]).digest() != digest):
                    if row["receipt"] is None:
                        self.result.altered.append(row["id"])
                elif is_open and row["kind"] in kinds and not row["chunks"] and row["receipt"] is None:
                    self.result.altered.append(row["id"])
                if row["stands_for"] is not None or row["first"] is None:
                    continue  # it has the place of another
                if before is not None and is_open:
                    last, chain = before
                    follows = row["first"] == last + 1
                    if not follows or chain != _before(row, chain, uuid):
                        self.result.holes.append((lane["stream"], lane["lane"], last + 1, row["first"] - 1))
                elif before is None and is_open and row["first"] > 1 and not self._found.is_whole("records"):
                    self.result.holes.append((lane["stream"], lane["lane"], 1, row["first"] - 1))
                before = row["last"], row["chain"]
        for number in {hole[0] for hole in self.result.holes}:
            self._run("UPDATE streams SET damaged_ns = ? WHERE id = ?", (self._now_ns, number))

    def _in_order(self, stream: int, lane: str) -> Iterator[sqlite3.Row]:
        first = 0
        while True:  # in pieces: memory stays flat
            rows = self._all(
                "SELECT id, kind, status, first, last, digest, chain, stands_for, receipt, body,"
                " EXISTS (SELECT 1 FROM record_chunks c WHERE c.record = records.id) AS chunks FROM records"
                " WHERE stream = ? AND lane = ? AND first > ? ORDER BY first, id LIMIT 200",
                stream,
                lane,
                first,
            )
            full = len(rows) == 200
            if full and rows[0]["first"] != rows[-1]["first"]:  # those of one place stay together
                rows = [row for row in rows if row["first"] != rows[-1]["first"]]
            yield from rows
            if not full:
                return
            first = rows[-1]["first"]

    def _numbers(self) -> None:
        if self._found.is_whole("records"):
            return
        newest = self._run("SELECT coalesce(max(id), 0) FROM records").fetchone()[0]
        self._run("DELETE FROM sqlite_sequence WHERE name = 'records'")
        self._run("INSERT INTO sqlite_sequence (name, seq) VALUES ('records', ?)", (newest + _NUMBERS_APART,))


def _before(row: sqlite3.Row, chain: bytes, stream: bytes) -> bytes | None:
    """``chain`` where the row's own follows from it, else None."""
    lane = Lane.BULK if row["kind"] in tuple(BULK_KINDS) else Lane.ORDERED
    follows = chain_hash(chain, stream, lane, row["first"], row["last"], row["kind"], row["digest"])
    return chain if follows == row["chain"] else None


def _json(body: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
