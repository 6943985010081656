"""Curves: what comes back is what went in, and what is missing is said."""

from __future__ import annotations

import hashlib
import math
import random
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from tests.contract.portal_server import PortalServer, Session, Stream, pack, running_portal


@pytest.fixture(scope="module")
def portal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PortalServer]:
    with running_portal(tmp_path_factory.mktemp("portal") / "data") as server:
        yield server


@pytest.fixture(scope="module")
def owner(portal: PortalServer) -> Session:
    return portal.owner()


@pytest.fixture(scope="module")
def organization(owner: Session) -> str:
    return str(owner.get("/organization/").json()[0]["uuid"])


@pytest.fixture
def run(owner: Session, organization: str) -> str:
    project = owner.post("/collection/projects", json={"name": str(uuid.uuid4()), "organization": organization}).json()
    made = owner.post(
        f"/collection/training-runs?organization={organization}",
        json={"project": project["uuid"], "name": "r", "started_ns": 1},
    )
    return str(made.json()["uuid"])


@pytest.fixture
def stream(owner: Session, organization: str) -> Stream:
    return Stream(owner, organization)


def curve(owner: Session, run: str, key: str, points: int | None = None) -> dict[str, list[float]]:
    reply = owner.get(
        f"/collection/training-runs/{run}/metrics",
        params={"key": key} | ({"points": points} if points is not None else {}),
    )
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def database(portal: PortalServer) -> sqlite3.Connection:
    return sqlite3.connect(portal.data / "portal.db", timeout=10, isolation_level=None)


def test_every_point_comes_back_in_order_with_its_step_and_time(owner: Session, stream: Stream, run: str) -> None:
    for batch in range(3):
        calls = [{"loss": batch + i / 10, "acc": float(i)} for i in range(5)]
        assert stream.send_metrics(run, calls, step=5 * batch).status_code == 201
    told = curve(owner, run, "loss")
    assert told["values"] == [batch + i / 10 for batch in range(3) for i in range(5)]
    assert told["steps"] == list(range(15)) and told["count"] == 15 and told["ranks"] == [0] * 15
    assert told["times"][0] == 1_700_000_000_000_000_000
    assert told["gaps"] == told["tombstones"] == []
    keys = owner.get(f"/collection/training-runs/{run}/metric-keys").json()
    assert keys == [
        {"key": "acc", "count": 15, "first_step": 0, "last_step": 14},
        {"key": "loss", "count": 15, "first_step": 0, "last_step": 14},
    ]


def test_calls_with_different_keys_are_told_apart(owner: Session, stream: Stream, run: str) -> None:
    calls = [{"a": 1.0}, {"a": 2.0, "b": 20.0}, {"c": 300.0, "b": 30.0}, {"a": 4.0}]
    assert stream.send_metrics(run, calls).status_code == 201
    assert (curve(owner, run, "a")["values"], curve(owner, run, "a")["steps"]) == ([1.0, 2.0, 4.0], [0, 1, 3])
    assert (curve(owner, run, "b")["values"], curve(owner, run, "b")["steps"]) == ([20.0, 30.0], [1, 2])
    assert curve(owner, run, "nothing")["count"] == 0


def test_numbers_that_json_has_no_word_for_come_back_as_words(owner: Session, stream: Stream, run: str) -> None:
    assert stream.send_metrics(run, [{"x": v} for v in (1.0, math.nan, math.inf, -math.inf, -0.0)]).status_code == 201
    assert curve(owner, run, "x")["values"] == [1.0, "NaN", "Infinity", "-Infinity", -0.0]


def test_each_rank_is_named(owner: Session, organization: str, run: str) -> None:
    for rank in (0, 1):
        own = Stream(
            owner, organization, f"00000000-0000-4000-8000-{rank:012d}"[:-12] + f"{rank}{uuid.uuid4().hex[:11]}"
        )
        assert own.send_metrics(run, [{"loss": float(rank)}] * 3, rank=rank).status_code == 201
    told = curve(owner, run, "loss")
    assert told["ranks"] == [0, 0, 0, 1, 1, 1] and told["values"] == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize("points", [0, 1, 2, 3, 10, 99, 499, 500, 501, 1000])
def test_a_thinned_curve_keeps_extremes_and_is_never_longer_than_asked(
    owner: Session, stream: Stream, run: str, points: int
) -> None:
    source = random.Random(points)
    values = [source.gauss(0, 1) for _ in range(500)]
    values[123], values[377] = 99.0, -99.0
    assert stream.send_metrics(run, [{"x": value} for value in values]).status_code == 201
    told = curve(owner, run, "x", points)
    assert told["count"] == 500 and len(told["values"]) <= points
    assert len(told["values"]) == len(told["steps"]) == len(told["times"]) == len(told["ranks"])
    assert all(values[step] == value for step, value in zip(told["steps"], told["values"], strict=True))
    assert told["steps"] == sorted(told["steps"])
    if points >= 2:
        assert {99.0, -99.0} <= set(told["values"])
    if points >= 500:
        assert told["values"] == values


def test_a_nan_is_not_thinned_away(owner: Session, stream: Stream, run: str) -> None:
    values = [1.0] * 300
    values[200] = math.nan
    assert stream.send_metrics(run, [{"x": value} for value in values]).status_code == 201
    assert "NaN" in curve(owner, run, "x", 20)["values"]


def test_a_dropped_batch_is_visible(portal: PortalServer, owner: Session, stream: Stream, run: str) -> None:
    for batch in range(3):
        assert stream.send_metrics(run, [{"loss": float(batch)}] * 4).status_code == 201
    db = database(portal)
    db.execute("DELETE FROM metric_batches WHERE stream = ? AND first = 5", (stream.id,))
    db.close()
    told = curve(owner, run, "loss")
    assert told["gaps"] == [{"stream": stream.id, "first": 5, "last": 8, "reason": "missing"}]
    assert told["count"] == 8
    (receipt,) = owner.get(f"/collection/receipts?stream={stream.id}").json()
    assert (receipt["counts"]["metrics"], receipt["points"]) == (2, 8)


def test_a_batch_dropped_with_its_record_is_visible_even_at_the_end(
    portal: PortalServer, owner: Session, stream: Stream, run: str
) -> None:
    for batch in range(3):
        assert stream.send_metrics(run, [{"loss": float(batch)}] * 4).status_code == 201
    db = database(portal)
    for first in (1, 9):
        for table in ("metric_batches", "records"):
            db.execute(f"DELETE FROM {table} WHERE stream = ? AND first = ?", (stream.id, first))
    db.close()
    gaps = [(gap["first"], gap["last"]) for gap in curve(owner, run, "loss")["gaps"]]
    assert gaps == [(1, 4), (9, 12)]


def test_an_altered_batch_is_visible_and_not_served(
    portal: PortalServer, owner: Session, stream: Stream, run: str
) -> None:
    for batch in range(2):
        assert stream.send_metrics(run, [{"loss": float(batch)}] * 4).status_code == 201
    db = database(portal)
    (body,) = db.execute("SELECT body FROM metric_batches WHERE stream = ? AND first = 1", (stream.id,)).fetchone()
    altered = body[:-1] + bytes([body[-1] ^ 1])
    for digest in (None, hashlib.sha256(altered).digest()):  # the digest beside the body may be altered too
        db.execute(
            "UPDATE metric_batches SET body = ?, digest = coalesce(?, digest) WHERE stream = ? AND first = 1",
            (altered, digest, stream.id),
        )
        told = curve(owner, run, "loss")
        assert told["gaps"] == [{"stream": stream.id, "first": 1, "last": 4, "reason": "damaged"}]
        assert told["values"] == [1.0] * 4
    db.close()


def test_what_finish_announced_and_has_not_come_is_visible(owner: Session, stream: Stream, run: str) -> None:
    assert stream.send_metrics(run, [{"loss": 1.0}] * 2).status_code == 201
    other = str(uuid.uuid4())
    ends = [
        {"stream": stream.id, "lane": "ordered", "sequence": 2},
        {"stream": other, "lane": "ordered", "sequence": 9},
    ]
    body = {"status": "preempted", "finished_ns": 1, "streams": ends}
    assert stream.send("ordered", "finish", f"/collection/training-runs/{run}/finish", body).status_code == 201
    told = curve(owner, run, "loss")
    assert told["gaps"] == [{"stream": other, "first": 1, "last": 9, "reason": "awaited"}]


def test_what_the_client_left_out_is_told_with_the_curve(owner: Session, stream: Stream, run: str) -> None:
    assert stream.send_metrics(run, [{"loss": 1.0}] * 2).status_code == 201
    stone = {"kind": "metrics", "count": 40, "reason": "dropped", "detail": "paused", "stands_for": None}
    assert stream.send("ordered", "tombstone", "/collection/tombstones", stone).status_code == 201
    told = curve(owner, run, "loss")
    assert told["gaps"] == []
    assert told["tombstones"] == [{"stream": stream.id, "sequence": 3, "count": 40, "reason": "dropped"}]


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"run": 7},
        {"first": 0},
        {"first": 2},
        {"last": 3},
        {"count": 99},
        {"keys": []},
        {"keys": ["a", "a"]},
        {"keys": ["x" * 2000]},
        {"key": b"\xff\xff" * 2},
        {"sequence": b"\x09\x00\x00\x00" * 2},
        {"value": b""},
        {"rank": -1},
        {"rank": 2**40},
    ],
)
def test_a_batch_that_cannot_be_read_is_refused_and_the_stream_goes_on(
    owner: Session, stream: Stream, run: str, change: dict[str, object]
) -> None:
    body = msgpack.unpackb(pack(run, 1, [{"loss": 1.0}] * 2))
    raw = msgpack.packb({**body, **change})
    headers = stream.headers("ordered", "metrics", hashlib.sha256(raw).digest(), count=2)
    assert stream.post("/collection/metrics", raw, headers).status_code == 400
    assert stream.send_metrics(run, [{"loss": 1.0}] * 2).status_code == 201


@pytest.mark.parametrize("raw", [b"", b"\xc1", b"\x81", b"{}", b"\xdf\xff\xff\xff\xff", b"\x91" * 5000])
def test_what_is_no_msgpack_is_refused_with_400(stream: Stream, raw: bytes) -> None:
    headers = stream.headers("ordered", "metrics", hashlib.sha256(raw).digest())
    assert stream.post("/collection/metrics", raw, headers).status_code == 400


def test_metrics_of_a_run_that_is_not_here_yet_name_it(stream: Stream) -> None:
    run = str(uuid.uuid4())
    reply = stream.send_metrics(run, [{"loss": 1.0}])
    assert (reply.status_code, reply.json()["code"], reply.json()["missing"]) == (404, "missing_parent", run)


def test_a_batch_is_one_row_whatever_it_holds(portal: PortalServer, owner: Session, stream: Stream, run: str) -> None:
    assert stream.send_metrics(run, [{"a": 1.0, "b": 2.0}] * 1000).status_code == 201
    db = database(portal)
    (rows,) = db.execute("SELECT count(*) FROM metric_batches WHERE stream = ?", (stream.id,)).fetchone()
    db.close()
    assert rows == 1 and Path(portal.data).exists()
    assert curve(owner, run, "b")["count"] == 1000
