"""R1: clients, writer and sender killed at random; what `log` returned for is at the portal once, in order."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.pipeline import ROOT


def campaign(kills: int, seed: int) -> str:
    """Run the chaos harness; its report, and a failure with it when the referee found anything."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SECLEA_")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.chaos", "kills", "--kills", str(kills), "--seed", str(seed)],
        capture_output=True, text=True, cwd=ROOT, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    return done.stdout


@pytest.mark.timeout(300)
def test_after_twenty_five_kills_everything_that_was_logged_is_at_the_portal_once_in_order() -> None:
    assert "0 rounds with things wrong" in campaign(25, seed=20)


@pytest.mark.chaos
@pytest.mark.timeout(1200)
def test_after_two_hundred_kills_everything_that_was_logged_is_at_the_portal_once_in_order() -> None:
    assert "0 rounds with things wrong" in campaign(200, seed=7)
