"""One lane to one destination: which record is next, one attempt, what comes of it.

Rule 1  One request at a time in a lane; a record is offered only when all before it in its stream, and everything it needs,
        is at the portal.
Rule 2  What an attempt came to is told to the writer before the next attempt; until its commit shows in the ledger this
        lane remembers it. A sender that dies in between asks the portal again, with the same key, and gets the same reply.
Rule 3  Nothing is attempted while the breaker is open or the destination is on hold.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import takewhile
from random import Random
from typing import Any

from seclea.api.api import Api
from seclea.api.replies import outcome_of
from seclea.contract import Clock, Outcome, Verdict
from seclea.errors import (
    AuthenticationError,
    LedgerDamagedError,
    LedgerError,
    PortalError,
    PortalUnavailable,
    SecleaError,
    UnknownOrganizationError,
)
from seclea.ledger.blobs import Spool
from seclea.ledger.view import LedgerView, is_corrupt
from seclea.records import Lane, Record, RecordKind
from seclea.sender.backoff import full_jitter
from seclea.sender.breaker import LONGEST_OPEN_SECONDS
from seclea.sender.destination import DestinationState
from seclea.sender.rewind import Rewind, proved_by_head

log = logging.getLogger(__name__)

_PAGE = 256
_LOOK_SECONDS = 2.0  # the ledger is looked at this often even without a word from the writer
_LOGIN_SECONDS = 0.5  # on hold, the token store is looked at this often: a new login goes on at once
_BLOCKED_SECONDS = 0.25  # something open waits for something else: look again soon
_TOGETHER = 256  # batches of metrics in one request, after an outage
_TOGETHER_BYTES = 1 << 20  # of all of them: sent in 30 s on a line of 300 kbit/s
_SETTLED = frozenset({Verdict.DELIVERED, Verdict.ADOPTED, Verdict.KEPT_LOCALLY, Verdict.REFUSED})


@dataclass(slots=True)
class Tools:
    """What a lane works with."""

    api: Api
    spool: Spool
    open_view: Callable[[], LedgerView]
    tell: Callable[[dict[str, Any]], None]
    random: Random
    clock: Clock = time.monotonic


class LaneWorker:
    """Sends one lane's records of one destination. `step` does one thing and says how long to wait."""

    def __init__(self, state: DestinationState, lane: Lane, tools: Tools) -> None:
        self._state = state
        self._lane = lane
        self._tools = tools
        self._clock = tools.clock
        self._view: LedgerView | None = None
        self._settled: dict[int, int | None] = {}  # told to the writer, perhaps not committed yet; opened again when
        self._reopened: dict[int, int | None] = {}  # when what is being sent was opened again
        self._rewind = Rewind(tools.tell)
        self._losses = 0  # of the destination, as far as acted upon
        self._unproved: list[bytes] = []  # streams to be compared with the portal's heads, the next one last
        self._stand_ins: dict[bytes, int] = {}  # streams that wait for a tombstone at this position
        self._blocked: dict[bytes, float] = {}  # streams that must not be asked again before this time
        self._delays = full_jitter(tools.random, cap=LONGEST_OPEN_SECONDS)
        self._not_before = 0.0
        self.wake = threading.Event()
        state.wakes.append(self.wake.set)

    def run(self, stopping: threading.Event) -> None:
        """Step until told to stop."""
        while not stopping.is_set():
            self.wake.clear()
            try:
                wait_seconds = self.step()
            except (LedgerError, sqlite3.Error, OSError) as error:
                if isinstance(error, LedgerDamagedError) or is_corrupt(error):
                    self._tools.tell({"op": "damaged", "why": str(error)})
                log.warning("%s: the ledger cannot be read just now: %s", self._lane, error)
                self._close_view()
                wait_seconds = 1.0
            except SecleaError as error:
                log.error("%s: %s", self._lane, error)
                wait_seconds = 5.0
            except Exception:
                # A bug of ours must neither end the lane nor make it spin.
                log.exception("%s: unexpected", self._lane)
                wait_seconds = 5.0
            if wait_seconds > 0:
                self.wake.wait(wait_seconds)
        self._close_view()

    def _close_view(self) -> None:
        if self._view is not None:
            self._view.close()
            self._view = None

    def resume(self) -> None:
        """A person did something: try at once."""
        self._not_before = 0.0
        self._blocked.clear()
        self.wake.set()

    def step(self) -> float:
        """Send the next record, if there is one and it may be sent; seconds to wait before the next step."""
        now = self._clock()
        if self._state.hold is not None and self._state.has_another_login(self._tools.api.login_generation()):
            self._state.set_hold(None)
            self._not_before = 0.0
        if self._state.is_kept_back(now):
            return _LOGIN_SECONDS
        if now < self._not_before:
            return self._not_before - now
        record, blocked = self._next(now)
        if record is None:
            if self._compare_heads():
                return 0.0
            return _BLOCKED_SECONDS if blocked else _LOOK_SECONDS
        if not self._state.make_ready():
            return _LOOK_SECONDS
        wait_seconds = self._state.may_attempt(self._clock(), retry=record.retries > 0)
        if wait_seconds > 0:
            return wait_seconds
        for one, outcome in self._attempt(record):
            wait_seconds = self._act(one, outcome)
        return wait_seconds

    def _compare_heads(self) -> bool:
        """Where the portal has lost something, ask it how far it has another stream; whether a request was made."""
        assert self._view is not None
        if self._losses != self._state.losses:
            self._losses = self._state.losses
            self._unproved = self._view.delivered_streams(self._state.id, self._lane)
        if not self._unproved or self._state.may_attempt(self._clock(), retry=False) > 0:
            return False
        self._state.count_request(retry=False)
        try:
            organization = self._state.organization_uuid(self._tools.api)
            head = self._tools.api.head(self._unproved[-1], self._lane, organization=organization)
        except SecleaError as error:
            head = outcome_of(error)
        done = self._rewind.compare(self._unproved[-1], self._lane, head, self._view)
        if done:
            self._unproved.pop()
        if isinstance(head, Outcome):
            self._state.after_attempt(head, self._clock())
        return done

    # -- choosing ------------------------------------------------------------------------------------------------

    def _next(self, now: float) -> tuple[Record | None, bool]:
        """The next record that may be sent; and whether something waits for something else."""
        if self._view is None:
            self._view = self._tools.open_view()
        view, destination = self._view, self._state.id
        blocked = {stream for stream, until in self._blocked.items() if until > now}
        skip = blocked | self._stand_ins.keys()
        waiting = bool(skip)
        held = view.held_streams(destination, self._lane)
        after = 0
        seen: set[int] = set()
        while True:
            page = view.open_records(destination, self._lane, after, _PAGE)
            for row in page:
                seen.add(row["id"])
                if self._settled.get(row["id"], -1) == row["reopened_ns"]:
                    continue
                self._reopened = {row["id"]: row["reopened_ns"]}
                stream = row["stream"]
                if self._stand_ins.get(stream) == row["position"] and stream not in blocked:
                    return view.record(row["id"]), True
                if stream in skip or row["position"] > held.get(stream, row["position"]):
                    continue
                if self._state.lacks(view.unmet_needs(row["id"])):
                    skip.add(stream)
                    waiting = True
                    continue
                return view.record(row["id"]), waiting
            if len(page) < _PAGE:
                # Seen everything open: what is settled and no longer open is committed.
                self._settled = {record: opened for record, opened in self._settled.items() if record in seen}
                return None, waiting
            after = page[-1]["position"]

    # -- sending -------------------------------------------------------------------------------------------------

    def _attempt(self, record: Record) -> list[tuple[Record, Outcome]]:
        """Send a record, and what may go with it; what came of each that something came of."""
        self._state.count_request(retry=record.retries > 0)
        if record.kind is RecordKind.METRICS and record.retries == 0:
            together = self._attempt_together(record)
            if together is not None:
                return together
        return [(record, self._attempt_alone(record))]

    def _attempt_together(self, record: Record) -> list[tuple[Record, Outcome]] | None:
        """Send a batch of metrics with those that follow it; None where there are none, or the portal wants it alone."""
        assert self._view is not None
        api = self._tools.api
        try:
            if not api.speaks("metric-batches"):
                return None
            following = self._view.following(record, _TOGETHER - 1, _TOGETHER_BYTES)
            if not following:
                return None
            self._reopened |= {one.id: reopened_ns for one, reopened_ns in following}
            records = [record, *(one for one, _ in following)]
            organization = self._state.organization_uuid(api)
            outcomes = api.send_metrics(records, organization=organization, project=self._view.project_of(record.id))
        except LedgerDamagedError:
            raise
        except SecleaError as error:
            return [(record, outcome_of(error))]
        # What the portal wants otherwise is found out with that record alone.
        clear = list(takewhile(lambda outcome: outcome.verdict not in (Verdict.GAP, Verdict.MISSING), outcomes or ()))
        return list(zip(records, clear, strict=False)) or None

    def _attempt_alone(self, record: Record) -> Outcome:
        try:
            organization = self._state.organization_uuid(self._tools.api)
            assert self._view is not None
            project, needs = self._view.project_of(record.id), self._view.needs_of(record.id)
            references = self._view.remote_ids([project, *needs]) | self._state.remote
            if record.chunks and self._tools.api.speaks("chunks"):
                outcome = self._send_chunks(record, organization)
                if outcome is not None:
                    return outcome
            outcome = self._tools.api.send(
                record,
                organization=organization,
                references=references,
                project=project,
                read_chunk=self._tools.spool.read,
                hashes=self._view.hashes(needs),
            )
            if outcome.verdict is Verdict.GAP and (outcome.expected or 0) > record.first:
                return proved_by_head(record, outcome, organization, self._tools.api, self._view)
            return outcome
        except LedgerDamagedError:
            raise
        except LedgerError as error:
            if self._view is not None and self._view.was_delivered(record.id):
                self._rewind.stuck(record, str(error), gone=True)
                return Outcome(Verdict.MISSING, detail=f"the portal has lost it, and {error}")
            # The payload in the spool is damaged or gone: this record, for good, and said so.
            return Outcome(Verdict.REFUSED, detail=f"before sending: {error}")
        except UnknownOrganizationError as error:
            return Outcome(Verdict.HOLD, detail=str(error))
        except (PortalUnavailable, PortalError, AuthenticationError) as error:
            return outcome_of(error)

    def _send_chunks(self, record: Record, organization: str) -> Outcome | None:
        """Send the chunks that the portal lacks; None when it has them all."""
        answer = self._tools.api.chunks_missing([sha256 for sha256, _ in record.chunks], organization=organization)
        if isinstance(answer, Outcome):
            return answer
        for sha256 in answer:
            outcome = self._tools.api.put_chunk(sha256, self._tools.spool.read(sha256), organization=organization)
            if outcome.verdict is not Verdict.DELIVERED:
                return outcome
        return None

    # -- acting --------------------------------------------------------------------------------------------------

    def _act(self, record: Record, outcome: Outcome) -> float:
        self._state.after_attempt(outcome, self._clock())
        if outcome.verdict in _SETTLED:
            self._settle(record, outcome)
            return 0.0
        self._tools.tell(
            {
                "op": "attempt",
                "record": record.id,
                "error": _words(outcome),
                "verdict": outcome.verdict.value,
                "status": outcome.status,
            }
        )
        log.info("%s record %d: %s", record.kind, record.id, _words(outcome))
        match outcome.verdict:
            case Verdict.HOLD:
                self._state.set_hold(
                    outcome.detail, self._tools.api.generation_used() if outcome.status == 401 else None
                )
                return _LOGIN_SECONDS
            case Verdict.WAIT:
                # The same request is still running there: soon. Else (a right that is not granted, a limit) as in an outage.
                delay = min(next(self._delays), 5.0) if outcome.status == 409 else next(self._delays)
                wait_seconds = outcome.retry_after_seconds or delay
                self._not_before = self._clock() + wait_seconds
                self._state.note_next_try(wait_seconds)
                return wait_seconds
            case Verdict.MISSING | Verdict.GAP:
                # This stream only: its parent is not there, or the portal wants another record first.
                assert self._view is not None
                if outcome.verdict is Verdict.GAP:
                    self._stand_ins.pop(
                        record.stream, None
                    )  # a tombstone that is there to be sent; others go before it
                    self._state.losses += self._rewind.gap(record, outcome, self._view)
                else:
                    for uuid in self._rewind.missing(record, outcome, self._view):
                        self._state.remote.pop(uuid, None)
                        self._state.losses += 1
                self._blocked[record.stream] = self._clock() + min(next(self._delays) + 0.2, 30.0)
                return 0.0
            case _:
                wait_seconds = max(self._state.seconds_until_allowed(self._clock()), next(self._delays))
                self._not_before = self._clock() + wait_seconds
                self._state.note_next_try(wait_seconds)
                return wait_seconds

    def _settle(self, record: Record, outcome: Outcome) -> None:
        streams = self._tools.api.speaks("streams")
        self._delays = full_jitter(self._tools.random, cap=LONGEST_OPEN_SECONDS)
        self._settled[record.id] = self._reopened.get(record.id)
        self._blocked.pop(record.stream, None)
        self._stand_ins.pop(record.stream, None)
        if record.stands_for is None and (
            outcome.verdict is Verdict.REFUSED or (outcome.verdict is Verdict.ADOPTED and streams)
        ):
            # A tombstone will take this record's place; nothing behind it goes before that one. (Behind a refused run
            # nothing ever goes: the writer holds its stream.)
            assert self._view is not None
            self._stand_ins[record.stream] = self._view.position_of(record.id)
        if (
            outcome.verdict is not Verdict.REFUSED
            and record.entity is not None
            and record.kind is not RecordKind.TOMBSTONE
        ):
            self._state.remote[record.entity] = outcome.remote_id or record.entity
        self._tools.tell(
            {
                "op": "outcome",
                "record": record.id,
                "verdict": outcome.verdict.value,
                "detail": _words(outcome) if outcome.verdict is Verdict.REFUSED else "",
                "remote_id": outcome.remote_id,
                "receipt": outcome.receipt,
                "streams": streams,
            }
        )


def _words(outcome: Outcome) -> str:
    return f"{outcome.status} {outcome.detail}".strip() if outcome.status else outcome.detail
