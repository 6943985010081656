"""How a destination stands, in words."""

import pytest

from seclea.director.outlook import Outlook

NOW_NS = 1_800_000_000_000_000_000


@pytest.mark.parametrize(("seconds", "words"), [(1800, "next try in 30 min"), (315_360_000, "trying again")])
def test_a_time_that_no_portal_can_have_named_is_of_another_clock_and_not_said(seconds: int, words: str) -> None:
    row = {"trouble": "503 busy", "trouble_ns": NOW_NS, "next_try_ns": NOW_NS + seconds * 10**9, "breaker": None}
    outlook = Outlook.of_row(row, NOW_NS, 5.0)
    assert words in outlook.why_nothing_moves(NOW_NS)
