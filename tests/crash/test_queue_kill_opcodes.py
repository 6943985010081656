"""A process is killed at every bytecode of `Queue.put` and `Queue.get`: nothing is lost, doubled or blocked (R1).

In the suite a sample of the bytecodes that the seed picks; all of them with ``pytest -m chaos`` on this file.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from seclea.queues import bell as bell_module
from seclea.queues.queue import Queue

POINTS = 24  # of a scenario, in the suite
LAST = 90  # bytecodes at the end, where HEAD is moved or the commit is: every third
FINISHED, NEVER = 73, 1 << 40
DEADLINE_SECONDS = 30.0


@dataclass(frozen=True)
class Scenario:
    what: str  # put or get
    object: str  # small, large (in a file), array (in a file), small array
    maxsize: int = 0
    ring_full: bool = False  # put goes on in the next ring
    first: bool = False  # put makes the first ring, get finds the ring
    asleep: bool = False  # somebody sleeps, and the bell rings

    def __str__(self) -> str:
        flags = [name for name in ("ring_full", "first", "asleep") if getattr(self, name)]
        return "-".join([self.what, self.object, *(["bounded"] if self.maxsize else []), *flags])


OBJECTS: dict[str, Any] = {
    "small": {"loss": 0.5},
    "large": b"x" * 5000,  # more than a ring of one page takes
    "array": np.arange(1000, dtype=np.int64),
    "small array": (np.arange(5), "five"),
}

SCENARIOS = [
    *(Scenario(what, name) for what in ("put", "get") for name in OBJECTS),
    *(Scenario(what, name, maxsize=10) for what in ("put", "get") for name in ("small", "array")),
    *(Scenario("put", name, ring_full=True) for name in ("small", "array")),
    *(Scenario(what, "small", first=True) for what in ("put", "get")),
    Scenario("put", "large", ring_full=True, maxsize=10),
    Scenario("put", "small", asleep=True),
    Scenario("get", "small", maxsize=10, asleep=True),
]


def same(a: Any, b: Any) -> bool:
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and bool(np.array_equal(a, b))
    if isinstance(b, tuple):
        return isinstance(a, tuple) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


def killed_at(point: int, note: int, work: Callable[[], object]) -> None:
    """Run ``work``, and die before bytecode ``point`` of our modules; else note how many there were."""
    passed = 0

    def trace(frame: FrameType, event: str, arg: object) -> object:
        nonlocal passed
        if "queues" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            passed += 1
            if passed == point:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)  # type: ignore[arg-type]
    work()
    sys.settrace(None)
    os.pwrite(note, struct.pack("=Q", passed), 0)


def run(scenario: Scenario, directory: Path, point: int, note: int) -> bool:
    """One child, killed at ``point``, and what the others find then; whether it had finished before."""
    item = OBJECTS[scenario.object]
    queue = Queue(scenario.maxsize, directory=directory, capacity_bytes=4096)
    queue.put("before")
    if scenario.what == "get":
        queue.put(item)
        queue.put("behind")
    filling = [*["y" * 900] * 4, "z" * 360] if scenario.ring_full else []  # 8 bytes are left
    filling = ["mine", *filling] if not scenario.first else filling
    pid = os.fork()
    if not pid:
        try:
            mine = Queue.attach(directory)
            if scenario.what == "put":
                for filler in filling:
                    mine.put(filler)
            elif not scenario.first:
                assert mine.get() == "before"
            if scenario.asleep:
                mine._words[0] = mine._words[64] = 1
            killed_at(point, note, (lambda: mine.put(item)) if scenario.what == "put" else mine.get)
            os._exit(FINISHED)
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (FINISHED, -signal.SIGKILL)
    finished = status == FINISHED

    queue._rings._clock = lambda: 1e9  # it may ask at once who is alive
    if scenario.what == "put":
        # The bound counts what was put, no more: the others may fill it.
        there = queue.qsize()
        if scenario.maxsize:
            for _ in range(scenario.maxsize - there):
                queue.put_nowait("room")
            assert queue.full()
    got: list[Any] = []
    while some := queue.get_many():
        got += some
    got = [each for each in got if not same(each, "room")]
    if scenario.what == "put":
        expected = ["before", *filling]
        theirs = [each for each in got if not same(each, item)]
        assert sorted(theirs) == sorted(expected), "what was put before is there, once"
        times = len(got) - len(theirs)
        assert times in (0, 1) and (times == 1 or not finished)
    elif scenario.first:
        assert [*map(str, got)] in ([*map(str, ["before", item, "behind"])], [*map(str, [item, "behind"])])
        assert len(got) == 2 or not finished
    else:
        # Either it was committed, or it is still there.
        assert got[-1] == "behind" and len(got) in (1, 2) and (len(got) == 1 or not finished)
        assert len(got) == 1 or same(got[0], item)
    assert queue.lost == 0 and queue._rings.damaged == 0
    queue.put("after")
    assert queue.get(timeout=DEADLINE_SECONDS) == "after"
    queue._rings._clock = lambda: 2e9
    assert queue.get_many() == []
    assert len(list(directory.glob("*.ring"))) == 1, "the dead one's rings are removed"
    if unfinished := list(directory.glob("*.new")):
        assert scenario.what == "put" and (scenario.first or scenario.ring_full)
        os.utime(unfinished[0], (0, 0))  # long ago
        other = Queue.attach(directory)
        other.put("whoever makes a ring sweeps")
        other.close()
        assert not list(directory.glob("*.new")) and queue.get() and queue.get_many() == []
    left = list(directory.glob("*.item"))
    assert not left or (scenario.what == "get" and len(got) == 1 and not finished), (
        "a file waits for its producer's end"
    )
    queue.close()
    Queue.attach(directory).get_many()  # sees the producer's end
    assert not list(directory.glob("*.ring")) and not list(directory.glob("*.item"))
    return finished


def count_opcodes(scenario: Scenario, directory: Path, note: int) -> int:
    assert run(scenario, directory / "count", NEVER, note)
    return int(struct.unpack("=Q", os.pread(note, 8, 0))[0])


@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_killed_at_some_bytecodes_it_neither_loses_nor_blocks(tmp_path: Path, scenario: Scenario) -> None:
    note = os.open(tmp_path / "note", os.O_RDWR | os.O_CREAT)
    opcodes = count_opcodes(scenario, tmp_path, note)
    assert opcodes > (1000 if scenario.ring_full or scenario.first else 200)
    chance = random.Random(f"{scenario} {os.environ.get('SECLEA_TEST_SEED', '0')}")
    points = {*chance.sample(range(1, opcodes + 1), POINTS), *range(max(1, opcodes - LAST), opcodes, 3)}
    for point in sorted(points):
        run(scenario, tmp_path / str(point), point, note)
    os.close(note)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=str)
def test_killed_at_every_bytecode_it_neither_loses_nor_blocks(tmp_path: Path, scenario: Scenario) -> None:
    note = os.open(tmp_path / "note", os.O_RDWR | os.O_CREAT)
    point, finished = 0, False
    while not finished:
        point += 1
        finished = run(scenario, tmp_path / str(point), point, note)
    os.close(note)
    print(f"{scenario}: killed at each of {point - 1} bytecodes")
    assert point > 200


def test_a_bell_that_its_ringer_could_not_finish_is_late_but_not_missed(tmp_path: Path) -> None:
    """Killed between the word and the byte: the sleeper looks by itself."""
    queue = Queue(directory=tmp_path / "queue")
    queue._words[0] = 1
    pid = os.fork()
    if not pid:
        bell_module.Bell._write = lambda self: os._exit(FINISHED)  # type: ignore[method-assign]
        Queue.attach(tmp_path / "queue").put("put before the end")
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == FINISHED
    assert queue._words[0] == 0
    assert queue.get(timeout=DEADLINE_SECONDS) == "put before the end"
    queue.close()
