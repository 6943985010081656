"""The two ways of a put, at the edges where one hands over to the other."""

import signal
import zlib
from pathlib import Path

import pytest

from seclea.queues.ring import Consumer, Producer


@pytest.mark.parametrize("quick", [0, 1], ids=["", "hot path"])
def test_frames_that_fill_the_ring_to_its_last_byte_go_on_at_its_start(tmp_path: Path, quick: int) -> None:
    ring = Producer.create(tmp_path, capacity_bytes=4096)
    consumer = Consumer.attach(ring.path)
    for number in range(128 * 3 + 1):
        payload = number.to_bytes(16, "little")  # 32 bytes with its frame: 128 of them are 4096
        assert ring.put(1, payload, quick) == number + 1
        if number % 128 in (99, 127):
            consumer.read(1000)
            consumer.commit()
    assert consumer.read() == [(1, 128 * 3 + 1, (128 * 3).to_bytes(16, "little"))]
    consumer.close()
    ring.close(unlink=True)


@pytest.mark.parametrize("straight", [True, False], ids=["straight", "slow"])
def test_what_a_handler_parked_is_written_when_the_put_that_it_interrupted_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, straight: bool
) -> None:
    from seclea.queues import producer

    ring = Producer.create(tmp_path, capacity_bytes=4096)
    consumer = Consumer.attach(ring.path)
    came: list[int] = []

    def interrupted(payload: bytes, start: int) -> int:
        if not came:
            came.append(0)
            signal.raise_signal(signal.SIGUSR1)
        return zlib.crc32(payload, start)

    before = signal.signal(signal.SIGUSR1, lambda *_: came.append(ring.put(2, b"handler")))
    try:
        if not straight:
            ring.hold_back(False)  # the limit is looked up anew
        monkeypatch.setattr(producer, "crc32", interrupted)
        assert ring.put(1, b"main", 0) == 1
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert came == [0, producer.PARKED]
    assert [payload for *_, payload in consumer.read()] == [b"main", b"handler"]
    consumer.close()
    ring.close(unlink=True)
