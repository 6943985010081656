"""``python -m tests.chaos kills_planted --seed S``: bugs are put into copies of the tree; the random kills must find each.

Row R27, for what only a kill at the wrong instant shows. (What the suite's own tests must find is another list.) The tree as
it is must come through the same campaign clean.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUGS = {
    "the ring's cursor moves before the commit": (
        "seclea/writer/writer.py",
        "        finished: list[int] = []\n        try:\n",
        "        finished: list[int] = []\n        for one in frames:\n            self.rings[one].commit()\n        try:\n",
    ),
    "receipts are not stored": (
        "seclea/writer/settle.py",
        'self._outcome(int(message["record"]), message)',
        "pass",
    ),
    "another key with each attempt": (
        "seclea/api/api.py",
        '"Idempotency-Key": record.key,',
        '"Idempotency-Key": __import__("uuid").uuid4().hex,',
    ),
    "flush answers before the commit": (
        "seclea/writer/__main__.py",
        'return {"durable": True} if done else None',
        'return {"durable": True}',
    ),
    "a dead client's ring is removed unread": (
        "seclea/writer/writer.py",
        "if not ring.has_more and (ring.closed_by_producer or not ring.producer_alive()) and not ring.has_more:",
        "if ring.closed_by_producer or not ring.producer_alive():",
    ),
}  # fmt: skip


def plant(name: str, tree: Path) -> None:
    """A copy of this tree with one bug; "" for none."""
    for part in ("seclea", "tests"):
        shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
    if name:
        file, old, new = BUGS[name]
        text = (tree / file).read_text("utf-8")
        if text.count(old) != 1:
            raise ValueError(f"{name}: {text.count(old)} places in {file}")
        (tree / file).write_text(text.replace(old, new), "utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Run all; 0 when the tree is clean and every bug was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos kills_planted", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kills", type=int, default=400, help="of each campaign, at most")
    parser.add_argument("--bug", choices=[*BUGS, ""], help="this one alone")
    options = parser.parse_args(arguments)
    missed = 0
    for name in [options.bug] if options.bug is not None else ["", *BUGS]:
        root = Path(tempfile.mkdtemp(prefix="s-planted-", dir="/tmp"))
        began = time.monotonic()
        try:
            plant(name, root)
            command = [sys.executable, "-m", "tests.chaos", "kills", "--kills", str(options.kills), "--round-kills", "15",
                       "--findings", "1", "--wait", "30", "--directory", str(root), "--seed", str(options.seed)]  # fmt: skip
            environment = {**os.environ, "PYTHONPATH": str(root)}
            done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
            said = [line.strip() for line in done.stdout.splitlines() if line.startswith("  ")]
            good = done.returncode == (1 if name else 0)
            missed += not good
            verdict = ("found" if name else "clean") if good else ("MISSED" if name else "NOT CLEAN")
            print(f"{verdict} ({time.monotonic() - began:.0f} s): {name or 'the tree as it is'}", flush=True)
            if done.returncode:
                print(f"    {said[0][:200] if said else done.stderr[-500:]}", flush=True)
        finally:
            shutil.rmtree(root, ignore_errors=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
