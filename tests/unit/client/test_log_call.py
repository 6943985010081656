"""The log call: what it hands over, whichever way it takes, and what it refuses."""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seclea.client.training_run import TrainingRun
from seclea.contract import Destination, Home
from seclea.director import Speaker
from seclea.director import pipeline as director
from seclea.errors import MetricError, RunFinishedError
from seclea.frames import MAX_KEY_SETS, POINTS_HEAD, FrameType, KeysFrame, MetricsFrame, points_columns, unpack
from seclea.processes.start import Started
from seclea.queues.ring import Consumer
from seclea.settings import Limits, Settings


class Desk:
    """A run, and the other end of its ring."""

    def __init__(self, home: Home) -> None:
        limits = Limits(when_full="drop")
        speaker = Speaker(Destination("https://portal", "https://auth", "Acme"), "Claims", Settings(limits=limits))
        self.run = TrainingRun(home, speaker, "00000000-0000-0000-0000-000000000001", "one")
        (path,) = home.rings.glob("*.ring")
        self.consumer = Consumer.attach(path)
        self.keys: dict[int, tuple[str, ...]] = {}

    def said(self) -> list[tuple[int, dict[str, float]]]:
        """The log calls that came since the last time: step and metrics."""
        found = []
        for kind, _, payload in self.consumer.read(100_000, 1 << 30):
            if kind == FrameType.POINTS:
                index, number = POINTS_HEAD.unpack_from(payload)
                assert index == 0
                ((step, _, *values),) = points_columns(len(self.keys[number]))(payload)
                found.append((step, dict(zip(self.keys[number], values, strict=True))))
                continue
            frame = unpack(kind, payload)
            if isinstance(frame, KeysFrame):
                self.keys[frame.number] = frame.keys
            elif isinstance(frame, MetricsFrame):
                found.append((frame.step, frame.metrics))
        self.consumer.commit()
        return found


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(director, "in_container", lambda: True)  # rings in the home
    monkeypatch.setattr(director, "ensure_writer", lambda home: Started(found=True))
    home = Home(tmp_path / "home")
    made = Desk(home)
    yield made
    made.consumer.close()
    for pipeline in list(director.open_pipelines()):
        if pipeline.home.path == home.path:
            pipeline.close()
            director._pipelines.pop(home.path)


def bits(calls: list[tuple[int, dict[str, float]]]) -> list[tuple[int, list[tuple[str, bytes]]]]:
    """NaN must come back as it was."""
    return [(step, [(key, struct.pack("=d", value)) for key, value in metrics.items()]) for step, metrics in calls]


NUMBERS = st.one_of(
    st.floats(),
    st.integers(-(2**60), 2**60),
    st.booleans(),
    st.floats(width=32).map(np.float32),
    st.floats().map(np.float64),
    st.integers(0, 255).map(np.uint8),
    st.booleans().map(np.bool_),
    st.floats().map(np.array),
)
NAMES = st.sampled_from(["loss", "accuracy", "rate", "epoch"])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(
        st.tuples(
            st.dictionaries(NAMES, NUMBERS, min_size=1, max_size=4),
            st.one_of(st.none(), st.integers(-(2**63), 2**62)),
        ),
        max_size=40,
    )
)
def test_every_call_is_handed_over_in_order_with_its_numbers_as_floats(
    desk: Desk, calls: list[tuple[dict[str, Any], int | None]]
) -> None:
    desk.run.log({"loss": 0.0}, -1)  # where the last example stopped counting is not of interest
    expected, last = [(-1, {"loss": 0.0})], -1
    for metrics, step in calls:
        desk.run.log(metrics, step)
        last = last + 1 if step is None else step
        expected.append((last, {key: float(value) for key, value in metrics.items()}))
    assert bits(desk.said()) == bits(expected)


BAD: list[tuple[Any, Any, str]] = [
    ({"loss": "0.5"}, None, "'loss' is a str"),
    ({"loss": None}, None, "'loss' is None"),
    ({"loss": 1j}, None, "'loss' is a complex"),
    ({"loss": {"train": 0.5}}, None, "under names of their own"),
    ({"loss": [0.5]}, None, "'loss' is a list"),
    ({"loss": 10**400}, None, "too large for a 64-bit float"),
    ({"loss": np.datetime64(5, "s")}, None, "'loss' is a"),
    ({"loss": np.timedelta64(5, "s")}, None, "'loss' is a"),
    ({"loss": np.zeros(2)}, None, "shape"),
    ({"loss": np.str_("0.5")}, None, "'loss' is a"),
    ({"loss": 0.5}, 2**63, "does not fit 64 bits"),
    ({"loss": 0.5}, -(2**63) - 1, "does not fit 64 bits"),
    ({"loss": 0.5}, 1.0, "whole number"),
    ({"loss": 0.5}, True, "whole number"),
    ({"loss": 0.5}, "1", "whole number"),
    ({1: 0.5}, None, "must be text"),
    ({"": 0.5}, None, "cannot be the name"),
    ({"x" * 1001: 0.5}, None, "cannot be the name"),
    ({"\ud800": 0.5}, None, "cannot be the name"),
    ({"a\0b": 0.5}, None, "cannot be the name"),
    ({}, None, "no metric"),
    ([("loss", 0.5)], None, "must be a dict"),
    ("loss", None, "must be a dict"),
    (None, None, "must be a dict"),
]


@pytest.mark.parametrize(
    ("metrics", "step", "words"), BAD, ids=[repr(metrics)[:30] + f" {step}" for metrics, step, _ in BAD]
)
@pytest.mark.parametrize("known", [False, True], ids=["first call", "names known"])
def test_a_wrong_call_raises_records_nothing_and_leaves_the_count_of_steps(
    desk: Desk, metrics: Any, step: Any, words: str, known: bool
) -> None:
    before = 3 if known else 0
    for _ in range(before):
        desk.run.log({"loss": 1.0})
    with pytest.raises(MetricError, match=words):
        desk.run.log(metrics, step)
    assert desk.said() == [(number, {"loss": 1.0}) for number in range(before)]
    desk.run.log({"loss": 2.0})
    assert desk.said() == [(before, {"loss": 2.0})]


@pytest.mark.parametrize("known", [False, True], ids=["first call", "names known"])
def test_after_the_last_step_that_fits_there_is_no_next_one(desk: Desk, known: bool) -> None:
    for _ in range(3 if known else 1):
        desk.run.log({"loss": 1.0}, 2**63 - 1)
    with pytest.raises(MetricError, match="does not fit 64 bits"):
        desk.run.log({"loss": 1.0})
    assert {step for step, _ in desk.said()} == {2**63 - 1}


def test_names_are_said_once_from_their_second_call_on(desk: Desk) -> None:
    for step in range(5):
        desk.run.log({"loss": 1.0, "rate": 0.5}, step)
    kinds = [kind for kind, *_ in desk.consumer.read()]
    assert kinds == [FrameType.STREAM, FrameType.METRICS, FrameType.KEYS, *[FrameType.POINTS] * 4]


def test_names_that_change_all_the_time_make_nothing_grow(desk: Desk) -> None:
    for step in range(4 * MAX_KEY_SETS):
        desk.run.log({f"layer {step}": 1.0}, step)
        if step % 2:
            desk.run.log({f"layer {step}": 2.0}, step)
        desk.said()
    assert len(desk.run._seen) <= MAX_KEY_SETS and len(desk.run._templates) <= MAX_KEY_SETS
    desk.run.log({"yet another": 1.0}, 0)
    desk.run.log({"yet another": 2.0}, 1)
    assert desk.said() == [(0, {"yet another": 1.0}), (1, {"yet another": 2.0})]


def test_a_run_that_is_over_takes_nothing_also_where_the_names_are_known(desk: Desk) -> None:
    for _ in range(3):
        desk.run.log({"loss": 1.0})
    desk.run.finish()
    with pytest.raises(RunFinishedError, match="finished"):
        desk.run.log({"loss": 1.0})
    assert len(desk.said()) == 3


def test_a_pause_and_what_was_left_out_hold_the_quick_way_back_too(desk: Desk) -> None:
    for _ in range(3):
        desk.run.log({"loss": 1.0})
    desk.said()
    desk.consumer.set_paused(True)
    desk.run.log({"loss": 2.0})
    assert desk.said() == [], "dropped, as the limits say"
    desk.consumer.set_paused(False)
    desk.run.log({"loss": 3.0})
    frames = desk.consumer.read()
    assert [kind for kind, *_ in frames] == [FrameType.TOMBSTONE, FrameType.POINTS], "the tombstone stands before it"


def test_a_call_wakes_a_writer_that_sleeps_and_looks_for_it_every_half_second(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = desk.run._pipeline
    looked: list[int] = []
    monkeypatch.setattr(director, "ring_bell", lambda home: looked.append(1) or True)
    clock = [10**18]
    monkeypatch.setattr("seclea.client.training_run._time_ns", lambda: clock[0])

    def log() -> int:
        pipeline._next_bell = 0
        looked.clear()
        desk.run.log({"loss": 1.0})
        return len(looked)

    for _ in range(3):
        log()
    desk.consumer.beat(1 << 62)  # a sign of life
    clock[0] += 1_000_000_000
    assert log() == 0
    desk.consumer.set_sleeping(True)
    assert log() == 1
    desk.consumer.set_sleeping(False)
    desk.consumer.beat(1)  # not seen for long
    assert log() == 0, "just looked"
    clock[0] += 600_000_000
    assert log() == 1
    clock[0] -= 10**15  # the clock was set back
    assert log() == 1


def test_a_forked_child_declares_its_names_in_its_own_ring(desk: Desk) -> None:
    for _ in range(3):
        desk.run.log({"loss": 1.0})
    home = desk.run._home
    before = set(home.rings.glob("*.ring"))
    child = os.fork()
    if not child:
        try:
            for _ in range(3):
                desk.run.log({"loss": 2.0})
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    (path,) = set(home.rings.glob("*.ring")) - before
    consumer = Consumer.attach(path)
    kinds = [kind for kind, *_ in consumer.read()]
    assert kinds == [FrameType.STREAM, FrameType.KEYS, *[FrameType.POINTS] * 3]
    consumer.close(unlink=True)
    assert len(desk.said()) == 3
