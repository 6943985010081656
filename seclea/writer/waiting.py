"""A writer whose ledger cannot be opened (yet): the disk is full, the file is damaged, locked, or of a newer version.

It says so to whoever asks, pauses every ring, and tries again. Ending instead would be a crash loop: the next log call would
start another writer, which would find the same.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seclea.contract import Home
from seclea.errors import LedgerError
from seclea.queues.queue import Queue
from seclea.queues.ring import Consumer, RingDamaged
from seclea.writer.damage import ledger_of
from seclea.writer.server import Server
from seclea.writer.trouble import TROUBLE, words
from seclea.writer.writer import Writer

log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_PATIENCE_SECONDS = 60.0  # without a client we leave; the next one starts another


class WaitingRoom:
    """The time before there is a `Writer`.

    Attributes:
        server: listens already; the writer takes it over.
        stopping: somebody wants us to leave.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._rings: dict[Path, Consumer] = {}
        self._reason = ""
        self._started_ns = time.time_ns()
        self.stopping = False
        self.server = Server(home, self._answer)

    def wait(self) -> Writer | None:
        """A writer, as soon as there can be one; None when there is no use for it any more."""
        last_client = time.monotonic()
        try:
            while not self.stopping and time.monotonic() - last_client < _PATIENCE_SECONDS:
                try:
                    return open_writer(self._home, self._say)
                except (LedgerError, *TROUBLE) as error:
                    if words(error) != self._reason:
                        self._reason = words(error)
                        log.error("logging is paused: %s", self._reason)
                if self._hold_rings():
                    last_client = time.monotonic()
                self.server.poll(_LOOK_SECONDS)
            return None
        finally:
            for ring in self._rings.values():
                ring.close()

    def _say(self, reason: str) -> None:
        """Pause all rings for this reason; it may take a while."""
        self._reason = f"{reason} What is whole of it is being salvaged."
        self._hold_rings()

    def _hold_rings(self) -> bool:
        """Pause all rings and give them signs of life; whether any producer lives."""
        for directory in (self._home.rings, self._home.shared_rings):
            try:
                for path in directory.glob("*.ring"):
                    if path not in self._rings:
                        self._rings[path] = Consumer.attach(path)
            except (OSError, MemoryError, RingDamaged) as error:
                log.debug("%s", error)
        for ring in self._rings.values():
            ring.set_paused(True)
            ring.beat(time.monotonic_ns())
        return any(ring.producer_alive() for ring in self._rings.values())

    def _answer(self, message: dict[str, Any]) -> dict[str, Any] | None:
        match message.get("op"):
            case "flush":
                return None
            case "status":
                clients = sorted(ring.pid for ring in self._rings.values())
                known = {"writer": os.getpid(), "sender": None, "started_ns": self._started_ns, "clients": clients}
                return {**known, "paused": self._reason, "trouble": self._reason}
            case "stop":
                self.stopping = True
                return {"ok": True, "pid": os.getpid()}
            case op:
                return {"error": f"The writer cannot answer {op!r:.80}: {self._reason}"}


def open_writer(home: Home, say: Callable[[str], None] = lambda _: None) -> Writer:
    """A writer with its ledger and its queues, recovered; ``say`` is told of a salvage that begins.

    Raises:
        LedgerError, OSError, sqlite3.Error, MemoryError: not now; nothing is left open.
    """
    ledger, rescue = ledger_of(home, say)
    queues: list[Queue] = []
    try:
        for name in ("send", "settle"):
            queues.append(_queue(home.queues / name))
        writer = Writer(home, ledger, *queues)
        writer.recover(rescue.words() if rescue is not None else "")
    except BaseException:
        for queue in queues:
            queue.close()
        ledger.close()
        raise
    return writer


def _queue(directory: Path) -> Queue:
    """A queue between writer and sender. One that is damaged is made anew: the ledger knows all that stood in it."""
    try:
        return Queue(directory=directory, allow_pickle=False)
    except (RingDamaged, ValueError, NotADirectoryError, FileExistsError) as error:
        log.warning("the queue %s is made anew: %s", directory, error)
        if directory.is_dir() and not directory.is_symlink():
            shutil.rmtree(directory)
        else:
            directory.unlink()
        return Queue(directory=directory, allow_pickle=False)
