"""How does the cost grow: with the scalars of a call, with the processes of a run, with the records of a run?

    python -m benchmarks growth [--quick] [--json FILE]

Scalars are measured by log_call. Processes: 1 to 16 forked processes of one run log the same number of records together, from
a common start until all are durable. Records: one run that goes on (10^4 to 10^7, quick to 10^5), with resident memory of
client, writer and sender after a flush at each decade. Flat means that nothing grows with what was recorded.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders_of import logging_contender
from benchmarks.contest import contest
from benchmarks.figures import Goal, figure, quotient, table

PROCESSES = (1, 2, 4, 8, 16)


def decades(quick: bool) -> list[int]:
    """Records after which memory is looked at."""
    return [10**power for power in range(4, 6 if quick else 8)]


def measure(quick: bool, rounds: int) -> dict[str, Any]:
    """Figures of seclea."""
    options = {"records": 16_000 if quick else 320_000, "processes": PROCESSES}
    return {
        "processes": contest("processes", [logging_contender("seclea", "producers", options)], min(rounds, 3)),
        "records": contest("records", [logging_contender("seclea", "growth", {"records": decades(quick)}, 600.0)], 1),
    }


def goals(results: dict[str, Any]) -> list[Goal]:
    """Memory is flat: from 10^5 records to the last decade nothing grows by more than a tenth (our own limit)."""
    records = results.get("records", {})
    last = str(decades(False)[-1])
    found = []
    for who in ("client", "writer", "sender"):
        before, after = (figure(records, "seclea", count, f"{who}_mb") for count in ("100000", last))
        found.append(Goal(f"memory of the {who} after 10^7 records, to after 10^5", 1.1, quotient(after, before)))
    return found


def page(results: dict[str, Any]) -> str:
    """The tables of the page."""
    keys = ("durable_per_second", "handed_per_second", "cpu_per_100k", "helpers_mb")
    first = table(
        ["processes", "durable records/s", "handed records/s", "CPU s per 100,000", "writer + sender MB"],
        [
            [str(count), *(figure(results["processes"], "seclea", str(count), key) for key in keys)]
            for count in PROCESSES
        ],
    )
    rows = results["records"].get("seclea", {}).get("rounds", [{}]) or [{}]
    keys = ("client_mb", "writer_mb", "sender_mb", "seconds")
    second = table(
        ["records", "client MB", "writer MB", "sender MB", "seconds since the line above"],
        [[f"{int(count):,}", *(one[key] for key in keys)] for count, one in rows[-1].items() if count.isdigit()],
    )
    return f"{first}\n\n{second}"
