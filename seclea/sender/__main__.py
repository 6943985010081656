"""``python -m seclea.sender --home DIR --lifeline FD``: the home's sender. Started by the writer, not by hand."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import sys
from types import FrameType

from seclea.contract import Home
from seclea.errors import PipelineError
from seclea.logs import set_up_logging
from seclea.processes.cores import leave_no_core
from seclea.processes.rendezvous import prepare, ring_bell, take_lock
from seclea.processes.start import replace_writer
from seclea.queues.queue import Queue
from seclea.sender.sender import Sender

log = logging.getLogger("seclea.sender")

_LOCK_SECONDS = 30.0  # the sender before us finishes its request
_LISTEN_SECONDS = 2.0  # a missed bell costs this much


def main(arguments: list[str] | None = None) -> int:
    """Send until told to leave, or until the writer is gone."""
    parser = argparse.ArgumentParser(prog="python -m seclea.sender")
    parser.add_argument("--home", required=True)
    parser.add_argument("--lifeline", type=int, help="reading end of a pipe that the writer keeps open for life")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    leave_no_core()
    home = Home(options.home)
    prepare(home)
    set_up_logging(home.logs, "sender")
    lock = take_lock(home.sender_lock, _LOCK_SECONDS)
    if lock is None:
        log.info("another sender has the home")
        return 0
    send_queue = Queue(directory=home.queues / "send", allow_pickle=False)
    settle_queue = Queue(directory=home.queues / "settle", allow_pickle=False, bell=lambda: ring_bell(home))
    sender = Sender(home, send_queue, settle_queue)

    def stop(_number: int, _frame: FrameType | None) -> None:
        sender.stopping.set()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    log.info("sender of %s started", home.path)
    sender.open_destinations()
    orphaned = False
    while not sender.stopping.is_set():
        sender.step()
        if sender.stopping.is_set():  # told to leave: nothing more to listen for
            break
        if options.lifeline is not None and select.select([options.lifeline], [], [], _LISTEN_SECONDS)[0]:
            orphaned = os.read(options.lifeline, 4096) == b""
        if orphaned:
            break
    sender.close()
    if orphaned:
        log.warning("the writer is gone: starting another")
        with contextlib.suppress(PipelineError):
            replace_writer(home)
    # Only now: whoever waits for the home to be quiet must never see it without any lock held.
    lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(main())
