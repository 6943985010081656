"""R12: whatever stands in the file, the consumer returns only frames that were put, and raises only RingDamaged."""

from __future__ import annotations

import os
import random
import struct
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seclea.queues import layout
from seclea.queues.ring import Consumer, Frame, Producer, RingDamaged

RELAXED = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def make_ring(directory: Path, frames: int, laps: int = 0) -> tuple[Path, list[Frame]]:
    """A ring whose producer closed it, and every frame ever put there; the last ``frames`` are not committed."""
    producer = Producer.create(directory, capacity_bytes=4096)
    consumer = Consumer.attach(producer.path)
    sent: list[Frame] = []
    for number in range(laps * 30):
        payload = b"old %d" % number * 10
        sent.append((3, producer.put(3, payload), payload))
        consumer.read()
        consumer.commit()
    consumer.close()
    for number in range(frames):
        payload = b"frame %d " % number * (number % 5)
        sent.append((1 + number % 9, producer.put(1 + number % 9, payload), payload))
    producer.close()
    return producer.path, sent


def read_everything(path: Path) -> list[Frame]:
    try:
        consumer = Consumer.attach(path)
    except RingDamaged:
        return []
    try:
        got: list[Frame] = []
        for _ in range(1000):
            frames = consumer.read(7)
            if not frames:
                break
            got += frames
            consumer.commit()
        else:
            raise AssertionError("the consumer does not come to an end")
        for look in ("is_damaged", "has_more", "backlog_bytes", "dropped", "closed_by_producer", "last_sequence"):
            getattr(consumer, look)
        consumer.producer_alive()
        consumer.refresh()
        assert consumer.read() == [] or got == []
        return got
    finally:
        consumer.close()


def check(path: Path, sent: list[Frame]) -> None:
    """Flipped cursors may show where to start wrongly. What is got is still a run of what was put, in order."""
    got = read_everything(path)
    if got:
        first = got[0][1] - 1
        assert got == sent[first : first + len(got)]


@RELAXED
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 8), laps=st.integers(0, 3))
def test_flipped_bits_in_frames_never_give_a_wrong_frame(tmp_path: Path, seed: int, flips: int, laps: int) -> None:
    path, sent = make_ring(tmp_path, 30, laps)
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    for _ in range(flips):
        data[chance.randrange(layout.HEADER_BYTES, len(data))] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    got = read_everything(path)
    assert got == sent[-30:][: len(got)]
    path.unlink()


@RELAXED
@given(seed=st.integers(0, 2**32), flips=st.integers(1, 4))
def test_flipped_bits_in_the_header_raise_nothing_but_ring_damaged(tmp_path: Path, seed: int, flips: int) -> None:
    path, sent = make_ring(tmp_path, 30, 2)
    chance = random.Random(seed)
    data = bytearray(path.read_bytes())
    places = [*range(0, 96), *range(512, 544), *range(1024, 1072)]
    for _ in range(flips):
        data[chance.choice(places)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    check(path, sent)
    path.unlink()


@RELAXED
@given(words=st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9000), min_size=4, max_size=4))
def test_hostile_cursors_never_lead_out_of_bounds(tmp_path: Path, words: list[int]) -> None:
    path, sent = make_ring(tmp_path, 30, 2)
    data = bytearray(path.read_bytes())
    for index, word in zip((layout.HEAD, layout.HEAD_SEQUENCE, layout.TAIL, layout.TAIL_SEQUENCE), words, strict=True):
        struct.pack_into("=Q", data, index * 8, word)
    path.write_bytes(data)
    check(path, sent)
    path.unlink()


@RELAXED
@given(noise=st.binary(min_size=0, max_size=300), size=st.integers(0, 20000))
def test_any_file_is_a_ring_or_damaged(tmp_path: Path, noise: bytes, size: int) -> None:
    path = tmp_path / "noise.ring"
    path.write_bytes((noise * (size // max(1, len(noise)) + 1))[:size])
    with pytest.raises(RingDamaged):
        Consumer.attach(path)


@RELAXED
@given(
    frames=st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 40)), max_size=40)
)
def test_forged_frames_without_a_right_checksum_are_not_frames(
    tmp_path: Path, frames: list[tuple[int, int, int]]
) -> None:
    path, _ = make_ring(tmp_path, 0)
    data = bytearray(path.read_bytes())
    position = layout.HEADER_BYTES
    for word, checksum, sequence in frames:
        struct.pack_into("=IIQ", data, position, word, checksum, sequence)
        position += 24
    struct.pack_into("=Q", data, layout.HEAD * 8, min(4096, 24 * len(frames)))
    path.write_bytes(data)
    assert read_everything(path) == []
    path.unlink()


@pytest.mark.parametrize("head", [24 + 8, 24 + 16, 1 << 62, 4096 + 8 * 40, 24 * 3 + 4])
def test_nothing_is_read_past_a_head_that_cannot_be(tmp_path: Path, head: int) -> None:
    """HEAD inside a frame, beyond the capacity, or not aligned: only whole frames below it exist."""
    producer = Producer.create(tmp_path, capacity_bytes=4096)
    for _ in range(4):
        producer.put(1, b"8 bytes.")
    consumer = Consumer.attach(producer.path)
    consumer._words[layout.HEAD] = head
    assert consumer.read() == ([(1, 1, b"8 bytes.")] if head in (32, 40) else [])
    assert consumer.is_damaged and consumer.backlog_bytes <= 4096
    consumer.close()
    producer.close()


def test_a_forged_frame_that_goes_past_the_end_is_no_frame(tmp_path: Path) -> None:
    """Its checksum is right for the bytes that a slice of the file gives."""
    producer = Producer.create(tmp_path, capacity_bytes=4096)
    consumer = Consumer.attach(producer.path)
    while producer.put(1, b"x" * 1000):
        consumer.read()
        consumer.commit()
        if consumer._position % 4096 > 3000:
            break
    position = consumer._position % 4096
    sequence, word = producer.sequence + 1, 1 << 24 | 5000
    checksum = crc32(consumer._memory[layout.HEADER_BYTES + position + 16 :], (sequence + word) & layout.U32)
    layout.FRAME.pack_into(consumer._memory, layout.HEADER_BYTES + position, word, checksum, sequence)
    consumer._words[layout.HEAD] += 4096
    assert consumer.read() == [] and consumer.is_damaged
    consumer.close()
    producer.close()


def test_a_damaged_frame_is_told_from_an_empty_ring(tmp_path: Path) -> None:
    path, sent = make_ring(tmp_path, 10)
    data = bytearray(path.read_bytes())
    at = data.index(b"frame 3 ")
    data[at] ^= 1
    path.write_bytes(data)
    consumer = Consumer.attach(path)
    assert not consumer.is_damaged
    assert consumer.read() == sent[:3]
    assert consumer.is_damaged and consumer.has_more
    consumer.commit()
    assert consumer.last_sequence - consumer.committed == 7  # what is lost can be counted
    consumer.close()


def test_links_foreign_kinds_and_short_files_are_refused(tmp_path: Path) -> None:
    path, _ = make_ring(tmp_path, 1)
    (tmp_path / "link.ring").symlink_to(path)
    os.mkfifo(tmp_path / "fifo.ring")
    for name in ("link.ring", "fifo.ring", "missing.ring"):
        with pytest.raises(OSError):
            Consumer.attach(tmp_path / name)
    for size in (0, 100, 4096, 8191):
        (tmp_path / "short.ring").write_bytes(path.read_bytes()[:size])
        with pytest.raises(RingDamaged):
            Consumer.attach(tmp_path / "short.ring")
