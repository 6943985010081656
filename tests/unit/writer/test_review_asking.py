"""Questions at the writer's socket that no client of ours would ask."""

import os
import resource
import socket
import time
from pathlib import Path

import pytest

from seclea.contract import Home
from seclea.processes.rendezvous import encode, prepare
from seclea.writer.server import Server


@pytest.mark.parametrize("timeout", ["soon", [1], float("nan"), -1, float("inf")], ids=str)
def test_a_timeout_that_is_none_does_not_end_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, timeout: object
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    home = Home(tmp_path / "home")
    prepare(home)
    server = Server(home, lambda message: None)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(home.socket))
            peer.sendall(encode({"v": 1, "op": "flush", "timeout": timeout}))
            for _ in range(3):
                server.poll(0.01)
            (waiting,) = server._peers.values()
            assert 0 < waiting.deadline - time.monotonic() <= 86_400
    finally:
        server.unbind()
        server.close()


def test_a_writer_without_descriptors_does_not_spin_and_hears_the_caller_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    home = Home(tmp_path / "home")
    prepare(home)
    asked: list[str] = []
    server = Server(home, lambda message: asked.append(str(message["op"])) or {"ok": True})  # type: ignore[func-returns-value]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(str(home.socket))
            peer.sendall(encode({"v": 1, "op": "status"}))
            lowest_free = os.dup(peer.fileno())
            os.close(lowest_free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
            try:
                server.poll(0.01)
                before = time.monotonic()
                server.poll(0.2)
                assert time.monotonic() - before >= 0.19  # it waited, though somebody knocks
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            deadline = time.monotonic() + 10
            while not asked and time.monotonic() < deadline:
                server.poll(0.05)
            assert asked == ["status"]
    finally:
        server.unbind()
        server.close()
