from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from seclea.queues.wait import NapPolicy, wait_until


def test_naps_while_there_was_work_lately_and_sleeps_deeply_after() -> None:
    policy = NapPolicy(nap_seconds=0.02, deep_after_seconds=1.5, deep_seconds=5.0)
    assert policy.next_wait(now=10.0, last_work=10.0) == (0.02, False)
    assert policy.next_wait(now=11.49, last_work=10.0) == (0.02, False)
    assert policy.next_wait(now=11.5, last_work=10.0) == (5.0, True)


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0
        self.naps: list[float] = []

    def __call__(self) -> float:
        return self.now

    def nap(self, seconds: float) -> None:
        self.naps.append(seconds)
        self.now += seconds


def test_waiting_looks_at_once_then_naps_longer_and_longer_up_to_20_ms() -> None:
    time = FakeTime()
    assert wait_until(lambda: time.now > 101, 10, clock=time, nap=time.nap)
    assert time.naps[0] == 50e-6 and time.naps == sorted(time.naps) and time.naps[-1] == 20e-3
    assert 1 <= time.now - 100 <= 1.03


def test_waiting_ends_at_its_deadline_and_looks_once_more() -> None:
    time = FakeTime()
    assert not wait_until(lambda: False, 0.5, clock=time, nap=time.nap)
    assert abs(time.now - 100.5) < 1e-9
    time = FakeTime()
    assert not wait_until(lambda: False, 0, clock=time, nap=time.nap) and not time.naps
    assert wait_until(lambda: True, 0, clock=time, nap=time.nap)
    assert not wait_until(lambda: False, -1, clock=time, nap=time.nap)
    assert wait_until(lambda: time.now >= 100.5, 0.5, clock=time, nap=time.nap)


def test_without_a_timeout_it_waits_as_long_as_it_takes() -> None:
    time = FakeTime()
    assert wait_until(lambda: time.now > 1000, None, clock=time, nap=time.nap)


class NoSleep:
    def sleep(self, predicate: Callable[[], bool], seconds: float) -> bool:
        raise AssertionError("too early")


def test_with_a_bell_it_gives_way_a_few_times_before_the_first_nap_and_sets_no_timer_for_that() -> None:
    time = FakeTime()
    looks = [0]

    def look() -> bool:
        looks[0] += 1
        return looks[0] == 6

    gave_way: list[int] = []
    assert wait_until(look, 1, clock=time, nap=time.nap, give_way=lambda: gave_way.append(1), bell=NoSleep())
    assert len(gave_way) == 5 and not time.naps
    assert not wait_until(
        lambda: False, 0, clock=time, nap=time.nap, give_way=lambda: gave_way.append(1), bell=NoSleep()
    )
    assert len(gave_way) == 5, "a call that may not wait looks once"
    assert not wait_until(
        lambda: False, 0.01, clock=time, nap=time.nap, give_way=lambda: gave_way.append(1), bell=NoSleep()
    )
    assert len(gave_way) == 25 and time.naps[0] == 50e-6 and max(time.naps) == 0.5e-3


def test_giving_way_is_no_timed_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(seconds: float) -> None:
        raise AssertionError(f"slept {seconds} s")

    monkeypatch.setattr(time, "sleep", refuse)
    looks = iter([False] * 10 + [True])
    assert wait_until(lambda: next(looks), 1, bell=NoSleep())
