"""The log call under strange values, interruptions and races: what a hostile reader tried."""

import contextlib
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from seclea.client import training_run
from seclea.client.validation import plain_types
from seclea.errors import LoggingPaused, MetricError, RunFinishedError
from seclea.frames import FrameType, MetricsFrame, TombstoneFrame, unpack
from tests.unit.client.test_log_call import Desk, desk

__all__ = ["desk"]


def know(desk: Desk, *names: str) -> None:
    """Have the names said once."""
    for _ in range(3):
        desk.run.log(dict.fromkeys(names, 1.0))
    desk.said()


class Tensor:
    """As torch's: `float` of one that requires a gradient warns, `item` does not; both may wait for a GPU."""

    def __init__(self) -> None:
        self.floats = 0

    def __float__(self) -> float:
        self.floats += 1
        warnings.warn("Converting a tensor with requires_grad=True to a scalar", UserWarning, stacklevel=2)
        return 1.5

    def item(self) -> float:
        return 1.5


def test_a_tensor_is_asked_for_its_number_once_and_as_it_wants_to_be(desk: Desk) -> None:
    know(desk, "loss")
    tensor = Tensor()
    desk.run.log({"loss": tensor}, 7)
    assert desk.said() == [(7, {"loss": 1.5})]
    assert tensor.floats == 0


def test_a_complex_number_is_refused_without_a_warning_of_another_library(desk: Desk) -> None:
    know(desk, "loss")
    with warnings.catch_warnings(record=True) as said, pytest.raises(MetricError):
        warnings.simplefilter("always")
        desk.run.log({"loss": np.complex64(1)})
    assert said == []


SCALARS = [np.dtype(code).type for code in "?bBhHiIlLqQefdg"]


@pytest.mark.parametrize("scalar", SCALARS, ids=[kind.__name__ for kind in SCALARS])
def test_a_scalar_of_numpy_is_a_number_whether_its_names_are_known_or_not_and_then_plain(
    desk: Desk, scalar: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run.log({"loss": scalar(1)}, 0)
    know(desk, "loss")
    assert scalar in plain_types
    checked: list[Any] = []
    monkeypatch.setattr(desk.run, "_log_checked", lambda *call: checked.append(call))
    desk.run.log({"loss": scalar(1)}, 1)
    assert checked == [] and desk.said() == [(1, {"loss": 1.0})]


def test_types_that_users_make_are_not_kept(desk: Desk) -> None:
    before = set(plain_types)
    for base in (np.float64, np.float32, float, int):
        made = type("Mine", (base,), {})
        desk.run.log({"loss": made(1)}, 0)
    assert plain_types - before <= {np.float64, np.float32}


def test_a_step_whose_index_raises_is_a_wrong_step_whether_its_names_are_known_or_not(desk: Desk) -> None:
    class Step:
        def __index__(self) -> int:
            raise RuntimeError("no")

    know(desk, "loss")
    with pytest.raises(MetricError, match="whole number"):
        desk.run.log({"loss": 1.0}, Step())  # type: ignore[arg-type]


@contextlib.contextmanager
def handler_at(desk: Desk, kind: FrameType, act: Callable[[], None], *, after: bool = False) -> Iterator[list[int]]:
    """While it lasts a signal comes just before (or after) a frame of this kind is put, the first time; its handler acts."""
    ring = desk.run._pipeline._ring
    put, came = ring.put, list[int]()

    def watched(frame_type: int, payload: bytes, now_ns: int = 0, /) -> int:
        due = frame_type == kind and not came
        if due:
            came.append(1)
        if due and not after:
            signal.raise_signal(signal.SIGUSR1)
        number = put(frame_type, payload, now_ns)
        if due and after:
            signal.raise_signal(signal.SIGUSR1)
        return number

    before = signal.signal(signal.SIGUSR1, lambda *_: act())
    ring.put = watched
    try:
        yield came
    finally:
        ring.put = put
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("after", [False, True])
def test_a_handler_that_declares_names_while_others_are_declared_gets_a_number_of_its_own(
    desk: Desk, after: bool
) -> None:
    def act() -> None:
        for _ in range(2):
            desk.run.log({"handler": 2.0}, 1)

    desk.run.log({"main": 1.0}, 0)
    with handler_at(desk, FrameType.KEYS, act, after=after) as came:
        desk.run.log({"main": 1.0}, 0)
    assert came
    for _ in range(2):
        desk.run.log({"main": 1.0}, 0)
        desk.run.log({"handler": 2.0}, 1)
    said = desk.said()
    assert sorted(said, key=lambda call: call[0]) == [(0, {"main": 1.0})] * 4 + [(1, {"handler": 2.0})] * 4


@pytest.mark.parametrize("after", [False, True])
def test_a_handler_that_logs_while_a_tombstone_is_said_neither_breaks_nor_repeats_it(desk: Desk, after: bool) -> None:
    know(desk, "loss")
    desk.consumer.set_paused(True)
    for step in range(3):
        desk.run.log({"loss": 2.0}, step)
    desk.consumer.set_paused(False)
    with handler_at(desk, FrameType.TOMBSTONE, lambda: desk.run.log({"loss": 3.0}, 3), after=after) as came:
        desk.run.log({"loss": 4.0}, 4)
    assert came
    frames = [(kind, payload) for kind, _, payload in desk.consumer.read()]
    stones = [unpack(kind, payload) for kind, payload in frames if kind == FrameType.TOMBSTONE]
    assert [stone.count for stone in stones if isinstance(stone, TombstoneFrame)] == [3]
    assert sum(kind == FrameType.POINTS for kind, _ in frames) == 2


def test_names_too_long_to_be_said_once_are_said_with_each_call(desk: Desk) -> None:
    names = [f"{number:03}" + "\N{SNOWMAN}" * 997 for number in range(512)]
    for step in range(3):
        desk.run.log(dict.fromkeys(names, 1.0), step)
    assert [kind for kind, *_ in desk.consumer.read()] == [FrameType.STREAM, *[FrameType.LARGE] * 3]


def test_a_run_that_is_finished_while_a_thread_declares_its_names_takes_nothing_more(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = desk.run._pipeline
    declare = pipeline.key_set

    def while_another_thread_finishes(*call: Any) -> int | None:
        number = declare(*call)
        other = threading.Thread(target=desk.run.finish)
        other.start()
        other.join()
        return number

    monkeypatch.setattr(pipeline, "key_set", while_another_thread_finishes)
    for _ in range(2):
        desk.run.log({"loss": 1.0})
    with pytest.raises(RunFinishedError):
        desk.run.log({"loss": 1.0})


def test_once_the_tombstone_is_said_the_quick_way_is_open_again(desk: Desk) -> None:
    know(desk, "loss")
    desk.consumer.set_paused(True)
    desk.run.log({"loss": 2.0})
    desk.consumer.set_paused(False)
    assert not desk.run._pipeline.offer(FrameType.POINTS, b"held back", 1)
    desk.run.log({"loss": 3.0})
    assert desk.run._pipeline.offer(FrameType.POINTS, b"open", 1)


@pytest.mark.parametrize("count", [512, 513])
def test_only_as_many_names_as_a_writer_takes_are_said_once(desk: Desk, count: int) -> None:
    for step in range(3):
        desk.run.log({f"n{number}": 1.0 for number in range(count)}, step)
    kinds = {kind for kind, *_ in desk.consumer.read()}
    assert (FrameType.KEYS in kinds) is (count == 512)


def test_a_dict_that_grows_while_it_is_looked_at_is_no_error_of_ours(desk: Desk) -> None:
    metrics: dict[str, float] = {}

    class Grows(type):
        def __hash__(cls) -> int:
            if metrics:
                metrics["more"] = 5.0
            return super().__hash__()

    class Value(float, metaclass=Grows):
        pass

    know(desk, "loss", "rate")
    plain_types.add(Value)
    metrics.update(loss=Value(1.0), rate=2.0)
    try:
        desk.run.log(metrics, 7)
    finally:
        plain_types.remove(Value)
    assert desk.said() == [(7, {"loss": 1.0, "rate": 2.0, "more": 5.0})]


@pytest.mark.parametrize("when_full", ["drop", "raise"])
def test_a_ring_that_is_full_just_when_names_are_declared_loses_nothing_silently(desk: Desk, when_full: str) -> None:
    pipeline, name = desk.run._pipeline, "new" * 100  # longer than what is left behind the last frame that fits
    desk.run.log({name: 1.0}, 0)
    while pipeline._ring.put(FrameType.METRICS, MetricsFrame(0, 1, 1, {"fill": 1.0}).pack()):
        pass  # without a time: the bytes that are spared for what closes something are full, too
    pipeline._room._watch.limits = replace(pipeline.limits, when_full=when_full)
    for step in (2, 3):
        with contextlib.nullcontext() if when_full == "drop" else pytest.raises(LoggingPaused):
            desk.run.log({name: 1.0}, step)
    steps = set()
    while part := desk.said():
        steps |= {step for step, _ in part}
    assert steps == {0, 1}
    desk.run.log({name: 1.0}, 4)
    frames = [(kind, payload) for kind, _, payload in desk.consumer.read()]
    kinds = [kind for kind, _ in frames]
    if when_full == "drop":
        assert kinds == [FrameType.TOMBSTONE, FrameType.KEYS, FrameType.POINTS]
        stone = unpack(*frames[0])
        assert isinstance(stone, TombstoneFrame) and stone.count == 2
    else:
        assert kinds == [FrameType.KEYS, FrameType.POINTS]


def test_two_threads_that_declare_the_same_names_at_once_agree(desk: Desk) -> None:
    barrier = threading.Barrier(8)

    def work() -> None:
        for number in range(30):
            barrier.wait()
            for _ in range(2):
                desk.run.log({f"n{number}": float(number)}, number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    said = desk.said()
    assert len(said) == 8 * 2 * 30
    assert all(metrics == {f"n{step}": float(step)} for step, metrics in said)
    assert len(desk.keys) == 30


def test_threads_that_name_no_step_never_get_the_same_one(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    def log(name: str) -> None:
        for _ in range(300):
            desk.run.log({name: 1.0})

    threads = [threading.Thread(target=log, args=(f"thread {number}",)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(step for step, _ in desk.said()) == list(range(1200))

    clock, others = time.time_ns, [3]

    def slow_clock() -> int:
        """In the middle of a call, another thread logs."""
        if others[0]:
            others[0] -= 1
            other = threading.Thread(target=desk.run.log, args=({"loss": 1.0},))
            other.start()
            other.join()
        return clock()

    monkeypatch.setattr(training_run, "_time_ns", slow_clock)
    desk.run.log({"loss": 1.0}, 5)
    others[0] = 3
    desk.run.log({"loss": 1.0})
    steps = [step for step, _ in desk.said()]
    assert len(set(steps)) == len(steps) == 8
