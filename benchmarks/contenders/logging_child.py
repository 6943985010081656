"""One contender of a log call, in a process of its own.

    python logging_child.py CONTENDER PART OPTIONS(JSON) DIRECTORY RESULT(file)

Every part also gives the seconds of import and init, and the instant of the last log call, from which the benchmark that
started this process counts until the process is gone.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from loggers import CONTENDERS, Contender
from measuring import (
    LogCall,
    Steps,
    busy_loop,
    cpu_seconds,
    descendants,
    in_a_row,
    nothing,
    on_schedule,
    resident_mb,
    tree_cpu,
)


class Child:
    """A contender that is open, and what its part was given."""

    def __init__(self, contender: Contender, log: LogCall, steps: Steps, options: dict[str, Any]) -> None:
        self.contender = contender
        self.log = log
        self.steps = steps
        self.options = options

    def warm(self, calls: int = 500, seconds: float = 0.5) -> None:
        """Imports at first use, caches, the contender's own start."""
        in_a_row(self.log, self.steps, 1, calls, seconds)
        self.contender.settle()


def calls(child: Child) -> dict[str, Any]:
    """Tight, paced, on a schedule, 10 and 100 scalars; the queues are emptied between them."""
    options, log, steps = child.options, child.log, child.steps
    child.warm()
    seconds = options["seconds"]
    found: dict[str, Any] = {}

    def one(name: str, figures: dict[str, float]) -> None:
        found[name] = figures
        child.contender.settle()

    one("tight", in_a_row(log, steps, 1, options["calls"], seconds))
    one("paced", in_a_row(log, steps, 1, options["calls"], 2 * seconds, pause=0.001))
    one("scheduled", on_schedule(log, steps, 20_000, seconds))
    one("ten", in_a_row(log, steps, 10, options["calls"] // 4, seconds))
    one("hundred", in_a_row(log, steps, 100, options["calls"] // 10, seconds))
    in_a_row(log, steps, 1, 1000, 1.0)
    return found


def busy(child: Child) -> dict[str, Any]:
    """Inside a training loop, with steps of several lengths."""
    child.warm()
    options = child.options
    found: dict[str, Any] = {}
    for name, rows in options["rows"].items():
        found[name] = busy_loop(child.log, child.steps, rows, options["pairs"], options["settle"], options["seconds"])
        child.contender.settle()
    return found


def durable(child: Child) -> dict[str, Any]:
    """As many records as fast as they go, until they are as safe as the contender makes them."""
    contender, steps, count = child.contender, child.steps, child.options["records"]
    child.warm(200)
    warm, helpers = steps.number + 1, contender.helpers()
    used, began = tree_cpu(helpers), time.perf_counter()
    log = child.log
    for _ in range(count):
        log(*steps(1))
    handed = time.perf_counter() - began
    if child.options["finish_is_flush"]:
        contender.finish()
    else:
        contender.settle()
    taken = time.perf_counter() - began
    used = tree_cpu(helpers) - used
    found: dict[str, Any] = {
        "durable_per_second": count / taken,
        "handed_per_second": count / handed,
        "cpu_per_100k": used / count * 1e5,
        "process_mb": resident_mb("self"),
        "helpers_mb": sum(map(resident_mb, _helpers(contender))),
    }
    if not child.options["finish_is_flush"]:
        contender.finish()
    on_disk = contender.found()
    if on_disk is not None:
        found["found_share"] = on_disk / (count + warm)
    return found


def _helpers(contender: Contender) -> set[int]:
    return {*descendants(), *contender.helpers()}


def steady(child: Child) -> dict[str, Any]:
    """CPU at a steady rate, and with nothing to do. The same loop without log calls is taken off."""
    contender, options = child.contender, child.options
    child.warm(1000, 1.0)

    def used_in(log: LogCall | None, seconds: float) -> tuple[float, float]:
        """Shares of a core: of this process, of its helpers."""
        helpers = _helpers(contender)
        own, others, began = time.process_time(), sum(map(cpu_seconds, helpers)), time.perf_counter()
        if log is None:
            time.sleep(seconds)  # what is measured: a process with nothing to do
        else:
            _at_rate(log, child.steps, options["rate"], seconds)
        taken = time.perf_counter() - began
        return (time.process_time() - own) / taken, (sum(map(cpu_seconds, helpers)) - others) / taken

    time.sleep(options["calm"])  # until those who nap have gone to sleep
    idle = used_in(None, options["idle"])
    loop = used_in(nothing, options["loop"])
    busy = used_in(child.log, options["busy"])
    return {
        "idle_share": sum(idle),
        "helpers_share": busy[1] - loop[1],
        "process_share": busy[0] - loop[0],
        "share": sum(busy) - sum(loop),
    }


def _at_rate(log: LogCall, steps: Steps, rate: int, seconds: float) -> None:
    began = time.perf_counter()
    for number in range(int(rate * seconds)):
        ahead = began + number / rate - time.perf_counter()
        if ahead > 0:
            time.sleep(ahead)  # the pace that is asked for
        log(*steps(1))


def producers(child: Child) -> dict[str, Any]:
    """The records of one run from several forked processes at once, until all are durable. seclea only."""
    contender: Any = child.contender
    child.warm()
    context = multiprocessing.get_context("fork")
    found: dict[str, Any] = {}
    for count in child.options["processes"]:
        ready, go, done = context.Semaphore(0), context.Event(), context.Semaphore(0)
        leave = context.Event()
        each = child.options["records"] // count
        processes = [
            context.Process(target=_produce, args=(contender.run, each, ready, go, done, leave)) for _ in range(count)
        ]
        for process in processes:
            process.start()
        for _ in processes:
            ready.acquire()
        helpers = contender.helpers()
        used = sum(map(cpu_seconds, {*helpers, *(process.pid for process in processes)}))
        began = time.perf_counter()
        go.set()
        for _ in processes:
            done.acquire()
        handed = time.perf_counter() - began
        contender.settle()
        taken = time.perf_counter() - began
        used = sum(map(cpu_seconds, {*helpers, *(process.pid for process in processes)})) - used
        leave.set()
        for process in processes:
            process.join()
        records = each * count
        found[str(count)] = {
            "durable_per_second": records / taken,
            "handed_per_second": records / handed,
            "cpu_per_100k": used / records * 1e5,
            "helpers_mb": sum(map(resident_mb, helpers)),
        }
    return found


def _produce(run: Any, count: int, ready: Any, go: Any, done: Any, leave: Any) -> None:
    log = run.log
    for number in range(100):
        log({"loss": 0.5}, step=number)
    ready.release()
    go.wait()
    for number in range(count):
        log({"loss": 1.0 / (number + 1)}, step=number)
    done.release()
    leave.wait()


def growth(child: Child) -> dict[str, Any]:
    """Resident memory of client, writer and sender after so many records, and how fast they became durable."""
    contender: Any = child.contender
    log, steps = child.log, child.steps
    child.warm()
    found: dict[str, Any] = {}
    logged, last = 0, steps.number
    for target in child.options["records"]:
        began = time.perf_counter()
        while logged < target:
            log(*steps(1))
            logged = steps.number - last
        contender.settle()
        taken = time.perf_counter() - began
        writer, sender = (contender.client.status()[name]["pid"] for name in ("writer", "sender"))
        found[str(target)] = {
            "client_mb": resident_mb("self", "VmRSS"),
            "writer_mb": resident_mb(writer, "VmRSS"),
            "sender_mb": resident_mb(sender, "VmRSS") if sender else 0.0,
            "seconds": taken,
        }
    return found


PARTS: dict[str, Callable[[Child], dict[str, Any]]] = {
    "calls": calls,
    "busy": busy,
    "durable": durable,
    "steady": steady,
    "producers": producers,
    "growth": growth,
}


def main(name: str, part: str, options: str, directory: str, result: str) -> None:
    """Measure one part of one contender and write what was found."""
    contender = CONTENDERS[name](Path(directory))
    began = time.perf_counter()
    contender.load()
    loaded = time.perf_counter()
    log = contender.open()
    opened = time.perf_counter()
    child = Child(contender, log, Steps(), json.loads(options))
    found = PARTS[part](child)
    found |= {"import_seconds": loaded - began, "init_seconds": opened - loaded}
    if part != "durable":
        found["last_call"] = time.monotonic()
        contender.finish()
    Path(result).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    os.environ.pop("PYTHONSTARTUP", None)
    main(*sys.argv[1:])
