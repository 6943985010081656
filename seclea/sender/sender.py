"""The sender: per destination two lanes of threads, and a main loop that hears from the writer.

Rule 1  It reads the ledger, never writes it; what it learns it puts in the settle queue.
Rule 2  When the writer dies it finishes the requests in flight, starts a writer as a client would, and leaves.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Any

from seclea.api.connect import open_api
from seclea.contract import Home
from seclea.errors import ConfigurationError, LedgerError, QueueFull
from seclea.ledger.blobs import Spool
from seclea.ledger.view import LedgerView
from seclea.queues.queue import Queue
from seclea.records import Lane
from seclea.sender.destination import DestinationState
from seclea.sender.embedded import EmbeddedPortal, missing_parts
from seclea.sender.lane import LaneWorker, Tools

log = logging.getLogger(__name__)

FINISH_SECONDS = 6.0  # for requests in flight when we leave


class Sender:
    """Sends what the ledger of a home holds."""

    def __init__(self, home: Home, send_queue: Queue, settle_queue: Queue, random: Random | None = None) -> None:
        self.home = home
        self.stopping = threading.Event()
        self.portal = EmbeddedPortal(home)
        self._send_queue = send_queue
        self._settle_queue = settle_queue
        self._random = random or Random()
        self._lanes: dict[int, list[LaneWorker]] = {}
        self._states: dict[int, DestinationState] = {}
        self._threads: list[threading.Thread] = []
        self.stop_portal = False
        self._untold: deque[dict[str, Any]] = deque()  # an outcome that is lost is a record that is never settled
        self._telling = threading.Lock()

    def tell(self, message: dict[str, Any]) -> None:
        """Tell the writer something; kept, in order, while there is no room for it."""
        with self._telling:
            self._untold.append(message)
            self._tell_all()

    def _tell_all(self) -> None:
        while self._untold:
            try:
                self._settle_queue.put(self._untold[0], block=False)
            except (QueueFull, OSError, MemoryError) as error:
                log.debug("the writer cannot be told: %s", error)
                return
            self._untold.popleft()

    def step(self) -> None:
        """Hear what the writer has said."""
        self.portal.reap()
        with self._telling:
            self._tell_all()
        messages = self._send_queue.get_many(1000, 0)
        touched: set[int] = set()
        for message in messages:
            op = message.get("op")
            if op == "leave":
                if message.get("sender") not in (None, os.getpid()):
                    continue  # for one before us that died without hearing it
                self.stop_portal = bool(message.get("portal"))
                self.stopping.set()
            elif op == "work":
                touched.update(message["destinations"])
            elif op == "resume":
                self._resume(message.get("destination"))
        if touched - self._lanes.keys():
            self.open_destinations()
        for destination in touched:
            for lane in self._lanes.get(destination, ()):
                lane.wake.set()

    def _resume(self, destination: int | None) -> None:
        self.open_destinations()
        for number, state in self._states.items():
            if destination in (None, number):
                state.set_hold(None)
                for lane in self._lanes[number]:
                    lane.resume()

    def open_destinations(self) -> None:
        """Start lanes to every destination of the ledger that has none."""
        try:
            with LedgerView(self.home.ledger) as view:
                rows = view.destinations()
        except LedgerError as error:
            log.info("%s", error)
            return
        for row in rows:
            if row["id"] not in self._lanes:
                self._open(row)

    def _open(self, row: Any) -> None:
        holder: list[DestinationState] = []
        state = DestinationState(
            row, self.tell, self._readiness(row, holder), self.portal.make_organization, self._random
        )
        holder.append(state)
        try:
            apis = {lane: open_api(self.home, state.destination, state.ca_bundle) for lane in Lane}
        except ConfigurationError as error:  # no such address can be sent to; the other destinations go on
            state.set_hold(str(error))
            return
        self._states[state.id] = state
        lanes = []
        for lane in Lane:
            tools = Tools(
                api=apis[lane],
                spool=Spool(self.home),
                open_view=lambda: LedgerView(self.home.ledger),
                tell=self.tell,
                random=self._random,
            )
            worker = LaneWorker(state, lane, tools)
            thread = threading.Thread(
                target=worker.run, args=(self.stopping,), name=f"seclea-{state.id}-{lane}", daemon=True
            )
            thread.start()
            self._threads.append(thread)
            lanes.append(worker)
        self._lanes[state.id] = lanes

    def _readiness(self, row: Any, holder: list[DestinationState]) -> Callable[[], bool]:
        if row["platform_url"] != "local":
            return lambda: True

        def ready() -> bool:
            missing = missing_parts()
            if missing:
                holder[0].set_hold(
                    f"the embedded portal is not installed ({', '.join(missing)}): "
                    'pip install "seclea[portal]", then `seclea retry`; records are kept'
                )
                return False
            return self.portal.ensure(self.stopping)

        return ready

    def close(self, seconds: float = FINISH_SECONDS) -> None:
        """Finish the requests in flight, for at most ``seconds``; tell the last counters."""
        self.stopping.set()
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.wake.set()
        for thread in self._threads:
            thread.join(seconds / max(len(self._threads), 1))
        for state in self._states.values():
            state.report()
        if self.stop_portal:
            self.portal.stop()
        log.info("sender %d leaves", os.getpid())
