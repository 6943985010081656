"""How a consumer waits: short timed naps while there is work about, a long sleep with a bell only after a lull.

A wake-up costs the producer about 25 µs, a nap costs it nothing. So a consumer rings nobody's bell while it is busy;
only a deep sleeper sets the ring's SLEEP word, and even its sleep ends by itself, because a bell can be missed.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_FIRST_NAP_SECONDS = 50e-6
_LONGEST_NAP_SECONDS = 20e-3
# With a bell: a producer that puts every few milliseconds never rings, and its consumer sees it in half a millisecond.
_YIELDS = 20  # looks without a nap at first, 0.1 ms together: an answer that is on its way is not slept through
_LULL_SECONDS = 25e-3  # of naps before the first sleep
_LONGEST_NAP_BEFORE_SLEEP_SECONDS = 0.5e-3


def _sleep_zero() -> None:
    time.sleep(0)


# Not `time.sleep(0)` where it can be helped: on Python 3.11 that waits for a timer, 60 µs and more.
_give_way: Callable[[], None] = getattr(os, "sched_yield", _sleep_zero)


class Sleep(Protocol):
    def sleep(self, predicate: Callable[[], bool], seconds: float) -> bool:
        """Until woken or for ``seconds``; whether ``predicate()`` holds then."""


@dataclass(frozen=True, slots=True)
class NapPolicy:
    """How long to wait before looking at the rings again.

    Attributes:
        nap_seconds: between two looks while active; in 20 ms a producer at full speed fills half of a 4 MiB ring.
        deep_after_seconds: without work, before sleeping deeply.
        deep_seconds: of a deep sleep, which a bell ends early.
    """

    nap_seconds: float = 0.02
    deep_after_seconds: float = 1.5
    deep_seconds: float = 5.0

    def next_wait(self, now: float, last_work: float) -> tuple[float, bool]:
        """The seconds to wait, and whether that is a deep sleep (say so in the rings, then look once more first)."""
        if now - last_work < self.deep_after_seconds:
            return self.nap_seconds, False
        return self.deep_seconds, True


def wait_until(
    predicate: Callable[[], bool],
    timeout_seconds: float | None,
    *,
    clock: Callable[[], float] = time.monotonic,
    nap: Callable[[float], None] = time.sleep,
    give_way: Callable[[], None] = _give_way,
    bell: Sleep | None = None,
) -> bool:
    """Wait until ``predicate()`` holds, in naps that grow from 50 µs to 20 ms; False when the time is over first.

    Args:
        timeout_seconds: ``None`` waits for ever; 0 looks once.
        bell: it yields a few times first; naps grow to 0.5 ms only; after 25 ms of them it sleeps until the bell rings.
    """
    if predicate():
        return True
    if bell is not None and timeout_seconds != 0:
        for _ in range(_YIELDS):
            give_way()
            if predicate():
                return True
    started = clock()
    deadline = float("inf") if timeout_seconds is None else started + timeout_seconds
    pause_seconds = _FIRST_NAP_SECONDS
    longest_seconds = _LONGEST_NAP_SECONDS if bell is None else _LONGEST_NAP_BEFORE_SLEEP_SECONDS
    while True:
        now = clock()
        left_seconds = deadline - now
        if left_seconds <= 0:
            return False
        if bell is not None and now - started >= _LULL_SECONDS:
            if bell.sleep(predicate, left_seconds):
                return True
            continue
        nap(min(pause_seconds, left_seconds))
        if predicate():
            return True
        pause_seconds = min(pause_seconds * 1.5, longest_seconds)
