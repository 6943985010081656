"""No room for what a client writes itself (a ring, a snapshot, a large frame): the same state as any other limit."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from seclea.contract import Home
from seclea.director.room import Room
from seclea.errors import PipelineError, SecleaError
from seclea.queues.ring import Producer
from seclea.queues.wait import wait_until
from seclea.settings import Limits

T = TypeVar("T")

# EIO and EINTR (of a close, on a network disk) too: a disk that errs once is no reason to fail a call, and one that errs for
# ever is said as a pause that does not end.
_ERRS = {errno.EIO, errno.EINTR}
NO_ROOM = _ERRS | {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EROFS}
_HOPELESS = frozenset({errno.EFBIG, errno.ENOMEM})  # this process's own limits: waiting in it changes nothing
# Frameworks that write their files by themselves have errors of their own, with the system's words in them.
_SAID = re.compile("No space left on device|Disk quota exceeded|Read-only file system", re.IGNORECASE)
_FIRST_PAUSE_SECONDS = 0.25  # to make it again may cost seconds: the pauses grow
_LAST_PAUSE_SECONDS = 2.0
_RING_PAUSE_SECONDS = 0.2


def shortage(error: BaseException) -> str:
    """What there is no room for, as ``error`` says it; empty when it is about something else."""
    if isinstance(error, MemoryError):
        return "no memory is left"
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return str(error)
    found = None if isinstance(error, SecleaError) else _SAID.search(str(error))
    return found[0] if found else ""


def overcome(room: Room, make: Callable[[], T]) -> tuple[T] | None:
    """What ``make`` makes. Where there is no room for it, wait as the limits say, and make it again; None: not (any longer).

    Raises:
        LoggingPaused: ``when_full = "raise"``.
    """
    made: list[T] = []
    hopeless = False
    again_at, pause_seconds = 0.0, _FIRST_PAUSE_SECONDS

    def try_it() -> bool:
        nonlocal again_at, pause_seconds, hopeless
        if time.monotonic() < again_at:
            return False
        try:
            made.append(make())
        except Exception as error:
            room.trouble = shortage(error)
            if not room.trouble:
                raise
            hopeless = isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _HOPELESS)
            again_at = time.monotonic() + pause_seconds
            pause_seconds = min(2 * pause_seconds, _LAST_PAUSE_SECONDS)
            return False
        return True

    # Where waiting changes nothing: once more, as a kernel may have had no page just then.
    if not try_it() and not (wait_until(try_it, 2 * _FIRST_PAUSE_SECONDS) if hopeless else room.wait(try_it)):
        return None
    room.trouble = ""
    return (made[0],)


_spent: dict[Path, float] = {}  # homes in which no ring can be made and no more is waited for: when to try again


def ring_when_there_is_room(home: Home, limits: Limits, make: Callable[[], Producer]) -> Producer:
    """A ring, waited for as the limits say; one budget for all until there is one.

    Raises:
        PipelineError: there is no room, and the limits say not to wait (longer).
    """
    deadline = time.monotonic() + (limits.wait_timeout_seconds if limits.when_full == "wait" else 0.0)
    told, error = False, OSError()
    while time.monotonic() >= _spent.get(home.path, 0.0):
        try:
            ring = make()
        except OSError as problem:
            if problem.errno not in NO_ROOM:
                raise PipelineError(f"The home {home.path} cannot be used: {problem}.", "Set SECLEA_HOME.") from problem
            error = problem
        else:
            _spent.pop(home.path, None)
            if told:
                _say("seclea: logging goes on.")
            return ring
        if home.path in _spent or time.monotonic() >= deadline:
            _spent[home.path] = time.monotonic() + _LAST_PAUSE_SECONDS
            break
        if not told:
            told = True
            _say(f"seclea: logging is paused ({error}); waiting for room.")
        time.sleep(_RING_PAUSE_SECONDS)  # a poll, within the budget of the pause
    raise PipelineError(
        f"There is no place for a ring of {home.path}: {error}.", "Make room there, or set SECLEA_HOME elsewhere."
    )


def _say(text: str) -> None:
    with contextlib.suppress(Exception):
        print(text, file=sys.stderr, flush=True)
