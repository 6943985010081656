from __future__ import annotations

from typing import Any

import pytest

from benchmarks import page
from benchmarks.contest import ROOT
from benchmarks.page import NoSuchBlock, blocks, failures, plots, with_block

EMPTY: dict[str, Any] = {
    "machine": "Linux",
    "processor": "one",
    "commit": "abc",
    "when": "today",
    "quick": True,
    "versions": {"wandb": "1.0"},
    "busy_loop": {"seclea": {"rounds": [], "error": "ended with 1"}},
    "log_call": {"seclea": {"rounds": [{"tight": {"p50": 2.5}}]}},
    "durable": {"speed": {}, "four": {}, "steady": {}},
    "queue_speed": {"pyzmq": {"rounds": [{"bytes 100 1": {"put": {"p50": 1.0}}, "lull": {"error": "not done within 20 s"}}]}},
    "queue_kills": {"seclea.Queue": {"rounds": [{"kills": 30, "lost": 0, "blocked": 0}]}},
    "growth": {"processes": {}, "records": {}},
}  # fmt: skip


def test_only_what_stands_between_the_markers_is_replaced() -> None:
    text = "before\n<!-- figures: a -->\nold\n<!-- end: a -->\nafter"
    assert with_block(text, "a", "new") == "before\n<!-- figures: a -->\n\nnew\n\n<!-- end: a -->\nafter"
    assert with_block(with_block(text, "a", "new"), "a", "new") == with_block(text, "a", "new")


@pytest.mark.parametrize("text", ["", "<!-- figures: a -->", "<!-- end: a --><!-- figures: a -->"])
def test_a_page_without_the_markers_is_refused(text: str) -> None:
    with pytest.raises(NoSuchBlock, match="figures: a"):
        with_block(text, "a", "new")


def test_the_page_has_a_block_for_each_question_and_is_made_from_runs_in_which_much_failed() -> None:
    text = (ROOT / "docs" / "performance.md").read_text("utf-8")
    made = blocks(EMPTY)
    assert set(made) == {"machine", "goals", *page.QUESTIONS}
    for name, content in {**made, **page.PLOTS}.items():
        text = with_block(text, name, content)
    assert "- not measured: seclea: ended with 1" in made["busy_loop"]
    assert "- not measured: pyzmq / rounds / lull: not done within 20 s" in made["queue_speed"]
    assert "A quick run" in made["machine"] and "wandb 1.0" in made["machine"]
    assert "| killed producers: acknowledged puts lost | ≤ 0.00 | 0.00 | reached |" in made["queue_kills"]
    assert list(failures(EMPTY["log_call"])) == []


def test_the_plots_show_what_there_is_and_a_loss_of_nothing() -> None:
    panels = plots(EMPTY)
    assert set(panels) == set(page.PLOTS)
    assert panels["performance"][0]["bars"] == []
    assert panels["performance-queues"][0]["lines"] == {"pyzmq": [(100, 1.0)]}
    assert panels["performance-queues"][2]["bars"] == [("seclea.Queue", 0.0)]
