"""A queue acts like one deque per producer, in every size of ring, through growth and changes of who takes part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from seclea.errors import QueueEmpty, QueueFull
from seclea.queues.queue import Queue

ARRAYS = st.builds(
    lambda dtype, shape: np.arange(int(np.prod(shape))).reshape(shape).astype(dtype),
    st.sampled_from(["f4", "i8", "?", "O", ">i2"]),
    st.lists(st.integers(0, 12), max_size=3),
)
ITEMS = (
    st.none()
    | st.integers()
    | st.text(max_size=30)
    | st.lists(st.floats(allow_nan=False), max_size=5)
    | st.tuples(st.integers())
    | st.integers(0, 3000).map(bytes)
    | ARRAYS
    | st.tuples(st.just("with"), ARRAYS, st.dictionaries(st.text(max_size=3), ARRAYS, max_size=2))
)


def same(a: Any, b: Any) -> bool:
    if type(a) is not type(b):
        return False
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tolist() == b.tolist() and bool(a.flags.writeable)
    if isinstance(a, tuple | list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b)


class QueueAsDeques(RuleBasedStateMachine):
    """Two handles that put and two that get; each handle stands for a process, with rings of its own."""

    directory: Path
    number = 0

    @initialize(maxsize=st.sampled_from([0, 0, 3]), pages=st.integers(1, 4))
    def make(self, maxsize: int, pages: int) -> None:
        type(self).number += 1
        self.maxsize = maxsize
        first = Queue(maxsize, directory=self.directory / str(self.number), capacity_bytes=pages * 4096)
        self.producers = [first, Queue.attach(first.directory)]
        self.consumers = [first, Queue.attach(first.directory)]
        self.models: list[list[Any]] = [[], []]  # of each who puts now; then of those who have left
        self.taken = 0
        # How many of each model are gone. Equal items of two producers leave it open whose came: then it is several.
        self.gone: list[dict[int, int]] = [{}]

    def count(self) -> int:
        return sum(map(len, self.models)) - self.taken

    def take(self, item: Any) -> None:
        """``item`` is the oldest of some producer."""
        after = []
        for gone in self.gone:
            for model in self.models:
                place = gone.get(id(model), 0)
                next_gone = {**gone, id(model): place + 1}
                if place < len(model) and same(item, model[place]) and next_gone not in after:
                    after.append(next_gone)
        assert after, f"{item!r} is next of none of {self.models}, of which {self.gone} are gone"
        self.gone = after
        self.taken += 1

    @rule(who=st.integers(0, 1), items=st.lists(ITEMS, max_size=20))
    def put(self, who: int, items: list[Any]) -> None:
        self.put_all(who, items)

    @rule(who=st.integers(0, 1), sizes=st.lists(st.integers(700, 1000), min_size=5, max_size=12))
    def put_more_than_a_ring_takes(self, who: int, sizes: list[int]) -> None:
        self.put_all(who, [bytes(size) for size in sizes])

    def put_all(self, who: int, items: list[Any]) -> None:
        for item in items:
            if self.maxsize and self.count() >= self.maxsize:
                with pytest.raises(QueueFull):
                    self.producers[who].put_nowait(item)
            else:
                self.producers[who].put_nowait(item)
                self.models[who].append(item)

    @rule(who=st.integers(0, 1))
    def get(self, who: int) -> None:
        if self.count():
            self.take(self.consumers[who].get_nowait())
        else:
            with pytest.raises(QueueEmpty):
                self.consumers[who].get_nowait()

    @rule(who=st.integers(0, 1), most=st.integers(1, 50))
    def get_many(self, who: int, most: int) -> None:
        items = self.consumers[who].get_many(most)
        assert len(items) <= most and bool(items) == bool(self.count())
        for item in items:
            self.take(item)

    @rule()
    def another_consumer(self) -> None:
        self.consumers[1].close()
        self.consumers[1] = Queue.attach(self.consumers[0].directory)

    @rule()
    def another_producer(self) -> None:
        self.producers[1].close()
        self.producers[1] = Queue.attach(self.consumers[0].directory)
        self.models.append(self.models[1])
        self.models[1] = []

    @rule()
    def drain(self) -> None:
        while items := self.consumers[1].get_many():
            for item in items:
                self.take(item)
        assert not self.count()

    @invariant()
    def the_size_is_right(self) -> None:
        for consumer in self.consumers:
            assert consumer.qsize() == self.count()
            assert consumer.empty() == (not self.count())
            assert consumer.full() == (bool(self.maxsize) and self.count() >= self.maxsize)

    def teardown(self) -> None:
        if hasattr(self, "producers"):
            while items := self.consumers[1].get_many():
                for item in items:
                    self.take(item)
            assert not list(self.consumers[0].directory.glob("*.item"))
            for queue in {*self.consumers, *self.producers}:
                queue.close()


def test_a_queue_acts_like_a_deque_per_producer(tmp_path: Path) -> None:
    class Here(QueueAsDeques):
        pass

    Here.directory = tmp_path
    run_state_machine_as_test(Here, settings=settings(max_examples=40, stateful_step_count=30, deadline=None))


def test_the_referee_knows_that_equal_items_of_two_producers_leave_open_whose_came() -> None:
    referee = QueueAsDeques()
    referee.models, referee.taken, referee.gone = [[0, 1], [0, 2]], 0, [{}]
    for item in (0, 2, 0, 1):
        referee.take(item)
    assert not referee.count()
    referee.models, referee.taken, referee.gone = [[0, 1], [0, 2]], 0, [{}]
    referee.take(0)
    for late in (3, None):
        with pytest.raises(AssertionError, match="next of none"):
            referee.take(late)
    referee.take(2)
    with pytest.raises(AssertionError, match="next of none"):
        referee.take(1)  # its producer's 0 has yet to come
