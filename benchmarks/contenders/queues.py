"""The contenders of a queue between processes, each as its documentation says it is fast.

A contender is made before the fork, in the process that takes. `producing` gives the put of a process, `consuming` the take,
which waits and returns one or more objects. `leaving` is called by a producer that has put everything and may end.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Put = Callable[[Any], object]
Take = Callable[[], list[Any]]
_FORK = multiprocessing.get_context("fork")


class Contender:
    """What they share: the largest object, and a directory of their own."""

    modules: tuple[str, ...] = ()

    def __init__(self, directory: Path, size_bytes: int, producers: int, kind: str) -> None:
        self.directory = directory
        self.size_bytes = size_bytes
        self.producers = producers
        self.kind = kind
        for name in self.modules:
            __import__(name)
        self.make()

    def make(self) -> None:
        """Make the queue."""

    def producing(self) -> Put:
        """In a producer."""
        raise NotImplementedError(type(self).__name__)  # abstract

    def consuming(self) -> Take:
        """In the consumer."""
        raise NotImplementedError(type(self).__name__)  # abstract

    def leaving(self) -> None:
        """In a producer: everything is put."""

    def close(self) -> None:
        """In the process that made it: it is done."""

    def fresh(self, payload: Any) -> Any:
        """The object to put next, where the same one may not be put twice."""
        return payload


class SecleaQueue(Contender):
    modules = ("seclea.queues.queue",)

    def make(self) -> None:
        from seclea.queues.queue import Queue

        self._queue = Queue()

    def producing(self) -> Put:
        return self._queue.put

    def consuming(self) -> Take:
        get_many = self._queue.get_many
        return lambda: get_many(1000, timeout=None)

    def close(self) -> None:
        self._queue.close()


class MultiprocessingQueue(Contender):
    def make(self) -> None:
        self._queue: Any = _FORK.Queue()

    def producing(self) -> Put:
        put: Put = self._queue.put
        return put

    def consuming(self) -> Take:
        get = self._queue.get
        return lambda: [get()]

    def leaving(self) -> None:
        self._queue.close()
        self._queue.join_thread()

    def close(self) -> None:
        self._queue.close()
        self._queue.cancel_join_thread()


class TorchQueue(MultiprocessingQueue):
    """Arrays are tensors. The first put of one moves it into shared memory, so each put has a new one."""

    modules = ("torch", "torch.multiprocessing")

    def make(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._queue = torch.multiprocessing.get_context("fork").Queue()

    def fresh(self, payload: Any) -> Any:
        if isinstance(payload, bytes):
            return payload
        import torch

        return torch.from_numpy(payload).clone()


class Pipe(Contender):
    """`send_bytes` for bytes, `send` for others. Several producers take a lock."""

    def make(self) -> None:
        self._reader, self._writer = _FORK.Pipe(duplex=False)
        self._lock: Any = _FORK.Lock() if self.producers > 1 else None

    def producing(self) -> Put:
        send: Put = self._writer.send_bytes if self.kind == "bytes" else self._writer.send
        lock = self._lock
        if lock is None:
            return send

        def put(item: Any) -> None:
            with lock:
                send(item)

        return put

    def consuming(self) -> Take:
        recv = self._reader.recv_bytes if self.kind == "bytes" else self._reader.recv
        return lambda: [recv()]

    def close(self) -> None:
        self._reader.close()
        self._writer.close()


class Zmq(Contender):
    """PUSH to PULL over ipc, the default high-water mark; above 64 KiB without copies, as pyzmq advises."""

    modules = ("zmq",)
    _COPY_BELOW = 65_536

    def make(self) -> None:
        self._address = f"ipc://{self.directory}/zmq-{os.getpid()}-{id(self)}"

    def _socket(self, kind: str) -> Any:
        import zmq

        self._context = zmq.Context()
        self._open = self._context.socket(getattr(zmq, kind))
        return self._open

    def producing(self) -> Put:
        import zmq

        socket = self._socket("PUSH")
        socket.connect(self._address)
        copy = self.size_bytes < self._COPY_BELOW
        if self.kind == "bytes":
            return lambda item: socket.send(item, copy=copy)

        def put(item: Any) -> None:
            socket.send_json({"dtype": str(item.dtype), "shape": item.shape}, zmq.SNDMORE)
            socket.send(item, copy=False)

        return put

    def consuming(self) -> Take:
        import numpy as np

        socket = self._socket("PULL")
        socket.bind(self._address)
        copy = self.size_bytes < self._COPY_BELOW
        if self.kind == "bytes":
            return lambda: [socket.recv(copy=copy)]

        def take() -> list[Any]:
            head = socket.recv_json()
            frame = socket.recv(copy=False)
            return [np.frombuffer(frame.buffer, dtype=head["dtype"]).reshape(head["shape"])]

        return take

    def leaving(self) -> None:
        self._open.close()
        self._context.term()  # waits until everything is sent

    def close(self) -> None:
        if hasattr(self, "_open"):
            self._open.close(0)
            self._context.term()


class FasterFifo(Contender):
    """A buffer that holds four of the largest, at least 10 MB; `get_many`, as its documentation advises."""

    modules = ("faster_fifo", "faster_fifo_reduction")

    def make(self) -> None:
        from faster_fifo import Queue

        self._queue: Any = Queue(max_size_bytes=max(10_000_000, 4 * self.size_bytes + 65_536))

    def producing(self) -> Put:
        put = self._queue.put
        return lambda item: put(item, timeout=60.0)

    def consuming(self) -> Take:
        get_many = self._queue.get_many
        return lambda: get_many(timeout=60.0)  # type: ignore[no-any-return]

    def close(self) -> None:
        self._queue.close()


CONTENDERS: dict[str, type[Contender]] = {
    "seclea.Queue": SecleaQueue,
    "multiprocessing.Queue": MultiprocessingQueue,
    "torch.multiprocessing.Queue": TorchQueue,
    "multiprocessing.Pipe": Pipe,
    "pyzmq": Zmq,
    "faster-fifo": FasterFifo,
}
