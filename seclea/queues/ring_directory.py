"""The rings of a queue, as its consumers see them: one directory, several producers, several rings after each other.

A ring's id is its producer's id (8 random bytes) and an ordinal (8 bytes, big-endian): a producer whose ring is full
goes on in a larger one with the next ordinal, so the order of its objects is the order of its rings' names.
Only whoever holds the queue's turn (a flock) may read, commit or remove.
"""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from seclea.queues import items, segment
from seclea.queues.layout import SUFFIX, RingDamaged
from seclea.queues.ring import Consumer

log = logging.getLogger(__name__)

PRODUCER_ID_BYTES = 8
_CLOCK_GRAIN_NS = 50_000_000  # a directory changed this recently may change again with the same time stamp
_SCAN_SECONDS = 0.02  # how long a new producer waits at most while the others keep the consumer busy
_SPARED_RINGS = 4  # of two descriptors each
_LIVENESS_SECONDS = 1.0  # between two looks at whether a silent producer lives: three system calls each


class RingDirectory:
    """All rings of a queue, mapped in this process. Not thread-safe; see `Queue`."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._name = str(directory)
        self._clock = clock
        self._scan_at = 0.0
        self._rings: dict[str, Consumer] = {}
        self._heads: list[Consumer] = []  # per producer its oldest ring; only that one may be read
        self._seen_ns = 0  # time stamp of the directory at the last listing
        self._ask_at: dict[str, float] = {}  # when to ask next whether its producer lives
        self._sleeping = False
        self._next = 0
        self.damaged = 0  # rings put aside

    def scan(self, always: bool = True) -> None:
        """Notice new rings and those that others have removed. One ``stat`` when nothing has changed.

        Args:
            always: else only when the known rings are empty, or it was not done for 20 ms.
        """
        now = self._clock()
        if not always and now < self._scan_at and self.has_items():
            return
        self._scan_at = now + _SCAN_SECONDS
        changed_ns = os.stat(self._name).st_mtime_ns
        if changed_ns == self._seen_ns:
            return
        age_ns = time.time_ns() - changed_ns
        names = {name for name in os.listdir(self._directory) if name.endswith(SUFFIX)}
        # Not before it is listed: where no descriptor is left for that, the next look must try again.
        self._seen_ns = 0 if age_ns < _CLOCK_GRAIN_NS else changed_ns
        if names == self._rings.keys():
            return
        for name in self._rings.keys() - names:
            self._rings.pop(name).close()
            self._ask_at.pop(name, None)
        for name in sorted(names - self._rings.keys()):
            try:
                ring = self._rings[name] = Consumer.attach(self._directory / name)
                if self._sleeping:
                    ring.set_sleeping(True)
            except RingDamaged:
                self._put_aside(self._directory / name)
            except OSError as error:  # removed meanwhile, or no descriptor left: the next look finds it
                self._seen_ns = 0
                log.debug("ring %s: %s", name, error)
                if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
                    self._spare_descriptors()
                    break
        self._find_heads()

    def _spare_descriptors(self) -> None:
        """Unmap a few rings, so that files can be opened; they come back when dead producers' rings have gone."""
        for name in sorted(self._rings)[-_SPARED_RINGS:]:
            self._rings.pop(name).close()
            self._ask_at.pop(name, None)

    def _find_heads(self) -> None:
        heads: dict[str, Consumer] = {}
        for name in sorted(self._rings):
            heads.setdefault(name[: 2 * PRODUCER_ID_BYTES], self._rings[name])
        self._heads = list(heads.values())

    def has_items(self) -> bool:
        """Whether any ring holds something that is not committed. Needs no turn."""
        for ring in self._rings.values():  # noqa: SIM110  (a generator under `any` takes twice as long)
            if ring.has_uncommitted:
                return True
        return False

    def count(self) -> int:
        """Objects that are not committed; by the producers' own words."""
        return sum(max(0, ring.last_sequence - ring.committed) for ring in self._rings.values())

    def readable(self) -> Iterator[Consumer]:
        """The rings that may be read now, at their committed position, in turns that are fair to the producers."""
        heads = self._heads
        self._next += 1
        for number in range(len(heads)):
            ring = heads[(number + self._next) % len(heads)]
            if ring.has_uncommitted:
                ring.refresh()
                yield ring

    def wants_retiring(self) -> bool:
        """Whether `retire` may find something to do."""
        now = self._clock()
        return any(ring.closed_by_producer or now >= self._ask_at.get(ring.path.name, 0.0) for ring in self._heads)

    def retire(self) -> bool:
        """Remove the rings from which nothing can come any more; whether there were any. Needs the turn.

        A ring goes when it is empty and its producer has closed it or is dead. What is damaged in a dead producer's
        ring is put aside.
        """
        gone: set[str] = set()
        for ring in self._heads:
            name = ring.path.name
            if not ring.closed_by_producer:
                now = self._clock()
                if now < self._ask_at.get(name, 0.0):
                    continue
                self._ask_at[name] = now + _LIVENESS_SECONDS
                if ring.producer_alive():
                    continue
            ring.refresh()
            if ring.has_more and not ring.is_damaged:  # put just before it closed or died
                continue
            if ring.has_more:
                self._put_aside(ring.path)
            del self._rings[name]
            self._ask_at.pop(name, None)
            ring.close(unlink=True)
            gone.add(name[: 2 * PRODUCER_ID_BYTES])
        if gone:
            self._find_heads()
            self._sweep(gone)
        return bool(gone)

    def _put_aside(self, path: Path) -> None:
        self.damaged += 1
        try:
            path.rename(path.with_suffix(".damaged"))
        except OSError as error:
            log.error("damaged ring %s cannot be put aside: %s", path, error)
        else:
            log.error("damaged ring, put aside: %s", path.with_suffix(".damaged"))

    def _sweep(self, gone: set[str]) -> None:
        """Remove what producers that are gone have left: half-made rings, files of objects got or never put.

        Args:
            gone: producers of which a ring was removed; some may have another one.
        """
        names = os.listdir(self._directory)
        gone = gone - {name[: 2 * PRODUCER_ID_BYTES] for name in names if name.endswith(SUFFIX)}
        for name in names:
            if name[: 2 * PRODUCER_ID_BYTES] in gone and name.endswith((items.SUFFIX, segment.UNFINISHED)):
                try:
                    os.unlink(self._directory / name)
                except FileNotFoundError:
                    pass

    def set_sleeping(self, sleeping: bool) -> None:
        self._sleeping = sleeping
        for ring in self._rings.values():
            ring.set_sleeping(sleeping)

    def close(self) -> None:
        """Unmap everything; the files stay."""
        for ring in self._rings.values():
            ring.close()
        self._rings.clear()
        self._heads = []
        self._seen_ns = 0

    def abandon_after_fork(self) -> None:
        """In a forked child: let go of what the parent mapped, without a word to the producers."""
        for ring in list(self._rings.values()):
            ring.abandon_after_fork()
        self._rings.clear()
