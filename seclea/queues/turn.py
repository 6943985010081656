"""Turns between processes, under a lock that the kernel takes back from the dead."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from seclea.queues.wait import wait_until


class Turn:
    """A flock that processes take in turns; the kernel releases it at death. The file is never removed by it."""

    leave: Callable[[], object]
    """Give the turn to the next; nothing happens where it is not ours. Not a Python function: a signal handler that
    raises as one is entered would keep the turn for ever."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self.leave = bool

    def take(self, timeout_seconds: float) -> bool:
        if self._descriptor < 0:
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self._path, flags, 0o600)
            self.leave = partial(fcntl.flock, descriptor, fcntl.LOCK_UN)
            self._descriptor = descriptor
        return self._try() or wait_until(self._try, timeout_seconds)

    def _try(self) -> bool:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        """Let go of the file. In a forked child this releases nothing that the parent holds."""
        descriptor, self._descriptor = self._descriptor, -1
        self.leave = bool
        if descriptor >= 0:
            os.close(descriptor)
