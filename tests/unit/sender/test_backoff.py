"""Delays are jittered over the full range, retries are held to a budget, and a wait can be interrupted."""

import itertools
import threading
from random import Random

import pytest

from seclea.sender.backoff import RetryBudget, full_jitter, wait_until


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeEvent:
    """Lets time pass instead of waiting."""

    def __init__(self, clock: Clock, set_at: float | None = None, lag: float = 0.0) -> None:
        self.clock, self.set_at, self.lag = clock, set_at, lag
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.waits.append(timeout)
        end = self.clock.now + timeout
        if self.set_at is not None and self.set_at <= end:
            self.clock.now = max(self.clock.now, self.set_at)
            return True
        self.clock.now = end - self.lag
        return False


def test_each_delay_lies_between_zero_and_a_ceiling_that_doubles_up_to_the_cap() -> None:
    ceilings = [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    for seed in range(50):
        delays = list(itertools.islice(full_jitter(Random(seed)), len(ceilings)))
        assert all(0 <= delay <= ceiling for delay, ceiling in zip(delays, ceilings, strict=True))


def test_the_whole_range_is_used() -> None:
    late = [next(itertools.islice(full_jitter(Random(seed)), 11, None)) for seed in range(400)]
    assert min(late) < 15 and max(late) > 285
    assert 130 < sum(late) / len(late) < 170


def test_the_same_seed_gives_the_same_delays_and_the_global_generator_is_not_used() -> None:
    assert list(itertools.islice(full_jitter(Random(7)), 20)) == list(itertools.islice(full_jitter(Random(7)), 20))


def test_a_month_of_delays_is_still_a_number_below_the_cap() -> None:
    assert all(0 <= delay <= 300 for delay in itertools.islice(full_jitter(Random(1)), 20_000))


def test_a_budget_lets_a_burst_through_and_then_its_rate() -> None:
    budget = RetryBudget(capacity=3, per_second=0.5)
    assert [budget.take(10.0) for _ in range(3)] == [0.0, 0.0, 0.0]
    assert budget.take(10.0) == pytest.approx(2.0, abs=1e-3)
    assert budget.take(12.0) == 0.0
    assert budget.take(12.0) > 0


def test_whoever_waits_as_long_as_the_budget_says_gets_a_token() -> None:
    budget, now = RetryBudget(), 0.0
    for _ in range(500):
        wait_seconds = budget.take(now)
        now += wait_seconds
        if wait_seconds:
            assert budget.take(now) == 0.0


def test_an_hour_of_retries_stays_within_burst_and_rate() -> None:
    budget, sent = RetryBudget(), 0
    for tenth in range(36_000):
        sent += budget.take(tenth / 10) == 0.0
    assert sent <= RetryBudget.CAPACITY + 3600 * RetryBudget.PER_SECOND + 1


def test_a_clock_that_goes_back_neither_fills_nor_empties_the_budget() -> None:
    budget = RetryBudget(capacity=2, per_second=1)
    assert budget.take(100.0) == 0.0
    assert budget.take(50.0) == 0.0
    assert budget.take(50.0) > 0
    assert budget.take(51.01) == 0.0


@pytest.mark.parametrize(("capacity", "rate"), [(0, 1), (1, 0), (1, -1), (1, float("nan"))])
def test_a_budget_that_would_never_pay_is_refused(capacity: float, rate: float) -> None:
    with pytest.raises(ValueError, match="budget"):
        RetryBudget(capacity, rate)


def test_a_wait_ends_at_its_deadline() -> None:
    clock = Clock()
    assert wait_until(1030.0, FakeEvent(clock), clock) is False
    assert clock.now == 1030.0


def test_a_wait_ends_at_once_when_it_is_woken() -> None:
    clock = Clock()
    event = FakeEvent(clock, set_at=1007.0)
    assert wait_until(4600.0, event, clock) is True
    assert clock.now == 1007.0


def test_a_long_wait_looks_at_the_clock_again_and_again() -> None:
    clock = Clock()
    event = FakeEvent(clock)
    assert wait_until(1200.0, event, clock) is False
    assert event.waits == [60.0, 60.0, 60.0, pytest.approx(20.0)]


def test_a_deadline_in_the_past_does_not_wait_at_all() -> None:
    clock = Clock()
    event = FakeEvent(clock)
    assert wait_until(999.0, event, clock) is False
    assert event.waits == []


def test_a_real_event_wakes_a_real_wait() -> None:
    import time

    wake = threading.Event()
    wake.set()
    started = time.monotonic()
    assert wait_until(started + 3600, wake, time.monotonic) is True
    assert time.monotonic() - started < 5
