"""Seals: what shows that a row, a table or the whole ledger is not what was committed.

Rule 1  Each row of each table has a seal: the number of the commit that wrote it, and a keyed hash over all its columns. A body
        is covered by its record's digest instead, which `check` compares.
Rule 2  Each commit writes how many rows each table has and the sum of their seals, so a row that is missing, or is back in an
        earlier form, shows too. Changes are noted by temporary triggers on the writer's own connection, and sealed once each,
        right before COMMIT.
Rule 3  The key is the ledger's random id: rows of another ledger are no rows of this one.
"""

from __future__ import annotations

import functools
import hashlib
import os
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgpack

from seclea.errors import LedgerDamagedError
from seclea.ledger.anchor import Moment
from seclea.ledger.migrations import scripts

SEAL_BYTES = 24
_NUMBER_BYTES = 8
_UNSEALED = bytes(SEAL_BYTES)  # what a new row has (0009.sql)
_MODULUS = 1 << 128
_START = bytes(32)
_VERSION = ""  # beside the names of tables in ``sums``: the schema by which their rows are sealed


@dataclass(frozen=True, slots=True)
class Table:
    """A table as this version's schema has it.

    Attributes:
        columns: all but the seal, in the order in which they stand in a row.
        places: where in a stored row each of these stands, and the seal last.
        key: what names a row: the rowid, or the primary key of a table without one.
        rowid_column: the column that is the rowid (stored as NULL); None where there is none.
    """

    name: str
    columns: tuple[str, ...]
    places: tuple[int, ...]
    key: tuple[str, ...]
    rowid_column: int | None
    has_rowid: bool

    @property
    def is_key(self) -> str:
        """A condition that finds one row by its key."""
        return " AND ".join(f"{name} = ?" for name in self.key)


@functools.cache
def tables(version: int | None = None) -> tuple[Table, ...]:
    """All tables that are sealed, in the order of their names; as that ``version`` of the schema has them (None: newest)."""
    with_schema = sqlite3.connect(":memory:", isolation_level=None)
    try:
        for number, sql in scripts():
            if version is None or number <= version:
                with_schema.executescript(sql)
        found = []
        for name, has_no_rowid in with_schema.execute(
            "SELECT name, wr FROM pragma_table_list WHERE type = 'table' AND name NOT LIKE 'sqlite_%' AND name <> 'seals'"
            " ORDER BY name"
        ).fetchall():
            facts = with_schema.execute(f"PRAGMA table_info({name})").fetchall()
            order = [fact[1] for fact in facts]
            columns = tuple(one for one in order if one != "seal")
            primary = [fact[1] for fact in sorted(facts, key=lambda fact: fact[5]) if fact[5]]
            alias = [
                place for place, fact in enumerate(facts) if fact[2] == "INTEGER" and fact[5] and len(primary) == 1
            ]
            places = (*(order.index(one) for one in columns), order.index("seal"))
            key = tuple(primary) if has_no_rowid else ("rowid",)
            found.append(Table(name, columns, places, key, alias[0] if alias else None, not has_no_rowid))
        return tuple(found)
    finally:
        with_schema.close()


def version_of(sums: Mapping[str, Any]) -> int:
    """The schema's version by which the rows were sealed, from a head's ``sums``."""
    return int(sums[_VERSION][0])


def sealed_values(table: Table, values: Sequence[Any]) -> list[Any]:
    """What of a row its seal covers."""
    return [int(value is None) if name == "body" else value for name, value in zip(table.columns, values, strict=True)]


def seal_of(ledger: bytes, table: str, number: int, values: Sequence[Any]) -> bytes:
    """The seal of a row that the commit ``number`` wrote; ``values`` as `sealed_values` gives them."""
    packed: bytes = msgpack.packb((table, number, *values))
    return number.to_bytes(_NUMBER_BYTES, "big") + hashlib.blake2b(packed, digest_size=16, key=ledger).digest()


def number_in(seal: bytes) -> int:
    """The commit that wrote a row with this seal."""
    return int.from_bytes(seal[:_NUMBER_BYTES], "big")


def weight(seal: bytes) -> int:
    """What a seal adds to its table's sum."""
    return int.from_bytes(seal[_NUMBER_BYTES:], "big")


def is_sealed(ledger: bytes, table: Table, values: Sequence[Any], seal: Any) -> bool:
    """Whether a row is what was committed, its body left aside."""
    if type(seal) is not bytes or len(seal) != SEAL_BYTES:
        return False
    try:
        return seal_of(ledger, table.name, number_in(seal), sealed_values(table, values)) == seal
    except (ValueError, TypeError, OverflowError):  # nothing that was ever packed
        return False


def head_seal(ledger: bytes, number: int, running: bytes, sums: bytes) -> bytes:
    """The seal of the one row of ``seals``."""
    return seal_of(ledger, "seals", number, (running, sums))


def read_head(connection: sqlite3.Connection, path: object) -> sqlite3.Row | None:
    """The one row of ``seals``; None before there is one.

    Raises:
        LedgerDamagedError: it is not what was committed.
    """
    row: sqlite3.Row | None = connection.execute("SELECT * FROM seals WHERE id = 1").fetchone()
    if row is not None and head_seal(row["ledger"], row["number"], row["running"], row["sums"]) != row["seal"]:
        raise LedgerDamagedError(f"The ledger {path} is damaged: what it says of its own rows was altered.")
    return row


def compare(path: object, head: sqlite3.Row | None, anchor: Moment | None) -> None:
    """Compare a ledger with its anchor.

    Raises:
        LedgerDamagedError: it is another one, or behind.
    """
    if anchor is None:
        return
    if head is None:
        raise LedgerDamagedError(f"The ledger {path} is damaged: it lost all of its {anchor.number} commits.")
    if head["ledger"] != anchor.ledger:
        raise LedgerDamagedError(f"The ledger {path} is another one than this home had.")
    if head["number"] < anchor.number:
        lost = anchor.number - head["number"]
        raise LedgerDamagedError(f"The ledger {path} has lost its latest {lost} commits of {anchor.number}.")
    if head["number"] == anchor.number and head["running"] != anchor.running:
        raise LedgerDamagedError(f"The ledger {path} has another history than its anchor.")


class Seals:
    """Keeps the seals of a ledger that is being written. `finish` belongs right before each COMMIT."""

    def __init__(self, connection: sqlite3.Connection, path: object, anchor: Moment | None, version: int) -> None:
        self._connection = connection
        self._version = version
        self._tables = tables()
        head = read_head(connection, path)
        compare(path, head, anchor)
        self.ledger: bytes = head["ledger"] if head is not None else os.urandom(16)
        self._number: int = head["number"] if head is not None else 0
        self._running: bytes = head["running"] if head is not None else _START
        sums = msgpack.unpackb(head["sums"]) if head is not None else {}
        # By table: [rows, sum of seals].
        self._sums = [[sums.get(one.name, (0, b""))[0], weight_of(sums.get(one.name))] for one in self._tables]
        self._committed = self._number, self._running, [one[:] for one in self._sums]
        self._dirty: list[set[tuple[Any, ...]]] = [set() for _ in self._tables]
        self._statements = [
            f"UPDATE {one.name} SET seal = seclea_seal({place}, seal, {_arguments(one)}) WHERE {one.is_key}"  # noqa: S608
            for place, one in enumerate(self._tables)
        ]
        connection.create_function("seclea_touch", -1, self._touch)
        connection.create_function("seclea_gone", 2, self._gone)
        connection.create_function("seclea_seal", -1, self._seal)
        self._watch()
        if head is None or version_of(sums) < version:
            self._seal_all()

    @property
    def moment(self) -> Moment:
        """Where the ledger stands after its latest commit."""
        return Moment(self.ledger, self._committed[0], self._committed[1], self._version)

    def _watch(self) -> None:
        for place, one in enumerate(self._tables):
            new = ", ".join(f"NEW.{name}" for name in one.key)
            columns = ", ".join(one.columns)
            self._connection.execute(
                f"CREATE TEMP TRIGGER seal_insert_{one.name} AFTER INSERT ON main.{one.name}"
                f" BEGIN SELECT seclea_touch({place}, {new}); END"
            )
            self._connection.execute(
                f"CREATE TEMP TRIGGER seal_update_{one.name} AFTER UPDATE OF {columns} ON main.{one.name}"
                f" BEGIN SELECT seclea_touch({place}, {new}); END"
            )
            self._connection.execute(
                f"CREATE TEMP TRIGGER seal_delete_{one.name} AFTER DELETE ON main.{one.name}"
                f" BEGIN SELECT seclea_gone({place}, OLD.seal); END"
            )

    def _touch(self, place: int, *key: Any) -> None:
        self._dirty[place].add(key)

    def _gone(self, place: int, seal: bytes | None) -> None:
        if seal is not None and seal != _UNSEALED:
            self._sums[place][0] -= 1
            self._sums[place][1] = (self._sums[place][1] - weight(seal)) % _MODULUS

    def _seal(self, place: int, old: bytes | None, *values: Any) -> bytes:
        seal = seal_of(self.ledger, self._tables[place].name, self._number, values)
        sums = self._sums[place]
        if old is None or old == _UNSEALED:
            sums[0] += 1
            sums[1] = (sums[1] + weight(seal)) % _MODULUS
        else:
            sums[1] = (sums[1] + weight(seal) - weight(old)) % _MODULUS
        return seal

    def _seal_all(self) -> None:
        """A ledger that is new, was salvaged, or was made by an older version: all or nothing.

        An older one was checked as it was sealed. A migration may add tables and columns; one that changes rows has to seal
        them in its own transaction, or a kill between the two would look like damage.
        """
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._number = self._committed[0] + 1
            self._sums = [[0, 0] for _ in self._tables]
            for place, one in enumerate(self._tables):
                self._connection.execute(
                    f"UPDATE {one.name} SET seal = seclea_seal({place}, NULL, {_arguments(one)})"  # noqa: S608
                )
            self._connection.execute(
                "INSERT OR IGNORE INTO seals VALUES (1, ?, 0, ?, ?, ?)", (self.ledger, _START, b"", bytes(SEAL_BYTES))
            )
            self._write_head()
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise
        self.committed()

    def finish(self) -> None:
        """Seal what changed since the last commit; nothing where nothing did."""
        if not any(self._dirty) and self._sums == self._committed[2]:
            return
        self._number = self._committed[0] + 1
        for statement, keys in zip(self._statements, self._dirty, strict=True):
            if keys:
                self._connection.executemany(statement, list(keys))
        self._write_head()

    def _write_head(self) -> None:
        sums = {_VERSION: (self._version, b"")} | {
            one.name: (rows, sum_.to_bytes(16, "big"))
            for one, (rows, sum_) in zip(self._tables, self._sums, strict=True)
        }
        packed: bytes = msgpack.packb(sums)
        self._running = hashlib.sha256(self._running + self._number.to_bytes(_NUMBER_BYTES, "big") + packed).digest()
        self._connection.execute(
            "UPDATE seals SET number = ?, running = ?, sums = ?, seal = ? WHERE id = 1",
            (self._number, self._running, packed, head_seal(self.ledger, self._number, self._running, packed)),
        )

    def committed(self) -> bool:
        """The transaction is committed; whether it changed anything."""
        changed = self._number != self._committed[0]
        for keys in self._dirty:
            keys.clear()
        self._committed = self._number, self._running, [one[:] for one in self._sums]
        return changed

    def rolled_back(self) -> None:
        """The transaction is not committed."""
        for keys in self._dirty:
            keys.clear()
        self._number, self._running, sums = self._committed
        self._sums = [one[:] for one in sums]

    @property
    def is_behind(self) -> bool:
        """Whether rows changed that no transaction has sealed."""
        return any(self._dirty)

    def mark(self) -> list[list[int]]:
        """For `back_to`: the sums at a savepoint. (A row too many that is sealed anew does no harm.)"""
        return [one[:] for one in self._sums]

    def back_to(self, mark: list[list[int]]) -> None:
        """The savepoint was rolled back."""
        self._sums = mark


def weight_of(entry: Sequence[Any] | None) -> int:
    """The sum of a table's seals in a head's ``sums``."""
    return int.from_bytes(entry[1], "big") if entry is not None else 0


def _arguments(table: Table) -> str:
    return ", ".join("body IS NULL" if name == "body" else name for name in table.columns)
