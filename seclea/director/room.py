"""What happens at a limit: wait, raise or drop, with one budget per pause."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable

from seclea.contract import Home
from seclea.errors import LoggingPaused, PipelineError
from seclea.processes.rendezvous import ask
from seclea.queues.ring import Producer
from seclea.queues.wait import wait_until
from seclea.settings import Limits

_BURST_SECONDS = 0.05  # a ring that is full for this long is a burst, not a pause
_LOOK_SECONDS = 0.5


class Room:
    """The patience of one process at the limits of its home.

    ``hurry`` is for the end of a process: from then on nothing is waited for longer than a burst.
    """

    def __init__(self, home: Home, ring: Producer, limits: Limits) -> None:
        self._home = home
        self._ring = ring
        self._limits = limits
        self._deadline: float | None = None  # of this pause; one budget for all calls and threads
        self._told = False
        self.hurry = False
        self.trouble = ""  # what this process itself has no room for, just now

    def wait(self, there: Callable[[], bool], meanwhile: Callable[[], None] | None = None) -> bool:
        """Wait until ``there()``, as the limits say; whether it came to be.

        Raises:
            LoggingPaused: ``when_full = "raise"``.
        """
        if self._deadline is not None and time.monotonic() > self._deadline:
            return there()  # the budget is spent: as "drop" until there is room
        if wait_until(there, _BURST_SECONDS):
            return True
        if self._limits.when_full == "raise":
            raise self.paused_error("Nothing was recorded")
        if self._limits.when_full == "drop" or self.hurry:
            return False
        if self._deadline is None:
            self._deadline = time.monotonic() + self._limits.wait_timeout_seconds
        if not self._told:
            self._told = True
            _say(f"seclea: logging is paused ({self.reason()}); waiting for room.")
        while (left := self._deadline - time.monotonic()) > 0 and not self.hurry:
            if wait_until(there, min(_LOOK_SECONDS, left)):
                return True
            if meanwhile is not None:
                meanwhile()
        return False

    def is_there(self) -> None:
        """There is room again: the next pause has a budget of its own."""
        self._deadline = None
        if self._told:
            self._told = False
            _say("seclea: logging goes on.")

    def reason(self) -> str:
        """Why there is none, as far as this process can know."""
        if self.trouble:
            return self.trouble
        if not self._ring.paused:
            return "the background writer is behind"
        with contextlib.suppress(PipelineError):
            answer = ask(self._home, {"op": "status"}, 1.0)
            if answer and answer.get("paused"):
                return str(answer["paused"])
        return "a limit is reached"

    def paused_error(self, what: str) -> LoggingPaused:
        """The error of a call that was not taken."""
        return LoggingPaused(
            f"{what}: logging is paused ({self.reason()}).",
            "Make room, or change limits, when_full or wait_timeout_seconds in .seclearc.",
        )


def _say(text: str) -> None:
    with contextlib.suppress(Exception):
        print(text, file=sys.stderr, flush=True)
