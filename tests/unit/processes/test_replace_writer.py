"""A writer that was killed may still take connections for a moment: that is no sign of life."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seclea.contract import Home
from seclea.processes import start
from seclea.processes.rendezvous import listen, prepare


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    directory = Path(tempfile.mkdtemp(prefix="seclea-r-"))  # short: the socket's path must be
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    made = Home(directory / "home")
    prepare(made)
    yield made
    shutil.rmtree(directory)


def test_a_socket_that_takes_connections_and_answers_nothing_is_not_a_writer(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    dying = listen(home)
    started: list[str] = []

    def spawn(module: str, arguments: Any, log: Path, pass_fds: Any) -> subprocess.Popen[bytes]:
        started.append(module)
        return subprocess.Popen([sys.executable, "-c", ""])

    def asked(place: Home, message: Any, timeout: float) -> None:
        dying.close()  # at last its socket goes, too
        return None

    monkeypatch.setattr(start, "spawn_detached", spawn)
    monkeypatch.setattr(start, "ask", asked)
    assert start.ensure_writer(home).found  # the bell rings
    start.replace_writer(home, timeout_seconds=30)
    assert started == ["seclea.writer"]


def test_a_writer_that_answers_is_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    living = listen(home)
    monkeypatch.setattr(start, "spawn_detached", lambda *_: pytest.fail("another one was started"))
    monkeypatch.setattr(start, "ask", lambda *_: {"pid": os.getpid()})
    start.replace_writer(home, timeout_seconds=30)
    living.close()
