"""The search for secrets after every test can fail: one is planted in each place where it looks (S3)."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from seclea.api.tokens import Token, TokenStore
from tests import canary
from tests.canary import CANARY
from tests.pipeline import ROOT, PipelineHome, until


def in_a_log(home: PipelineHome) -> str:
    path = home.home.logs / "sender.log"
    path.parent.mkdir(parents=True)
    path.write_text(f"POST /x Cookie: access_token=access-{CANARY}\n")
    return str(path)


def in_the_work_directory(home: PipelineHome) -> str:
    (home.work / "core").write_bytes(b"\0" * 5000 + CANARY.encode() + b"\0" * 5000)
    return str(home.work / "core")


def in_the_ledger_with_the_stores_own_token(home: PipelineHome) -> str:
    home.home.path.mkdir(mode=0o700)
    TokenStore(home.home.tokens).write("https://auth.example.com", Token("eyJhbGciOi.of.a-portal"), None)
    home.home.ledger.write_bytes(b"SQLite format 3\0...eyJhbGciOi.of.a-portal...")
    return str(home.home.ledger)


def in_what_a_command_says(home: PipelineHome) -> str:
    home.said.append(("what seclea status said", f"logged in with access-{CANARY}"))
    return "what seclea status said"


def in_what_a_script_prints(home: PipelineHome) -> str:
    home.run(f'print("canary-" + "{CANARY.removeprefix("canary-")}")')
    return "the output of script0.py"


def in_what_a_script_complains_of(home: PipelineHome) -> str:
    script = home.script(f'import sys; print("canary-" + "{CANARY.removeprefix("canary-")}", file=sys.stderr)')
    script.end()
    return str(script.path.with_suffix(".err"))


@pytest.mark.parametrize(
    "plant",
    [
        in_a_log,
        in_the_work_directory,
        in_the_ledger_with_the_stores_own_token,
        in_what_a_command_says,
        in_what_a_script_prints,
        in_what_a_script_complains_of,
    ],
)
def test_a_secret_that_is_planted_is_found(home: PipelineHome, plant: Callable[[PipelineHome], str]) -> None:
    assert home.leaks() == []
    where = plant(home)
    assert home.leaks() == [where]
    home.said.clear()
    home.scripts.clear()
    for path in (home.home.path, home.work):  # or the fixture itself would, rightly, fail
        subprocess.run(["rm", "-rf", str(path)], check=True)
    home.work.mkdir()


@pytest.mark.parametrize("name", ["cmdline", "environ"])
def test_a_secret_that_a_process_of_ours_is_started_with_is_found(home: PipelineHome, name: str) -> None:
    command = [sys.executable, "-c", "input()", "-m seclea.writer ", str(home.path)]
    environment = {**os.environ, "PASSWORD": CANARY} if name == "environ" else dict(os.environ)
    planted = subprocess.Popen(
        [*command, CANARY] if name == "cmdline" else command, stdin=subprocess.PIPE, env=environment
    )
    try:
        until(lambda: planted.pid in home.processes(), "the process to be there")
        assert home.leaks() == [f"/proc/{planted.pid}/{name}"]
    finally:
        planted.communicate(b"\n", timeout=30)


PLANTED = """
import logging, sys
from tests.canary import CANARY

def test_that_prints():
    print("token", CANARY)

def test_that_logs():
    logging.getLogger("seclea.api").warning("token %s", CANARY)

def test_that_complains():
    print("token", CANARY, file=sys.stderr)

def test_that_keeps_it_to_itself():
    assert CANARY
"""


def test_a_secret_in_what_pytest_captures_of_a_test_fails_it(tmp_path: Path) -> None:
    (tmp_path / "test_planted.py").write_text(PLANTED)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        "--rootdir",
        ROOT,
    ]
    run = subprocess.run([*command, tmp_path / "test_planted.py"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert "3 failed, 1 passed" in run.stdout, run.stdout + run.stderr
    for what in ("stdout", "log", "stderr"):
        assert f"a secret stands in: Captured {what} call" in run.stdout


def test_both_words_are_searched_for_wherever_they_stand() -> None:
    assert [*canary.in_text([(word, f"...{word}...") for word in canary.WORDS] + [("nothing", "canary-")])] == [
        *canary.WORDS
    ]
