"""R12: whatever clients put into their rings, the writer records what is good, counts the rest, and goes on."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.hostile_rings import Campaign


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)  # each of thousands of frames is told with its traceback
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", [1, 2])
def test_hostile_rings_cost_nothing_of_the_good_frames_in_them(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    campaign = Campaign(tmp_path, seed)
    campaign.run(4000)
    assert campaign.counts["good recorded"] > 500
    assert campaign.counts["hostile contents"] > 1000
