"""Shared memory: segments, single-producer rings, waiting without bells, and a queue built from them.

`Queue` is fetched when it is first used: whoever needs a ring only does not load it.
"""

TYPE_CHECKING = False

if TYPE_CHECKING:
    from seclea.queues.queue import Queue

__all__ = ["Queue"]


def __getattr__(name: str) -> object:
    if name == "Queue":
        from seclea.queues.queue import Queue

        return Queue
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
