"""Records that are opened again: rows that the portal acknowledged and lost, and rows that a person wants sent again.

A part of `Ledger`, and like it the writer's alone.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Sequence

from seclea.ledger.view import LOCAL_ONLY, OPEN, Reader
from seclea.records import Event, Status


class Reopening(Reader):
    """What `Ledger` can do with records that were settled."""

    def _change(self, record: int, event: Event) -> Status:
        raise NotImplementedError  # abstract: `Ledger` has it

    def release_chunks(self, record: int) -> list[str]:
        raise NotImplementedError  # abstract: `Ledger` has it

    def set_meta(self, key: str, value: str) -> None:
        raise NotImplementedError  # abstract: `Ledger` has it

    def add_stream(
        self, uuid: bytes, ring: bytes, index: int, destination: int, project: str, run: str | None, rank: int
    ) -> int:
        raise NotImplementedError  # abstract: `Ledger` has it

    def delivered_from(self, stream: int, lane: str, first: int) -> list[sqlite3.Row]:
        """Records of a lane that the portal acknowledged, from this sequence on, in order."""
        return self._all(
            "SELECT * FROM records WHERE stream = ? AND lane = ? AND first >= ? AND status = 'Completed' ORDER BY first, id",
            (stream, lane, first),
        )

    def lose(self, record: int) -> None:
        """The portal no longer has what it acknowledged: open again, with the receipt that it gave. Its payload counts again
        as needed, whether it is still here or not.
        """
        row = self._one("SELECT * FROM records WHERE id = ?", (record,))
        assert row is not None
        self._change(record, Event.LOST)
        self._connection.execute("UPDATE records SET reopened_ns = ? WHERE id = ?", (time.time_ns(), record))
        local = LOCAL_ONLY if row["receipt"] == '{"local_only":true}' else ""
        self._connection.execute(
            "UPDATE totals SET records = records - 1, points = points - ?, bytes = bytes - ?"
            " WHERE destination = ? AND kind = ?",
            (row["points"], row["size"], row["destination"], row["kind"] + local),
        )
        if row["entity"] is not None and row["stands_for"] is None:
            self._connection.execute("UPDATE entities SET remote_id = NULL WHERE uuid = ?", (row["entity"],))
        self._connection.executemany(
            "INSERT INTO chunks (sha256, bytes, refs) VALUES (?, ?, 1) ON CONFLICT DO UPDATE SET refs = refs + 1",
            self.chunks_of(record),
        )

    def reopen(self, record: int) -> None:
        """A failed record is sent once more, in its own place."""
        self._change(record, Event.RETRIED)
        self._connection.execute(
            "UPDATE records SET reopened_ns = ?, error = NULL WHERE id = ?", (time.time_ns(), record)
        )

    def replace(self, record: int, successor: int) -> None:
        """Another record goes in the stead of this one, whose own place a tombstone has. It keeps its reason."""
        self._change(record, Event.REPLACED)
        self._connection.execute(
            "UPDATE records SET sent_again = ?, error = coalesce(error, hold), hold = NULL WHERE id = ?",
            (successor, record),
        )

    def release_hold(self, record: int) -> None:
        """Nothing stands in the way of a held record any more."""
        self._connection.execute("UPDATE records SET hold = NULL WHERE id = ?", (record,))

    def let_be(self, record: int) -> None:
        """A failed record that nobody has to look at: its tombstone stands elsewhere."""
        self._connection.execute("UPDATE records SET dismissed_ns = ? WHERE id = ?", (time.time_ns(), record))

    def open_from(self, stream: int, lane: str, first: int) -> list[sqlite3.Row]:
        """Open records of a lane that have their place, from this sequence on, in order."""
        return self._all(
            "SELECT * FROM records WHERE stream = ? AND lane = ? AND first >= ? AND status = 'Transmitting' ORDER BY first, id",
            (stream, lane, first),
        )

    def successor_of(self, stream: int) -> int:
        """The stream that goes on for one that ended here; made the first time. Its ring speaks for that one from now on."""
        key = f"goes on for stream {stream}"
        known = self.meta(key)
        if known is not None:
            return int(known)
        row = self._one("SELECT * FROM streams WHERE id = ?", (stream,))
        assert row is not None
        self._connection.execute("UPDATE streams SET ring_index = ? WHERE id = ?", (-stream, stream))
        successor = self.add_stream(
            os.urandom(16), row["ring"], row["ring_index"] if row["ring_index"] >= 0 else -stream - (1 << 40),
            row["destination"], row["project"], row["run"], row["rank"],
        )  # fmt: skip
        self.set_meta(key, str(successor))
        return successor

    def failed_records(self, destination: int | None = None) -> list[sqlite3.Row]:
        """Failed records that no other has replaced, in order."""
        where = "" if destination is None else " AND destination = ?"
        return self._all(
            f"SELECT * FROM records WHERE status = 'Failed' AND sent_again IS NULL AND dismissed_ns IS NULL{where} ORDER BY id",  # noqa: S608
            () if destination is None else (destination,),
        )

    def held_records(self, destination: int | None = None) -> list[sqlite3.Row]:
        """Open records that are held, in order."""
        where = "" if destination is None else " AND destination = ?"
        return self._all(
            f"SELECT * FROM records WHERE {OPEN} AND hold IS NOT NULL{where} ORDER BY id",  # noqa: S608
            () if destination is None else (destination,),
        )

    def dismiss(self, records: Sequence[int] | None) -> int:
        """Let failed and held records be (None: all of them); how many that were."""
        failed, held = self.conditions_of_trouble()
        which = "" if records is None else f" AND id IN ({', '.join('?' * len(records))})"
        return self._connection.execute(
            f"UPDATE records SET dismissed_ns = ? WHERE (({failed}) OR ({held})){which}",  # noqa: S608
            (time.time_ns(), *(records or ())),
        ).rowcount

    def stone_of(self, record: int) -> sqlite3.Row | None:
        """The tombstone in this record's place."""
        return self._one("SELECT * FROM records WHERE stands_for = ?", (record,))

    def kept_bytes(self) -> int:
        """Bytes of delivered metrics that are kept (`drop_bodies`)."""
        row = self._one(
            "SELECT coalesce(sum(size), 0) AS bytes FROM records"
            " WHERE kind = 'metrics' AND status = 'Completed' AND body IS NOT NULL"
        )
        assert row is not None
        return int(row["bytes"])

    def drop_bodies(self, keep_bytes: int) -> int:
        """Drop the bodies of the oldest delivered metrics, down to ``keep_bytes``; what is left. Rows, digests and chain stay.

        Those that a base-only portal had no place for are nowhere else, and stay too.
        """
        left = self.kept_bytes()
        for row in self._all(
            "SELECT id, size FROM records INDEXED BY records_bodies"
            " WHERE kind = 'metrics' AND status = 'Completed' AND body IS NOT NULL ORDER BY id"
        ):
            if left <= keep_bytes:
                break
            dropped = self._connection.execute(
                "UPDATE records SET body = NULL WHERE id = ? AND receipt <> '{\"local_only\":true}'", (row["id"],)
            ).rowcount
            left -= row["size"] * dropped
        return left

    def drop_payload(self, record: int) -> list[str]:
        """A record's payload is not here any more; chunks that nobody needs now."""
        free: list[str] = self.release_chunks(record)
        self._connection.execute("DELETE FROM record_chunks WHERE record = ?", (record,))
        return free
