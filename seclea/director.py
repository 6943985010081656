"""The client's end of the pipeline: this process's ring, the streams it speaks for, and the questions to the home.

Rule 1  One `Pipeline` per process and home, made on first use. After a fork the child starts with none: fresh ring, fresh
        locks, its own streams; what was the parent's is forgotten untouched.
Rule 2  Nothing here waits while it holds a lock, except in `flush` and `complete`, which hold none.
Rule 3  A put never raises for a reason of ours: a missing writer is started, a full ring is waited for within the pause
        budget, and after that what is left out is counted and tombstoned.
"""

from __future__ import annotations

import contextlib
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
from typing import Any

from seclea.contract import Destination, Home
from seclea.entities import Entity, new_uuid
from seclea.errors import LedgerError, LoggingPaused, PipelineError
from seclea.frames import MAX_FRAME_BYTES, EntityFrame, FrameType, StreamFrame, TombstoneFrame, pack_large
from seclea.ledger.db import LedgerView
from seclea.processes.rendezvous import ask, prepare, private_directory, ring_bell
from seclea.processes.start import ensure_writer
from seclea.queues.ring import Producer
from seclea.queues.segment import roomy_directory
from seclea.queues.wait import wait_until
from seclea.settings import Limits, Settings

log = logging.getLogger(__name__)

RING_BYTES = 4 << 20
_LOOK_NS = 2_000_000_000  # a writer that has not beaten for this long is looked for
_BELL_NS = 50_000_000  # between two bells of one process
_SMALL_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """What is done and what is left.

    Attributes:
        done: everything that was waited for is durable (`flush`) or delivered (`complete`).
        delivered, pending, failed, held: records of this destination.
        delivered_bytes, pending_bytes: of them.
        reasons: why something is left, for people.
    """

    done: bool
    delivered: int = 0
    pending: int = 0
    failed: int = 0
    held: int = 0
    delivered_bytes: int = 0
    pending_bytes: int = 0
    reasons: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.done


@dataclass(slots=True)
class _Left:
    """What was left out since the last tombstone, by stream."""

    count: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Speaker:
    """A client that logs through the pipeline: destination, project and the settings that go with it."""

    destination: Destination
    project: str
    settings: Settings = field(compare=False)


class Pipeline:
    """This process's ring into one home. Use `pipeline_of`."""

    def __init__(self, home: Home, limits: Limits) -> None:
        prepare(home)
        self.home = home
        self.limits = limits
        self._ring = _new_ring(home)
        self._lock = threading.RLock()
        self._streams: dict[tuple[Speaker, str | None], int] = {}
        self._left: dict[int, _Left] = {}
        self._next_bell = 0
        self._next_look = 0
        self._pause_deadline: float | None = None
        self._told_pause = False
        self.put = self._make_put()
        self._ensure()

    # -- hot path ------------------------------------------------------------------------------------------------

    def _make_put(self) -> Callable[[int, bytes, int], bool]:
        """The put of the hot path with everything bound: ~1 µs over the ring's own."""
        ring = self._ring
        ring_put = ring.put
        monotonic_ns = time.monotonic_ns
        slow = self._slow_put
        attend = self._attend

        def put(frame_type: int, payload: bytes, index: int) -> bool:
            """Hand a frame over; False when it was left out (and counted). ``index`` names its stream."""
            if ring.paused or self._left:
                return slow(frame_type, payload, index)
            if not ring_put(frame_type, payload):
                return slow(frame_type, payload, index)
            if ring.consumer_sleeps or monotonic_ns() - ring.beat_ns > _LOOK_NS:
                attend()
            return True

        return put

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
            ensure_writer(self.home)
        except (PipelineError, OSError) as error:
            log.warning("%s", error)

    # -- pauses --------------------------------------------------------------------------------------------------

    def _slow_put(self, frame_type: int, payload: bytes, index: int) -> bool:
        """Paused, full, or after something was left out."""
        ring = self._ring
        closing = frame_type in (FrameType.FINISH, FrameType.STREAM, FrameType.TOMBSTONE)
        if ring.paused and not closing and not self._wait_for_room(lambda: not ring.paused):
            self._leave_out(index, frame_type, "paused")
            return False
        self._say_resumed()
        if not self._tombstones_out() and not closing:
            self._leave_out(index, frame_type, "full")
            return False
        if ring.put(frame_type, payload):
            self._attend_if_asleep()
            return True
        # No room: the writer is behind, starting, or dead.
        self._next_bell = 0
        self._attend()
        if self._wait_for_room(lambda: bool(ring.put(frame_type, payload)), watch=True):
            self._attend_if_asleep()
            return True
        self._leave_out(index, frame_type, "full")
        return False

    def _attend_if_asleep(self) -> None:
        if self._ring.consumer_sleeps or time.monotonic_ns() - self._ring.beat_ns > _LOOK_NS:
            self._attend()

    def _wait_for_room(self, there: Callable[[], bool], watch: bool = False) -> bool:
        """Wait as the limits say; one budget per episode, shared by all calls and threads."""
        if self._pause_deadline is not None and time.monotonic() > self._pause_deadline:
            return there()  # the budget is spent: as "drop" until there is room
        if wait_until(there, _SMALL_WAIT_SECONDS):  # a burst, not a pause
            return True
        if self.limits.when_full == "raise":
            raise LoggingPaused(
                f"Logging is paused: {self.pause_reason()}.", "Make room, or raise the limit in .seclearc."
            )
        if self.limits.when_full == "drop":
            return False
        now = time.monotonic()
        if self._pause_deadline is None:
            self._pause_deadline = now + self.limits.wait_timeout_seconds
        if not self._told_pause:
            self._told_pause = True
            _say(f"seclea: logging is paused ({self.pause_reason()}); waiting for room.")
        while time.monotonic() < self._pause_deadline:
            if wait_until(there, min(0.5, max(self._pause_deadline - time.monotonic(), 0.0))):
                self._pause_deadline = None
                return True
            if watch:
                self._attend()
        return False

    def pause_reason(self) -> str:
        """Why, as far as this process can know."""
        if not self._ring.paused:
            return "the background writer is behind"
        with contextlib.suppress(PipelineError):
            answer = ask(self.home, {"op": "status"}, 1.0)
            if answer and answer.get("paused"):
                return str(answer["paused"])
        return "a limit is reached"

    def _say_resumed(self) -> None:
        self._pause_deadline = None
        if self._told_pause:
            self._told_pause = False
            _say("seclea: logging goes on.")

    def _leave_out(self, index: int, frame_type: int, reason: str) -> None:
        with self._lock:
            left = self._left.setdefault(index, _Left())
            left.count += 1
            left.reason = reason
        self._ring.add_dropped(1)

    def _tombstones_out(self) -> bool:
        """Say what was left out, before anything else; False when there is no room even for that."""
        with self._lock:
            for index, left in list(self._left.items()):
                stone = TombstoneFrame(index, "metrics", left.count, "dropped", left.reason)
                if not self._ring.put(FrameType.TOMBSTONE, stone.pack()):
                    return False
                del self._left[index]
        return True

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
            index = len(self._streams)
            destination = speaker.destination
            settings = speaker.settings
            frame = StreamFrame(
                index=index,
                uuid=uuid_module.UUID(new_uuid()).bytes,
                destination=(destination.platform_url, destination.auth_url, destination.organization),
                project=speaker.project,
                run=run,
                rank=rank,
                limits={**settings.to_json()["limits"], "idle_timeout_seconds": settings.idle_timeout_seconds},
                ca_bundle=settings.ca_bundle,
            )
            self._put_surely(FrameType.STREAM, frame.pack(), index)
            self._streams[key] = index
            return index

    def store_entity(
        self, speaker: Speaker, entity: Entity, *, run: str | None = None, payload: Path | None = None
    ) -> None:
        """Hand an entity over, with the file of its payload (moved into the spool)."""
        index = self.stream(speaker, run)
        name = None
        if payload is not None:
            # Named by the ring, so that a file whose frame never came can be told from one on its way.
            name = self._ring.ring_id.hex() + uuid_module.uuid4().hex
            os.rename(payload, self.home.incoming / name)
        frame = EntityFrame(index, entity.kind, entity.to_json(), name)
        self._put_surely(FrameType.ENTITY, frame.pack(), index)

    def put_large(self, frame_type: FrameType, payload: bytes, index: int) -> bool:
        """Hand over a frame that may be larger than a ring takes; it then travels as a file."""
        if len(payload) <= MAX_FRAME_BYTES:
            return self.put(frame_type, payload, index)
        name = self._ring.ring_id.hex() + uuid_module.uuid4().hex
        path = self.home.incoming / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(payload)
        return self.put(FrameType.LARGE, pack_large(frame_type, name), index)

    def _put_surely(self, frame_type: FrameType, payload: bytes, index: int) -> None:
        if not self.put_large(frame_type, payload, index):
            raise LoggingPaused(
                f"The {frame_type.name.lower()} was not recorded: {self.pause_reason()}.",
                "Make room, or raise the limit or wait_timeout_seconds in .seclearc.",
            )

    # -- waiting -------------------------------------------------------------------------------------------------

    def flush(self, timeout_seconds: float) -> bool:
        """Wait until all that this process handed over is durable."""
        if self._left:
            self._tombstones_out()
        message = {"op": "flush", "ring": self._ring.ring_id, "sequence": self._ring.sequence}
        return ask_until(self.home, message, timeout_seconds)

    def abandon(self) -> None:
        """In a forked child: this ring is the parent's."""
        self._ring.abandon_after_fork()

    def close(self) -> None:
        """Say that no more will come; the writer drains the ring and removes it."""
        with contextlib.suppress(Exception):
            self._tombstones_out()
        self._ring.close()
        ring_bell(self.home)


def ask_until(home: Home, message: dict[str, Any], timeout_seconds: float) -> bool:
    """Ask the writer something that it answers when it is so; starts a writer where none is. False on timeout."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        try:
            answer = ask(home, {**message, "timeout": left}, left + 1.0)
        except PipelineError as error:
            log.info("%s", error)
            answer = None
        if answer is not None:
            return not answer.get("timeout")
        with contextlib.suppress(PipelineError):
            ensure_writer(home)
        time.sleep(min(0.02, max(left, 0.0)))


def progress(home: Home, destination: Destination | None = None) -> Progress:
    """How far the records of a destination (None: all) have come, from the ledger."""
    try:
        with LedgerView(home.ledger) as view:
            number = None
            reasons: list[str] = []
            for row in view.destinations():
                wanted = destination is None or (
                    (row["platform_url"], row["auth_url"], row["organization"])
                    == (destination.platform_url, destination.auth_url, destination.organization)
                )
                if wanted and destination is not None:
                    number = row["id"]
                if wanted and row["hold"]:
                    reasons.append(row["hold"])
                elif wanted and (error := view.last_error(row["id"])):
                    reasons.append(error)
            if destination is not None and number is None:
                return Progress(done=True)
            pending, pending_bytes = view.pending(number)
            delivered, _, delivered_bytes = view.delivered(number)
            troubled = view.troubled(number)
    except LedgerError as error:
        return Progress(done=False, reasons=(str(error),))
    failed = sum(row["status"] == "Failed" for row in troubled)
    reasons += [f"{row['kind']} {row['name'] or ''}: {row['error'] or row['hold']}" for row in troubled]
    return Progress(
        done=pending == 0 and not troubled,
        delivered=delivered,
        pending=pending,
        failed=failed,
        held=len(troubled) - failed,
        delivered_bytes=delivered_bytes,
        pending_bytes=pending_bytes,
        reasons=tuple(reasons),
    )


# ------------------------------------------------------------------------------------------------------------------
# One per process and home

_pipelines: dict[Path, Pipeline] = {}
_pipelines_lock = threading.Lock()


def pipeline_of(home: Home, limits: Limits) -> Pipeline:
    """This process's pipeline into a home, made on first use."""
    pipeline = _pipelines.get(home.path)
    if pipeline is not None:
        return pipeline
    with _pipelines_lock:
        pipeline = _pipelines.get(home.path)
        if pipeline is None:
            pipeline = _pipelines[home.path] = Pipeline(home, limits)
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
    _pipelines_lock = threading.Lock()
    for pipeline in _pipelines.values():
        pipeline.abandon()
    _abandoned.extend(_pipelines.values())  # never collected here: closing the parent's files is not ours to do
    _pipelines.clear()
    for client in list(_after_fork):
        client.after_fork_in_child()


_abandoned: list[Pipeline] = []
os.register_at_fork(after_in_child=_after_fork_in_child)


def _say(text: str) -> None:
    with contextlib.suppress(Exception):
        print(text, file=sys.stderr, flush=True)


def _new_ring(home: Home) -> Producer:
    for _ in range(10):
        # A writer that leaves removes an empty directory; it may be the one that we just chose.
        with contextlib.suppress(FileNotFoundError):
            return Producer.create(_ring_directory(home), capacity_bytes=RING_BYTES)
    raise PipelineError(f"There is no place for a ring of {home.path}.", "Is something removing its directories?")


def _ring_directory(home: Home) -> Path:
    """Shared memory when it is roomy and we are not in a container; else the home."""
    if Path("/dev/shm").is_dir() and not _in_container():  # noqa: S108
        with contextlib.suppress(OSError, PipelineError):
            private_directory(home.shared_rings.parent)
            private_directory(home.shared_rings)
            found = roomy_directory([home.shared_rings], 4 * RING_BYTES)
            if found is not None:
                return found
    return home.rings


def _in_container() -> bool:
    if any(os.path.exists(path) for path in ("/.dockerenv", "/run/.containerenv")):
        return True
    return "KUBERNETES_SERVICE_HOST" in os.environ
