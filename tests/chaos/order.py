"""``python -m tests.chaos.order --size N [--plants]``: was everything on the disk before somebody counted on it?

Row R4 of the scorecard. Client, writer and sender run under strace in a new home; `order_judge` says what is wrong. This
sees what replayed disks cannot: on ext4 and btrfs the sync of a file happens to bring its name along. ``--plants`` runs it
once for each planted bug, and each must be found.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.chaos import order_trace
from tests.chaos.order_job import PLANTS
from tests.chaos.order_judge import Judge
from tests.pipeline import ROOT, WillingPortal

_SECONDS = 240.0


def why_not() -> str | None:
    """Why nothing can be traced here; None where it can."""
    if shutil.which("strace") is None:
        return "there is no strace"
    tried = subprocess.run(["strace", "-f", "-o", os.devnull, "true"], capture_output=True, text=True, check=False)
    return f"strace may not trace: {tried.stderr.strip()}" if tried.returncode else None


def record(directory: Path, size: int, plant: str = "") -> Path:
    """Run the job under strace in ``directory``, which must be empty; the trace.

    Raises:
        RuntimeError: the job did not do what it should; its words are in it.
    """
    portal = WillingPortal()
    trace = directory.with_name(f"{directory.name}.trace")
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TZ") if name in os.environ}
    environment = {
        **kept,
        "HOME": str(directory),
        "PYTHONPATH": str(ROOT),
        "PYTHONDONTWRITEBYTECODE": "1",
        "SECLEA_HOME": str(directory / "state" / "home"),
        "SECLEA_PLANT": plant,
        "XDG_RUNTIME_DIR": str(directory),
        "OMP_NUM_THREADS": "1",
    }
    command = ["strace", *order_trace.OPTIONS, "-o", str(trace)]
    job = [sys.executable, "-m", "tests.chaos.order_job", "client", environment["SECLEA_HOME"], portal.url, str(size)]
    try:
        done = subprocess.run(
            [*command, *job],
            env=environment,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
        )
    finally:
        portal.close()
    if done.returncode:
        raise RuntimeError(f"the job ended with {done.returncode}:\n{done.stdout}{done.stderr[-3000:]}")
    return trace


def judged(trace: Path, directory: Path) -> Judge:
    """The judgement on a trace of `record`."""
    with trace.open(encoding="ascii") as lines:
        return Judge(str(directory), str(directory / "state" / "home")).judge(order_trace.read(lines))


def main(arguments: list[str] | None = None) -> int:
    """0 when nothing is wrong and, with ``--plants``, each planted bug was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.order")
    parser.add_argument("--size", type=int, default=4, help="rounds of a dataset, two states and 40 points")
    parser.add_argument("--plants", action="store_true", help="also with each planted bug")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="with this planted bug only")
    parser.add_argument("--seed", type=int, default=1, help="order of the planted bugs")
    options = parser.parse_args(arguments)
    if (reason := why_not()) is not None:
        print(f"cannot be done here: {reason}")
        return 1
    base = Path(tempfile.mkdtemp(prefix="seclea-order-"))
    plants = [""] if options.plant is None else [options.plant]
    if options.plants:
        plants += random.Random(options.seed).sample(sorted(PLANTS), len(PLANTS))
    failed = 0
    for number, plant in enumerate(plants):
        began = time.monotonic()
        directory = base / str(number)
        directory.mkdir()
        judge = judged(record(directory, options.size, plant), directory)
        seen = ", ".join(f"{count} {what}" for what, count in sorted(judge.seen.items()))
        print(
            f"{plant or 'as it is'}: {len(judge.wrong)} wrong in {time.monotonic() - began:.0f} s ({seen})", flush=True
        )
        for what in judge.wrong[:8]:
            print(f"  {what}")
        failed += bool(judge.wrong) != bool(plant) if options.plant is None else bool(judge.wrong)
    if failed:
        print(f"{failed} judged otherwise than they should be; left in place: {base}")
        return 1
    shutil.rmtree(base)
    return 0


if __name__ == "__main__":
    sys.exit(main())
