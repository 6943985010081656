"""What happens at a limit: wait, raise or drop, with one budget per pause."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable

from seclea.contract import Home
from seclea.errors import LoggingPaused, PipelineError
from seclea.processes.rendezvous import ask
from seclea.queues.ring import Producer
from seclea.queues.wait import wait_until
from seclea.settings import Limits, LimitsWatch

_BURST_SECONDS = 0.05  # a ring that is full for this long is a burst, not a pause
_LOOK_SECONDS = 0.5


class Room:
    """The patience of one process at the limits of its home, as the RC files say now.

    ``hurry`` is for the end of a process: from then on nothing is waited for longer than a burst.
    """

    def __init__(self, home: Home, ring: Producer, watch: LimitsWatch) -> None:
        self._home = home
        self._ring = ring
        self._watch = watch
        self._began: float | None = None  # of this episode; one budget for all calls and threads
        self._pause = 0  # the number of the latest pause that was waited for
        self._told = False
        self._telling = threading.Lock()  # never waited for
        self.hurry = False
        self.trouble = ""  # what this process itself has no room for, just now

    @property
    def limits(self) -> Limits:
        """In force now."""
        self._watch.look()
        return self._watch.limits

    def wait(
        self,
        there: Callable[[], bool],
        meanwhile: Callable[[], None] | None = None,
        why: Callable[[], str] | None = None,
    ) -> bool:
        """Wait until ``there()``, as the limits say; whether it came to be.

        Raises:
            LoggingPaused: ``when_full = "raise"``.
        """
        pause = self._ring.pause
        if pause and pause != self._pause:  # another one than was waited for: it has a budget of its own
            self._pause, self._began = pause, None
        if self._left() <= 0:
            return there()  # the budget is spent: as "drop" until there is room
        if pause and self._told and self.limits.when_full == "drop":
            return there()  # a pause is no burst: said once, it costs the calls that follow nothing
        if wait_until(there, _BURST_SECONDS):
            return True
        while not self.hurry:
            when_full = self.limits.when_full
            if when_full == "raise":
                raise self.paused_error("Nothing was recorded", why)
            if when_full == "drop":
                self._tell(why, "what is logged until there is room is left out, and counted.")
                return False
            if self._began is None:
                self._began = time.monotonic()
            if (left := self._left()) <= 0:
                return False
            self._tell(why, "waiting for room.")
            if wait_until(there, min(_LOOK_SECONDS, left)):
                return True
            if meanwhile is not None:
                meanwhile()
        return False

    def _left(self) -> float:
        """Seconds of the budget."""
        whole = self._watch.limits.wait_timeout_seconds
        return max(whole, 1.0) if self._began is None else self._began + whole - time.monotonic()

    def _tell(self, why: Callable[[], str] | None, what_now: str) -> None:
        """Say once in a pause that there is one, whichever thread notices it first."""
        if not self._told and self._telling.acquire(blocking=False):
            try:
                if not self._told:
                    self._told = True
                    _say(f"seclea: logging is paused ({self.reason(why)}); {what_now}")
            finally:
                self._telling.release()

    def is_there(self) -> None:
        """There is room again: the next pause has a budget of its own."""
        self._began = None
        if self._told and self._telling.acquire(blocking=False):
            try:
                if self._told:
                    self._told = False
                    _say("seclea: logging goes on.")
            finally:
                self._telling.release()

    def relieved(self) -> None:
        """Something large was taken; that ends a pause if the ring shows none."""
        if not self._ring.paused:
            self.is_there()

    def reason(self, why: Callable[[], str] | None = None) -> str:
        """Why there is none, as far as this process can know."""
        if self.trouble:
            return self.trouble
        if not self._ring.paused:
            return why() if why is not None else "the background writer is behind"
        with contextlib.suppress(PipelineError, OSError):
            answer = ask(self._home, {"op": "status"}, 1.0)
            if answer and answer.get("paused"):
                return str(answer["paused"])
        return "a limit is reached"

    def paused_error(self, what: str, why: Callable[[], str] | None = None) -> LoggingPaused:
        """The error of a call that was not taken."""
        return LoggingPaused(
            f"{what}: logging is paused ({self.reason(why)}).",
            "Make room, or change limits, when_full or wait_timeout_seconds in .seclearc.",
        )


def wait_for_memory(make: Callable[[], bool], watch: LimitsWatch) -> bool:
    """Wait until a ring fits the memory limit, as the limits say; whether it came to be.

    Raises:
        LoggingPaused: ``when_full = "raise"``.
    """
    began, told = time.monotonic(), False
    why = "memory: no room for another process's ring"
    while True:
        watch.look()
        limits = watch.limits
        if limits.when_full == "raise":
            raise LoggingPaused(
                f"Nothing was recorded: logging is paused ({why}).", "Raise limits.memory in .seclearc."
            )
        left = began + limits.wait_timeout_seconds - time.monotonic()
        if limits.when_full == "drop" or left <= 0:
            return False
        if not told:
            told = True
            _say(f"seclea: logging is paused ({why}); waiting for room.")
        time.sleep(min(_LOOK_SECONDS, left))  # a poll, within the budget of the pause
        if make():
            _say("seclea: logging goes on.")
            return True


def _say(text: str) -> None:
    with contextlib.suppress(Exception):
        print(text, file=sys.stderr, flush=True)
