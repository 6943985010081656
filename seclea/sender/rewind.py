"""When the portal has less (or more) of a stream than the ledger says: what is told to the writer.

    expects an earlier record that it acknowledged   lost there: the writer opens it and all after it again
    expects a later record                           it has this one; proved by the chain of its head, else stuck
    lacks a parent that it acknowledged              lost there, too
    expects what was lost with a damaged ledger      the stream ends there: the writer goes on in another (writer/broken.py)
    anything else                                    stuck: held, with the reason

Rule 1  Where one stream was lost others were: the portal is asked for the heads of all, so that also those are healed that
        have nothing more to send.
Rule 2  Nothing goes round for ever: a portal that asks `MOST_REWINDS` times for one thing that it acknowledged is not believed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from seclea.api.api import Api
from seclea.contract import Outcome, Verdict
from seclea.ledger.view import LedgerView
from seclea.records import Record, Status

MOST_REWINDS = 3  # to one place, in the life of a sender: a portal is seldom put back to an earlier copy


class Rewind:
    """The gaps of one lane."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self._tell = tell
        self._asked: dict[object, tuple[int, int | None]] = {}  # what was lost → how often, opened again when

    def gap(self, record: Record, outcome: Outcome, view: LedgerView) -> bool:
        """The portal wants another record of this stream first; whether it has lost that one."""
        expected = outcome.expected or 0
        if expected > record.first:
            self.stuck(record, outcome.detail)
            return False
        row = view.lane_row(record.stream, record.lane, first=expected)
        if row is None and view.is_damaged(record.stream):
            self._tell({"op": "broken", "record": record.id, "expected": expected})
        elif row is None:
            self.stuck(
                record, f"the portal expects record {expected} of this stream, of which the ledger knows nothing"
            )
        elif row["status"] == Status.FAILED:
            self.stuck(record, f"the portal expects record {expected} of this stream, which failed: `seclea retry`")
        elif row["status"] == Status.COMPLETED and self._is_news((record.stream, expected), row["reopened_ns"], record):
            self._tell({"op": "lost", "record": record.id, "expected": expected})
            return True
        return False

    def missing(self, record: Record, outcome: Outcome, view: LedgerView) -> list[str]:
        """The portal lacks a parent; those of our entities that it acknowledged and must be sent again."""
        needs = [view.project_of(record.id), *view.needs_of(record.id)]
        lost = []
        for uuid, remote_id in view.remote_ids(needs).items():
            if uuid in outcome.missing or remote_id in outcome.missing:
                row = view.delivery_of(uuid)
                if row is not None and self._is_news(uuid, row["reopened_ns"], record):
                    lost.append(uuid)
                elif row is None and view.is_lost(uuid):
                    self.stuck(record, f"the portal lacks {uuid}, of which nothing is kept here that could be sent")
        if lost:
            self._tell({"op": "lost entities", "entities": lost})
        return lost

    def compare(self, stream: bytes, lane: str, head: tuple[int, bytes] | Outcome, view: LedgerView) -> bool:
        """Compare the portal's head of a lane with the ledger; whether that could be done."""
        if isinstance(head, Outcome):
            if head.verdict is not Verdict.MISSING:
                return False
            head = (0, b"")
        expected = head[0] + 1
        row = view.lane_row(stream, lane, first=expected)
        is_lost = row is not None and row["status"] == Status.COMPLETED
        if row is not None and is_lost and self._is_news((stream, expected), row["reopened_ns"], None):
            self._tell({"op": "lost", "record": row["id"], "expected": expected})
        return True

    def stuck(self, record: Record, reason: str, *, gone: bool = False) -> None:
        """Nothing of this stream can go before a person has done something. ``gone``: its payload is not here any more."""
        self._tell({"op": "stuck", "record": record.id, "reason": reason, "gone": gone})

    def _is_news(self, what: object, reopened_ns: int | None, record: Record | None) -> bool:
        times, opened_ns = self._asked.get(what, (0, -1))
        if opened_ns == reopened_ns:
            return False  # told, and not committed yet
        if times >= MOST_REWINDS:
            if record is not None:
                self.stuck(record, "the portal asks again and again for what it acknowledged")
            return False
        self._asked[what] = (times + 1, reopened_ns)
        return True


def proved_by_head(record: Record, outcome: Outcome, organization: str, api: Api, view: LedgerView) -> Outcome:
    """What the portal has already, under another key: delivered where the chain of its head is the one that follows from our
    records. ``outcome`` is the gap.
    """
    head = api.head(record.stream, record.lane, organization=organization)
    if isinstance(head, Outcome):
        return head
    sequence, chain = head
    row = view.lane_row(record.stream, record.lane, last=sequence)
    # Damaged here after it was sent: only we write to this place, and whatever we sent is there.
    is_given = record.stands_for is not None and sequence >= record.last and view.is_damaged(record.stream)
    if not is_given and (row is None or row["chain"] != chain or sequence < record.last):
        said = f"the portal has another history of this stream: its head is {sequence} with the chain {chain.hex()}"
        return replace(outcome, detail=said)
    receipt = {"stream": record.stream.hex(), "lane": str(record.lane), "sequence": sequence, "chain": chain.hex()}
    return Outcome(Verdict.DELIVERED, 200, remote_id=record.entity, receipt=receipt)
