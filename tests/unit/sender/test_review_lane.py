"""A lane when something stands in the way: the rest goes on, and is found quickly."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seclea.contract import Outcome, Verdict
from seclea.ledger.db import Ledger
from seclea.queues.queue import Queue
from seclea.sender.sender import Sender
from tests.unit.sender.test_lane import DELIVERED, REFUSED, Bench
from tests.unit.writer.client import Client, Desk, dataset


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk = Desk(tmp_path)
    made = Bench(desk)
    yield made
    made.close()
    desk.ledger.close()


def test_a_stand_in_that_the_portal_does_not_take_yet_holds_up_its_own_stream_only(bench: Bench) -> None:
    index, _ = bench.client.run()
    bench.client.log(index, 0, loss=1.0)
    bench.client.finish(index)
    bench.client.run()
    bench.take()
    bench.portal.script.extend([DELIVERED, DELIVERED, REFUSED])  # project, run, metrics
    bench.run(bench.ordered)
    bench.apply()
    bench.portal.script.extend([Outcome(Verdict.GAP, 409, "gap", expected=1)])
    bench.run(bench.ordered)
    assert bench.portal.kinds.count("tombstone") == 1, "not again at once"
    assert bench.portal.kinds.count("training_run") == 2


def test_a_project_that_stands_in_the_stream_of_a_held_run_is_sent(bench: Bench) -> None:
    """A child's ring is read first: the project stands in the child's stream, before what is held there."""
    child, parent = Client("Other"), Client("Other")
    session = parent.stream()
    parent.entity(session, dataset(b"first"), bench.desk.payload(b"first"))
    twice = dataset(b"other")
    parent.entity(session, twice, bench.desk.payload(b"other"))
    _, run = parent.run(datasets=(twice.uuid,))
    theirs = child.stream(run.uuid, rank=1)
    child.log(theirs, 0, loss=1.0)
    for client in (child, parent):
        bench.desk.take(client)
    bench.desk.store_payloads()
    bench.run(bench.ordered)
    assert bench.portal.kinds == ["project", "project"]
    bench.apply()
    bench.run(bench.bulk)
    assert bench.portal.kinds[2:] == ["dataset"]


def test_what_is_asked_all_the_time_does_not_read_what_is_done(bench: Bench) -> None:
    """The plans of sqlite: a ledger with a million delivered records answers as fast as a fresh one."""
    ledger: Ledger = bench.desk.ledger
    asked: list[str] = []
    ledger._connection.set_trace_callback(asked.append)
    ledger.open_records(1, "ordered", 0, 10)
    ledger.held_streams(1, "ordered")
    ledger.pending(1)
    ledger.last_error(1)
    ledger.troubled(1)
    ledger.counts()
    ledger.saving()
    ledger.chunk_bytes()
    ledger.thin(10, keep=10, before_ns=10)
    ledger.thin(10, kept_here=True)
    ledger.dependents("x")
    ledger._connection.set_trace_callback(None)
    assert len(asked) >= 9
    for sql in asked:
        for step in ledger._all(f"EXPLAIN QUERY PLAN {sql}"):
            words = step["detail"].split()
            assert not (words[0] == "SCAN" and words[1] in ("r", "records") and "INDEX" not in words), (sql, words)


def test_a_word_to_leave_for_a_sender_that_is_gone_is_not_for_the_next(bench: Bench) -> None:
    home = bench.desk.home
    queues: list[Any] = [Queue(directory=home.queues / name, allow_pickle=False) for name in ("send", "settle")]
    sender = Sender(home, *queues)
    try:
        queues[0].put({"op": "leave", "sender": 1, "portal": True})
        sender.step()
        assert not sender.stopping.is_set() and not sender.stop_portal
        queues[0].put({"op": "leave", "portal": False})
        sender.step()
        assert sender.stopping.is_set()
    finally:
        for queue in queues:
            queue.close()


def test_a_resume_lifts_also_a_hold_that_only_the_ledger_has(bench: Bench) -> None:
    bench.state.set_hold(None)
    assert {"op": "destination", "destination": 1, "state": {"hold": None}} in bench.told
