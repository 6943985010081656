"""How large a new ring may be under the memory limit. Rings are counted where they are made: as files, under one lock."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from seclea.contract import Home
from seclea.director.room import wait_for_memory
from seclea.errors import PipelineError
from seclea.processes.rendezvous import ask
from seclea.queues.layout import HEADER_BYTES
from seclea.queues.ring import Producer
from seclea.settings import LimitsWatch

_HELPERS_BYTES = 160 << 20  # more than writer and sender ever take; below the limit less this nobody is asked
_FRESH_BYTES = 48 << 20  # what the two take when they have just started
_ANSWER_SECONDS = 0.5


def ring_within(home: Home, watch: LimitsWatch, sizes: tuple[int, ...], make: Callable[[int], Producer]) -> Producer:
    """A new ring of the largest of ``sizes`` (falling) that fits; where none does, waited for as the limits say.

    Raises:
        LoggingPaused: ``when_full = "raise"``.
    """
    made: list[Producer] = []

    def try_to(size: int = 0) -> bool:
        with _making(home):
            if size := size or fitting(home, watch.limits.memory, sizes):
                made.append(make(size))
        return bool(made)

    if not try_to() and not wait_for_memory(try_to, watch):
        try_to(sizes[-1])  # without one nothing could be counted
    return made[0]


@contextlib.contextmanager
def _making(home: Home) -> Iterator[None]:
    """One ring at a time is made in a home, so that each counts those before it. The kernel drops the lock at a death."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(home.path / "rings.lock", flags, 0o600)
    try:
        os.fchmod(descriptor, 0o600)  # whatever the umask
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def fitting(home: Home, limit: int, sizes: tuple[int, ...]) -> int:
    """The largest of ``sizes`` (bytes of frames, falling) that fits the memory limit beside what there is; 0: none does."""
    rings = sum(_sizes(home.rings)) + sum(_sizes(home.shared_rings))
    if rings + sizes[0] + HEADER_BYTES + _HELPERS_BYTES <= limit:
        return sizes[0]
    room = limit - rings - _helpers(home)
    return next((size for size in sizes if size + HEADER_BYTES <= room), 0)


def _sizes(directory: Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for entry in os.scandir(directory):
            with contextlib.suppress(OSError):
                yield entry.stat(follow_symlinks=False).st_size


def _helpers(home: Home) -> int:
    """Resident bytes of writer and sender, as the writer last measured them."""
    with contextlib.suppress(PipelineError, OSError):
        answer = ask(home, {"op": "status"}, _ANSWER_SECONDS)
        if answer and answer.get("usage"):
            return max(_FRESH_BYTES, int(answer["usage"]["memory_bytes"]) - int(answer["usage"]["ring_bytes"]))
    return _FRESH_BYTES
