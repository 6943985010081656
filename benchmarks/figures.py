"""From rounds to figures: medians, ratios, goals. Computation only."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


def median_of(rounds: Sequence[Any]) -> Any:
    """The median of each figure over the rounds that have it, in the shape of one round."""
    if rounds and all(isinstance(one, Mapping) for one in rounds):
        keys = dict.fromkeys(key for one in rounds for key in one)
        return {key: median_of([one[key] for one in rounds if key in one]) for key in keys}
    if rounds and all(isinstance(one, (int, float)) for one in rounds):
        return statistics.median(rounds)
    return rounds[0] if rounds else None


def at(figures: Any, path: Sequence[str]) -> float | None:
    """The figure at a path of keys; None where there is none."""
    for key in path:
        if not isinstance(figures, Mapping) or key not in figures:
            return None
        figures = figures[key]
    return float(figures) if isinstance(figures, (int, float)) else None


def figure(results: Mapping[str, Any], contender: str, *path: str) -> float | None:
    """The median over a contender's rounds; None where it has no such figure."""
    found = [at(one, path) for one in results.get(contender, {}).get("rounds", ())]
    known = [one for one in found if one is not None]
    return statistics.median(known) if known else None


def ratio(results: Mapping[str, Any], one: str, other: str, *path: str, other_path: Sequence[str] = ()) -> float | None:
    """The median of the ratios within each round, so that what slows a whole round slows both.

    Returns:
        None where there is no round with both, or the other is not above zero.
    """
    rounds = [results.get(name, {}).get("rounds", ()) for name in (one, other)]
    ratios = []
    for ours, theirs in zip(*rounds, strict=False):
        above, below = at(ours, path), at(theirs, other_path or path)
        if above is not None and below is not None and below > 0:
            ratios.append(above / below)
    return statistics.median(ratios) if ratios else None


def quotient(one: float | None, other: float | None) -> float | None:
    """One figure over another; None where one is missing, or the other is not above zero."""
    return one / other if one is not None and other is not None and other > 0 else None


@dataclass(frozen=True, slots=True)
class Goal:
    """A figure that issue 4 asks for, and what was measured.

    Attributes:
        limit: at most, or at least where ``at_least``.
        found: None where it was not measured.
        unit: of both, "×" for ratios.
    """

    what: str
    limit: float
    found: float | None
    unit: str = "×"
    at_least: bool = False

    @property
    def reached(self) -> bool | None:
        """None where it was not measured."""
        if self.found is None:
            return None
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def number(value: float | None) -> str:
    """Three digits that count, thousands with commas; "–" for what was not measured."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 100:
        return f"{value:,.0f}"
    if size >= 10:
        return f"{value:.1f}"
    if size >= 1 or size == 0:
        return f"{value:.2f}"
    if size < 0.0005:
        return f"{value:.5f}"
    return f"{value:.3f}"


def table(header: Sequence[str], rows: Sequence[Sequence[str | float | None]]) -> str:
    """A table in Markdown; the first column is text."""
    lines = [" | ".join(header), " | ".join(["---", *["---:"] * (len(header) - 1)])]
    lines += [" | ".join(one if isinstance(one, str) else number(one) for one in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def goals_table(goals: Sequence[Goal]) -> str:
    """Each goal with what was found, and whether it was reached."""
    words = {True: "reached", False: "**not reached**", None: "not measured"}
    return table(
        ["goal", "asked", "found", ""],
        [
            (
                goal.what,
                f"{'≥' if goal.at_least else '≤'} {number(goal.limit)} {goal.unit}".strip(),
                f"{number(goal.found)} {goal.unit if goal.found is not None else ''}".strip(),
                words[goal.reached],
            )
            for goal in goals
        ],
    )
