"""Directories of queues that nobody named: made in shared memory, removed by the last process that used them.

Every user holds a shared flock on ``users.lock`` (a forked child does by inheriting the descriptor). Whoever gets it
exclusively is alone with the directory, and may remove it; what killed users left is removed when the next one is made.
"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from seclea.queues import segment

_PREFIX = "queue-"
_USERS = "users.lock"
_held: dict[Path, tuple[int, int]] = {}  # descriptor and number of users in this process; a forked child inherits both


def make(need_bytes: int) -> Path:
    """A new directory, used by this process.

    Raises:
        OSError: neither shared memory nor the disk has room.
    """
    name = f"seclea-{os.geteuid()}"
    candidates = [Path("/dev/shm") / name, Path(tempfile.gettempdir()) / name]  # noqa: S108
    base = segment.roomy_directory(candidates, need_bytes)
    while True:
        path = base / f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        try:
            use(segment.private_directory(path), create=True)
            break
        except FileNotFoundError:  # the last one before us took the empty directory away just now
            continue
    with os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith(_PREFIX) and entry.name != path.name:
                _remove_unused(Path(entry.path))
    return path


def use(path: Path, create: bool = False) -> None:
    """Keep ``path`` until this process ends.

    Raises:
        FileNotFoundError: it has been removed.
    """
    descriptor, users = _held.get(path, (-1, 0))
    if not users:
        descriptor = os.open(path / _USERS, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    _held[path] = (descriptor, users + 1)


def leave(path: Path) -> None:
    """Undo one `use`; the last one of the last process removes ``path``."""
    descriptor, users = _held.pop(path)
    if users > 1:
        _held[path] = (descriptor, users - 1)
        return
    os.close(descriptor)
    _remove_unused(path)


def call_at_exit(function: Callable[[], object]) -> None:
    """In a child of multiprocessing, which ends without ``atexit``: call ``function`` at its end."""
    process = sys.modules.get("multiprocessing.process")
    util = sys.modules.get("multiprocessing.util")
    if util is not None and process is not None and process.parent_process() is not None:
        util.Finalize(None, function, exitpriority=-1)


def _remove_unused(path: Path) -> None:
    try:
        descriptor = os.open(path / _USERS, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:  # gone, or being made right now
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
        path.parent.rmdir()  # when it was the last
    except OSError:
        pass
    finally:
        os.close(descriptor)
