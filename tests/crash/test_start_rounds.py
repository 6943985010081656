"""R21: many processes start at one instant, some killed inside the start lock: always one writer, and nothing is lost."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.pipeline import ROOT


def rounds(processes: int, number: int, seed: int) -> str:
    """Run the harness; its report, and a failure with it when the referee found anything."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECLEA_")}
    sizes = ["--processes", str(processes), "--rounds", str(number), "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos.start_rounds", *sizes],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(200)
def test_twelve_processes_that_start_at_once_have_one_writer_whoever_is_killed_inside_the_lock() -> None:
    said = rounds(12, 4, seed=3)
    assert "0 things wrong" in said
    assert re.search(r"\d (lock|spawn|spawned)\b", said), f"nobody was killed inside the lock: {said}"


@pytest.mark.chaos
@pytest.mark.timeout(3000)
def test_two_hundred_processes_that_start_at_once_have_one_writer() -> None:
    assert "0 things wrong" in rounds(200, 20, seed=7)
