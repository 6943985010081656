"""``python -m benchmarks all [--quick] [--json FILE]``, one question alone, or the page made from a file.

    all                 every question side by side; about 25 minutes on two quiet cores
    NAME                one of them (``--list`` names them)
    page FILE…          write the tables and plots of docs/performance.md from what ``--json`` wrote
    trouble             full disks, killed helpers, servers that are down, which has options of its own
    dataset_chain       what a chain of transformations costs, which has options of its own
    limits              usage and times of a job that logs five times as much as fits, likewise

Options: ``--quick`` a few seconds per question (shows that all contenders run; its figures say little), ``--rounds N`` fresh
processes per contender (5), ``--json FILE`` all figures of all rounds, written after each question.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import (
    busy_loop,
    dataset_chain,
    durable,
    growth,
    limits,
    log_call,
    page,
    queue_kills,
    queue_speed,
    trouble,
)
from benchmarks.contenders_of import LOGGERS, QUEUES
from benchmarks.contest import ROOT, say
from benchmarks.environments import folder, versions_of
from benchmarks.figures import goals_table
from benchmarks.machine import describe

QUESTIONS: dict[str, ModuleType] = {
    "busy_loop": busy_loop,
    "log_call": log_call,
    "durable": durable,
    "queue_speed": queue_speed,
    "queue_kills": queue_kills,
    "growth": growth,
}


def main(arguments: list[str]) -> int:
    """Run what is named."""
    name = arguments[0] if arguments else "--help"
    if name == "--list":
        print("\n".join([*QUESTIONS, "trouble", "dataset_chain", "limits"]))
        return 0
    if name == "trouble":
        return trouble.main(arguments[1:])
    if name == "dataset_chain":
        return dataset_chain.main(arguments[1:])
    if name == "limits":
        return limits.main(arguments[1:])
    if name == "page":
        return page.main(arguments[1:])
    if name not in ("all", *QUESTIONS):
        print(__doc__, file=sys.stderr)
        return 0 if name in ("-h", "--help") else 2
    parser = argparse.ArgumentParser(prog=f"./dev bench {name}")
    parser.add_argument("--quick", action="store_true", help="seconds per question; shows that all contenders run")
    parser.add_argument("--rounds", type=int, help="fresh processes per contender; 5, quick 1")
    parser.add_argument("--json", type=Path, help="write all figures there")
    options = parser.parse_args(arguments[1:])
    measure(list(QUESTIONS) if name == "all" else [name], options.quick, options.rounds, options.json)
    return 0


def measure(names: list[str], quick: bool, rounds: int | None, target: Path | None) -> None:
    """Measure the questions one after the other, print each, and keep what there is so far in ``target``."""
    began = time.time()
    found: dict[str, Any] = {
        "machine": describe("seclea", "msgpack", "numpy"),
        "processor": _processor(),
        "commit": _commit(),
        "when": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "quick": quick,
        "environments": str(folder()),
        "versions": {},
    }
    say(f"{found['machine']}, {found['processor']}, commit {found['commit']}; environments in {folder()}")
    for one in dict.fromkeys(entrant.environment for entrant in (*LOGGERS.values(), *QUEUES.values())):
        found["versions"].update(versions_of(one))
    say(", ".join(f"{package} {version}" for package, version in found["versions"].items()))
    for name in names:
        results = found[name] = QUESTIONS[name].measure(quick, rounds or (1 if quick else 5))
        found["minutes"] = round((time.time() - began) / 60, 1)
        if target is not None:
            target.write_text(json.dumps(found, indent=1), "utf-8")
        if results:
            goals = QUESTIONS[name].goals(results)
            print(f"\n## {name}\n\n{QUESTIONS[name].page(results)}\n")
            print(goals_table(goals) if goals else "(no goals)", flush=True)
        for line in page.failures(results):
            print(f"FAILED {line}", flush=True)
    say(f"done in {found['minutes']} minutes")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown processor"


def _commit() -> str:
    """Short, with a + where the tree has changes."""
    try:
        said = [
            subprocess.run(
                ["git", *words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
            ).stdout.strip()
            for words in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        ]
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return said[0] + ("+" if said[1] else "")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
