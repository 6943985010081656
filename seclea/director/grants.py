"""Bytes for payloads, asked of the writer before they are written (docs/decisions/0017).

A client makes the (empty) file first, asks in its name, and writes; when it needs more than it was promised, it asks again.
Nothing is given back by words: the promise ends with the file.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seclea.contract import Home
from seclea.director.room import Room
from seclea.entities import Entity
from seclea.errors import PipelineError, TooLargeError
from seclea.processes.rendezvous import ask
from seclea.queues.wait import wait_until

Take = Callable[[Path, int, int], int]
"""``take(path, wanted, least) -> bytes``: have that many bytes in all promised for a file, ``least`` or more."""

_ASK_SECONDS = 0.1  # between two questions of a process that waits: the writer has others to listen to
_ANSWER_SECONDS = 2.0
_START_SECONDS = 5.0  # for a writer that is only just starting; that is no limit
_SILENT_SECONDS = 30.0  # a writer that did not answer for that long is not waited for again
_TOO_LARGE = -1


def check_size(entity: Entity, payload: Path, limit: int) -> None:
    """Refuse a payload that alone is larger than the disk limit."""
    size = payload.stat().st_size
    if size > limit:
        raise TooLargeError(
            f"The {entity.kind} {entity.name!r} has {size / 1e6:.0f} MB; the disk limit is {limit / 1e6:.0f} MB.",
            "Raise limits.disk in .seclearc, or record less.",
        )


class Grants:
    """What one process was promised. ``attend`` wakes or starts the writer."""

    def __init__(self, home: Home, ring: str, room: Room, attend: Callable[[], None]) -> None:
        self._home = home
        self._ring = ring
        self._room = room
        self._attend = attend
        self._silent_until = 0.0

    def name(self, path: Path) -> str:
        """What the file is called once it is handed over: by its ring, so that one whose frame never came is known."""
        return self._ring + path.stem

    def take(self, what: str) -> Take:
        """For payload files of ``what``, in the words of an error.

        A writer that does not answer (stopped, or out of processes) is no limit: then what is free on the disk decides.

        `Take` raises:
            TooLargeError: larger than the disk limit; nothing was promised.
            LoggingPaused: there is no room, and the limits say not to wait (longer).
        """

        def take(path: Path, wanted: int, least: int) -> int:
            question = _Question(self._home, self.name(path), wanted, least)
            if not question.is_granted() and not question.limit:
                self._attend()  # nobody there: a start is waited for whatever the limits say
                patience = _START_SECONDS if time.monotonic() >= self._silent_until else 0.0
                if not wait_until(lambda: question.is_granted() or bool(question.limit), patience):
                    self._silent_until = time.monotonic() + _SILENT_SECONDS
                    if self._is_free(wanted, least):
                        return max(wanted, least)
            if not question.granted and not self._room.wait(question.is_granted, self._attend, question.why):
                raise self._room.paused_error(f"{what[0].upper()}{what[1:]} was not recorded", question.why)
            if question.granted == _TOO_LARGE:
                raise TooLargeError(
                    f"{what[0].upper()}{what[1:]} has {least / 1e6:.0f} MB or more; the disk limit is"
                    f" {question.limit / 1e6:.0f} MB.",
                    "Raise limits.disk in .seclearc, or record less.",
                )
            self._room.relieved()
            return question.granted

        return take

    def _is_free(self, wanted: int, least: int) -> bool:
        limits = self._room.limits
        free = shutil.disk_usage(self._home.path).free
        return least <= limits.disk and free - max(wanted, least) > limits.min_free_disk


class _Question:
    """One question, asked again now and then until it is granted."""

    def __init__(self, home: Home, name: str, wanted: int, least: int) -> None:
        self._home = home
        self._message: dict[str, Any] = {"op": "reserve", "name": name, "bytes": wanted, "least": least}
        self._next = 0.0
        self.granted = 0
        self.limit = 0  # of the disk, as soon as a writer has answered

    def is_granted(self) -> bool:
        now = time.monotonic()
        if self.granted or now < self._next:
            return bool(self.granted)
        self._next = now + _ASK_SECONDS
        try:
            answer = ask(self._home, self._message, _ANSWER_SECONDS)
        except (PipelineError, OSError):  # busy, or no descriptor left: the next time
            return False
        if answer and answer.get("granted") is not None:
            self.granted, self.limit = int(answer["granted"]), int(answer["limit"])
        return bool(self.granted)

    def why(self) -> str:
        """Why it is not granted."""
        if not self.limit:
            return "the background writer does not answer"
        return f"disk: no room for {self._message['bytes'] / 1e6:.1f} MB under {self.limit / 1e6:.0f} MB"
