"""What goes wrong in the middle of a frame, or comes in an unlucky order: nothing else is lost, nothing waits for ever."""

import json
import os

import pytest

from seclea.entities import DatasetTransformation
from seclea.frames import EntityFrame, FrameType, MetricsFrame
from seclea.records import unpack_metrics
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import TIME_NS, Client, Desk, Model, dataset, state


def spans(desk: Desk) -> list[tuple[int, int, int, int]]:
    """Of each batch: place in the stream, and what its body says."""
    rows = desk.rows("first, last, body", "kind = 'metrics'")
    return [(first, last, (batch := unpack_metrics(body)).first, batch.last) for first, last, body in rows]


def steps(desk: Desk) -> list[int]:
    return [step for (body,) in desk.rows("body", "kind = 'metrics'") for step in unpack_metrics(body).step]


def test_metrics_before_a_frame_that_makes_no_sense_are_kept(desk: Desk) -> None:
    client = Client()
    index, _ = client.run()
    client.log(index, 0, loss=1.0)
    client.add(FrameType.ENTITY, EntityFrame(index, "no such kind", {}).pack())
    client.log(index, 1, loss=1.0)
    desk.take(client)
    assert steps(desk) == [0, 1]
    assert all((first, last) == (said_first, said_last) for first, last, said_first, said_last in spans(desk))
    check_ledger(desk.home.ledger)


@pytest.mark.parametrize(
    "metrics",
    [{"a": 1.0, "b": "no number"}, {"a": 1.0, "b": None}, {1: 1.0, "b": []}],
    ids=["text", "none", "keys"],
)
def test_a_log_call_that_makes_no_sense_leaves_the_points_around_it_as_they_were(
    desk: Desk, metrics: dict[str, float]
) -> None:
    client = Client()
    index, _ = client.run()
    client.log(index, 0, loss=1.0)
    client.add(FrameType.METRICS, MetricsFrame(index, 5, 0, metrics).pack())
    client.log(index, 1, loss=1.0)
    desk.take(client)
    assert steps(desk) == [0, 1]
    assert desk.rows("count(*)", "kind = 'tombstone'") == [(1,)]
    check_ledger(desk.home.ledger)


@pytest.mark.parametrize(("step", "time_ns"), [(2**63, 0), (0, 2**63)])
def test_numbers_that_no_column_can_hold_end_nothing(desk: Desk, step: int, time_ns: int) -> None:
    client = Client()
    index, _ = client.run()
    client.add(FrameType.METRICS, MetricsFrame(index, step, time_ns, {"loss": 1.0}).pack())
    client.log(index, 1, loss=1.0)
    desk.take(client)
    assert steps(desk) == [1]
    assert desk.rows("count(*)", "kind = 'tombstone'") == [(1,)]
    check_ledger(desk.home.ledger)


def test_a_log_call_with_more_names_than_a_batch_can_number_ends_nothing(desk: Desk) -> None:
    client = Client()
    index, _ = client.run()
    client.log(index, 0, loss=1.0)
    metrics = {f"metric {number}": 0.0 for number in range(70_000)}
    client.large(FrameType.METRICS, desk.payload(MetricsFrame(index, 1, TIME_NS, metrics).pack()))
    client.log(index, 2, loss=1.0)
    desk.take(client)
    assert steps(desk) == [0, 2]
    assert desk.rows("count(*)", "kind = 'tombstone'") == [(1,)]
    check_ledger(desk.home.ledger)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [("training_run", {"name": 2**64 - 1}), ("model", {"name": {"a": 1}}), ("model", {"framework": [1]})],
)
def test_an_entity_that_no_row_can_hold_ends_nothing(desk: Desk, kind: str, fields: dict[str, object]) -> None:
    client = Client()
    session = client.stream()
    entity = Model(name="Net", framework="pytorch").to_json() | {"name": "x"}
    client.add(FrameType.ENTITY, EntityFrame(session, kind, entity | fields).pack())
    client.entity(session, Model(name="Other", framework="pytorch"))
    desk.take(client)
    assert [kind for (kind,) in desk.rows("kind")][-1] == "model"
    check_ledger(desk.home.ledger)


def test_a_frame_whose_file_cannot_be_read_just_now_is_taken_later(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    client = Client()
    index, _ = client.run()
    client.large(FrameType.METRICS, desk.payload(MetricsFrame(index, 7, TIME_NS, {"loss": 1.0}).pack()))

    def busy(*_: object) -> int:
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", busy)
        with pytest.raises(OSError, match="Too many open files"):
            desk.take(client)
    desk.recorder.forget()
    desk.take(client)
    assert steps(desk) == [7]
    assert desk.rows("count(*)", "kind = 'tombstone'") == [(0,)]


@pytest.mark.parametrize("with_payload", [True, False])
def test_a_payload_and_a_kind_without_one_do_not_go_together(desk: Desk, with_payload: bool) -> None:
    """A record stands in the lane of its kind, whatever a client says."""
    client = Client()
    session = client.stream()
    if with_payload:
        client.entity(session, Model(name="Net", framework="x"), desk.payload(b"model"))
    else:
        client.entity(session, dataset(b"table"))
    desk.take(client)
    desk.store_payloads()
    client.entity(session, Model(name="Other", framework="x"))
    desk.take(client)
    check_ledger(desk.home.ledger)


# -- who is held ------------------------------------------------------------------------------------------------------


def waiting(desk: Desk) -> int:
    """Records that `complete` waits for."""
    return desk.ledger.pending()[0]


def deliver(desk: Desk) -> None:
    """Deliver everything that a lane would offer, in its order."""
    for _ in range(20):
        offered = []
        for lane in ("ordered", "bulk"):
            held = desk.ledger.held_streams(1, lane)
            skip: set[bytes] = set()
            for row in desk.ledger.open_records(1, lane, 0, 1000):
                behind = row["position"] > held.get(row["stream"], row["position"])
                if row["stream"] not in skip and not behind and not desk.ledger.unmet_needs(row["id"]):
                    offered.append(row["id"])
                else:
                    skip.add(row["stream"])
        if not offered:
            return
        for record in offered:
            desk.settle(record, "delivered", receipt={}, streams=True)


def test_what_was_left_out_of_a_refused_run_is_waited_for_no_longer(desk: Desk) -> None:
    client = Client()
    client.stream()
    index, _ = client.run()
    client.log(index, 0, loss=1.0)
    client.leave_out(index, 17)
    client.log(index, 2, loss=1.0)
    desk.take(client)
    ((run,),) = desk.rows("id", "kind = 'training_run'")
    desk.settle(run, "refused", detail="400 no")
    client.leave_out(index, 3)
    desk.take(client)
    deliver(desk)
    assert waiting(desk) == 0


def test_what_came_before_its_run_is_held_with_it(desk: Desk) -> None:
    """The ring of a child is read before its parent's."""
    parent, child = Client(), Client()
    session = parent.stream()
    parent.entity(session, dataset(b"first"), desk.payload(b"first"))
    twice = dataset(b"other")  # same name, other content: refused by the writer
    parent.entity(session, twice, desk.payload(b"other"))
    _, run = parent.run(datasets=(twice.uuid,))
    theirs = child.stream(run.uuid, rank=1)
    child.log(theirs, 0, loss=1.0)
    child.entity(theirs, state(b"weights", run.uuid), desk.payload(b"weights"))
    desk.take(child)
    desk.take(parent)
    desk.store_payloads()
    deliver(desk)
    assert waiting(desk) == 0
    assert {kind for (kind,) in desk.rows("kind", "hold IS NOT NULL")} == {"training_run", "metrics", "model_state"}


def test_what_needs_a_damaged_dataset_is_held(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    table = dataset(b"table")
    name = desk.payload(b"table")
    client.entity(session, table, name)
    client.entity(session, DatasetTransformation(dataset=table.uuid, name="step"))
    index, _ = client.run(datasets=(table.uuid,))
    client.log(index, 0, loss=1.0)
    desk.take(client)
    (desk.home.incoming / name).write_bytes(b"altered")
    desk.store_payloads()
    deliver(desk)
    assert waiting(desk) == 0
    held = {kind for (kind,) in desk.rows("kind", "hold IS NOT NULL")}
    assert held == {"dataset_transformation", "training_run", "metrics"}
    check_ledger(desk.home.ledger)


def test_what_needs_the_twin_of_a_refused_model_is_held(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    models = [Model(name="Net", framework="sklearn"), Model(name="Net", framework="sklearn")]
    for model in models:
        client.entity(session, model)
    index, _ = client.run(model=models[1].uuid)
    client.log(index, 0, loss=1.0)
    desk.take(client)
    ((record,),) = desk.rows("id", "kind = 'model'")
    desk.settle(record, "refused", detail="400 no")
    deliver(desk)
    assert waiting(desk) == 0


def test_a_child_recorded_in_the_very_step_that_refuses_its_parent_has_one_stand_in(desk: Desk) -> None:
    client = Client()
    session = client.stream()
    parent = dataset(b"parent", "parent")
    client.entity(session, parent, desk.payload(b"parent"))
    desk.take(client)
    desk.store_payloads()
    ((record,),) = desk.rows("id", "kind = 'dataset'")
    client.entity(session, DatasetTransformation(dataset=parent.uuid, name="step"))
    # The order of Writer._commit.
    with desk.ledger.transaction():
        desk.recorder.take(client.ring, 1, client.frames)
        desk.recorder.close_batches()
        desk.settler.apply({"op": "outcome", "record": record, "verdict": "refused", "detail": "400 no"})
        for sealed in desk.recorder.sealed:
            desk.settler.hold_behind(sealed)
    reasons = [json.loads(body)["reason"] for (body,) in desk.rows("body", "kind = 'tombstone'")]
    assert sorted(reasons) == ["held", "refused"]
    check_ledger(desk.home.ledger)
