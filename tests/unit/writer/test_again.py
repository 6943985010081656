"""Records that are sent again after a refusal: the chain stays as it is, and what was refused stays to be seen in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.contract import Outcome, Verdict
from seclea.records import unpack_metrics
from tests.unit.sender.test_lane import AWAY, DELIVERED, REFUSED, Bench, a_run
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import Client, Desk, Model, dataset


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    desk = Desk(tmp_path)
    made = Bench(desk)
    yield made
    made.close()
    check_ledger(desk.home.ledger)
    desk.ledger.close()


def deliver(bench: Bench) -> None:
    """Send until nothing is left, and commit what comes of it."""
    for _ in range(6):
        bench.ahead += 60.0
        for worker in (bench.ordered, bench.bulk):
            bench.run(worker)
        bench.apply()


def statuses(bench: Bench, kind: str) -> list[str]:
    return [status for (status,) in bench.desk.rows("status", "kind = ?", kind)]


def troubled(bench: Bench) -> list[str]:
    return [row["kind"] for row in bench.desk.ledger.troubled()]


def test_a_refused_batch_goes_again_at_the_end_of_its_stream_as_the_same_points(bench: Bench) -> None:
    index, _ = bench.client.run()
    bench.client.log(index, 0, loss=1.0)
    bench.client.log(index, 1, loss=0.5)
    bench.take()
    bench.portal.script.extend([DELIVERED, DELIVERED, REFUSED])
    deliver(bench)
    assert troubled(bench) == ["metrics"]
    assert bench.desk.retry() == (1, 0)
    assert troubled(bench) == []
    bench.client.log(index, 2, loss=0.25)
    bench.take()
    deliver(bench)
    assert bench.portal.kinds == ["project", "training_run", "metrics", "tombstone", "metrics", "metrics"]
    refused, stone, again, later = bench.portal.sent[2:]
    assert (refused.first, refused.last) == (stone.first, stone.last) == (2, 3)
    assert (again.first, again.last, later.first) == (4, 5, 6)
    assert again.key != refused.key
    moved, before = unpack_metrics(again.body), unpack_metrics(refused.body)
    assert (moved.first, moved.last, moved.value) == (4, 5, before.value)
    assert statuses(bench, "metrics") == ["Failed", "Completed", "Completed"], "the refusal stays to be seen"
    assert bench.desk.ledger.counts()["metrics"] == {"Completed": 2}


def test_a_refused_parent_holds_its_subtree_only_and_comes_again_with_it(bench: Bench) -> None:
    parent, sibling = dataset(b"parent", "parent"), dataset(b"sibling", "sibling")
    child = dataset(b"child", "child", parent=parent.uuid)
    for one, content in ((parent, b"parent"), (child, b"child"), (sibling, b"sibling")):
        bench.client.entity(bench.session, one, bench.desk.payload(content))
    index, run = bench.client.run(datasets=(child.uuid,))
    bench.client.log(index, 0, loss=1.0)
    bench.client.finish(index)
    bench.take()
    bench.run(bench.ordered)  # project
    bench.apply()
    bench.portal.script.append(REFUSED)
    deliver(bench)
    assert bench.portal.kinds == ["project", "dataset", "tombstone", "tombstone", "dataset"], "the sibling went"
    assert troubled(bench) == ["dataset", "dataset", "training_run", "metrics", "finish"]
    assert bench.desk.retry() == (5, 0)
    assert troubled(bench) == []
    deliver(bench)
    assert bench.portal.kinds[5:] == ["dataset", "dataset", "training_run", "metrics", "finish"]
    again, also = bench.portal.sent[5:7]
    assert (again.entity, also.entity) == (parent.uuid, child.uuid)
    assert (again.first, also.first) == (4, 5), "behind the sibling, in a bulk lane of the session"
    assert bench.portal.sent[7].entity == run.uuid
    assert bench.desk.ledger.pending() == (0, 0)
    assert bench.desk.ledger._all("SELECT * FROM chunks") == [], "its payload was kept until now, and not longer"


def test_what_is_refused_again_is_listed_again_and_its_subtree_held(bench: Bench) -> None:
    a_run(bench)
    bench.portal.script.extend([DELIVERED, REFUSED])
    deliver(bench)
    for _ in range(2):
        assert troubled(bench) == ["training_run", "metrics", "model_state", "finish"]
        bench.portal.script.append(REFUSED)
        assert bench.desk.retry() == (4, 0)
        assert troubled(bench) == []
        deliver(bench)
    assert bench.desk.retry() == (4, 0)
    deliver(bench)
    assert troubled(bench) == []
    runs = [record for record in bench.portal.sent if record.kind == "training_run"]
    assert len(runs) == 4 and len({record.key for record in runs}) == 1, "nothing stood in its place: it is the same"


def test_what_stands_behind_another_refusal_stays_held(bench: Bench) -> None:
    one, two = dataset(b"one", "one"), dataset(b"two", "two")
    for made, content in ((one, b"one"), (two, b"two")):
        bench.client.entity(bench.session, made, bench.desk.payload(content))
    bench.client.run(datasets=(one.uuid, two.uuid))
    bench.take()
    bench.run(bench.ordered)
    bench.apply()
    bench.portal.script.extend([REFUSED])
    bench.run(bench.bulk)
    bench.apply()
    bench.portal.script.extend([DELIVERED, REFUSED])  # its tombstone, and the other dataset
    deliver(bench)
    bench.desk.ledger._connection.execute("UPDATE records SET body = NULL WHERE entity = ?", (one.uuid,))
    assert bench.desk.retry() == (1, 1)
    deliver(bench)
    assert troubled(bench) == ["dataset", "training_run"]
    assert "refused" in bench.desk.ledger.troubled()[1]["hold"]


def test_a_name_that_another_has_taken_meanwhile_is_not_sent_again(bench: Bench) -> None:
    bench.client.entity(bench.session, dataset(b"old", "table"), bench.desk.payload(b"old"))
    bench.take()
    bench.portal.script.extend([DELIVERED])
    bench.run(bench.ordered)
    bench.apply()
    bench.portal.script.append(REFUSED)
    deliver(bench)
    bench.client.entity(bench.session, dataset(b"new", "table"), bench.desk.payload(b"new"))
    bench.take()
    assert bench.desk.retry() == (0, 1)
    assert troubled(bench) == ["dataset"]


def test_a_refused_record_whose_tombstone_still_waits_goes_behind_it(bench: Bench) -> None:
    bench.client.entity(bench.session, Model(name="Net", framework="sklearn"))
    bench.client.entity(bench.session, Model(name="Tree", framework="sklearn"))
    bench.take()
    bench.portal.script.extend([DELIVERED, REFUSED])
    bench.run(bench.ordered)
    bench.apply()
    bench.portal.script.append(AWAY)
    bench.run(bench.ordered)  # the tombstone, in vain
    assert bench.desk.retry() == (1, 0)
    deliver(bench)
    assert bench.portal.kinds == ["project", "model", "tombstone", "tombstone", "model", "model"]
    assert [record.first for record in bench.portal.sent[3:]] == [2, 3, 4]


def test_a_login_lifts_holds_and_sends_nothing_again_that_was_refused(bench: Bench) -> None:
    bench.portal.script.append(REFUSED)
    deliver(bench)
    bench.state.set_hold(None)
    deliver(bench)
    assert bench.portal.kinds.count("project") == 1


def test_the_newest_bodies_are_kept_and_the_oldest_dropped(bench: Bench) -> None:
    index, _ = bench.client.run()
    for step in range(25):
        bench.client.log(index, step, loss=1.0)
        bench.take()
    ledger, settler = bench.desk.ledger, bench.desk.settler
    size = bench.desk.rows("size", "kind = 'metrics'")[0][0]
    settler.keep_bytes = 12 * size
    deliver(bench)
    bodies = [body is not None for (body,) in bench.desk.rows("body", "kind = 'metrics'")]
    assert bodies == sorted(bodies), "the oldest go first"
    assert 9 <= sum(bodies) <= 12
    assert ledger.kept_bytes() == sum(bodies) * size
    assert ledger.drop_bodies(0) == 0


def test_what_only_this_ledger_has_keeps_its_body(bench: Bench) -> None:
    index, _ = bench.client.run()
    bench.client.log(index, 0, loss=1.0)
    bench.take()
    bench.portal.script.extend([DELIVERED, DELIVERED, Outcome(Verdict.KEPT_LOCALLY)])
    deliver(bench)
    bench.desk.ledger.drop_bodies(0)
    assert [body is not None for (body,) in bench.desk.rows("body", "kind = 'metrics'")] == [True]


def test_a_client_of_the_same_stream_goes_on_after_a_retry(bench: Bench) -> None:
    """The recorder's numbers follow the lane that the retry has moved."""
    index, _ = bench.client.run()
    bench.client.log(index, 0, loss=1.0)
    bench.take()
    bench.portal.script.extend([DELIVERED, DELIVERED, REFUSED])
    deliver(bench)
    bench.desk.retry()
    other = Client()
    other.stream()
    bench.desk.take(other)
    for step in (1, 2):
        bench.client.log(index, step, loss=0.5)
        bench.take()
    deliver(bench)
    batches = [record for record in bench.portal.sent if record.kind == "metrics"]
    assert [(record.first, record.last) for record in batches] == [(2, 2), (3, 3), (4, 4), (5, 5)]
