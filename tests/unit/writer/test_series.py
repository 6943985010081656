"""Log calls that say numbers only: the same records as from calls that say their names each time."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seclea.frames import POINTS_HEAD, FrameType, KeysFrame, points_struct
from seclea.ledger.db import Ledger
from seclea.records import MetricBatch, pack_metrics, unpack_metrics
from seclea.writer import recorder as recorder_module
from seclea.writer.recorder import Recorder
from tests.unit.writer.chain import check_ledger
from tests.unit.writer.client import TIME_NS, Client, Desk


def declare(client: Client, index: int, number: int, *keys: str) -> None:
    client.add(FrameType.KEYS, KeysFrame(index, number, keys).pack())


def say(client: Client, index: int, number: int, step: int, *values: float) -> None:
    packed = points_struct(len(values)).pack(POINTS_HEAD.pack(index, number), step, TIME_NS + step, *values)
    client.add(FrameType.POINTS, packed)


def recorded(desk: Desk) -> list[tuple[int, int, int, str, float]]:
    """(log call, step, time, name, value) of all points, in the order of the stream."""
    found = []
    for (body,) in desk.rows("body", "kind = 'metrics'"):
        batch = unpack_metrics(body)
        columns = zip(batch.sequence, batch.step, batch.time, batch.key, batch.value, strict=True)
        found += [(batch.first + call, step, time, batch.keys[key], value) for call, step, time, key, value in columns]
    return found


NAMES = [("loss",), ("accuracy", "loss"), ("rate",)]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(calls=st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.booleans()), max_size=60), data=st.data())
def test_numbers_only_and_names_each_time_come_to_the_same(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, int, bool]], data: st.DataObject
) -> None:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    client = Client()
    runs = [client.run()[0], client.run()[0]]
    for number, keys in enumerate(NAMES):
        declare(client, runs[0], number, *keys)
    expected: list[list[tuple[int, str, float]]] = [[], []]
    for step, (run, number, at_length) in enumerate(calls):
        values = [float(step), -float(step)][: len(NAMES[number])]
        if at_length:
            client.log(runs[run], step, **dict(zip(NAMES[number], values, strict=True)))
        else:
            say(client, runs[run], number, step, *values)
        expected[run] += [(step, name, value) for name, value in zip(NAMES[number], values, strict=True)]
    cut = data.draw(st.integers(0, len(client.frames)))
    desk.take(client, 1, cut)
    desk.recorder = Recorder(desk.ledger, desk.spool)  # another writer, which was never told the names
    desk.take(client, max(1, cut - 3))
    for run, index in enumerate(runs):
        stream = client.streams[index]
        mine = "kind = 'metrics' AND stream = (SELECT id FROM streams WHERE uuid = ?)"
        found = []
        for (body,) in desk.rows("body", mine, stream):
            batch = unpack_metrics(body)
            found += [(s, batch.keys[k], v) for s, k, v in zip(batch.step, batch.key, batch.value, strict=True)]
        assert found == expected[run]
    check_ledger(desk.home.ledger)
    desk.ledger.close()


def test_a_series_longer_than_a_batch_becomes_several(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_BATCH_POINTS", 7)
    client = Client()
    index, _ = client.run()
    declare(client, index, 0, "loss", "accuracy")
    for step in range(10):
        say(client, index, 0, step, step, -step)
    desk.take(client)
    assert desk.rows("points", "kind = 'metrics'") == [(6,), (6,), (6,), (2,)]
    assert [
        (call, step, time - TIME_NS, value) for call, step, time, name, value in recorded(desk) if name == "loss"
    ] == [(step + 3, step, step, step) for step in range(10)]
    check_ledger(desk.home.ledger)


@pytest.mark.parametrize(
    "bad",
    [POINTS_HEAD.pack(9, 0), POINTS_HEAD.pack(1, 9), POINTS_HEAD.pack(1, 0) + bytes(3)],
    ids=["no such stream", "no such names", "another length"],
)
def test_numbers_that_make_no_sense_leave_a_tombstone_and_those_around_them_as_they_were(
    desk: Desk, bad: bytes
) -> None:
    client = Client()
    client.stream()
    index, _ = client.run()
    declare(client, index, 0, "loss")
    for step in range(6):
        if step == 3:
            client.add(
                FrameType.POINTS, bad.ljust(len(points_struct(1).pack(bad[:8], 0, 0, 0.0)) - (len(bad) > 8), b"0")
            )
        say(client, index, 0, step, float(step))
    desk.take(client)
    assert [value for *_, value in recorded(desk)] == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert desk.rows("count(*)", "kind = 'tombstone'") == [(1,)]
    check_ledger(desk.home.ledger)


@pytest.mark.parametrize(
    "keys", [(), ("loss", "loss"), tuple(f"k{n}" for n in range(513))], ids=["none", "twice", "many"]
)
def test_names_that_are_none_are_refused(desk: Desk, keys: tuple[str, ...]) -> None:
    client = Client()
    client.stream()
    declare(client, 0, 0, *keys)
    desk.take(client)
    assert desk.rows("count(*)", "kind = 'tombstone'") == [(1,)]
    assert desk.ledger.key_sets(client.ring) == {}


def test_calls_before_and_after_their_names_are_said_once_stand_in_one_record(desk: Desk) -> None:
    client = Client()
    index, _ = client.run()
    client.log(index, 0, loss=0.0)
    declare(client, index, 0, "loss")
    say(client, index, 0, 1, 1.0)
    desk.take(client)
    assert desk.rows("points", "kind = 'metrics'") == [(2,)]
    assert [value for *_, value in recorded(desk)] == [0.0, 1.0]


def test_names_go_with_their_ring(desk: Desk) -> None:
    client = Client()
    client.stream()
    declare(client, 0, 0, "loss")
    desk.take(client)
    ledger: Ledger = desk.ledger
    assert ledger.key_sets(client.ring) == {0: ("loss",)}
    with ledger.transaction():
        ledger.close_ring(client.ring)
    assert ledger.key_sets(client.ring) == {}


def test_a_batch_that_is_begun_is_filled_and_not_more(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_BATCH_POINTS", 7)
    client = Client()
    index, _ = client.run()
    declare(client, index, 0, "loss", "accuracy")
    client.log(index, 0, loss=0.0, accuracy=0.0)
    for step in range(1, 6):
        say(client, index, 0, step, step, -step)
    desk.take(client)
    assert desk.rows("points", "kind = 'metrics'") == [(6,), (6,)]
    assert [step for _, step, _, name, _ in recorded(desk) if name == "loss"] == list(range(6))


def test_names_that_a_batch_cannot_number_begin_another(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "MAX_KEYS", 3)
    client = Client()
    index, _ = client.run()
    declare(client, index, 0, "a", "b")
    declare(client, index, 1, "c", "d")
    say(client, index, 0, 0, 1.0, 2.0)
    say(client, index, 1, 1, 3.0, 4.0)
    desk.take(client)
    assert desk.rows("points", "kind = 'metrics'") == [(2,), (2,)]
    assert [value for *_, value in recorded(desk)] == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("width", [1, 2])
def test_a_series_that_no_column_can_hold_leaves_the_batch_as_it_was(width: int) -> None:
    batch = MetricBatch("run", 0, 1)
    keys = ["a", "b"][:width]
    batch.extend(keys, [(1,), (2,), *[(3.0,)] * width])
    packed = pack_metrics(batch)
    with pytest.raises(TypeError):
        batch.extend(keys, [(1, 2), (2, 3), *[(3.0, "no")] * width])
    assert pack_metrics(batch) == packed
