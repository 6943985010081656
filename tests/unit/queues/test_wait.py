from __future__ import annotations

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
