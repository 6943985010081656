"""Bells of a queue: how a process that waits long is woken, at no cost to those who put while nobody sleeps.

A bell is one word in a file that all users of the queue map, and one FIFO.

Rule 1: who wants to sleep stores 1 in the word, looks once more, and polls the FIFO for a byte, with a timeout.
Rule 2: who has put something looks at the word. When it is not 0 he stores 0 and *then* writes one byte. (The other
way round, a sleeper could take the byte and raise its word in between, and the 0 would silence the next bell.)
Rule 3: a sleeper that was woken takes the bytes out and raises the word again: others may still sleep. So one sleep
costs the other side two bells at most, and none follows while nobody sleeps.
Rule 4: whoever may be killed between two of these steps leaves a bell that was not heard. Each sleep ends by itself.

The FIFO is opened for both directions and without blocking: there is always a reader, so a write into it raises no
SIGPIPE, and a full one has bytes enough to wake everybody.
"""

from __future__ import annotations

import mmap
import os
import select
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path

LONGEST_SLEEP_SECONDS = 0.1  # what a missed bell costs at most
_OPEN_FLAGS = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
_WORDS_BYTES = mmap.PAGESIZE
_CHUNK_BYTES = 4096
_NAP_SECONDS = 0.02  # instead of a sleep, where no FIFO can be had


class Words:
    """The words of a queue's bells: a page that all its users map. Each is written with one aligned 8-byte store."""

    def __init__(self, path: Path) -> None:
        """Raises OSError: no room for the page, or ``path`` is not ours."""
        descriptor = os.open(path, _OPEN_FLAGS | os.O_CREAT, 0o600)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise PermissionError(f"{path} is not a regular file")
            os.posix_fallocate(descriptor, 0, _WORDS_BYTES)  # a full tmpfs is an error here, not a SIGBUS later
            self.memory = memoryview(mmap.mmap(descriptor, _WORDS_BYTES)).cast("Q")
        finally:
            os.close(descriptor)


class Bell:
    """One bell. Threads share it, and a forked child goes on with what it inherited.

    Args:
        memory: of `Words`; ``index`` is this bell's word in it.
        path: of the FIFO; made where it is missing.
    """

    def __init__(self, memory: memoryview, index: int, path: Path) -> None:
        self._memory = memory
        self._index = index
        self._path = path
        self._descriptor = -1
        self._closing = False
        self._sleepers = 0  # threads that look at the descriptor
        self._lock = threading.RLock()  # re-entrant: a signal handler may put, and ring

    @property
    def is_wanted(self) -> bool:
        """Whether somebody sleeps. Look only after what they wait for has been stored."""
        return bool(self._memory[self._index])

    def ring(self) -> None:
        """Wake whoever sleeps. Never waits, never raises."""
        self._memory[self._index] = 0
        self._write()

    def _write(self) -> None:
        descriptor = self._enter()
        if descriptor >= 0:
            try:
                os.write(descriptor, b"\0")
            except OSError:  # full: everybody will wake
                pass
            finally:
                self._leave()

    def sleep(self, predicate: Callable[[], bool], seconds: float) -> bool:
        """Sleep until the bell rings, at most ``seconds``; at once True when ``predicate()`` holds already.

        May return early. Where no FIFO can be had, it naps.
        """
        descriptor = self._enter()
        if descriptor < 0:
            time.sleep(min(seconds, _NAP_SECONDS))  # without a bell, a nap is what there is
            return predicate()
        try:
            self._memory[self._index] = 1
            with self._lock:  # its atomic instruction orders the store before the look that follows
                pass
            if predicate():
                return True
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            if poll.poll(max(1, int(1000 * min(seconds, LONGEST_SLEEP_SECONDS)))):
                try:
                    os.read(descriptor, _CHUNK_BYTES)
                except OSError:  # another sleeper was faster
                    pass
                self._memory[self._index] = 1
                with self._lock:
                    pass
            return predicate()
        finally:
            self._leave()

    def _enter(self) -> int:
        with self._lock:
            if self._closing:
                return -1
            if self._descriptor < 0:
                try:
                    try:
                        os.mkfifo(self._path, 0o600)
                    except FileExistsError:
                        pass
                    self._descriptor = _open_fifo(self._path)
                except OSError:  # a file system without FIFOs, no descriptor left, the directory gone
                    return -1
            self._sleepers += 1
            return self._descriptor

    def _leave(self) -> None:
        with self._lock:
            self._sleepers -= 1
            if self._closing and not self._sleepers:
                self._let_go()

    def close(self) -> None:
        """Wake the sleepers of this process (and, in vain, those of others), and let go when the last has left."""
        with self._lock:
            if self._sleepers:
                self._write()
            self._closing = True
            if not self._sleepers:
                self._let_go()

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of what was inherited, whichever threads of the parent were asleep."""
        self._lock = threading.RLock()
        self._closing = True
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


def _open_fifo(path: Path) -> int:
    descriptor = os.open(path, _OPEN_FLAGS)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileExistsError(f"{path} is not a FIFO")
    return descriptor
