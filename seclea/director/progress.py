"""How far records have come, and questions that are asked until they are answered."""

from __future__ import annotations

import contextlib
import logging
import time
from dataclasses import dataclass
from typing import Any

from seclea.contract import Destination, Home
from seclea.errors import LedgerError, PipelineError
from seclea.ledger.view import LedgerView
from seclea.processes.rendezvous import ask
from seclea.processes.start import ensure_writer

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is done and what is left.

    Attributes:
        done: everything that was waited for is durable (`flush`) or delivered (`complete`).
        delivered, pending, failed, held: records of this destination.
        delivered_bytes, pending_bytes: of them.
        on_hold: nothing more is sent there until a person does something (a login, say).
        reasons: why something is left, for people.
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

    def __bool__(self) -> bool:
        return self.done


def ask_until(home: Home, message: dict[str, Any], timeout_seconds: float) -> bool:
    """Ask the writer something that it answers when it is so; starts a writer where none is. False on timeout."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        try:
            answer = ask(home, {**message, "timeout": left}, left + 1.0)
        except (PipelineError, OSError) as error:  # also where this process has no descriptor left
            log.info("%s", error)
            answer = None
        if answer is not None:
            return not answer.get("timeout")
        with contextlib.suppress(PipelineError, OSError):
            ensure_writer(home)
        time.sleep(min(0.02, max(left, 0.0)))


def progress(home: Home, destination: Destination | None = None) -> Progress:
    """How far the records of a destination (None: all) have come, from the ledger."""
    try:
        with LedgerView(home.ledger) as view:
            number = None
            reasons: list[str] = []
            on_hold = False
            for row in view.destinations():
                wanted = destination is None or (
                    (row["platform_url"], row["auth_url"], row["organization"])
                    == (destination.platform_url, destination.auth_url, destination.organization)
                )
                if wanted and destination is not None:
                    number = row["id"]
                if wanted and row["hold"]:
                    on_hold = True
                    reasons.append(row["hold"])
                elif wanted and (error := view.last_error(row["id"])):
                    reasons.append(error)
            if destination is not None and number is None:
                return Progress(done=True)
            pending, pending_bytes = view.pending(number)
            delivered, _, delivered_bytes = view.delivered(number)
            troubled = view.troubled(number)
    except LedgerError as error:
        return Progress(done=False, reasons=(str(error),))
    failed = sum(row["status"] == "Failed" for row in troubled)
    reasons += [f"{row['kind']} {row['name'] or ''}: {row['error'] or row['hold']}" for row in troubled]
    return Progress(
        done=pending == 0 and not troubled,
        delivered=delivered,
        pending=pending,
        failed=failed,
        held=len(troubled) - failed,
        delivered_bytes=delivered_bytes,
        pending_bytes=pending_bytes,
        on_hold=on_hold,
        reasons=tuple(reasons),
    )
