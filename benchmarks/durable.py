"""How many records become durable per second, at what cost in CPU and memory? And a pipeline with little to do?

    python -m benchmarks durable [--quick] [--json FILE]

Durable: from the first log call of one scalar to the end of the flush, or of the end of the run where only that waits.
seclea's ledger runs with `synchronous=FULL`; of the peers only MLflow commits to disk in the same sense. CPU is of the whole
process tree, background processes included, over the same time. Memory is resident, at its peak; pages that are shared
(a mapped ring) count in each process. "Found" is the share of the records that was in the contender's own file afterwards.
Four producers: forked processes of one run. Steady: 1,000 records a second, less what the same loop uses without log calls.
Idle: a run that is open and does nothing, its records still waiting for a portal that does not answer.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders_of import LOGGERS, logging_contender
from benchmarks.contest import contest
from benchmarks.figures import Goal, figure, ratio, table

NAMES = tuple(name for name, one in LOGGERS.items() if one.records)
STEADY = ("seclea", "trackio", "wandb")


def measure(quick: bool, rounds: int) -> dict[str, Any]:
    """Figures per contender, in three contests."""
    speed = []
    for name in NAMES:
        count = LOGGERS[name].records // (20 if quick else 1)
        options = {"records": count, "finish_is_flush": LOGGERS[name].finish_is_flush}
        speed.append(logging_contender(name, "durable", options))
    four = {"records": 20_000 if quick else 600_000, "processes": [4]}
    steady = []
    for name in STEADY:  # a tenth of a percent of a core is 20 ms in 20 s; the peers use more
        full = (
            {"idle": 20.0, "loop": 10.0, "busy": 20.0} if name == "seclea" else {"idle": 10.0, "loop": 5.0, "busy": 8.0}
        )
        options = {"idle": 2.0, "loop": 1.0, "busy": 1.0} if quick else full
        options |= {"rate": 1000, "calm": 4.0}
        steady.append(logging_contender(name, "steady", options, rounds=None if name == "seclea" else 1))
    return {
        "speed": contest("durable", speed, rounds),
        "four": contest("four producers", [logging_contender("seclea", "producers", four)], rounds),
        "steady": contest("steady", steady, 1 if quick else 2),
    }


def goals(results: dict[str, Any]) -> list[Goal]:
    """What issue 4 asks for."""
    speed, four, steady = (results.get(key, {}) for key in ("speed", "four", "steady"))
    rate, cpu = "durable_per_second", "cpu_per_100k"
    share, idle = figure(steady, "seclea", "share"), figure(steady, "seclea", "idle_share")
    return [
        Goal("durable records to trackio", 10, ratio(speed, "seclea", "trackio", rate), at_least=True),
        Goal("durable records to wandb", 50, ratio(speed, "seclea", "wandb", rate), at_least=True),
        Goal("CPU per record to trackio", 0.3, ratio(speed, "seclea", "trackio", cpu)),
        Goal("durable, one producer", 250_000, figure(speed, "seclea", rate), "records/s", at_least=True),
        Goal("durable, four producers", 300_000, figure(four, "seclea", "4", rate), "records/s", at_least=True),
        Goal("CPU of the whole tree per 100,000 records", 1.0, figure(speed, "seclea", cpu), "s"),
        Goal("writer + sender, resident at the peak", 120, figure(speed, "seclea", "helpers_mb"), "MB"),
        Goal("at 1,000 records/s", 3.0, None if share is None else 100 * share, "% of a core"),
        Goal("idle", 0.1, None if idle is None else 100 * idle, "% of a core"),
    ]


def page(results: dict[str, Any]) -> str:
    """The tables of the page."""
    speed, steady = results["speed"], results["steady"]
    keys = ("durable_per_second", "handed_per_second", "cpu_per_100k", "process_mb", "helpers_mb", "found_share")
    first = table(
        ["", "durable records/s", "handed records/s", "CPU s per 100,000", "process MB", "helpers MB", "found"],
        [[LOGGERS[name].label, *(figure(speed, name, key) for key in keys)] for name in NAMES]
        + [
            [
                "seclea, 4 producers",
                *(figure(results["four"], "seclea", "4", key) for key in keys[:3]),
                None,
                None,
                None,
            ]
        ],
    )
    keys = ("share", "process_share", "helpers_share", "idle_share")
    second = table(
        ["% of one core", "at 1,000 records/s", "of it in the process", "in helpers", "idle"],
        [
            [
                LOGGERS[name].label,
                *(None if (found := figure(steady, name, key)) is None else 100 * found for key in keys),
            ]
            for name in STEADY
        ],
    )
    return f"{first}\n\n{second}"
