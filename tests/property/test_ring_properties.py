"""The ring acts like a deque, whatever is put, read, committed and rewound, and whatever its capacity (R12)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from seclea.queues.ring import Consumer, Producer


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    yield tmp_path_factory.mktemp("rings", numbered=True)


PAYLOADS = st.binary(max_size=200) | st.integers(0, 1024).map(lambda length: bytes([length & 255]) * length)


class RingAsDeque(RuleBasedStateMachine):
    directory: Path

    @initialize(pages=st.integers(1, 3))
    def make(self, pages: int) -> None:
        self.producer = Producer.create(self.directory, capacity_bytes=pages * 4096)
        self.consumer = Consumer.attach(self.producer.path)
        self.unread: deque[tuple[int, int, bytes]] = deque()
        self.uncommitted: deque[tuple[int, int, bytes]] = deque()
        self.sequence = 0

    @rule(type=st.integers(1, 255), payloads=st.lists(PAYLOADS, min_size=1, max_size=20))
    def put(self, type: int, payloads: list[bytes]) -> None:
        for payload in payloads:
            sequence = self.producer.put(type, payload)
            if sequence:
                self.sequence += 1
                assert sequence == self.sequence == self.producer.sequence
                self.unread.append((type, sequence, payload))
            else:
                # At most the place that a frame of this size cannot use at the end is lost besides what is held.
                assert self.producer.used_bytes + 2 * (len(payload) + 24) > self.producer.capacity_bytes

    @rule(max_frames=st.integers(1, 30), max_bytes=st.integers(1, 4000))
    def read(self, max_frames: int, max_bytes: int) -> None:
        frames = self.consumer.read(max_frames, max_bytes)
        expected = [self.unread.popleft() for _ in frames]
        assert frames == expected
        self.uncommitted.extend(frames)
        full = len(frames) == max_frames or sum(len(payload) for _, _, payload in frames) >= max_bytes
        assert full or not self.unread

    @rule()
    def unread_the_last(self) -> None:
        frames = self.consumer.read(3)
        self.consumer.unread()
        assert frames == list(self.unread)[: len(frames)]

    @rule()
    def commit(self) -> None:
        self.consumer.commit()
        self.uncommitted.clear()

    @rule()
    def rewind(self) -> None:
        self.consumer.rewind()
        self.unread.extendleft(reversed(self.uncommitted))
        self.uncommitted.clear()

    @rule()
    def another_consumer(self) -> None:
        self.consumer.close()
        self.consumer = Consumer.attach(self.producer.path)
        self.unread.extendleft(reversed(self.uncommitted))
        self.uncommitted.clear()

    @invariant()
    def the_words_agree(self) -> None:
        assert self.consumer.has_more == bool(self.unread)
        assert self.consumer.has_uncommitted == bool(self.unread or self.uncommitted)
        assert self.producer.is_drained == (not self.unread and not self.uncommitted)
        assert self.producer.committed == self.sequence - len(self.unread) - len(self.uncommitted)
        assert not self.consumer.is_damaged

    def teardown(self) -> None:
        if hasattr(self, "producer"):
            self.consumer.close()
            self.producer.close(unlink=True)


def test_a_ring_acts_like_a_deque(directory: Path) -> None:
    class Here(RingAsDeque):
        pass

    Here.directory = directory
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Here, settings=settings(max_examples=60, stateful_step_count=40, deadline=None))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sizes=st.lists(st.integers(0, 1024), min_size=1, max_size=60), batch=st.integers(1, 12))
def test_many_laps_with_frames_of_every_size_keep_every_byte(directory: Path, sizes: list[int], batch: int) -> None:
    producer = Producer.create(directory, capacity_bytes=4096)
    consumer = Consumer.attach(producer.path)
    try:
        sent: list[bytes] = []
        got: list[bytes] = []
        for number, size in enumerate(sizes * 6):
            payload = bytes([number & 255]) * size
            while not producer.put(1 + number % 255, payload):
                frames = consumer.read(batch)
                assert frames
                got += [data for _, _, data in frames]
                consumer.commit()
            sent.append(payload)
        while frames := consumer.read(batch):
            got += [data for _, _, data in frames]
        assert got == sent
    finally:
        consumer.close()
        producer.close(unlink=True)


def test_every_end_of_ring_is_crossed_in_every_way(directory: Path) -> None:
    """Each offset of the last bytes, with each size of the next frame: skip marker, no room for one, exact fit."""
    producer = Producer.create(directory, capacity_bytes=4096)
    consumer = Consumer.attach(producer.path)
    try:
        for last in range(0, 120):
            for size in (0, 1, 8, 9, 100):
                for payload in (b"a" * 1000, b"b" * 1000, b"c" * 1000, b"d" * (840 + last), b"e" * size, b"f"):
                    while not producer.put(7, payload):
                        assert consumer.read()
                        consumer.commit()
                    frames = consumer.read()
                    assert frames == [(7, producer.sequence, payload)]
                    consumer.commit()
    finally:
        consumer.close()
        producer.close(unlink=True)
