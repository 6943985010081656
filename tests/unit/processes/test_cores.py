"""A process of ours that crashes leaves no image of its memory, in which tokens would stand (S3)."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.canary import CANARY

CRASH = """
import os, resource, sys
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
if sys.argv[1] == "careful":
    from seclea.processes.cores import leave_no_core
    leave_no_core()
    assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
if sys.argv[1] == "filtered":
    open("/proc/self/coredump_filter", "w").write("0")
secret = sys.stdin.readline()
os.abort()
"""


def crash(how: str, directory: Path) -> list[bytes]:
    """The cores that a crash leaves."""
    done = subprocess.run(
        [sys.executable, "-c", CRASH, how],
        input=CANARY + "\n",
        text=True,
        capture_output=True,
        cwd=directory,
        env={"PYTHONPATH": str(Path(__file__).parents[3])},
        timeout=60,
    )
    assert done.returncode == -signal.SIGABRT, done.stderr
    cores = [path.read_bytes() for path in directory.iterdir()]
    for path in directory.iterdir():
        path.unlink()
    return cores


def test_a_crash_leaves_no_core_and_one_in_spite_of_that_would_hold_nothing(tmp_path: Path) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern")
    if not pattern.exists() or "/" in pattern.read_text() or "|" in pattern.read_text():
        pytest.skip("cores of this machine do not go into the working directory")
    if resource.getrlimit(resource.RLIMIT_CORE)[1] == 0:
        pytest.skip("no process here may leave a core")
    (core,) = crash("careless", tmp_path)
    assert CANARY.encode() in core, "without our care it stands there"
    assert crash("careful", tmp_path) == []
    assert not any(CANARY.encode() in core for core in crash("filtered", tmp_path)), "as where cores go into a pipe"
