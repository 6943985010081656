"""What is whole of a damaged ledger, in a new one.

Rule 1  The damaged files are read only (pages.py) and lie aside whole before the new ledger is begun.
Rule 2  A row counts when its seal says so, in the form of the latest commit. Deleted rows may come back where the damage
        hides that they were deleted: that does no harm (mend.py).
Rule 3  What is missing is counted by what the latest commit says of each table. Where even that is gone, it is said so.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from seclea.ledger.anchor import Moment, anchor_of, read_anchor
from seclea.ledger.migrations import migrate
from seclea.ledger.pages import Cell, Pages
from seclea.ledger.seals import SEAL_BYTES, Table, head_seal, is_sealed, number_in, tables, version_of, weight

_MODULUS = 1 << 128
_ROWS = 1000  # inserted at once

_Shapes = dict[tuple[bool, int], list[Table]]  # tables by whether they have a rowid, and by the columns of a row


@dataclass(slots=True)
class Found:
    """What came of a salvage.

    Attributes:
        number: the latest commit that is found whole (0: none), and ``of`` the latest that there was, as far as is known.
        rows: by table, rows that are in the new ledger.
        missing: by table, rows that are not (-1: some, nobody knows how many).
    """

    number: int = 0
    of: int = 0
    rows: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)

    @property
    def lost_commits(self) -> int:
        """Commits of which nothing says what they held."""
        return max(0, self.of - self.number)

    def is_whole(self, table: str) -> bool:
        """Whether all rows of a table are there, as they were last."""
        return not self.lost_commits and self.number > 0 and not self.missing.get(table)

    def words(self) -> str:
        """What is lost, for a person."""
        parts = []
        if self.lost_commits:
            parts.append(f"its latest {self.lost_commits} commits")
        parts += [
            f"{'some' if count < 0 else count} {'row' if count == 1 else 'rows'} of {table}"
            for table, count in sorted(self.missing.items())
            if count
        ]
        return ", ".join(parts) or "nothing"


def is_ours(path: Path) -> bool:
    """Whether a file that sqlite takes for no ledger was one: a row in it has a seal of the ledger that this home had.

    Raises:
        OSError: it cannot be read.
    """
    with Pages(path) as pages:
        anchor = read_anchor(anchor_of(path))
        return anchor is not None and (not path.exists() or next(_sealed(pages, anchor), None) is not None)


def salvage(damaged: Path, fresh: Path) -> Found:
    """Write what is whole of the ledger at ``damaged`` into a new file, without seals (the next `Ledger` makes them).

    Raises:
        OSError, sqlite3.Error: the new one cannot be written.
    """
    anchor = read_anchor(anchor_of(damaged))
    with Pages(damaged) as pages:
        heads = list(_heads(pages, anchor))
        head = max(heads, key=lambda one: one[1].number, default=None)
        found = Found(of=anchor.number if anchor is not None else 0)
        ledger = anchor.ledger if anchor is not None else head[1].ledger if head is not None else b""
        sums: dict[str, Any] = {}
        if head is not None:
            found.number, sums = head[1].number, msgpack.unpackb(head[0])
            found.of = max(found.of, found.number)
        connection = sqlite3.connect(fresh, isolation_level=None)
        try:
            connection.execute(f"PRAGMA page_size = {4096}")
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            migrate(connection, str(fresh))
            connection.execute("PRAGMA journal_mode = OFF")
            connection.execute("PRAGMA synchronous = OFF")  # `_sync` before it takes its name
            connection.execute("PRAGMA foreign_keys = OFF")
            indices = connection.execute(
                "SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL"
            ).fetchall()
            for name, _ in indices:
                connection.execute(f"DROP INDEX {name}")
            # How rows were sealed. The anchor lags at most; without both it is as this version does.
            version = version_of(sums) if sums else anchor.version if anchor is not None else None
            gather = _Gathering(connection, ledger, found.of, tables(version))
            gather.take(pages, deep=False)
            short = gather.compare(sums)
            if short or gather.has_altered:
                gather.take(pages, deep=True)
                short = gather.compare(sums)
            newest = gather.newest
            if newest > found.number:  # the head is from an earlier commit than some rows: it says nothing of them
                short = dict.fromkeys(short, -1)
                found.missing["seals"] = 1
            found.missing |= short
            found.rows = gather.counts()
            _unique(connection, indices)
        finally:
            connection.close()
    return found


def _heads(pages: Pages, anchor: Moment | None) -> Iterator[tuple[bytes, Moment]]:
    """Every row of ``seals`` that is whole: sums and moment."""
    for image in pages.images():
        cells, _ = pages.cells(image)
        for cell in cells:
            if len(cell.values) != 6 or cell.rowid != 1:
                continue
            _, ledger, number, running, sums, seal = cell.values
            if type(ledger) is not bytes or len(ledger) != 16 or (anchor is not None and ledger != anchor.ledger):
                continue
            with contextlib.suppress(ValueError, TypeError, OverflowError):
                if head_seal(ledger, number, running, sums) == seal:
                    yield sums, Moment(ledger, number, running, 0)


def _sealed(pages: Pages, anchor: Moment) -> Iterator[Cell]:
    shapes = _by_shape(tables(anchor.version))
    for image in pages.images():
        for cell in pages.cells(image)[0]:
            if _row(cell, anchor.ledger, shapes) is not None:
                yield cell


def _row(cell: Cell, ledger: bytes, shapes: _Shapes) -> tuple[Table, list[Any], bytes] | None:
    """The table, the columns and the seal of a cell that is a row of this ledger."""
    for table in shapes.get((cell.rowid is not None, len(cell.values)), ()):
        seal = cell.values[table.places[-1]]
        if type(seal) is not bytes or len(seal) != SEAL_BYTES:
            continue
        values = [cell.values[place] for place in table.places[:-1]]
        if table.rowid_column is not None:
            values[table.rowid_column] = cell.rowid
        if is_sealed(ledger, table, values, seal):
            return table, values, seal
    return None


def _is_altered(table: Table, values: list[Any]) -> bool:
    """Whether a row's body is not what its digest says."""
    row = dict(zip(table.columns, values, strict=True))
    body, digest = row.get("body"), row.get("digest")
    return type(body) is bytes and type(digest) is bytes and hashlib.sha256(body).digest() != digest


def _by_shape(known: tuple[Table, ...]) -> _Shapes:
    shapes: _Shapes = {}
    for table in known:
        shapes.setdefault((table.has_rowid, len(table.columns) + 1), []).append(table)
    return shapes


class _Gathering:
    """Rows on their way into the new file, in memory by the thousand."""

    def __init__(self, connection: sqlite3.Connection, ledger: bytes, limit: int, known: tuple[Table, ...]) -> None:
        self._connection = connection
        self._tables = known
        self._shapes = _by_shape(known)
        self._ledger = ledger
        self._limit = limit  # later commits never were: of a transaction that was not committed
        self._rows: dict[str, list[tuple[bool, tuple[Any, ...]]]] = {table.name: [] for table in self._tables}
        # Of two rows with one seal the one whose body is whole counts: a seal does not cover a body.
        self._statements = {table.name: _upsert(connection, table, ">=") for table in self._tables}
        self._altered_ones = {table.name: _upsert(connection, table, ">") for table in self._tables}
        self._altered: set[str] = set()  # tables
        self._clear = bytearray()  # a bit for each page that is read whole, or holds the rest of a row
        self._whole: set[str] = set()
        self.newest = 0

    def take(self, pages: Pages, *, deep: bool) -> None:
        """Take rows; ``deep``: of all images, and also of pages that are not as they have to be."""
        self._altered.clear()
        for image in pages.images() if deep else pages.current():
            cells, is_clear = pages.cells(image)
            taken = [self._take(cell) for cell in cells]
            if not deep:
                if is_clear and all(taken):
                    self._mark(image.number)
            elif not self._is_marked(image.number) and not (is_clear and all(taken)):
                for cell in pages.anywhere(image):
                    self._take(cell)
        self._flush()

    def _take(self, cell: Cell) -> bool:
        row = _row(cell, self._ledger, self._shapes)
        if row is None:
            return len(cell.values) < 4  # a row of an index, most likely
        table, values, seal = row
        number = number_in(seal)
        if number > self._limit and self._limit:
            return True
        for page in cell.pages:
            self._mark(page)
        if table.name in self._whole:
            return True
        self.newest = max(self.newest, number)
        is_altered = _is_altered(table, values)
        if is_altered:
            self._altered.add(table.name)
        waiting = self._rows[table.name]
        waiting.append((is_altered, (*values, seal)))
        if len(waiting) >= _ROWS:
            self._flush()
        return not is_altered

    def _flush(self) -> None:
        self._connection.execute("BEGIN")
        for name, rows in self._rows.items():
            for is_altered, row in rows:
                with contextlib.suppress(
                    sqlite3.IntegrityError
                ):  # another row that is unique in the same: the first stays
                    self._connection.execute(self._altered_ones[name] if is_altered else self._statements[name], row)
            rows.clear()
        self._connection.execute("COMMIT")

    def _mark(self, page: int) -> None:
        place = page >> 3
        if place >= len(self._clear):
            self._clear.extend(bytes(place + 1 - len(self._clear)))
        self._clear[place] |= 1 << (page & 7)

    def _is_marked(self, page: int) -> bool:
        return page >> 3 < len(self._clear) and bool(self._clear[page >> 3] & 1 << (page & 7))

    @property
    def has_altered(self) -> bool:
        """Whether a body is not what its digest says; another image of the page may have it whole."""
        return bool(self._altered)

    def counts(self) -> dict[str, int]:
        """Rows by table."""
        return {
            table.name: self._connection.execute(f"SELECT count(*) FROM {table.name}").fetchone()[0]  # noqa: S608
            for table in self._tables
        }

    def compare(self, sums: dict[str, Any]) -> dict[str, int]:
        """By table that is not as the head says: how many rows are missing at least (-1: some)."""
        short = {}
        for table in self._tables:
            if table.name in self._whole:
                continue
            rows, total = 0, 0
            for (seal,) in self._connection.execute(f"SELECT seal FROM {table.name}"):  # noqa: S608
                rows += 1
                total += weight(seal)
            expected = sums.get(table.name)
            if expected is None:
                short[table.name] = -1
            elif total % _MODULUS == int.from_bytes(expected[1], "big") and rows == expected[0]:
                if table.name not in self._altered:
                    self._whole.add(table.name)
            else:
                short[table.name] = expected[0] - rows if expected[0] > rows else -1
        return short


def _upsert(connection: sqlite3.Connection, table: Table, newer: str) -> str:
    facts = connection.execute(f"PRAGMA table_info({table.name})").fetchall()
    primary = ", ".join(fact[1] for fact in sorted(facts, key=lambda fact: fact[5]) if fact[5])
    names = (*table.columns, "seal")
    changes = ", ".join(f"{name} = excluded.{name}" for name in names)
    return (
        f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"  # noqa: S608
        f" ON CONFLICT ({primary}) DO UPDATE SET {changes} WHERE excluded.seal {newer} {table.name}.seal"
    )


def _unique(connection: sqlite3.Connection, indices: list[tuple[str, str]]) -> None:
    """Make the indices again; where one finds two rows alike, those of entities that are older go back to being refused."""
    for _, sql in indices:
        try:
            connection.execute(sql)
        except sqlite3.IntegrityError:
            # Only entities have such: two of one name, of which a lost row said that they are the same.
            columns = sql[sql.index("(") + 1 : sql.index(")")]
            where = sql[sql.index("WHERE") + 5 :]
            connection.execute(
                f"UPDATE entities SET refused = 1 WHERE {where} AND rowid NOT IN"  # noqa: S608
                f" (SELECT min(rowid) FROM entities WHERE {where} GROUP BY {columns})"
            )
            connection.execute(sql)
