"""Where a user waits: until everything is durable, or delivered. Every wait ends by itself and says what is left.

Ctrl-C once leaves it to the background: the wait returns, as if its time were up. A second one raises, as everywhere.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from seclea.client.showing import SILENT_SECONDS, Showing
from seclea.contract import Destination, Home
from seclea.director import Left, Progress, ask_until, last_record, open_pipelines, progress
from seclea.director.outlook import records
from seclea.errors import PipelineError, SecleaError
from seclea.ledger.view import Part
from seclea.processes.rendezvous import ask
from seclea.processes.start import ensure_writer
from seclea.settings import format_size

_FIRST_LOOK_SECONDS = 0.02
_LAST_LOOK_SECONDS = 0.25
_LIVE_SECONDS = 1.0  # between two questions to the writer, which has more to do
_TWICE_SECONDS = 5.0  # two interrupts within this are one person who wants out
OnProgress = Callable[[Progress], None]

_interrupted_at = -_TWICE_SECONDS


def flush(home: Home, destination: Destination | None, timeout_seconds: float) -> Progress:
    """Wait until everything that any process handed over in this home is durable."""

    def wait(showing: Showing) -> Progress:
        return _flush(home, destination, time.monotonic() + timeout_seconds, timeout_seconds, showing)

    return _shown(home, destination, wait)


def _shown(
    home: Home, destination: Destination | None, wait: Callable[[Showing], Progress], ends: bool = True
) -> Progress:
    """Wait with something to look at, also at the end unless not ``ends``; Ctrl-C leaves it to the background."""
    showing = Showing()
    try:
        result = wait(showing)
        if ends:
            showing.end(result)
        return result
    except KeyboardInterrupt:
        return _leave(home, destination, showing)
    finally:
        showing.close()


def _flush(
    home: Home, destination: Destination | None, deadline: float, timeout_seconds: float, showing: Showing
) -> Progress:
    live: dict[str, Any] = {}

    def look() -> None:
        live.update(_ask_live(home, deadline))
        why = f"; logging is paused: {live['paused']}" if live.get("paused") else ""
        showing.say(f"waiting until everything is on disk{why}")

    done = True
    for pipeline in open_pipelines():
        if pipeline.home.path == home.path:
            done = pipeline.flush(max(deadline - time.monotonic(), 0.0), look) and done
    # Other processes of the job (ranks, loaders) have rings of their own.
    everything = {"op": "flush", "ring": None}
    done = ask_until(home, everything, max(deadline - time.monotonic(), 0.0), meanwhile=look) and done
    now = _with_live(progress(home, destination, _part(home)), live)
    if done:
        return replace(now, done=True)
    late = f"not durable within {timeout_seconds:g} s"
    return replace(now, done=False, reasons=(late, *now.reasons), left=(Left("pending", 0, late), *now.left))


def complete(
    home: Home, destination: Destination | None, timeout_seconds: float, on_progress: OnProgress | None = None
) -> Progress:
    """Wait until everything is delivered, or nothing more can be until a person does something.

    Shows how far it is on standard error, once it takes longer than a second and unless ``on_progress`` does.
    """

    def wait(showing: Showing) -> Progress:
        return _complete(home, destination, timeout_seconds, showing, on_progress)

    return _shown(home, destination, wait, ends=on_progress is None)


def _complete(
    home: Home,
    destination: Destination | None,
    timeout_seconds: float,
    showing: Showing,
    on_progress: OnProgress | None,
) -> Progress:
    deadline = time.monotonic() + timeout_seconds
    flushed = _flush(home, destination, deadline, timeout_seconds, showing)
    if not flushed.done:
        return flushed
    part = _part(home)
    if part is not None:  # others may log for ever: what stands in the ledger now is waited for
        part = replace(part, up_to=last_record(home))
    look_seconds = _FIRST_LOOK_SECONDS
    live: dict[str, Any] = {}
    next_live = time.monotonic() + SILENT_SECONDS
    while True:
        now = progress(home, destination, part)
        if time.monotonic() >= next_live and not now.done:
            live = _ask_live(home, deadline)
            next_live = time.monotonic() + _LIVE_SECONDS
        now = _with_live(now, live)
        if on_progress is not None:
            on_progress(now)
        if now.done or now.on_hold or (now.pending == 0 and (now.failed or now.held)):
            return now
        left = deadline - time.monotonic()
        if left <= 0:
            late = f"{now.pending} records are left after {timeout_seconds:g} s; the background goes on"
            return replace(now, reasons=(late, *now.reasons))
        if on_progress is None:
            showing.see(now)
        time.sleep(min(look_seconds, left))
        look_seconds = min(look_seconds * 1.5, _LAST_LOOK_SECONDS)


def _part(home: Home) -> Part | None:
    """What this process has to do with; None where it records nothing itself, as the command line."""
    return next((one.part for one in open_pipelines() if one.home.path == home.path), None)


def _ask_live(home: Home, deadline: float) -> dict[str, Any]:
    """What the running writer says of itself; where none runs any more, one is started."""
    with contextlib.suppress(PipelineError, OSError):
        if answer := ask(home, {"op": "status"}, max(min(_LIVE_SECONDS, deadline - time.monotonic()), 0.01)):
            return answer
        ensure_writer(home)
    return {}


def _with_live(now: Progress, live: dict[str, Any]) -> Progress:
    if not live.get("paused"):
        return now
    return replace(now, left=(*now.left, Left("paused", 0, str(live["paused"]))))


def _leave(home: Home, destination: Destination | None, showing: Showing) -> Progress:
    """After Ctrl-C: say what is left and how to look, once; raise when it was the second within a moment."""
    global _interrupted_at
    now = time.monotonic()
    if now - _interrupted_at < _TWICE_SECONDS:
        raise KeyboardInterrupt
    _interrupted_at = now
    try:
        found = progress(home, destination)
    except SecleaError as error:
        found = Progress(done=False, reasons=(str(error),))
    size = f" ({format_size(found.pending_bytes)})" if found.pending else ""
    showing.leave(f"interrupted: {records(found.pending)}{size} left to the background (to look: seclea status)")
    return replace(found, done=False, interrupted=True, reasons=("interrupted; the background goes on", *found.reasons))
