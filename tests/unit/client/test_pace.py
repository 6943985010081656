"""The time left that is said: true, or not said."""

from dataclasses import replace
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.client.pace import WINDOW_SECONDS, Pace
from seclea.director import Progress


def at(delivered: int, pending: int, size: int = 100) -> Progress:
    """So many records, of ``size`` bytes each."""
    return Progress(
        False, delivered, pending, delivered_bytes=delivered * size, pending_bytes=pending * size
    )  # fmt: skip


def pace_of(*looks: tuple[float, Progress]) -> Pace:
    pace = Pace()
    for now, progress in looks:
        pace.see(now, progress)
    return pace


def test_a_steady_delivery_says_its_rate_and_when_it_ends() -> None:
    pace = pace_of(*((float(now), at(10 * now, 1000 - 10 * now)) for now in range(40)))
    assert pace.records_per_second == 10.0
    assert pace.bytes_per_second == 1000.0
    low, high = pace.seconds_left() or (0.0, 0.0)
    assert low < 61.0 < high < low * 1.2
    assert pace.time_left() == "about 1 min left"


def test_nothing_is_said_before_there_was_time_to_look() -> None:
    assert Pace().time_left() == "time left unknown"
    assert pace_of((0.0, at(0, 10)), (0.5, at(5, 5))).seconds_left() is None


def test_one_large_record_after_the_other_is_no_standstill() -> None:
    def sent(now: float) -> Progress:
        return at(int(now // 20), 30 - int(now // 20), 10**9)

    pace = pace_of(*((tick / 4, sent(tick / 4)) for tick in range(4 * 95)))
    low, high = pace.seconds_left() or (0.0, 0.0)
    assert low <= 26 * 20 <= high
    assert pace.time_left() == "8 min to 12 min left"


def test_after_a_standstill_nothing_is_said() -> None:
    pace = pace_of((0.0, at(0, 100)), (1.0, at(50, 50)))
    assert pace.seconds_left() is not None
    for now in range(2, int(WINDOW_SECONDS) + 3):
        pace.see(float(now), at(50, 50))
    assert pace.seconds_left() is None
    assert pace.records_per_second == 0.0
    assert pace.time_left() == "time left unknown"


def test_a_job_that_logs_as_fast_as_it_sends_has_no_end_and_that_is_said() -> None:
    pace = pace_of(*((float(now), at(10 * now, 100)) for now in range(20)))
    assert pace.records_per_second == 10.0
    assert pace.time_left() == "time left unknown: as much is logged as goes out"


def test_records_of_another_size_than_those_that_went_make_it_a_range_or_unknown() -> None:
    def left(large: int) -> str:
        """Of ten small records a second, with one of ``large`` bytes among the 1000 that are left."""
        pace = Pace()
        for now in range(20):
            sent = 10 * now
            progress = at(sent, 1200 - sent)
            pace.see(now, replace(progress, pending_bytes=progress.pending_bytes + large))
        return pace.time_left()

    assert left(0) == "about 1 min 40 s left"
    assert left(400_000) == "1 min 30 s to 9 min left"
    assert left(10**9) == "time left unknown"


def test_records_that_are_given_up_do_not_make_a_negative_rate() -> None:
    pace = pace_of((0.0, at(10, 5)), (2.0, Progress(False, 8, 9, delivered_bytes=3, pending_bytes=2)))
    assert (pace.records_per_second, pace.bytes_per_second) == (0.0, 0.0)
    assert pace.seconds_left() is None


@given(st.lists(st.tuples(*[st.integers(0, 10**12)] * 4, st.floats(0, 1e6)), min_size=1, max_size=60))
def test_no_history_makes_it_negative_or_raise(looks: list[tuple[int, int, int, int, float]]) -> None:
    pace, now = Pace(), 0.0
    for delivered, delivered_bytes, pending, pending_bytes, later in looks:
        now += later
        pace.see(now, Progress(False, delivered, pending, 0, 0, delivered_bytes, pending_bytes))
        answer = pace.seconds_left()
        assert answer is None or 0 <= answer[0] <= answer[1]
        assert pace.records_per_second >= 0 and pace.bytes_per_second >= 0
        assert "-" not in pace.time_left()


@pytest.mark.parametrize("rate", [1, 7, 100])
def test_what_was_said_comes_true_of_a_steady_delivery(rate: int) -> None:
    """Whenever it says a time, the truth is in it."""
    total = rate * 100
    pace = Pace()
    said = 0
    for tick in count():
        now = tick / 4
        sent = min(int(now * rate), total)
        pace.see(now, at(sent, total - sent))
        if sent == total:
            break
        answer = pace.seconds_left()
        if answer is not None:
            said += 1
            assert answer[0] - 1 <= 100 - now <= answer[1] + 1, (now, answer)
    assert said >= 380
