"""``python -m tests.chaos.call_times``: how long `run.log` takes at 1,000 calls a second while each fault is on.

Row R29: 99.9 % of the calls within 1 ms, whatever is broken (a pause excepted). One home and one process per fault; the fault
begins a third of the way and stays. A call is due every millisecond and waited for by sleeping, so that the process shares the
machine as a training loop does. Written: calls, p50, p99, p99.9 and the longest of those within the fault, in microseconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.chaos import shim
from tests.chaos.shim import Point
from tests.chaos.shim.case import Case, Portal

REACH_US = 1000.0


def _signal(role: str, number: int, *, again: bool = False) -> Callable[[Case], None]:
    """Send the signal to the process that runs now; ``again``: to each that takes its place, too."""
    hit: set[int] = set()

    def act(case: Case) -> None:
        if hit and not again:
            return
        for pid in case.processes():
            with contextlib.suppress(OSError):
                if pid not in hit and f"seclea.{role}".encode() in Path("/proc", str(pid), "cmdline").read_bytes():
                    os.kill(pid, number)
                    hit.add(pid)

    return act


def _plan(function: str, path: str, mode: str) -> Callable[[Case], None]:
    done: list[bool] = []

    def act(case: Case) -> None:
        if not done:
            done.append(True)
            case.control.plan(Point("writer", function, path, 1), mode, 1_000_000)

    return act


# What is done again and again while the fault is on, and where the job sends to.
FAULTS: dict[str, tuple[Callable[[], Callable[[Case], None]], str]] = {
    "none": (lambda: lambda case: None, "own"),
    "writer killed": (lambda: _signal("writer", signal.SIGKILL), "own"),
    "writer killed again and again": (lambda: _signal("writer", signal.SIGKILL, again=True), "own"),
    "writer stopped": (lambda: _signal("writer", signal.SIGSTOP), "own"),
    "sender killed": (lambda: _signal("sender", signal.SIGKILL, again=True), "own"),
    "portal killed": (lambda: _signal("portal", signal.SIGKILL, again=True), "own"),
    "portal refuses": (lambda: lambda case: None, "closed"),
    "portal hangs": (lambda: lambda case: None, "hangs"),
    "EIO at every fsync of the ledger": (lambda: _plan("fsync", "home/ledger.sqlite-wal", "EIO"), "own"),
    "ENOSPC at every write": (lambda: _plan("pwrite", "home/ledger.sqlite-wal", "ENOSPC"), "own"),
}


def _job(project: str, url: str, calls: int, told: Path) -> None:
    """Log, timed; the times in order go to ``told`` with the moment of the first call."""
    from seclea import SecleaAI

    client = SecleaAI(project, platform_url=url, settings={"limits.min_free_disk": "1MB", "limits.when_full": "drop"})
    run = client.start_training_run("timed")
    for value in range(200):  # warm
        run.log({"value": float(value)}, step=value)
    times = []
    clock = time.perf_counter_ns
    began = time.monotonic()
    due = began
    for value in range(calls):
        due += 0.001
        if (left := due - time.monotonic()) > 0:
            time.sleep(left)  # the pace of the job
        before = clock()
        run.log({"value": float(value)}, step=200 + value)
        times.append(clock() - before)
    told.write_text(json.dumps({"began": began, "times": times}), "utf-8")


def measure(name: str, calls: int) -> dict[str, Any]:
    """The figures of one fault."""
    make, where = FAULTS[name]
    act = make()
    with contextlib.ExitStack() as stack:
        url = "local"
        if where != "own":
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            if where == "hangs":
                listener.listen(64)  # takes connections and says nothing
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        case = Case(Portal(), 1)
        stack.callback(case.close, keep=False)
        if where != "own":
            from seclea.api.tokens import Token, TokenStore

            case.home.mkdir(mode=0o700)
            TokenStore(case.places.tokens).write(url, Token("a"), None, "ada")
        told = case.directory / "times"
        case.job = lambda: _job(case.project, url, calls, told)
        hit_at: list[float] = []
        began = time.monotonic()

        def look() -> None:
            # The job warms up first; its own start is not measured.
            if time.monotonic() - began > calls / 3000 + 2.0:
                if not hit_at:
                    hit_at.append(time.monotonic())
                act(case)

        case.on_look = look
        code = case.wait(case.fork("timed", is_steered=True), 60.0 + calls / 500)
        found = json.loads(told.read_text("utf-8"))
        begin = max(0, int(((hit_at or [0.0])[0] - found["began"]) * 1000)) if where == "own" else 0
        times = sorted(found["times"][begin:])
        case.control.end_of_faults()
        for pid in case.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        case.kill_all()
        case.gone(20.0)
    shares = {share: times[min(len(times) - 1, int(len(times) * part))] / 1000 for share, part in _PARTS.items()}
    over = sum(one > REACH_US * 1000 for one in times)
    return {"calls": len(times), **shares, "max": times[-1] / 1000, "over_1_ms": over, "code": code}


_PARTS = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def main(arguments: list[str] | None = None) -> int:
    """Measure; 0 when 99.9 % of the calls were within a millisecond, whatever the fault."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.call_times")
    parser.add_argument("--calls", type=int, default=15_000, help="per fault, a thousand a second")
    parser.add_argument("--only", action="append", choices=FAULTS, help="this fault only")
    options = parser.parse_args(arguments)
    if "LD_PRELOAD" not in os.environ:  # the job is forked from here, and the shim must be in it
        os.execve(
            shim.interpreter(),
            [
                shim.interpreter(),
                "-m",
                "tests.chaos.call_times",
                *(arguments if arguments is not None else sys.argv[1:]),
            ],
            {**os.environ, **shim.preload()},
        )
    print(f"{'µs per call':<36}{'calls':>8}{'p50':>9}{'p99':>9}{'p99.9':>10}{'max':>11}{'> 1 ms':>8}", flush=True)
    slow = 0
    for name in options.only or FAULTS:
        found = measure(name, options.calls)
        figures = "".join(
            f"{found[share]:>{width}.1f}" for share, width in (("p50", 9), ("p99", 9), ("p99.9", 10), ("max", 11))
        )
        print(f"{name:<36}{found['calls']:>8}{figures}{found['over_1_ms']:>8}", flush=True)
        slow += found["p99.9"] > REACH_US or found["code"] != 0
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main())
