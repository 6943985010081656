"""What does a producer that is killed in the middle of a stream leave: what is lost, and do the others go on?

    python -m benchmarks queue_kills [--quick] [--json FILE]

In each trial two producers put objects of 8 KiB (more than a pipe takes at once) and a third process takes them; one producer
is killed by SIGKILL at a random instant. A put is acknowledged when it has returned; lost is what was acknowledged and has not
come out half a second after everything else. Blocked: of the other producer's objects put after the kill, fewer than 200 came
out within 1.5 s. A producer is never more than 200 objects ahead of the consumer, which bounds what can be lost per kill.
"""

from __future__ import annotations

from typing import Any

from benchmarks.contenders_of import QUEUES
from benchmarks.contest import contest
from benchmarks.figures import Goal, figure, table
from benchmarks.queue_speed import queue_contender

SIZE = 8192


def measure(quick: bool, rounds: int) -> dict[str, Any]:
    """Figures per contender; one round, as the trials are many."""
    options = {"kills": 3 if quick else 30, "size": SIZE, "seed": 4}
    return contest("queue_kills", [queue_contender(name, "kills", options) for name in QUEUES], 1)


def goals(results: dict[str, Any]) -> list[Goal]:
    """Nothing is lost, nobody is blocked."""
    return [
        Goal(f"killed producers: {what}", 0, figure(results, "seclea.Queue", key), "")
        for what, key in (("acknowledged puts lost", "lost"), ("survivors blocked", "blocked"))
    ]


def page(results: dict[str, Any]) -> str:
    """The table of the page."""
    keys = ("kills", "lost", "trials_with_loss", "survivor_lost", "blocked", "wrong")
    head = [
        "kills",
        "acknowledged puts lost",
        "in trials",
        "of the survivor",
        "survivor blocked",
        "out of order or twice",
    ]

    def cell(value: float | None) -> str | None:
        return None if value is None else f"{value:,.0f}"

    rows = [[one.label, *(cell(figure(results, name, key)) for key in keys)] for name, one in QUEUES.items()]
    return table(["", *head], rows)
