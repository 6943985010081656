"""Outcomes into rows: receipts, refusals with their tombstones, and who is held behind them."""

import hashlib
import json

import pytest

from seclea.ledger import tallies
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import Client, Desk, Model, dataset, state


@pytest.fixture
def job(desk: Desk) -> dict[str, int]:
    """A session with a model and a dataset, a run with metrics, a state and an end. Record numbers by name."""
    client = Client()
    session = client.stream()
    model = Model(name="Net", framework="pytorch")
    client.entity(session, model)
    table = dataset(b"table")
    client.entity(session, table, desk.payload(b"table"))
    child = dataset(b"child", "Child", parent=table.uuid)
    client.entity(session, child, desk.payload(b"child"))
    client.entity(session, dataset(b"free", "Free"), desk.payload(b"free"))
    index, run = client.run(model=model.uuid, datasets=(table.uuid,))
    client.log(index, 0, loss=1.0)
    client.entity(index, state(b"weights", run.uuid), desk.payload(b"weights"))
    client.finish(index)
    desk.take(client)
    desk.store_payloads()
    names = ("project", "model", "dataset", "child", "free", "run", "metrics", "state", "finish")
    return dict(zip(names, (number for (number,) in desk.rows("id")), strict=True))


def outcome(desk: Desk, record: int, columns: str) -> tuple[object, ...]:
    (row,) = desk.rows(columns, "id = ?", record)
    return row


def stones(desk: Desk) -> list[tuple[str, int, int, str]]:
    """(reason, stands for, position, status) of each tombstone."""
    rows = desk.rows("body, stands_for, position, status", "kind = 'tombstone'")
    return [(json.loads(body)["reason"], *rest) for body, *rest in rows]


def test_a_delivered_record_keeps_its_receipt_and_gives_its_payload_back(desk: Desk, job: dict[str, int]) -> None:
    receipt = {"sequence": 1}
    desk.settle(job["dataset"], "delivered", receipt=receipt, remote_id="theirs", streams=True)
    assert outcome(desk, job["dataset"], "status, receipt") == ("Completed", '{"sequence":1}')
    assert desk.settler.free_chunks == [hashlib.sha256(b"table").hexdigest()]
    (row,) = desk.ledger._all("SELECT remote_id FROM entities WHERE name = 'Claims' AND kind = 'dataset'")
    assert row["remote_id"] == "theirs"
    desk.settle(job["metrics"], "delivered", receipt=receipt, streams=True)
    status, body = outcome(desk, job["metrics"], "status, body")
    assert status == "Completed" and body, "kept for a portal that loses it"
    assert outcome(desk, job["metrics"], "length(digest), length(chain)") == (32, 32), "the chain can still be checked"
    assert desk.ledger.delivered() == (2, 1, desk.ledger._all("SELECT sum(bytes) FROM totals")[0][0])
    check_ledger(desk.home.ledger)


def test_an_outcome_that_comes_twice_changes_nothing_the_second_time(desk: Desk, job: dict[str, int]) -> None:
    desk.settle(job["dataset"], "delivered", receipt={}, remote_id="theirs", streams=True)
    desk.settle(job["child"], "refused", detail="400 no")
    before = desk.everything()
    for verdict in ("delivered", "adopted", "refused", "kept locally"):
        desk.settle(job["dataset"], verdict, remote_id="another", detail="late", streams=True)
        desk.settle(job["child"], verdict, remote_id="another", detail="late", streams=True)
    assert desk.everything() == before
    assert desk.ledger.delivered()[0] == 1


@pytest.mark.parametrize("verdict", ["unknown", "unavailable", "wait", "hold", "gap", "missing"])
def test_what_settles_nothing_leaves_the_record_as_it_is(desk: Desk, job: dict[str, int], verdict: str) -> None:
    before = desk.everything()
    desk.settle(job["dataset"], verdict, detail="not now")
    assert desk.everything() == before


def test_an_adopted_record_is_completed_and_a_stand_in_takes_its_place(desk: Desk, job: dict[str, int]) -> None:
    """The portal never saw the record in this stream: a tombstone tells it which of its objects ours is."""
    uuid, digest = outcome(desk, job["dataset"], "entity, digest")
    desk.settle(job["dataset"], "adopted", remote_id="theirs", streams=True)
    ((reason, stands_for, position, status),) = stones(desk)
    assert (reason, stands_for, position, status) == ("adopted", job["dataset"], job["dataset"], "Transmitting")
    ((body, stone),) = desk.rows("body, id", "kind = 'tombstone'")
    assert isinstance(digest, bytes)
    assert json.loads(body)["stands_for"] == {
        "kind": "dataset", "digest": digest.hex(), "uuid": uuid, "remote_id": "theirs",
    }  # fmt: skip
    same = "stream, lane, first, last, chain"
    assert outcome(desk, stone, same) == outcome(desk, job["dataset"], same)
    assert outcome(desk, job["dataset"], "status") == ("Completed",)
    # In the order of sending it is the first of its lane again.
    ((first, *_),) = desk.ledger._all(
        "SELECT id FROM records WHERE lane = 'bulk' AND status = 'Transmitting' ORDER BY position LIMIT 1"
    )
    assert first == stone
    check_ledger(desk.home.ledger)


def test_a_portal_without_streams_needs_no_stand_in(desk: Desk, job: dict[str, int]) -> None:
    desk.settle(job["dataset"], "adopted", remote_id="theirs", streams=False)
    assert stones(desk) == []


def test_a_refused_dataset_holds_all_that_came_of_it_and_nothing_else(desk: Desk, job: dict[str, int]) -> None:
    desk.settle(job["dataset"], "refused", detail="400 too many columns")
    assert outcome(desk, job["dataset"], "status, error, hold") == ("Failed", "400 too many columns", None)
    held = {name for name, number in job.items() if outcome(desk, number, "hold") != (None,)}
    assert held == {"child", "run", "metrics", "state", "finish"}
    assert outcome(desk, job["child"], "hold") == ("its dataset 'Claims' was refused",)
    assert outcome(desk, job["run"], "hold") == ("its dataset 'Claims' was refused",)
    # In the session's stream tombstones stand in; a run's stream is held as a whole.
    assert stones(desk) == [
        ("refused", job["dataset"], job["dataset"], "Transmitting"),
        ("held", job["child"], job["child"], "Transmitting"),
    ]
    open_in_bulk = [row["id"] for row in desk.ledger.open_records(1, "bulk", 0, 100)]
    assert job["free"] in open_in_bulk and job["child"] not in open_in_bulk
    assert len(desk.ledger.held_streams(1, "ordered")) == 1
    assert desk.ledger.pending()[0] == 3 + 2, "project, model, free, and two tombstones"
    check_ledger(desk.home.ledger)


def test_a_refused_run_holds_its_whole_stream_and_leaves_no_tombstone_in_it(desk: Desk, job: dict[str, int]) -> None:
    desk.settle(job["run"], "refused", detail="400 no")
    assert outcome(desk, job["run"], "status") == ("Failed",)
    assert stones(desk) == []
    held = {name for name, number in job.items() if outcome(desk, number, "hold") != (None,)}
    assert held == {"metrics", "state", "finish"}
    assert {row["status"] for row in desk.ledger.troubled()} == {"Failed", "Transmitting"}


def test_refused_metrics_leave_a_tombstone_and_the_run_goes_on(desk: Desk, job: dict[str, int]) -> None:
    desk.settle(job["metrics"], "refused", detail="422 no")
    ((reason, stands_for, position, _),) = stones(desk)
    assert (reason, stands_for, position) == ("refused", job["metrics"], job["metrics"])
    assert outcome(desk, job["finish"], "status, hold") == ("Transmitting", None)
    check_ledger(desk.home.ledger)


def test_a_refused_tombstone_is_failed_and_nothing_stands_in_for_it(desk: Desk, job: dict[str, int]) -> None:
    desk.settle(job["metrics"], "refused", detail="422 no")
    ((stone,),) = desk.rows("id", "kind = 'tombstone'")
    desk.settle(stone, "refused", detail="400 not even that")
    assert outcome(desk, stone, "status") == ("Failed",)
    assert len(stones(desk)) == 1


def test_a_chunk_that_two_records_share_is_freed_with_the_second(desk: Desk, job: dict[str, int]) -> None:
    client = Client("Other")
    session = client.stream()
    client.entity(session, dataset(b"table"), desk.payload(b"table"))
    desk.take(client)
    desk.store_payloads()
    ((second,),) = desk.rows("id", "kind = 'dataset' AND id > ?", job["finish"])
    desk.settle(job["dataset"], "delivered", streams=True)
    assert desk.settler.free_chunks == []
    desk.settle(second, "delivered", streams=True)
    assert desk.settler.free_chunks == [hashlib.sha256(b"table").hexdigest()]


def test_an_attempt_is_counted_with_its_words(desk: Desk, job: dict[str, int]) -> None:
    with desk.ledger.transaction():
        for error in ("timeout", "503 later"):
            desk.settler.apply({"op": "attempt", "record": job["run"], "error": error})
        desk.settler.apply({"op": "requests", "destination": 1, "requests": 5, "retries": 2})
        desk.settler.apply({"op": "destination", "destination": 1, "state": {"hold": "log in", "breaker": "{}"}})
    assert outcome(desk, job["run"], "retries, error, status") == (2, "503 later", "Transmitting")
    (row,) = desk.ledger.destinations()
    assert (row["requests"], row["retries"], row["hold"], row["breaker"]) == (5, 2, "log in", "{}")


def test_a_state_that_no_destination_has_is_refused(desk: Desk, job: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="hold; DROP"), desk.ledger.transaction():
        desk.settler.apply({"op": "destination", "destination": 1, "state": {"hold; DROP": "x"}})


def test_attempts_that_did_not_come_through_are_counted_and_dated_until_one_does(
    desk: Desk, job: dict[str, int]
) -> None:
    def attempt(error: str, **more: object) -> None:
        with desk.ledger.transaction():
            desk.settler.apply({"op": "attempt", "record": job["project"], "error": error, **more})

    attempt("409 first another one", verdict="gap", status=409)
    (row,) = desk.ledger.destinations()
    assert row["trouble"] is None, "a gap is a matter of its stream"
    attempt("503 busy", verdict="unavailable", status=503)
    (row,) = desk.ledger.destinations()
    since_ns = row["trouble_ns"]
    attempt("connection refused", verdict="unavailable", status=0)
    attempt("503 busy", verdict="unavailable", status=503)
    with desk.ledger.transaction():
        desk.settler.apply({"op": "next try", "destination": row["id"], "seconds": 40.0})
    (row,) = desk.ledger.destinations()
    assert (row["trouble"], row["trouble_ns"]) == ("503 busy", since_ns)
    assert row["next_try_ns"] > since_ns
    assert [(one.reason, one.count) for one in tallies.attempts(desk.ledger, row["id"])] == [
        ("503", 2), ("409", 1), ("not reachable", 1),
    ]  # fmt: skip
    desk.settle(job["project"], "delivered", receipt={}, streams=True)
    (row,) = desk.ledger.destinations()
    assert (row["trouble"], row["trouble_ns"], row["next_try_ns"]) == (None, None, None)
    assert sum(one.count for one in tallies.attempts(desk.ledger, row["id"])) == 4, "what was stays counted"


def test_a_hold_keeps_its_first_moment_while_its_words_change(desk: Desk, job: dict[str, int]) -> None:
    def hold(reason: str | None) -> int | None:
        with desk.ledger.transaction():
            desk.settler.apply({"op": "destination", "destination": 1, "state": {"hold": reason}})
        since_ns: int | None = desk.ledger.destinations()[0]["hold_ns"]
        return since_ns

    began_ns = hold("not logged in")
    assert began_ns is not None
    assert hold("not logged in, still") == began_ns
    assert hold(None) is None
    again_ns = hold("the account")
    assert again_ns is not None and again_ns > began_ns
