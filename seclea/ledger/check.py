"""Whether a ledger is what was committed: a look without writing, as deep as there is time for.

always      which ledger it is, its latest commit against the anchor
with time   sqlite's own check (pages, indices); each row's seal, each table's sum, each body's digest, each lane's chain
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgpack

from seclea.errors import LedgerDamagedError, LedgerError, LedgerTooNewError
from seclea.ledger.anchor import anchor_of, read_anchor
from seclea.ledger.migrations import APPLICATION_ID, scripts
from seclea.ledger.seals import SEAL_BYTES, Table, compare, read_head, seal_of, tables, version_of, weight
from seclea.records import chain_hash

_STEPS = 10_000  # of sqlite's machine between two looks at the clock: about a millisecond
_SEALED_SINCE = 9  # schema version
_MODULUS = 1 << 128


@dataclass(slots=True)
class Looked:
    """What a check found: what is wrong, in words; and whether it came to its end."""

    wrong: list[str] = field(default_factory=list)
    is_complete: bool = True
    rows: int = 0


class _Time:
    """A deadline for the statements of a connection."""

    def __init__(self, connection: sqlite3.Connection, seconds: float | None) -> None:
        self._until = None if seconds is None else time.monotonic() + seconds
        if seconds is not None:
            connection.set_progress_handler(self._is_over, _STEPS)

    def _is_over(self) -> bool:
        return self._until is not None and time.monotonic() > self._until


def check(path: Path, seconds: float | None = None) -> Looked:
    """Look at the ledger for at most so long (None: to the end).

    Raises:
        LedgerTooNewError: a newer seclea wrote it.
        LedgerDamagedError: it is another one than the anchor says, is behind, or sqlite cannot read it.
        LedgerError: there is none, or it is no ledger.
    """
    looked = Looked()
    _finish_making(path)
    anchor = read_anchor(anchor_of(path))  # first: a writer that goes on meanwhile moves both
    with _opened(path) as connection:
        if not connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:  # its maker was killed
            compare(path, None, anchor)
            return looked
        head = read_head(connection, path) if _is_sealed(connection, path) else None
        compare(path, head, anchor)
        timer = _Time(connection, seconds)
        for part in (_pages, _seals, _bodies, _chains):
            try:
                part(connection, head, looked)
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_INTERRUPT:
                    raise
                looked.is_complete = False
        del timer
    return looked


def _finish_making(path: Path) -> None:
    """A ledger whose maker was killed before its first commit, or before it had a log, has a rollback journal: whoever only
    reads cannot read past that. Rolled back it is as it was.
    """
    if path.with_name(f"{path.name}-journal").exists():
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path, timeout=5.0)) as maker:
            maker.execute("SELECT count(*) FROM sqlite_schema").fetchone()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    if not path.exists():
        raise LedgerError(f"There is no ledger at {path} yet.")
    try:
        connection = sqlite3.connect(
            f"file:{quote(os.fsencode(path))}?mode=ro", uri=True, timeout=5.0, isolation_level=None
        )
    except sqlite3.Error as error:
        raise LedgerError(f"The ledger {path} cannot be read: {error}.") from None
    try:
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA cell_size_check = ON")
        connection.execute("BEGIN")  # one moment for all of it
        yield connection
    except UnicodeDecodeError as error:
        raise LedgerDamagedError(f"The ledger {path} is damaged: {error}.") from None
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if isinstance(error, sqlite3.OperationalError) and code not in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
            raise  # locked, no descriptors: another time
        raise LedgerDamagedError(f"The ledger {path} is damaged: {error}.") from None
    finally:
        connection.close()


def _is_sealed(connection: sqlite3.Connection, path: Path) -> bool:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    application = int(connection.execute("PRAGMA application_id").fetchone()[0])
    tables_there = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if tables_there and application != APPLICATION_ID:
        raise LedgerError(f"{path} is a database, but not a ledger of seclea.", "Move it away, or set SECLEA_HOME.")
    if version > len(scripts()):
        raise LedgerTooNewError(
            f"The ledger {path} has version {version}, this seclea knows {len(scripts())}; it is left untouched.",
            "Upgrade seclea, or set SECLEA_HOME to another directory.",
        )
    return version >= _SEALED_SINCE


def _pages(connection: sqlite3.Connection, _head: sqlite3.Row | None, looked: Looked) -> None:
    for (said,) in connection.execute("PRAGMA integrity_check(20)").fetchall():
        if said != "ok":
            looked.wrong.append(said)


class _Sum:
    """An aggregate: rows of a table, the sum of their seals, and how many do not have the right one."""

    key = b""
    table: Table

    def __init__(self) -> None:
        self.rows = self.total = self.bad = 0

    def step(self, seal: Any, *values: Any) -> None:
        """One row."""
        self.rows += 1
        try:
            good = (
                type(seal) is bytes
                and len(seal) == SEAL_BYTES
                and seal_of(self.key, self.table.name, int.from_bytes(seal[:8], "big"), values) == seal
            )
        except (ValueError, TypeError, OverflowError):
            good = False
        if good:
            self.total += weight(seal)
        else:
            self.bad += 1

    def finalize(self) -> bytes:
        """Rows, sum, bad ones."""
        packed: bytes = msgpack.packb((self.rows, (self.total % _MODULUS).to_bytes(16, "big"), self.bad))
        return packed


def _seals(connection: sqlite3.Connection, head: sqlite3.Row | None, looked: Looked) -> None:
    if head is None:
        return
    sums = msgpack.unpackb(head["sums"])
    for one in sorted(tables(version_of(sums)), key=lambda table: table.name == "records"):  # the largest last
        arguments = ", ".join("body IS NULL" if name == "body" else name for name in one.columns)
        summing = type("_SumOf", (_Sum,), {"key": head["ledger"], "table": one})
        connection.create_aggregate(f"seclea_sum_{one.name}", -1, summing)
        (found,) = connection.execute(f"SELECT seclea_sum_{one.name}(seal, {arguments}) FROM {one.name}").fetchone()  # noqa: S608
        rows, total, bad = msgpack.unpackb(found) if found is not None else (0, bytes(16), 0)
        looked.rows += rows
        expected, sum_ = sums.get(one.name, (0, bytes(16)))
        if bad:
            looked.wrong.append(f"{bad} of {rows} rows of {one.name} are not what was committed")
        if rows != expected:
            looked.wrong.append(f"{one.name} has {rows} rows, of {expected} that were committed")
        elif total != sum_ and not bad:
            looked.wrong.append(f"rows of {one.name} are in an earlier form")


def _bodies(connection: sqlite3.Connection, _head: sqlite3.Row | None, looked: Looked) -> None:
    connection.create_function("seclea_sha256", 1, lambda body: hashlib.sha256(body).digest(), deterministic=True)
    (bad,) = connection.execute(
        "SELECT count(*) FROM records WHERE body IS NOT NULL AND digest IS NOT NULL AND seclea_sha256(body) <> digest"
    ).fetchone()
    if bad:
        looked.wrong.append(f"{bad} bodies of records are not what was committed")


def _chains(connection: sqlite3.Connection, _head: sqlite3.Row | None, looked: Looked) -> None:
    rows = connection.execute(
        "SELECT s.uuid, r.stream, r.lane, r.first, r.last, r.kind, r.digest, r.chain FROM records r JOIN streams s"
        " ON s.id = r.stream WHERE r.stands_for IS NULL AND r.first IS NOT NULL ORDER BY r.stream, r.lane, r.first"
    )
    before: Sequence[Any] = ()
    broken = 0
    for row in rows:
        lane = (row["stream"], row["lane"])
        if before and before[0] == lane and row["first"] == before[1] + 1:
            follows = chain_hash(
                before[2], row["uuid"], row["lane"], row["first"], row["last"], row["kind"], row["digest"]
            )
            broken += follows != row["chain"]
        before = (lane, row["last"], row["chain"])
    if broken:
        looked.wrong.append(f"{broken} records do not follow from the one before")
