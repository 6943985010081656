"""A queue between processes, made of rings in one directory, with the interface of ``multiprocessing.Queue``.

Rule 1: every producer process writes only its own ring, so a killed one blocks nobody. What was put stays.
Rule 2: consumers take turns under a flock, which the kernel releases at death. An object is committed after it was
decoded: a consumer that is killed has returned it, or leaves it to the next.
Rule 3: a full ring is followed by a larger one; consumers finish the old one first. Only ``maxsize`` makes `put` wait.
Rule 4: who waits long sleeps until a bell rings (`bell`). Nobody rings while nobody sleeps.
Rule 5: after a fork the child closes what it inherited and starts with a ring, locks and mappings of its own.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import secrets
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from seclea.errors import QueueClosed, QueueEmpty, QueueFull, UsageError
from seclea.queues import items, segment, temporary
from seclea.queues.bell import Bell, Words
from seclea.queues.ring import Consumer, Producer
from seclea.queues.ring_directory import PRODUCER_ID_BYTES, RingDirectory
from seclea.queues.turn import Turn
from seclea.queues.wait import wait_until

log = logging.getLogger(__name__)

_SETTINGS = "queue.json"
_TURN_SECONDS = 0.005  # how long a call that may not wait still waits for another consumer's turn: one takes 10 µs
_CLOSE_SECONDS = 1.0  # how long `close` waits for a thread in the middle of a get; then its mappings stay
_WORDS = "bell.words"
_ITEMS_WORD, _ROOM_WORD = 0, 64  # 512 bytes apart: consumers raise the one, producers the other
_MANY_BYTES = 16 << 20  # of objects that one `get_many` takes, so that large ones cannot fill the memory
_LARGEST_RING_BYTES = 64 << 20  # rings double up to this
# What a call meets whose own thread was forked in the middle of it, by a signal handler, and which goes on in the child:
# all that it held was the parent's and is closed.
_GONE = (ValueError, OSError, KeyError, RuntimeError)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM})


class Queue:
    """First in, first out per producer; any number of producing and consuming processes and threads.

    It can be given to child processes (pickled), inherited by a fork, or attached to by its directory. Differences to
    ``multiprocessing.Queue``: what cannot be packed raises at `put`; there is no feeder thread; what a process put
    survives its death.

    Args:
        directory: where the queue lives; made where it is missing, and never removed. By default a new one in shared
            memory, which the last process that uses it removes.
        name: for `attach` in other processes of this user; the queue is in shared memory, and goes with its last user.
        maxsize: objects that the queue holds at most; 0 for no limit but memory.
        capacity_bytes: of a producer's first ring.
        bell: called after a `put` while the consumer sleeps (`set_sleeping`). Not carried to other processes.
        allow_pickle: False takes and gives plain data only (what msgpack knows), so reading it runs no code.
    """

    pickled = staticmethod(items.pickled)  # what is not plain data; a subclass may do it otherwise

    def __init__(
        self,
        maxsize: int = 0,
        *,
        directory: str | os.PathLike[str] | None = None,
        name: str | None = None,
        capacity_bytes: int = 1 << 20,
        bell: Callable[[], object] | None = None,
        allow_pickle: bool = True,
    ) -> None:
        if capacity_bytes <= 0:
            raise UsageError("capacity_bytes must be above 0.")
        if any(not isinstance(given, kind) for given, kind in ((maxsize, int), (name, str | None))):
            raise UsageError("maxsize is a whole number (0: without a bound), and name is text.")
        if directory is None:
            path = temporary.make(capacity_bytes, name)
        elif name is None:
            path = segment.private_directory(Path(directory))
        else:
            raise UsageError("A queue has a name or a directory, not both.")
        self._setup(path, max(0, maxsize), capacity_bytes, bell, allow_pickle, directory is None)
        settings = {"maxsize": self._maxsize, "capacity_bytes": capacity_bytes, "allow_pickle": allow_pickle}
        unfinished = path / f"{_SETTINGS}.{secrets.token_hex(4)}"
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "w") as file:
            json.dump(settings, file)
        os.replace(unfinished, path / _SETTINGS)

    @classmethod
    def attach(cls, directory: str | os.PathLike[str], bell: Callable[[], object] | None = None) -> Self:
        """Join the queue that some other process made.

        Args:
            directory: of the queue, or its name: text without a slash that is no directory here.
        Raises:
            UsageError: there is no queue.
        """
        path = Path(directory)
        if isinstance(directory, str) and "/" not in directory and not path.is_dir():
            path = temporary.find(directory)
        is_temporary = temporary.is_temporary(path)
        try:
            if is_temporary:
                temporary.use(path)
        except OSError as error:
            raise UsageError(f"There is no queue in {path}.") from error
        try:
            settings = json.loads((path / _SETTINGS).read_text())
            maxsize, capacity_bytes = int(settings["maxsize"]), int(settings["capacity_bytes"])
            allow_pickle = bool(settings["allow_pickle"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            if is_temporary:
                temporary.leave(path)
            raise UsageError(f"There is no queue in {path}.") from error
        queue = cls.__new__(cls)
        queue._setup(segment.private_directory(path), maxsize, capacity_bytes, bell, allow_pickle, is_temporary)
        return queue

    def _setup(
        self,
        directory: Path,
        maxsize: int,
        capacity_bytes: int,
        bell: Callable[[], object] | None,
        allow_pickle: bool,
        is_temporary: bool,
    ) -> None:
        self.directory = directory
        self._maxsize = maxsize
        self._capacity_bytes = capacity_bytes
        self._bell = bell
        self._allow_pickle = allow_pickle
        self._is_temporary = is_temporary
        self._closed = False
        self.lost = 0  # objects that could not be read back, in this process
        try:
            self._words = Words(directory / _WORDS).memory
        except OSError:
            if is_temporary:
                temporary.leave(directory)
            raise
        self._start_afresh()
        if is_temporary:
            self._leave = weakref.finalize(self, temporary.leave, directory)
        _queues.add(self)

    def _start_afresh(self) -> None:
        """State of this process alone; a forked child takes new."""
        self._producer: Producer | None = None
        # How to put into the ring at hand: its put, what it takes at most, the bells' words. None where more is to be asked.
        self._straight: tuple[Callable[[int, bytes], int], int, memoryview] | None = None
        self._producer_id = secrets.token_bytes(PRODUCER_ID_BYTES)
        self._ordinal = 0
        self._side_files = items.SideFiles(self.directory, self._producer_id)
        self._producing = threading.RLock()
        # A flock does not hold between threads. Re-entrant locks, because a signal handler may be here too.
        self._bounding = threading.RLock()
        self._is_bounding = False
        self._local = threading.RLock()  # over the rings as seen from here
        self._is_looking = False
        self._inline_bytes = 0  # what goes straight into the ring
        self._rings = RingDirectory(self.directory)
        self._is_settled = False  # whether this process has done what it must do once
        self._turn = Turn(self.directory / "get.lock")
        self._room = Turn(self.directory / "put.lock")
        self._items_bell = Bell(self._words, _ITEMS_WORD, self.directory / "items.bell")
        self._room_bell = Bell(self._words, _ROOM_WORD, self.directory / "room.bell")
        # What a queue that nobody closed lets go of when it is dropped; last the ring.
        parts = (self._rings, self._turn, self._room, self._items_bell, self._room_bell)
        self._closings = [weakref.finalize(self, part.close) for part in parts]

    def __getstate__(self) -> tuple[Any, ...]:
        return (self.directory, self._maxsize, self._capacity_bytes, self._allow_pickle, self._is_temporary)

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        directory, maxsize, capacity_bytes, allow_pickle, is_temporary = state
        if is_temporary:
            temporary.use(directory)
        self._setup(directory, maxsize, capacity_bytes, None, allow_pickle, is_temporary)

    # Putting

    def put(self, obj: Any, block: bool = True, timeout: float | None = None) -> None:
        """Add an object. Once this returned, it survives the death of this process.

        Raises:
            QueueFull: ``maxsize`` objects are in it, or the memory is full, and it stayed so for ``timeout`` seconds.
            QueueClosed: `close` was called in this process.
            UsageError: not plain data, with ``allow_pickle=False``.
        """
        if self._closed:
            raise QueueClosed("The queue is closed in this process.")
        type, payload, buffers = items.pack(obj, self._allow_pickle, self.pickled)
        straight = self._straight
        if straight is not None and not buffers and len(payload) <= straight[1]:  # as in `_write`, without the call
            try:
                done = straight[0](type, payload) != 0
            except QueueClosed:  # `_write` knows why
                done = False
            if done:
                if straight[2][_ITEMS_WORD]:
                    self._items_bell.ring()
                return
        if not self._maxsize:
            if self._write(type, payload, buffers):
                return
            done = block and wait_until(lambda: self._write(type, payload, buffers), timeout)
        else:
            done = self._write_if_room(type, payload, buffers)
            if not done and block:
                done = self._wait(
                    lambda: not self.full() and self._write_if_room(type, payload, buffers), timeout, self._room_bell
                )
        if not done:
            raise QueueFull(f"The queue in {self.directory} is full.", "Get something first, or make room in memory.")

    def put_nowait(self, obj: Any) -> None:
        """`put` that raises `QueueFull` rather than waiting."""
        self.put(obj, block=False)

    def _write_if_room(self, type: int, payload: bytes, buffers: items.Buffers) -> bool:
        """`_write` while fewer than ``maxsize`` are in the queue.

        A signal handler that interrupts this in its own thread cannot wait for it: its object may be one too many.
        """
        bounding, room = self._bounding, self._room
        try:
            with bounding:
                was = self._is_bounding
                try:
                    self._is_bounding = True
                    if not was and not room.take(_TURN_SECONDS):
                        return False
                    return self.qsize() < self._maxsize and self._write(type, payload, buffers)
                finally:
                    self._is_bounding = was
                    if not was:
                        room.leave()
        except _GONE:
            if bounding is self._bounding:
                raise
            room.close()  # it may have been opened after the fork, and then holds the parent's lock
            return self._write_if_room(type, payload, buffers)

    def _write(self, type: int, payload: bytes, buffers: items.Buffers) -> bool:
        """Put one frame into this process's ring, or into the next one; False when the memory is full."""
        producer, side_files, file = self._producer, self._side_files, None
        item = type, payload, buffers
        try:
            if producer is None:
                producer = self._next_ring(None)
            size_bytes = len(payload) + sum(map(len, buffers)) if buffers else len(payload)
            if size_bytes > self._inline_bytes:
                type, payload, file = side_files.write(type, payload, buffers)
            elif buffers:
                payload = b"".join([payload, *buffers])
            while True:
                try:
                    if producer.put(type, payload):
                        break
                except QueueClosed:  # another thread went on to the next ring, or closed the queue
                    if self._side_files is not side_files:  # or this is a child, and ring and file are the parent's
                        return self._write(*item)
                producer = self._next_ring(producer)
            file = None  # it is in the queue now, and the consumer's to remove
        except OSError as error:
            if error.errno in _NO_ROOM:
                return False
            raise
        finally:
            if file is not None and self._side_files is side_files:
                file.unlink(missing_ok=True)
        if self._words[_ITEMS_WORD]:
            self._items_bell.ring()
        if self._bell is not None and producer.consumer_sleeps:
            self._bell()
        return True

    def _next_ring(self, full: Producer | None) -> Producer:
        """The ring after ``full``, made by whichever thread comes first."""
        with self._producing:
            if self._closed:
                raise QueueClosed("The queue is closed in this process.")
            if self._producer is not full and self._producer is not None:
                return self._producer
            full = self._producer  # none in a child that was forked in the middle of a put
            capacity_bytes = self._capacity_bytes
            if full is not None:
                capacity_bytes = max(full.capacity_bytes, min(2 * full.capacity_bytes, _LARGEST_RING_BYTES))
            segment.sweep_unfinished(self.directory)  # of makers killed before they had a ring
            ordinal = self._ordinal = self._ordinal + 1
            ring_id = self._producer_id + ordinal.to_bytes(8, "big")
            fresh = Producer.create(self.directory, capacity_bytes=capacity_bytes, ring_id=ring_id)
            if self._producer is not full:  # a signal handler was here meanwhile
                fresh.close(unlink=True)
                return self._producer or fresh
            self._producer = fresh
            self._inline_bytes = min(items.INLINE_BYTES, fresh.largest_payload_bytes)
            if not self._maxsize and self._bell is None:
                self._straight = fresh.put, self._inline_bytes, self._words
            self._closings[5:] = [weakref.finalize(self, fresh.close)]
            for frame in full.retire() if full is not None else ():  # parked by signal handlers, before this put
                fresh.put(*frame)
            self._settle()
        # A consumer that sleeps has not seen the new ring, so it could not say so in there.
        if self._bell is not None:
            self._bell()
        return fresh

    # Getting

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        """Take the next object.

        Raises:
            QueueEmpty: nothing came for ``timeout`` seconds.
            QueueClosed: `close` was called in this process.
            Exception: whatever unpickling the object raises; it is not in the queue any more.
        """
        taken: list[Any] = []
        if not self._take(taken, 1) and not (
            block and self._wait(lambda: self._take(taken, 1), timeout, self._items_bell)
        ):
            raise QueueEmpty(f"The queue in {self.directory} is empty.")
        return taken[0]

    def get_nowait(self) -> Any:
        """`get` that raises `QueueEmpty` rather than waiting."""
        return self.get(block=False)

    def get_many(self, max_items: int = 1000, timeout: float | None = 0.0) -> list[Any]:
        """Take up to ``max_items`` objects, as soon as there is at least one; an empty list when the time is over.

        More may be there than one call brings: it takes from each producer's oldest ring only, and 16 MiB at most.

        Args:
            timeout: seconds; ``None`` waits for ever.
        """
        taken: list[Any] = []
        if not self._take(taken, max_items) and timeout != 0:
            self._wait(lambda: self._take(taken, max_items), timeout, self._items_bell)
        return taken

    def _wait(self, predicate: Callable[[], bool], timeout: float | None, bell: Bell) -> bool:
        """`wait_until`, woken by ``bell``; who was woken and leaves work for others wakes the next."""
        if self._is_interrupted():
            return False
        if not wait_until(predicate, timeout, bell=bell):
            return False
        if bell.is_wanted and not (self.empty() if bell is self._items_bell else self.full()):
            bell.ring()
        return True

    def _is_interrupted(self) -> bool:
        """Whether this is a signal handler, inside a get or a bounded put of its own thread, which cannot go on
        before the handler returns: waiting for it would never end."""
        if not self._local.acquire(blocking=False):
            return False
        try:
            return self._is_looking
        finally:
            self._local.release()

    def _take(self, taken: list[Any], max_items: int) -> bool:
        local, turn = self._local, self._turn
        try:
            with local:
                was = self._is_looking
                if was:  # a signal handler interrupted a get of its own thread, whose objects these are
                    return False
                try:
                    self._is_looking = True
                    rings = self._scanned(always=False)
                    while rings.has_items() or rings.wants_retiring():
                        try:
                            if not turn.take(_TURN_SECONDS):
                                break
                            self._take_in_turn(rings, taken, max_items)
                            if taken or not rings.retire():
                                break
                        finally:
                            turn.leave()
                finally:
                    self._is_looking = was
        except _GONE:
            if local is self._local:
                raise
            turn.close()
            taken.clear()  # the parent gets these
            return False
        if taken and self._maxsize and self._room_bell.is_wanted:
            self._room_bell.ring()
        return bool(taken)

    def _take_in_turn(self, rings: RingDirectory, taken: list[Any], max_items: int) -> None:
        read: list[Consumer] = []
        files: list[Path] = []
        size_bytes = 0
        for ring in rings.readable():
            already = ring.committed  # a consumer killed in the middle of a commit leaves these to be seen again
            read.append(ring)
            while len(taken) < max_items and size_bytes < _MANY_BYTES and (frames := ring.read(1)):
                type, sequence, payload = frames[0]
                if sequence <= already:
                    continue
                file: Path | None = None
                buffers: list[Any] = []
                is_read = type not in items.IN_FILE
                try:
                    if not is_read:
                        type, payload, buffers, file = items.read_side_file(self.directory, type, payload)
                        is_read = True
                    taken.append(items.unpack(type, payload, self._allow_pickle, buffers))
                    size_bytes += len(payload) + sum(map(len, buffers)) if buffers else len(payload)
                except items.ItemLost as error:
                    self.lost += 1
                    log.error("%s", error)
                except Exception as error:
                    # What unpickling raises is raised once, with nothing else to return. What this process has no
                    # descriptor or memory to read stays.
                    if taken or not is_read or (isinstance(error, MemoryError) and not self._allow_pickle):
                        ring.unread()
                        file = None
                        max_items = 0
                    if not taken:
                        _commit(read, [*files, file] if file is not None else files)
                        raise
                if file is not None:
                    files.append(file)
            if len(taken) >= max_items or size_bytes >= _MANY_BYTES:
                break
        _commit(read, files)

    # Looking and closing

    def qsize(self) -> int:
        """Objects in the queue; with others at work it may be wrong when it arrives."""
        local = self._local
        try:
            with local:
                was = self._is_looking
                try:
                    self._is_looking = True
                    return (self._rings if was else self._scanned(always=True)).count()
                finally:
                    self._is_looking = was
        except _GONE:
            if local is self._local:
                raise
            return self.qsize()

    def empty(self) -> bool:
        """Whether nothing is in the queue."""
        local = self._local
        try:
            with self._looking() as rings:
                return not rings.has_items()
        except _GONE:
            if local is self._local:
                raise
            return self.empty()

    def full(self) -> bool:
        """Whether ``maxsize`` objects are in the queue."""
        return bool(self._maxsize) and self.qsize() >= self._maxsize

    def set_sleeping(self, sleeping: bool) -> None:
        """The (only) consumer asks for a bell after each `put`, or no longer. Look at `empty` once more after True."""
        with self._looking() as rings:
            rings.set_sleeping(sleeping)

    def close(self) -> None:
        """No more puts and gets in this process; what was put stays. Never waits for anyone."""
        self._closed = True
        with self._producing:
            if self._producer is not None:
                self._producer.close()
        if self._local.acquire(timeout=_CLOSE_SECONDS):
            try:
                if not self._is_looking:  # else this is a signal handler that interrupted its own thread in there
                    self._rings.close()
                    self._turn.close()
                    self._room.close()
            finally:
                self._local.release()
        self._items_bell.close()
        self._room_bell.close()

    def join_thread(self) -> None:
        """There is no thread: what `put` returned from is in the queue."""

    def cancel_join_thread(self) -> None:
        """There is no thread."""

    @contextmanager
    def _looking(self, always: bool = True) -> Iterator[RingDirectory]:
        """The rings, for one thread of this process at a time; ``always``: also those made this very instant."""
        with self._local:
            was = self._is_looking
            try:
                self._is_looking = True
                yield self._rings if was else self._scanned(always)
            finally:
                self._is_looking = was

    def _scanned(self, always: bool) -> RingDirectory:
        if self._closed:
            raise QueueClosed("The queue is closed in this process.")
        self._settle()
        try:
            self._rings.scan(always)
        except FileNotFoundError:
            raise QueueClosed(f"The queue's directory {self.directory} was removed.") from None
        return self._rings

    def _settle(self) -> None:
        if not self._is_settled:
            self._is_settled = True
            if self._is_temporary:
                temporary.call_at_exit(self._leave)

    def _after_fork(self) -> None:
        """In a forked child. The producer's ring has been abandoned by its own hook."""
        for closing in self._closings:
            closing.detach()
        self._rings.abandon_after_fork()
        self._turn.close()
        self._room.close()
        self._items_bell.abandon_after_fork()
        self._room_bell.abandon_after_fork()
        self._start_afresh()


def _commit(rings: list[Consumer], files: list[Path]) -> None:
    for ring in rings:
        ring.commit()
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError as error:  # what was in it has been taken; it goes with its producer's ring
            log.warning("%s cannot be removed: %s", file, error)


_queues: weakref.WeakSet[Queue] = weakref.WeakSet()


def _after_fork() -> None:
    for queue in list(_queues):
        queue._after_fork()


os.register_at_fork(after_in_child=_after_fork)
