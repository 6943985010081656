"""The queue of `seclea.multiprocessing`: what is not plain data is pickled as multiprocessing pickles for its own queues.

So whatever is registered with its `ForkingPickler` is handed over the same way: torch's tensors as names of memory that both
processes share (the sender must live until they are taken), connections and sockets as descriptors.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from typing import Any

from seclea.queues.queue import Queue


class SharedQueue(Queue):
    """`Queue` in shared memory, with multiprocessing's ways to pickle."""

    @staticmethod
    def pickled(item: Any, buffer_callback: Callable[[pickle.PickleBuffer], None]) -> bytes:
        stream = io.BytesIO()
        _Pickler(stream, buffer_callback).dump(item)
        return stream.getvalue()


class _Pickler(ForkingPickler):
    """`ForkingPickler`, whose own initialiser takes no callback: arrays of numpy may leave their bytes where they lie."""

    def __init__(self, stream: io.BytesIO, buffer_callback: Callable[[pickle.PickleBuffer], None]) -> None:
        super().__init__(stream, pickle.HIGHEST_PROTOCOL)  # its table of what is registered
        table = self.dispatch_table
        pickle.Pickler.__init__(self, stream, pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback)
        self.dispatch_table = table
