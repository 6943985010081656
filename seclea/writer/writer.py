"""The writer's loop: drain rings, commit once, acknowledge, feed the sender, apply what it answers.

Rule 1  Order of one step: read rings → one transaction (rows, each ring's sequence, outcomes, payloads) → commit → move the
        rings' cursors → delete files nobody needs → tell the sender. Never another order.
Rule 2  A step that fails for want of disk, memory, descriptors or threads changes nothing and is tried again: the frames are
        still in the rings, the outcomes in ``_outcomes``, the payloads in ``payloads``. Meanwhile logging is paused.
Rule 3  Before deep sleep the writer says so in every ring and looks once more.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seclea.contract import Home
from seclea.errors import LedgerDamagedError, LedgerError, QueueClosed, QueueFull
from seclea.ledger.blobs import Spool, StoredPayload
from seclea.ledger.db import Ledger
from seclea.queues import segment
from seclea.queues.queue import Queue
from seclea.queues.ring import Consumer, RingDamaged
from seclea.queues.wait import NapPolicy
from seclea.writer import again
from seclea.writer.ends import RunEnds
from seclea.writer.gate import Gate
from seclea.writer.payloads import Payloads
from seclea.writer.recorder import Recorder
from seclea.writer.settle import Settler, kept_bytes
from seclea.writer.trouble import TROUBLE, TROUBLE_SECONDS, words

log = logging.getLogger(__name__)

SCAN_SECONDS = 1.0  # how often rings are looked for and producers' lives checked
LIMIT_SECONDS = 0.5  # how often usage is measured
BUSY_FRAMES = 1000  # a ring that had this many at a look is drained again after the short nap
NAPS = NapPolicy(nap_seconds=0.02, deep_after_seconds=1.5, deep_seconds=5.0)
CALM_NAP_SECONDS = 0.15  # between commits while little is logged: fewer, larger batches; flush wakes us at once


class Writer:
    """Owns the ledger, the spool and the rings of one home. `step` does one round; the process calls it until told to stop.

    Attributes:
        damaged: why this ledger is not to be written any more; empty while it may be. The next writer salvages it.
    """

    def __init__(self, home: Home, ledger: Ledger, send_queue: Queue, settle_queue: Queue) -> None:
        self.home = home
        self.ledger = ledger
        self.spool = Spool(home)
        self.recorder = Recorder(ledger, self.spool)
        self.settler = Settler(ledger)
        self.again = again.Again(ledger, self.settler)
        self.send_queue = send_queue
        self.settle_queue = settle_queue
        self.rings: dict[bytes, Consumer] = {}
        self.gate = Gate(home, ledger, self.rings)
        self.ends = RunEnds(ledger, self.recorder, self.rings, self.marks)
        self.account = self.gate.account
        self.sender_pids: tuple[int, ...] = ()
        self.ring_sender: Callable[[], None] = lambda: None
        self.last_work = time.monotonic()
        self.last_outcome = self.last_work
        self._outcomes: deque[dict[str, Any]] = deque()
        self.payloads = Payloads(self.spool, self.account)
        self._next_scan = 0.0
        self._next_limits = 0.0
        self._left_work = False  # something to send came while we left
        self._unreadable: set[Path] = set()  # rings, said once each
        self._deep = False
        self._busy = False
        self._closing = self._is_told = False
        self._trouble = ""
        self.damaged = ""
        self._needless: tuple[list[str], list[str]] = [], []  # (chunks, incoming files) to be deleted
        self._told: set[int] = set()  # destinations that the send queue has named since it was seen empty
        self._untold: set[int] = set()  # destinations that it is yet to name

    @property
    def paused(self) -> str | None:
        """Why logging is paused; None while it goes on."""
        return self.gate.pauses.reason

    # -- start -----------------------------------------------------------------------------------------------------

    def recover(self, rescued: str = "") -> None:
        """After a start: what was being saved is saved again, leftovers are swept, everything open is offered anew.

        Args:
            rescued: what was lost of a damaged ledger. Who logs just now is told by a short pause, which says why.
        """
        self.spool.sync_names()
        self.ledger.drop_spare()
        self.gate.pauses.recover()
        waiting = self.ledger.saving()
        self._note("start", f"{len(waiting)} payloads are saved again")
        # Before the first payload thread starts: what those write is in no row yet.
        try:
            rings = {path.stem for path in self._ring_files()}
            self.spool.sweep(self.ledger.knows_chunk, {row["payload"] for row in waiting}, rings)
        except OSError as error:  # some other start will do it
            log.warning("the spool cannot be swept: %s", error)
        for ring in self.account.makers() - {path.stem for path in self._ring_files()}:  # in this order
            self.account.sweep(ring)
        with contextlib.suppress(*TROUBLE):
            self.check_limits()
        for row in waiting:
            if row["payload"]:
                self.payloads.add(row["id"], row["payload"])
        with contextlib.suppress(*TROUBLE):
            self.ends.recover({path.stem for path in self._ring_files() | self._unreadable})
        if rescued:
            self.gate.pause(f"damage: {rescued}")
            self._next_limits = time.monotonic() + LIMIT_SECONDS
        self.scan()

    def scan(self) -> None:
        """Find new rings; let go of those whose producer is gone and that are empty."""
        self._next_scan = time.monotonic() + SCAN_SECONDS
        known = {ring.path for ring in self.rings.values()}
        try:
            for path in self._ring_files() - known:
                self._attach(path)
        except TROUBLE as error:
            self._disk_trouble(error)
        self._sweep_unfinished()
        for ring_id, ring in list(self.rings.items()):
            try:
                if not ring.has_more and (ring.closed_by_producer or not ring.producer_alive()) and not ring.has_more:
                    if ring.last_sequence > ring.committed:  # never so but by damage: the frame stands first, then this
                        self._quarantine(ring_id, ring)
                    else:
                        self._let_go(ring_id, ring)
                elif ring.is_damaged and not ring.producer_alive():
                    self._quarantine(ring_id, ring)
            except TROUBLE as error:
                self.recorder.forget()
                log.error("ring %s waits: %s", ring_id.hex(), error)
        try:
            if self.ends.judge():
                self._after_commit([])
        except TROUBLE as error:
            self.recorder.forget()
            self._disk_trouble(error)

    def _sweep_unfinished(self) -> None:
        """Remove what processes left that were killed while they made their ring, in a hurry when we leave."""
        for directory in (self.home.rings, self.home.shared_rings):
            with contextlib.suppress(OSError):
                segment.sweep_unfinished(directory, *((0.0,) if self._closing else ()))

    def _ring_files(self) -> set[Path]:
        """All rings of the home but those that cannot be read."""
        found: set[Path] = set()
        for directory in (self.home.rings, self.home.shared_rings):
            with contextlib.suppress(FileNotFoundError):
                found.update(path for path in directory.iterdir() if path.suffix == ".ring")
        return found - self._unreadable

    @property
    def has_newcomers(self) -> bool:
        """After `close`, when there were no rings before: whether somebody came meanwhile who still needs a writer."""
        return bool(self._ring_files()) or self._left_work

    def _attach(self, path: Path) -> None:
        try:
            ring = Consumer.attach(path)
        except FileNotFoundError:
            return
        except RingDamaged as error:
            log.error("ring %s cannot be read: %s", path, error)
            self._unreadable.add(path)
            return
        except (OSError, MemoryError) as error:  # out of descriptors or memory: later, perhaps
            log.warning("ring %s cannot be opened: %s", path, error)
            return
        if path.stem != ring.ring_id.hex() or ring.ring_id in self.rings:
            # Under another's name frames that are recorded already would be recorded again.
            log.error("ring %s is not what its name says, or is there twice", path)
            self._unreadable.add(path)
            ring.abandon_after_fork()
            return
        ring.set_paused(self.gate.pauses.mark)
        self.rings[ring.ring_id] = ring
        self.last_work = time.monotonic()
        self.ends.meet(ring.ring_id, ring)

    def _let_go(self, ring_id: bytes, ring: Consumer) -> None:
        with self.ledger.transaction():
            self.recorder.lose(ring_id, ring.pid, ring.dropped, "dropped", "its process ended")
            self.ends.note_gone(ring_id, ring)
            self.ledger.close_ring(ring_id)
        # While the ring is there: a writer that is killed in between finds it anew, and with it what is left to be swept.
        self.account.sweep(ring_id.hex())
        self.spool.sweep_ring(ring_id, {row["payload"] for row in self.ledger.saving()})
        del self.rings[ring_id]  # first: a file that cannot be removed is a ring that is found anew
        self.recorder.forget_ring(ring_id)
        self.ends.forget(ring_id)
        ring.close(unlink=True)

    def _quarantine(self, ring_id: bytes, ring: Consumer) -> None:
        """A dead producer's ring whose next frame is bad: keep the file aside, write down what is lost, go on."""
        lost = f"ring {ring_id.hex()} of pid {ring.pid}: {ring.backlog_bytes} bytes cannot be read"
        log.error("%s", lost)
        with self.ledger.transaction():
            self.recorder.lose(ring_id, ring.pid, ring.dropped, "dropped", "its process ended")
            frames = min(
                ring.last_sequence - ring.committed, ring.backlog_bytes // 16
            )  # what it says may be damaged too
            self.recorder.lose(ring_id, ring.pid, ring.dropped + max(frames, 1), "damaged", lost)
            self.ends.note_gone(ring_id, ring)
            self.ledger.close_ring(ring_id)
            with contextlib.suppress(FileNotFoundError):  # done the last time, when the commit failed
                ring.path.rename(ring.path.with_suffix(".damaged"))
        ring.close()
        del self.rings[ring_id]
        self.recorder.forget_ring(ring_id)
        self.ends.forget(ring_id)
        self.account.sweep(ring_id.hex())

    # -- one round -------------------------------------------------------------------------------------------------

    def step(self) -> bool:
        """One round; whether there was anything to do. Trouble with disk, memory or descriptors pauses logging."""
        try:
            return self._round(time.monotonic())
        except TROUBLE as error:
            if isinstance(error, LedgerDamagedError):
                self.damaged = str(error)
            for ring in self.rings.values():
                ring.rewind()
            self._disk_trouble(error)
            return False

    def _round(self, now: float) -> bool:
        self.ledger.stay_usable()
        if now >= self._next_scan:
            self.scan()
        for ring in self.rings.values():
            ring.beat(time.monotonic_ns())
        self._submit()  # what an error right after the last commit has left
        frames = self.gate.read_rings()
        if not self.settle_queue.empty():
            self._outcomes.extend(self.settle_queue.get_many(self.gate.outcomes_that_fit(), 0))
        if (refusal := self.payloads.collect()) is not None:
            self._disk_trouble(refusal)
        if frames or self._outcomes or self.payloads.stored:
            self._commit(frames)
            self._trouble = ""
            self.last_work = now
        elif not self.payloads.are_storing:
            self._trouble = ""  # nothing is left that the disk refuses
        self._clean_up()
        self._tell_of_work()
        if now >= self._next_limits:
            self.check_limits()
        self._busy = any(len(got) >= BUSY_FRAMES for got in frames.values())
        return bool(frames)

    def _commit(self, frames: dict[bytes, list[tuple[int, int, bytes]]]) -> None:
        outcomes = list(self._outcomes)
        finished: list[int] = []
        try:
            with self.ledger.transaction():
                for ring_id, got in frames.items():
                    self.recorder.take(ring_id, self.rings[ring_id].pid, got)
                    self.ends.note_process(ring_id, self.rings[ring_id])
                self.recorder.close_batches()
                self.settler.keep_bytes = 0 if self.gate.is_tight else kept_bytes(self.account.limits.disk)
                for message in outcomes:
                    self._apply(message)
                for record, stored in sorted(self.payloads.stored.items()):
                    if self.recorder.seal_payload(record, stored):
                        finished.append(record)
                for record in self.recorder.sealed:
                    self.settler.hold_behind(record)
        except BaseException:
            self.recorder.forget()
            self.settler.free_chunks.clear()
            self.settler.touched.clear()
            for ring_id in frames:
                self.rings[ring_id].rewind()
            raise
        for ring_id in frames:
            self.rings[ring_id].commit()
        self.ends.noted(frames.keys())
        self._outcomes.clear()
        self.gate.limits_of(self.recorder.settings)  # a new client's hold from its first frame on
        if outcomes:
            self.last_outcome = time.monotonic()
        self._after_commit(finished)

    def _apply(self, message: dict[str, Any]) -> None:
        try:
            if message.get("op") == "damaged":
                self.damaged = str(message.get("why") or "The ledger is damaged.")
                return
            with self.ledger.savepoint():
                (self.again if message.get("op") in again.OPS else self.settler).apply(message)
        except (ValueError, KeyError, TypeError, AttributeError, LedgerError, sqlite3.IntegrityError) as error:
            log.error("an outcome cannot be applied (%s): %r", error, message)

    def _after_commit(self, finished: list[int]) -> None:
        self._submit()
        chunks, incoming = self._needless
        for record in finished:
            stored = self.payloads.take(record)
            if isinstance(stored, StoredPayload):
                self.spool.settled(stored.chunks)
                chunks += [sha256 for sha256, _ in stored.chunks]  # altered on the way: then no row names them
        chunks += self.settler.free_chunks
        incoming += self.recorder.discarded
        self._untold |= self.recorder.touched | self.settler.touched
        settled, recorded = self.settler, self.recorder
        for done in (settled.free_chunks, recorded.discarded, recorded.sealed, recorded.touched, settled.touched):
            done.clear()

    def _submit(self) -> None:
        """Have the payloads stored whose rows are committed."""
        while self.recorder.payloads:
            self.payloads.add(*self.recorder.payloads[0])
            del self.recorder.payloads[0]

    def _clean_up(self) -> None:
        """Delete what the last commits left without a row."""
        chunks, incoming = self._needless
        while incoming:
            self.spool.delete_incoming(incoming[-1])
            incoming.pop()
        # What one outcome gave back another payload may have named anew in the same transaction.
        if unused := [sha256 for sha256 in chunks if not self.ledger.knows_chunk(sha256)]:
            self.spool.delete(unused)
            with contextlib.suppress(sqlite3.Error):  # a full disk has no room for it; the next one does it
                self.ledger.give_back_space()
        chunks.clear()

    def _tell_of_work(self) -> None:
        """Name the destinations that have new work to the sender."""
        if not self._untold:
            return
        if self.send_queue.empty():
            self._told.clear()
        if self._untold <= self._told:
            self.ring_sender()  # it has yet to read that
        elif not self.tell_sender({"op": "work", "destinations": sorted(self._untold)}):
            return
        self._told |= self._untold
        self._untold.clear()

    def _disk_trouble(self, error: BaseException) -> None:
        said = words(error)
        if said != self._trouble:
            self._trouble = said
            log.error("tried again until it works: %s", said)
        self.gate.pause(said)
        self._next_limits = time.monotonic() + LIMIT_SECONDS

    @property
    def in_trouble(self) -> bool:
        """Whether something waits for the disk (or memory, or descriptors) to take it."""
        return bool(self._trouble or self.payloads.refused)

    def tell_sender(self, message: dict[str, Any]) -> bool:
        """Put a message in the send queue; False when there is no room. Never waits, never raises for want of room."""
        try:
            self.send_queue.put_nowait(message)
        except (QueueFull, QueueClosed, OSError, MemoryError) as error:
            log.debug("the sender cannot be told: %s", error)
            return False
        finally:
            self.ring_sender()
        return True

    def lift_holds(self, destination: int | None, *, retry: bool = False) -> again.Retried:
        """Send again to this destination (None: to all): a person did something. ``retry``: also what was refused or held."""
        retried = again.Retried()
        with self.ledger.transaction():  # whoever looks after our answer must not see the old hold
            for row in self.ledger.destinations():
                if destination in (None, row["id"]):
                    self.ledger.set_destination(row["id"], hold=None)
            if retry:
                retried = self.again.retry(destination)
        self.recorder.forget_streams()  # lanes have moved
        self._after_commit([])
        self.tell_sender({"op": "resume", "destination": destination})
        return retried

    @property
    def is_saving(self) -> bool:
        """Whether payloads are on their way into the spool."""
        return bool(self.payloads)

    # -- limits ----------------------------------------------------------------------------------------------------

    def check_limits(self) -> None:
        """Look at the limits and at what is used; pause or resume."""
        self._next_limits = time.monotonic() + LIMIT_SECONDS
        self.gate.check(self.recorder.settings, (os.getpid(), *self.sender_pids), refused=self.in_trouble)

    def _note(self, kind: str, detail: str) -> None:
        """Write down what happened; where the disk refuses even that, the log has it."""
        with contextlib.suppress(*TROUBLE), self.ledger.transaction():
            self.ledger.add_event(kind, detail)

    # -- sleep and leave -------------------------------------------------------------------------------------------

    def next_wait(self) -> float:
        """Seconds to wait before the next step. Says in the rings when it is a deep sleep; from then on bells are needed."""
        if self.in_trouble:
            return TROUBLE_SECONDS
        if self._busy or self.is_saving or self._outcomes:
            return NAPS.nap_seconds
        seconds, deep = NAPS.next_wait(time.monotonic(), self.last_work)
        if self.paused is not None:
            return min(seconds, CALM_NAP_SECONDS)
        if not deep:
            return CALM_NAP_SECONDS
        if not self._deep:
            self._deep = True
            for ring in self.rings.values():
                ring.set_sleeping(True)
            self.settle_queue.set_sleeping(True)
            if any(ring.has_more for ring in self.rings.values()) or not self.settle_queue.empty():
                self.wake()
                return CALM_NAP_SECONDS  # just come; or it cannot be read or written, and that must not make us spin
        return seconds

    def wake(self) -> None:
        """Take back what `next_wait` said in the rings."""
        if self._deep:
            self._deep = False
            for ring in self.rings.values():
                ring.set_sleeping(False)
            self.settle_queue.set_sleeping(False)

    def is_idle(self, now: float) -> bool:
        """Nothing to do and nobody there since the idle timeout."""
        timeout = float((self.recorder.settings or {}).get("idle_timeout_seconds", 60.0))
        if now - max(self.last_work, self.last_outcome) < timeout or self.is_saving or self.rings:
            return False
        try:
            return not self.has_sendable_work()
        except TROUBLE as error:
            self._disk_trouble(error)
            return False

    def has_sendable_work(self) -> bool:
        """Whether some record waits for a destination that is not on hold."""
        return any(row["hold"] is None and self.ledger.pending(row["id"])[0] > 0 for row in self.ledger.destinations())

    def marks(self) -> dict[bytes, int]:
        """The last frame that stands in each ring."""
        return {ring_id: ring.last_sequence for ring_id, ring in self.rings.items()}

    def flushed_up_to(self, marks: dict[bytes, int]) -> bool:
        """Whether everything up to these frames is durable, payloads included; and all of rings that came since."""
        if self.is_saving or self.recorder.payloads:
            return False
        return all(
            not ring.has_more or ring.committed >= marks.get(ring_id, 1 << 63) for ring_id, ring in self.rings.items()
        )

    def flushed(self, ring: bytes, sequence: int) -> bool:
        """Whether everything up to this frame of a ring is durable, payloads included."""
        if self.is_saving or self.recorder.payloads:
            return False
        return self.ledger_sequence(ring) >= sequence

    def ledger_sequence(self, ring: bytes) -> int:
        """The last frame of a ring that is in the ledger."""
        row = self.ledger.ring_row(ring)
        return int(row["sequence"]) if row is not None else 0

    def drain(self, timeout_seconds: float) -> None:
        """Take what stands in the rings, also in those that were not seen yet."""
        deadline = time.monotonic() + timeout_seconds
        self.scan()
        while self.step() and time.monotonic() < deadline:
            pass

    def told(self) -> None:
        """SIGTERM: there is little time, and whoever ends now ends with us."""
        self._is_told = True
        self.ledger.hurry()
        with contextlib.suppress(*TROUBLE):
            self.ends.note_told()

    def say_leaving(self) -> None:
        """In all rings: whoever says something from now on is to start another writer. What stands there is still taken."""
        for ring in self.rings.values():
            ring.set_sleeping(True)

    def abandon(self) -> None:
        """Give everything back as it is: the ledger is not to be written."""
        self._closing = True
        self.payloads.close()
        for ring in self.rings.values():
            ring.set_sleeping(False)
            ring.close()
        self.ledger.abandon()

    def close(self) -> None:
        """Finish what is being saved, unless there is no time for it, and give everything back."""
        self._closing = True
        self.payloads.close(wait=not self._is_told)
        with contextlib.suppress(*TROUBLE):
            self.step()
            self.scan()  # the rings of clients that have ended go with us
            self._left_work = self.has_sendable_work()
        self.say_leaving()
        for ring in self.rings.values():
            ring.close()
        self.ledger.close()
        # Only when empty. A client that is just about to put a ring there makes it again.
        with contextlib.suppress(OSError):
            self.home.shared_rings.rmdir()
            self.home.shared_rings.parent.rmdir()
