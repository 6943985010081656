"""The reading end of a ring. The rules are in `layout`."""

from __future__ import annotations

import mmap
import os
import threading
from pathlib import Path
from zlib import crc32

from seclea.queues import segment
from seclea.queues.layout import (
    ATTACHED,
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
    LARGEST_SEQUENCE,
    LENGTH_MASK,
    MAGIC,
    PAGE,
    PAUSED,
    SLEEP,
    STATE,
    TAIL,
    TAIL_SEQUENCE,
    U32,
    VERSION,
    Frame,
    RingDamaged,
)


class Consumer:
    """The reading end: one at a time. It believes nothing in the file that it has not checked."""

    def __init__(self, path: Path, descriptor: int, memory: mmap.mmap) -> None:
        identity = IDENTITY.unpack_from(memory)
        self.capacity_bytes: int = identity[3]
        self.ring_id: bytes = identity[4]
        self.pid: int = identity[5] & 0x7FFFFFFF  # no pid has more bits; what a flipped one says must fit a row
        self.start_ticks: int = identity[6] & (1 << 63) - 1  # likewise
        self.boot: bytes = identity[7]
        self.path = path
        self._descriptor = descriptor
        self._memory = memory
        self._words = memoryview(memory).cast("Q")
        self._fence = threading.Lock()
        self._words[ATTACHED] = os.getpid()
        self.refresh()

    @classmethod
    def attach(cls, path: Path) -> Consumer:
        """Open the ring at ``path``, at the last committed position.

        Raises:
            RingDamaged: not a ring of this version, or not of the size that it claims.
            OSError: missing, a link, or not ours.
        """
        descriptor = segment.open_existing(path)
        try:
            size_bytes = os.fstat(descriptor).st_size
            if not HEADER_BYTES + PAGE <= size_bytes <= HEADER_BYTES + LARGEST_CAPACITY:
                raise RingDamaged(f"{path} is not a ring: it has {size_bytes} bytes.")
            magic, version, checksum, capacity, *_ = IDENTITY.unpack(os.pread(descriptor, IDENTITY.size, 0))
            if magic != MAGIC or version != VERSION or checksum != CRC32:
                raise RingDamaged(f"{path} is not a ring of version {VERSION} with checksum {CRC32}.")
            if size_bytes != HEADER_BYTES + capacity or capacity % PAGE:
                raise RingDamaged(f"{path} claims {capacity} bytes of frames, but has {size_bytes} bytes.")
            return cls(path, descriptor, segment.map_shared(descriptor, size_bytes))
        except BaseException:
            os.close(descriptor)
            raise

    def refresh(self) -> None:
        """Go to the position that the file says is committed: another consumer may have had its turn."""
        self._position = self._committed = self._words[TAIL]
        self._expected = 0  # found in the first frame
        self._before = self._position, 0

    def rewind(self) -> None:
        """Forget what was read since the last commit; it is read again."""
        self.refresh()

    def unread(self) -> None:
        """Give back what the last `read` returned; it is read again."""
        self._position, self._expected = self._before

    def read(self, max_frames: int = 1000, max_bytes: int = 1 << 20) -> list[Frame]:
        """The next frames as (type, sequence, payload), without committing them; empty when there are none (yet).

        Returns:
            At most ``max_frames``, and no more after ``max_bytes`` of payload. Right after `attach` some may have been
            committed already by a consumer that was killed in `commit`: those with a sequence up to `committed`.
        """
        frames: list[Frame] = []
        words, memory, capacity = self._words, self._memory, self.capacity_bytes
        head, position = words[HEAD], self._position
        self._before = position, self._expected
        if not self._is_plausible(head) or position == head:
            return frames
        expected = self._expected or self._first_expected()
        if not expected:
            return frames
        append, unpack_from = frames.append, FRAME.unpack_from
        offset = position % capacity
        taken = 0
        while position < head:
            left = capacity - offset
            if left < FRAME_BYTES:
                position, offset = position + left, 0
                if position >= head:
                    break
                continue
            start = offset + HEADER_BYTES
            word, check, sequence = unpack_from(memory, start)
            length = word & LENGTH_MASK
            need = (length + 23) & -8
            if sequence != expected or need > left or position + need > head:
                break
            if word <= LENGTH_MASK:  # type 0: the rest up to the end is not used
                if need != left or check != (sequence + word) & U32:
                    break
                position, offset = position + left, 0
                continue
            payload = memory[start + 16 : start + 16 + length]
            if crc32(payload, (sequence + word) & U32) != check:
                break
            append((word >> 24, sequence, payload))
            position += need
            offset += need
            if offset == capacity:
                offset = 0
            expected += 1
            taken += length
            if len(frames) >= max_frames or taken >= max_bytes:
                break
        if frames:
            self._position, self._expected = position, expected
        return frames

    def _is_plausible(self, head: int) -> bool:
        return 0 <= head - self._position <= self.capacity_bytes and not (head | self._position) & 7

    def _first_expected(self) -> int:
        """The sequence of the frame at a committed position, 0 if it cannot be the right one."""
        offset = self._position % self.capacity_bytes
        if self.capacity_bytes - offset < FRAME_BYTES:
            offset = 0
        sequence = int(FRAME.unpack_from(self._memory, offset + HEADER_BYTES)[2])
        return sequence if sequence <= min(self._words[TAIL_SEQUENCE] + 1, LARGEST_SEQUENCE) else 0

    def commit(self) -> None:
        """Everything that `read` returned is safe now: the producer may use its place again."""
        if self._position != self._committed:
            self._words[TAIL_SEQUENCE] = self._expected - 1  # the instant of the commit
            self._words[TAIL] = self._committed = self._position

    @property
    def committed(self) -> int:
        """Sequence of the last frame committed, by whatever consumer."""
        return self._words[TAIL_SEQUENCE]

    @property
    def has_uncommitted(self) -> bool:
        """Whether anything handed over is not committed yet, by whatever consumer."""
        return self._words[HEAD] != self._words[TAIL]

    @property
    def last_sequence(self) -> int:
        """Of the last frame that the producer says it handed over; to count what a damaged ring has lost."""
        return self._words[HEAD_SEQUENCE]

    @property
    def has_more(self) -> bool:
        """Whether the producer has handed over something that `read` has not returned."""
        return self._words[HEAD] != self._position

    @property
    def backlog_bytes(self) -> int:
        """Bytes handed over and not yet read."""
        return min(max(0, self._words[HEAD] - self._position), self.capacity_bytes)

    @property
    def is_damaged(self) -> bool:
        """Whether what was handed over next is no frame. With a living producer, look again before you believe it."""
        if not self.has_more:
            return False
        before = self._before
        damaged = not self.read(max_frames=1)
        self.unread()
        self._before = before
        return damaged

    @property
    def closed_by_producer(self) -> bool:
        """Whether the producer has said that nothing follows."""
        return self._words[STATE] == CLOSED

    @property
    def ended_in_order(self) -> bool:
        """Whether the producer's process came to its end in order, as far as it could say so."""
        return self._words[STATE] in (CLOSED, ENDING)

    @property
    def dropped(self) -> int:
        """Frames that the producer gave up."""
        return self._words[DROPPED]

    def producer_alive(self) -> bool:
        """False only when the lock of the file is free *and* its process is gone (or is another one by now)."""
        return segment.is_locked(self._descriptor) or segment.is_running(self.pid, self.start_ticks, self.boot)

    def set_sleeping(self, sleeping: bool) -> None:
        """Ask producers for a bell (or no longer). After True, look at `has_more` once more before going to sleep."""
        self._words[SLEEP] = int(sleeping)
        with self._fence:  # a lock's atomic instruction orders this store before the look at HEAD that follows
            pass

    def set_paused(self, paused: int) -> None:
        """Ask the producer to pause (any number but 0, one for each pause), or to go on (0)."""
        self._words[PAUSED] = int(paused)

    def beat(self, now_ns: int) -> None:
        """Leave a sign of life, ``time.monotonic_ns()``."""
        self._words[BEAT] = now_ns

    def close(self, unlink: bool = False) -> None:
        """Let go of the ring; more calls do nothing.

        Args:
            unlink: remove the file: everything in it is committed, and its producer closed it or is dead.
        """
        if self._descriptor < 0:
            return
        self._words[ATTACHED] = 0
        self.abandon_after_fork()
        if unlink:
            try:
                os.unlink(self.path)
            except FileNotFoundError:
                pass

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of the ring, which stays the parent's, without writing to it."""
        if self._descriptor < 0:
            return
        descriptor, self._descriptor = self._descriptor, -1
        self._words.release()
        self._memory.close()
        os.close(descriptor)
