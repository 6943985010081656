"""Days and crowds on a virtual clock, driven through the sender's own lanes (tests/chaos/simulate.py prints the figures)."""

from pathlib import Path

import pytest

from tests.chaos import simulate

SEEDS = (1, 2)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_day_of_outage_costs_one_probe_for_each_interval_of_the_breaker_and_loses_nothing(seed: int) -> None:
    found = simulate.outage(seed=seed)
    assert found["before the breaker's interval was over"] == 0
    assert found["requests"] <= simulate.DAY / 30 + 20, "half a minute is the shortest of the longest interval"
    assert found["noticed after"] <= 60 + 0.1
    assert (found["left"], found["lost or twice"]) == (0, 0)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_portal_that_comes_and_goes_is_not_hammered_and_gets_everything(seed: int) -> None:
    found = simulate.flapping(seed=seed)
    assert found["per second while down"] < 0.5, "the retry budget"
    assert (found["left"], found["delivered"]) == (0, found["logged"])


@pytest.mark.parametrize(("per_second", "sheds_seconds"), [(500.0, 1e9), (100.0, 5.0)])
def test_a_thousand_senders_after_an_outage_fill_the_line_without_a_peak(
    per_second: float, sheds_seconds: float
) -> None:
    backlog = int(per_second / 1000 * 60)  # a minute's work and a little more than a breaker's interval
    found = simulate.crowd(backlog=backlog, per_second=per_second, sheds_seconds=sheds_seconds, back=1200.0, seed=3)
    assert found["share of line rate"] >= 0.9
    assert found["peak by mean"] <= 2.0
    assert found["left"] == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_nobody_comes_before_the_time_that_the_portal_named(seed: int) -> None:
    found = simulate.asked_to_wait(seed=seed)
    assert found["asked"] > 100
    assert found["came before"] == 0


def test_three_days_with_short_tokens_and_a_portal_that_is_down_one_hour_in_four(tmp_path: Path) -> None:
    found = simulate.three_days(tmp_path, pause=60.0)
    assert (found["delivered"], found["twice"], found["left"]) == (found["logged"], 0, 0)
    assert found["holds"] == 0, "nobody had to log in again"
    assert found["requests while down"] <= found["most allowed while down"]
    assert found["unauthorized"] <= 18, "only after an outage; else the token is renewed before it ends"
