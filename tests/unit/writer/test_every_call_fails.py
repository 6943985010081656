"""The writer's loop with the n-th call of each operation of the system failing, for every n until none fails.

One job for all of them: a run with metrics, a dataset, two states (one of them large) and outcomes for what was sent before.
Whatever fails, and however often: it is said, nothing is lost, nothing is there twice, and when the fault is gone the very same
steps succeed, with the same ledger as without it.
"""

import contextlib
import errno
import functools
import hashlib
import itertools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from seclea.contract import Home
from seclea.ledger import blobs
from seclea.queues import segment
from seclea.records import unpack_metrics
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import dataset, state
from tests.unit.writer.test_review_writer import Bench

# What the kernel says, per operation.
FAULTS: dict[str, list[int]] = {
    "open": [errno.ENOSPC, errno.EMFILE, errno.EACCES, errno.EROFS],
    "write": [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO],
    "fsync": [errno.EIO, errno.ENOSPC],
    "rename": [errno.ENOSPC, errno.EACCES],
    "mkdir": [errno.ENOSPC, errno.EMLINK],
    "unlink": [errno.EROFS, errno.EACCES],
    "listdir": [errno.EMFILE],
    "stat": [errno.EACCES],
    "posix_fallocate": [errno.ENOSPC],
}
CHUNK_BYTES = 4096
CONTENT = os.urandom(CHUNK_BYTES + 100)


class Fault:
    """Lets the n-th call fail, and all after it where it ``lasts``; counts them."""

    def __init__(self, number: int, error: Callable[[], BaseException], lasts: bool) -> None:
        self.number = number
        self.lasts = lasts
        self.is_met = False
        self.error = error
        self.calls = 0
        self.is_on = False
        self.home = ""

    def look(self, where: object) -> None:
        if not self.is_on or self.home not in _path_of(where):
            return
        self.calls += 1
        if self.calls == self.number or (self.lasts and self.calls > self.number):
            self.is_met = True
            raise self.error()

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        self.calls, self.is_on = 0, True
        try:
            yield
        finally:
            self.is_on = False


def _path_of(where: object) -> str:
    """A path, also that of a descriptor."""
    if isinstance(where, int):
        return _readlink(f"/proc/self/fd/{where}")
    return os.fsdecode(where) if isinstance(where, str | bytes | os.PathLike) else ""


_readlink = os.readlink


@pytest.fixture
def make_bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Bench]]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr("seclea.writer.gate.resident_bytes", lambda pids: 0)
    monkeypatch.setattr("seclea.writer.payloads._AGAIN_SECONDS", 0.001)
    monkeypatch.setattr(blobs, "CHUNK_BYTES", CHUNK_BYTES)
    made: list[Bench] = []

    def make() -> Bench:
        made.append(Bench(Home(tmp_path / f"home{len(made)}")))
        return made[-1]

    yield make
    for bench in made:
        bench.ring.close()
        bench.writer.close()
        bench.writer.send_queue.close()
        bench.writer.settle_queue.close()


def job(bench: Bench) -> None:
    """All that the job says."""
    client = bench.client
    session = client.stream()
    index, run = client.run()
    client.entity(session, dataset(b"table"), bench.payload(b"table"))
    for step in range(10):
        client.log(index, step, loss=float(step))
    for content in (b"weights", CONTENT):
        client.entity(index, state(content, run.uuid), bench.payload(content))
    client.log(index, 10, loss=10.0)
    client.finish(index)
    bench.hand_over()


def settles(bench: Bench) -> None:
    """The sender has delivered the first of what there is: its chunks are given back."""
    (first,) = bench.rows("id", "kind = 'dataset'")
    message = {"op": "outcome", "record": first[0], "verdict": "delivered", "receipt": {}, "streams": 1}
    bench.writer.settle_queue.put(message)


def steps(bench: Bench, rounds: int = 4) -> None:
    """A few rounds, each with its payloads waited for, and with a look at the rings and at the limits."""
    for _ in range(rounds):
        bench.writer._next_scan = bench.writer._next_limits = 0.0
        bench.writer.step()
        futures = list(bench.writer.payloads._storing)
        deadline = time.monotonic() + 20
        while not all(future.done() for future in futures):
            assert time.monotonic() < deadline
            time.sleep(0.0005)  # a poll with a deadline: payload threads are at work


def goes_through(bench: Bench, fault: Fault) -> None:
    """The job with the fault for a while, first while it logs and then while the sender answers."""
    with fault.on():
        steps(bench)
    if bench.writer.in_trouble:
        bench.writer.wake()
        assert bench.writer.next_wait() >= 0.02, "no spinning"
    deadline = time.monotonic() + 20
    while bench.rows("count(*)", "kind = 'dataset' AND status <> 'Saving'") != [(1,)] or bench.writer.is_saving:
        assert time.monotonic() < deadline, bench.writer.paused
        steps(bench, 1)
    settles(bench)
    with fault.on():
        steps(bench, 2)
    steps(bench, 3)


def check_all_there(bench: Bench) -> None:
    assert bench.writer.paused is None and not bench.ring.paused, bench.writer.paused
    assert not bench.writer.in_trouble
    kinds = sorted(str(kind) for (kind,) in bench.rows("kind"))
    assert [kind for kind in kinds if kind != "metrics"] == [
        "dataset", "finish", "model_state", "model_state", "project", "training_run",
    ]  # fmt: skip
    logged = [unpack_metrics(body).step for (body,) in bench.rows("body", "kind = 'metrics'")]  # type: ignore[arg-type]
    assert [step for part in logged for step in part] == list(range(11))
    assert bench.rows("status", "kind = 'dataset'") == [("Completed",)]
    assert {status for (status,) in bench.rows("status", "kind <> 'dataset'")} == {"Transmitting"}
    wanted = {hashlib.sha256(part).hexdigest() for part in (b"weights", CONTENT[:CHUNK_BYTES], CONTENT[-100:])}
    assert bench.chunk_files() == wanted, "what a record needs, and nothing else"
    assert list(bench.home.incoming.iterdir()) == []
    assert bench.writer.ledger.left_out() == []
    assert bench.writer.flushed(bench.ring.ring_id, bench.ring.sequence)
    check_ledger(bench.home.ledger)


def sweep(
    make_bench: Callable[[], Bench],
    install: Callable[[Fault], AbstractContextManager[None]] | None,
    error: Callable[[], BaseException],
    stride: int = 1,
) -> int:
    """For n = 1, 2, …: a fresh job whose n-th call and all after it fail for a while. Until none fails any more."""
    number = 0
    while True:
        number += stride
        met = [swept(make_bench(), install, Fault(number, error, lasts)) for lasts in (True, False)]
        if not any(met):
            return number - stride
        assert number < 2000


def swept(bench: Bench, install: Callable[[Fault], AbstractContextManager[None]] | None, fault: Fault) -> bool:
    """One job with one fault; whether the fault was met."""
    fault.home = str(bench.home.path)
    with install(fault) if install is not None else statements_of(bench, fault):
        job(bench)
        goes_through(bench, fault)
        check_all_there(bench)
        bench.ring.close()
        with fault.on():
            steps(bench, 2)
    steps(bench, 2)
    assert bench.writer.rings == {} and list(bench.home.rings.iterdir()) == [], "the client's end"
    check_ledger(bench.home.ledger)
    return fault.is_met


@contextlib.contextmanager
def call_of(module: Any, name: str, fault: Fault, *, by_place: bool = True) -> Iterator[None]:
    """``module.name`` fails as the fault says."""
    real = getattr(module, name)

    @functools.wraps(real)
    def failing(*arguments: Any, **named: Any) -> Any:
        fault.look(arguments[0] if by_place and arguments else fault.home)
        return real(*arguments, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, failing)
        yield


@pytest.mark.parametrize("operation", FAULTS)
def test_whatever_call_of_the_system_fails_nothing_is_lost(make_bench: Callable[[], Bench], operation: str) -> None:
    errors = itertools.cycle(OSError(number, os.strerror(number)) for number in FAULTS[operation])
    stride = 5 if operation == "stat" else 1  # of which there are many
    assert sweep(make_bench, lambda fault: call_of(os, operation, fault), lambda: next(errors), stride)


def test_whatever_mapping_fails_nothing_is_lost(make_bench: Callable[[], Bench]) -> None:
    assert sweep(
        make_bench,
        lambda fault: call_of(segment, "map_shared", fault),
        lambda: OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    )


def test_whatever_thread_cannot_start_nothing_is_lost(make_bench: Callable[[], Bench]) -> None:
    assert sweep(
        make_bench,
        lambda fault: call_of(threading.Thread, "start", fault, by_place=False),
        lambda: RuntimeError("can't start new thread"),
    )


class Statements:
    """A connection of sqlite whose n-th statement fails."""

    def __init__(self, connection: sqlite3.Connection, fault: Fault) -> None:
        self._connection = connection
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def _run(self, name: str, *arguments: Any) -> Any:
        if arguments[0] != "ROLLBACK":  # which has no way to fail for want of room
            self._fault.look(self._fault.home)
        return getattr(self._connection, name)(*arguments)

    execute = functools.partialmethod(_run, "execute")
    executemany = functools.partialmethod(_run, "executemany")


@contextlib.contextmanager
def statements_of(bench: Bench, fault: Fault) -> Iterator[None]:
    ledger = bench.writer.ledger
    real = ledger._connection
    ledger._connection = Statements(real, fault)  # type: ignore[assignment]
    try:
        yield
    finally:
        ledger._connection = real


@pytest.mark.parametrize(
    "error",
    [
        lambda: sqlite3.OperationalError("database or disk is full"),
        lambda: sqlite3.OperationalError("disk I/O error"),
        lambda: sqlite3.OperationalError("database is locked"),
        lambda: sqlite3.DatabaseError("database disk image is malformed"),
        MemoryError,
    ],
    ids=["full", "io", "locked", "malformed", "memory"],
)
def test_whatever_statement_fails_nothing_is_lost(
    make_bench: Callable[[], Bench], error: Callable[[], BaseException]
) -> None:
    assert sweep(make_bench, None, error, stride=11)
