"""The breaker: opens after three failures, probes one by one, closes on success, outlives its process."""

import json
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seclea.contract import Verdict
from seclea.sender.breaker import (
    LONGEST_OPEN_SECONDS,
    PROBE_SECONDS,
    THRESHOLD,
    Allow,
    BreakerState,
    Wait,
    after_attempt,
    before_attempt,
)

BOOT = "this-boot"
FAILURES = [Verdict.UNAVAILABLE, Verdict.UNKNOWN]
SUCCESSES = [Verdict.DELIVERED, Verdict.ADOPTED, Verdict.REFUSED, Verdict.GAP, Verdict.MISSING]
NEITHER = [Verdict.WAIT, Verdict.HOLD, Verdict.KEPT_LOCALLY]


def after(state: BreakerState, verdict: Verdict, now: float = 0.0, seed: int = 0) -> BreakerState:
    return after_attempt(state, verdict, now, BOOT, Random(seed))


def failed(times: int, now: float = 0.0) -> BreakerState:
    state = BreakerState()
    for _ in range(times):
        state = after(state, Verdict.UNAVAILABLE, now)
    return state


def test_every_verdict_is_a_failure_a_success_or_neither() -> None:
    assert sorted(FAILURES + SUCCESSES + NEITHER) == sorted(Verdict)


def test_a_new_breaker_lets_everything_pass() -> None:
    assert before_attempt(BreakerState(), 0.0, BOOT) == Allow(BreakerState())


@pytest.mark.parametrize("verdict", FAILURES)
def test_it_opens_at_the_third_failure_in_a_row(verdict: Verdict) -> None:
    state = BreakerState()
    for _ in range(THRESHOLD - 1):
        state = after(state, verdict, 10.0)
        assert isinstance(before_attempt(state, 10.0, BOOT), Allow)
    state = after(state, verdict, 10.0)
    assert isinstance(before_attempt(state, 10.0, BOOT), Wait)


@pytest.mark.parametrize("verdict", SUCCESSES)
@pytest.mark.parametrize("failures", [0, 2, 3, 40])
def test_whatever_proves_that_the_portal_works_closes_it(verdict: Verdict, failures: int) -> None:
    assert after(failed(failures), verdict).is_closed
    assert after(failed(failures), verdict).failures == 0


def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    state = BreakerState()
    for _ in range(20):
        state = after(after(after(state, Verdict.UNKNOWN), Verdict.UNAVAILABLE), Verdict.DELIVERED)
    assert state.is_closed


def test_the_interval_doubles_from_one_second_to_sixty_with_at_most_half_taken_off() -> None:
    nominal = [1, 2, 4, 8, 16, 32, 60, 60, 60]
    for seed in range(30):
        state, random = failed(2), Random(seed)
        for seconds in nominal:
            state = after_attempt(state, Verdict.UNAVAILABLE, 100.0, BOOT, random)
            decision = before_attempt(state, 100.0, BOOT)
            assert isinstance(decision, Wait)
            assert seconds / 2 <= decision.seconds <= seconds


def test_clients_that_failed_together_do_not_probe_together() -> None:
    ends = {after_attempt(failed(8), Verdict.UNAVAILABLE, 0.0, BOOT, Random(seed)).open_until for seed in range(1000)}
    assert len(ends) > 990


def test_half_open_lets_one_probe_pass_and_no_second_one_beside_it() -> None:
    state = failed(THRESHOLD)
    assert state.open_until is not None
    first = before_attempt(state, state.open_until, BOOT)
    assert isinstance(first, Allow)
    assert first.probe
    second = before_attempt(first.state, state.open_until, BOOT)
    assert second == Wait(PROBE_SECONDS)


def test_a_probe_whose_sender_died_is_followed_by_another_one_later() -> None:
    state = failed(THRESHOLD)
    assert state.open_until is not None
    first = before_attempt(state, state.open_until, BOOT)
    assert isinstance(first, Allow)
    later = before_attempt(first.state, state.open_until + PROBE_SECONDS, BOOT)
    assert isinstance(later, Allow)
    assert later.probe


@pytest.mark.parametrize("verdict", NEITHER)
def test_a_probe_that_proves_nothing_is_followed_by_a_probe(verdict: Verdict) -> None:
    state = after(failed(5), verdict)
    assert not state.is_closed
    decision = before_attempt(state, 0.0, BOOT)
    assert isinstance(decision, Allow)
    assert decision.probe


@pytest.mark.parametrize("verdict", NEITHER)
def test_what_proves_nothing_leaves_a_closed_breaker_as_it_was(verdict: Verdict) -> None:
    assert after(failed(2), verdict).failures == 2


@pytest.mark.parametrize("now", [12.0, 5000.1])  # also when the new boot's clock happens to stand in the interval
def test_another_boot_makes_it_half_open_at_once(now: float) -> None:
    state = failed(30, now=5000.0)
    decision = before_attempt(state, now, "the-next-boot")
    assert isinstance(decision, Allow)
    assert decision.probe
    assert decision.state.boot_id == "the-next-boot"
    assert isinstance(before_attempt(decision.state, now + 1, "the-next-boot"), Wait)


def test_it_survives_its_sender_as_json() -> None:
    state = failed(7, now=123.456)
    again = BreakerState.from_json(json.loads(json.dumps(state.to_json())))
    assert again == state
    assert before_attempt(again, 124.0, BOOT) == before_attempt(state, 124.0, BOOT)


@pytest.mark.parametrize(
    "value",
    [None, {}, [], "x", {"failures": "3"}, {"failures": -1}, {"failures": True, "boot_id": ""}, {"failures": 3}, 7],
)
def test_a_damaged_state_reads_as_closed(value: object) -> None:
    assert BreakerState.from_json(value) == BreakerState()  # type: ignore[arg-type]


@pytest.mark.parametrize("until", [float("nan"), float("inf"), 1e300, -1e300])
def test_an_interval_that_nobody_set_does_not_keep_it_open(until: float) -> None:
    assert isinstance(before_attempt(BreakerState(9, until, BOOT), 100.0, BOOT), Allow)


def test_a_day_of_outage_costs_one_probe_per_interval() -> None:
    state, random, now, requests = BreakerState(), Random(3), 0.0, 0
    while now < 86_400:
        decision = before_attempt(state, now, BOOT)
        if isinstance(decision, Wait):
            now += decision.seconds
            continue
        requests += 1
        state = after_attempt(decision.state, Verdict.UNAVAILABLE, now, BOOT, random)
    assert requests <= 12 + 86_400 / (LONGEST_OPEN_SECONDS / 2)
    assert state.failures == requests


def test_an_outage_of_years_is_no_overflow() -> None:
    assert after(BreakerState(10**9, 0.0, BOOT), Verdict.UNAVAILABLE).open_until is not None


@given(st.lists(st.tuples(st.sampled_from(list(Verdict)), st.floats(0, 200)), max_size=60), st.integers(0, 2**32))
def test_whatever_happens_a_wait_is_short_and_a_success_closes(steps: list[tuple[Verdict, float]], seed: int) -> None:
    state, random, now = BreakerState(), Random(seed), 0.0
    for verdict, passed in steps:
        now += passed
        decision = before_attempt(state, now, BOOT)
        if isinstance(decision, Wait):
            assert 0 < decision.seconds <= LONGEST_OPEN_SECONDS
            continue
        assert decision.probe == (not state.is_closed)
        state = after_attempt(decision.state, verdict, now, BOOT, random)
        assert BreakerState.from_json(state.to_json()) == state
    assert after_attempt(state, Verdict.DELIVERED, now, BOOT, random).is_closed
