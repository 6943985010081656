"""What signals mean to a background process: SIGTERM is for it, what is sent to the job and its terminal is not."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

TOLD_SECONDS = 2.0  # from SIGTERM to the end of the process; Docker kills after 10, Slurm and Kubernetes after 30
_STRAYS = ("SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGPIPE", "SIGALRM", "SIGTSTP", "SIGTTIN", "SIGTTOU")


def ignore_strays() -> None:
    """Ctrl-C and Ctrl-\\ at the terminal, a logout, a scheduler's early warning: harmless from here on."""
    for name in _STRAYS:
        signal.signal(getattr(signal, name), signal.SIG_IGN)


class Told:
    """SIGTERM, from the moment that this is made: the first one asks the process to leave, the second one ends it."""

    def __init__(self, leave: Callable[[], None], at_once: Callable[[], None] = lambda: None) -> None:
        """``leave`` and ``at_once`` are called in the signal's handler."""
        self._leave = leave
        self._at_once = at_once
        self._deadline: float | None = None
        signal.signal(signal.SIGTERM, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        if self._deadline is not None:
            self._at_once()
            end_now()
        self._deadline = time.monotonic() + TOLD_SECONDS
        self._leave()

    def __bool__(self) -> bool:
        """Whether it came."""
        return self._deadline is not None

    def seconds_left(self, spare_seconds: float = 0.0, longest_seconds: float = TOLD_SECONDS) -> float:
        """How long something may still take; ``longest_seconds`` where no SIGTERM has come.

        Args:
            spare_seconds: of the time that a told process has, for what follows.
        """
        if self._deadline is None:
            return longest_seconds
        return min(longest_seconds, max(0.0, self._deadline - spare_seconds - time.monotonic()))


def end_now() -> None:
    """End this process whatever its threads do: what is committed stays, all else is taken up by the next one."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(0)
