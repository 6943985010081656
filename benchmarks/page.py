"""Writes figures into docs/performance.md: tables between markers, and plots beside it.

    python -m benchmarks page FILE… [--page docs/performance.md] [--no-plot]

FILE is what ``--json`` wrote; of several, a later one has the last word on the questions that it has. A block of the page is
what stands between ``<!-- figures: NAME -->`` and ``<!-- end: NAME -->``; everything else is left as it is.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import busy_loop, durable, growth, log_call, queue_kills, queue_speed
from benchmarks.contenders_of import LOGGERS
from benchmarks.contest import CONTENDERS, ROOT
from benchmarks.environments import PLOT, Unavailable, python_of
from benchmarks.figures import figure, goals_table

QUESTIONS = {
    "busy_loop": busy_loop,
    "log_call": log_call,
    "durable": durable,
    "queue_speed": queue_speed,
    "queue_kills": queue_kills,
    "growth": growth,
}

# The files beside the page, each with the words for those who do not see it; a block of that name shows it.
PLOTS = {
    "performance": "cost of a log call, of a training step and of durable records, by contender; memory by records",
    "performance-queues": "cost of a put by the size of the object, and what killed producers lose, by contender",
}


class NoSuchBlock(Exception):
    """The page has no markers of that name, or they do not stand in pairs."""


def with_block(text: str, name: str, content: str) -> str:
    """The page with ``content`` between the markers of ``name``.

    Raises:
        NoSuchBlock: there is not just one such pair.
    """
    begin, end = f"<!-- figures: {name} -->", f"<!-- end: {name} -->"
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise NoSuchBlock(f"The page needs {begin} and {end} after it, once each.")
    before, after = text.split(begin)[0], text.split(end)[1]
    return f"{before}{begin}\n\n{content.strip()}\n\n{end}{after}"


def failures(results: Any, path: str = "") -> Iterator[str]:
    """Whoever could not be measured, and why."""
    if isinstance(results, Mapping):
        for key, value in results.items():
            if key == "error":
                yield f"{path}: {value}"
            else:
                yield from failures(value, f"{path}{' / ' * bool(path)}{key}")
    elif isinstance(results, list):
        for value in results:
            yield from failures(value, path)


def blocks(found: Mapping[str, Any]) -> dict[str, str]:
    """The content of each block that there are figures for."""
    made = {}
    for name, question in QUESTIONS.items():
        if found.get(name):
            goals = question.goals(found[name])
            parts = [question.page(found[name]), goals_table(goals) if goals else ""]
            failed = [f"- not measured: {line}" for line in dict.fromkeys(failures(found[name]))]
            made[name] = "\n\n".join(part for part in (*parts, "\n".join(failed)) if part)
    versions = ", ".join(f"{package} {version}" for package, version in found["versions"].items())
    quick = " **A quick run: the figures say little.**" if found["quick"] else ""
    made["machine"] = (
        f"{found['machine']}, {found['processor']}; commit {found['commit']}, {found['when']},"
        f" {found.get('minutes', 0):.0f} minutes.{quick}\n\nIn the environments: {versions}."
    )
    goals = [goal for name, question in QUESTIONS.items() if found.get(name) for goal in question.goals(found[name])]
    reached = sum(goal.reached is True for goal in goals)
    missed = [goal for goal in goals if goal.reached is False]
    made["goals"] = f"{reached} of {len(goals)} goals are reached in this run." + (
        f" Not reached:\n\n{goals_table(missed)}" if missed else ""
    )
    return made


def plots(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the plots show, for the script that draws them."""

    def bars(
        question: str, *path: str, names: Any = None, within: str | None = None, zero: bool = False
    ) -> list[tuple[str, float]]:
        results = found.get(question) or {}
        results = results.get(within, {}) if within else results
        pairs = [(name, figure(results, name, *path)) for name in (names or results)]
        label = str if question.startswith("queue") else _plain
        return [(label(name), value) for name, value in pairs if value is not None and (value > 0 or zero)]

    busy = [name for name in busy_loop.NAMES if name != "nothing"]
    records = (found.get("growth") or {}).get("records", {}).get("seclea", {}).get("rounds", [])
    return {
        "performance": [
            {
                "title": "log call between 0.2 ms steps, p50 µs",
                "bars": bars("busy_loop", "0.2 ms", "call", "p50", names=busy),
            },
            {"title": "step of 0.2 ms longer by µs", "bars": bars("busy_loop", "0.2 ms", "slower", names=busy)},
            {
                "title": "log call paced at 1 ms, p50 µs",
                "bars": bars("log_call", "paced", "p50", names=log_call.NAMES[1:]),
            },
            {
                "title": "durable records per second",
                "bars": bars("durable", "durable_per_second", within="speed"),
                "more_is_better": True,
            },
            {"title": "CPU s per 100,000 records", "bars": bars("durable", "cpu_per_100k", within="speed")},
            {
                "title": "resident MB by records logged",
                "lines": {
                    who: [(int(count), one[f"{who}_mb"]) for count, one in records[-1].items() if count.isdigit()]
                    for who in ("client", "writer", "sender")
                }
                if records
                else {},
            },
        ],
        "performance-queues": [
            {
                "title": f"put of bytes, p50 µs, {producers} producer{'s' * (producers > 1)}",
                "lines": {
                    name: [
                        (size, value)
                        for size in queue_speed.SIZES
                        if (
                            value := figure(
                                found.get("queue_speed") or {}, name, f"bytes {size} {producers}", "put", "p50"
                            )
                        )
                    ]
                    for name in found.get("queue_speed") or {}
                },
            }
            for producers in queue_speed.PRODUCERS
        ]
        + [
            {"title": "acknowledged puts lost in kills", "bars": bars("queue_kills", "lost", zero=True), "linear": True}
        ],
    }


def _plain(name: str) -> str:
    return re.sub(r"[*`]", "", LOGGERS[name].label) if name in LOGGERS else name


def draw(found: Mapping[str, Any], directory: Path) -> None:
    """Draw the plots with matplotlib, in an environment of its own.

    Raises:
        Unavailable: there is no matplotlib, or it failed.
    """
    python = python_of(PLOT)
    with tempfile.TemporaryDirectory() as place:
        data = Path(place) / "plots.json"
        data.write_text(json.dumps(plots(found)), "utf-8")
        command = [python, str(CONTENDERS / "draw.py"), str(data), str(directory)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode:
        raise Unavailable(f"drawing: {done.stderr[-500:]}")


def main(arguments: list[str]) -> int:
    """Write the page."""
    parser = argparse.ArgumentParser(prog="./dev bench page")
    parser.add_argument("file", type=Path, nargs="+", help="what --json wrote")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "performance.md")
    parser.add_argument("--no-plot", action="store_true")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {}
    for path in options.file:
        found.update(json.loads(path.read_text("utf-8")))
    made = blocks(found)
    failed = False
    if not options.no_plot:
        try:
            draw(found, options.page.parent)
            made |= {name: f"![{words}]({name}.png)" for name, words in PLOTS.items()}
        except Unavailable as error:
            failed = True
            print(f"bench: no plots: {error}", file=sys.stderr)
    text = options.page.read_text("utf-8")
    for name, content in made.items():
        text = with_block(text, name, content)
    options.page.write_text(text, "utf-8")
    print(f"bench: wrote {options.page}", file=sys.stderr)
    return int(failed)
