"""How fast records go out and how long the rest takes, over a sliding window. Pure: times are passed in.

Rule 1  Time left comes from how fast what is *left* gets less, not from what was sent: a job that logs on is no surprise.
Rule 2  Records and bytes each give an answer, the less exact the fewer steps were seen. Where the two are close it is said;
        where they are within ten times both are; else, and while nothing gets less, there is none. No number is better
        than a wrong one.
Rule 3  The window is short where many records go out, and long where few do: one of a gigabyte is no standstill.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from seclea.director import Progress
from seclea.director.outlook import span

WINDOW_SECONDS = 15.0
LONGEST_SECONDS = 90.0  # of a window that has few steps in it
_STEPS = 8  # looks at which something had gone out: enough to say a pace
_LEAST_SECONDS = 1.0  # of looking before anything is said
_CLOSE = 1.5
_FAR = 10.0


class _Look(NamedTuple):
    at: float
    delivered: int
    delivered_bytes: int
    pending: int
    pending_bytes: int


class Pace:
    """What was seen lately. `see` at every look; the answers are as of the latest one."""

    def __init__(self) -> None:
        self._looks: deque[_Look] = deque()
        self._first = 0  # of the window
        self._steps = 0  # in it
        self._last_step = 0.0

    def see(self, now: float, progress: Progress) -> None:
        """Note how far it is at ``now`` (monotonic seconds)."""
        looks = self._looks
        look = _Look(now, progress.delivered, progress.delivered_bytes, progress.pending, progress.pending_bytes)
        if looks and _is_step(looks[-1], look):
            self._last_step = now
        looks.append(look)
        while len(looks) > 2 and looks[1].at <= now - LONGEST_SECONDS:
            looks.popleft()
        self._first, self._steps = len(looks) - 1, 0
        while self._first > 0 and not (self._steps >= _STEPS and looks[self._first].at <= now - WINDOW_SECONDS):
            self._steps += _is_step(looks[self._first - 1], looks[self._first])
            self._first -= 1

    @property
    def _seconds(self) -> float:
        seconds = self._looks[-1].at - self._looks[self._first].at if self._looks else 0.0
        return seconds if seconds >= _LEAST_SECONDS else 0.0

    @property
    def records_per_second(self) -> float:
        """Records that were delivered."""
        return self._rate(1)

    @property
    def bytes_per_second(self) -> float:
        """Bytes that were delivered."""
        return self._rate(2)

    def _rate(self, column: int) -> float:
        if not self._seconds or self._stands_still:
            return 0.0
        return max(self._looks[-1][column] - self._looks[self._first][column], 0) / self._seconds

    @property
    def _stands_still(self) -> bool:
        """Nothing went out for longer than the steps before let one expect."""
        between = (self._last_step - self._looks[self._first].at) / self._steps if self._steps else 0.0
        begun = self._last_step or self._looks[0].at
        return self._looks[-1].at - begun >= max(WINDOW_SECONDS, 2 * between)

    def seconds_left(self) -> tuple[float, float] | None:
        """At least and at most, None when it cannot be known."""
        if not self._seconds:
            return None
        first, last = self._looks[self._first], self._looks[-1]
        if last.pending == 0:
            return 0.0, 0.0
        if not self._steps or self._stands_still:
            return None
        answers = []
        for before, now in ((first.pending, last.pending), (first.pending_bytes, last.pending_bytes)):
            if before <= now:
                return None
            answers.append(now * self._seconds / (before - now))
        inexact = (self._steps + 1) / self._steps  # the window may begin and end just before or after a step
        low, high = min(answers) / inexact, max(answers) * inexact
        # Within a few seconds of the end it does not matter which of the two is right.
        return None if high > max(low * _FAR, 5.0) else (low, high)

    def time_left(self) -> str:
        """In words, "about 4 min left"; where it cannot be known, that."""
        answer = self.seconds_left()
        if answer is None:
            grows = bool(self._looks) and self._looks[-1].pending >= self._looks[self._first].pending
            if grows and self.records_per_second:
                return "time left unknown: as much is logged as goes out"
            return "time left unknown"
        low, high = answer
        if high <= max(low * _CLOSE, 5.0):
            return f"about {span(_rounded(math.sqrt(low * high)))} left"
        return f"{span(_rounded(low))} to {span(_rounded(high))} left"


def _is_step(before: _Look, now: _Look) -> bool:
    return now.delivered > before.delivered or now.pending < before.pending


def _rounded(seconds: float) -> float:
    """No more digits than are true: about two."""
    for unit in (86_400.0, 3600.0, 60.0):
        if seconds >= 10 * unit:
            return round(seconds / unit) * unit
    step = 1.0 if seconds < 10 else 5.0 if seconds < 60 else 10.0 if seconds < 300 else 60.0
    return max(round(seconds / step) * step, 1.0)
