"""Records that are sent again: what the portal has lost, and what a person asks to try once more.

Rule 1  What the portal acknowledged and has no more (a database put back to an earlier copy) is open again in its own
        place: same sequence, key, body and chain. What is not kept here any more holds up its lane until a person says so;
        then a tombstone takes its place.
Rule 2  A refused record whose place a tombstone has is sent again as a new record at the end of its lane: a chain is never
        rewritten, and what was refused stays to be seen in it. Without a tombstone it goes in its own place.
Rule 3  What was held behind a refused one follows it, in the same order; what still stands behind another stays held.
"""

from __future__ import annotations

import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from seclea.ledger.db import Ledger
from seclea.records import (
    BULK_KINDS,
    Event,
    Lane,
    RecordKind,
    chain_hash,
    idempotency_key,
    pack_metrics,
    tombstone_body,
    unpack_metrics,
)
from seclea.writer.bodies import finish_body
from seclea.writer.settle import Settler

log = logging.getLogger(__name__)

OPS = frozenset({"lost", "lost entities", "stuck", "broken"})  # of the settle queue
_GONE = "the portal has lost it (an earlier copy of its database?), and what it held is not kept here any more: put back a later copy, or run `seclea retry` to go on with a tombstone in its place"  # fmt: skip  # noqa: E501


@dataclass(frozen=True, slots=True)
class Retried:
    """What came of `Again.retry`: records that are sent again, and those that cannot be."""

    again: int = 0
    left: int = 0


class Again:
    """Opens records again, inside a transaction of the caller; ``settler`` makes the tombstones."""

    def __init__(self, ledger: Ledger, settler: Settler) -> None:
        self._ledger = ledger
        self._settler = settler

    # -- what the portal has lost ----------------------------------------------------------------------------------

    def apply(self, message: Mapping[str, Any]) -> None:
        """Apply what the sender found out (``lost``, ``lost entities``, ``stuck``)."""
        op = message["op"]
        if op == "lost":
            row = self._ledger.record_row(int(message["record"]))
            if row is not None:
                self._lose(row["stream"], row["lane"], int(message["expected"]))
        elif op == "lost entities":
            for uuid in message["entities"]:
                row = self._ledger.delivery_of(str(uuid))
                if row is not None and row["first"] is not None:
                    self._lose(row["stream"], row["lane"], row["first"])
        elif op == "stuck":
            row = self._ledger.record_row(int(message["record"]))
            if row is not None and row["status"] == "Transmitting":
                if message.get("gone"):
                    self._settler.free_chunks += self._ledger.drop_payload(row["id"])
                self._ledger.hold(row["id"], _GONE if message.get("gone") else str(message["reason"])[:1000])
        elif op == "broken":
            row = self._ledger.record_row(int(message["record"]))
            if row is not None and row["status"] == "Transmitting":
                self._go_on_elsewhere(row, int(message["expected"]))

    def _lose(self, stream: int, lane: str, expected: int) -> None:
        rows = self._ledger.delivered_from(stream, lane, expected)
        if not rows:
            return
        for row in rows:
            self._ledger.lose(row["id"])
            if row["body"] is None:
                self._ledger.hold(row["id"], _GONE)
        words = (
            f"{len(rows)} records of stream {self._ledger.stream_row(stream)['uuid'].hex()} {lane} from {expected} on"
        )
        log.warning("the portal has lost %s", words)
        self._ledger.add_event("lost at the portal", words)
        self._settler.touched.add(rows[0]["destination"])

    # -- what was lost with a damaged ledger -----------------------------------------------------------------------

    def _go_on_elsewhere(self, row: sqlite3.Row, expected: int) -> None:
        """The portal lacks what the ledger has lost, from ``expected`` up to this record: the lane ends there. What was to
        follow goes in another stream, behind a tombstone that counts what is missing.
        """
        old = self._ledger.stream_row(row["stream"])
        new = self._ledger.stream_row(self._ledger.successor_of(row["stream"]))
        why = (
            f"lost with a damaged ledger: {row['lane']} {expected} to {row['first'] - 1} of stream {old['uuid'].hex()}"
        )
        self._leave_stone(new, row["lane"], RecordKind.METRICS, row["first"] - expected, why)
        self._ledger.add_event(
            "damaged", why, destination=row["destination"], reason="damaged", count=row["first"] - expected
        )
        for one in self._ledger.open_from(row["stream"], row["lane"], row["first"]):
            if one["stands_for"] is None:
                self._send_anew(one, new)
                continue
            body = json.loads(one["body"])
            self._leave_stone(new, one["lane"], RecordKind(body["kind"]), body["count"], body["detail"], body["reason"])
            self._ledger.fail(one["id"], Event.DAMAGED, why)
            self._ledger.let_be(one["id"])
        self._settler.touched.add(row["destination"])

    def _leave_stone(
        self, stream: sqlite3.Row, lane: str, kind: RecordKind, count: int, why: str, reason: str = "damaged"
    ) -> None:
        if reason == "adopted":  # which names what it stands for, and takes its place
            reason = "held"
        body = tombstone_body(kind, count, reason, why)
        stone = self._ledger.add_record(
            RecordKind.TOMBSTONE, stream["destination"], stream["id"], Lane(lane), run=stream["run"]
        )
        self._place(stone, stream, Lane(lane), RecordKind.TOMBSTONE, body, len(body))

    # -- what a person asks for ------------------------------------------------------------------------------------

    def retry(self, destination: int | None = None) -> Retried:
        """Open what was refused, and what was held behind it."""
        again = left = 0
        failed = self._ledger.failed_records(destination)
        for row in self._ledger.held_records(destination):
            if row["receipt"] is not None and row["status"] == "Transmitting":  # lost there, gone here
                self._bury(row)
                again += 1
        for row in failed:
            if self._reopen(row):
                again += 1
            else:
                left += 1
        held = self._ledger.held_records(destination)
        still = {row["entity"] for row in held if row["entity"] is not None}
        # From another ring a child may stand before its parent: again, until nothing more is freed.
        while free := [row for row in held if not self._stands_behind(row, still)]:
            for row in free:
                held.remove(row)
                still.discard(row["entity"])
                self._release(row)
            again += len(free)
        return Retried(again, left)

    def _bury(self, row: sqlite3.Row) -> None:
        if row["body"] is None or self._has_no_payload(row):
            self._settler.give_up(row, "lost at the portal, and not kept here any more", Event.DAMAGED)
        else:
            self._ledger.release_hold(row["id"])
            self._settler.touched.add(row["destination"])

    def _has_no_payload(self, row: sqlite3.Row) -> bool:
        return RecordKind(row["kind"]) in BULK_KINDS and not self._ledger.chunks_of(row["id"])

    def _reopen(self, row: sqlite3.Row) -> bool:
        """Whether a failed record is sent again. Not what was never whole: damaged, or refused by us at the call."""
        if row["body"] is None or row["first"] is None or self._has_no_payload(row):
            return False
        if row["entity"] is not None and row["kind"] != RecordKind.TOMBSTONE:
            try:
                with self._ledger.savepoint():
                    self._ledger.set_refused(row["entity"], False)
            except sqlite3.IntegrityError:
                return False  # another has its name or content by now
        if self._ledger.stone_of(row["id"]) is None:
            self._ledger.reopen(row["id"])
            self._settler.touched.add(row["destination"])
        else:
            self._send_anew(row)
        return True

    def _release(self, row: sqlite3.Row) -> None:
        if row["status"] == "Transmitting" and self._ledger.stone_of(row["id"]) is not None:
            self._send_anew(row)
        else:
            self._ledger.release_hold(row["id"])
            self._settler.touched.add(row["destination"])

    def _stands_behind(self, row: sqlite3.Row, held: Iterable[str]) -> bool:
        """Whether something that this record needs is refused, or held itself (``held``)."""
        for uuid in self._ledger.needs_of(row["id"]):
            entity = self._ledger.entity(uuid)
            if uuid == row["entity"] or entity is None:
                continue
            if entity["refused"] or entity["uuid"] in held:
                return True
        return False

    def _send_anew(self, row: sqlite3.Row, stream: sqlite3.Row | None = None) -> None:
        """A new record with this one's content, at the end of its lane; or of that lane of another stream."""
        kind, lane = RecordKind(row["kind"]), Lane(row["lane"])
        hold = row["hold"] if stream is not None else None
        stream = stream or self._ledger.stream_row(row["stream"])
        sequence, _ = self._ledger.lane(stream["id"], lane)
        calls = row["last"] - row["first"] + 1
        body = row["body"]
        if kind is RecordKind.METRICS:
            body = _moved(body, sequence + 1, sequence + calls)
        elif kind is RecordKind.FINISH and stream["id"] != row["stream"]:
            body = self._finish_anew(body, stream, sequence + 1)
        needs = [uuid for uuid in self._ledger.needs_of(row["id"]) if uuid not in (row["run"], row["entity"])]
        anew = self._ledger.add_record(
            kind, row["destination"], stream["id"], lane,
            entity=row["entity"], run=row["run"], points=row["points"], needs=needs, hold=hold,
        )  # fmt: skip
        chunks = self._ledger.chunks_of(row["id"])
        self._ledger.add_chunks(anew, chunks)
        self._ledger.release_chunks(row["id"])  # the new one needs them: none is free
        self._place(anew, stream, lane, kind, body, len(body) + sum(size for _, size in chunks), calls)
        self._ledger.replace(row["id"], anew)
        self._settler.touched.add(row["destination"])

    def _place(
        self, record: int, stream: sqlite3.Row, lane: Lane, kind: RecordKind, body: bytes, size: int, calls: int = 1
    ) -> None:
        """Give a record the next place of a lane."""
        sequence, previous = self._ledger.lane(stream["id"], lane)
        first, last = sequence + 1, sequence + calls
        digest = hashlib.sha256(body).digest()
        chain = chain_hash(previous, stream["uuid"], lane, first, last, kind, digest)
        key = idempotency_key(stream["uuid"], lane, first)
        self._ledger.seal(record, stream["uuid"], stream["id"], lane, kind, first, last, key, body, digest, chain, size)

    def _finish_anew(self, body: bytes, stream: sqlite3.Row, sequence: int) -> bytes:
        """The end of a run, with its streams as they are now: what was to follow in a stream that ended does in another."""
        fields = json.loads(body)
        lanes = [(row["uuid"], row["lane"], row["sequence"]) for row in self._ledger.streams_of_run(stream["run"])]
        ours = (stream["uuid"], str(Lane.ORDERED))
        lanes = [(uuid, lane, sequence if (uuid, lane) == ours else last) for uuid, lane, last in lanes]
        return finish_body(fields["status"], fields["finished_ns"], lanes)


def _moved(body: bytes, first: int, last: int) -> bytes:
    """A batch of metrics in another place of its stream."""
    batch = unpack_metrics(body)
    batch.first, batch.last = first, last
    return pack_metrics(batch)
