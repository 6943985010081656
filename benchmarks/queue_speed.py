"""How fast is a queue between processes, for small and large objects, from one producer and from four? And after a lull?

    python -m benchmarks queue_speed [--quick] [--json FILE]

Producers are forked, start together and put a fixed number of objects as fast as they can; one consumer takes them, many at
a time where there is a call for that. Each put is timed alone, in the producer. Throughput is from the common start until the
consumer has the last object. Bytes are the same object each time, arrays are float32 in numpy (torch: a new tensor for each
put, whose making is in the throughput and not in the put). There and back: 100 B after both sides waited for 50 ms.
A short put is no virtue by itself: those that only append to a list in the same process send, and lose, later.
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.contenders_of import QUEUES
from benchmarks.contest import Contender, contest
from benchmarks.figures import Goal, figure, table

KIB, MIB = 1 << 10, 1 << 20
SIZES = {100: "100 B", KIB: "1 KiB", 64 * KIB: "64 KiB", MIB: "1 MiB", 64 * MIB: "64 MiB"}
ITEMS = {100: 20_000, KIB: 20_000, 64 * KIB: 2_000, MIB: 200, 64 * MIB: 4}
CELLS = [("bytes", size) for size in SIZES] + [("array", size) for size in SIZES if size >= 64 * KIB]
PRODUCERS = (1, 4)


def measure(quick: bool, rounds: int) -> dict[str, Any]:
    """Figures per contender."""
    options = {
        "cells": [
            {"kind": kind, "size": size, "items": max(4, ITEMS[size] // (10 if quick else 1))} for kind, size in CELLS
        ],
        "producers": PRODUCERS,
        "lulls": 5 if quick else 30,
        "seconds": 20,
    }
    return contest("queue_speed", [queue_contender(name, "speed", options) for name in QUEUES], rounds)


def queue_contender(name: str, part: str, options: dict[str, Any]) -> Contender:
    """A queue that runs one part of `queue_child`."""
    return Contender(name, QUEUES[name].environment, "queue_child.py", [name, part, json.dumps(options)], 240.0)


def goals(results: dict[str, Any]) -> list[Goal]:
    """None: raw speed need not be beaten. What a put costs its process in a training loop is measured by busy_loop."""
    return []


def page(results: dict[str, Any]) -> str:
    """The tables of the page."""
    parts = []
    for title, path, kind in (
        ("put, p50 µs", ("put", "p50"), ""),
        ("put, p99 µs", ("put", "p99"), ""),
        ("objects per second", ("items_per_second",), ""),
        ("MB/s", ("mb_per_second",), "large"),
    ):
        cells = [(kind_, size) for kind_, size in CELLS if not kind or size >= 64 * KIB]
        for producers in PRODUCERS:
            rows = [
                [one.label, *(figure(results, name, f"{kind_} {size} {producers}", *path) for kind_, size in cells)]
                for name, one in QUEUES.items()
            ]
            head = f"{title}, {producers} producer{'s' * (producers > 1)}"
            parts.append(table([head, *(f"{kind_} {SIZES[size]}" for kind_, size in cells)], rows))
    parts.append(
        table(
            ["there and back after a lull, µs", "p50", "max", "what a put that returned does not guarantee"],
            [
                [one.label, figure(results, name, "lull", "p50"), figure(results, name, "lull", "max"), one.caveat]
                for name, one in QUEUES.items()
            ],
        )
    )
    return "\n\n".join(parts)
