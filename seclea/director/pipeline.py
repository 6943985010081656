"""This process's ring into a home, and the streams it speaks for.

Rule 1  One `Pipeline` per process and home, made on first use. After a fork the child starts with none: fresh ring, fresh
        locks, its own streams; what was the parent's is forgotten untouched.
Rule 2  A put waits (in `room`) only at a limit.
Rule 3  A put never raises for a reason of ours: a missing writer is started, a full ring is waited for within the pause
        budget, and after that what is left out is counted and tombstoned.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import sys
import threading
import time
import uuid as uuid_module
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from seclea.contract import Destination, Home
from seclea.director.grants import Grants, Take, check_size
from seclea.director.progress import ask_until
from seclea.director.ring_size import ring_within
from seclea.director.room import Room
from seclea.director.shortage import NO_ROOM, overcome, ring_when_there_is_room
from seclea.entities import Entity, new_uuid
from seclea.errors import LoggingPaused, PipelineError
from seclea.frames import (
    MAX_FRAME_BYTES,
    MAX_KEY_SETS,
    EntityFrame,
    FrameType,
    KeysFrame,
    StreamFrame,
    TombstoneFrame,
    pack_large,
)
from seclea.ledger.view import Part
from seclea.processes.rendezvous import prepare, private_directory, ring_bell
from seclea.processes.start import ensure_writer
from seclea.processes.surroundings import in_container, notice
from seclea.queues.ring import Producer
from seclea.queues.segment import roomy_directory
from seclea.settings import Limits, LimitsWatch, Settings

log = logging.getLogger(__name__)

T = TypeVar("T")

RING_BYTES = 4 << 20
_SMALL_RINGS = (1 << 20, 256 << 10)  # where the memory limit has no room for a whole one
_SPARE = 64  # this part of a ring is for what closes something, also when log calls have filled the rest
_LOOK_NS = 2_000_000_000  # a writer that has not beaten for this long is looked for
_BELL_NS = 50_000_000  # between two bells of one process


@dataclass(frozen=True, slots=True)
class Speaker:
    """A client that logs through the pipeline: destination, project and the settings that go with it."""

    destination: Destination
    project: str
    settings: Settings = field(compare=False)


class Pipeline:
    """This process's ring into one home. Use `pipeline_of`."""

    def __init__(self, home: Home, watch: LimitsWatch) -> None:
        self.home = home
        self._ring = ring_when_there_is_room(home, watch.limits, lambda: self._make_ring(watch))
        self._lock = threading.RLock()
        self._streams: dict[tuple[Speaker, str | None], int] = {}
        self._stream_numbers = itertools.count()
        self._left: dict[tuple[int, str, str], int] = {}  # (stream, kind, reason): not yet tombstoned
        self._room = Room(home, self._ring, watch)
        self._grants = Grants(home, self._ring.ring_id.hex(), self._room, self._attend_now)
        self._key_sets: dict[tuple[str, ...], int] = {}
        self._key_numbers = itertools.count()
        self._next_bell = 0
        self._next_look = 0
        self._trouble = ""
        self.offer = self._ring.put
        """``offer(type, payload, now_ns)``: the hot path, `Producer.put` itself. On 0 go on with `put`."""
        self._ensure()

    def _make_ring(self, watch: LimitsWatch) -> Producer:
        prepare(self.home)
        sizes = (RING_BYTES, *(size for size in _SMALL_RINGS if size < RING_BYTES))
        return ring_within(self.home, watch, sizes, lambda size: _new_ring(self.home, self._attend_if_asleep, size))

    # -- hot path ------------------------------------------------------------------------------------------------

    def put(self, frame_type: int, payload: bytes, index: int) -> bool:
        """Hand a frame over; False when it was left out (and counted). ``index`` names its stream."""
        return bool(self.offer(frame_type, payload, time.time_ns())) or self._slow_put(frame_type, payload, index)

    def key_set(self, index: int, keys: tuple[str, ...]) -> int | None:
        """The number under which this ring says these names of metrics; declared on first use.

        Returns:
            None when there is no room for it: the names are said with each call, then.
        """
        number = self._key_sets.get(keys)
        if number is None and len(self._key_sets) < MAX_KEY_SETS:
            with self._lock:
                number = self._key_sets.get(keys)
                if number is None:
                    # Taken before it is said: a signal handler that logs meanwhile gets another one, never the same.
                    number = next(self._key_numbers)
                    frame = KeysFrame(index, number, keys).pack()
                    if len(frame) > self._ring.largest_payload_bytes or not self._offer(FrameType.KEYS, frame):
                        return None
                    self._key_sets[keys] = number
        return number

    def _attend(self) -> None:
        """The writer sleeps, or has not been seen for a while: wake it, or start one. Never raises, never often."""
        now = time.monotonic_ns()
        if now < self._next_bell:
            return
        self._next_bell = now + _BELL_NS
        if ring_bell(self.home):
            return
        if now >= self._next_look:
            self._next_look = now + _BELL_NS * 4
            self._ensure()

    def _ensure(self) -> None:
        try:
            if ensure_writer(self.home).started:
                _say_notice(self.home)
        except (PipelineError, OSError) as error:
            if str(error) != self._trouble:  # once
                self._trouble = str(error)
                log.warning("%s", error)
        else:
            self._trouble = ""

    # -- pauses --------------------------------------------------------------------------------------------------

    def _slow_put(self, frame_type: int, payload: bytes, index: int) -> bool:
        """Paused, full, or after something was left out."""
        if self._offer(frame_type, payload):
            return True
        # A large frame is one of metrics: entities go by `_put_surely`.
        self.leave_out(index, "finish" if frame_type == FrameType.FINISH else "metrics")
        return False

    def _offer(self, frame_type: int, payload: bytes) -> bool:
        """Hand a frame over, waiting for room as the limits say; False when there was none."""
        ring, room = self._ring, self._room
        closing = frame_type in (FrameType.FINISH, FrameType.STREAM, FrameType.TOMBSTONE, FrameType.KEYS)
        if not closing and not self._pause_ends():
            return False
        if not self._tombstones_out(closing) and not closing:
            return False

        def put() -> bool:
            return bool((closing or ring.has_room(len(payload))) and ring.put(frame_type, payload))

        if put():
            self._attend_if_asleep()
        else:
            # No room: the writer is behind, starting, or dead.
            self._attend_now()
            if not room.wait(put, meanwhile=self._attend):
                return False
            self._attend_if_asleep()
        if not ring.paused:
            room.is_there()
        return True

    @property
    def part(self) -> Part:
        """What this process says in the ledger, and the runs that it takes part in."""
        return Part(self._ring.ring_id, frozenset(run for _, run in list(self._streams) if run is not None))

    def wait_for_room(self) -> None:
        """Wait until logging is not paused, before something large is made.

        Raises:
            LoggingPaused: the limits say to raise or to drop, or the budget is spent; nothing was recorded.
        """
        if not self._pause_ends():
            raise self._room.paused_error("Nothing was recorded")

    @property
    def limits(self) -> Limits:
        """In force now, for this process."""
        return self._room.limits

    def _pause_ends(self) -> bool:
        """Wait for the end of a pause, as the limits say; whether there is none (any more)."""
        ring = self._ring
        if not ring.paused:
            return True
        self._attend_if_asleep()  # the writer that paused us may be gone; another one looks at the limits anew
        return self._room.wait(lambda: not ring.paused, meanwhile=self._attend_if_asleep)

    def with_room(self, index: Callable[[], int], kind: str, make: Callable[[], T]) -> T:
        """What ``make`` makes on the home's disk. Where there is no room for it, wait as at a limit, and make it again.

        Raises:
            LoggingPaused: there is none, and the limits say not to wait (longer). Nothing was recorded; unless they say to
                raise, a tombstone in the stream ``index()`` says so.
        """
        try:
            made = overcome(self._room, make)
            if made is None:
                raise self._room.paused_error(f"The {kind.replace('_', ' ')} was not recorded")
        except LoggingPaused as error:
            self._room.trouble = ""
            if self.limits.when_full != "raise":
                self.count_left_out(error, index(), kind)
            raise
        return made[0]

    def count_left_out(self, error: LoggingPaused, index: int, kind: str) -> None:
        """Count what ``error`` says was not recorded, unless that was done where it was raised."""
        if not vars(error).get("counted"):
            vars(error)["counted"] = True
            self.leave_out(index, kind)

    def _attend_if_asleep(self) -> None:
        if self._ring.consumer_sleeps or time.monotonic_ns() - self._ring.beat_ns > _LOOK_NS:
            self._attend()

    def _attend_now(self) -> None:
        self._next_bell = 0
        self._attend()

    def leave_out(self, index: int, kind: str) -> None:
        """Count something that could not be recorded, to be said where it would have stood."""
        reason = "paused" if self._ring.paused else "full"
        with self._lock:
            self._left[index, kind, reason] = self._left.get((index, kind, reason), 0) + 1
            self._ring.hold_back(True)  # nothing may pass before its tombstone
        self._ring.add_dropped(1)

    def _tombstones_out(self, closing: bool = True) -> bool:
        """Say what was left out, before anything else; False when there is no room even for that.

        Args:
            closing: something that closes follows. Else the spare bytes are left to that, or each call that is left out
                would take some for a tombstone of its own.
        """
        if self._left:
            if not closing and not self._ring.has_room(1024):
                return False
            with self._lock:
                for index, kind, reason in list(self._left):
                    # Taken out first: a signal handler that logs meanwhile comes here, too, and must not say it again.
                    count = self._left.pop((index, kind, reason), 0)
                    stone = TombstoneFrame(index, kind, count, "dropped", reason)
                    if count and not self._ring.put(FrameType.TOMBSTONE, stone.pack()):
                        self._left[index, kind, reason] = self._left.get((index, kind, reason), 0) + count
                        return False
                self._ring.hold_back(False)
        return True

    def hurry(self) -> None:
        """At the end of the process: wait for nothing any more."""
        self._room.hurry = True

    def say_end(self) -> None:
        """This process comes to its end in order; what it still says is taken all the same."""
        self._ring.say_end()

    def payloads_of(self, what: str) -> tuple[Path, Take]:
        """A directory for payload files, and what they ask for their bytes.

        Args:
            what: for errors, as "the dataset 'Claims'".
        """
        directory = self.home.making / self._ring.ring_id.hex()
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory, self._grants.take(what)

    # -- streams and entities ------------------------------------------------------------------------------------

    def stream(self, speaker: Speaker, run: str | None = None, rank: int = 0) -> int:
        """The number of this process's stream for a session (run None) or a run; declared on first use."""
        key = (speaker, run)
        index = self._streams.get(key)
        if index is not None:
            return index
        with self._lock:
            index = self._streams.get(key)
            if index is not None:
                return index
            index = next(self._stream_numbers)  # taken before it is said, as in `key_set`
            destination = speaker.destination
            settings = speaker.settings
            frame = StreamFrame(
                index=index,
                uuid=uuid_module.UUID(new_uuid()).bytes,
                destination=(destination.platform_url, destination.auth_url, destination.organization),
                project=speaker.project,
                run=run,
                rank=rank,
                limits={
                    **settings.limits.to_json(),
                    "idle_timeout_seconds": settings.idle_timeout_seconds,
                    "files": settings.limit_files,
                    "fixed": settings.fixed_limits,
                },
                ca_bundle=settings.ca_bundle,
            )
            self._put_surely(FrameType.STREAM, frame.pack(), "stream")
            return self._streams.setdefault(key, index)

    def store_entity(
        self, speaker: Speaker, entity: Entity, *, run: str | None = None, payload: Path | None = None
    ) -> None:
        """Hand an entity over, with the file of its payload (moved into the spool).

        Raises:
            TooLargeError: the payload alone is larger than the disk limit.
            LoggingPaused: there is no room, and the limits say not to wait (longer). Nothing was recorded, and a tombstone
                in the session's stream says so.
        """
        name = None
        try:
            if payload is not None:
                check_size(entity, payload, self.limits.disk)
                # Under the name that its bytes were asked for.
                name = self._grants.name(payload)
                payload = payload.rename(self.home.incoming / name)
            index = self.stream(speaker, run)
            frame = EntityFrame(index, entity.kind, entity.to_json(), name)
            # Counted in the session's stream: what is left out may be the run itself, and then nothing of its stream is sent.
            self._put_surely(FrameType.ENTITY, frame.pack(), entity.kind, lambda: self.stream(speaker))
        except BaseException:
            if payload is not None:
                payload.unlink(missing_ok=True)
            raise

    def put_large(self, frame_type: FrameType, payload: bytes, index: int) -> bool:
        """Hand over a frame that may be larger than a ring takes; it then travels as a file. False: left out, counted."""
        if len(payload) <= MAX_FRAME_BYTES:
            return self.put(frame_type, payload, index)
        made = overcome(self._room, lambda: self._as_file(frame_type, payload))
        if made is None:
            self._room.trouble = ""
            self.leave_out(index, "metrics")
            return False
        path, payload = made[0]
        if self.put(FrameType.LARGE, payload, index):
            return True
        path.unlink(missing_ok=True)
        return False

    def _as_file(self, frame_type: FrameType, payload: bytes) -> tuple[Path, bytes]:
        name = self._ring.ring_id.hex() + uuid_module.uuid4().hex
        path = self.home.incoming / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(payload)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return path, pack_large(frame_type, name)

    def _put_surely(
        self, frame_type: FrameType, payload: bytes, kind: str, session: Callable[[], int] | None = None
    ) -> None:
        """Hand over what the user must know of when it is left out; counted in the stream ``session()``."""
        path = None
        as_type = frame_type
        if len(payload) > MAX_FRAME_BYTES:
            whole = payload
            made = overcome(self._room, lambda: self._as_file(frame_type, whole))
            if made is not None:
                path, payload = made[0]
            as_type = FrameType.LARGE
        if (path is not None or as_type == frame_type) and self._offer(as_type, payload):
            return
        if path is not None:
            path.unlink(missing_ok=True)
        error = self._room.paused_error(f"The {kind.replace('_', ' ')} was not recorded")
        self._room.trouble = ""
        if session is not None:
            self.count_left_out(error, session(), kind)
        raise error

    # -- waiting -------------------------------------------------------------------------------------------------

    def flush(self, timeout_seconds: float, meanwhile: Callable[[], None] | None = None) -> bool:
        """Wait until all that this process handed over is durable; ``meanwhile`` is called every second."""
        self._tombstones_out()
        message = {"op": "flush", "ring": self._ring.ring_id, "sequence": self._ring.sequence}
        return ask_until(self.home, message, timeout_seconds, meanwhile=meanwhile)

    @property
    def is_open(self) -> bool:
        """Whether this process can still put here; not after `close`, and not in a forked child."""
        return not self._ring.closed

    def abandon(self) -> None:
        """In a forked child: this ring is the parent's."""
        self._ring.abandon_after_fork()

    def close(self) -> None:
        """Say that no more will come; the writer drains the ring and removes it."""
        with contextlib.suppress(Exception):
            self._tombstones_out()
        self._ring.close()
        ring_bell(self.home)


# ------------------------------------------------------------------------------------------------------------------
# One per process and home

_pipelines: dict[Path, Pipeline] = {}
_pipelines_lock = threading.RLock()  # a signal handler may log, too


def pipeline_of(home: Home, limits: Limits | Settings) -> Pipeline:
    """This process's pipeline into a home, made on first use; of settings it also follows later edits of their files."""
    pipeline = _pipelines.get(home.path)
    while pipeline is None:
        with _pipelines_lock:
            pipeline = _pipelines.get(home.path)
            watch = LimitsWatch(limits) if isinstance(limits, Limits) else LimitsWatch.of(limits)
            made = None if pipeline is not None else Pipeline(home, watch)
            if made is not None and made.is_open:  # else a signal handler forked meanwhile, and this is the child
                pipeline = _pipelines.setdefault(home.path, made)
                if pipeline is not made:  # a signal handler was here meanwhile
                    made.close()
    return pipeline


def open_pipelines() -> Iterator[Pipeline]:
    """The pipelines that this process has opened."""
    yield from list(_pipelines.values())


_after_fork: weakref.WeakSet[Any] = weakref.WeakSet()


def forget_after_fork(client: Any) -> None:
    """Have ``client.after_fork_in_child()`` called in forked children."""
    _after_fork.add(client)


def _after_fork_in_child() -> None:
    global _pipelines_lock
    _pipelines_lock = threading.RLock()
    for pipeline in _pipelines.values():
        pipeline.abandon()
    _abandoned.extend(_pipelines.values())  # never collected here: closing the parent's files is not ours to do
    _pipelines.clear()
    for client in list(_after_fork):
        client.after_fork_in_child()


_abandoned: list[Pipeline] = []
os.register_at_fork(after_in_child=_after_fork_in_child)


_noticed = False


def _say_notice(home: Home) -> None:
    """Tell the user once, where this process starts the pipeline, that it will not outlive the job."""
    global _noticed
    if not _noticed:
        _noticed = True
        if text := notice(home.path):
            with contextlib.suppress(Exception):
                print(f"seclea: {text}", file=sys.stderr, flush=True)


def _new_ring(home: Home, attend: Callable[[], None], capacity_bytes: int) -> Producer:
    problem = OSError(errno.ENOSPC, "something removes its directories")
    for _ in range(10):
        # A writer that leaves removes an empty directory; it may be the one that we just chose. And if a signal handler
        # forks meanwhile, parent and child make the same file.
        with contextlib.suppress(FileNotFoundError, FileExistsError, BlockingIOError):
            for directory in _ring_directories(home):
                try:
                    return Producer.create(
                        directory,
                        capacity_bytes=capacity_bytes,
                        attend=attend,
                        spare_bytes=capacity_bytes // _SPARE,
                    )
                except OSError as error:
                    if error.errno not in NO_ROOM:
                        raise
                    problem = error
            break
    raise problem


def _ring_directories(home: Home) -> list[Path]:
    """Where to try: shared memory when it is roomy and we are not in a container, and the home."""
    if Path("/dev/shm").is_dir() and not in_container():  # noqa: S108
        with contextlib.suppress(OSError, PipelineError):
            private_directory(home.shared_rings.parent)
            private_directory(home.shared_rings)
            # A small one (64 MB in containers) is for the job's own data loaders.
            if roomy_directory([home.shared_rings, home.rings], 4 * RING_BYTES) == home.shared_rings:
                return [home.shared_rings, home.rings]
    return [home.rings]
