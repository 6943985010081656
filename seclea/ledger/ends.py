"""How processes and runs ended, in the ledger.

Rule 1  A run has ended when its process said so, or when the writer did in its place: one row of ``run_ends`` for both. A
        word of the process always stands, also after the writer's.
Rule 2  The writer ends a run only when each process that spoke for it is gone, and one that started it went without a word.
        A child that dies does not end its parent's run; a rank that lives keeps it running.
Rule 3  What cannot be known is not said: a run whose process came to its end in order and did not finish it stays running.
"""

from __future__ import annotations

import sqlite3
import time
from enum import StrEnum
from typing import Any

from seclea.ledger.db import Ledger
from seclea.ledger.view import LedgerView


class Ending(StrEnum):
    """How a client process went."""

    IN_ORDER = "in order"
    GONE = "gone"  # killed, crashed, left by os._exit: no word
    TOLD = "told"  # without a word, and the writer was told to end (SIGTERM) while it lived


_WITHOUT_END = (
    "FROM streams s JOIN rings r ON r.id = s.ring WHERE s.run IS NOT NULL AND s.run NOT IN (SELECT run FROM run_ends)"
    " GROUP BY s.run HAVING min(r.closed_ns IS NOT NULL) = 1"
)


class Ends:
    """What is written about ends; inside a transaction of the caller."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger

    def _run(self, sql: str, values: tuple[Any, ...]) -> None:
        self._ledger._connection.execute(sql, values)  # of the connection that there is now (`Ledger.stay_usable`)

    def note_process(self, ring: bytes, start_ticks: int, boot: bytes) -> None:
        """Which process a ring is of."""
        self._run("UPDATE rings SET start_ticks = ?, boot = ? WHERE id = ?", (start_ticks, boot, ring))

    def note_told(self, ring: bytes, told_ns: int | None) -> None:
        """The writer was told to end while this process lived; None: the process outlived that."""
        self._run("UPDATE rings SET told_ns = ? WHERE id = ?", (told_ns, ring))

    def note_ended(self, ring: bytes, how: Ending) -> None:
        """How the ring's process went."""
        self._run("UPDATE rings SET ended = ? WHERE id = ?", (how, ring))

    def open_rings(self) -> list[sqlite3.Row]:
        """Rings whose processes live, as far as the ledger knows."""
        return self._ledger._all("SELECT * FROM rings WHERE closed_ns IS NULL")

    def note_start(self, stream: int) -> None:
        """The stream's process started its run."""
        self._run("UPDATE streams SET starts = 1 WHERE id = ?", (stream,))

    def note_run(self, run: str, status: str, reason: str | None = None) -> None:
        """The run has ended."""
        self._run(
            "INSERT INTO run_ends (run, status, reason, time_ns) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE"
            " SET status = excluded.status, reason = excluded.reason, time_ns = excluded.time_ns",
            (run, status, reason, time.time_ns()),
        )

    def without_a_word(self) -> list[sqlite3.Row]:
        """Runs that the writer has to end: (run, gone, stream, pid, ring, closed_ns) of a process that started each.

        Not while something of it is being saved: the end would not count that in.
        """
        silent = (Ending.GONE, Ending.TOLD)
        return self._ledger._all(
            "SELECT w.run, w.gone, min(s.id) AS stream, r.pid, r.id AS ring, r.closed_ns FROM ("  # noqa: S608  (ours)
            f" SELECT s.run, max(s.starts = 1 AND r.ended = ?) AS gone {_WITHOUT_END}"
            "  AND max(s.starts = 1 AND r.ended IN (?, ?))) w"
            " JOIN streams s ON s.run = w.run AND s.starts = 1 JOIN rings r ON r.id = s.ring AND r.ended IN (?, ?)"
            " WHERE NOT EXISTS (SELECT 1 FROM records o WHERE o.run = w.run AND o.status = 'Saving')"
            " GROUP BY w.run",
            (Ending.GONE, *silent, *silent),
        )

    def last_metrics(self, run: str) -> bytes | None:
        """The body of what was logged last to a run, where it is still here."""
        row = self._ledger._one(
            "SELECT r.body FROM streams s JOIN records r ON r.stream = s.id WHERE s.run = ? AND r.kind = 'metrics'"
            " AND r.body IS NOT NULL ORDER BY r.id DESC LIMIT 1",
            (run,),
        )
        return None if row is None else bytes(row["body"])


def _knows_ends(view: LedgerView) -> bool:
    """Whether the ledger has the tables: the writer of an older seclea may not have been replaced yet."""
    return view._one("SELECT 1 FROM sqlite_schema WHERE name = 'run_ends'") is not None


def ended_by_writer(view: LedgerView, limit: int) -> list[sqlite3.Row]:
    """The last runs that the writer ended in the place of their process: (run, name, status, reason, time_ns)."""
    return (
        view._all(
            "SELECT d.*, coalesce(e.name, d.run) AS name FROM run_ends d LEFT JOIN entities e ON e.uuid = d.run"
            " WHERE d.reason IS NOT NULL ORDER BY d.time_ns DESC LIMIT ?",
            (limit,),
        )
        if _knows_ends(view)
        else []
    )


def without_end(view: LedgerView, limit: int) -> list[sqlite3.Row]:
    """The last runs that nobody speaks for any more and whose end nobody knows: (run, name)."""
    return (
        view._all(
            "SELECT w.run, coalesce(e.name, w.run) AS name FROM ("  # noqa: S608  (our own words)
            f" SELECT s.run, max(s.id) AS id {_WITHOUT_END} AND max(s.starts)) w"
            " LEFT JOIN entities e ON e.uuid = w.run ORDER BY w.id DESC LIMIT ?",
            (limit,),
        )
        if _knows_ends(view)
        else []
    )
