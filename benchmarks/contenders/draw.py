"""Draws the plots of docs/performance.md: ``python draw.py DATA(json) DIRECTORY``. Needs matplotlib only."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, OTHERS = "#1f6f5c", "#b8bec4"


def panel(axes: Any, plot: dict[str, Any]) -> None:
    """Bars, the best at the top and ours coloured; or lines over a count, both logarithmic."""
    axes.set_title(plot["title"], fontsize=9, loc="left")
    axes.tick_params(labelsize=7)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    if "bars" in plot:
        bars = sorted(plot["bars"], key=lambda bar: bar[1], reverse=not plot.get("more_is_better"))
        colours = [OURS if name.startswith("seclea") else OTHERS for name, _ in bars]
        drawn = axes.barh([name for name, _ in bars], [value for _, value in bars], color=colours)
        axes.bar_label(drawn, [f" {value:,.3g}" if value < 1000 else f" {value:,.0f}" for _, value in bars], fontsize=7)
        if bars and not plot.get("linear"):
            axes.set_xscale("log")
        axes.margins(x=0.25)
        return
    for name, points in plot["lines"].items():
        ours = name in ("writer", "sender", "client") or name.startswith("seclea")
        colour = OURS if name.startswith("seclea") else None
        width = 2.0 if name.startswith("seclea") else 1.2
        axes.plot(
            [x for x, _ in points],
            [y for _, y in points],
            marker=".",
            label=name,
            color=colour,
            linewidth=width,
            zorder=2 + ours,
        )
    axes.set_xscale("log")
    if "MB" in plot["title"]:
        axes.set_ylim(bottom=0)
    else:
        axes.set_yscale("log")
    if plot["lines"]:
        axes.legend(fontsize=7, frameon=False)


def main(data: str, directory: str) -> None:
    """One PNG per key."""
    for name, panels in json.loads(Path(data).read_text("utf-8")).items():
        columns = 3
        rows = -(-len(panels) // columns)
        figure, axes = plt.subplots(rows, columns, figsize=(14, 3.4 * rows), squeeze=False)
        for one, plot in zip(axes.flat, panels, strict=False):
            panel(one, plot)
        figure.tight_layout()
        figure.savefig(Path(directory) / f"{name}.png", dpi=80, metadata={"Software": None})
        plt.close(figure)


if __name__ == "__main__":
    main(*sys.argv[1:])
