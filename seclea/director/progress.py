"""How far records have come, and questions that are asked until they are answered."""

from __future__ import annotations

import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seclea.contract import Destination, Home
from seclea.director.outlook import Outlook
from seclea.errors import LedgerError, PipelineError
from seclea.ledger import tallies
from seclea.ledger.view import LedgerView, Part
from seclea.processes.rendezvous import ask
from seclea.processes.start import ensure_writer

log = logging.getLogger(__name__)

_NAMED = 100  # failed and held records that are named one by one; the counts are of all
_MEANWHILE_SECONDS = 1.0
_STARTED_NS = time.time_ns()  # what was left out before is of an earlier job


@dataclass(frozen=True, slots=True)
class Left:
    """Something that is not delivered, and why.

    Attributes:
        kind: "pending", "held", "failed", "paused" (logging is, so that more may be missing) or "left out".
        count: records; of "left out" log calls, since this process started. 0 for "paused".
        reason: why, for people; empty where it is only a matter of time.
    """

    kind: str
    count: int
    reason: str = ""

    def __str__(self) -> str:
        what = f"{self.count:,} {self.kind}" if self.count else self.kind
        return f"{what}: {self.reason}" if self.reason else what


@dataclass(frozen=True, slots=True)
class Progress:
    """What is done and what is left.

    Attributes:
        done: everything that was waited for is durable (`flush`) or delivered (`complete`).
        delivered, pending, failed, held: records of this destination.
        delivered_bytes, pending_bytes: of them.
        on_hold: nothing more is sent there until a person does something (a login, say).
        reasons: why something is left, for people.
        left: what is left by kind and reason, with what was left out.
        waits_for: why nothing goes out just now, and when it is tried again; empty while records go out.
        interrupted: Ctrl-C ended the wait; the background goes on.
    """

    done: bool
    delivered: int = 0
    pending: int = 0
    failed: int = 0
    held: int = 0
    delivered_bytes: int = 0
    pending_bytes: int = 0
    on_hold: bool = False
    reasons: tuple[str, ...] = ()
    left: tuple[Left, ...] = ()
    waits_for: str = ""
    interrupted: bool = False

    def __bool__(self) -> bool:
        return self.done


def ask_until(
    home: Home,
    message: dict[str, Any],
    timeout_seconds: float,
    *,
    meanwhile: Callable[[], None] | None = None,
) -> bool:
    """Ask the writer something that it answers when it is so; starts a writer where none is. False on timeout.

    ``meanwhile`` is called every second until then.
    """
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        once = left if meanwhile is None else min(left, _MEANWHILE_SECONDS)
        try:
            answer = ask(home, {**message, "timeout": once}, once + 1.0)
        except (PipelineError, OSError) as error:  # also where this process has no descriptor left
            log.info("%s", error)
            answer = None
        if answer is not None and not answer.get("timeout"):
            return True
        if answer is None:
            with contextlib.suppress(PipelineError, OSError):
                ensure_writer(home)
            time.sleep(min(0.02, max(left, 0.0)))  # a poll with a deadline: a writer is starting
        if meanwhile is not None and time.monotonic() < deadline:
            meanwhile()


def last_record(home: Home) -> int | None:
    """The number of the latest record in the ledger; None where it cannot be read."""
    try:
        with LedgerView(home.ledger) as view:
            return view.last_record()
    except LedgerError:
        return None


def progress(home: Home, destination: Destination | None = None, part: Part | None = None) -> Progress:
    """How far the records of a destination (None: all) have come, from the ledger.

    Args:
        part: what one process waits for. Of others, what is pending up to there counts, and what failed does not.
    """
    try:
        with LedgerView(home.ledger) as view:
            return _progress(view, destination, part)
    except LedgerError as error:
        return Progress(done=False, reasons=(str(error),), left=(Left("pending", 0, str(error)),))


def _progress(view: LedgerView, destination: Destination | None, part: Part | None) -> Progress:
    up_to = None if part is None else part.up_to
    now_ns, now = time.time_ns(), time.monotonic()
    rows = [row for row in map(dict, view.destinations()) if destination is None or _is(row, destination)]
    if destination is not None and not rows:
        return Progress(done=True)
    number = None if destination is None else rows[0]["id"]
    waiting: list[Left] = []
    reasons: list[str] = []
    waits_for = ""
    on_hold = False
    sendable = 0
    for row in rows:
        pending, _ = view.pending(row["id"], up_to)
        why = Outlook.of_row(row, now_ns, now).why_nothing_moves(now_ns) if pending or row["hold"] else ""
        if row["hold"]:
            on_hold = True
            reasons.append(row["hold"])
        else:
            sendable += pending
            if error := row.get("trouble") or view.last_error(row["id"]):
                reasons.append(error)
        if pending:
            waiting.append(Left("pending", pending, why))
        waits_for = waits_for or why
    pending, pending_bytes = view.pending(number, up_to)
    delivered, _, delivered_bytes = view.delivered(number)
    failed, held = tallies.troubled(view, number, part)
    troubled = view.troubled(number, _NAMED, part) if failed or held else []
    reasons += [f"{row['kind']} {row['name'] or ''}: {row['error'] or row['hold']}" for row in troubled]
    named = Counter((row["status"] == "Failed", str(row["error"] or row["hold"])) for row in troubled)
    groups = [Left("failed" if is_failed else "held", count, why) for (is_failed, why), count in named.items()]
    if more := failed + held - len(troubled):
        groups.append(Left("failed" if failed else "held", more, "more of them: see `seclea status`"))
    lost = [Left("left out", one.count, one.reason) for one in tallies.left_out_since(view, number, _STARTED_NS)]
    return Progress(
        done=pending == 0 and not failed and not held,
        delivered=delivered,
        pending=pending,
        failed=failed,
        held=held,
        delivered_bytes=delivered_bytes,
        pending_bytes=pending_bytes,
        on_hold=on_hold and not sendable,
        reasons=tuple(reasons),
        left=(*waiting, *groups, *lost),
        waits_for=waits_for,
    )


def _is(row: dict[str, Any], destination: Destination) -> bool:
    asked = (destination.platform_url, destination.auth_url, destination.organization)
    return (row["platform_url"], row["auth_url"], row["organization"]) == asked
