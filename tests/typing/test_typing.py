"""Types are part of the interface: what users write type-checks, and what is wrong does not."""

import subprocess
import sys

from tests.pipeline import ROOT


def test_what_users_write_passes_mypy_strict() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "tests/typing/api.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=110,
    )
    assert (ran.returncode, ran.stdout) == (0, ""), ran.stdout + ran.stderr


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "seclea" / "py.typed").exists()
