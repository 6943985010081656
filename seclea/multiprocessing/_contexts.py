"""Contexts of multiprocessing whose queue is ours. Real ones: whoever asks for a `BaseContext` is content."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing import context as original
from typing import Any

VARIABLE = "SECLEA_QUEUE"  # "0": the original's queues

_is_said = False


def new_queue(maxsize: int, otherwise: Callable[[int], Any]) -> Any:
    """A queue of ours, or of ``otherwise`` where ours is not wanted or cannot serve."""
    if os.environ.get(VARIABLE, "").strip() == "0":
        return otherwise(maxsize)
    try:
        from seclea.queues.shared import SharedQueue

        return SharedQueue(maxsize)
    except (ImportError, OSError) as error:  # Windows has no fcntl; no directory has room
        _say(f"the queue is multiprocessing's own: {error}")
        return otherwise(maxsize)


def _say(text: str) -> None:
    global _is_said
    if not _is_said:
        _is_said = True
        print(f"seclea: {text}", file=sys.stderr, flush=True)


class _WithOurQueue(original.BaseContext):
    def Queue(self, maxsize: int = 0) -> Any:
        return new_queue(maxsize, super().Queue)

    def get_context(self, method: str | None = None) -> Any:
        return self if method is None else with_our_queue(super().get_context(method))


if sys.platform == "win32":

    class SpawnContext(_WithOurQueue, original.SpawnContext):
        """`multiprocessing.context.SpawnContext` with our queue."""

    _contexts: dict[str, original.BaseContext] = {"spawn": SpawnContext()}
else:

    class ForkContext(_WithOurQueue, original.ForkContext):
        """`multiprocessing.context.ForkContext` with our queue."""

    class SpawnContext(_WithOurQueue, original.SpawnContext):
        """`multiprocessing.context.SpawnContext` with our queue."""

    class ForkServerContext(_WithOurQueue, original.ForkServerContext):
        """`multiprocessing.context.ForkServerContext` with our queue."""

    _contexts: dict[str, original.BaseContext] = {
        "fork": ForkContext(),
        "spawn": SpawnContext(),
        "forkserver": ForkServerContext(),
    }


def with_our_queue(context: original.BaseContext) -> original.BaseContext:
    """The context with the same start method and our queue; itself where we have none for it."""
    return _contexts.get(context.get_start_method(), context)
