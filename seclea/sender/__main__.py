"""``python -m seclea.sender --home DIR --lifeline FD``: the home's sender. Started by the writer, not by hand."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import select
import signal
import sys

from seclea.contract import Home
from seclea.errors import PipelineError
from seclea.logs import set_up_logging
from seclea.processes.cores import leave_no_core
from seclea.processes.rendezvous import prepare, ring_bell, take_lock
from seclea.processes.signals import Told, end_now, ignore_strays
from seclea.processes.start import replace_writer
from seclea.queues.queue import Queue
from seclea.sender.sender import FINISH_SECONDS, Sender

log = logging.getLogger("seclea.sender")

_LOCK_SECONDS = 30.0  # the sender before us finishes its request
_LISTEN_SECONDS = 2.0  # a missed bell costs this much
_LAST_SECONDS = 1.0  # of those after a SIGTERM, for the writer that waits for us and has as many


def main(arguments: list[str] | None = None) -> int:
    """Send until told to leave, or until the writer is gone."""
    parser = argparse.ArgumentParser(prog="python -m seclea.sender")
    parser.add_argument("--home", required=True)
    parser.add_argument("--lifeline", type=int, help="reading end of a pipe that the writer keeps open for life")
    options = parser.parse_args(arguments)
    os.umask(0o077)
    leave_no_core()
    ignore_strays()
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

    woken, wakes = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)  # or SIGTERM would wait for the next bell
    told = Told(sender.stopping.set)
    log.info("sender of %s started", home.path)
    sender.open_destinations()
    orphaned = False
    while not sender.stopping.is_set():
        sender.step()
        if sender.stopping.is_set():  # told to leave: nothing more to listen for
            break
        heard = select.select(
            [woken, *([] if options.lifeline is None else [options.lifeline])], [], [], _LISTEN_SECONDS
        )[0]
        if woken in heard:
            os.read(woken, 4096)
        if options.lifeline in heard:
            orphaned = os.read(options.lifeline, 4096) == b""
        if orphaned:
            break
    sender.close(told.seconds_left(_LAST_SECONDS, FINISH_SECONDS))
    if orphaned and not told:
        log.warning("the writer is gone: starting another")
        with contextlib.suppress(PipelineError):
            replace_writer(home)
    # Only now: whoever waits for the home to be quiet must never see it without any lock held.
    lock.release()
    if told:
        end_now()  # a lane may be waiting for a portal that hangs
    return 0


if __name__ == "__main__":
    sys.exit(main())
