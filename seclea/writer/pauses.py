"""Pauses of logging, written down: when, why, how long, and how many of each reason in all."""

from __future__ import annotations

import contextlib
import json
import logging
import time

from seclea.ledger.db import Ledger
from seclea.ledger.view import OPEN_PAUSE, PAUSES
from seclea.queues import segment
from seclea.writer.trouble import TROUBLE

log = logging.getLogger(__name__)


class Pauses:
    """The pause of a home, if there is one, and the account of those before.

    Attributes:
        reason: of the pause that is; None while logging goes on.
        since_ns: when it began, for people.
        mark: what the rings show: 0, or a number that only this pause has.
    """

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.reason: str | None = None
        self.since_ns = 0
        self.mark = 0
        self._totals: dict[str, list[float]] = json.loads(ledger.meta(PAUSES) or "{}")  # kind: [count, seconds]
        self._unwritten: list[tuple[str, str]] = []

    def recover(self) -> None:
        """The pause of a writer that was killed in it ends here: a new one looks for itself."""
        if left := self._ledger.meta(OPEN_PAUSE):
            self.since_ns, self.reason, *began = json.loads(left)
            if began[1:] == [segment.boot_id().hex()]:  # whatever was done to the wall clock meanwhile
                seconds = (time.monotonic_ns() - began[0]) / 1e9
            else:
                seconds = max(0.0, (time.time_ns() - self.since_ns) / 1e9)
            self.end(seconds)

    def begin(self, reason: str) -> None:
        """Logging pauses; or goes on pausing, for this reason now."""
        begins, self.reason = self.reason is None, reason
        if begins:
            self.since_ns, self.mark = time.time_ns(), time.monotonic_ns()
            log.warning("logging is paused: %s", reason)
            self._note("paused", reason)

    def end(self, seconds: float | None = None) -> None:
        """Logging goes on."""
        if self.reason is None:
            return
        seconds = (time.monotonic_ns() - self.mark) / 1e9 if seconds is None else seconds
        log.warning("logging goes on after %.1f s", seconds)
        total = self._totals.setdefault(kind_of(self.reason), [0, 0.0])
        total[0] += 1
        total[1] = round(total[1] + seconds, 3)
        reason, self.reason, self.mark, self.since_ns = self.reason, None, 0, 0
        self._note("resumed", f"{seconds:.1f} s: {reason}")

    def _note(self, kind: str, detail: str) -> None:
        self._unwritten.append((kind, detail))
        self.write()

    def write(self) -> None:
        """Write down what is not written yet; where the disk refuses even that, later."""
        if not self._unwritten:
            return
        with contextlib.suppress(*TROUBLE):
            with self._ledger.transaction():
                for kind, detail in self._unwritten:
                    self._ledger.add_event(kind, detail)
                self._ledger.set_meta(PAUSES, json.dumps(self._totals))
                now = [self.since_ns, self.reason, self.mark, segment.boot_id().hex()]
                self._ledger.set_meta(OPEN_PAUSE, json.dumps(now) if self.reason else "")
            self._unwritten.clear()


def kind_of(reason: str) -> str:
    """A pause's reason in one word or two: "memory", "disk", "free disk", "the disk refuses"."""
    return reason.partition(":")[0]
