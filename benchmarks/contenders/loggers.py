"""The contenders of a log call, each in the fast configuration that its documentation gives.

A contender has `load` (its import), `open` (its init; returns the call that is timed), `settle` (wait until what was logged
is as safe as it makes it), `finish` (what its documentation ends a run with), `helpers` (its processes that are not
children), and `found` (how many records of the name "loss" are on disk afterwards).
"""

from __future__ import annotations

import os
import sqlite3
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import LogCall, nothing


class Contender:
    """The part that most share."""

    modules: tuple[str, ...] = ()

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def load(self) -> None:
        """Import it."""
        for name in self.modules:
            __import__(name)

    def open(self) -> LogCall:
        """Begin a run; the call that logs a step and its metrics."""
        raise NotImplementedError(type(self).__name__)  # abstract; `contest` reports it as that contender's failure

    def settle(self) -> None:
        """Wait until everything logged is as safe as this contender makes it."""

    def finish(self) -> None:
        """End the run."""

    def helpers(self) -> list[int]:
        """Processes that work for it and are not below this one."""
        return []

    def found(self) -> int | None:
        """Records on disk; None where nothing is kept."""
        return None


class Nothing(Contender):
    """Clocks and a call."""

    def open(self) -> LogCall:
        return nothing


class Msgpack(Contender):
    """msgpack alone: the least that any logger in Python pays."""

    modules = ("msgpack",)

    def open(self) -> LogCall:
        from msgpack import packb

        time_ns = time.time_ns

        def log(step: int, metrics: dict[str, float]) -> None:
            packb((0, step, time_ns(), metrics))

        return log


class MsgpackAndCopy(Contender):
    """msgpack, and the bytes copied into 4 MiB that are used again and again: the floor under a ring."""

    modules = ("msgpack",)

    def open(self) -> LogCall:
        from msgpack import packb

        time_ns, size = time.time_ns, 4 << 20
        buffer, place = memoryview(bytearray(size)), 0

        def log(step: int, metrics: dict[str, float]) -> None:
            nonlocal place
            body = packb((0, step, time_ns(), metrics))
            end = place + len(body)
            if end > size:
                place, end = 0, len(body)
            buffer[place:end] = body
            place = end

        return log


class Ring(Contender):
    """seclea's ring alone: msgpack and `Producer.put`; a process of its own takes the frames out every 20 ms."""

    modules = ("msgpack", "seclea.queues.ring")

    def open(self) -> LogCall:
        from msgpack import packb

        from seclea.queues.ring import Producer

        self.directory.mkdir(mode=0o700, exist_ok=True)
        self._ring = Producer.create(Path(self._shared()), capacity_bytes=4 << 20)
        self._child = os.fork()
        if not self._child:
            _drain(self._ring.path)
        time_ns, put = time.time_ns, self._ring.put

        def log(step: int, metrics: dict[str, float]) -> None:
            while not put(1, packb((0, step, time_ns(), metrics))):
                time.sleep(0.001)  # full: the ring itself never waits, and a wait counts in the figure

        return log

    def _shared(self) -> str:
        import tempfile

        return tempfile.mkdtemp(prefix="seclea-bench-ring-", dir="/dev/shm")

    def settle(self) -> None:
        while not self._ring.is_drained:
            time.sleep(0.001)  # a poll, outside what is timed; `contest` ends a process that takes too long

    def finish(self) -> None:
        self._ring.close()
        os.waitpid(self._child, 0)
        self._ring.path.unlink(missing_ok=True)
        self._ring.path.parent.rmdir()


def _drain(path: Path) -> None:
    """The consumer of `Ring`, in a forked child: until the ring is closed and empty, or the parent is gone."""
    from seclea.queues.ring import Consumer

    parent = os.getppid()
    try:
        ring = Consumer.attach(path)
        while not ring.closed_by_producer or ring.has_more:
            while ring.read(20_000, 4 << 20):
                ring.commit()
            if os.getppid() != parent:
                break
            time.sleep(0.02)  # the writer's own nap (`writer.NAPS`)
    finally:
        os._exit(0)


class MultiprocessingQueue(Contender):
    """The same tuple through `multiprocessing.Queue` to a process that takes it out. Its feeder thread pickles."""

    modules = ("multiprocessing",)

    def open(self) -> LogCall:
        import multiprocessing

        context = multiprocessing.get_context("fork")
        self._queue: Any = context.Queue()
        self._process = context.Process(target=_empty, args=(self._queue,), daemon=True)
        self._process.start()
        time_ns, put = time.time_ns, self._queue.put

        def log(step: int, metrics: dict[str, float]) -> None:
            put((0, step, time_ns(), metrics))

        return log

    def settle(self) -> None:
        while not self._queue.empty() or self._queue._buffer:
            time.sleep(0.001)  # a poll, outside what is timed

    def finish(self) -> None:
        self._queue.put(None)
        self._process.join()


def _empty(queue: Any) -> None:
    while queue.get() is not None:
        pass


class SecleaQueue(MultiprocessingQueue):
    """The same tuple through `seclea.queues.Queue` to a process that takes it out."""

    modules = ("seclea.queues.queue",)

    def open(self) -> LogCall:
        import multiprocessing

        from seclea.queues.queue import Queue

        self._queue = Queue()
        self._process: Any = multiprocessing.get_context("fork").Process(
            target=_empty_many, args=(self._queue,), daemon=True
        )
        self._process.start()
        time_ns, put = time.time_ns, self._queue.put

        def log(step: int, metrics: dict[str, float]) -> None:
            put((0, step, time_ns(), metrics))

        return log

    def settle(self) -> None:
        while not self._queue.empty():
            time.sleep(0.001)  # a poll, outside what is timed

    def finish(self) -> None:
        super().finish()
        self._queue.close()


def _empty_many(queue: Any) -> None:
    while None not in queue.get_many(1000, timeout=None):
        pass


class Seclea(Contender):
    """`run.log`, with writer and sender as users have them. The portal's port is closed: recording, not sending."""

    modules = ("seclea",)

    def open(self) -> LogCall:
        from seclea import SecleaAI

        self.client = SecleaAI("benchmark", platform_url="http://127.0.0.1:9")
        self.run = self.client.start_training_run("bench")
        log_of = self.run.log

        def log(step: int, metrics: dict[str, float]) -> None:
            log_of(metrics, step=step)

        return log

    def load(self) -> None:
        from seclea import SecleaAI  # noqa: F401  (the package is lazy: this is what a script imports)

    def settle(self) -> None:
        done = self.client.flush(300)
        if not done.done:
            raise RuntimeError(f"flush: {done.reasons}")
        left_out = self.client.status()["left_out"]
        if left_out:
            raise RuntimeError(f"left out: {left_out}")

    def finish(self) -> None:
        self.run.finish()

    def helpers(self) -> list[int]:
        """Writer and sender, once both have started."""
        end = time.monotonic() + 10
        while time.monotonic() < end:
            status = self.client.status()
            if all(pids := [status[name]["pid"] for name in ("writer", "sender")]):
                return pids
            time.sleep(0.01)  # a poll with a deadline, outside what is timed
        raise RuntimeError("writer or sender did not start")


class Wandb(Contender):
    """wandb offline, console capture off. `finish` waits for wandb-core; what it wrote is not fsynced."""

    modules = ("wandb",)

    def open(self) -> LogCall:
        import wandb

        settings = wandb.Settings(console="off", x_disable_stats=True)
        self._run: Any = wandb.init(project="benchmark", dir=self.directory, mode="offline", settings=settings)
        log_of = self._run.log

        def log(step: int, metrics: dict[str, float]) -> None:
            log_of(metrics)

        return log

    def settle(self) -> None:
        """There is no flush: only `finish` waits."""

    def finish(self) -> None:
        self._run.finish()

    def found(self) -> int:
        """Its file names a metric twice per record (history and summary)."""
        return sum(path.read_bytes().count(b"loss") for path in self.directory.rglob("*.wandb")) // 2


class Trackio(Contender):
    """Trackio local: `log` appends to a list, a thread writes it into sqlite every half second."""

    modules = ("trackio",)

    def open(self) -> LogCall:
        import trackio

        self._run: Any = trackio.init(project="benchmark", embed=False, auto_log_gpu=False, auto_log_cpu=False)
        log_of = trackio.log

        def log(step: int, metrics: dict[str, float]) -> None:
            log_of(metrics, step=step)

        return log

    def settle(self) -> None:
        run = self._run
        while any(getattr(run, name, None) for name in ("_queued_logs", "_sending_batch")):
            time.sleep(0.01)  # a poll, outside what is timed: Trackio has no call that waits for this

    def finish(self) -> None:
        import trackio

        trackio.finish()

    def found(self) -> int:
        return sum(_count(path, "metrics") for path in Path(os.environ["TRACKIO_DIR"]).glob("*.db"))


class TensorBoard(Contender):
    """tensorboardX's `SummaryWriter`: a queue of 10 events and a thread that writes; no fsync."""

    modules = ("tensorboardX",)

    def open(self) -> LogCall:
        from tensorboardX import SummaryWriter

        self._writer: Any = SummaryWriter(logdir=str(self.directory / "tensorboard"))
        add_scalar = self._writer.add_scalar

        def log(step: int, metrics: dict[str, float]) -> None:
            for name, value in metrics.items():
                add_scalar(name, value, step)

        return log

    def settle(self) -> None:
        self._writer.flush()

    def finish(self) -> None:
        self._writer.close()

    def found(self) -> int:
        """Frames of a TFRecord file, less the one that gives the version."""
        count = 0
        for path in (self.directory / "tensorboard").iterdir():
            data, place = path.read_bytes(), 0
            while place + 12 <= len(data):
                place += 16 + struct.unpack_from("<Q", data, place)[0]
                count += 1
            count -= 1
        return count


class SwanLab(Contender):
    """SwanLab offline; a thread writes its file, no fsync."""

    modules = ("swanlab",)

    def open(self) -> LogCall:
        import swanlab

        swanlab.init(project="benchmark", mode="offline", log_dir=str(self.directory))
        log_of = swanlab.log

        def log(step: int, metrics: dict[str, float]) -> None:
            log_of(metrics, step=step)

        return log

    def finish(self) -> None:
        import swanlab

        swanlab.finish()

    def found(self) -> int:
        """Its file names a metric once per record, and once to define it."""
        return max(0, sum(path.read_bytes().count(b"loss") for path in self.directory.rglob("*.swanlab")) - 1)


class MlflowSync(Contender):
    """MLflow into sqlite; each call is one transaction."""

    modules = ("mlflow",)
    synchronous = True

    def open(self) -> LogCall:
        import mlflow

        mlflow.set_tracking_uri(f"sqlite:///{self.directory / 'mlflow.db'}")
        mlflow.set_experiment("benchmark")
        mlflow.start_run()
        log_metric, log_metrics, synchronous = mlflow.log_metric, mlflow.log_metrics, self.synchronous

        def log(step: int, metrics: dict[str, float]) -> None:
            if len(metrics) == 1:
                log_metric("loss", metrics["loss"], step=step, synchronous=synchronous)
            else:
                log_metrics(metrics, step=step, synchronous=synchronous)

        return log

    def settle(self) -> None:
        import mlflow

        if not self.synchronous:
            mlflow.flush_async_logging()

    def finish(self) -> None:
        import mlflow

        self.settle()
        mlflow.end_run()

    def found(self) -> int:
        return _count(self.directory / "mlflow.db", "metrics")


class MlflowAsync(MlflowSync):
    """MLflow into sqlite with asynchronous logging: a thread writes batches."""

    synchronous = False


def _count(path: Path, table: str) -> int:
    connection = sqlite3.connect(path)
    try:
        return int(connection.execute(f"SELECT count(*) FROM {table} WHERE 1").fetchone()[0])
    finally:
        connection.close()


CONTENDERS: dict[str, Callable[[Path], Contender]] = {
    "nothing": Nothing,
    "msgpack": Msgpack,
    "msgpack + copy": MsgpackAndCopy,
    "seclea ring": Ring,
    "multiprocessing.Queue": MultiprocessingQueue,
    "seclea.Queue": SecleaQueue,
    "seclea": Seclea,
    "wandb": Wandb,
    "trackio": Trackio,
    "tensorboardX": TensorBoard,
    "swanlab": SwanLab,
    "mlflow async": MlflowAsync,
    "mlflow sync": MlflowSync,
}
