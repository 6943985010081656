"""A pause whose writer is gone: somebody has to start another one, or it never ends."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from seclea.contract import Destination, Home
from seclea.director import Pipeline, Speaker, pipeline_of
from seclea.director import pipeline as director
from seclea.errors import LoggingPaused
from seclea.frames import FrameType, MetricsFrame
from seclea.processes.start import Started
from seclea.queues.ring import Consumer
from seclea.settings import Limits, Settings


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Home]:
    found: list[Home] = []

    def ensure_writer(home: Home) -> Started:
        found.append(home)
        return Started(found=False)

    monkeypatch.setattr(director, "ensure_writer", ensure_writer)
    return found


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Home]:
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(director, "in_container", lambda: True)  # rings in the home
    made = Home(tmp_path / "home")
    yield made
    for pipeline in list(director.open_pipelines()):
        if pipeline.home.path == made.path:
            pipeline.close()
            director._pipelines.pop(made.path)


def paused_by_a_dead_writer(home: Home, limits: Limits) -> tuple[Pipeline, int]:
    pipeline = pipeline_of(home, limits)
    speaker = Speaker(Destination("https://portal", "https://auth", "Acme"), "Claims", Settings(limits=limits))
    index = pipeline.stream(speaker, "run")
    (path,) = home.rings.glob("*.ring")
    consumer = Consumer.attach(path)
    consumer.beat(1)
    consumer.set_paused(True)
    consumer.close()
    pipeline._next_look = pipeline._next_bell = 0
    return pipeline, index


@pytest.mark.parametrize("limits", [Limits(when_full="drop"), Limits(wait_timeout_seconds=0.1)], ids=["drop", "wait"])
def test_a_log_call_in_a_pause_looks_for_the_writer(home: Home, started: list[Home], limits: Limits) -> None:
    pipeline, index = paused_by_a_dead_writer(home, limits)
    started.clear()
    assert not pipeline.put(FrameType.METRICS, MetricsFrame(index, 0, 0, {"loss": 1.0}).pack(), index)
    assert started


def test_a_snapshot_in_a_pause_looks_for_the_writer(home: Home, started: list[Home]) -> None:
    pipeline, _ = paused_by_a_dead_writer(home, Limits(when_full="drop"))
    started.clear()
    with pytest.raises(LoggingPaused):
        pipeline.wait_for_room()
    assert started
