"""What does a training loop feel? The cost of a log call between steps of real work, and how much longer a step takes.

    python -m benchmarks busy_loop [--quick] [--json FILE]

A step is a matrix-vector product in numpy (one thread) that brings about 1 KiB per row of a 64 MiB matrix through the caches,
calibrated once for all contenders to 0.2 and 2 ms. Blocks of steps that log one scalar each take turns with blocks that do
not, in the same process: the difference of their means per step is what the logger costs, the work of its threads included;
the difference of their medians is beside it, as it is less noisy, but blind to stalls of a few steps.
The first part of each block is not counted, so that what was put off is done. Work put off for longer than that (Trackio's
thread) counts on both sides, in that peer's favour.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.contenders_of import LOGGERS, logging_contender
from benchmarks.contest import Contender, ContenderFailed, contest, run, say
from benchmarks.environments import OWN, Unavailable
from benchmarks.figures import Goal, figure, quotient, ratio, table

STEPS = {"0.2 ms": 0.0002, "2 ms": 0.002}
NAMES = (
    "nothing",
    "msgpack",
    "seclea ring",
    "seclea.Queue",
    "seclea",
    "multiprocessing.Queue",
    "trackio",
    "tensorboardX",
    "swanlab",
    "wandb",
)


def measure(quick: bool, rounds: int) -> dict[str, Any]:
    """Figures per contender."""
    try:
        rows = run(Contender("calibration", OWN, "calibrate.py", [json.dumps(STEPS)]))
    except (ContenderFailed, Unavailable) as error:
        say(f"busy_loop cannot be measured: {error}")
        return {}
    options = {"rows": rows, "pairs": 2, "settle": 0.05, "seconds": 0.1} if quick else (
        {"rows": rows, "pairs": 4, "settle": 0.1, "seconds": 0.3}
    )  # fmt: skip
    return contest("busy_loop", [logging_contender(name, "busy", options) for name in NAMES], rounds)


def goals(results: dict[str, Any]) -> list[Goal]:
    """What issue 4 asks for."""

    def slower(name: str, step: str) -> float | None:
        return figure(results, name, step, "slower")

    found = []
    for step in STEPS:
        call = (step, "call", "p50")
        for what, name in (("ring put", "seclea ring"), ("`Queue.put`", "seclea.Queue"), ("`run.log`", "seclea")):
            to = f"{what} between {step} steps, to"
            queue = "multiprocessing.Queue"
            found.append(Goal(f"{to} msgpack alone", 3.5, ratio(results, name, "msgpack", *call)))
            found.append(Goal(f"{to} `{queue}.put`", 0.5, ratio(results, name, queue, *call)))
        for peer, limit in (("multiprocessing.Queue", 0.35), ("wandb", 0.05)):
            grown = quotient(slower("seclea", step), slower(peer, step))
            found.append(Goal(f"`run.log`: a {step} step is longer, to {peer}", limit, grown))
    return found


def page(results: dict[str, Any]) -> str:
    """The table of the page."""
    rows = []
    for name in NAMES:
        row: list[str | float | None] = [LOGGERS[name].label]
        for step in STEPS:
            slower, base = figure(results, name, step, "slower"), figure(results, name, step, "step")
            row += [figure(results, name, step, "call", share) for share in ("p50", "p99", "p99.9")]
            row += [
                slower,
                figure(results, name, step, "slower_p50"),
                f"{100 * slower / base:.2f} %" if slower is not None and base else None,
            ]
        rows.append(row)
    head = [
        f"{step}: {what}"
        for step in STEPS
        for what in ("p50 µs", "p99", "p99.9", "mean step longer by µs", "median step by µs", "mean, share")
    ]
    return table(["", *head], rows)
