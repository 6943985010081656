"""Keeps one sender running for as long as the writer lives.

The sender holds the reading end of a pipe: a byte there means that its queue has something, end of file that the writer
died, and the sender acts on it. The writer learns of the sender's death by waiting for its child.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import subprocess
import time

from seclea.contract import Home
from seclea.processes.spawn import spawn_detached

log = logging.getLogger(__name__)

_FIRST_RETRY_SECONDS = 0.05
_LAST_RETRY_SECONDS = 5.0  # whatever ended it may be over, a full disk for one
_LAST_START_SECONDS = 2.0  # where no process can be started: costs next to nothing, and ends as soon as one can
_END_SECONDS = 2.0  # after SIGTERM; it may be in the middle of a request
_STEADY_SECONDS = 30.0  # a sender that lived this long was not a failed start


class SenderSupervisor:
    """Starts the sender, restarts it with growing pauses when it dies, lets it go at the end."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._child: subprocess.Popen[bytes] | None = None
        self._lifeline: int | None = None
        self._started_at = 0.0
        self._next_start = 0.0
        self._pause_seconds = _FIRST_RETRY_SECONDS
        self._is_told = False
        self.restarts = 0
        self.trouble = ""
        """Why there is none, or why the last one ended; empty when all is well."""

    @property
    def pid(self) -> int | None:
        """The running sender's pid."""
        return self._child.pid if self._child is not None else None

    def check(self) -> None:
        """Start the sender if it does not run and its pause is over."""
        now = time.monotonic()
        if self._child is not None:
            code = self._child.poll()
            if code is None:
                if self.trouble and now - self._started_at > _STEADY_SECONDS:
                    self.trouble = ""
                return
            self.trouble = f"the sender ended with {code} after {now - self._started_at:.1f} s; see sender.log"
            log.warning("%s", self.trouble)
            self._drop()
            if now - self._started_at > _STEADY_SECONDS:
                self._pause_seconds = _FIRST_RETRY_SECONDS
            self._next_start = now + self._pause_seconds * random.uniform(0.5, 1.0)
            self._pause_seconds = min(self._pause_seconds * 2, _LAST_RETRY_SECONDS)
            self.restarts += 1
        if now >= self._next_start:
            self._start(now)

    def _start(self, now: float) -> None:
        reading = writing = -1
        try:
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            self._child = spawn_detached(
                "seclea.sender",
                ["--home", os.fspath(self._home.path), "--lifeline", str(reading)],
                self._home.logs / "sender.log",
                pass_fds=(reading,),
            )
        except (OSError, MemoryError, subprocess.SubprocessError) as error:
            said = f"the sender cannot be started: {error}"
            if said != self.trouble:
                self.trouble = said
                log.error("%s", said)
            if writing >= 0:
                os.close(writing)
            self._next_start = now + self._pause_seconds
            self._pause_seconds = min(self._pause_seconds * 2, _LAST_START_SECONDS)
            return
        finally:
            if reading >= 0:
                os.close(reading)
        self._lifeline = writing
        self._started_at = now

    def ring(self) -> None:
        """Wake the sender: there is something in its queue."""
        if self._lifeline is not None:
            # A full pipe has rung enough; a broken one is noticed by `check`.
            with contextlib.suppress(BlockingIOError, BrokenPipeError):
                os.write(self._lifeline, b"!")

    def _drop(self) -> None:
        if self._lifeline is not None:
            os.close(self._lifeline)
        self._lifeline = None
        self._child = None

    def wait_gone(self, timeout_seconds: float) -> bool:
        """Wait for the sender (told to leave by the send queue) to end; whether it did."""
        if self._child is None:
            return True
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout_seconds)
            self._drop()
            return True
        return False

    def tell_end(self) -> None:
        """Ask the sender to leave within a second, whatever it does; once."""
        if self._child is not None and not self._is_told:
            self._is_told = True
            self._child.terminate()

    def end(self, *, at_once: bool = False) -> None:
        """Have the sender end that did not leave when it was told.

        Args:
            at_once: kill it: a request whose outcome nobody heard is sent again, under the same key.
        """
        if self._child is not None and not at_once:
            self._child.terminate()
            self.wait_gone(_END_SECONDS)
        elif self._child is not None:
            self._child.kill()
            self._child.wait()  # for a moment, unless the kernel holds it
            self._drop()
