"""Outcomes of the sender into ledger rows: receipts, refusals with their tombstones, and who waits behind them.

Rule 1  An outcome may come twice (a sender that died after telling us is asked again): the second changes nothing.
Rule 2  A record that will never be sent leaves a tombstone in its place, so that its stream goes on without a hole.
Rule 3  What needs a refused entity is held, never dropped: in the session's stream behind a tombstone, in a run's stream by
        holding the stream.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Mapping
from typing import Any

from seclea.contract import Verdict
from seclea.ledger.db import Ledger
from seclea.records import Event, RecordKind, idempotency_key, tombstone_body

# Of delivered metrics, for a portal that loses them (put back to an earlier copy): the newest of the home. A million points
# are 34 MB. Entities keep their bodies for look-ups and exports; payloads go with the receipt.
KEPT_BYTES = 64 << 20
_KEPT_SHARE = 50  # and at most this part of the disk limit
# What an attempt that had no HTTP status is counted as.
_WITHOUT_STATUS: dict[str, str] = {
    Verdict.UNAVAILABLE: "not reachable",
    Verdict.UNKNOWN: "no answer",
    Verdict.HOLD: "on hold",
}


def kept_bytes(disk_limit: int) -> int:
    """How much of delivered metrics a home keeps under this limit."""
    return min(KEPT_BYTES, disk_limit // _KEPT_SHARE)


class Settler:
    """Applies what the sender says, inside a transaction of the caller.

    Attributes:
        free_chunks: chunks that nothing refers to any more, to be deleted after the commit.
        touched: destinations that have new work (tombstones).
        keep_bytes: of delivered metrics, the oldest of which are dropped beyond it; 0 where the disk limit is near.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.free_chunks: list[str] = []
        self.touched: set[int] = set()
        self.keep_bytes = KEPT_BYTES
        self._kept: int | None = None  # at least what is kept; None until asked

    def apply(self, message: Mapping[str, Any]) -> None:
        """Apply one message of the settle queue."""
        op = message.get("op")
        if op == "outcome":
            self._outcome(int(message["record"]), message)
        elif op == "attempt":
            self._attempt(int(message["record"]), message)
        elif op == "destination":
            self._ledger.set_destination(int(message["destination"]), **message["state"])
        elif op == "next try":
            at_ns = time.time_ns() + int(float(message["seconds"]) * 1e9)
            self._ledger.set_destination(int(message["destination"]), next_try_ns=at_ns)
        elif op == "requests":
            self._ledger.count_requests(int(message["destination"]), int(message["requests"]), int(message["retries"]))

    def _attempt(self, record: int, message: Mapping[str, Any]) -> None:
        error, verdict = str(message["error"])[:1000], message.get("verdict")
        self._ledger.note_attempt(record, error)
        row = self._ledger.record_row(record)
        if row is not None:
            reason = str(message.get("status") or _WITHOUT_STATUS.get(str(verdict), "other"))
            # A parent or place that is not there yet is a matter of this stream; the portal works.
            of_destination = verdict not in (Verdict.MISSING, Verdict.GAP)
            self._ledger.note_trouble(row["destination"], reason, error, of_destination=of_destination)

    def _outcome(self, record: int, message: Mapping[str, Any]) -> None:
        if not self._ledger.is_open(record):
            return
        row = self._ledger.record_row(record)
        assert row is not None
        verdict = Verdict(message["verdict"])
        detail = str(message.get("detail") or "")[:1000]
        self._ledger.end_trouble(row["destination"])
        if verdict in (Verdict.DELIVERED, Verdict.ADOPTED, Verdict.KEPT_LOCALLY):
            self._completed(row, verdict, message)
        elif verdict is Verdict.REFUSED:
            self.give_up(row, detail)

    def _completed(self, row: sqlite3.Row, verdict: Verdict, message: Mapping[str, Any]) -> None:
        record, kind = row["id"], RecordKind(row["kind"])
        event = Event.KEPT_LOCALLY if verdict is Verdict.KEPT_LOCALLY else Event.DELIVERED
        kept = {"local_only": True} if event is Event.KEPT_LOCALLY else {}
        receipt = json.dumps(message.get("receipt") or kept, separators=(",", ":"))
        # A body that is not kept goes in the same statement: a row is written whole, also to say that it is done.
        keep = kind is not RecordKind.METRICS or event is Event.KEPT_LOCALLY or self.keep_bytes > 0
        self._ledger.complete(record, event, receipt, keep_body=keep)
        if kind is RecordKind.METRICS and keep:
            self._keep(row["size"])
        self.free_chunks += self._ledger.release_chunks(record)
        remote_id = message.get("remote_id")
        if row["entity"] is not None and kind is not RecordKind.TOMBSTONE:
            # An entity kept locally counts as known: what needs it is kept locally too.
            self._ledger.set_remote_id(row["entity"], str(remote_id or row["entity"]))
            if verdict is Verdict.ADOPTED and message.get("streams"):
                self._stand_in(row, "adopted", "the portal has it already", remote_id)

    def _keep(self, size: int) -> None:
        """One more delivered body is kept; now and then, in one go, the oldest are dropped."""
        self._kept = self._ledger.kept_bytes() if self._kept is None else self._kept + size
        if self._kept > self.keep_bytes:
            self._kept = self._ledger.drop_bodies(self.keep_bytes * 3 // 4)

    def give_up(self, row: sqlite3.Row, detail: str, event: Event = Event.REFUSED) -> None:
        """The record will not be sent (``event``: refused or damaged): a tombstone in its place, its dependents held."""
        self._ledger.fail(row["id"], event, detail)
        self._ledger.add_event(event.value, f"{row['kind']} record {row['id']}: {detail}")
        if row["kind"] == RecordKind.TOMBSTONE:
            return  # nothing can stand in for a tombstone: its stream waits, visibly
        if row["kind"] != RecordKind.TRAINING_RUN:
            self._stand_in(row, event.value, detail)
        if row["entity"] is not None:
            self._ledger.set_refused(row["entity"], True)
            self._hold_dependents(row["entity"], self._refusal_of(row))

    def _refusal_of(self, row: sqlite3.Row) -> str:
        entity = self._ledger.entity(row["entity"])
        name = entity["name"] if entity is not None else ""
        return f"its {row['kind']} {name!r} was refused"

    def _hold_dependents(self, entity: str, reason: str) -> None:
        for row in self._ledger.dependents(entity):
            self._ledger.hold(row["id"], reason)
            if row["status"] == "Transmitting" and row["run"] is None:
                self._stand_in(row, "held", reason)
            if row["entity"] is not None:
                self._hold_dependents(row["entity"], reason)

    def hold_behind(self, record: int) -> None:
        """An entity's record that was recorded as held or failed: what needs it is held too, also what came first (from
        another ring); in a session's stream a tombstone takes the place of a held one.
        """
        row = self._ledger.record_row(record)
        if row is None or row["entity"] is None or (row["hold"] is None and row["status"] != "Failed"):
            return
        if row["status"] == "Transmitting" and row["run"] is None:
            self._stand_in(row, "held", row["hold"])
        self._hold_dependents(row["entity"], row["hold"] or self._refusal_of(row))

    def _stand_in(self, row: sqlite3.Row, reason: str, detail: str, remote_id: str | None = None) -> None:
        stream = self._ledger.stream_row(row["stream"])
        key = idempotency_key(stream["uuid"], row["lane"], row["first"], stands_for_record=True)
        if self._ledger.has_key(key):
            return  # recorded and held in this very transaction
        stands_for = {"kind": row["kind"], "digest": row["digest"].hex(), "uuid": row["entity"], "remote_id": remote_id}
        body = tombstone_body(row["kind"], 1, reason, detail, stands_for)
        stone = self._ledger.add_record(
            RecordKind.TOMBSTONE, row["destination"], row["stream"], row["lane"], run=row["run"], stands_for=row["id"]
        )
        self._ledger.seal_in_place(stone, row, key, body, hashlib.sha256(body).digest())
        self.touched.add(row["destination"])
