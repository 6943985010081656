"""The client's end with nobody at the other: a full ring, a pause, what is left out, and forks. No process is started."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from seclea.contract import Destination, Home
from seclea.director import Pipeline, Speaker, pipeline_of, progress
from seclea.director import pipeline as director
from seclea.director.ring_size import fitting
from seclea.entities import Project
from seclea.errors import LoggingPaused
from seclea.frames import FrameType, MetricsFrame, TombstoneFrame, unpack
from seclea.processes.start import Started
from seclea.queues.ring import Consumer
from seclea.settings import Limits, Settings

DROP = Limits(when_full="drop")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(director, "in_container", lambda: True)  # rings in the home
    monkeypatch.setattr(director, "ensure_writer", lambda home: Started(found=False))
    monkeypatch.setattr(director, "RING_BYTES", 64 << 10)
    made = Home(tmp_path / "home")
    yield made
    for pipeline in list(director.open_pipelines()):
        if pipeline.home.path == made.path:
            pipeline.close()
            director._pipelines.pop(made.path)


def speaker(limits: Limits = DROP) -> Speaker:
    return Speaker(Destination("https://portal", "https://auth", "Acme"), "Claims", Settings(limits=limits))


def frames(home: Home, consumer: Consumer | None = None) -> tuple[Consumer, list[object]]:
    """What stands in the one ring, taken as a writer does."""
    if consumer is None:
        (path,) = home.rings.glob("*.ring")
        consumer = Consumer.attach(path)
    found = [unpack(kind, payload) for kind, _, payload in consumer.read(100_000, 1 << 30)]
    consumer.commit()
    return consumer, found


def log(pipeline: Pipeline, index: int, step: int) -> bool:
    return pipeline.put(FrameType.METRICS, MetricsFrame(index, step, 0, {"loss": 1.0}).pack(), index)


def test_a_process_has_one_pipeline_per_home_and_each_stream_is_declared_once(home: Home) -> None:
    pipeline = pipeline_of(home, DROP)
    assert pipeline_of(home, DROP) is pipeline
    one, two = speaker(), speaker()
    assert pipeline.stream(one) == pipeline.stream(two) == 0, "the same session"
    assert pipeline.stream(one, "run") == 1
    other = replace(one, project="Other")
    assert pipeline.stream(other) == 2
    consumer, found = frames(home)
    assert [(frame.index, frame.project, frame.run) for frame in found] == [  # type: ignore[attr-defined]
        (0, "Claims", None), (1, "Claims", "run"), (2, "Other", None),
    ]  # fmt: skip
    consumer.close()


def test_what_did_not_fit_is_counted_and_stands_in_the_stream_before_what_follows(home: Home) -> None:
    pipeline = pipeline_of(home, DROP)
    index = pipeline.stream(speaker(), "run")
    taken = [log(pipeline, index, step) for step in range(3000)]
    kept, left = taken.count(True), taken.count(False)
    assert kept and left and not any(taken[kept:])
    consumer, found = frames(home)
    assert [frame.step for frame in found[1:]] == list(range(kept))  # type: ignore[attr-defined]
    assert log(pipeline, index, 9999)
    _, found = frames(home, consumer)
    assert found[0] == TombstoneFrame(index, "metrics", left, "dropped", "full")
    assert [frame.step for frame in found[1:]] == [9999]  # type: ignore[attr-defined]
    consumer.close()


def test_a_pause_holds_metrics_back_and_lets_ends_pass(home: Home) -> None:
    pipeline = pipeline_of(home, DROP)
    index = pipeline.stream(speaker(), "run")
    consumer, _ = frames(home)
    consumer.set_paused(True)
    assert [log(pipeline, index, step) for step in range(3)] == [False] * 3
    with pytest.raises(LoggingPaused, match=r"The project was not recorded: logging is paused.*Make room"):
        pipeline.store_entity(speaker(), Project(name="x"))
    assert pipeline.put(FrameType.FINISH, b"\x93\x00\xa8finished\x00", index)
    consumer.set_paused(False)
    _, found = frames(home, consumer)
    assert [type(frame).__name__ for frame in found].count("FinishFrame") == 1
    stones = [frame for frame in found if isinstance(frame, TombstoneFrame)]
    assert sum(stone.count for stone in stones if stone.index == index) == 3
    consumer.close()


def test_names_of_metrics_pass_a_pause_and_a_ring_that_log_calls_have_filled(home: Home) -> None:
    pipeline = pipeline_of(home, DROP)
    index = pipeline.stream(speaker(), "run")
    while pipeline.offer(FrameType.METRICS, MetricsFrame(index, 1, 1, {"fill": 1.0}).pack(), 1):
        pass
    assert not log(pipeline, index, 1)
    assert pipeline.key_set(index, ("one",)) == 0, "the spare bytes are for that"
    consumer, _ = frames(home)
    consumer.set_paused(7)
    assert pipeline.key_set(index, ("two", "three")) == 1
    assert pipeline.stream(speaker(), "another run") == index + 1
    assert pipeline.put(FrameType.FINISH, b"\x93\x00\xa8finished\x00", index)
    _, found = frames(home, consumer)
    kinds = [type(frame).__name__ for frame in found]
    assert kinds[-3:] == ["KeysFrame", "StreamFrame", "FinishFrame"], kinds
    consumer.close()


def test_each_pause_has_a_budget_of_its_own(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline = pipeline_of(home, Limits(when_full="wait", wait_timeout_seconds=0.2))
    index = pipeline.stream(speaker(), "run")
    consumer, _ = frames(home)
    consumer.set_paused(1)
    assert not log(pipeline, index, 1) and not log(pipeline, index, 2)
    consumer.set_paused(2)  # between two log calls it ended, and another one began
    pipeline._room._told = False
    assert not log(pipeline, index, 3)
    assert capfd.readouterr().err.count("waiting for room") == 2, "it waited again"
    consumer.set_paused(0)
    consumer.close()


def test_many_threads_in_one_pause_say_one_line_each_at_its_begin_and_end(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    pipeline = pipeline_of(home, Limits(when_full="wait", wait_timeout_seconds=30))
    index = pipeline.stream(speaker(), "run")
    consumer, _ = frames(home)
    consumer.set_paused(1)
    with ThreadPoolExecutor(8) as pool:
        logged = [pool.submit(log, pipeline, index, step) for step in range(8)]
        while not pipeline._room._told:
            assert not any(one.done() for one in logged)
        consumer.set_paused(0)
        assert all(one.result() for one in logged)
    assert capfd.readouterr().err.splitlines() == [
        "seclea: logging is paused (a limit is reached); waiting for room.",
        "seclea: logging goes on.",
    ]
    consumer.close()


def test_a_ring_is_smaller_where_the_memory_limit_has_no_room_for_a_whole_one(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(director, "RING_BYTES", 4 << 20)
    pipeline = pipeline_of(home, Limits(memory=52 << 20, when_full="drop"))
    assert pipeline._ring.capacity_bytes == 1 << 20
    assert fitting(home, 52 << 20, (4 << 20, 1 << 20, 256 << 10)) == 1 << 20
    assert fitting(home, 50 << 20, (4 << 20, 1 << 20, 256 << 10)) == 256 << 10, "beside the one that there is"
    assert fitting(home, 49 << 20, (4 << 20, 1 << 20, 256 << 10)) == 0
    assert fitting(home, 1 << 30, (4 << 20,)) == 4 << 20


def test_a_pause_raises_where_the_user_wants_that(home: Home) -> None:
    pipeline = pipeline_of(home, Limits(when_full="raise"))
    index = pipeline.stream(speaker(), "run")
    consumer, _ = frames(home)
    consumer.set_paused(True)
    with pytest.raises(LoggingPaused, match=r"logging is paused \(a limit is reached\).*Make room") as caught:
        log(pipeline, index, 0)
    assert ".seclearc" in caught.value.hint
    consumer.set_paused(False)
    assert log(pipeline, index, 1)
    _, found = frames(home, consumer)
    assert [frame.step for frame in found] == [1], "what raised was not recorded, and is not counted as lost"  # type: ignore[attr-defined]
    consumer.close()


def test_a_pause_waits_for_its_budget_once_and_then_leaves_out(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    pipeline = pipeline_of(home, Limits(when_full="wait", wait_timeout_seconds=0.2))
    index = pipeline.stream(speaker(), "run")
    consumer, _ = frames(home)
    consumer.set_paused(True)
    assert [log(pipeline, index, step) for step in range(50)] == [False] * 50
    consumer.set_paused(False)
    assert log(pipeline, index, 50)
    said = capfd.readouterr().err.splitlines()
    assert said == ["seclea: logging is paused (a limit is reached); waiting for room.", "seclea: logging goes on."]
    consumer.close()


def test_a_forked_child_starts_with_no_pipeline_and_leaves_its_parents_alone(home: Home) -> None:
    pipeline = pipeline_of(home, DROP)
    index = pipeline.stream(speaker(), "run")
    child = os.fork()
    if not child:
        try:
            assert list(director.open_pipelines()) == []
            mine = pipeline_of(home, DROP)
            assert mine is not pipeline
            assert log(mine, mine.stream(speaker(), "run"), 7)
            os._exit(0)
        except BaseException:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert log(pipeline, index, 1)
    rings = sorted(home.rings.glob("*.ring"))
    assert len(rings) == 2
    for path in rings:
        consumer = Consumer.attach(path)
        _, found = frames(home, consumer)
        assert len(found) == 2
        consumer.close()
        if path.name != f"{pipeline._ring.ring_id.hex()}.ring":
            path.unlink()


def test_a_frame_too_large_for_the_ring_travels_as_a_file(home: Home) -> None:
    pipeline = pipeline_of(home, DROP)
    index = pipeline.stream(speaker(), "run")
    payload = MetricsFrame(index, 0, 0, {f"metric {number}": 1.0 for number in range(5000)}).pack()
    assert pipeline.put_large(FrameType.METRICS, payload, index)
    (file,) = home.incoming.iterdir()
    assert file.read_bytes() == payload
    assert file.name.startswith(pipeline._ring.ring_id.hex()), "so that it can be told whose it is"
    assert file.stat().st_mode & 0o777 == 0o600


def test_progress_of_a_home_without_a_ledger_is_not_done_and_says_so(home: Home) -> None:
    now = progress(home)
    assert not now
    assert "There is no ledger" in now.reasons[0]
