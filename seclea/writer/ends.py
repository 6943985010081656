"""The ends of runs whose processes went without a word: found when their rings are let go, written once nobody speaks for them.

Rule 1  How a process went stands in its ring's row before the ring's file is removed: a writer that is killed in between
        leaves the rest to the next one.
Rule 2  A run is judged from the ledger alone, and only once every ring has been read as far as it stood when the last
        process went: a child that it left behind may just have begun to speak for the run.
Rule 3  Status "failed", and "preempted" where the writer got SIGTERM while the process lived and no later writer has seen it
        alive: the end of a container, a job step or a session.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Mapping, Set

from seclea.entities import RunStatus
from seclea.ledger.db import Ledger
from seclea.ledger.ends import Ending, Ends
from seclea.queues import segment
from seclea.queues.ring import Consumer
from seclea.records import unpack_metrics
from seclea.writer.recorder import Recorder

log = logging.getLogger(__name__)


class RunEnds:
    """Watches how the processes of a home go. ``rings`` are those that are open."""

    def __init__(
        self,
        ledger: Ledger,
        recorder: Recorder,
        rings: Mapping[bytes, Consumer],
        marks: Callable[[], dict[bytes, int]],
    ) -> None:
        self._ledger = ledger
        self._recorder = recorder
        self._rings = rings
        self._marks = marks
        self._ends = Ends(ledger)
        self._noted: set[bytes] = set()  # rings whose rows say whose they are
        self._seen: set[bytes] = set()  # rings whose processes we saw alive: we know when they went
        self._due: dict[bytes, int] | None = {}  # how far to read before runs are judged; None: nothing to judge

    def meet(self, ring_id: bytes, ring: Consumer) -> None:
        """A ring was found. Where its process outlived the SIGTERM of a writer before us, that is no reason any more."""
        if not ring.producer_alive():
            return
        self._seen.add(ring_id)
        row = self._ledger.ring_row(ring_id)
        if row is not None and row["told_ns"]:
            with self._ledger.transaction():
                self._ends.note_told(ring_id, None)

    def note_process(self, ring_id: bytes, ring: Consumer) -> None:
        """Say in the ring's row whose it is; inside a transaction, after its first frames."""
        if ring_id not in self._noted:
            self._ends.note_process(ring_id, ring.start_ticks, ring.boot)

    def noted(self, ring_ids: Set[bytes]) -> None:
        """That transaction is committed."""
        self._noted |= ring_ids

    def note_told(self) -> None:
        """The writer is told to end; whoever goes now, goes with it."""
        with self._ledger.transaction():
            for ring_id in self._rings:
                self._ends.note_told(ring_id, time.time_ns())

    def note_gone(self, ring_id: bytes, ring: Consumer) -> None:
        """The ring's process is gone; inside the transaction that closes the ring."""
        row = self._ledger.ring_row(ring_id)
        told = row is not None and row["told_ns"]
        silent = Ending.TOLD if told else Ending.GONE
        self._ends.note_ended(ring_id, Ending.IN_ORDER if ring.ended_in_order else silent)

    def forget(self, ring_id: bytes) -> None:
        """The ring is let go: it is time to look at the runs."""
        self._noted.discard(ring_id)
        self._due = self._marks()

    def recover(self, ring_files: Set[str]) -> None:
        """At the start: close the rings whose files are gone with their processes, as after a reboot.

        Args:
            ring_files: ids in hex of the rings that are there.
        """
        with self._ledger.transaction():
            for row in self._ends.open_rings():
                known = row["start_ticks"] is not None
                if row["id"].hex() in ring_files or not known or not row["boot"]:
                    continue
                if not segment.is_running(row["pid"], row["start_ticks"], row["boot"]):
                    self._ends.note_ended(row["id"], Ending.TOLD if row["told_ns"] else Ending.GONE)
                    self._ledger.close_ring(row["id"])

    def judge(self) -> bool:
        """End the runs that nobody speaks for any more and whose processes went without a word; whether there were any."""
        if self._due is None or any(self._is_behind(*mark) for mark in self._due.items()):
            return False
        found = self._ends.without_a_word()
        if found:
            with self._ledger.transaction():
                for row in found:
                    status = RunStatus.FAILED if row["gone"] else RunStatus.PREEMPTED
                    how = "" if row["gone"] else ", together with the pipeline, which was told to end (SIGTERM)"
                    reason = f"process {row['pid']} ended without saying how{how}"
                    self._recorder.end_run(row["stream"], status, self._time_of(row), reason)
                    self._ledger.add_event("run ended", f"{row['run']} {status}: {reason}")
                    log.warning("the run %s is %s: %s", row["run"], status, reason)
        # What is still being saved holds its run back; then the next look finds it.
        self._due = None if not self._ledger.saving() else {}
        return bool(found)

    def _is_behind(self, ring_id: bytes, mark: int) -> bool:
        ring = self._rings.get(ring_id)
        return ring is not None and ring.has_more and ring.committed < mark

    def _time_of(self, row: sqlite3.Row) -> int:
        """When a run ended: seen within a second, else when its process said something last, as far as is known."""
        if row["ring"] not in self._seen and (body := self._ends.last_metrics(row["run"])) is not None:
            return max(unpack_metrics(body).time, default=int(row["closed_ns"]))
        return int(row["closed_ns"])
