"""What people ask about as numbers: what was left out, attempts that did not come through, each by reason.

A ledger that an older seclea made, and no writer of this one has opened yet, has no such numbers: nothing is said then.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seclea.ledger.view import Part, Reader


@dataclass(frozen=True, slots=True)
class Tally:
    """How often something came to pass for one ``reason``, how long it took in all, and when it last did (ns, UTC)."""

    reason: str
    count: int
    seconds: float = 0.0
    last_ns: int = 0


def _ask(view: Reader, sql: str, parameters: Sequence[Any] = ()) -> list[sqlite3.Row]:
    try:
        return view._all(sql, parameters)
    except sqlite3.OperationalError as error:
        if "no such" in str(error):  # table or column: an older ledger
            return []
        raise


def left_out(view: Reader, destination: int | None = None) -> list[Tally]:
    """What is in no record, by reason, the most first: log calls that were dropped, what was damaged, gaps."""
    rows = _ask(
        view,
        "SELECT reason, sum(count) AS n, max(last_ns) AS last FROM losses"
        " WHERE ?1 IS NULL OR destination IN (0, ?1) GROUP BY reason ORDER BY n DESC, reason",
        (destination,),
    )
    return [Tally(row["reason"], row["n"], last_ns=row["last"]) for row in rows]


def left_out_since(view: Reader, destination: int | None, since_ns: int) -> list[Tally]:
    """The same of what was left out from a moment on; of long ago the ledger may have the sums only."""
    rows = _ask(
        view,
        "SELECT coalesce(reason, kind) AS reason, sum(coalesce(count, 1)) AS n, max(time_ns) AS last FROM events"
        " WHERE kind IN ('left out', 'damaged', 'gap') AND time_ns >= ?1"
        " AND (?2 IS NULL OR destination IS NULL OR destination = ?2) GROUP BY 1 ORDER BY n DESC, 1",
        (since_ns, destination),
    )
    return [Tally(row["reason"], row["n"], last_ns=row["last"]) for row in rows]


def attempts(view: Reader, destination: int) -> list[Tally]:
    """Attempts that did not come through, by HTTP status or word, the most first."""
    rows = _ask(
        view, "SELECT reason, count FROM attempts WHERE destination = ? ORDER BY count DESC, reason", (destination,)
    )
    return [Tally(row["reason"], row["count"]) for row in rows]


def troubled(view: Reader, destination: int | None = None, part: Part | None = None) -> tuple[int, int]:
    """(failed, held) records, all of them."""
    where = "" if destination is None else " AND destination = ?"
    values: list[Any] = [] if destination is None else [destination]
    if part is not None:
        condition, more = part.streams()
        where, values = where + condition, values + more
    counts = []
    for some in view.conditions_of_trouble():
        (row,) = view._all(f"SELECT count(*) AS n FROM records WHERE {some}{where}", values)  # noqa: S608
        counts.append(row["n"])
    return counts[0], counts[1]
