"""Processes seen from outside: who they are, whose, and that none is left. `/proc` and `wait`, nothing of seclea."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans() -> None:
    """Have every descendant whose parent dies become this process's child: it can be seen, and waited for."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def state_of(pid: int) -> str:
    """One letter, as in ``ps``: R, S, T, Z …; empty when there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except (OSError, IndexError):
        return ""


def children_of(pid: int) -> list[int]:
    """Its direct children, zombies too."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_bytes().split())
    return found


def descendants_of(pid: int) -> Iterator[int]:
    """Everybody who came from it, zombies too."""
    for child in children_of(pid):
        yield child
        yield from descendants_of(child)


def module_of(pid: int, home: Path | None = None) -> str:
    """``seclea.X`` of ``python -m seclea.X … HOME`` as "X"; empty for others."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return ""
    if b"-m" not in words or not (home is None or any(word.startswith(os.fsencode(home)) for word in words)):
        return ""
    name = words[words.index(b"-m") + 1].decode()
    return name.removeprefix("seclea.") if name.startswith("seclea.") else ""


def pipeline_pids(home: Path) -> dict[str, list[int]]:
    """Writers, senders and embedded portals of a home, whoever started them."""
    found: dict[str, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (name := module_of(int(entry), home)):
            found.setdefault(name, []).append(int(entry))
    return found


def kill(pid: int, number: int = signal.SIGKILL) -> bool:
    """Whether there was somebody to be hit."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def start(work: Callable[[], None], errors: Path) -> int:
    """Fork; the child does ``work`` and ends with 0, or 1 with the traceback in ``errors``.

    What was imported is there already, so it starts in milliseconds. The forking process must have one thread only.
    """
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        descriptor = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 2)
        os.close(descriptor)
        work()
        code = 0
    except BaseException:
        import traceback

        os.write(2, traceback.format_exc().encode())
    finally:
        os._exit(code)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Poll until it is so, with a deadline; whether it came to be."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
