"""Producers and consumers of a queue are killed at any instant: nothing put is lost, nobody is blocked (R1)."""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from seclea.queues.queue import Queue
from seclea.queues.wait import wait_until

DEADLINE_SECONDS = 30.0


def fork(work: Any) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
            os._exit(1)
    return pid


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def payload_of(name: int, number: int) -> bytes:
    """Of many sizes; some need a file of their own."""
    return bytes([name]) * (70_000 if number % 500 == 499 else number % 97)


def produce(queue: Queue, name: int, note: Path, count: int) -> None:
    file = os.open(note, os.O_WRONLY | os.O_CREAT)
    for number in range(count):
        queue.put([name, number, payload_of(name, number)])
        os.pwrite(file, struct.pack("=Q", number + 1), 0)
    signal.pause()


def consume(queue: Queue, log: Path) -> None:
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        for name, number, payload in queue.get_many(random.randrange(1, 8), timeout=DEADLINE_SECONDS):
            assert payload == payload_of(name, number)
            os.write(file, struct.pack("=II", name, number))


def read_log(log: Path) -> list[tuple[int, int]]:
    return list(struct.iter_unpack("=II", log.read_bytes())) if log.exists() else []


def noted(path: Path) -> int:
    data = path.read_bytes() if path.exists() else b""
    return struct.unpack("=Q", data)[0] if data else 0


@pytest.mark.parametrize("seed", range(4))
def test_killed_producers_lose_nothing_and_block_nobody(tmp_path: Path, seed: int) -> None:
    """3 producers, 2 of which are killed, and 2 consumers."""
    chance = random.Random(seed)
    queue = Queue(directory=tmp_path / "queue", capacity_bytes=8192)
    notes = [tmp_path / f"note{name}" for name in range(3)]
    logs = [tmp_path / f"log{number}" for number in range(2)]
    counts = [10**9, 10**9, 3000]
    producers = [fork(lambda n=name: produce(queue, n, notes[n], counts[n])) for name in range(3)]
    consumers = [fork(lambda n=number: consume(queue, logs[n])) for number in range(2)]
    try:
        for name in range(2):
            enough = chance.randrange(1, 2000)
            assert wait_until(lambda n=name, e=enough: noted(notes[n]) >= e, DEADLINE_SECONDS)
            kill(producers.pop(0))
        assert wait_until(lambda: noted(notes[2]) == 3000, DEADLINE_SECONDS)
        told = [noted(note) for note in notes]

        def all_there() -> bool:
            got = [entry for log in logs for entry in read_log(log)]
            return all(sum(1 for who, _ in got if who == name) >= told[name] for name in range(3))

        assert wait_until(all_there, DEADLINE_SECONDS)
        # The rings and files of the dead are removed; the living one's ring stays.
        assert wait_until(lambda: len(list(queue.directory.glob("*.ring"))) == 1, DEADLINE_SECONDS)
        assert wait_until(lambda: not list(queue.directory.glob("*.item")), DEADLINE_SECONDS)
    finally:
        for pid in producers + consumers:
            kill(pid)
        queue.close()
    for name in range(3):
        per_consumer = [[number for who, number in read_log(log) if who == name] for log in logs]
        for numbers in per_consumer:
            assert numbers == sorted(numbers), "in order"
        everything = sorted(per_consumer[0] + per_consumer[1])
        assert everything == list(range(len(everything))), "nothing lost, nothing twice"
        assert told[name] <= len(everything) <= told[name] + 1


@pytest.mark.parametrize("seed", range(3))
def test_killed_consumers_leave_every_object_to_the_next_or_have_returned_it(tmp_path: Path, seed: int) -> None:
    """A consumer that is killed may have got what it did not note yet: at most one call's objects for each kill."""
    chance = random.Random(seed)
    queue = Queue(directory=tmp_path / "queue", capacity_bytes=8192)
    log = tmp_path / "log"
    total, kills, most = 0, 0, 7
    deadline = time.monotonic() + DEADLINE_SECONDS
    while kills <= 5 or not queue.empty():
        assert time.monotonic() < deadline
        if queue.empty():  # a consumer that ran while we did not may take thousands before its kill
            for number in range(total, total + 4000):
                queue.put([1, number, payload_of(1, number)])
            total += 4000
        before = len(read_log(log))
        pid = fork(lambda: consume(queue, log))
        enough = before + chance.randrange(1, 300)
        wait_until(lambda e=enough: len(read_log(log)) >= e or queue.empty(), DEADLINE_SECONDS)
        kill(pid)
        kills += 1
    got = [number for _, number in read_log(log)]
    assert got == sorted(set(got)), "in order, nothing twice"
    assert total - kills * most <= len(got) <= total
    queue.put("after")
    assert queue.get(timeout=DEADLINE_SECONDS) == "after"
    queue.close()


@pytest.mark.parametrize("what", ["put", "get"])
def test_killed_at_every_line_of_put_or_get_it_neither_blocks_nor_loses(tmp_path: Path, what: str) -> None:
    """Lines of every module of ours. Half of the objects are large; the ring is full at first, so put grows it."""
    large = b"x" * 5000  # more than a ring of one page takes
    point, finished = 0, False
    while not finished:
        point += 1
        queue = Queue(directory=tmp_path / f"{what}{point}", capacity_bytes=4096)
        before = [b"a" * 1000, large, b"b" * 1000, b"c" * 900]
        for item in before:
            queue.put(item)

        def work() -> None:
            attached = Queue.attach(queue.directory)  # noqa: B023
            attached.put("mine")
            left = point  # noqa: B023

            def trace(frame: FrameType, event: str, arg: object) -> object:
                nonlocal left
                if "queues" not in frame.f_code.co_filename:
                    return None
                if event == "line":
                    left -= 1
                    if not left:
                        os.kill(os.getpid(), signal.SIGKILL)
                return trace

            sys.settrace(trace)  # type: ignore[arg-type]
            if what == "put":
                attached.put(large)
                attached.put("y" * 1000)
            else:
                attached.get_many(2)
            sys.settrace(None)
            os._exit(73)

        pid = fork(work)
        finished = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 73
        queue._rings._clock = lambda: 1e9  # it may ask at once who is alive
        got = []
        while items := queue.get_many():
            got += items
        mine = [item for item in got if item not in before]
        theirs = [item for item in got if item in before]
        if what == "put":
            assert [item for item in got if item in before[:1] + before[2:]] == before[:1] + before[2:]
            assert mine in (["mine"], ["mine", "y" * 1000]) and theirs.count(large) in (1, 2)
        else:
            # Committed were none, one (a kill between the commits of two rings) or both; each ring from its start.
            assert len(got) in (3, 4, 5) and (len(got) == 3 or not finished)
            assert mine in ([], ["mine"]) and theirs == before[len(before) - len(theirs) :]
        queue.put("after")
        assert queue.get() == "after"
        queue._rings._clock = lambda: 2e9
        assert queue.get_many() == []
        assert len(list(queue.directory.glob("*.ring"))) == 1
        assert not list(queue.directory.glob("*.item")) or what == "get"
        queue.close()
    assert point > 60
