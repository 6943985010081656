"""The writing end of a ring. The rules are in `layout`."""

from __future__ import annotations

import errno
import mmap
import os
import secrets
import struct
import threading
import weakref
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol
from zlib import crc32

from seclea.errors import QueueClosed, TooLargeError, UsageError
from seclea.queues import segment
from seclea.queues.layout import (
    BEAT,
    CLOSED,
    CRC32,
    DROPPED,
    ENDING,
    FRAME,
    FRAME_BYTES,
    HEAD,
    HEAD_SEQUENCE,
    HEADER_BYTES,
    IDENTITY,
    LARGEST_CAPACITY,
    LARGEST_PAYLOAD,
    MAGIC,
    OPEN,
    PAGE,
    PAUSED,
    SLEEP,
    STATE,
    SUFFIX,
    TAIL,
    TAIL_SEQUENCE,
    U32,
    VERSION,
)

PARKED = -1  # what `Producer.put` returns to a signal handler that interrupted a put

ATTEND_NS = 500_000_000  # how often a producer that puts all the time looks whether its consumer still lives


class _Put(Protocol):
    def __call__(self, type: int, payload: bytes, now_ns: int = 0, /) -> int: ...


class Producer:
    """The writing end. Threads of one process share it; another process needs a ring of its own."""

    put: _Put
    """``put(type, payload[, now_ns]) -> sequence``: hand over one frame, or return 0 when there is no room. Never waits.

    Once it returned a sequence, the frame survives the death of this process. Thread-safe. Called by a signal handler
    that interrupted a put of the same thread it returns `PARKED`: the frame is written when that put is done.

    Args:
        type: 1 to 255, for the caller's use.
        payload: at most ``largest_payload_bytes``.
        now_ns: ``time.time_ns()``, which the caller has just read. Then it is the put of a hot path: it also returns 0
            while the consumer asks for a pause or `hold_back` does, or only the ``spare_bytes`` of the ring are left, and
            calls ``attend`` when the consumer sleeps, and every half second (or when the clock was set back).
    Raises:
        TooLargeError: the payload can never fit.
        QueueClosed: the ring was closed, or belongs to the process that forked this one.
    """

    hold_back: Callable[[bool], None]
    """``hold_back(True)``: from now on a put with ``now_ns`` returns 0, as if there were no room; ``False``: no longer."""

    def __init__(
        self,
        path: Path,
        ring_id: bytes,
        descriptor: int,
        memory: mmap.mmap,
        attend: Callable[[], None] = lambda: None,
        spare_bytes: int = 0,
    ) -> None:
        self.path = path
        self.ring_id = ring_id
        self.capacity_bytes = len(memory) - HEADER_BYTES
        self.largest_payload_bytes = min(LARGEST_PAYLOAD, self.capacity_bytes // 4)
        self._spare_bytes = spare_bytes
        self._descriptor = descriptor
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self._parked: deque[tuple[int, bytes]] = deque()
        # Re-entrant, because only that kind knows for sure whether a signal handler interrupted its own thread.
        self._lock = threading.RLock()
        self.put, self.hold_back, self._abandon = _make_put(
            memory,
            self._words,
            self.capacity_bytes,
            self.largest_payload_bytes,
            self._parked,
            self._lock,
            attend,
            spare_bytes,
        )
        _producers.add(self)

    @classmethod
    def create(
        cls,
        directory: Path,
        *,
        capacity_bytes: int = 4 << 20,
        ring_id: bytes | None = None,
        attend: Callable[[], None] = lambda: None,
        spare_bytes: int = 0,
    ) -> Producer:
        """Make the file of a new ring, ``<ring id in hex>.ring``, and hold its lock until `close`.

        Args:
            directory: made 0700 where it is missing.
            capacity_bytes: of frames; rounded up to whole pages.
            ring_id: 16 bytes, random by default.
            attend: see `put`; it must not raise, and is called without the ring's lock.
            spare_bytes: of the capacity, for puts without ``now_ns`` only.
        Raises:
            OSError: no room for it (ENOSPC and the like), or the directory is not ours.
        """
        ring_id = secrets.token_bytes(16) if ring_id is None else ring_id
        if len(ring_id) != 16 or not 0 < capacity_bytes <= LARGEST_CAPACITY:
            raise UsageError("A ring needs an id of 16 bytes and a capacity above 0.")
        capacity_bytes = -(-capacity_bytes // PAGE) * PAGE
        pid = os.getpid()
        path = segment.private_directory(directory) / f"{ring_id.hex()}{SUFFIX}"
        descriptor = segment.create_unfinished(path, HEADER_BYTES + capacity_bytes)
        try:
            memory = segment.map_shared(descriptor, HEADER_BYTES + capacity_bytes, populate=True)
            start, boot = segment.process_start(pid), segment.boot_id()
            IDENTITY.pack_into(memory, 0, MAGIC, VERSION, CRC32, capacity_bytes, ring_id, pid, start, boot)
            if os.getpid() != pid:  # a signal handler forked meanwhile, and this is the child
                raise FileExistsError(errno.EEXIST, "belongs to the parent", str(path))
            segment.finish(path)
        except BaseException:
            segment.discard_unfinished(path)
            os.close(descriptor)
            raise
        made = cls(path, ring_id, descriptor, memory, attend, spare_bytes)
        if os.getpid() != pid:
            made.abandon_after_fork()
        return made

    def _word(self, index: int) -> int:
        try:
            return self._words[index]
        except ValueError:  # closed
            return 0

    @property
    def consumer_sleeps(self) -> bool:
        """Whether the consumer waits for a bell. Look only after `put` returned."""
        return self._word(SLEEP) != 0

    @property
    def paused(self) -> bool:
        """Whether the consumer asks for a pause (a limit was reached)."""
        return self._word(PAUSED) != 0

    @property
    def pause(self) -> int:
        """The number of the pause that the consumer asks for; 0 without one."""
        return self._word(PAUSED)

    @property
    def beat_ns(self) -> int:
        """The consumer's last sign of life, ``time.monotonic_ns()``; 0 before the first."""
        return self._word(BEAT)

    @property
    def sequence(self) -> int:
        """Of the last frame handed over; 0 before the first."""
        return self._word(HEAD_SEQUENCE)

    @property
    def committed(self) -> int:
        """Sequence of the last frame that the consumer has made safe."""
        return self._word(TAIL_SEQUENCE)

    @property
    def is_drained(self) -> bool:
        """Whether everything handed over is safe with the consumer."""
        return not self._parked and self._word(HEAD) == self._word(TAIL)

    @property
    def used_bytes(self) -> int:
        """Bytes between TAIL and HEAD, which the consumer has yet to make safe."""
        return max(0, self._word(HEAD) - self._word(TAIL))

    def has_room(self, size: int) -> bool:
        """Whether a payload of ``size`` bytes fits without the spare bytes (and, for sure, not at the ring's end)."""
        return self.used_bytes + size + 2 * FRAME_BYTES <= self.capacity_bytes - self._spare_bytes

    @property
    def closed(self) -> bool:
        return self._descriptor < 0

    def add_dropped(self, count: int) -> None:
        """Count frames that were given up, where the consumer can see it."""
        with self._lock:
            if not self.closed:
                self._words[DROPPED] += count

    def close(self, unlink: bool = False) -> None:
        """Tell the consumer that nothing follows, and let go of the file. Never raises; more calls do nothing.

        Args:
            unlink: remove the file too; only where nobody else will read it.
        """
        with self._lock:
            if self.closed:
                return
            self.add_dropped(len(self._parked))
            self.retire()
            if unlink:
                try:
                    os.unlink(self.path)
                except OSError:
                    pass

    def say_end(self) -> None:
        """This process comes to its end in order; what it still puts is read all the same. Never raises."""
        with self._lock:
            if not self.closed and self._words[STATE] == OPEN:
                self._words[STATE] = ENDING

    def retire(self) -> list[tuple[int, bytes]]:
        """Close, and return what signal handlers parked and found no room, as (type, payload) in order."""
        with self._lock:
            parked = list(self._parked)
            self._parked.clear()
            if self._descriptor >= 0:
                self._words[STATE] = CLOSED
                self._let_go()
            return parked

    def abandon_after_fork(self) -> None:
        """In a forked child: forget the ring, which stays the parent's. Writes nothing, not even through old `put`."""
        self._lock = threading.RLock()  # another thread of the parent may hold the old one for ever
        if self.closed:
            return
        self._abandon()
        self._let_go()

    def _let_go(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        try:
            self._words.release()
            self._memory.close()
        except BufferError:  # someone else looks at the memory; then it goes with them
            pass
        os.close(descriptor)  # drops the lock; in a forked child the parent's stays, record locks belong to a process


def _make_put(
    memory: mmap.mmap,
    words: memoryview,
    capacity: int,
    largest: int,
    parked: deque[tuple[int, bytes]],
    lock: threading.RLock,
    attend: Callable[[], None],
    spare_bytes: int,
) -> tuple[_Put, Callable[[bool], None], Callable[[], None]]:
    """`Producer.put`, `Producer.hold_back` and what disarms them after a fork.

    Closures, because their variables cost half of what attributes do. A signal handler may run, and raise, after any call.
    So each step leaves a state from which the next put goes on: the frame is written first, and the assignments from
    ``offset`` to HEAD hold no call.
    """
    acquire, release = lock.acquire, lock.release
    pack_into = FRAME.pack_into
    head = sequence = 0
    shift = HEADER_BYTES  # head + shift is the place in the file
    limit = capacity - spare_bytes  # TAIL + that when last looked at; HEAD may not pass it on the hot path
    bound = (
        limit  # what HEAD stays below on the straight path: `limit` and the end of the file; 0 to look at everything
    )
    looked_ns = due_ns = 0  # the wall clock at the last `attend`, and when the next one is due
    busy = held = False

    def put(type: int, payload: bytes, now_ns: int = 0, /) -> int:
        # After real work each variable that is touched here costs a cache miss: hence one bound for four questions.
        nonlocal busy, head, sequence
        try:
            acquire()
            if busy:
                park(type, payload)
                return PARKED
            busy = True
            try:
                if now_ns and words[PAUSED]:
                    return 0
                length = len(payload)
                end = head + (length + 23 & -8)
                if end >= bound or length > largest or not type:
                    number = put_slowly(type, payload, now_ns)
                    if not number:
                        return 0
                else:  # as `write` does it, without the call
                    number = sequence + 1
                    start = head + shift
                    word = type << 24 | length
                    pack_into(memory, start, word, crc32(payload, (number + word) & U32), number)
                    start += FRAME_BYTES
                    memory[start : start + length] = payload
                    sequence = number
                    head = end
                    words[HEAD] = end
                    words[HEAD_SEQUENCE] = number
                    if not bound:
                        write_parked()
            finally:
                busy = False
        except (ValueError, TypeError, struct.error):
            check(type, payload)
            if not words_are_released():  # what closed memory answers
                raise
            raise QueueClosed("The ring is closed.", "A forked process makes a ring of its own.") from None
        finally:
            try:
                release()
            except RuntimeError:  # a signal handler raised while we waited for the lock
                pass
        # Only now, after the lock's atomic instruction: the consumer stores SLEEP, passes a lock, and looks at HEAD.
        try:
            if now_ns and (words[SLEEP] or not looked_ns <= now_ns < due_ns):
                look(now_ns)
        except ValueError:  # closed since; or forked by a signal handler, and the frame is the parent's
            if not words_are_released():
                raise
        return number

    def park(type: int, payload: bytes) -> None:
        nonlocal bound
        check(type, payload)
        bound = 0  # first: the append may be interrupted
        parked.append((type, payload))

    def put_slowly(type: int, payload: bytes, now_ns: int) -> int:
        """Something is in the way of the straight path: the end of the ring, no room as far as is known, parked frames."""
        nonlocal bound
        check(type, payload)
        if held and now_ns:
            return 0
        if not write_parked():
            return 0
        number = write(type, payload, spare_bytes if now_ns else 0)
        bound = min(limit + 1, head - head % capacity + capacity)
        if held or not write_parked():
            bound = 0
        return number

    def check(type: int, payload: bytes) -> None:
        if len(payload) > largest:
            raise TooLargeError(f"A frame of {len(payload)} bytes does not fit a ring that takes {largest} at most.")
        if not 0 < type < 256:
            raise UsageError(f"A frame's type is 1 to 255, not {type}.")

    def write(type: int, payload: bytes, spare: int = 0) -> int:
        nonlocal head, sequence, shift, limit
        length = len(payload)
        need = (length + 23) & -8
        offset = head + shift - HEADER_BYTES
        left = capacity - offset
        skip = left if need > left else 0
        end = head + skip + need
        if end > limit:
            tail = words[TAIL]
            if head - tail < 0 or head - tail > capacity:  # a TAIL that cannot be: never write over what is unread
                return 0
            most = tail + capacity
            if not held:  # else the limit stays 0, also where a signal handler raises from here
                limit = most - spare_bytes
            if end > most - spare:
                return 0
        number = sequence + 1
        start = offset + HEADER_BYTES
        if skip:
            if skip >= FRAME_BYTES:
                word = skip - FRAME_BYTES
                pack_into(memory, start, word, (number + word) & U32, number)
            start = HEADER_BYTES
        word = type << 24 | length
        pack_into(memory, start, word, crc32(payload, (number + word) & U32), number)
        memory[start + FRAME_BYTES : start + FRAME_BYTES + length] = payload
        place = start - HEADER_BYTES + need
        shift = HEADER_BYTES - end if place == capacity else HEADER_BYTES + place - end
        sequence = number
        head = end
        words[HEAD] = end
        words[HEAD_SEQUENCE] = number
        return number

    def write_parked() -> bool:
        """Whether nothing is parked any more."""
        while parked:
            before = sequence
            try:
                write(*parked[0])
            finally:
                if sequence != before:
                    parked.popleft()
            if sequence == before:
                return False
        return True

    def look(now_ns: int) -> None:
        nonlocal looked_ns, due_ns
        looked_ns, due_ns = now_ns, now_ns + ATTEND_NS
        attend()

    def hold_back(value: bool) -> None:
        nonlocal held, bound
        with lock:
            held = value
            bound = 0

    def words_are_released() -> bool:
        try:
            words[HEAD]
        except ValueError:
            return True
        return False

    def abandon() -> None:
        nonlocal acquire, release, lock, busy
        busy = False  # it may have been in a put
        lock = threading.RLock()  # another thread of the parent may hold the old one for ever
        acquire, release = lock.acquire, lock.release

    return put, hold_back, abandon


_producers: weakref.WeakSet[Producer] = weakref.WeakSet()


def _abandon_all() -> None:
    for producer in list(_producers):
        producer.abandon_after_fork()


os.register_at_fork(after_in_child=_abandon_all)
