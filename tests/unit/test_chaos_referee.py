"""R27: the referee of the random kills sees what is lost, twice, out of order, altered, unasked for, or said falsely."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.chaos.referee import VALUES_OF_A_VOICE, Referee, Told, number_of, read_notes

SHA256 = hashlib.sha256(b"weights").hexdigest()


class Held:
    """What a portal holds, to be edited."""

    def __init__(self) -> None:
        self.run: dict[str, Any] | None = {"uuid": "r", "status": "finished"}
        self.values = [*voice("main", 0, 1, 2), *voice("child", 0, 1)]
        self.curve: dict[str, Any] = {"gaps": [], "tombstones": []}
        self.states = [{"uuid": "s1", "sequence_num": 1}, {"uuid": "s2", "sequence_num": 2}]
        self.content = b"weights"
        self.datasets = {
            "d1": {"uuid": "d1", "name": "raw", "hash": "h1", "parent": None},
            "d2": {"uuid": "d2", "name": "doubled", "hash": "h2", "parent": "d1"},
        }
        self.steps = {"d1": 0, "d2": 1}

    def answer(self, path: str, query: str) -> Any:
        match path.removeprefix("/collection/").split("/"):
            case ["training-runs"]:
                return [self.run]
            case ["training-runs", "r"]:
                return self.run
            case ["training-runs", "r", "metrics"]:
                return {"values": self.values, **self.curve}
            case ["model-states"]:
                return self.states
            case [_, _, "content"]:
                return self.content
            case ["datasets"]:
                return list(self.datasets.values())
            case ["datasets", uuid]:
                return self.datasets.get(uuid)
            case ["dataset-transformations"]:
                return [{}] * self.steps[query.rpartition("dataset=")[2]]
        return None


def voice(name: str, *numbers: int) -> list[float]:
    return [float(number_of(name) * VALUES_OF_A_VOICE + number) for number in numbers]


@pytest.fixture
def held() -> Held:
    return Held()


@pytest.fixture
def referee(held: Held) -> Iterator[Referee]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # head and body in one packet

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            answer = held.answer(parts.path, parts.query)
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(404 if answer is None else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        found = Referee(f"http://127.0.0.1:{server.server_address[1]}", "token")
        yield found
        found.close()
        server.shutdown()
        thread.join()


@pytest.fixture
def told(tmp_path: Path) -> Told:
    notes = [
        {"begun": "run"}, {"begun": "dataset", "name": "raw"},
        {"dataset": "d1", "digest": "h1", "sha256": SHA256, "parent": None, "steps": 0},
        {"begun": "dataset", "name": "doubled"},
        {"dataset": "d2", "digest": "h2", "sha256": SHA256, "parent": "d1", "steps": 1},
        {"run": "r"}, {"voice": "main", "value": 0}, {"level": "delivered", "values": {"main": 1}},
        {"begun": "state"}, {"state": "s1", "sha256": SHA256}, {"voice": "child", "value": 0},
        {"voice": "main", "value": 1}, {"level": "durable", "values": {"main": 2}}, {"voice": "child", "value": 1},
        {"begun": "state"}, {"state": "s2", "sha256": SHA256}, {"voice": "main", "value": 2},
        {"begun": "finish"}, {"finished": True},
    ]  # fmt: skip
    path = tmp_path / "notes"
    path.write_text("\n".join(map(json.dumps, notes)), "utf-8")
    return read_notes(path)


def test_what_is_as_it_was_told_is_right_at_every_level(referee: Referee, told: Told) -> None:
    assert [referee.judge(told, level) for level in ("handed", "durable", "delivered")] == [[], [], []]
    assert referee.judge_all([told]) == []


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda held: held.values.remove(*voice("main", 2)), "main: lost: 2 values, 3 told handed"),
        (lambda held: held.values.extend(voice("main", 3)), "main: 4 values, 3 told when it had finished"),
        (lambda held: held.values.extend(voice("child", 1)), "child: twice, altered or out of order"),
        (lambda held: held.values.extend(voice("child", 2, 3)), "child: more than logged: 4 values, 2 told"),
        (lambda held: held.values.reverse(), "out of order"),
        (lambda held: held.values.extend(voice("stranger", 0, 1)), "never told,: more than logged"),
        (lambda held: held.curve.update(gaps=[{"first": 1}]), "gaps"),
        (lambda held: held.curve.update(tombstones=[{"count": 1}]), "left out"),
        (lambda held: held.run.update(status="running"), "finish was told, the portal says 'running'"),
        (lambda held: setattr(held, "run", None), "lost: the run itself"),
        (lambda held: held.states.pop(), "states lost or out of order"),
        (lambda held: held.states.append({"uuid": "s3", "sequence_num": 3}), "3 states, 2 begun"),
        (lambda held: held.states.append(held.states[0]), "a state is there twice"),
        (lambda held: held.states[1].update(sequence_num=4), "numbers of states"),
        (lambda held: setattr(held, "content", b"other"), "altered"),
        (lambda held: held.datasets.pop("d2"), "lost: dataset d2"),
        (lambda held: held.datasets.pop("d1"), "its parent d1 is not there"),
        (lambda held: held.datasets["d2"].update(hash="other"), "dataset d2: altered"),
        (lambda held: held.steps.update(d2=0), "0 steps, 1 told"),
    ],
)
def test_what_is_not_as_it_was_told_is_named(edit: Any, said: str, held: Held, referee: Referee, told: Told) -> None:
    edit(held)
    wrong = referee.judge(told)
    assert any(said in one for one in wrong), wrong


def test_once_the_rings_are_gone_the_durable_must_be_there_and_no_more(
    held: Held, referee: Referee, told: Told
) -> None:
    held.values = voice("main", 0, 1)
    assert referee.judge(told, "durable") == []
    held.values = voice("main", 0)
    assert "lost: 1 values, 2 told durable" in referee.judge(told, "durable")[0]
    assert referee.judge(told, "delivered") == []
    held.values = []
    assert "lost: 0 values, 1 told delivered" in referee.judge(told, "delivered")[0]


def test_what_nobody_made_and_what_was_raised_is_named(held: Held, referee: Referee, told: Told) -> None:
    held.datasets["d3"] = {"uuid": "d3", "name": "strange", "hash": "h", "parent": None}
    held.datasets["d4"] = {"uuid": "d4", "name": "raw", "hash": "h1", "parent": None}
    assert isinstance(held.run, dict)
    held.run["uuid"] = "other"
    assert len(referee.judge_all([told])) == 3
    told.raised.append("OSError: no")
    assert any("raised into the job" in one for one in referee.judge(told))
