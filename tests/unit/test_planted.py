"""The list of planted bugs fits the tree: or `./dev chaos planted` would say nothing (tests/chaos/planted.py)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.planted import ROOT, apply
from tests.chaos.planted_bugs import BUGS, Bug


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name.replace(" ", "-"))
def test_a_planted_bug_has_its_place_and_its_tests(bug: Bug, tmp_path: Path) -> None:
    target = tmp_path / bug.file
    target.parent.mkdir(parents=True)
    target.write_bytes((ROOT / bug.file).read_bytes())
    apply(bug, tmp_path)
    compile(target.read_text("utf-8"), bug.file, "exec")  # a bug, not a broken file
    assert target.read_bytes() != (ROOT / bug.file).read_bytes()
    assert bug.tests
    assert all((ROOT / test.partition("::")[0]).is_file() for test in bug.tests)


def test_there_are_twenty_five_and_each_has_a_name_of_its_own() -> None:
    assert len({bug.name for bug in BUGS}) == len(BUGS) >= 25
