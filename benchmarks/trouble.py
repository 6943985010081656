"""What becomes of a job when things go wrong, beside the peers: a full disk, a killed helper, a server that is down.

    python -m benchmarks trouble [--quick] [--json FILE] [--only CASE]

    small     a disk of 20 MB (tmpfs) for everything the contender keeps; one scalar per step
    filled    the same; another program takes all the room a third of the way and gives it back 5 s later
    killed    the contender's background processes are killed a third of the way
    down      the server is down: connections are refused

A contender logs until its steps or 45 s are over, and ends as its documentation says; 90 s after its start it is killed
and called hung. Counted: calls that returned without an error (accepted), calls that raised, what is found on disk or in the
ledger afterwards, the longest call, the time from the last call until the process is gone, bytes on standard output and error.
Needs root, for the small disk. seclea's own settings: its limits fit the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.contenders_of import LOGGERS
from benchmarks.contest import CONTENDERS, Contender, say, stop_pipeline, variables_of, wait_for
from benchmarks.environments import MLFLOW, WANDB, Unavailable, python_of
from benchmarks.figures import table
from benchmarks.machine import describe

DISK_BYTES = 20_000_000
LIMIT_SECONDS = 45.0
_KEEPERS = ("seclea", "trackio", "tensorboardX", "swanlab", "wandb", "mlflow sync")
_DOWN = {"seclea": None, "wandb online": WANDB, "mlflow http": MLFLOW}
CASES: dict[str, tuple[str, ...]] = {
    "small": _KEEPERS,
    "filled": _KEEPERS,
    "killed": ("seclea", "wandb", "swanlab"),
    "down": tuple(_DOWN),
}
STEPS = {"small": 60_000, "filled": 30_000, "killed": 20_000, "down": 1_000}
_OURS = {
    "SECLEA_LIMITS_DISK": "16MB",
    "SECLEA_LIMITS_MIN_FREE_DISK": "500kB",
    "SECLEA_IDLE_TIMEOUT_SECONDS": "20",
}
_ONLINE = {"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "0" * 40}


def main(arguments: list[str]) -> int:
    """Run the cases, print a table for each."""
    parser = argparse.ArgumentParser(prog="./dev bench trouble")
    parser.add_argument("--quick", action="store_true", help="a tenth of the steps")
    parser.add_argument("--json", type=Path, help="write all figures there")
    parser.add_argument("--only", choices=CASES, action="append", help="this case only")
    options = parser.parse_args(arguments)
    found: dict[str, Any] = {"machine": describe()}
    for case in options.only or CASES:
        found[case] = {}
        for name in CASES[case]:
            found[case][name] = facts = one(name, case, options.quick)
            say(f"{case} {name}: {json.dumps(facts)}")
        print(f"\n### {case}\n\n{page(found[case])}\n", flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(found, indent=1), "utf-8")
    return 0


def one(name: str, case: str, quick: bool) -> dict[str, Any]:
    """One contender in one case: what it wrote down, how long it took to end, and how much it said."""
    steps = STEPS[case] // (10 if quick else 1)
    environment = _DOWN.get(name) or LOGGERS[name if name in LOGGERS else "seclea"].environment
    variables = _OURS if name == "seclea" else _ONLINE if name == "wandb online" else {}
    settings = {"steps": steps, "hit_at": steps // 3, "seconds": 5.0, "limit": LIMIT_SECONDS, "pause": 0.0}
    contender = Contender(
        name, environment, "trouble_child.py", [name, case, json.dumps(settings)], 90.0, None, variables
    )
    try:
        python = python_of(environment)
    except Unavailable as error:
        return {"error": str(error)}
    aside = Path(tempfile.mkdtemp(prefix="seclea-bench-aside-"))
    try:
        with _directory(small=case in ("small", "filled")) as directory:
            return _run(contender, python, directory, aside)
    except (OSError, subprocess.CalledProcessError) as error:
        return {"error": f"no small disk here: {error}"}
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _run(contender: Contender, python: str, directory: Path, aside: Path) -> dict[str, Any]:
    (directory / "files").mkdir(mode=0o700)
    environment = variables_of(contender, directory)
    result, output = aside / "result.json", aside / "output.txt"
    command = [python, str(CONTENDERS / contender.script), *contender.arguments, str(directory / "files"), str(result)]
    try:
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=aside, env=environment, start_new_session=True
            )  # fmt: skip
        code, ended = wait_for(process, contender.timeout_seconds)
        facts: dict[str, Any] = json.loads(result.read_text("utf-8")) if result.exists() else {}
        if "last" in facts:
            facts["exit_seconds"] = ended - facts.pop("last")
        facts["code"], facts["output_bytes"] = code, output.stat().st_size
        return facts
    finally:
        if not contender.environment.name:
            stop_pipeline(environment)


@contextlib.contextmanager
def _directory(*, small: bool) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="seclea-bench-"))
    try:
        if small:
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "none", os.fspath(path)], check=True
            )
        try:
            yield path
        finally:
            if small:
                subprocess.run(["umount", "-l", os.fspath(path)], check=False)
    finally:
        shutil.rmtree(path, ignore_errors=True)


def page(results: dict[str, dict[str, Any]]) -> str:
    """The table of one case."""

    def row(name: str, facts: dict[str, Any]) -> list[Any]:
        label = LOGGERS[name].label if name in LOGGERS else name
        if "error" in facts:
            return [label, facts["error"], *[None] * 8]
        hung = facts["code"] == -9 and facts.get("stage", "?")
        end = f"**hung in {hung}**" if hung else f"{facts.get('exit_seconds', 0) + facts.get('finish_seconds', 0):.1f}"
        said = (
            facts.get("init_error") or facts.get("first_error") or facts.get("finish_error") or facts.get("found_error")
        )
        accepted, kept = facts.get("accepted"), facts.get("found")
        lost = None if accepted is None or kept is None else f"{max(0, accepted - kept):,}"
        return [
            label, f"{facts.get('init_seconds', 0):.2f}", _count(accepted), _count(facts.get("raised")), _count(kept), lost,
            f"{facts.get('longest_call', 0):.3f}", end, _count(facts["output_bytes"]), said or "",
        ]  # fmt: skip

    head = [
        "",
        "init s",
        "accepted",
        "raised",
        "found",
        "lost",
        "longest call s",
        "end s",
        "output bytes",
        "first error",
    ]
    return table(head, [row(name, facts) for name, facts in results.items()])


def _count(value: int | None) -> str | None:
    return None if value is None else f"{value:,}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
