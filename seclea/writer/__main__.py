"""``python -m seclea.writer --home DIR``: the home's writer. Started by clients and by the sender, not by hand."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
import time
from typing import Any

from filelock import FileLock

from seclea.contract import Home
from seclea.errors import LedgerError, PipelineError, SecleaError
from seclea.logs import set_up_logging
from seclea.processes.cores import leave_no_core
from seclea.processes.rendezvous import prepare, ring_bell, take_lock
from seclea.processes.signals import Told, end_now, ignore_strays
from seclea.processes.start import ensure_writer, take_start_lock
from seclea.writer.damage import suspect
from seclea.writer.server import Server
from seclea.writer.supervisor import SenderSupervisor
from seclea.writer.trouble import TROUBLE
from seclea.writer.waiting import WaitingRoom
from seclea.writer.writer import Writer

log = logging.getLogger("seclea.writer")

_MARKS: Any = ("marks",)  # beside what an asker said; no message has such a key

_SETTLE_SECONDS = 30.0
_SETTLE_LOOK_SECONDS = 0.5
_LOCK_SECONDS = 15.0  # a leaving writer needs a moment; a second one that waits longer has no reason to be
_ASKED_SECONDS = 0.005  # between steps while somebody waits for a flush
_DRAIN_SECONDS = 2.0  # a client that logs on while we leave is not waited for; its ring keeps what is left
_LEAVE_SECONDS = 8.0  # for the sender to finish its request
_LAST_SECONDS = 0.5  # of those after a SIGTERM, for the last commit and to close the ledger


class WriterProcess:
    """A writer with its socket and its sender."""

    def __init__(self, home: Home, writer: Writer, server: Server, told: Told | None = None) -> None:
        self.home = home
        self.told = told
        self.writer = writer
        self.server = server
        server.hand_over(self.handle)
        self.sender = SenderSupervisor(home)
        self.writer.ring_sender = self.sender.ring
        self.started_ns = time.time_ns()
        self.stopping = False
        self._stop_portal = False
        self._start_lock: int | None = None

    def run(self) -> None:
        """Serve until told to stop or idle."""
        bells = 0
        while not self.stopping:
            self.sender.check()
            with contextlib.suppress(OSError, PipelineError):  # it is tried again
                self.server.stay_found()
            self.writer.sender_pids = (self.sender.pid,) if self.sender.pid else ()
            self.writer.step()
            if self.writer.damaged:
                return self._leave_damaged()
            if self.writer.is_idle(time.monotonic()) and not self.server.is_asked and self._may_leave():
                break
            asked = self.server.is_asked and not self.writer.in_trouble
            self.server.poll(_ASKED_SECONDS if asked else self.writer.next_wait())
            self.writer.wake()
            if self.server.bells != bells:
                bells = self.server.bells
                self.writer.scan()
        self.leave()

    def _leave_damaged(self) -> None:
        """Leave at once, committing nothing more, and have a successor look at the ledger: it salvages what is whole."""
        self.stopping = True
        log.error("the writer leaves for a successor: %s", self.writer.damaged)
        with contextlib.suppress(KeyError, ValueError):
            self.server.unbind()
        if self.writer.ledger.path.exists():
            suspect(self.home, self.writer.damaged)
        else:
            with contextlib.suppress(*TROUBLE, LedgerError):
                self.writer.ledger.put_back()
        self.writer.tell_sender({"op": "leave", "sender": self.sender.pid, "portal": False})
        gone = time.monotonic() + _LEAVE_SECONDS
        while self.sender.pid is not None and time.monotonic() < gone and not self.sender.wait_gone(0.02):
            pass
        self.sender.end()
        self.writer.abandon()
        self.server.close()

    def _may_leave(self) -> bool:
        """Idle: take the start lock, unbind, look once more. A newcomer's ring is there before it asks."""
        try:
            lock = take_start_lock(self.home)
        except OSError:
            return False  # out of descriptors: another time
        if lock is None:
            return False  # somebody is on the way
        self.server.unbind()
        self.writer.scan()
        if self.writer.rings or self.server.is_asked:
            self.server.bind_again()
            os.close(lock)
            return False
        self._start_lock = lock  # held until all is closed
        return True

    def leave(self) -> None:
        """Commit what is there, let the sender finish, close. After a SIGTERM nothing of it may take long."""
        self.stopping = True
        if self.told:
            self.writer.told()
            self.sender.tell_end()  # it would finish its request first, and a portal that hangs has time
        with contextlib.suppress(KeyError, ValueError):
            self.server.unbind()
        self.writer.say_leaving()
        self.writer.drain(self._seconds_left(_DRAIN_SECONDS, 2 * _LAST_SECONDS))
        self.writer.tell_sender({"op": "leave", "sender": self.sender.pid, "portal": self._stop_portal})
        gone = time.monotonic() + self._seconds_left(_LEAVE_SECONDS, _LAST_SECONDS)
        while self.sender.pid is not None and time.monotonic() < gone and not self.sender.wait_gone(0.02):
            self.writer.step()  # its last outcomes
            if self.told:  # it came while we were leaving already
                self.sender.tell_end()
                gone = min(gone, time.monotonic() + self._seconds_left(_LEAVE_SECONDS, _LAST_SECONDS))
        self.sender.end(at_once=bool(self.told))
        self.writer.step()
        self.writer.close()
        self.server.close()
        if self._start_lock is not None:
            os.close(self._start_lock)
            # Whoever came since we last looked found the lock held, and takes it that a writer is on its way.
            if self.writer.has_newcomers:
                with contextlib.suppress(PipelineError):
                    ensure_writer(self.home)

    def _seconds_left(self, longest_seconds: float, spare_seconds: float) -> float:
        if self.told is None:
            return longest_seconds
        return self.told.seconds_left(spare_seconds, longest_seconds)

    # -- questions -----------------------------------------------------------------------------------------------

    def handle(self, message: dict[str, Any]) -> dict[str, Any] | None:
        """Answer one message; None keeps the asker waiting."""
        op = message.get("op")
        if op == "flush":
            ring = message.get("ring")
            if ring is not None and type(ring) is not bytes:
                raise ValueError(f"no ring: {ring!r:.80}")
            if ring is None:  # others may log for ever: what stands in the rings at the first look
                done = self.writer.flushed_up_to(message.setdefault(_MARKS, self.writer.marks()))
            else:
                done = self.writer.flushed(ring, int(message.get("sequence") or 0))
            return {"durable": True} if done else None
        if op == "status":
            return self.status()
        if op == "reserve":
            account = self.writer.account
            if self.writer.recorder.settings is None:
                return {}  # no client has said its limits yet, the asker neither: soon
            granted = account.reserve(str(message["name"]), int(message["bytes"]), int(message["least"]))
            return {"granted": granted, "limit": account.limits.disk}
        if op == "resume":
            destination = message.get("destination")
            if destination is not None and type(destination) is not int:
                raise ValueError(f"no destination: {destination!r:.80}")
            retried = self.writer.lift_holds(destination, retry=bool(message.get("retry")))
            self.writer.last_work = time.monotonic()
            return {"ok": True, "again": retried.again, "left": retried.left}
        if op == "dismiss":
            records = message["records"]  # None, which is all of them, has to be said
            if records is not None and not (isinstance(records, list) and all(type(one) is int for one in records)):
                raise ValueError(f"no records: {records!r:.80}")
            with self.writer.ledger.transaction():
                return {"dismissed": self.writer.ledger.dismiss(records)}
        if op == "damaged":  # somebody has looked closer than we did
            self.writer.damaged = str(message.get("why") or "The ledger is damaged.")
            return {"ok": True}
        if op == "stop":
            self.stopping = True
            self._stop_portal = bool(message.get("portal"))
            return {"ok": True, "pid": os.getpid()}
        return {"error": f"The writer knows no {op!r:.80}."}

    def status(self) -> dict[str, Any]:
        """What only the running writer knows; the rest is in the ledger."""
        writer = self.writer
        return {
            "writer": os.getpid(),
            "sender": self.sender.pid,
            "sender_restarts": self.sender.restarts,
            "sender_trouble": self.sender.trouble or None,
            "started_ns": self.started_ns,
            "paused": writer.paused,
            "paused_since_ns": writer.gate.pauses.since_ns or None,
            "refused_payloads": writer.account.refused,
            "usage": writer.gate.usage.to_json(),
            "limits": {
                name: getattr(writer.gate.watch.limits, name)
                for name in ("memory", "disk", "min_free_disk", "resume_below", "when_full")
            },
            "limits_trouble": writer.gate.watch.trouble,
            "clients": sorted(ring.pid for ring in writer.rings.values()),
        }


def _settle_in(home: Home) -> FileLock | None:
    """Make the directories, take the writer lock, begin to log; None when another writer has the home.

    Waits a while for a disk that is full: whoever started us takes it that we are on our way.

    Raises:
        OSError, PipelineError: the home cannot be used.
    """
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        try:
            prepare(home)
            set_up_logging(home.logs, "writer")
            return take_lock(home.writer_lock, _LOCK_SECONDS)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(_SETTLE_LOOK_SECONDS)  # a poll with a deadline


def main(arguments: list[str] | None = None) -> int:
    """Run the writer of one home until it is idle or told to stop."""
    parser = argparse.ArgumentParser(prog="python -m seclea.writer")
    parser.add_argument("--home", required=True)
    parser.add_argument("--start-lock", type=int, help="descriptor of the home's start lock, ours to let go of")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    leave_no_core()
    ignore_strays()
    home = Home(options.home)
    try:
        lock = _settle_in(home)
        room = WaitingRoom(home) if lock is not None else None
    except (OSError, SecleaError) as error:
        print(error, file=sys.stderr)
        return 1
    if lock is None or room is None:
        log.info("another writer has the home")
        return 0
    here: WaitingRoom | WriterProcess = room

    def stop() -> None:
        here.stopping = True
        ring_bell(home)  # or it would sleep on

    def at_once() -> None:
        if isinstance(here, WriterProcess):
            here.sender.end(at_once=True)  # or it would start another writer

    told = Told(stop, at_once)
    writer = room.wait()
    if writer is None:
        log.info("the writer leaves: there is no ledger to write")
        room.server.unbind()
        room.server.close()
        lock.release()
        return 0
    here = process = WriterProcess(home, writer, room.server, told)
    process.stopping = room.stopping
    if options.start_lock is not None:
        os.close(options.start_lock)
    log.info("writer of %s started", home.path)
    process.run()
    log.info("writer leaves")
    lock.release()
    if writer.damaged and not told:
        with contextlib.suppress(PipelineError):
            ensure_writer(home)  # whoever logs would start one too, but a job may just have ended
    if told:
        end_now()  # a thread may be saving something large
    return 0


if __name__ == "__main__":
    sys.exit(main())
