"""Frames become rows: each once, numbered, chained, in the order of the ring."""

import json
import sqlite3
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seclea.entities import DatasetTransformation
from seclea.frames import MAX_FRAME_BYTES, FrameType, MetricsFrame
from seclea.records import unpack_metrics
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import TIME_NS, Client, Desk, Model, dataset, state


def test_a_whole_session_becomes_records_in_order_with_an_unbroken_chain(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    model = Model(name="Net", framework="pytorch")
    client.entity(session, model)
    table = dataset(b"a,b\n1,2\n")
    client.entity(session, table, desk.payload(b"a,b\n1,2\n"))
    run_index, run = client.run(model=model.uuid, datasets=(table.uuid,), params={"rate": 0.1})
    for step in range(3):
        client.log(run_index, step, loss=step / 2, accuracy=1.0)
    client.entity(run_index, state(b"weights", run.uuid), desk.payload(b"weights"))
    client.log(run_index, 3, loss=9.0)
    client.finish(run_index)
    desk.take(client)
    desk.store_payloads()
    assert desk.rows("kind, lane, first, last, points, status") == [
        ("project", "ordered", 1, 1, 0, "Transmitting"),
        ("model", "ordered", 2, 2, 0, "Transmitting"),
        ("dataset", "bulk", 1, 1, 0, "Transmitting"),
        ("training_run", "ordered", 1, 1, 0, "Transmitting"),
        ("metrics", "ordered", 2, 4, 6, "Transmitting"),
        ("model_state", "bulk", 1, 1, 0, "Transmitting"),
        ("metrics", "ordered", 5, 5, 1, "Transmitting"),
        ("finish", "ordered", 6, 6, 0, "Transmitting"),
    ]
    assert check_ledger(desk.home.ledger) == 8
    bodies = {kind: json.loads(body) for kind, body in desk.rows("kind, body", "kind <> 'metrics'")}
    project = bodies["project"]["uuid"]
    assert bodies["training_run"] == {
        "uuid": run.uuid, "project": project, "name": "Training Run 1", "model": model.uuid,
        "datasets": [table.uuid], "params": {"rate": 0.1}, "metadata": {}, "started_ns": 0,
    }  # fmt: skip
    assert bodies["dataset"]["chunks"] == [[table.sha256, 8]]
    assert bodies["finish"]["streams"] == [
        {"stream": str(UUID(bytes=client.streams[1])), "lane": "ordered", "sequence": 6},
        {"stream": str(UUID(bytes=client.streams[1])), "lane": "bulk", "sequence": 1},
    ]
    (first, second) = (unpack_metrics(body) for (body,) in desk.rows("body", "kind = 'metrics'"))
    assert list(first.value) == [0.0, 1.0, 0.5, 1.0, 1.0, 1.0]
    assert (list(second.step), list(second.value), list(second.time)) == ([3], [9.0], [TIME_NS + 3])


def a_session(count: int) -> Client:
    client = Client()
    session = client.stream()
    client.entity(session, Model(name="Net", framework="sklearn"))
    index, _ = client.run()
    for step in range(count):
        client.log(index, step, loss=float(step))
        if step % 3 == 2:
            client.leave_out(index, step)
    client.finish(index)
    return client


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.tuples(st.integers(1, 20), st.booleans()), max_size=6))
def test_a_ring_that_is_read_again_from_anywhere_is_recorded_once(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[tuple[int, bool]]
) -> None:
    """Whatever was read before a kill, and from wherever the ring is read after it."""
    desk = Desk(tmp_path_factory.mktemp("desk"))
    try:
        client = a_session(8)
        for last, dies in cuts:
            desk.take(client, 1, last)
            if dies:
                desk.restart()
        desk.take(client)
        before = desk.everything()
        desk.take(client)
        desk.restart()
        desk.take(client)
        assert desk.everything() == before
        check_ledger(desk.home.ledger)
        points = [unpack_metrics(body) for (body,) in desk.rows("body", "kind = 'metrics'")]
        assert [step for batch in points for step in batch.step] == list(range(8))
        assert len(desk.rows("id", "kind = 'finish'")) == 1
    finally:
        desk.ledger.close()


def test_what_a_transaction_that_failed_had_taken_is_taken_again(desk: Desk) -> None:
    client = a_session(4)
    with pytest.raises(RuntimeError), desk.ledger.transaction():
        desk.recorder.take(client.ring, 1, client.frames)
        desk.recorder.close_batches()
        raise RuntimeError("the disk")
    desk.recorder.forget()
    assert desk.rows("id") == []
    desk.take(client)
    assert len(desk.rows("id", "kind = 'finish'")) == 1
    check_ledger(desk.home.ledger)


def test_a_gap_in_a_ring_is_written_down_and_what_follows_is_kept(desk: Desk) -> None:
    client = a_session(3)
    desk.take(client, 1, 4)
    desk.take(client, 6)
    (event,) = (row["detail"] for row in desk.ledger._all("SELECT detail FROM events WHERE kind = 'gap'"))
    assert "frames 5 to 5 are missing" in event
    assert len(desk.rows("id", "kind = 'finish'")) == 1
    check_ledger(desk.home.ledger)


def test_runs_are_numbered_in_their_project_over_all_rings_and_named_ones_count(desk: Desk) -> None:
    first, second, other = Client(), Client(), Client("Other")
    first.run()
    first.run(name="mine")
    second.run()
    other.run()
    for client in (first, second, other):
        desk.take(client)
    rows = desk.ledger._all("SELECT name FROM entities WHERE kind = 'training_run' ORDER BY rowid")
    assert [row["name"] for row in rows] == ["Training Run 1", "mine", "Training Run 3", "Training Run 1"]
    rows = desk.ledger._all("SELECT name FROM entities WHERE kind = 'project' ORDER BY rowid")
    assert [row["name"] for row in rows] == ["Claims", "Other"], "a project of one name is one project"


def test_states_are_numbered_in_their_run_also_from_several_rings(desk: Desk) -> None:
    first = Client()
    index, run = first.run()
    second = Client()
    theirs = second.stream(run.uuid, rank=1)
    first.entity(index, state(b"one", run.uuid), desk.payload(b"one"))
    second.entity(theirs, state(b"two", run.uuid), desk.payload(b"two"))
    desk.take(first)
    desk.take(second)
    desk.store_payloads()
    rows = desk.ledger._all("SELECT sequence_num FROM entities WHERE kind = 'model_state' ORDER BY rowid")
    assert [row["sequence_num"] for row in rows] == [0, 1]
    assert desk.rows("lane, first", "kind = 'model_state'") == [("bulk", 1), ("bulk", 1)], "each in its own stream"
    check_ledger(desk.home.ledger)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("Claims", b"other", "another dataset named 'Claims', with other content"),
        ("Other", b"first", "The same content is recorded already, as the dataset 'Claims'"),
    ],
)
def test_a_duplicate_that_the_client_could_not_see_is_refused_before_the_portal_could(
    desk: Desk, name: str, content: bytes, words: str
) -> None:
    """The uniqueness that portals keep: (project, digest) and (project, name)."""
    client = Client()
    session = client.stream()
    client.entity(session, dataset(b"first"), desk.payload(b"first"))
    twice = dataset(content, name)
    client.entity(session, twice, desk.payload(content))
    client.run(datasets=(twice.uuid,))
    desk.take(client)
    desk.store_payloads()
    assert desk.rows("kind, status, first", "kind = 'dataset'") == [
        ("dataset", "Transmitting", 1),
        ("dataset", "Failed", None),
    ]
    ((error,),) = desk.rows("error", "status = 'Failed'")
    assert words in error
    ((hold,),) = desk.rows("hold", "kind = 'training_run'")
    assert hold == f"its dataset {name!r} was refused"
    assert len(desk.recorder.discarded) == 2, "neither file is needed any more"
    check_ledger(desk.home.ledger)


def test_the_same_dataset_and_the_same_model_again_are_the_same(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    tables = [dataset(b"first"), dataset(b"first")]
    for table in tables:
        client.entity(session, table, desk.payload(b"first"))
    models = [Model(name="Net", framework="sklearn"), Model(name="Net", framework="sklearn")]
    for model in models:
        client.entity(session, model)
    client.entity(session, Model(name="Net", framework="xgboost"))
    client.run(model=models[1].uuid, datasets=(tables[1].uuid,))
    desk.take(client)
    desk.store_payloads()
    assert [kind for (kind,) in desk.rows("kind")] == ["project", "dataset", "model", "model", "training_run"]
    ((body,),) = desk.rows("body", "kind = 'training_run'")
    assert json.loads(body)["model"] == models[0].uuid
    assert json.loads(body)["datasets"] == [tables[0].uuid]


def test_tombstones_count_what_a_client_left_out_and_stand_in_the_stream(desk: Desk) -> None:
    client = Client()
    client.stream()
    index, _ = client.run()
    client.log(index, 0, loss=1.0)
    client.leave_out(index, 17)
    client.log(index, 18, loss=1.0)
    desk.take(client)
    assert desk.rows("kind, first, last", "run IS NOT NULL") == [
        ("training_run", 1, 1),
        ("metrics", 2, 2),
        ("tombstone", 3, 3),
        ("metrics", 4, 4),
    ]
    ((body,),) = desk.rows("body", "kind = 'tombstone'")
    assert json.loads(body) == {
        "kind": "metrics", "count": 17, "reason": "dropped", "detail": "paused", "stands_for": None,
    }  # fmt: skip
    assert desk.ledger.left_out() == ["17 metrics: dropped paused"]
    check_ledger(desk.home.ledger)


def test_a_frame_that_makes_no_sense_leaves_a_tombstone_and_ends_nothing(desk: Desk) -> None:
    client = Client()
    index, _ = client.run()
    client.add(FrameType.METRICS, b"\xc1 no msgpack")
    client.add(FrameType.ENTITY, MetricsFrame(index, 0, 0, {}).pack())
    client.add(FrameType(5), b"")
    client.finish(99)
    client.large(FrameType.METRICS, "goneforever")
    client.log(index, 1, loss=1.0)
    desk.take(client)
    kinds = [kind for (kind,) in desk.rows("kind")]
    assert kinds == ["project", "training_run", *["tombstone"] * 5, "metrics"]
    assert {json.loads(body)["reason"] for (body,) in desk.rows("body", "kind = 'tombstone'")} == {"damaged"}
    assert len(desk.ledger._all("SELECT 1 FROM events WHERE kind = 'unreadable'")) == 5
    check_ledger(desk.home.ledger)


def test_a_frame_that_is_too_large_for_a_ring_is_read_from_its_file(desk: Desk) -> None:
    client = Client()
    index, _ = client.run()
    metrics = {f"metric {number}": float(number) for number in range(5000)}
    payload = MetricsFrame(index, 7, TIME_NS, metrics).pack()
    assert len(payload) > MAX_FRAME_BYTES
    client.large(FrameType.METRICS, desk.payload(payload))
    desk.take(client)
    ((body,),) = desk.rows("body", "kind = 'metrics'")
    batch = unpack_metrics(body)
    assert dict(zip((batch.keys[key] for key in batch.key), batch.value, strict=True)) == metrics
    assert len(desk.recorder.discarded) == 1


def test_a_payload_that_changed_or_vanished_fails_its_record_and_leaves_a_tombstone(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    names = [desk.payload(content) for content in (b"one", b"two", b"three")]
    for name, content in zip(names, (b"one", b"two", b"three"), strict=True):
        client.entity(session, dataset(content, content.decode()), name)
    desk.take(client)
    (desk.home.incoming / names[0]).write_bytes(b"eno")
    (desk.home.incoming / names[1]).unlink()
    desk.store_payloads()
    assert desk.rows("kind, status, first", "lane = 'bulk'") == [
        ("dataset", "Failed", None),
        ("dataset", "Failed", None),
        ("dataset", "Transmitting", 3),
        ("tombstone", "Transmitting", 1),
        ("tombstone", "Transmitting", 2),
    ]
    errors = [error for (error,) in desk.rows("error", "status = 'Failed'")]
    assert "changed on the way" in errors[0] and names[1] in errors[1] and "gone" in errors[1]
    check_ledger(desk.home.ledger)


def test_a_payload_waits_for_the_one_before_it_in_its_lane(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    for content in (b"one", b"two"):
        client.entity(session, dataset(content, content.decode()), desk.payload(content))
    desk.take(client)
    (one, first), (two, second) = desk.recorder.payloads
    with desk.ledger.transaction():
        assert not desk.recorder.seal_payload(two, desk.spool.store(second)), "not before the first"
        assert desk.recorder.seal_payload(one, desk.spool.store(first))
        assert desk.recorder.seal_payload(two, desk.spool.store(second))
        assert desk.recorder.seal_payload(two, desk.spool.store(second)), "a second time changes nothing"
    assert desk.rows("first, status", "lane = 'bulk'") == [(1, "Transmitting"), (2, "Transmitting")]
    check_ledger(desk.home.ledger)


def test_what_needs_a_refused_entity_is_held_also_when_it_is_logged_later(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    parent = dataset(b"parent", "parent")
    client.entity(session, parent, desk.payload(b"parent"))
    desk.take(client)
    desk.store_payloads()
    ((record,),) = desk.rows("id", "kind = 'dataset'")
    desk.settle(record, "refused", detail="400 no")
    child = dataset(b"child", "child", parent=parent.uuid)
    client.entity(session, child, desk.payload(b"child"))
    client.entity(session, DatasetTransformation(dataset=child.uuid, name="step"))
    client.entity(session, dataset(b"free", "free"), desk.payload(b"free"))
    desk.take(client)
    desk.store_payloads()
    held = desk.rows("kind, hold, status", "hold IS NOT NULL")
    assert held == [
        ("dataset", "its dataset 'parent' was refused", "Transmitting"),
        ("dataset_transformation", "its dataset 'parent' was refused", "Transmitting"),
    ]
    reasons = [json.loads(body)["reason"] for (body,) in desk.rows("body", "kind = 'tombstone'")]
    assert sorted(reasons) == ["held", "held", "refused"], "their streams go on"
    assert desk.rows("status, hold", "id = (SELECT max(id) FROM records WHERE kind = 'dataset')") == [
        ("Transmitting", None)
    ]
    check_ledger(desk.home.ledger)


def test_the_settings_of_the_last_client_outlive_the_writer(desk: Desk) -> None:
    client = Client()
    client.stream()
    assert desk.recorder.settings is None
    desk.take(client)
    desk.restart()
    assert desk.recorder.settings == {"disk": 10**9}


def test_a_record_that_is_changed_afterwards_breaks_the_chain(desk: Desk) -> None:
    """The referee above does see it."""
    desk.take(a_session(3))
    check_ledger(desk.home.ledger)
    with sqlite3.connect(desk.home.ledger) as tamper:
        tamper.execute("UPDATE records SET digest = zeroblob(32), body = NULL WHERE kind = 'training_run'")
    tamper.close()
    with pytest.raises(AssertionError):
        check_ledger(desk.home.ledger)
