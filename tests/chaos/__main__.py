"""The front door: ``./dev chaos`` lists the kinds, ``./dev chaos NAME …`` runs one, ``./dev chaos all --seed S [--short]`` all.

Each kind is a module of this folder with a ``main(arguments) -> int``: 0 when nothing was found, 1 with what was found printed
and its directory left in place.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Chaos:
    """One kind: what it does, and its sizes in ``all``."""

    what: str
    full: tuple[str, ...] = ()
    short: tuple[str, ...] = ()
    seeded: bool = True


KINDS = {
    "kills": Chaos("clients, writer, sender, portal killed at random", ("--kills", "10000"), ("--kills", "150")),
    "kills_planted": Chaos("bugs that only a kill shows, in copies of the tree: each must be found"),
    "stops": Chaos("writer, sender, portal, clients stopped (SIGSTOP) for a while", ("--rounds", "10"), ("--rounds", "1")),
    "forks": Chaos("children that fork children, ended in all ways", ("--storms", "20"), ("--storms", "1", "--children", "9")),
    "syscalls": Chaos("a kill, ENOSPC or EIO at every system call"),
    "clocks": Chaos("clocks that jump"),
    "call_times": Chaos("how long a log call takes while each fault is on"),
    "damage": Chaos("damaged ledgers, spools and rings"),
    "tamper": Chaos("what `seclea verify` finds of edits"),
    "power": Chaos("power loss: every flush of a logged disk"),
    "upgrade": Chaos("ledgers of older versions, and kills in a migration"),
    "start_rounds": Chaos("200 processes starting at once, with kills inside the lock"),
    "hostile_rings": Chaos("hostile ring frames"),
    "hostile_socket": Chaos("malformed messages on the writer's socket"),
    "recover_million": Chaos("a million pending records: recovery time and memory"),
    "outage": Chaos("a portal that is gone for 20 s in the middle of a job", seeded=False),
    "demo_outage": Chaos("the demo, its portal killed in the middle", seeded=False),
    "simulate": Chaos("outages of days on a virtual clock"),
    "catch_up": Chaos("how fast a lane sends what waited", (), ("--batches", "100"), seeded=False),
    "failure_table": Chaos("every answer a portal can give", seeded=False),
}  # fmt: skip


def there(name: str) -> bool:
    """Whether this checkout has it."""
    return name.isidentifier() and importlib.util.find_spec(f"tests.chaos.{name}") is not None


def usage() -> str:
    """The kinds, a line each."""
    lines = ["usage: ./dev chaos NAME [ARGUMENTS] | all --seed S [--short]", ""]
    lines += [f"  {name:16} {kind.what}" for name, kind in KINDS.items() if there(name)]
    return "\n".join([*lines, "", "./dev chaos NAME --help says what one takes."])


def run_all(arguments: list[str]) -> int:
    """Every kind, one after the other, each in a process of its own; then one table."""
    parser = argparse.ArgumentParser(prog="./dev chaos all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--short", action="store_true", help="small sizes: minutes")
    options = parser.parse_args(arguments)
    rows = []
    for name, kind in KINDS.items():
        if not there(name):
            continue
        seed = ["--seed", str(options.seed)] if kind.seeded else []
        command = [sys.executable, "-m", f"tests.chaos.{name}", *(kind.short if options.short else kind.full), *seed]
        print(f"== {name}: {kind.what}\n   {' '.join(command[1:])}", flush=True)
        began = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, check=False).returncode
        rows.append((name, code, time.monotonic() - began, " ".join(command[3:])))
    print(f"\n{'kind':16} {'result':>10} {'seconds':>9}  arguments")
    for name, code, seconds, said in rows:
        print(f"{name:16} {'clean' if code == 0 else f'exit {code}':>10} {seconds:9.0f}  {said}")
    return 1 if any(code for _, code, _, _ in rows) else 0


def main(arguments: list[str] | None = None) -> int:
    """List, run one (kills where only its arguments are given), or run all."""
    words = sys.argv[1:] if arguments is None else arguments
    if not words or words[0] in ("help", "-h", "--help"):
        print(usage())
        return 0
    name, rest = ("kills", words) if words[0].startswith("--") else (words[0], words[1:])
    if name == "all":
        return run_all(rest)
    if not there(name):
        print(f"There is no {name!r}.\n\n{usage()}", file=sys.stderr)
        return 2
    return int(importlib.import_module(f"tests.chaos.{name}").main(rest))


if __name__ == "__main__":
    sys.exit(main())
