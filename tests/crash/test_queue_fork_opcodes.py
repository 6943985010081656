"""A process forks in the middle of its own `put` or `get`, as a signal handler may, and both go on: neither hangs.

In the suite at a sample of the bytecodes that the seed picks; at all of them with ``pytest -m chaos`` on this file.
What is promised: the parent's call is as if nothing had happened. In the child the call does its work anew, so an object
may be there once more; a get finds what is left.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import traceback
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest

from seclea.errors import QueueEmpty
from seclea.queues.queue import Queue

POINTS = 20  # of a scenario, in the suite
NEVER = 1 << 40
DEADLINE_SECONDS = 30
NOTHING, BEFORE, ITEM = 70, 71, 72  # how a child ends: what it got
OBJECTS: dict[str, Any] = {"small": 1, "large": b"x" * 5000, "array": np.arange(2000)}
SCENARIOS = [(what, name, maxsize) for what in ("put", "get") for name in OBJECTS for maxsize in (0, 50)]


def is_before(item: Any) -> bool:
    return isinstance(item, str) and item == "before"


def run(what: str, item: Any, maxsize: int, point: int, directory: Path) -> int:
    """Fork before bytecode ``point`` of our modules; how many the parent has passed."""
    queue = Queue(maxsize, directory=directory, capacity_bytes=4096)
    queue.put("before")  # the ring is there
    if what == "get":
        queue.put(item)
    passed, parent, child = 0, os.getpid(), 0

    def trace(frame: FrameType, event: str, arg: object) -> object:
        nonlocal passed, child
        if "queues" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            passed += 1
            if passed == point:
                child = os.fork()
                if not child:
                    sys.settrace(None)
                    signal.alarm(DEADLINE_SECONDS)
        return trace

    got: Any = None
    try:
        sys.settrace(trace)  # type: ignore[arg-type]
        if what == "put":
            queue.put(item)
        else:
            got = queue.get(timeout=1)
        sys.settrace(None)
    except BaseException as error:
        sys.settrace(None)
        if os.getpid() == parent:
            raise
        if not isinstance(error, QueueEmpty):
            traceback.print_exc()
            os._exit(1)
    if os.getpid() != parent:
        try:
            queue.put("child", timeout=DEADLINE_SECONDS / 2)
            queue.qsize(), queue.empty()
            os._exit(NOTHING if got is None else BEFORE if is_before(got) else ITEM)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    by_child = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) if child else NOTHING
    assert by_child in (NOTHING, BEFORE, ITEM), f"the child of bytecode {point}"
    queue.put("parent", timeout=DEADLINE_SECONDS)
    queue._rings._clock = lambda: 1e9  # it may ask at once who is alive
    left: list[Any] = []
    while some := queue.get_many():
        left += some
    times = sum(type(each) is type(item) and bool(np.array_equal(each, item)) for each in left)
    texts = [
        each for each in [got, *left] if isinstance(each, str)
    ]  # the parent's get may meet the child's object, too
    assert texts.count("parent") == 1 and texts.count("child") == bool(child)
    if what == "put":
        assert texts.count("before") == 1 and times in ((1, 2) if child else (1,))
    else:
        # Both take from one queue, so either may be first; but each object is somewhere.
        got_item = not (got is None or isinstance(got, str))
        assert by_child == BEFORE or "before" in texts
        assert by_child == ITEM or got_item or times == 1
        assert got is not None or by_child != NOTHING
    assert queue.lost == 0 and queue._rings.damaged == 0
    queue.close()
    return passed


@pytest.mark.parametrize(("what", "name", "maxsize"), SCENARIOS)
def test_forked_at_some_bytecodes_of_a_call_both_go_on(tmp_path: Path, what: str, name: str, maxsize: int) -> None:
    opcodes = run(what, OBJECTS[name], maxsize, NEVER, tmp_path / "count")
    assert opcodes > 150
    chance = random.Random(f"{what} {name} {maxsize} {os.environ.get('SECLEA_TEST_SEED', '0')}")
    for point in sorted(chance.sample(range(1, opcodes + 1), POINTS)):
        run(what, OBJECTS[name], maxsize, point, tmp_path / str(point))


@pytest.mark.chaos
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("what", "name", "maxsize"), SCENARIOS)
def test_forked_at_every_bytecode_of_a_call_both_go_on(tmp_path: Path, what: str, name: str, maxsize: int) -> None:
    for point in count(1):
        if run(what, OBJECTS[name], maxsize, point, tmp_path / str(point)) < point:
            print(f"{what} {name} {maxsize}: forked at each of {point - 1} bytecodes")
            break
