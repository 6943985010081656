"""``python -m tests.chaos.clocks``: the wall clock of client, writer, sender and portal jumps, each by itself, under a job.

Row R18. libfaketime is not needed: the shim of `tests.chaos.shim` moves what `clock_gettime`, `gettimeofday` and `time` say of
the wall clock, by a number in a mapped file, and leaves the monotonic clock and the kernel's file times alone. In each case
every kind of process starts with a clock of its own, and some jump while the job runs: an hour or ten years forward or back, to
2038 and 2100, and back. In every second case a fault that lasts makes logging pause meanwhile. The judge is that of the sweep;
beside it no wait may be stuck, and no pause may be shorter than nothing or longer than the case.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sqlite3
import sys
import time
from collections import Counter

from tests.chaos import shim
from tests.chaos.shim import Point
from tests.chaos.shim.case import Case, Portal, Verdict, warm_up
from tests.chaos.syscalls import LASTS, Worker, workers

_YEAR = 365.25 * 86400
_NOW = 1_790_000_000  # about: where a case leads to does not depend on its day
OFFSETS = {
    "right": 0.0,
    "an hour ahead": 3600.0,
    "an hour behind": -3600.0,
    "ten years ahead": 10 * _YEAR,
    "ten years behind": -10 * _YEAR,
    "2038": 2**31 - 1.0 - _NOW,  # the last second of 32 bits, or a moment after
    "2100": 4_102_444_800.0 - _NOW,
}
STALL_SECONDS = 60.0
_PAUSING = (
    Point("writer", "pwrite", "home/ledger.sqlite-wal", 200),
    Point("writer", "fsync", "home/ledger.sqlite-wal", 12),
    Point("writer", "write", "home/spool/chunks/*/*.*.*.new", 1),
)


def one(portal: Portal, number: int, seed: int) -> Verdict:
    """One case; everything but the scheduling comes from the seed."""
    rng = random.Random(f"{seed} {number}")
    case = Case(portal, number)
    now = {role: rng.choice(list(OFFSETS)) for role in shim.ROLES}
    story = [f"{role} {name}" for role, name in now.items()]
    for role, name in now.items():
        case.control.set_clock(role, OFFSETS[name])
    jumps = [(rng.uniform(0.0, 2.5), rng.choice(shim.ROLES), rng.choice(list(OFFSETS))) for _ in range(4)]
    jumps.sort()
    began = time.monotonic()

    def look() -> None:
        while jumps and time.monotonic() - began >= jumps[0][0]:
            _, role, name = jumps.pop(0)
            case.control.set_clock(role, OFFSETS[name])
            story.append(f"{role} to {name}")

    case.on_look = look
    point = rng.choice(_PAUSING) if number % 2 else None
    verdict = Verdict()
    try:
        verdict = case.run(point, "ENOSPC" if point else "", LASTS if point else 1, power=number % 4 == 1)
        verdict.wrong += _pauses(case, time.monotonic() - began)
        verdict.wrong += [f"stalled: {said}" for said in verdict.slow if float(said.split()[-2]) > STALL_SECONDS]
    except Exception as error:  # of the harness; a finding, too
        verdict.wrong.append(f"the harness: {type(error).__name__}: {error}")
    finally:
        verdict.point = ", ".join(story) + (f"; {point}" if point else "")
        case.close(keep=bool(verdict.wrong))
    return verdict


def _pauses(case: Case, seconds: float) -> list[str]:
    """What is wrong with the lengths of pauses in the ledger."""
    ledger = case.home / "ledger.sqlite"
    if not ledger.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{ledger}?mode=ro", uri=True)) as connection:
        found = connection.execute("SELECT value FROM meta WHERE key = 'pauses'").fetchone()
    totals = json.loads(found[0]) if found else {}
    return [f"a pause of {length} s" for _, length in totals.values() if not 0 <= length <= seconds]


class _Worker(Worker):
    MODULE = "tests.chaos.clocks"


def main(arguments: list[str] | None = None) -> int:
    """Run cases; 0 when nothing was wrong in any."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.clocks")
    parser.add_argument("--cases", type=int, default=20, help="every second one with the home's own portal")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--first", type=int, default=1, help="number of the first case; a finding names its own")
    parser.add_argument("--worker", nargs="*", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker is not None:
        return _work(Portal(*options.worker))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # what was started ends with us
    began = time.monotonic()
    findings, longest, met = 0, 0.0, Counter[str]()
    with (
        contextlib.ExitStack() as stack,
        contextlib.suppress(KeyboardInterrupt, SystemExit),
    ):  # what was done until then
        hands: dict[bool, Worker] = {}
        for number in range(options.first, options.first + options.cases):
            local = number // 2 % 2 == 1
            if local not in hands:
                hands[local] = stack.enter_context(workers(1, local=local, kind=_Worker))[0]
            verdict = hands[local].ask([number, options.seed])
            longest = max(longest, verdict.seconds)
            met["cases"] += 1
            met["with a pause"] += bool(verdict.fired)
            met["told that waits were not over"] += bool(verdict.not_done)
            if verdict.wrong:
                findings += 1
                print(f"case {number}: {verdict.point}", *verdict.wrong, verdict.directory, sep="\n    ", flush=True)
    print(
        f"seed {options.seed}: {met.pop('cases', 0)} cases with clocks that jump ({dict(met)})"
        f" in {time.monotonic() - began:.0f} s; longest case {longest:.0f} s; {findings} with something wrong"
    )
    return 1 if findings else 0


def _work(portal: Portal) -> int:
    warm_up(portal)
    for line in sys.stdin:
        print(one(portal, *json.loads(line)).to_json(), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
