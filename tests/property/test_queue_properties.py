"""A queue used by one process acts like a deque, in every size of ring, through forks of its consumers and growth."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from seclea.errors import QueueEmpty, QueueFull
from seclea.queues.queue import Queue

ITEMS = (
    st.none()
    | st.integers()
    | st.text(max_size=30)
    | st.lists(st.floats(allow_nan=False), max_size=5)
    | st.tuples(st.integers())
    | st.integers(0, 3000).map(bytes)
)


class QueueAsDeque(RuleBasedStateMachine):
    directory: Path
    number = 0

    @initialize(maxsize=st.sampled_from([0, 0, 3]), pages=st.integers(1, 4))
    def make(self, maxsize: int, pages: int) -> None:
        type(self).number += 1
        self.maxsize = maxsize
        self.producer = Queue(maxsize, directory=self.directory / str(self.number), capacity_bytes=pages * 4096)
        self.consumers = [self.producer, Queue.attach(self.producer.directory)]
        self.model: deque[Any] = deque()

    @rule(items=st.lists(ITEMS, max_size=30))
    def put(self, items: list[Any]) -> None:
        for item in items:
            if self.maxsize and len(self.model) >= self.maxsize:
                with pytest.raises(QueueFull):
                    self.producer.put_nowait(item)
            else:
                self.producer.put_nowait(item)
                self.model.append(item)

    @rule(who=st.integers(0, 1))
    def get(self, who: int) -> None:
        if self.model:
            assert self.consumers[who].get_nowait() == self.model.popleft()
        else:
            with pytest.raises(QueueEmpty):
                self.consumers[who].get_nowait()

    @rule(who=st.integers(0, 1), most=st.integers(1, 50))
    def get_many(self, who: int, most: int) -> None:
        items = self.consumers[who].get_many(most)
        assert len(items) <= most and bool(items) == bool(self.model)
        assert items == [self.model.popleft() for _ in items]

    @rule()
    def another_consumer(self) -> None:
        self.consumers[1].close()
        self.consumers[1] = Queue.attach(self.producer.directory)

    @rule()
    def drain(self) -> None:
        while items := self.consumers[1].get_many():
            assert items == [self.model.popleft() for _ in items]
        assert not self.model

    @invariant()
    def the_size_is_right(self) -> None:
        for consumer in self.consumers:
            assert consumer.qsize() == len(self.model)
            assert consumer.empty() == (not self.model)
            assert consumer.full() == (bool(self.maxsize) and len(self.model) >= self.maxsize)

    def teardown(self) -> None:
        if hasattr(self, "producer"):
            for queue in self.consumers:
                queue.close()


def test_a_queue_acts_like_a_deque(tmp_path: Path) -> None:
    class Here(QueueAsDeque):
        pass

    Here.directory = tmp_path
    run_state_machine_as_test(Here, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))
