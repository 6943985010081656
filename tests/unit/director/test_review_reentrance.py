"""Signal handlers that log while this process's pipeline is being made, and forks in the middle of a put."""

import os
import signal
from pathlib import Path

import pytest

from seclea.client.training_run import TrainingRun
from seclea.contract import Destination, Home
from seclea.director import Speaker
from seclea.director import pipeline as director
from seclea.errors import QueueClosed
from seclea.frames import FrameType, StreamFrame, unpack
from seclea.processes.start import Started
from seclea.queues.ring import Consumer, Producer
from seclea.settings import Limits, Settings


@pytest.mark.parametrize("at", ["ring", "stream"])
def test_a_handler_that_logs_while_the_pipeline_is_made_logs_to_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    """A deadlock here is a failure by the test's own timeout."""
    (tmp_path / "run").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    monkeypatch.setattr(director, "in_container", lambda: True)  # rings in the home
    home = Home(tmp_path / "home")
    speaker = Speaker(
        Destination("https://portal", "https://auth", "Acme"), "Claims", Settings(limits=Limits(when_full="drop"))
    )
    run = TrainingRun(home, speaker, "00000000-0000-0000-0000-000000000001", "one", owner=1)
    came: list[int] = []

    def interrupt() -> None:
        if not came:
            came.append(1)
            signal.raise_signal(signal.SIGUSR1)

    def ensure(home: Home) -> Started:
        if at == "ring":
            interrupt()
        return Started(found=True)

    pack = StreamFrame.pack

    def packed(frame: StreamFrame) -> bytes:
        if at == "stream":
            interrupt()
        return pack(frame)

    monkeypatch.setattr(director, "ensure_writer", ensure)
    monkeypatch.setattr(StreamFrame, "pack", packed)
    before = signal.signal(signal.SIGUSR1, lambda *_: run.log({"handler": 1.0}, 1))
    try:
        run.log({"loss": 2.0}, 0)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came
    said, streams = [], set()
    for path in home.rings.glob("*.ring"):
        consumer = Consumer.attach(path)
        for kind, _, payload in consumer.read():
            frame = unpack(kind, payload)
            if isinstance(frame, StreamFrame):
                assert frame.index not in streams or at == "ring", "two streams under one number"
                streams.add(frame.index)
            else:
                assert kind == FrameType.METRICS
                said.append(frame.step)  # type: ignore[union-attr]
        consumer.close()
    assert sorted(said) == [0, 1]
    director._pipelines.pop(home.path).close()


def test_a_put_in_a_child_that_was_forked_in_the_middle_of_one_is_refused_not_parked(tmp_path: Path) -> None:
    ring = Producer.create(tmp_path, capacity_bytes=4096)

    class Forks(bytes):
        def __len__(self) -> int:
            if not children:
                children.append(os.fork())
                if not children[0]:
                    code = 1
                    try:
                        ring.put(1, b"of the child")
                    except QueueClosed:
                        code = 0
                    finally:
                        os._exit(code)
            return super().__len__()

    children: list[int] = []
    ring.put(1, Forks(b"of the parent"))
    assert os.waitpid(children[0], 0)[1] == 0
    ring.close(unlink=True)


def test_a_handler_that_raises_in_a_put_does_not_let_others_pass_while_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = Producer.create(tmp_path, capacity_bytes=4096)
    ring.hold_back(True)

    def interrupted(payload: bytes, start: int) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("seclea.queues.producer.crc32", interrupted)
        ring.put(1, b"tombstone")
    assert ring.put(1, b"a record", 1) == 0
    ring.close(unlink=True)
