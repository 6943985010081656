"""Where a user waits: until everything is durable, or delivered. Every wait ends by itself and says what is left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from seclea.contract import Destination, Home
from seclea.director import Progress, ask_until, open_pipelines, progress

_FIRST_LOOK_SECONDS = 0.02
_LAST_LOOK_SECONDS = 0.25
OnProgress = Callable[[Progress], None]


def flush(home: Home, destination: Destination | None, timeout_seconds: float) -> Progress:
    """Wait until everything that any process handed over in this home is durable."""
    deadline = time.monotonic() + timeout_seconds
    done = True
    for pipeline in open_pipelines():
        if pipeline.home.path == home.path:
            done = pipeline.flush(max(deadline - time.monotonic(), 0.0)) and done
    # Other processes of the job (ranks, loaders) have rings of their own.
    done = ask_until(home, {"op": "flush", "ring": None}, max(deadline - time.monotonic(), 0.0)) and done
    now = progress(home, destination)
    reasons = now.reasons if done else (f"not durable within {timeout_seconds:g} s", *now.reasons)
    return replace(now, done=done, reasons=reasons)


def complete(
    home: Home, destination: Destination | None, timeout_seconds: float, on_progress: OnProgress | None = None
) -> Progress:
    """Wait until everything is delivered, or nothing more can be until a person does something."""
    deadline = time.monotonic() + timeout_seconds
    flushed = flush(home, destination, timeout_seconds)
    if not flushed.done:
        return flushed
    look_seconds = _FIRST_LOOK_SECONDS
    while True:
        now = progress(home, destination)
        if on_progress is not None:
            on_progress(now)
        if now.done or now.on_hold or (now.pending == 0 and (now.failed or now.held)):
            return now
        left = deadline - time.monotonic()
        if left <= 0:
            late = (f"{now.pending} records are left after {timeout_seconds:g} s; the background goes on", *now.reasons)
            return replace(now, reasons=late)
        time.sleep(min(look_seconds, left))
        look_seconds = min(look_seconds * 1.5, _LAST_LOOK_SECONDS)
