"""Producers and consumers of one queue, killed and replaced at random, and a referee who counts (R1).

What is promised: each object whose `put` returned is given to one `get`, in its producer's order. A consumer commits an
object when it is decoded, just before `get` returns it: one that is killed between that and its next step takes that one
object along. So per killed consumer at most one acknowledged object may be missing from what consumers noted, and none
twice. A producer that is killed may have put one object more than it noted.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seclea.queues.queue import Queue

DEADLINE_SECONDS = 60.0
PRODUCERS, CONSUMERS = 3, 3
ENTRY = struct.Struct("=II")  # life of the producer, number


def object_of(life: int, number: int) -> Any:
    """Of many kinds; some need a file of their own."""
    content: Any = bytes([life % 256]) * (number % 97)
    if number % 7 == 3:
        content = np.full(number % 50, life)
    if number % 200 == 150:
        content = {"large": np.full(3000, number), "x": (life,)}
    return (life, number, content)


def is_right(item: Any) -> bool:
    return str(item) == str(object_of(item[0], item[1]))


def fork(work: Any) -> int:
    pid = os.fork()
    if not pid:
        try:
            work()
        except BaseException as error:
            sys.stderr.write(f"{error!r}\n")
        finally:
            os._exit(1)
    return pid


def produce(directory: Path, life: int, note: Path) -> None:
    queue = Queue.attach(directory)
    file = os.open(note, os.O_WRONLY | os.O_CREAT)
    for number in range(1 << 31):
        queue.put(object_of(life, number))
        os.pwrite(file, struct.pack("=Q", number + 1), 0)
        if number % 64 == 0:
            time.sleep(0.001)  # so that consumers catch up, and sleep


def consume(directory: Path, log: Path) -> None:
    queue = Queue.attach(directory)
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    while True:
        item = queue.get()
        assert is_right(item)
        os.write(file, ENTRY.pack(item[0], item[1]))


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL, "it had ended by itself"


def campaign(directory: Path, seed: int, maxsize: int, kills: int) -> None:
    chance = random.Random(seed)
    queue = Queue(maxsize, directory=directory / "queue", capacity_bytes=16 << 10)
    notes: list[Path] = []
    logs: list[Path] = []
    consumer_kills = 0

    def producer() -> int:
        life = len(notes)
        notes.append(directory / f"note{life}")
        return fork(lambda: produce(queue.directory, life, notes[life]))

    def consumer() -> int:
        log = directory / f"log{len(logs)}"
        logs.append(log)
        return fork(lambda: consume(queue.directory, log))

    def progress() -> int:
        return sum(log.stat().st_size for log in logs if log.exists())

    producers = [producer() for _ in range(PRODUCERS)]
    consumers = [consumer() for _ in range(CONSUMERS)]
    try:
        for _ in range(kills):
            # The kill comes at a random piece of work, so nothing can be blocked: work would end, and the loop with it.
            wanted = progress() + ENTRY.size * chance.randrange(1, 200)
            deadline = time.monotonic() + DEADLINE_SECONDS
            while progress() < wanted:
                assert time.monotonic() < deadline, "somebody is blocked"
            if chance.random() < 0.5:
                kill(producers.pop(chance.randrange(PRODUCERS)))
                producers.append(producer())
            else:
                kill(consumers.pop(chance.randrange(CONSUMERS)))
                consumer_kills += 1
                consumers.append(consumer())
            if maxsize:
                # Each producer killed between its put and its count of it may add one.
                assert queue.qsize() <= maxsize + len(notes)
    finally:
        for pid in producers:
            kill(pid)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not queue.empty():
        assert time.monotonic() < deadline, "consumers are blocked"
    consumer_kills += len(consumers)
    for pid in consumers:
        kill(pid)

    got: dict[int, list[int]] = defaultdict(list)
    for log in logs:
        of_this_log: dict[int, list[int]] = defaultdict(list)
        data = log.read_bytes() if log.exists() else b""
        for life, number in ENTRY.iter_unpack(data[: len(data) // ENTRY.size * ENTRY.size]):
            of_this_log[life].append(number)
        for life, numbers in of_this_log.items():
            assert numbers == sorted(numbers), "each producer's objects come in order"
            got[life] += numbers
    missing = 0
    for life, note in enumerate(notes):
        acknowledged = struct.unpack("=Q", note.read_bytes())[0] if note.exists() and note.stat().st_size else 0
        numbers = got[life]
        assert len(numbers) == len(set(numbers)), "nothing twice"
        assert not numbers or max(numbers) <= acknowledged, "at most one more than it was told"
        missing += len(set(range(acknowledged)) - set(numbers))
    assert missing <= consumer_kills, "at most what a killed consumer had in its hand"
    assert sum(map(len, got.values())) > 20 * kills

    queue.put("after")
    queue._rings._clock = lambda: 1e9
    assert queue.get(timeout=DEADLINE_SECONDS) == "after"
    queue._rings._clock = lambda: 2e9
    assert queue.get_many() == [] and queue.lost == 0 and queue._rings.damaged == 0
    assert len(list(queue.directory.glob("*.ring"))) == 1, "the rings of the dead are removed"
    assert not list(queue.directory.glob("*.item")), "and their files"
    queue.close()


@pytest.mark.parametrize("maxsize", [0, 20])
@pytest.mark.parametrize("seed", range(2))
def test_kills_at_random_lose_nothing_double_nothing_and_block_nobody(tmp_path: Path, seed: int, maxsize: int) -> None:
    campaign(tmp_path, seed, maxsize, kills=15)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("maxsize", [0, 20])
@pytest.mark.parametrize("seed", range(100, 110))
def test_many_kills_at_random(tmp_path: Path, seed: int, maxsize: int) -> None:
    campaign(tmp_path, seed, maxsize, kills=100)
