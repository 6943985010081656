from __future__ import annotations

import pytest

from benchmarks.contenders.measuring import Steps, busy_loop, in_a_row, nothing, on_schedule, percentiles
from benchmarks.figures import Goal, figure, goals_table, median_of, number, quotient, ratio, table

RESULTS = {
    "ours": {"rounds": [{"tight": {"p50": 2.0}}, {"tight": {"p50": 20.0}}, {"tight": {"p50": 3.0}}]},
    "theirs": {"rounds": [{"tight": {"p50": 10.0}}, {"tight": {"p50": 100.0}}, {"tight": {"p50": 10.0}}]},
    "zero": {"rounds": [{"tight": {"p50": 0.0}}]},
    "failed": {"rounds": [], "error": "ended with 1"},
}


def test_a_figure_is_the_median_over_the_rounds() -> None:
    assert figure(RESULTS, "ours", "tight", "p50") == 3.0
    assert median_of([{"a": {"b": 1}}, {"a": {"b": 5}}, {"a": {"b": 2}, "c": 7}]) == {"a": {"b": 2}, "c": 7}


def test_a_ratio_is_taken_within_each_round_so_that_a_slow_round_slows_both() -> None:
    assert ratio(RESULTS, "ours", "theirs", "tight", "p50") == pytest.approx(0.2)


@pytest.mark.parametrize("name", ["failed", "never heard of"])
def test_what_was_not_measured_is_none_and_never_zero(name: str) -> None:
    assert figure(RESULTS, name, "tight", "p50") is None
    assert figure(RESULTS, "ours", "paced", "p50") is None
    assert ratio(RESULTS, "ours", name, "tight", "p50") is None
    assert ratio(RESULTS, "ours", "zero", "tight", "p50") is None
    assert quotient(1.0, None) is None and quotient(1.0, 0.0) is None and quotient(1.0, -2.0) is None


def test_a_goal_is_reached_at_its_limit_and_not_beyond_and_unknown_without_a_figure() -> None:
    assert Goal("", 3.0, 3.0).reached is True and Goal("", 3.0, 3.1).reached is False
    assert Goal("", 3.0, 3.0, at_least=True).reached is True and Goal("", 3.0, 2.9, at_least=True).reached is False
    assert Goal("", 3.0, None).reached is None
    text = goals_table(
        [Goal("a", 3.0, 3.1), Goal("b", 250_000, 260_000.0, "records/s", at_least=True), Goal("c", 1, None)]
    )
    assert "| a | ≤ 3.00 × | 3.10 × | **not reached** |" in text
    assert "| b | ≥ 250,000 records/s | 260,000 records/s | reached |" in text
    assert "| c | ≤ 1.00 × | – | not measured |" in text


def test_a_number_has_three_digits_that_count() -> None:
    assert [number(one) for one in (1234567.0, 12.34, 1.234, 0.01234, 0.0, None)] == [
        "1,234,567", "12.3", "1.23", "0.012", "0.00", "–",
    ]  # fmt: skip
    assert table(["", "x"], [["row", 1.5], ["other", None]]).splitlines()[2:] == ["| row | 1.50 |", "| other | – |"]


def test_percentiles_are_in_microseconds_and_not_given_from_too_few_samples() -> None:
    found = percentiles(range(1000, 10_001_000, 1000))
    assert found == {"p50": 5001.0, "p99": 9900.0, "p99.9": 9990.0, "max": 10_000.0, "calls": 10_000}
    assert set(percentiles([3000, 1000, 2000])) == {"p50", "max", "calls"}
    assert percentiles([3000, 1000, 2000])["p50"] == 2.0
    assert percentiles([]) == {"calls": 0}


def test_every_call_has_a_step_and_values_of_its_own_under_the_same_names() -> None:
    seen: list[tuple[int, dict[str, float]]] = []
    steps = Steps()

    def log(step: int, metrics: dict[str, float]) -> None:
        seen.append((step, metrics))

    assert in_a_row(log, steps, 10, 3, 60.0)["calls"] == 3
    assert [step for step, _ in seen] == [0, 1, 2]
    assert len({tuple(metrics) for _, metrics in seen}) == 1 and len(seen[0][1]) == 10
    assert len({tuple(metrics.values()) for _, metrics in seen}) == 3


def test_the_first_part_of_a_block_of_steps_logs_and_is_not_counted() -> None:
    calls: list[int] = []

    def log(step: int, metrics: dict[str, float]) -> None:
        calls.append(step)

    found = busy_loop(log, Steps(), rows=16, pairs=3, settle=0.0, seconds=0.002)
    assert 3 <= found["call"]["calls"] <= len(calls) - 3
    assert found["step"] > 0 and set(found) == {"call", "step", "slower", "slower_p50"}


def test_a_schedule_says_how_much_of_it_was_kept() -> None:
    found = on_schedule(nothing, Steps(), 1000, 0.05)
    assert 0 < found["calls"] <= 50 and 0.0 < found["kept"] <= 1.0
