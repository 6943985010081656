"""One contender of a queue, in a process of its own, which is the consumer; producers are forked from it.

python queue_child.py CONTENDER speed|kills OPTIONS(JSON) DIRECTORY RESULT(file)
"""

from __future__ import annotations

import json
import mmap
import multiprocessing
import os
import random
import signal
import struct
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from measuring import percentiles
from queues import CONTENDERS, Contender

_FORK = multiprocessing.get_context("fork")


class TooSlow(Exception):
    """A cell did not end in time."""


def _too_slow(number: int, frame: Any) -> None:
    raise TooSlow


def payload_of(kind: str, size_bytes: int) -> Any:
    """Bytes, or an array of float32."""
    if kind == "bytes":
        return os.urandom(size_bytes)
    import numpy as np

    return np.random.default_rng(0).random(size_bytes // 4, dtype=np.float32)


# ------------------------------------------------------------------------------------------------------------------
# Speed


def speed(made: type[Contender], options: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Every size, kind and number of producers; and the way there and back after a lull."""
    signal.signal(signal.SIGALRM, _too_slow)
    found: dict[str, Any] = {}
    for cell in options["cells"]:
        for producers in options["producers"]:
            name = f"{cell['kind']} {cell['size']} {producers}"
            found[name] = _guarded(lambda c=cell, p=producers: stream(made, directory, p, **c), options["seconds"])
    found["lull"] = _guarded(lambda: lull(made, directory, options["lulls"]), options["seconds"])
    return found


def _guarded(measure: Callable[[], dict[str, Any]], seconds: int) -> dict[str, Any]:
    """What was measured, or the words of what went wrong; no child is left."""
    signal.alarm(seconds)
    try:
        return measure()
    except TooSlow:
        return {"error": f"not done within {seconds} s"}
    except Exception as error:
        return {"error": repr(error)[:300]}
    finally:
        signal.alarm(0)
        for child in multiprocessing.active_children():
            child.kill()
            child.join()


def stream(made: type[Contender], directory: Path, producers: int, kind: str, size: int, items: int) -> dict[str, Any]:
    """``items`` objects from all producers together; from the common start until the consumer has the last."""
    queue = made(directory, size, producers, kind)
    payload = payload_of(kind, size)
    each = items // producers
    ready, go, received = _FORK.Semaphore(0), _FORK.Event(), _FORK.Event()
    results = [directory / f"put{number}.json" for number in range(producers)]
    take = queue.consuming()
    processes = [
        _FORK.Process(target=_produce, args=(queue, payload, each, ready, go, received, result)) for result in results
    ]
    for process in processes:
        process.start()
    warm, left = producers, each * producers
    while warm > 0:  # one object of each producer: connections, mappings, first use
        warm -= len(take())
    for _ in processes:
        ready.acquire()
    began = time.perf_counter()
    go.set()
    while left > 0:
        left -= len(take())
    taken = time.perf_counter() - began
    received.set()
    for process in processes:
        process.join()
    puts = [nanoseconds for result in results for nanoseconds in json.loads(result.read_text("utf-8"))]
    queue.close()
    count = each * producers
    return {"put": percentiles(puts), "items_per_second": count / taken, "mb_per_second": count * size / taken / 1e6}


def _produce(queue: Contender, payload: Any, count: int, ready: Any, go: Any, received: Any, result: Path) -> None:
    put, clock, fresh = queue.producing(), time.perf_counter_ns, queue.fresh
    put(fresh(payload))
    ready.release()
    go.wait()
    taken = []
    for _ in range(count):
        item = fresh(payload)
        before = clock()
        put(item)
        taken.append(clock() - before)
    received.wait()  # what was put may still lie in this process
    result.write_text(json.dumps(taken), "utf-8")
    queue.leaving()


def lull(made: type[Contender], directory: Path, lulls: int) -> dict[str, Any]:
    """There and back, 100 B, after both sides have waited for 50 ms."""
    there, back = made(directory, 100, 1, "bytes"), made(directory, 100, 1, "bytes")
    process = _FORK.Process(target=_echo, args=(there, back, lulls + 1))
    process.start()
    take, put = back.consuming(), there.producing()
    payload, taken = os.urandom(100), []
    for number in range(lulls + 1):
        time.sleep(0.05)  # the lull
        before = time.perf_counter_ns()
        put(payload)
        take()
        if number:
            taken.append(time.perf_counter_ns() - before)
    process.join()
    there.close()
    back.close()
    return percentiles(taken)


def _echo(there: Contender, back: Contender, count: int) -> None:
    take, put = there.consuming(), back.producing()
    while count > 0:
        for item in take():
            put(bytes(item) if isinstance(item, (bytes, bytearray)) else item)
            count -= 1
    back.leaving()


# ------------------------------------------------------------------------------------------------------------------
# Kills

_HEAD = struct.Struct("<QQ")  # who, number
_AHEAD = 200  # how far a producer may be ahead of the consumer, so that no backlog grows
_VICTIM, _SURVIVOR = 0, 1


class Board:
    """Words that all processes of a trial see: what each producer was acknowledged, and what of it came out."""

    ACKED, RECEIVED, WRONG, STOP = 0, 2, 4, 5

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 4096)).cast("Q")


def kills(made: type[Contender], options: dict[str, Any], directory: Path) -> dict[str, Any]:
    """Many trials; in each a producer is killed at a random instant of a stream."""
    chance = random.Random(options["seed"])
    total = {"kills": 0, "lost": 0, "trials_with_loss": 0, "blocked": 0, "wrong": 0, "survivor_lost": 0}
    for _ in range(options["kills"]):
        lost, survivor_lost, blocked, wrong = trial(made, directory, chance, options["size"])
        total["kills"] += 1
        total["lost"] += lost
        total["trials_with_loss"] += lost > 0
        total["survivor_lost"] += survivor_lost
        total["blocked"] += blocked
        total["wrong"] += wrong
    return total


def trial(made: type[Contender], directory: Path, chance: random.Random, size: int) -> tuple[int, int, bool, int]:
    """One kill: (acknowledged puts of the victim that never came out, of the survivor, is the survivor blocked, wrong ones)."""
    board = Board()
    words = board.words
    queue = made(directory, size, 2, "bytes")
    consumer = _fork(lambda: _receive(queue, board))
    pids = [_fork(lambda who=who: _put_for_ever(queue, board, who, size)) for who in (_VICTIM, _SURVIVOR)]
    try:
        if not _until(lambda: min(words[Board.RECEIVED], words[Board.RECEIVED + 1]) > 20, 10.0):
            raise RuntimeError("the stream did not start")
        time.sleep(chance.random() * 0.02)  # the random instant of the kill
        _end(pids[_VICTIM])
        goal = words[Board.ACKED + _SURVIVOR] + 2 * _AHEAD
        blocked = not _until(lambda: words[Board.RECEIVED + _SURVIVOR] >= goal, 1.5)
        words[Board.STOP] = 1

        def all_came() -> bool:
            return all(words[Board.RECEIVED + who] >= words[Board.ACKED + who] for who in (_VICTIM, _SURVIVOR))

        _until(all_came, 0.5)
        lost = [max(0, words[Board.ACKED + who] - words[Board.RECEIVED + who]) for who in (_VICTIM, _SURVIVOR)]
        return lost[_VICTIM], lost[_SURVIVOR], blocked, words[Board.WRONG]
    finally:
        for pid in (pids[_SURVIVOR], consumer):
            _end(pid)
        queue.close()


def _put_for_ever(queue: Contender, board: Board, who: int, size: int) -> None:
    put, words, number = queue.producing(), board.words, 0
    body = os.urandom(size - _HEAD.size)
    while not words[Board.STOP]:
        while number - words[Board.RECEIVED + who] > _AHEAD and not words[Board.STOP]:
            time.sleep(0.0001)  # far enough ahead of the consumer
        put(_HEAD.pack(who, number) + body)
        number += 1
        words[Board.ACKED + who] = number
    signal.pause()


def _receive(queue: Contender, board: Board) -> None:
    """Counts what comes out whole and in the order of its producer."""
    take, words, expected = queue.consuming(), board.words, [0, 0]
    while True:
        for item in take():
            who, number = _HEAD.unpack_from(item)
            if who > 1 or number < expected[who]:
                words[Board.WRONG] += 1
                continue
            expected[who] = number + 1
            words[Board.RECEIVED + who] += 1


def _fork(body: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        body()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        pass


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.0005)  # a poll with a deadline
    return True


if __name__ == "__main__":
    name, part, given, place, result = sys.argv[1:]
    measure = {"speed": speed, "kills": kills}[part]
    Path(result).write_text(json.dumps(measure(CONTENDERS[name], json.loads(given), Path(place))), "utf-8")
