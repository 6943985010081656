"""A portal that wants another record than the one it is offered: lost there, proved to be there, or held."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.contract import Outcome, Verdict
from seclea.entities import Kind
from seclea.records import Lane
from tests.unit.sender.test_lane import DELIVERED, REFUSED, Bench
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import Desk, dataset


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk = Desk(tmp_path)
    made = Bench(desk)
    yield made
    made.close()
    check_ledger(desk.home.ledger)
    desk.ledger.close()


def gap(expected: int) -> Outcome:
    return Outcome(Verdict.GAP, 409, "gap", expected=expected)


def turn(bench: Bench, times: int = 1) -> None:
    for _ in range(times):
        bench.ahead += 60.0
        for worker in (bench.ordered, bench.bulk):
            bench.run(worker)
        bench.apply()


def logged(bench: Bench, batches: int = 1) -> int:
    """A run of which so many batches were delivered, and one more that waits."""
    index, _ = bench.client.run()
    for step in range(batches):
        bench.client.log(index, step, loss=1.0)
        bench.take()
    turn(bench)
    bench.client.log(index, 9, loss=1.0)
    bench.take()
    return index


def holds(bench: Bench) -> list[str]:
    return [row["hold"] for row in bench.desk.ledger.troubled() if row["hold"]]


def test_what_the_portal_lost_goes_again_from_where_it_asks(bench: Bench) -> None:
    logged(bench, 3)
    delivered = bench.desk.ledger.delivered()
    sent = list(bench.portal.sent)
    bench.portal.script.append(gap(3))
    turn(bench)
    assert bench.desk.ledger.pending()[0] == 3, "open again, and waited for"
    assert bench.desk.ledger.delivered()[0] == delivered[0] - 2
    turn(bench)
    again = bench.portal.sent[len(sent) + 1 :]
    assert [record.first for record in again] == [3, 4, 5]
    assert [(record.key, record.body, record.chain) for record in again[:2]] == [
        (record.key, record.body, record.chain) for record in sent[-2:]
    ]
    assert bench.desk.ledger.pending() == (0, 0)
    assert bench.desk.ledger.delivered()[0] == delivered[0] + 1


def test_what_was_sent_a_moment_ago_goes_again_though_the_lane_remembers_it(bench: Bench) -> None:
    index, _ = bench.client.run()
    for step in range(2):
        bench.client.log(index, step, loss=1.0)
        bench.take()
    for _ in range(4):  # project, run, metrics: no look at an empty queue in between, at which it would be forgotten
        assert bench.ordered.step() == 0.0
    bench.apply()
    bench.client.log(index, 2, loss=1.0)
    bench.take()
    bench.portal.script.append(gap(2))
    bench.ordered.step()
    bench.apply()
    bench.ahead = 60.0
    bench.run(bench.ordered)
    assert [record.first for record in bench.portal.sent if record.kind == "metrics"] == [2, 3, 4, 2, 3, 4]


def test_a_portal_that_asks_again_and_again_is_not_believed(bench: Bench) -> None:
    index = logged(bench)
    for step in range(5):
        bench.portal.script.append(gap(2))
        turn(bench, 3)
        if holds(bench):
            break
        bench.client.log(index, step, loss=1.0)
        bench.take()
    assert holds(bench) == ["the portal asks again and again for what it acknowledged"]
    assert step == 3, "thrice it is believed"


def test_a_record_that_the_ledger_never_had_holds_the_stream_at_once(bench: Bench) -> None:
    logged(bench)
    run = bench.desk.ledger._connection.execute
    (known,) = bench.desk.rows("chain, first", "kind = 'training_run'")
    run("UPDATE records SET chain = NULL, first = NULL WHERE kind = 'training_run'")
    bench.portal.script.append(gap(1))
    turn(bench)
    assert "of which the ledger knows nothing" in holds(bench)[0]
    run("UPDATE records SET chain = ?, first = ? WHERE kind = 'training_run'", known)


def test_what_the_portal_has_already_is_proved_by_the_chain_of_its_head(bench: Bench) -> None:
    logged(bench, 2)
    (row,) = bench.desk.rows("chain, last", "status = 'Transmitting'")
    bench.portal.head = lambda *_, **__: (row[1], row[0])  # type: ignore[attr-defined]
    bench.portal.script.append(gap(5))
    turn(bench)
    assert bench.desk.ledger.pending() == (0, 0)
    assert holds(bench) == []


def test_another_history_at_the_portal_is_held_and_never_taken_for_ours(bench: Bench) -> None:
    logged(bench, 2)
    bench.portal.head = lambda *_, **__: (4, bytes(32))  # type: ignore[attr-defined]
    bench.portal.script.append(gap(5))
    turn(bench)
    assert bench.desk.ledger.pending() == (0, 0)
    assert "another history" in holds(bench)[0]


def test_a_payload_that_is_gone_is_held_and_a_tombstone_takes_its_place_when_a_person_says_so(bench: Bench) -> None:
    bench.client.entity(bench.session, dataset(b"one", "one"), bench.desk.payload(b"one"))
    bench.take()
    turn(bench)
    for sha256 in bench.desk.settler.free_chunks:
        bench.desk.spool.chunk_path(sha256).unlink()
    bench.desk.settler.free_chunks.clear()
    bench.client.entity(bench.session, dataset(b"two", "two"), bench.desk.payload(b"two"))
    bench.take()
    bench.portal.head = lambda *_, **__: Outcome(Verdict.MISSING)  # type: ignore[attr-defined]
    bench.portal.script.append(gap(1))
    turn(bench, 4)
    assert "not kept here any more" in holds(bench)[0]
    assert bench.portal.kinds.count("dataset") == 2, "nothing of its lane went before it"
    assert bench.desk.retry() == (1, 0)
    turn(bench, 2)
    assert bench.portal.kinds[-2:] == ["tombstone", "dataset"]
    assert [row["status"] for row in bench.desk.ledger.troubled()] == ["Failed"], "the loss stays to be seen"
    assert bench.desk.retry() == (0, 1), "and cannot be sent again"
    assert bench.desk.ledger._all("SELECT * FROM chunks") == []


def test_a_parent_that_the_portal_lost_goes_before_its_child(bench: Bench) -> None:
    parent = dataset(b"parent", "parent")
    bench.client.entity(bench.session, parent, bench.desk.payload(b"parent"))
    bench.take()
    turn(bench)
    bench.client.run(datasets=(parent.uuid,))
    bench.take()
    bench.portal.head = lambda *_, **__: Outcome(Verdict.MISSING)  # type: ignore[attr-defined]
    bench.portal.script.append(Outcome(Verdict.MISSING, 404, "no such dataset", missing=(parent.uuid,)))
    turn(bench, 3)
    assert bench.portal.kinds.count("dataset") == 2
    assert bench.portal.kinds[-1] == "training_run"
    assert bench.desk.ledger.pending() == (0, 0)


def test_a_parent_that_the_portal_lacks_and_nobody_can_send_holds_its_child_and_says_so(bench: Bench) -> None:
    parent = dataset(b"parent", "parent")
    bench.take()
    turn(bench)
    (project,) = bench.desk.ledger._all("SELECT * FROM entities")
    with bench.desk.ledger.transaction():  # as one that was found there
        bench.desk.recorder._entities.insert(parent.to_json(), Kind.DATASET, 1, project["uuid"], None)
        bench.desk.ledger.set_remote_id(parent.uuid, parent.uuid)
    bench.client.run(datasets=(parent.uuid,))
    bench.take()
    bench.portal.script.append(Outcome(Verdict.MISSING, 404, "no such dataset", missing=(parent.uuid,)))
    turn(bench)
    (held,) = bench.desk.ledger._all("SELECT kind, hold FROM records WHERE hold IS NOT NULL")
    assert held["kind"] == "training_run" and f"the portal lacks {parent.uuid}" in held["hold"]


def test_streams_that_had_ended_are_compared_once_one_was_seen_to_be_lost(bench: Bench) -> None:
    ended, _ = bench.client.run()
    bench.client.finish(ended)
    bench.take()
    logged(bench)
    asked: list[bytes] = []

    def head(stream: bytes, lane: str, *, organization: str) -> tuple[int, bytes] | Outcome:
        asked.append(stream)
        if lane == Lane.ORDERED and stream == bench.client.streams[ended]:
            return 1, bytes(32)
        return 99, bytes(32)

    bench.portal.head = head  # type: ignore[attr-defined]
    bench.portal.script.append(gap(2))
    turn(bench, 3)
    assert set(asked) == set(bench.client.streams)
    assert bench.portal.kinds.count("finish") == 2
    assert bench.desk.ledger.pending() == (0, 0)


def test_a_refused_tombstone_holds_its_stream_with_a_way_out(bench: Bench) -> None:
    index = logged(bench)
    bench.portal.script.extend([REFUSED])
    turn(bench)
    bench.client.finish(index)
    bench.take()
    bench.portal.script.extend([REFUSED, gap(3)])  # the tombstone, and what is behind it
    turn(bench, 2)
    assert "which failed: `seclea retry`" in holds(bench)[0]
    bench.portal.script.extend([DELIVERED] * 5)
    bench.desk.retry()
    turn(bench, 2)
    assert bench.desk.ledger.pending() == (0, 0)
    assert holds(bench) == []
