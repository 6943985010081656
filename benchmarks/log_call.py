"""What does a log call cost by itself: in a tight loop, paced, on a schedule, with 10 and 100 scalars? And to start and end?

    python -m benchmarks log_call [--quick] [--json FILE]

Each call is timed alone by `time.perf_counter_ns`, from the call to its return; the metrics were made before. Tight: one
after the other. Paced: a sleep of 1 ms before each, so that the caches have gone cold and the processor may have slept.
Scheduled: 20,000 calls a second, waited for in a busy loop; "kept" is the share of that rate that was held. What is queued is
written out between the parts. The row "(clocks and a call)" is what every other row has in it too. Import and init are those
of the fresh process; exit is from the last log call, through what the documentation says ends a run, until the process is gone.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders_of import LOGGERS, logging_contender
from benchmarks.contest import contest
from benchmarks.figures import Goal, figure, ratio, table

NAMES = tuple(LOGGERS)


def measure(quick: bool, rounds: int) -> dict[str, Any]:
    """Figures per contender."""
    options = {"calls": 1000, "seconds": 0.3} if quick else {"calls": 10_000, "seconds": 0.6}
    few = {"calls": 100, "seconds": 0.3}  # of those whose calls take milliseconds, or whose flush takes half a minute
    contenders = [logging_contender(name, "calls", few if name.startswith("mlflow") else options) for name in NAMES]
    return contest("log_call", contenders, rounds)


def goals(results: dict[str, Any]) -> list[Goal]:
    """What issue 4 asks for."""
    tight, paced, hundred = ("tight", "p50"), ("paced", "p50"), ("hundred", "p50")
    found = [
        Goal(f"warm {what} to msgpack + copy", 3.0, ratio(results, name, "msgpack + copy", *tight))
        for what, name in (("ring put", "seclea ring"), ("`run.log`", "seclea"))
    ]
    for peer, limit in (("trackio", 0.25), ("wandb", 0.02)):
        found.append(Goal(f"`run.log` to {peer}, tight", limit, ratio(results, "seclea", peer, *tight)))
        found.append(Goal(f"`run.log` to {peer}, paced", limit, ratio(results, "seclea", peer, *paced)))
    found.append(Goal("100 scalars in one call to trackio", 0.06, ratio(results, "seclea", "trackio", *hundred)))
    for share, limit in (("p50", 2.5), ("p99", 10.0), ("p99.9", 200.0)):
        found.append(
            Goal(f"`run.log` at 20,000/s, {share}", limit, figure(results, "seclea", "scheduled", share), "µs")
        )
    found.append(Goal("100 scalars in one call, p50", 15.0, figure(results, "seclea", *hundred), "µs"))
    found.append(Goal("exit delay", 0.2, figure(results, "seclea", "exit_seconds"), "s"))
    return found


def page(results: dict[str, Any]) -> str:
    """The tables of the page."""
    shares = ("p50", "p99", "p99.9", "max")
    calls = table(
        ["µs per call", *(f"{how} {share}" for how in ("tight", "paced") for share in shares)],
        [
            [
                LOGGERS[name].label,
                *(figure(results, name, how, share) for how in ("tight", "paced") for share in shares),
            ]
            for name in NAMES
        ],
    )
    more = table(
        ["µs per call", *(f"20,000/s {share}" for share in shares), "kept", "10 scalars p50", "100 scalars p50", "p99"],
        [
            [
                LOGGERS[name].label,
                *(figure(results, name, "scheduled", share) for share in shares),
                figure(results, name, "scheduled", "kept"),
                figure(results, name, "ten", "p50"),
                figure(results, name, "hundred", "p50"),
                figure(results, name, "hundred", "p99"),
            ]
            for name in NAMES
        ],
    )
    ends = table(
        ["seconds", "import", "init", "last call to gone", "what a call that returned does not guarantee"],
        [
            [
                LOGGERS[name].label,
                *(figure(results, name, key) for key in ("import_seconds", "init_seconds", "exit_seconds")),
                LOGGERS[name].caveat,
            ]
            for name in NAMES
            if LOGGERS[name].records
        ],
    )
    return f"{calls}\n\n{more}\n\n{ends}"
