"""``./dev chaos planted``: faults are put into copies of the tree, one each, and the tests named beside each must go red.

A gate that has never been red proves nothing. Each bug is one replacement in one file, of the kind that a tired hand makes:
an fsync dropped, an order turned around, a check left out. The tests are part of `./dev test`; here only those run that are
to catch the bug, first on the tree as it is (they must be green), then on each copy (they must be red, by a test that failed
and not by an import that broke).

Rule 1  ``old`` stands exactly once in its file (`planted_bugs`): `tests/unit/test_planted.py` holds the list to the tree.
Rule 2  A bug that nobody catches is a missing test; it is not taken off the list.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.chaos.planted_bugs import BUGS, Bug

ROOT = Path(__file__).parents[2]
_BUG_SECONDS = 240  # for the tests of one bug; a bug that makes them hang is caught, too
_CLEAN_SECONDS = 1800  # for all of them on the tree as it is


def apply(bug: Bug, tree: Path) -> None:
    """Put the bug into a tree.

    Raises:
        ValueError: what it replaces does not stand there exactly once.
    """
    path = tree / bug.file
    text = path.read_text("utf-8")
    if text.count(bug.old) != 1:
        raise ValueError(f"{bug.name}: {text.count(bug.old)} places in {bug.file}")
    path.write_text(text.replace(bug.old, bug.new), "utf-8")


def _copy(target: Path) -> None:
    listed = subprocess.run(["git", "-C", os.fspath(ROOT), "ls-files", "-z"], capture_output=True, check=True)
    for name in filter(None, listed.stdout.decode().split("\0")):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name, follow_symlinks=False)


@dataclass(frozen=True)
class Verdict:
    """What the tests said to one bug: who caught it, or nobody."""

    bug: str
    caught_by: str | None
    seconds: float
    said: str = ""


def _run(tree: Path, tests: Sequence[str], *options: str, seconds: float) -> tuple[int, str]:
    environment = {**os.environ, "PYTHONPATH": os.fspath(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--no-header", *options, *tests]
    with tempfile.TemporaryFile("w+") as output:  # no pipe: what a test left behind would hold it open
        run = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=output, stderr=output, text=True, start_new_session=True
        )
        try:
            code = run.wait(seconds)
            late = ""
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)  # ours: its session began with it
            run.wait()
            code, late = 1, f"\nFAILED {tests[0]}::(hangs: over {seconds:.0f} s)"
        output.seek(0)
        return code, output.read() + late


def judge(bug: Bug, work: Path) -> Verdict:
    """Put one bug into a copy of the tree and run its tests."""
    tree = work / re.sub(r"\W+", "-", bug.name)
    began = time.monotonic()
    _copy(tree)
    apply(bug, tree)
    code, said = _run(tree, bug.tests, seconds=_BUG_SECONDS)
    shutil.rmtree(tree, ignore_errors=True)
    failed = re.search(r"^FAILED (\S+::[^\n]+?)(?: - |$)", said, re.MULTILINE)
    caught = failed[1] if code == 1 and failed else None  # 2 and more: nothing ran, which proves nothing
    return Verdict(bug.name, caught, time.monotonic() - began, said[-1500:])


def main(arguments: list[str] | None = None) -> int:
    """Judge all bugs (or those whose name has a word in it); 0 when each is caught."""
    parser = argparse.ArgumentParser(prog="./dev chaos planted")
    parser.add_argument("words", nargs="*", help="only bugs whose name has one of these in it")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(arguments)
    bugs = [bug for bug in BUGS if not options.words or any(word in bug.name for word in options.words)]
    work = Path(tempfile.mkdtemp(prefix="seclea-planted-"))
    clean = work / "clean"
    _copy(clean)
    tests = sorted({test for bug in bugs for test in bug.tests})
    code, said = _run(clean, tests, "-n", str(options.jobs), "--dist", "loadgroup", seconds=_CLEAN_SECONDS)
    shutil.rmtree(clean)
    if code:
        print(f"The tests are red without any bug:\n{said[-3000:]}")
        return 2
    missed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for verdict in pool.map(lambda bug: judge(bug, work), bugs):
            missed += verdict.caught_by is None
            who = verdict.caught_by or "NOBODY"
            if options.markdown:
                print(f"| {verdict.bug} | {'`' + who + '`' if verdict.caught_by else who} |")
            else:
                print(f"{verdict.seconds:5.0f} s  {verdict.bug}: {who}", flush=True)
                if verdict.caught_by is None:
                    print(verdict.said)
    print(f"\n{len(bugs) - missed} of {len(bugs)} planted bugs are caught")
    shutil.rmtree(work, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
