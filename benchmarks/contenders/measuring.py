"""Clocks, percentiles, CPU and memory, as every contender is measured with."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

LogCall = Callable[[int, dict[str, float]], object]
SHARES = (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0))
FEW, MANY = 20, 2000  # below FEW samples p99 says nothing, below MANY p99.9


def percentiles(nanoseconds: Sequence[int]) -> dict[str, float]:
    """p50, p99, p99.9 and the worst in µs, as far as there are samples enough for each; and how many there were."""
    ordered = sorted(nanoseconds)
    last = len(ordered) - 1
    if last < 0:
        return {"calls": 0}
    found: dict[str, float] = {
        name: ordered[round(last * share)] / 1000
        for name, share in SHARES
        if not (name == "p99" and last < FEW) and not (name == "p99.9" and last < MANY)
    }
    return {**found, "calls": len(ordered)}


def nothing(step: int, metrics: dict[str, float]) -> None:
    """The log call that does nothing: what is left is clocks and a call."""


class Steps:
    """Numbers the calls of one process, and makes the values: new ones at each call, under the same names."""

    def __init__(self) -> None:
        self.number = -1

    def __call__(self, scalars: int) -> tuple[int, dict[str, float]]:
        """The next step and its metrics."""
        self.number += 1
        value = 1.0 / (self.number + 1)
        if scalars == 1:
            return self.number, {"loss": value}
        return self.number, {name: value + position for position, name in enumerate(NAMES[:scalars])}


NAMES = ["loss", *(f"metric{number}" for number in range(1, 100))]


def in_a_row(
    log: LogCall, steps: Steps, scalars: int, calls: int, seconds: float, pause: float = 0.0
) -> dict[str, float]:
    """Time calls one after the other, with a sleep of ``pause`` seconds before each; at most ``seconds`` long."""
    clock, sleep = time.perf_counter_ns, time.sleep
    taken: list[int] = []
    end = clock() + int(seconds * 1e9)
    for _ in range(calls):
        if pause:
            sleep(pause)
        step, metrics = steps(scalars)
        before = clock()
        log(step, metrics)
        after = clock()
        taken.append(after - before)
        if after > end:
            break
    return percentiles(taken)


def on_schedule(log: LogCall, steps: Steps, rate: int, seconds: float) -> dict[str, float]:
    """Time calls at ``rate`` per second, waited for in a busy loop; who is late calls at once. ``kept``: share of the rate."""
    clock = time.perf_counter_ns
    every, calls = int(1e9 / rate), int(rate * seconds)
    taken: list[int] = []
    began = clock()
    end = began + int(seconds * 1.2e9)
    for number in range(calls):
        step, metrics = steps(1)
        due = began + number * every
        while (before := clock()) < due:
            pass
        log(step, metrics)
        after = clock()
        taken.append(after - before)
        if after > end:
            break
    return {**percentiles(taken), "kept": min(1.0, len(taken) / ((clock() - began) / 1e9) / rate)}


# ------------------------------------------------------------------------------------------------------------------
# CPU and memory of processes


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used, its ended threads included, to the nanosecond; 0 when it is gone."""
    try:
        return time.clock_gettime(((~pid) << 3) | 2)  # Linux: the clock of another process
    except OSError:
        return 0.0


def descendants() -> list[int]:
    """Every living process below this one."""
    import psutil

    return [one.pid for one in psutil.Process().children(recursive=True)]


def tree_cpu(helpers: Iterable[int]) -> float:
    """CPU seconds of this process, its ended children, all below it, and ``helpers``, which are not below it."""
    ended = os.times()
    living = {*descendants(), *helpers}
    return time.process_time() + ended.children_user + ended.children_system + sum(map(cpu_seconds, living))


def resident_mb(pid: int | str, name: str = "VmHWM") -> float:
    """Resident memory in MB; by default at its peak. 0 when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) * 1024 / 1e6 for line in text.splitlines() if line.startswith(name + ":")), 0.0)


# ------------------------------------------------------------------------------------------------------------------
# A training step


class Work:
    """A step of real work: rows of a 64 MiB matrix times a vector, in numpy, going on where the last step ended.

    It brings ``rows`` KiB through the caches, so that code and data of a log call have gone cold, as in training.
    """

    COLUMNS = 256  # float32: one row is 1 KiB
    ROWS = 65_536

    def __init__(self, rows: int) -> None:
        import numpy as np

        self.rows = rows
        self._matrix = np.random.default_rng(0).random((self.ROWS, self.COLUMNS), dtype=np.float32)
        self._vector = np.ones(self.COLUMNS, dtype=np.float32)
        self._result = np.empty(self.ROWS, dtype=np.float32)
        self._at = 0
        self._dot = np.dot

    def step(self) -> None:
        """One step."""
        begin = self._at if self._at + self.rows <= self.ROWS else 0
        end = self._at = begin + self.rows
        self._dot(self._matrix[begin:end], self._vector, out=self._result[begin:end])


def rows_for(seconds: float) -> int:
    """How many rows make a step of ``seconds`` on this machine."""
    rows, clock = 1024, time.perf_counter
    work = Work(rows)
    for _ in range(8):
        work.rows, taken = rows, []
        for _ in range(200):
            before = clock()
            work.step()
            taken.append(clock() - before)
        rows = max(16, min(Work.ROWS, int(rows * seconds / sorted(taken)[100])))
    return rows


def steps_in(work: Work, log: LogCall, steps: Steps, seconds: float, keep: list[int]) -> tuple[float, float]:
    """Work and log for ``seconds``; appends the ns of each call to ``keep``.

    Returns:
        µs per step, its log call included: mean, median.
    """
    clock, step_of = time.perf_counter_ns, work.step
    whole: list[int] = []
    began = before_step = clock()
    end = began + int(seconds * 1e9)
    while not whole or before_step < end:
        step_of()
        step, metrics = steps(1)
        before = clock()
        log(step, metrics)
        after = clock()
        keep.append(after - before)
        whole.append(after - before_step)
        before_step = after
    return (before_step - began) / len(whole) / 1000, sorted(whole)[len(whole) // 2] / 1000


def busy_loop(log: LogCall, steps: Steps, rows: int, pairs: int, settle: float, seconds: float) -> dict[str, Any]:
    """What a training loop feels: blocks of steps that log, beside blocks of the same steps that do not.

    Each block begins with ``settle`` seconds that are not counted, in which what an asynchronous logger put off is done.

    Returns:
        ``call``: of the log calls. ``step``: µs without. ``slower``: by how much the mean step is longer, the median of the
        pairs. ``slower_p50``: the same of the median step, which stalls of a few steps do not move, nor a noisy machine.
    """
    work, taken, plain, slower, slower_p50 = Work(rows), list[int](), list[float](), list[float](), list[float]()
    for _ in range(pairs):
        steps_in(work, nothing, steps, settle, [])
        mean, median = steps_in(work, nothing, steps, seconds, [])
        steps_in(work, log, steps, settle, [])
        mean_with, median_with = steps_in(work, log, steps, seconds, taken)
        plain.append(mean)
        slower.append(mean_with - mean)
        slower_p50.append(median_with - median)
    figures = {"step": plain, "slower": slower, "slower_p50": slower_p50}
    return {"call": percentiles(taken), **{name: statistics.median(found) for name, found in figures.items()}}
