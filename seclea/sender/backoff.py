"""How long to wait before trying again. Pure: clocks and random numbers are passed in; only `wait_until` waits.

Delays come from the `backoff` package's generator; its decorator is not used, because it sleeps, and a sleep cannot be
interrupted by new work or by the end of the process.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Protocol

import backoff

from seclea.contract import Clock

BASE_SECONDS = 1.0  # ceiling of the first delay
CAP_SECONDS = 300.0  # ceiling of every later one: an outage of hours is noticed to be over within five minutes
_SLICE_SECONDS = 60.0  # longest single wait: the clock is looked at again, as a suspended machine's has moved


class EventLike(Protocol):
    """What `wait_until` sleeps on; `threading.Event` is one."""

    def wait(self, timeout: float | None = None) -> bool: ...


def full_jitter(random: Random, base: float = BASE_SECONDS, cap: float = CAP_SECONDS) -> Iterator[float]:
    """Delays in seconds, without end: each uniform between 0 and a ceiling that doubles from ``base`` to ``cap``.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog. `backoff.full_jitter` draws from the global
    generator, which tests cannot seed apart, hence the draw here.
    """
    ceilings = backoff.expo(base=2, factor=base, max_value=cap)
    next(ceilings)  # the package's generators yield None first
    for ceiling in ceilings:
        yield random.uniform(0.0, ceiling)


class RetryBudget:
    """A token bucket over all retries to one destination: first attempts are free, each retry takes one token.

    Holds the steady rate of retries to ``per_second`` however many records wait, after a burst of ``capacity``.
    """

    CAPACITY = 10.0  # retries at once: a short hiccup in both lanes costs no waiting
    PER_SECOND = 0.5  # well under one request per second and host in a long outage (R14)

    __slots__ = ("_at", "_tokens", "capacity", "per_second")

    def __init__(self, capacity: float = CAPACITY, per_second: float = PER_SECOND) -> None:
        if capacity < 1 or not per_second > 0:
            raise ValueError("a budget needs a capacity of one or more and a rate above zero")
        self.capacity = capacity
        self.per_second = per_second
        self._tokens = capacity
        self._at = -math.inf

    def take(self, now: float) -> float:
        """Take one token. 0.0 when there was one; else nothing is taken, and the seconds until there will be."""
        if now > self._at:  # a clock that went back gives nothing and takes nothing
            self._tokens = min(self.capacity, self._tokens + (now - self._at) * self.per_second)
        self._at = now
        if self._tokens >= 1.0:
            self._tokens -= 1.0
            return 0.0
        # Rounded up a little, so that whoever waits exactly that long is not told to wait again.
        return (1.0 - self._tokens) / self.per_second + 1e-6


def wait_until(deadline: float, wake: EventLike, clock: Clock) -> bool:
    """Wait until ``deadline`` on ``clock``, or until ``wake`` is set. Whether it was woken; never clears the event."""
    while (left := deadline - clock()) > 0:
        if wake.wait(min(left, _SLICE_SECONDS)):
            return True
    return False
