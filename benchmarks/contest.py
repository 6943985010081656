"""Contenders take turns: several rounds, each contender in a fresh process, the order turned by one each round.

One that fails to install, raises or takes too long is reported as such; the others go on.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.environments import Environment, Unavailable, python_of

ROOT = Path(__file__).resolve().parents[1]
CONTENDERS = Path(__file__).resolve().parent / "contenders"
_BEGAN = time.monotonic()

# What keeps peers off the network and quiet, each by its own documentation; and one thread for the work of a training step.
_QUIET = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "",
}


class ContenderFailed(Exception):
    """A contender did not give a result."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One contender of one question.

    Attributes:
        name: as in the tables.
        environment: which Python it runs in.
        script: of `benchmarks/contenders`.
        arguments: of the script, before the directory and the file for the result.
        timeout_seconds: after which it is killed and reported.
        rounds: fewer than the others take, for one that is measured beside them only.
    """

    name: str
    environment: Environment
    script: str
    arguments: Sequence[str]
    timeout_seconds: float = 120.0
    rounds: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


def say(text: str) -> None:
    """A line of progress, with the minutes and seconds since the start."""
    minutes, seconds = divmod(int(time.monotonic() - _BEGAN), 60)
    print(f"[{minutes:2}:{seconds:02}] {text}", file=sys.stderr, flush=True)


def contest(question: str, contenders: Sequence[Contender], rounds: int) -> dict[str, Any]:
    """Run all of them.

    Returns:
        Per contender {"rounds": [figures, …]}, with "error" where one failed (and how); it is left out from then on.
    """
    results: dict[str, Any] = {one.name: {"rounds": []} for one in contenders}
    for number in range(rounds):
        for position in range(len(contenders)):
            one = contenders[(position + number) % len(contenders)]
            result = results[one.name]
            if "error" in result or number >= (one.rounds or rounds):
                continue
            began = time.monotonic()
            try:
                result["rounds"].append(run(one))
                word = ""
            except (ContenderFailed, Unavailable) as error:
                result["error"] = word = str(error)
            say(f"{question} {number + 1}/{rounds} {one.name} {time.monotonic() - began:.1f} s{word and ': ' + word}")
    return results


def run(one: Contender) -> dict[str, Any]:
    """One contender, once. Its home, its files and its background processes are gone afterwards.

    Raises:
        ContenderFailed: it ended with an error, or did not end.
        Unavailable: its environment could not be made.
    """
    python = python_of(one.environment)
    directory = Path(tempfile.mkdtemp(prefix="seclea-bench-"))
    environment = variables_of(one, directory)
    (directory / "files").mkdir(mode=0o700)
    result, output = directory / "result.json", directory / "output.txt"
    try:
        command = [python, str(CONTENDERS / one.script), *one.arguments, str(directory / "files"), str(result)]
        with output.open("wb") as file:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                cwd=directory,
                env=environment,
                start_new_session=True,
            )
        code, ended = wait_for(process, one.timeout_seconds)
        if not result.exists() or code:
            words = output.read_text("utf-8", "replace").strip().splitlines()[-3:]
            how = f"killed after {one.timeout_seconds:g} s" if code == -signal.SIGKILL else f"ended with {code}"
            raise ContenderFailed(f"{how}: {' | '.join(words)[-400:]}")
        found: dict[str, Any] = json.loads(result.read_text("utf-8"))
        if "last_call" in found:
            found["exit_seconds"] = ended - found.pop("last_call")
        return found
    finally:
        if not one.environment.name:
            stop_pipeline(environment)
        shutil.rmtree(directory, ignore_errors=True)


def variables_of(one: Contender, directory: Path) -> dict[str, str]:
    """The environment of a contender that keeps everything in ``directory``."""
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("SECLEA_", "PYTHON", "XDG_"))},
        **_QUIET,
        "HOME": str(directory),
        "SECLEA_HOME": str(directory / "home"),
        "TRACKIO_DIR": str(directory / "trackio"),
        **one.variables,
    }
    if not one.environment.name:
        variables["PYTHONPATH"] = str(ROOT)
    return variables


def wait_for(process: subprocess.Popen[bytes], timeout_seconds: float) -> tuple[int, float]:
    """(exit code, the instant it was gone). A wait with a timeout would poll, so the timeout is a thread's."""

    def kill() -> None:
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    timer = threading.Timer(timeout_seconds, kill)
    timer.start()
    try:
        code = process.wait()
        return code, time.monotonic()
    finally:
        timer.cancel()
        timer.join()
        kill()  # what a peer left behind in its group


def stop_pipeline(environment: Mapping[str, str]) -> None:
    """End the writer and sender of a home, if there were any."""
    if (Path(environment["SECLEA_HOME"])).exists():
        subprocess.run(
            [sys.executable, "-m", "seclea", "stop"],
            env=dict(environment),
            check=False,
            capture_output=True,
            timeout=60,
        )
