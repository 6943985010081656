"""Directories of queues that stand for no longer than they are used: in shared memory, under a name or without one.

Every user holds a shared flock on ``users.lock`` (a forked child does by inheriting the descriptor). Whoever gets it
exclusively is alone with the directory, and removes it: the last user, or, after a kill, whoever makes the next one.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from seclea.errors import UsageError
from seclea.queues import segment

_PREFIX = "queue-"
_NAMED_PREFIX = "queue-named-"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_USERS = "users.lock"
_held: dict[Path, tuple[int, int]] = {}  # descriptor and number of users in this process; a forked child inherits both


def make(need_bytes: int, name: str | None = None) -> Path:
    """A new directory, used by this process.

    Args:
        name: of letters, digits and ``_.-``, by which other processes of this user `find` it.
    Raises:
        UsageError: the name is taken, or is none.
        OSError: neither shared memory nor the disk has room.
    """
    named = None if name is None else _named(name)
    for other in _bases():
        _sweep(other)
        if named is not None and (path := other / named).exists():
            raise UsageError(f"There is a queue {name!r} already, in {path}.", "Attach to it, or name another.")
    base = segment.roomy_directory(_bases(), need_bytes)
    while True:
        path = base / (f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}" if named is None else named)
        try:
            segment.private_directory(base)
            os.mkdir(path, 0o700)
            use(path, create=True)
            return path
        except FileNotFoundError:  # the last one before us took the empty directory away just now
            continue
        except FileExistsError:
            raise UsageError(f"There is a queue {name!r} already, in {path}.", "Attach to it.") from None


def find(name: str) -> Path:
    """The directory that `make` made for ``name``.

    Raises:
        UsageError: there is none, or ``name`` is no name.
    """
    for base in _bases():
        if (path := base / _named(name)).is_dir():
            return path
    raise UsageError(f"There is no queue {name!r}.", "Make it first, and keep it while others attach.")


def is_temporary(path: Path) -> bool:
    """Whether ``path`` is a directory that its last user removes."""
    return path.name.startswith(_PREFIX) and path.parent in _bases()


def _named(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!r} is no name of a queue.", "Take letters, digits, '_', '.' and '-', 64 at most.")
    return _NAMED_PREFIX + name


def _bases() -> list[Path]:
    name = f"seclea-{os.geteuid()}"
    return [Path("/dev/shm") / name, Path(tempfile.gettempdir()) / name]  # noqa: S108


def _sweep(base: Path) -> None:
    try:
        with os.scandir(base) as entries:
            for entry in entries:
                if entry.name.startswith(_PREFIX):
                    _remove_unused(Path(entry.path))
    except OSError:
        pass


def use(path: Path, create: bool = False) -> None:
    """Keep ``path`` until this process ends.

    Raises:
        FileNotFoundError: it has been removed.
    """
    descriptor, users = _held.get(path, (-1, 0))
    if not users:
        descriptor = os.open(path / _USERS, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if not os.fstat(descriptor).st_nlink:  # removed between our open and our lock
                raise FileNotFoundError(str(path))
        except BaseException:
            os.close(descriptor)
            raise
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
