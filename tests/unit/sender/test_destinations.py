"""Destinations beside each other: one that cannot be sent to leaves the others alone."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seclea.queues.queue import Queue
from seclea.sender.sender import Sender
from tests.pipeline import until
from tests.unit.writer.client import Client, Desk


def test_a_destination_with_an_impossible_address_is_held_and_the_others_have_their_lanes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk = Desk(tmp_path)
    for url in ("http://portal.example.com", "https://127.0.0.1:1"):
        client = Client(destination=(url, url, "Acme"))
        client.stream()
        desk.take(client)
    send = Queue(directory=desk.home.queues / "send", allow_pickle=False)
    settle = Queue(directory=desk.home.queues / "settle", allow_pickle=False)
    sender = Sender(desk.home, send, settle)
    sender.stopping.set()  # the lanes are made, and leave at once
    sender.open_destinations()
    assert list(sender._lanes) == [2]
    sender._resume(None)  # a person who changed nothing
    sender.close()
    told: list[dict[str, Any]] = settle.get_many(100, 0)
    (hold,) = {message["state"]["hold"] for message in told if message.get("destination") == 1}
    assert "plain http to another machine" in hold
    desk.ledger.close()
    send.close()
    settle.close()


def test_an_embedded_portal_that_ended_is_no_zombie_though_nothing_is_to_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk = Desk(tmp_path)
    send = Queue(directory=desk.home.queues / "send", allow_pickle=False)
    settle = Queue(directory=desk.home.queues / "settle", allow_pickle=False)
    sender = Sender(desk.home, send, settle)
    child = sender.portal._child = subprocess.Popen([sys.executable, "-c", ""])

    def reaped() -> bool:
        sender.step()
        return not Path(f"/proc/{child.pid}").exists()

    try:
        until(reaped, "the sender to wait for its child")
        assert sender.portal._child is None  # so that the next is started at once
    finally:
        child.wait()
        sender.close()
        desk.ledger.close()
        send.close()
        settle.close()
