"""A destination on hold for want of a login watches the token store: a login is seen, also one that told nobody (S8)."""

from __future__ import annotations

import pytest

from seclea.contract import Outcome, Verdict
from tests.unit.sender.test_lane import Bench, bench

__all__ = ["bench"]

REFUSED = Outcome(Verdict.HOLD, 401, "Run `seclea login`.")


@pytest.fixture
def held(bench: Bench) -> Bench:
    bench.portal.script.append(REFUSED)
    bench.run(bench.ordered)
    assert bench.state.hold is not None
    return bench


def test_a_newer_login_is_seen_within_a_second_and_goes_on(held: Bench) -> None:
    assert held.ordered.step() <= 1.0
    held.portal.login = 8
    held.run(held.ordered)
    assert held.state.hold is None
    assert len(held.portal.sent) > 1
    assert {"op": "destination", "destination": held.state.id, "state": {"hold": None}} in held.told


def test_a_login_that_came_while_the_refusal_was_on_its_way_is_not_held_by_it(bench: Bench) -> None:
    bench.portal.login = 8
    bench.portal.script.append(REFUSED)  # of generation 7
    assert bench.run(bench.ordered) <= 1.0
    bench.run(bench.ordered)
    assert len(bench.portal.sent) > 1


@pytest.mark.parametrize("login", [7, 0, -1, 3])
def test_the_refused_login_a_logout_a_damaged_file_and_an_older_login_are_no_reason_to_ask_again(
    held: Bench, login: int
) -> None:
    held.portal.login = login
    for worker in (held.ordered, held.bulk):
        held.run(worker)
    assert len(held.portal.sent) == 1


def test_a_hold_for_another_reason_does_not_watch_logins(bench: Bench) -> None:
    bench.portal.script.append(Outcome(Verdict.HOLD, 402, "not paid"))
    bench.run(bench.ordered)
    bench.portal.login = 8
    bench.run(bench.ordered)
    assert bench.state.hold == "not paid"
    assert len(bench.portal.sent) == 1


def test_lanes_that_are_refused_one_after_the_other_wait_for_a_login_newer_than_both(held: Bench) -> None:
    """Each renews the login before it gives up; what one made must not wake the other, for ever."""
    held.state.set_hold(REFUSED.detail, 9)
    held.state.set_hold(REFUSED.detail, 8)
    held.portal.login = 9
    held.run(held.ordered)
    assert len(held.portal.sent) == 1
